//! What a pod has written becomes layers: cut out of its volume, kept under a name, pushed to a registry.
//!
//! ```text
//! <root>/frozen/<id>.json     whom this node has frozen for the cut of a snapshot: there before they are, gone after they go on
//! <root>/starts/<id>          how often its capture was begun and had no end
//! ```
//!
//! May use: volumes, layers, changeset, image, sys
//!
//! Deliberately absent: the cluster's objects (`agent`), and how a volume is made (`volumes`).

mod capture;
#[cfg(test)]
mod capture_tests;
mod error;
mod freeze;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod names_tests;
mod packing;
mod pre_copy;
mod push;
#[cfg(test)]
mod push_tests;
mod squash;
mod starts;
#[cfg(test)]
mod testing;

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use self::freeze::Freezes;
pub use capture::{CaptureRequest, Consistency};
pub use error::{CaptureError, DeleteError};
pub use packing::PackingError;
pub use push::{Progress, PushError, PushRequest, Pushed};
pub use squash::SquashError;

use crate::{
    image::Registries,
    layers::{SnapshotId, Store, StoreLock},
    metrics::Metrics,
    sys::{blocking::blocking, freezer::Freezer},
    turns,
    volumes::Volumes,
};

/// How many volumes are cut at once: each of them waits for the same disk.
const CUTS: usize = 4;

/// How many layers are packed at once: each takes all cores, and memory for them.
const PACKS: usize = 1;

/// What snapshots are made with.
#[derive(Debug)]
pub struct Parts {
    /// Where layers and records are kept.
    pub store: Arc<Store>,
    /// What is cut.
    pub volumes: Volumes,
    /// Where they are pushed.
    pub registries: Arc<Registries>,
    /// Where pods are made to stand still: [`Freezer::of_node`].
    pub freezer: Freezer,
    /// Where it is counted.
    pub metrics: Metrics,
}

/// All snapshots of one node. Cheap to clone: clones are the same snapshots.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    volumes: Volumes,
    registries: Arc<Registries>,
    freezer: Freezer,
    metrics: Metrics,
    turns: Turns,
    captures: Arc<turns::Turns>,
    packing: Arc<turns::Turns>,
    standstills: Freezes,
}

/// Lets all pods go on whom an earlier process left frozen in the store that is claimed; before anything else is done with it,
/// because they wait. Blocks.
pub fn thaw_left(claim: &StoreLock) -> io::Result<()> {
    freeze::thaw_all(&claim.frozen())
}

impl Snapshots {
    /// The snapshots recorded in the store. Whoever an earlier process left frozen goes on first. Blocks.
    pub fn open(parts: Parts) -> io::Result<Self> {
        let Parts { store, volumes, registries, freezer, metrics } = parts;
        freeze::thaw_all(&store.frozen())?;
        starts::forget_old(&store.starts())?;
        let (turns, cuts) = (Turns::default(), turns::Turns::new(CUTS, 0));
        let packing = turns::Turns::new(PACKS, 0);
        let standstills = Freezes::default();
        Ok(Self(Arc::new(Inner {
            store,
            volumes,
            registries,
            freezer,
            metrics,
            turns,
            captures: cuts,
            packing,
            standstills,
        })))
    }

    /// From here on no pod is stopped: cuts that would have to answer [`CutError::Stopping`].
    pub fn close(&self) {
        self.0.standstills.close();
    }

    /// Lets all pods go on, whatever becomes of the cuts that stopped them: this process is about to end, and its watchdogs with it.
    /// Blocks.
    pub fn give_up(&self) -> io::Result<()> {
        self.0.standstills.abort_all();
        freeze::thaw_all(&self.0.store.frozen())?;
        starts::forget_all(&self.0.store.starts())
    }

    /// Drops the record of a snapshot; its layers go when nothing else needs them. Answers whether there was one. Blocks.
    pub fn forget(&self, id: &SnapshotId) -> Result<bool, DeleteError> {
        let _turn = self.0.turns.take(id).ok_or_else(|| DeleteError::Busy(id.clone()))?;
        self.0
            .store
            .drop_snapshot(id)
            .map_err(|source| DeleteError::Disk { id: id.clone(), source })
    }
}

/// The snapshots that are being worked on.
#[derive(Debug, Clone, Default)]
struct Turns(Arc<Mutex<HashSet<SnapshotId>>>);

/// The right to work on one snapshot, given back when dropped.
#[derive(Debug)]
struct Turn {
    id: SnapshotId,
    turns: Turns,
}

impl Turns {
    /// The turn of `id`, or `None` while another one has it.
    fn take(&self, id: &SnapshotId) -> Option<Turn> {
        let taken = self.locked(|held| held.insert(id.clone()));
        taken.then(|| Turn { id: id.clone(), turns: self.clone() })
    }

    fn locked<T>(&self, f: impl FnOnce(&mut HashSet<SnapshotId>) -> T) -> T {
        // A set of ids is whole after any panic, so a poisoned lock is as good as any.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.locked(|held| held.remove(&self.id));
    }
}
