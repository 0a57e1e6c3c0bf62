//! Captures the state of a mounted workspace: copies the upper into a layer while programs can write to it.

use std::sync::Arc;

use super::{error::WorkspaceError, lock::Workspace};
use crate::{
    changeset::Limits,
    layers::{LayerKey, Lease, Reservation, SnapshotId},
    sys::clone::{CloneError, Round, TreeClone},
};

/// The most rounds. The first takes the longest, and each further one copies what changed during the one before.
const MAX_ROUNDS: usize = 3;

/// The namespace by which the store counts captures. A store that commands share has no limit for it.
const NAMESPACE: &str = "workspaces";

/// A layer with a copy of an upper.
#[derive(Debug)]
pub(super) struct Captured {
    /// The key of the layer.
    pub(super) key: LayerKey,
    /// The number of files that changed during each attempt to copy them.
    pub(super) torn: u64,
    /// Keeps the layer until a record names it.
    pub(super) lease: Lease,
}

impl Workspace<'_> {
    /// Copies the upper of the mounted workspace into a layer.
    ///
    /// # Errors
    /// The copy needs more space than there is, or an entry cannot be copied.
    pub(super) fn capture(&self) -> Result<Captured, WorkspaceError> {
        // What the mount shows of the directory below is the present state from here on.
        drop(self.clone_live()?);
        let store = &self.all.store;
        let id = SnapshotId::unique("workspace")?;
        let reservation = Arc::new(store.disk.reserve_capture(NAMESPACE, 0)?);
        let staged = store.layers.stage_snapshot(&id)?;
        let lease = store.leases.take(&[staged.key()])?;
        let (bounds, scratch) = (Limits::default().bounds(), store.disk.scratch());
        let pair = self.upper_and_work();
        let clone =
            TreeClone::new(pair.upper(), &staged.tree(), &staged.aside(), bounds, &scratch)?;
        let mut clone = clone.with_budget(store.budget.share(), Box::new(reservation.clone()));
        let failed = |source| WorkspaceError::Copy { name: self.name.clone(), source };
        for round in 1..=MAX_ROUNDS {
            let what = if round == MAX_ROUNDS { Round::Live } else { Round::PreCopy };
            self.round(&mut clone, what, &reservation).map_err(failed)?;
        }
        let (contents, dirty) = (clone.contents(), clone.dirty());
        drop(clone);
        let (key, torn) = (staged.key(), contents.torn);
        staged.commit(contents.into(), dirty)?;
        Ok(Captured { key, torn, lease })
    }

    fn round(
        &self,
        clone: &mut TreeClone,
        what: Round,
        reservation: &Reservation,
    ) -> Result<(), CloneError> {
        clone.sync()?;
        clone.catch_up(what, &|| true)?;
        clone.free_replaced()?;
        reservation.reduce_to(clone.contents().bytes);
        Ok(())
    }
}
