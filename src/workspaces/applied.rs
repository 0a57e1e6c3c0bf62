//! Applies the changes of a workspace, and remembers what was written.
//!
//! ```text
//! <store>/workspaces/<name>/applied.json     what the last apply to the directory of a copy wrote
//! ```

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    apply::{Applied, ApplyError, ApplyInput, ApplyOptions, Written, apply},
    changes::ChangesOptions,
    error::WorkspaceError,
    lock::Workspace,
    paths::split,
};
use crate::sys::{
    clock::Time,
    durable::{self, at},
    tree::Dir,
};

/// The name of the record.
const APPLIED: &str = "applied.json";

/// What the last apply wrote.
#[derive(Debug, Default, Serialize, Deserialize)]
struct AppliedRecord {
    /// When it began.
    since: Option<Time>,
    /// Each file: path, inode and ctime.
    written: Vec<(OsString, u64, Time)>,
}

/// Why changes were not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyFailure {
    /// The workspace cannot be read.
    Workspace(#[from] WorkspaceError),
    /// The directory cannot be written, or has conflicts.
    Apply(#[from] ApplyError),
    /// A tree has no directory of its own.
    NoDirectory(String),
}

impl Workspace<'_> {
    /// Carries the changes of the workspace into the directory that it was made over, or into `to`, an absolute path
    /// without symlinks.
    ///
    /// # Errors
    /// [`ApplyFailure`]. If changes are refused, nothing was written.
    pub fn apply(
        &mut self,
        to: Option<&Path>,
        options: ApplyOptions,
    ) -> Result<Applied, ApplyFailure> {
        let own = self.record.directory().map(Path::to_owned);
        let dir = to.or(own.as_deref());
        let dir = dir.ok_or_else(|| ApplyFailure::NoDirectory(self.name.to_string()))?;
        let is_own = Some(dir) == own.as_deref();
        let (trees, _lease) = self.since_base()?;
        let changes = self.all.changes(&trees, ChangesOptions::default())?;
        let layers = if is_own { trees.roots().map_err(WorkspaceError::from)? } else { Vec::new() };
        let known = if is_own {
            self.applied().map_err(WorkspaceError::from)?
        } else {
            AppliedRecord::default()
        };
        let created = self.record.since;
        let since =
            known.since.unwrap_or((created.as_second(), created.subsec_nanosecond().into()));
        let written: Vec<Written> = known.written.into_iter().map(to_written).collect();
        let input = ApplyInput {
            changes: &changes.list,
            after: &trees.after,
            layers: &layers,
            dir,
            since,
            own: &written,
        };
        let applied = apply(input, options, &|| false)?;
        if is_own && !options.dry_run {
            let new = applied.written.iter().map(from_written);
            let record = match applied.kept.is_empty() {
                true => AppliedRecord { since: Some(applied.started), written: new.collect() },
                // What the directory has kept is a conflict in the next apply too.
                false => AppliedRecord {
                    since: Some(since),
                    written: written.iter().map(from_written).chain(new).collect(),
                },
            };
            self.put_applied(&record).map_err(WorkspaceError::from)?;
            drop(trees);
            self.take_owner(dir, &applied.other_owner)?;
        }
        Ok(applied)
    }

    /// Gives new files the owner that they have in the directory, so that they differ no more. After a kill before this,
    /// the next apply does it.
    fn take_owner(&mut self, dir: &Path, paths: &[Vec<u8>]) -> Result<(), WorkspaceError> {
        if paths.is_empty() {
            return Ok(());
        }
        let owner = fs::metadata(dir).map_err(WorkspaceError::disk("look at", dir))?;
        let owner = (owner.uid(), owner.gid());
        let merged = self.overlay(None)?;
        let root = Dir::root(&merged)?;
        for path in paths {
            let Some((above, name)) = split(path) else { continue };
            match root.below(above).and_then(|dir| dir.set_owner(name, owner)) {
                // A command in the workspace has removed it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => {
                    done.map_err(at("change the owner of", OsStr::from_bytes(path).as_ref()))?
                }
            }
        }
        Ok(())
    }

    fn applied(&self) -> io::Result<AppliedRecord> {
        let path = self.dir.join(APPLIED);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(AppliedRecord::default()),
            Err(e) => Err(at("read", &path)(e)),
        }
    }

    fn put_applied(&self, record: &AppliedRecord) -> io::Result<()> {
        durable::write_atomic(&self.dir.join(APPLIED), &serde_json::to_vec(record)?)
    }
}

fn to_written((path, inode, ctime): (OsString, u64, Time)) -> Written {
    Written { path: path.into_vec(), inode, ctime }
}

fn from_written(written: &Written) -> (OsString, u64, Time) {
    let path = OsStr::from_bytes(&written.path).to_owned();
    (path, written.inode, written.ctime)
}
