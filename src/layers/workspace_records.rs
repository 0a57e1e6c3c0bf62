//! Workspace records: the workspaces of the store, each with the layers that its states need.
//!
//! ```text
//! <root>/workspaces/<name>/                    renamed into place with its record; locked by the command that changes it
//! <root>/workspaces/<name>/workspace.json      replaced whole; written before the layers that it names are in place
//! ```
//!
//! They are never kept in memory, because workspaces are used by commands, which share the store. Everything that changes
//! the names in `workspaces/` takes the lock of that directory, and a list of all records takes it too: a list of a directory
//! may lack a name that is changed meanwhile.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    access::{Access, DirLock},
    error::CollectError,
    staging::{Staging, discard},
    workspace_record::{WorkspaceName, WorkspaceRecord},
};
use crate::sys::durable::{self, at};

/// The name of a record in the directory of its workspace.
const RECORD: &str = "workspace.json";

/// The records of all workspaces of a store.
#[derive(Debug)]
pub struct WorkspaceRecords {
    dir: PathBuf,
    access: Access,
    staging: Arc<Staging>,
    names_lock: DirLock,
}

impl WorkspaceRecords {
    pub(super) fn new(dir: PathBuf, access: Access, staging: Arc<Staging>) -> Self {
        let names_lock = access.dir_lock(&dir);
        Self { dir, access, staging, names_lock }
    }

    /// The directory of a workspace, which the module `workspaces` owns, except for the record in it.
    pub fn dir(&self, name: &WorkspaceName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// The record of a workspace. `None` if there is no such workspace.
    ///
    /// # Errors
    /// `InvalidData` if this version cannot read it.
    pub fn get(&self, name: &WorkspaceName) -> io::Result<Option<WorkspaceRecord>> {
        read(&self.dir, name)
    }

    /// All records, by name.
    ///
    /// # Errors
    /// `InvalidData` if this version cannot read one of them.
    pub fn list(&self) -> io::Result<Vec<(WorkspaceName, WorkspaceRecord)>> {
        let _guard = self.names_lock.lock()?;
        let mut records = Vec::new();
        for name in names(&self.dir)? {
            records.extend(self.get(&name)?.map(|record| (name, record)));
        }
        Ok(records)
    }

    /// The records that can be read, by name. The others are logged.
    pub fn readable(&self) -> io::Result<Vec<(WorkspaceName, WorkspaceRecord)>> {
        let _guard = self.names_lock.lock()?;
        let mut records = Vec::new();
        for name in names(&self.dir)? {
            match self.get(&name) {
                Ok(record) => records.extend(record.map(|record| (name, record))),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        Ok(records)
    }

    /// Creates a workspace durably. Returns false if the name is taken.
    pub fn create(&self, name: &WorkspaceName, record: &WorkspaceRecord) -> io::Result<bool> {
        Ok(self.create_all(std::slice::from_ref(name), record)?.is_none())
    }

    /// Creates workspaces with the same record durably: all of them, or none. Returns the first name that is taken. Together
    /// they wait for the disk about as long as one. A power cut may leave some of them.
    pub fn create_all(
        &self,
        names: &[WorkspaceName],
        record: &WorkspaceRecord,
    ) -> io::Result<Option<WorkspaceName>> {
        let staged: Vec<_> = names.iter().map(|_| self.staging.new_dir()).collect();
        for dir in &staged {
            durable::create_dir_unsynced(dir.path(), 0o700)?;
        }
        let records: Vec<_> = staged.iter().map(|dir| dir.path().join(RECORD)).collect();
        durable::write_new(&records, &serde_json::to_vec_pretty(record)?)?;
        let _guard = self.names_lock.lock()?;
        for (number, (name, dir)) in names.iter().zip(&staged).enumerate() {
            let Err(error) = durable::rename_unsynced(dir.path(), &self.dir(name)) else {
                continue;
            };
            for (made, dir) in names.iter().zip(&staged).take(number) {
                // The first error is the one to report. What stays is a whole workspace.
                let _ = durable::rename_unsynced(&self.dir(made), dir.path());
            }
            return match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(Some(name.clone())),
                _ => Err(error),
            };
        }
        durable::sync_dir(&self.dir)?;
        Ok(None)
    }

    /// Replaces the record of a workspace. The caller has the workspace's lock.
    pub fn put(&self, name: &WorkspaceName, record: &WorkspaceRecord) -> io::Result<()> {
        self.access.replace(&self.dir(name).join(RECORD), &serde_json::to_vec_pretty(record)?)
    }

    /// Gives a workspace another name. Returns false if that name is taken. The caller has the workspace's lock, and the
    /// workspace is not mounted.
    pub fn rename(&self, from: &WorkspaceName, to: &WorkspaceName) -> io::Result<bool> {
        let _guard = self.names_lock.lock()?;
        match durable::rename(&self.dir(from), &self.dir(to)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            renamed => renamed.map(|()| true),
        }
    }

    /// Runs `change`, which moves the directory of a workspace.
    pub(super) fn moving(&self, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _guard = self.names_lock.lock()?;
        change()
    }

    /// Removes a workspace with everything in its directory. The caller has the workspace's lock, and the workspace is not
    /// mounted.
    pub fn remove(&self, name: &WorkspaceName) -> io::Result<()> {
        let guard = self.names_lock.lock()?;
        let staged = self.staging.move_here(&self.dir(name))?;
        durable::sync_dir(&self.dir)?;
        drop(guard);
        staged.map_or(Ok(()), |staged| discard(&staged))
    }

    /// All records, for garbage collection.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(super) fn roots(&self) -> Result<Vec<WorkspaceRecord>, CollectError> {
        match self.list() {
            Ok(records) => Ok(records.into_iter().map(|(_, record)| record).collect()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(CollectError::IncompleteRoots(e.to_string()))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// The names of all workspaces in `dir`, sorted. Without the lock of the names, one that is changed meanwhile can be missing.
pub(super) fn names(dir: &Path) -> io::Result<Vec<WorkspaceName>> {
    let mut names: Vec<WorkspaceName> = Vec::new();
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let name = entry.map_err(at("list", dir))?.file_name();
        // Only this module makes names here. Another one is not of this store.
        names.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    names.sort();
    Ok(names)
}

/// The record of the workspace `name` in `dir`. `None` if there is no such workspace.
pub(super) fn read(dir: &Path, name: &WorkspaceName) -> io::Result<Option<WorkspaceRecord>> {
    let path = dir.join(name.as_str()).join(RECORD);
    match fs::read(&path) {
        Ok(bytes) => parse(&path, &bytes).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("read", &path)(e)),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> io::Result<WorkspaceRecord> {
    let invalid = |why: String| {
        let path = path.display();
        let text = format!(
            "this version cannot read the workspace record {path}: {why}; use the version of ovl that wrote it, or remove \
             the workspace with `ovl scrub`"
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let record: WorkspaceRecord =
        serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    match record.format {
        WorkspaceRecord::FORMAT => Ok(record),
        format => Err(invalid(format!(
            "its format is {format}, and this version reads format {}",
            WorkspaceRecord::FORMAT
        ))),
    }
}
