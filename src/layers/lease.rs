//! Leases: keep layers from garbage collection while no record names them yet.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::{key::LayerKey, layer_dirs::LayerDirs};

/// Keeps layers from garbage collection until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    leased: Arc<Mutex<LeasedLayers>>,
    /// The keys of the layers that it keeps.
    pub layers: Vec<LayerKey>,
}

/// All leases of a store. The lock also serializes the decision whether a layer may be removed.
#[derive(Debug)]
pub struct Leases {
    dirs: LayerDirs,
    leased: Arc<Mutex<LeasedLayers>>,
}

#[derive(Debug, Default)]
pub(super) struct LeasedLayers {
    /// The number of leases of each layer.
    leases: HashMap<LayerKey, usize>,
    /// During a garbage collection round: every layer that has or had a lease since the round began. The record that
    /// names the layer may have been written after the round read the records, and the lease dropped before the round
    /// reaches the layer. `None` outside of a round.
    touched: Option<HashSet<LayerKey>>,
}

impl LeasedLayers {
    /// Whether a layer must not be removed now. Outside of a round no layer may be removed.
    pub(super) fn keeps(&self, key: &LayerKey) -> bool {
        self.touched.as_ref().is_none_or(|touched| touched.contains(key))
    }
}

impl Leases {
    /// No leases yet, of the layers in these directories.
    pub(super) fn new(dirs: LayerDirs) -> Self {
        Self { dirs, leased: Arc::default() }
    }

    /// Takes a lease of `layers`, which may exist already or be added later.
    pub fn take(&self, layers: &[LayerKey]) -> Lease {
        let mut leased = self.locked();
        for layer in layers {
            *leased.leases.entry(*layer).or_default() += 1;
            if let Some(touched) = &mut leased.touched {
                touched.insert(*layer);
            }
        }
        Lease { leased: self.leased.clone(), layers: layers.to_vec() }
    }

    /// Takes a lease of `layers`; `None` if one of them is not in the store.
    pub fn take_if_present(&self, layers: &[LayerKey]) -> Option<Lease> {
        let lease = self.take(layers);
        layers.iter().all(|layer| self.dirs.has(layer)).then_some(lease)
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, LeasedLayers> {
        self.leased.lock()
    }

    /// Begins to remember every leased layer, until [`Leases::end_round`].
    pub(super) fn begin_round(&self) {
        let mut leased = self.locked();
        leased.touched = Some(leased.leases.keys().copied().collect());
    }

    pub(super) fn end_round(&self) {
        self.locked().touched = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leased = self.leased.lock();
        for layer in &self.layers {
            if let Some(count) = leased.leases.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    leased.leases.remove(layer);
                }
            }
        }
    }
}
