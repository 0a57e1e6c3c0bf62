//! What keeps layers while no record names them yet.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Store;
use crate::digest::Digest;

/// Keeps layers from being collected, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    store: Arc<Store>,
    /// The layers it keeps.
    pub layers: Vec<Digest>,
}

/// All leases. Whoever holds this lock is alone with the question of what may be removed.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<LeasedLayers>);

#[derive(Debug, Default)]
pub(super) struct LeasedLayers {
    /// How many leases each layer has.
    leases: HashMap<Digest, usize>,
    /// While a round of collection goes on, every layer that has or had a lease since it began: its record may have been
    /// written after the round read the records, and its lease be gone before the round comes to it.
    touched: Option<HashSet<Digest>>,
}

impl LeasedLayers {
    /// Whether a layer must not be removed in this round.
    pub(super) fn keeps(&self, diff_id: &Digest) -> bool {
        self.touched.as_ref().is_none_or(|touched| touched.contains(diff_id))
    }
}

impl Leases {
    pub(super) fn locked(&self) -> MutexGuard<'_, LeasedLayers> {
        // Changed by whole entries only, so it is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on every lease is remembered, until [`Leases::end_round`].
    pub(super) fn begin_round(&self) {
        let mut held = self.locked();
        held.touched = Some(held.leases.keys().copied().collect());
    }

    pub(super) fn end_round(&self) {
        self.locked().touched = None;
    }
}

impl Store {
    /// Keeps `layers`, whether they are here already or come later.
    pub fn hold(self: &Arc<Self>, layers: &[Digest]) -> Lease {
        let mut held = self.leases.locked();
        for layer in layers {
            *held.leases.entry(*layer).or_default() += 1;
            if let Some(touched) = &mut held.touched {
                touched.insert(*layer);
            }
        }
        Lease { store: self.clone(), layers: layers.to_vec() }
    }

    /// Keeps `layers`; `None` where one of them is not here.
    pub fn lease(self: &Arc<Self>, layers: &[Digest]) -> Option<Lease> {
        let lease = self.hold(layers);
        layers.iter().all(|layer| self.has(layer)).then_some(lease)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.store.leases.locked();
        for layer in &self.layers {
            if let Some(count) = held.leases.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    held.leases.remove(layer);
                }
            }
        }
    }
}
