//! Removes layers that nothing needs.

use std::{fs, time::Duration};

use super::{error::WorkspaceError, open::Workspaces};
use crate::{
    layers::{GcStats, LayerKey},
    sys::durable::at,
};

impl Workspaces {
    /// Removes those of a workspace's own layers that no record names any more.
    pub(super) fn remove_layers(&self, layers: &[LayerKey]) -> Result<(), WorkspaceError> {
        self.store.collect_layers(layers)?;
        Ok(())
    }

    /// Removes images that no workspace needs and that were last used at least `older_than` ago, with their layers, and all
    /// layers that nothing names. The layers of steps stay without an `older_than`. With `dry_run` only counts them.
    ///
    /// # Errors
    /// A node has volumes in the store, or a record cannot be read.
    pub fn collect(
        &self,
        older_than: Option<Duration>,
        dry_run: bool,
    ) -> Result<GcStats, WorkspaceError> {
        self.require_no_volumes()?;
        Ok(self.store.collect_unused(older_than, dry_run)?)
    }

    /// Only a node knows which layers its volumes need.
    pub(super) fn require_no_volumes(&self) -> Result<(), WorkspaceError> {
        let volumes = self.store.volumes();
        let mut entries = fs::read_dir(&volumes).map_err(at("list", &volumes))?;
        match entries.next() {
            None => Ok(()),
            Some(_) => Err(WorkspaceError::HasVolumes(self.root().to_owned())),
        }
    }
}
