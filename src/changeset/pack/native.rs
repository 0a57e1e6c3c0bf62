//! A native layer: one tree as it is, with overlay's marks.
//!
//! Deliberately absent: a look at what the marks lead to.

use super::{
    PackError, Packing,
    holes::data,
    known::Known,
    state::{Raw, State, is_whiteout, special},
    tar::{Holes, Kind, Tar},
};
use crate::{
    budget::Share,
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
    share: &Share,
) -> Result<Tar<'s>, PackError> {
    let root = Inside::root(own).map_err(PackError::reading(b"/"))?;
    let known = Known::new(&tar.limits().scratch, share);
    let mut walk = Walk { tar, packing, known };
    walk.entry(&[], &root)?;
    Ok(walk.tar)
}

struct Walk<'p, 's> {
    tar: Tar<'s>,
    packing: &'p Packing,
    known: Known<'p>,
}

impl Walk<'_, '_> {
    fn entry(&mut self, path: &[u8], entry: &Inside) -> Result<(), PackError> {
        let failed = |source| PackError::reading(path)(source);
        if is_whiteout(entry).map_err(failed)? || entry.sort() == Sort::Socket {
            // All whiteouts of an upper are names of one inode; each stands for itself.
            return self.tar.entry(path, Kind::Whiteout, &State::default(), &[]);
        }
        let state = State::of(entry, self.packing).map_err(failed)?;
        if let Some(inode) = state.linked.filter(|_| entry.sort() != Sort::Folder)
            && let Some(first) = self.known.first(inode, path)?
        {
            let bare = State { xattrs: Vec::new(), ..state };
            return self.tar.entry(path, Kind::Link(&first), &bare, &[]);
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
        let failed = |source| PackError::reading(path)(source);
        let list = self.known.names(folder, path)?;
        let mut names = list.read().map_err(failed)?;
        while let Some(name) = names.read_next().map_err(failed)? {
            let path = if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') };
            let entry = folder.entry(name).map_err(PackError::reading(&path))?;
            let entry = entry.ok_or_else(|| PackError::Unseen(EntryName::new(&path)))?;
            self.entry(&path, &entry)?;
        }
        self.known.forget(list)
    }
}
