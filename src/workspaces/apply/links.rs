//! Names of one file: names of one inode of the workspace become names of one inode of the directory.
//!
//! Deliberately absent: names that are not carried by the same apply. A name that is carried alone is a file of its own.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use super::{
    check::Found,
    journal::Earlier,
    plan::{Item, Plan},
};
use crate::{
    sys::{
        tree::Dir,
        tree_reader::{Entry, EntryType},
    },
    workspaces::{
        attributes::{FileId, lookup},
        paths::split,
    },
};

/// A file of the workspace that has several names, and the owner that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    file: FileId,
    owner: (u32, u32),
}

impl Key {
    /// The key of an entry. `None` for a directory, and for a file with one name.
    pub(super) fn of(entry: &Entry, owner: (u32, u32)) -> io::Result<Option<Self>> {
        let is_dir = entry.entry_type() == EntryType::Dir;
        let file = if is_dir { None } else { FileId::of_several_names(&entry.metadata()?) };
        Ok(file.map(|file| Self { file, owner }))
    }
}

/// A name in the directory.
#[derive(Debug)]
struct First {
    path: Vec<u8>,
    inode: u64,
}

/// The files with several names that have one in the directory already.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<Key, First>);

impl Links {
    /// Those that an interrupted apply has written, and that this one does not write again.
    pub(super) fn of(
        root: &Dir,
        after: &Entry,
        earlier: &Earlier,
        plan: &Plan<'_>,
    ) -> io::Result<Self> {
        let mut links = Self::default();
        let carried: HashSet<_> = plan.items.iter().map(Item::path).collect();
        let written = earlier.written.iter().filter(|(_, path)| !carried.contains(&path[..]));
        for ((inode, _), path) in written {
            let Some(entry) = lookup(after, path)? else { continue };
            let Some(written) = lookup(&root.as_entry()?, path)? else { continue };
            let (found, written) = (Found::of(&entry)?, Found::of(&written)?);
            let state = |of: &Found| (of.size, of.mtime, of.mode);
            if written.inode == *inode
                && state(&found) == state(&written)
                && let Some(key) = Key::of(&entry, written.owner)?
            {
                links.add(key, path, *inode);
            }
        }
        Ok(links)
    }

    /// Notes that the file with this inode is at `path` in the directory.
    pub(super) fn add(&mut self, key: Key, path: &[u8], inode: u64) {
        self.0.insert(key, First { path: path.to_vec(), inode });
    }

    /// The inode of a file in the directory.
    pub(super) fn inode(&self, key: &Key) -> Option<u64> {
        self.0.get(key).map(|first| first.inode)
    }

    /// Makes the new name `name` in `dir` for a file. Returns false if that is not possible: it has too many names, has
    /// another quota, or was replaced by another process.
    pub(super) fn link(&self, root: &Dir, dir: &Dir, name: &[u8], key: &Key) -> io::Result<bool> {
        let Some(first) = self.0.get(key) else { return Ok(false) };
        let (above, of) = split(&first.path).unwrap_or_default();
        if root.below(above).and_then(|above| dir.link(name, &above, of)).is_err() {
            return Ok(false);
        }
        let made = dir.as_entry()?.entry(name)?;
        let made = made.as_ref().map(Found::of).transpose()?;
        if made.is_some_and(|made| made.inode == first.inode) {
            return Ok(true);
        }
        dir.remove_file(name)?;
        Ok(false)
    }
}
