//! Forks: workspaces that start as another one is.

use super::{
    error::WorkspaceError,
    lock::{OnLocked, Workspace},
    open::Workspaces,
};
use crate::layers::{LayerKey, Lease, WorkspaceName};
use jiff::Timestamp;

impl Workspace<'_> {
    /// The own layers of the present state, as layers that others can stand on. The upper of a workspace that is not mounted
    /// becomes a layer, and that of a mounted one is copied. The lease keeps a copied layer.
    pub(super) fn present_layers(
        &mut self,
    ) -> Result<(Vec<LayerKey>, Option<Lease>), WorkspaceError> {
        // Without an upper it is not mounted, and nothing is to be made a layer.
        if !self.has_upper() || self.live()?.is_none() {
            self.seal()?;
            return Ok((self.record.below.clone(), None));
        }
        let captured = self.capture()?;
        let mut layers = self.record.below.clone();
        layers.push(captured.key);
        Ok((layers, Some(captured.lease)))
    }
}

impl Workspaces {
    /// Makes forks of the present state of a workspace, with its snapshots: all of them, or none.
    ///
    /// # Errors
    /// There is no such workspace, a name is taken, or the state cannot be captured.
    pub fn fork(
        &self,
        name: &WorkspaceName,
        forks: &[WorkspaceName],
        on: OnLocked,
    ) -> Result<(), WorkspaceError> {
        for fork in forks {
            self.require_free(fork)?;
        }
        self.fork_locked(&mut self.lock(name, on)?, forks)
    }

    /// As [`Self::fork`], for `count` forks with names that are free: `NAME-1`, `NAME-2`, …. Returns the names.
    ///
    /// # Errors
    /// There is no such workspace, its state cannot be captured, or a name would be too long.
    pub fn fork_numbered(
        &self,
        name: &WorkspaceName,
        count: usize,
        on: OnLocked,
    ) -> Result<Vec<WorkspaceName>, WorkspaceError> {
        // With the lock: two forks of one workspace choose different names.
        let mut source = self.lock(name, on)?;
        loop {
            let names = self.free_names(name, count)?;
            match self.fork_locked(&mut source, &names) {
                // Another command has made a workspace of this name meanwhile.
                Err(WorkspaceError::Taken(_)) => {}
                done => return done.map(|()| names),
            }
        }
    }

    fn fork_locked(
        &self,
        source: &mut Workspace<'_>,
        forks: &[WorkspaceName],
    ) -> Result<(), WorkspaceError> {
        let (below, _lease) = source.present_layers()?;
        let mut record = source.record.clone();
        (record.below, record.sealing, record.created) = (below, None, Timestamp::now());
        record.failed = None;
        match self.store.workspaces.create_all(forks, &record)? {
            Some(taken) => Err(WorkspaceError::Taken(taken)),
            None => Ok(()),
        }
    }

    fn free_names(
        &self,
        name: &WorkspaceName,
        count: usize,
    ) -> Result<Vec<WorkspaceName>, WorkspaceError> {
        let mut free = Vec::with_capacity(count);
        for number in 1.. {
            if free.len() == count {
                break;
            }
            let fork: WorkspaceName =
                format!("{name}-{number}").parse().map_err(std::io::Error::other)?;
            if self.store.workspaces.get(&fork)?.is_none() {
                free.push(fork);
            }
        }
        Ok(free)
    }
}
