//! Applies the changes of a workspace, and remembers what was written.
//!
//! ```text
//! <store>/workspaces/<name>/applied.json     what the last apply to the directory of a copy wrote
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    apply::{
        Applied, ApplyError, ApplyInput, ApplyOptions, Written, apply,
        choose::{self, Within},
    },
    attributes::lookup,
    changes::ChangesOptions,
    error::WorkspaceError,
    lock::Workspace,
    paths::{has_part, split},
    view::Trees,
};
use crate::{
    changeset::Difference,
    sys::{
        clock::Time,
        durable::{self, at},
        tree::Dir,
        tree_reader::Entry,
    },
};

/// The name of the record.
const APPLIED: &str = "applied.json";

/// What the last apply wrote.
#[derive(Debug, Default, Serialize, Deserialize)]
struct AppliedRecord {
    /// When it began. Changes of the directory are counted from there. Not all paths were carried: when an earlier one began.
    since: Option<Time>,
    /// The same for paths with a part `.git`.
    #[serde(default)]
    since_git: Option<Time>,
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
    /// Neither the workspace nor the directory has a chosen path.
    Nowhere(Vec<u8>),
    /// A chosen path lies in a directory that the workspace has removed or replaced.
    Within {
        /// The chosen path.
        path: Vec<u8>,
        /// The directory.
        above: Vec<u8>,
    },
}

impl AppliedRecord {
    /// The record after an apply, which has carried all changes or only chosen ones. What the directory has kept and what was
    /// not carried is a conflict in the next apply, too.
    fn after(input: &ApplyInput<'_>, applied: &Applied, is_all: bool) -> Self {
        let is_done = is_all && applied.kept.is_empty();
        let is_git_done = is_done && applied.left_out.is_empty();
        // The copy keeps the name of the inode that an apply has replaced. As long as the file is there, it is not another one.
        let is_there = |one: &Written| {
            let found = input.dir.join(OsStr::from_bytes(&one.path)).symlink_metadata();
            let state = |it: &Metadata| (it.ino(), (it.ctime(), it.ctime_nsec()));
            found.is_ok_and(|found| state(&found) == (one.inode, one.ctime))
        };
        let is_kept = |one: &&Written| match has_part(&one.path, b".git") {
            true => !is_git_done || is_there(one),
            false => !is_done || is_there(one),
        };
        let mut written: BTreeMap<u64, &Written> = BTreeMap::new();
        for one in input.own.iter().filter(is_kept).chain(&applied.written) {
            let newest = written.entry(one.inode).or_insert(one);
            // A new name of a file changes its ctime.
            if newest.ctime < one.ctime {
                *newest = one;
            }
        }
        let since = |is_done, before| Some(if is_done { applied.started } else { before });
        Self {
            since: since(is_done, input.since),
            since_git: since(is_git_done, input.since_git),
            written: written.into_values().map(from_written).collect(),
        }
    }
}

/// The changes at these paths and below them, and the directories above them that must be made.
fn chosen(
    changes: &[Difference],
    paths: &[Vec<u8>],
    trees: &Trees,
    dir: &Path,
) -> Result<Vec<Difference>, ApplyFailure> {
    let workspace = Entry::root(&trees.after).map_err(WorkspaceError::from)?;
    let of_dir = |path: &[u8]| dir.join(OsStr::from_bytes(path)).symlink_metadata();
    let (mut chosen, mut above) = (BTreeMap::new(), BTreeSet::new());
    for path in paths {
        let within = |Within(above)| ApplyFailure::Within { path: path.clone(), above };
        let found = choose::at(changes, path, &mut above).map_err(within)?;
        let is_nowhere = || match lookup(&workspace, path).map_err(WorkspaceError::from)? {
            Some(_) => Ok::<_, WorkspaceError>(false),
            None => Ok(of_dir(path).is_err()),
        };
        if found.is_empty() && is_nowhere()? {
            return Err(ApplyFailure::Nowhere(path.clone()));
        }
        chosen.extend(found.into_iter().map(|one| (&one.path[..], one)));
    }
    // Another directory than the one of the copy may have it.
    above.retain(|path| !of_dir(path).is_ok_and(|found| found.is_dir()));
    let above = changes.iter().filter(|one| above.contains(&one.path[..]));
    chosen.extend(above.map(|one| (&one.path[..], one)));
    Ok(chosen.into_values().cloned().collect())
}

impl Workspace<'_> {
    /// Carries the changes of the workspace into the directory that it was made over, or into `to`, an absolute path
    /// without symlinks: all of them, or those at and below these paths.
    ///
    /// # Errors
    /// [`ApplyFailure`]. If changes are refused, nothing was written.
    pub fn apply(
        &mut self,
        to: Option<&Path>,
        paths: &[Vec<u8>],
        options: ApplyOptions,
    ) -> Result<Applied, ApplyFailure> {
        let own = self.record.directory().map(Path::to_owned);
        let dir = to.or(own.as_deref());
        let dir = dir.ok_or_else(|| ApplyFailure::NoDirectory(self.name.to_string()))?;
        let is_own = Some(dir) == own.as_deref();
        let (trees, _lease) = self.since_base()?;
        let changes = self.all.changes(&trees, ChangesOptions::default())?;
        let is_all = paths.is_empty() || paths.iter().any(Vec::is_empty);
        let changes = match is_all {
            true => changes.list,
            false => chosen(&changes.list, paths, &trees, dir)?,
        };
        let layers = if is_own { trees.roots().map_err(WorkspaceError::from)? } else { Vec::new() };
        let known = if is_own {
            self.applied().map_err(WorkspaceError::from)?
        } else {
            AppliedRecord::default()
        };
        let created = self.record.since;
        let created = (created.as_second(), created.subsec_nanosecond().into());
        let (since, since_git) =
            (known.since.unwrap_or(created), known.since_git.unwrap_or(created));
        let written: Vec<Written> = known.written.into_iter().map(to_written).collect();
        let input = ApplyInput {
            changes: &changes,
            after: &trees.after,
            layers: &layers,
            dir,
            since,
            since_git,
            own: &written,
        };
        let applied = apply(input, options, &|| false)?;
        if is_own && !options.dry_run {
            let record = AppliedRecord::after(&input, &applied, is_all);
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
            Ok(text) => serde_json::from_slice(&text).map_err(|e| at("read", &path)(e.into())),
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

#[cfg(test)]
#[path = "applied_tests.rs"]
mod tests;
