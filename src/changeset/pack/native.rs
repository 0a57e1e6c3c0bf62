//! A native layer: one tree as it is, with overlay's marks.
//!
//! Deliberately absent: a look at what the marks lead to.

use std::collections::HashMap;

use super::{
    PackError, Packing,
    state::{Raw, State, is_whiteout, special},
    tar::{Holes, Kind, Tar, data},
};
use crate::{
    changeset::{
        error::EntryName,
        marks::{METACOPY, OPAQUE, REDIRECT},
    },
    sys::{
        inside::{Inside, Sort},
        mounts::Detached,
    },
};

/// Writes the layer.
pub(super) fn pack<'s>(
    own: &Detached,
    packing: &Packing,
    tar: Tar<'s>,
) -> Result<Tar<'s>, PackError> {
    let root = Inside::root(own).map_err(PackError::reading(b"/"))?;
    let mut walk = Walk { tar, packing, known: HashMap::new() };
    walk.entry(&[], &root)?;
    Ok(walk.tar)
}

struct Walk<'p, 's> {
    tar: Tar<'s>,
    packing: &'p Packing,
    /// Where an inode with several names was packed.
    known: HashMap<(u64, u64), Vec<u8>>,
}

impl Walk<'_, '_> {
    fn entry(&mut self, path: &[u8], entry: &Inside) -> Result<(), PackError> {
        let failed = |source| PackError::reading(path)(source);
        if is_whiteout(entry).map_err(failed)? || entry.sort() == Sort::Socket {
            // All whiteouts of an upper are names of one inode; each stands for itself.
            return self.tar.entry(path, Kind::Whiteout, &State::default(), &[]);
        }
        let state = State::of(entry, self.packing).map_err(failed)?;
        if let Some(inode) = state.linked.filter(|_| entry.sort() != Sort::Folder) {
            if let Some(first) = self.known.get(&inode) {
                let bare = State { xattrs: Vec::new(), ..state };
                return self.tar.entry(path, Kind::Link(first), &bare, &[]);
            }
            self.known.insert(inode, path.to_vec());
        }
        let raw = Raw::of(entry).map_err(failed)?;
        let mut marks: Vec<(&str, &[u8])> = Vec::new();
        if raw.metacopy {
            marks.push((METACOPY, b""));
        }
        if raw.opaque {
            marks.push((OPAQUE, b"y"));
        }
        if let Some(redirect) = &raw.redirect {
            marks.push((REDIRECT, redirect));
        }
        match entry.sort() {
            Sort::Folder => {
                self.tar.entry(path, Kind::Folder, &state, &marks)?;
                self.below(path, entry)
            }
            Sort::File => {
                let content = entry.open().map_err(failed)?;
                let data = match raw.metacopy {
                    true => Vec::new(),
                    false => data(&content, state.size).map_err(failed)?,
                };
                self.tar.file(path, &state, Holes::Sparse, &marks, &content, &data)
            }
            Sort::Symlink => {
                let target = entry.target().map_err(failed)?;
                self.tar.entry(path, Kind::Symlink(&target), &state, &[])
            }
            sort => match special(sort) {
                Some(special) => self.tar.entry(path, Kind::Special(special), &state, &[]),
                None => Err(PackError::Unseen(EntryName::new(path))),
            },
        }
    }

    fn below(&mut self, path: &[u8], folder: &Inside) -> Result<(), PackError> {
        for name in folder.names().map_err(PackError::reading(path))? {
            let path = if path.is_empty() { name.clone() } else { [path, &name].join(&b'/') };
            let entry = folder.entry(&name).map_err(PackError::reading(&path))?;
            let entry = entry.ok_or_else(|| PackError::Unseen(EntryName::new(&path)))?;
            self.entry(&path, &entry)?;
        }
        Ok(())
    }
}
