//! Leases: keep layers from garbage collection while no record names them yet.
//!
//! The leases of this process are in memory. In a shared store each of them also has a file, which other processes see:
//! see `lease_files.rs`.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    key::LayerKey,
    layer_dirs::LayerDirs,
    lease_files::{ClaimedFile, LeaseFiles},
};
use crate::sys::flock::Lock;

/// Keeps layers from garbage collection until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    leased: Arc<Mutex<LeasedLayers>>,
    /// The keys of the layers that it keeps.
    pub layers: Vec<LayerKey>,
}

/// All leases of this process. The lock also serializes the decision whether a layer may be removed.
#[derive(Debug)]
pub struct Leases {
    dirs: LayerDirs,
    leased: Arc<Mutex<LeasedLayers>>,
}

#[derive(Debug)]
pub(super) struct LeasedLayers {
    /// The leased layers.
    leases: HashMap<LayerKey, Leased>,
    /// During a garbage collection round of this process: every layer that has or had a lease of this process since the
    /// round began. The record that names the layer may have been written after the round read the records, and the
    /// lease dropped before the round reaches the layer. `None` outside of a round.
    touched: Option<HashSet<LayerKey>>,
    /// The leases of all processes. `None` in a store that is not shared.
    files: Option<LeaseFiles>,
}

/// The leases of one layer.
#[derive(Debug)]
struct Leased {
    count: usize,
    /// Shows the leases to other processes.
    _file: Option<Lock>,
}

/// The right to remove one layer. No lease of the layer can be taken until this is dropped.
#[derive(Debug)]
pub(super) struct Claim<'l> {
    _file: Option<ClaimedFile>,
    _leased: MutexGuard<'l, LeasedLayers>,
}

impl LeasedLayers {
    /// Whether a layer must not be removed now. Outside of a round no layer may be removed.
    pub(super) fn keeps(&self, key: &LayerKey) -> bool {
        self.touched.as_ref().is_none_or(|touched| touched.contains(key))
            || self.files.as_ref().is_some_and(|files| files.has(key))
    }

    fn add(&mut self, key: LayerKey) -> io::Result<()> {
        match self.leases.get_mut(&key) {
            Some(leased) => leased.count += 1,
            None => {
                let file = self.files.as_ref().map(|files| files.take(&key)).transpose()?;
                self.leases.insert(key, Leased { count: 1, _file: file });
            }
        }
        if let Some(touched) = &mut self.touched {
            touched.insert(key);
        }
        Ok(())
    }
}

impl Leases {
    /// No leases yet, of the layers in these directories. `files` for a shared store.
    pub(super) fn new(dirs: LayerDirs, files: Option<LeaseFiles>) -> Self {
        let leased = LeasedLayers { leases: HashMap::new(), touched: None, files };
        Self { dirs, leased: Arc::new(Mutex::new(leased)) }
    }

    /// Takes a lease of `layers`, which may exist already or be added later. Blocks for a moment while a round removes a
    /// layer.
    ///
    /// # Errors
    /// The lease cannot be shown to other processes. In a store that is not shared it cannot fail.
    pub fn take(&self, layers: &[LayerKey]) -> io::Result<Lease> {
        let mut lease = Lease { leased: self.leased.clone(), layers: Vec::new() };
        // After the lease: if one layer fails, the lock is released before the lease of the others is dropped.
        let mut leased = self.locked();
        for layer in layers {
            leased.add(*layer)?;
            lease.layers.push(*layer);
        }
        drop(leased);
        Ok(lease)
    }

    /// Takes a lease of `layers`; `None` if one of them is not in the store.
    ///
    /// # Errors
    /// As [`Leases::take`].
    pub fn take_if_present(&self, layers: &[LayerKey]) -> io::Result<Option<Lease>> {
        // First the lease, then the look: a layer that is seen under a lease stays.
        let lease = self.take(layers)?;
        Ok(layers.iter().all(|layer| self.dirs.has(layer)).then_some(lease))
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, LeasedLayers> {
        self.leased.lock()
    }

    /// The right to remove a layer in this round; `None` if it has a lease, or had one since the round began.
    pub(super) fn claim(&self, key: &LayerKey) -> io::Result<Option<Claim<'_>>> {
        let leased = self.locked();
        if leased.keeps(key) {
            return Ok(None);
        }
        let file = match &leased.files {
            None => None,
            Some(files) => match files.claim(key)? {
                None => return Ok(None),
                claimed => claimed,
            },
        };
        Ok(Some(Claim { _file: file, _leased: leased }))
    }

    /// Begins to remember every leased layer, until [`Leases::end_round`]. The caller has the turn of rounds.
    pub(super) fn begin_round(&self) -> io::Result<()> {
        let mut leased = self.locked();
        if let Some(files) = &leased.files {
            files.remove_ended()?;
        }
        leased.touched = Some(leased.leases.keys().copied().collect());
        Ok(())
    }

    pub(super) fn end_round(&self) {
        self.locked().touched = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leased = self.leased.lock();
        for layer in &self.layers {
            if let Some(one) = leased.leases.get_mut(layer) {
                one.count -= 1;
                if one.count == 0 {
                    leased.leases.remove(layer);
                }
            }
        }
    }
}
