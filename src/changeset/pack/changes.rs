//! What one upper says of the stack below it, without a look at that.
//!
//! Deliberately absent: whether what was added was there before under another name, for anything that overlay does not mark: a
//! file that was renamed after its content had been changed is a changed one.

use std::io;

use super::state::{Raw, is_whiteout};
use crate::{
    changeset::{Limits, error::EntryName, path::parts},
    spill::Sorter,
    sys::{
        inside::{Inside, Sort},
        mounts::Detached,
    },
};

/// One thing that an upper says of the stack below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to the volume, without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// What became of it.
    pub kind: ChangeKind,
}

/// What became of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It was there, and its content or attributes are others; of a folder, or that something in it is.
    Changed,
    /// It was there.
    Removed,
    /// A folder that hides what was below it. Each new folder may be one.
    Opaque,
    /// A folder or file that has its content from another path, relative to the stack below.
    Renamed(Vec<u8>),
}

/// Tells every change of one upper, folders before what is in them, names in the order of their bytes. Reads the upper alone.
/// The names of a large directory go on where `limits` says ([`Limits::scratch`]).
pub fn changes(upper: &Detached, limits: &Limits, tell: &mut dyn FnMut(Change)) -> io::Result<()> {
    below(&Inside::root(upper)?, &[], &[], limits, tell)
}

/// `from` is where the folder's own content lies below.
fn below(
    folder: &Inside,
    path: &[u8],
    from: &[u8],
    limits: &Limits,
    tell: &mut dyn FnMut(Change),
) -> io::Result<()> {
    let depth = parts(path).count();
    if depth > limits.depth as usize {
        let why = format!("{} lies too deep", EntryName::new(path));
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut names = Sorter::of_names(&limits.scratch, depth);
    folder.names(|name| names.push(name))?;
    let names = names.sorted()?;
    let mut names = names.read()?;
    while let Some(name) = names.read_next()? {
        let Some(entry) = folder.entry(name)? else { continue };
        let (path, mut from) = (joined(path, name), joined(from, name));
        let raw = Raw::of(&entry)?;
        let kind = if is_whiteout(&entry)? {
            ChangeKind::Removed
        } else if let Some(redirect) = raw.redirect {
            from = match redirect.strip_prefix(b"/") {
                Some(absolute) => absolute.to_vec(),
                None => {
                    let above = from.len() - name.len();
                    [&from[..above], &redirect].concat()
                }
            };
            ChangeKind::Renamed(from.clone())
        } else if raw.opaque {
            ChangeKind::Opaque
        } else if raw.origin || raw.metacopy {
            ChangeKind::Changed
        } else {
            ChangeKind::Added
        };
        tell(Change { path: path.clone(), kind });
        if entry.sort() == Sort::Folder {
            below(&entry, &path, &from, limits, tell)?;
        }
    }
    Ok(())
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') }
}
