//! One workspace, locked: no other command changes it meanwhile.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{error::WorkspaceError, freeze, open::Workspaces};
use crate::{
    changeset::LayerFeatures,
    layers::{WorkspaceName, WorkspaceRecord},
    overlay::{Options, UpperAndWork},
    sys::flock::{self, Kind, Lock},
};

/// What to do if another command has the lock of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLocked {
    /// Wait until it ends.
    Wait,
    /// Fail with [`WorkspaceError::Busy`].
    Fail,
}

/// A workspace with its lock, until it is dropped.
#[derive(Debug)]
pub struct Workspace<'w> {
    pub(super) all: &'w Workspaces,
    pub(super) name: WorkspaceName,
    pub(super) record: WorkspaceRecord,
    pub(super) dir: PathBuf,
    _lock: Lock,
}

impl Workspaces {
    /// Locks a workspace. What a killed command has begun is completed, and what it has frozen is thawed.
    ///
    /// # Errors
    /// There is no such workspace, another command has it ([`OnLocked::Fail`]), or its record cannot be read.
    pub fn lock(
        &self,
        name: &WorkspaceName,
        on: OnLocked,
    ) -> Result<Workspace<'_>, WorkspaceError> {
        let dir = self.store.workspaces.dir(name);
        let unknown =
            || WorkspaceError::Unknown { name: name.clone(), root: self.store.root().to_owned() };
        loop {
            let opened = match flock::open_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(unknown()),
                opened => opened?,
            };
            let lock = match on {
                OnLocked::Wait => Lock::wait(opened, Kind::Exclusive)?,
                OnLocked::Fail => Lock::try_take(opened, Kind::Exclusive)?.ok_or_else(|| {
                    WorkspaceError::Busy { name: name.clone(), pids: flock::holders(&dir) }
                })?,
            };
            // Otherwise it was renamed or removed meanwhile.
            if lock.is_at(&dir)? {
                freeze::thaw_abandoned(&dir)?;
                let record = self.store.workspaces.get(name)?.ok_or_else(unknown)?;
                let (name, dir) = (name.clone(), dir);
                let mut workspace = Workspace { all: self, name, record, dir, _lock: lock };
                workspace.finish_seal()?;
                return Ok(workspace);
            }
        }
    }
}

impl Workspace<'_> {
    /// Its name.
    pub fn name(&self) -> &WorkspaceName {
        &self.name
    }

    /// Its record.
    pub fn record(&self) -> &WorkspaceRecord {
        &self.record
    }

    /// Its directory in the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The upper and the work directory. They exist from the first mount after a state on.
    pub(super) fn upper_and_work(&self) -> UpperAndWork {
        UpperAndWork::new(self.dir.join("upper"), self.dir.join("work"))
    }

    /// Whether it has an upper.
    pub(super) fn has_upper(&self) -> bool {
        self.upper_and_work().upper().is_dir()
    }

    /// Writes the record, which the caller has changed.
    pub(super) fn save(&self) -> Result<(), WorkspaceError> {
        Ok(self.all.store.workspaces.put(&self.name, &self.record)?)
    }

    /// Completes what [`Workspace::seal`](super::states) has begun before a kill.
    fn finish_seal(&mut self) -> Result<(), WorkspaceError> {
        let Some(key) = self.record.sealing else { return Ok(()) };
        let (upper, features) = (self.upper_and_work(), self.layer_features());
        if !self.all.store.layers.seal(upper.upper(), &key, features)? {
            return Err(WorkspaceError::Lost(self.name.clone()));
        }
        self.record.sealing = None;
        self.save()
    }

    /// The options of its overlay. In the stack of a copy the directory goes on living. A feature that keeps a path or an
    /// inode of a lower would then show other files than those that it was set for.
    pub(super) fn options(&self) -> Options {
        options(self.record.directory().is_none())
    }

    /// The features that the layers of its uppers may need.
    pub(super) fn layer_features(&self) -> LayerFeatures {
        let Options { metacopy, redirect_dir, .. } = self.options();
        LayerFeatures { metacopy, redirect: redirect_dir }
    }
}

/// The options of the overlay of a workspace.
pub(super) fn options(is_tree: bool) -> Options {
    // Programs of a tree may need set-user-id bits, as in a container.
    Options { metacopy: is_tree, redirect_dir: is_tree, nosuid: false, ..Options::default() }
}
