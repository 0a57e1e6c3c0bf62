//! Repairs a store: moves what is damaged to the quarantine, unless it is in use.
//!
//! Deliberately absent: the check (`layers`), and anything that deletes.

use std::{io, path::PathBuf};

use super::{
    error::WorkspaceError,
    freeze,
    lock::{OnLocked, Workspace},
    mounted::Live,
    open::Workspaces,
};
use crate::{
    layers::{Fault, LayerKey, Subject, Unchecked, WorkspaceName},
    sys::flock::{self, Kind, Lock, holders},
};

/// What was done about a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// It was moved to this entry of the quarantine.
    Moved(PathBuf),
    /// It is gone, or can be read now.
    Gone,
    /// It is in use, so nothing was done.
    InUse(String),
}

impl Workspaces {
    /// Moves what is damaged to the quarantine. Returns what was done about each fault.
    ///
    /// # Errors
    /// A node has volumes in the store, or a file system operation failed.
    pub fn repair(&self, faults: &[Fault]) -> Result<Vec<Repaired>, WorkspaceError> {
        self.require_no_volumes()?;
        let mut done: Vec<Repaired> = Vec::with_capacity(faults.len());
        for (number, fault) in faults.iter().enumerate() {
            let is_same = |other: &Fault| match &fault.subject {
                Subject::File => fault.path == other.path,
                subject => *subject == other.subject,
            };
            let before = faults[..number].iter().position(is_same);
            let repaired = match before.and_then(|before| done.get(before)) {
                Some(repaired) => repaired.clone(),
                None => {
                    let all = faults.iter().filter(|other| is_same(other));
                    let all = all.map(|fault| format!("{}: {}", fault.path.display(), fault.what));
                    self.repair_one(fault, &all.collect::<Vec<_>>().join("\n"))?
                }
            };
            done.push(repaired);
        }
        Ok(done)
    }

    /// Records the digests of layers that had none. Returns how many.
    ///
    /// # Errors
    /// The metadata of a layer cannot be written.
    pub fn record_contents(&self, unchecked: &[Unchecked]) -> Result<u64, WorkspaceError> {
        let mut recorded = 0;
        for Unchecked { layer, content } in unchecked {
            let Ok(content) = content else { continue };
            let Some(_lease) = self.store.leases.take_if_present(&[*layer])? else { continue };
            recorded += u64::from(self.store.layers.record_content(layer, content)?);
        }
        Ok(recorded)
    }

    fn repair_one(&self, fault: &Fault, why: &str) -> Result<Repaired, WorkspaceError> {
        Ok(match &fault.subject {
            Subject::Layer(layer) if !self.store.layers.has(layer) => Repaired::Gone,
            Subject::Layer(layer) => match self.lock_users(layer)? {
                Ok(_locked) => self.move_layer(layer, fault, why)?,
                Err(in_use) => Repaired::InUse(in_use),
            },
            Subject::Missing(layer) if self.store.layers.has(layer) => Repaired::Gone,
            // Nothing is moved, so nothing can be in use.
            Subject::Missing(layer) => self.move_layer(layer, fault, why)?,
            Subject::Workspace(name) => self.move_workspace(name, why)?,
            Subject::File => match self.store.quarantine_file(&fault.path, why) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Repaired::Gone,
                moved => moved?.map_or(Repaired::Gone, Repaired::Moved),
            },
        })
    }

    fn move_layer(
        &self,
        layer: &LayerKey,
        fault: &Fault,
        why: &str,
    ) -> Result<Repaired, WorkspaceError> {
        let moved = self.store.quarantine_layer(layer, why, &fault.needed_by)?;
        let in_use = || Repaired::InUse("another command uses the layer".to_owned());
        Ok(moved.map_or_else(in_use, Repaired::Moved))
    }

    /// Locks the workspaces that need a layer. The inner error says which of them is in use.
    fn lock_users(
        &self,
        layer: &LayerKey,
    ) -> Result<Result<Vec<Workspace<'_>>, String>, WorkspaceError> {
        let mut locked = Vec::new();
        for (name, record) in self.store.workspaces.readable()? {
            if !record.layers().any(|needed| needed == layer) {
                continue;
            }
            match self.lock(&name, OnLocked::Fail) {
                Ok(workspace) => match workspace.require_unmounted("repair") {
                    Err(error @ WorkspaceError::InUse { .. }) => return Ok(Err(error.to_string())),
                    free => {
                        free?;
                        locked.push(workspace);
                    }
                },
                Err(error @ WorkspaceError::Busy { .. }) => return Ok(Err(error.to_string())),
                // It was removed meanwhile, or has lost its upper: no command can use it.
                Err(WorkspaceError::Unknown { .. } | WorkspaceError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(locked))
    }

    fn move_workspace(&self, name: &WorkspaceName, why: &str) -> Result<Repaired, WorkspaceError> {
        let dir = self.store.workspaces.dir(name);
        let opened = match flock::open_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Repaired::Gone),
            opened => opened?,
        };
        let Some(lock) = Lock::try_take(opened, Kind::Exclusive)? else {
            let busy = WorkspaceError::Busy { name: name.clone(), pids: holders(&dir) };
            return Ok(Repaired::InUse(busy.to_string()));
        };
        if !lock.is_at(&dir)? || self.store.workspaces.get(name).is_ok() {
            return Ok(Repaired::Gone);
        }
        freeze::thaw_abandoned(&dir)?;
        match Live::of(&dir.join("upper"))?.refuse("move", name) {
            Err(error @ WorkspaceError::InUse { .. }) => {
                return Ok(Repaired::InUse(error.to_string()));
            }
            free => free?,
        }
        Ok(Repaired::Moved(self.store.quarantine_workspace(name, why)?))
    }
}
