//! Lists the changes in one upper without reading the layers below it.
//!
//! Deliberately absent: renames that overlay does not record. A file that was renamed after its content had been
//! changed is reported as changed.

use std::io;

use super::metadata::{UpperXattrs, is_whiteout};
use crate::{
    changeset::{Limits, error::EntryName, path::parts},
    spill::Sorter,
    sys::{
        mounts::Detached,
        tree_reader::{Entry, EntryType},
    },
};

/// One change in an upper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path relative to the volume, without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// What has changed.
    pub kind: ChangeKind,
}

/// The kind of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// The path is new.
    Added,
    /// The path existed, and its content or attributes have changed. For a directory also: something in it has changed.
    Changed,
    /// The path is deleted.
    Removed,
    /// A directory that hides what was below it. A new directory can be one too.
    Opaque,
    /// A directory or file whose content comes from another path, relative to the stack below.
    Renamed(Vec<u8>),
}

/// Calls `emit` with every change of one upper: directories before what is in them, names in byte order. Reads only the
/// upper. The names of a large directory spill to a file where `limits` says ([`Limits::scratch`]).
pub fn changes(upper: &Detached, limits: &Limits, emit: &mut dyn FnMut(Change)) -> io::Result<()> {
    below(&Entry::root(upper)?, &[], &[], limits, emit)
}

/// Lists the changes in `dir`. `from` is the path of its own content in the layers below.
fn below(
    dir: &Entry,
    path: &[u8],
    from: &[u8],
    limits: &Limits,
    emit: &mut dyn FnMut(Change),
) -> io::Result<()> {
    let depth = parts(path).count();
    if depth > limits.depth as usize {
        let why = format!("{} is too deep", EntryName::new(path));
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut names = Sorter::of_names(&limits.scratch, depth);
    dir.names(|name| names.push(name))?;
    let names = names.sorted()?;
    let mut names = names.read()?;
    while let Some(name) = names.read_next()? {
        let Some(entry) = dir.entry(name)? else { continue };
        let (path, mut from) = (joined(path, name), joined(from, name));
        let xattrs = UpperXattrs::of(&entry)?;
        let kind = if is_whiteout(&entry)? {
            ChangeKind::Removed
        } else if let Some(redirect) = xattrs.redirect {
            from = match redirect.strip_prefix(b"/") {
                Some(absolute) => absolute.to_vec(),
                None => {
                    let parent = from.len() - name.len();
                    [&from[..parent], &redirect].concat()
                }
            };
            ChangeKind::Renamed(from.clone())
        } else if xattrs.opaque {
            ChangeKind::Opaque
        } else if xattrs.origin || xattrs.metacopy {
            ChangeKind::Changed
        } else {
            ChangeKind::Added
        };
        emit(Change { path: path.clone(), kind });
        if entry.entry_type() == EntryType::Dir {
            below(&entry, &path, &from, limits, emit)?;
        }
    }
    Ok(())
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') }
}
