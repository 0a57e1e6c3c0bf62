//! What is carried, where and how, and what became of it.
//!
//! Deliberately absent: how it is done.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use super::error::Conflict;
use crate::{
    changeset::Difference,
    sys::{clock::Time, mounts::Detached, tree_reader::Entry},
};

/// What is carried, and where.
#[derive(Debug, Clone, Copy)]
pub struct ApplyInput<'a> {
    /// The changes of the workspace, from a comparison that was just made.
    pub changes: &'a [Difference],
    /// The merged tree of the workspace.
    pub after: &'a Detached,
    /// The roots of the layers that lie over `dir`, bottom first. Empty if the workspace was not made over `dir`: then
    /// only times show conflicts.
    pub layers: &'a [Entry],
    /// The directory: an absolute path without symbolic links.
    pub dir: &'a Path,
    /// When the workspace was made, or when its last apply began ([`Applied::started`]): a time of [`clock::now`](crate::sys::clock::now).
    pub since: Time,
    /// The same for paths with a part `.git`, which an apply may have left out.
    pub since_git: Time,
    /// What earlier applies wrote.
    pub own: &'a [Written],
}

/// How changes are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyOptions {
    /// Whether everything is checked and nothing is written.
    pub dry_run: bool,
    /// What happens to paths that conflict.
    pub on_conflict: OnConflict,
    /// Whether paths with a part `.git` are carried.
    pub git: bool,
    /// Whether setuid and setgid files, capabilities, devices, and links that lead out of the directory are carried.
    pub special: bool,
    /// Whether a file with several names is written through all of them, instead of losing its link. Such a write can
    /// be seen half done.
    pub in_place: bool,
}

/// What happens to paths that conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Nothing is carried.
    #[default]
    Refuse,
    /// The directory gets the file of the workspace.
    Ours,
    /// The directory keeps its own file. The other changes are carried.
    Theirs,
}

/// What was carried, or would be.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// When the apply began. The next one counts changes from there.
    pub started: Time,
    /// The changes that were carried.
    pub carried: Vec<Difference>,
    /// Conflicts where the directory kept its file ([`OnConflict::Theirs`]).
    pub kept: Vec<Conflict>,
    /// Paths that are left out because of `.git`.
    pub left_out: Vec<Vec<u8>>,
    /// Files that had several names and lost this one: the other names keep the former content.
    pub lost_links: Vec<Vec<u8>>,
    /// Paths that are new in the directory and have its owner there, and another one in the workspace.
    pub other_owner: Vec<Vec<u8>>,
    /// What was written, for the caller's record. An interrupted apply before this one is included.
    pub written: Vec<Written>,
}

/// A file or directory as an apply left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The path in the directory. Information only: the inode and its ctime identify what was written.
    pub path: Vec<u8>,
    /// The number of the inode.
    pub inode: u64,
    /// The ctime of the inode.
    pub ctime: Time,
}

impl Written {
    /// A file as it is now.
    pub(super) fn of(path: &[u8], entry: &Entry) -> io::Result<Self> {
        let metadata = entry.metadata()?;
        let ctime = (metadata.ctime(), metadata.ctime_nsec());
        Ok(Self { path: path.to_vec(), inode: metadata.ino(), ctime })
    }
}
