//! Packs a native layer: one tree as it is, with overlay's xattrs.
//!
//! Deliberately absent: following redirects or metacopies.

use super::{
    PackError, PackOptions,
    holes::{canonical_data, data},
    metadata::{EntryMetadata, UpperXattrs, is_whiteout, special},
    tar::{Holes, Kind, Tar},
    walk_memory::WalkMemory,
};
use crate::{
    budget::Share,
    changeset::error::EntryName,
    overlay_xattr::{METACOPY, OPAQUE, REDIRECT},
    sys::{
        mounts::Detached,
        tree_reader::{Entry, EntryType},
    },
};

/// Where the holes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HolesOf {
    /// Where the file system has them, and where there are long runs of zeros.
    FileSystem,
    /// Where the bytes of the file say so: the same on every file system.
    Bytes,
}

/// Writes all entries of the layer.
pub(super) fn pack<'s>(
    upper: &Detached,
    options: &PackOptions,
    holes: HolesOf,
    tar: Tar<'s>,
    share: &Share,
) -> Result<Tar<'s>, PackError> {
    let root = Entry::root(upper).map_err(PackError::reading(b"/"))?;
    let known = WalkMemory::new(&tar.limits().scratch, share);
    let mut walk = Walk { tar, options, holes, known };
    walk.entry(&[], &root)?;
    Ok(walk.tar)
}

struct Walk<'p, 's> {
    tar: Tar<'s>,
    options: &'p PackOptions,
    holes: HolesOf,
    known: WalkMemory<'p>,
}

impl Walk<'_, '_> {
    fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<(), PackError> {
        let failed = |source| PackError::reading(path)(source);
        if is_whiteout(entry).map_err(failed)? || entry.entry_type() == EntryType::Socket {
            // All whiteouts of an upper are names of one inode, but each is packed by itself.
            return self.tar.entry(path, Kind::Whiteout, &EntryMetadata::default(), &[]);
        }
        let metadata = EntryMetadata::of(entry, self.options).map_err(failed)?;
        if let Some(inode) = metadata.linked.filter(|_| entry.entry_type() != EntryType::Dir)
            && let Some(first) = self.known.first(inode, path)?
        {
            let bare = EntryMetadata { xattrs: Vec::new(), ..metadata };
            return self.tar.entry(path, Kind::Link(&first), &bare, &[]);
        }
        let upper = UpperXattrs::of(entry).map_err(failed)?;
        let mut marks: Vec<(&str, &[u8])> = Vec::new();
        if upper.metacopy {
            marks.push((METACOPY, b""));
        }
        if upper.opaque {
            marks.push((OPAQUE, b"y"));
        }
        if let Some(redirect) = &upper.redirect {
            marks.push((REDIRECT, redirect));
        }
        match entry.entry_type() {
            EntryType::Dir => {
                self.tar.entry(path, Kind::Dir, &metadata, &marks)?;
                self.below(path, entry)
            }
            EntryType::File => {
                let content = entry.open().map_err(failed)?;
                let data = match self.holes {
                    _ if upper.metacopy => Ok(Vec::new()),
                    HolesOf::FileSystem => data(&content, metadata.size),
                    HolesOf::Bytes => canonical_data(&content, metadata.size),
                };
                let data = data.map_err(failed)?;
                self.tar.file(path, &metadata, Holes::Sparse, &marks, &content, &data)
            }
            EntryType::Symlink => {
                let target = entry.target().map_err(failed)?;
                self.tar.entry(path, Kind::Symlink(&target), &metadata, &[])
            }
            sort => match special(sort) {
                Some(special) => self.tar.entry(path, Kind::Special(special), &metadata, &[]),
                None => Err(PackError::Unseen(EntryName::new(path))),
            },
        }
    }

    fn below(&mut self, path: &[u8], dir: &Entry) -> Result<(), PackError> {
        let failed = |source| PackError::reading(path)(source);
        let list = self.known.names(dir, path)?;
        let mut names = list.read().map_err(failed)?;
        while let Some(name) = names.read_next().map_err(failed)? {
            let path = if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') };
            let entry = dir.entry(name).map_err(PackError::reading(&path))?;
            let entry = entry.ok_or_else(|| PackError::Unseen(EntryName::new(&path)))?;
            self.entry(&path, &entry)?;
        }
        self.known.forget(list)
    }
}
