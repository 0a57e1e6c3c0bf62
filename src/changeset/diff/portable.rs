//! Packs a portable layer: the names in the uppers, with what the merged tree shows for them.
//!
//! Deliberately absent: following redirects and metacopies. The merged tree has done that.

use std::io;

use super::{
    PackError, PackOptions,
    grouped::{Grouped, add_names, text},
    holes::data,
    metadata::{EntryMetadata, UpperXattrs, is_whiteout, special},
    tar::{Holes, Kind, Tar},
    walk_memory::WalkMemory,
};
use crate::{
    budget::Share,
    changeset::{
        error::EntryName,
        path::{self, OPAQUE, WHITEOUT},
    },
    spill::Sorted,
    sys::{
        mounts::Detached,
        tree_reader::{Entry, EntryType},
    },
};

/// Writes all entries of the layer.
pub(super) fn pack<'s>(
    uppers: &[&Detached],
    merged: &Detached,
    options: &PackOptions,
    tar: Tar<'s>,
    share: &Share,
) -> Result<Tar<'s>, PackError> {
    let root = |tree| Entry::root(tree).map_err(PackError::reading(b"/"));
    let uppers = uppers.iter().map(|tree| root(tree)).collect::<Result<Vec<_>, _>>()?;
    let known = WalkMemory::new(&tar.limits().scratch, share);
    let mut walk = Walk { tar, options, known, path: Vec::new() };
    walk.dir(&root(merged)?, &uppers, options.hides_below)?;
    Ok(walk.tar)
}

struct Walk<'p, 's> {
    tar: Tar<'s>,
    options: &'p PackOptions,
    known: WalkMemory<'p>,
    /// The path of the current entry.
    path: Vec<u8>,
}

impl Walk<'_, '_> {
    /// Writes a directory. `uppers`: the same directory in the uppers that have it, bottom first. `replaces`: another upper
    /// has something else there, or it is a root that hides everything below.
    fn dir(&mut self, merged: &Entry, uppers: &[Entry], replaces: bool) -> Result<(), PackError> {
        self.write_entry(merged, Kind::Dir)?;
        let mut hides = replaces;
        for dir in uppers {
            let xattrs = self.read(UpperXattrs::of(dir))?;
            hides |= xattrs.opaque || xattrs.redirect.is_some();
        }
        if hides {
            self.whiteout(OPAQUE)?;
            return self.all_in(merged);
        }
        let list = self.hide(merged, uppers)?;
        let mut shown = self.read(Grouped::new(&list))?;
        while let Some((name, in_trees)) = self.read(shown.next())? {
            self.within(&name, |walk| walk.shown(merged, uppers, &name, &in_trees))?;
        }
        self.known.forget(list)
    }

    /// Writes the whiteouts of a directory. Returns the names in the uppers that are not hidden.
    fn hide(&mut self, merged: &Entry, uppers: &[Entry]) -> Result<Sorted, PackError> {
        let list = self.names(uppers)?;
        let mut shown = self.known.sorter(&self.path);
        let mut names = self.read(Grouped::new(&list))?;
        while let Some((name, in_trees)) = self.read(names.next())? {
            let top = in_trees.last().map(|tree| uppers[*tree].entry(&name));
            let top = top.transpose().map_err(|source| self.failed(&name, source))?.flatten();
            let hidden = match &top {
                Some(top) => self.hidden(top, merged, &name)?,
                None => false,
            };
            if hidden {
                self.within(&name, |walk| walk.reserved(&name))?;
                self.whiteout(&[WHITEOUT, &name].concat())?;
            } else {
                let pushed = in_trees.iter().try_for_each(|tree| shown.push(&text(&name, *tree)));
                self.read(pushed)?;
            }
        }
        self.known.forget(list)?;
        self.known.sorted(shown, &self.path)
    }

    /// Writes what the directory `merged` shows under a name that these of the uppers have.
    fn shown(
        &mut self,
        merged: &Entry,
        uppers: &[Entry],
        name: &[u8],
        in_trees: &[usize],
    ) -> Result<(), PackError> {
        let entry = self.read(merged.entry(name))?;
        let entry = entry.ok_or_else(|| PackError::Unseen(EntryName::new(&self.path)))?;
        if entry.entry_type() != EntryType::Dir {
            return self.leaf(name, &entry);
        }
        self.reserved(name)?;
        let found = in_trees.iter().map(|tree| uppers[*tree].entry(name));
        let found = self.read(found.collect::<Result<Option<Vec<_>>, _>>())?;
        let mut dirs = found.unwrap_or_default();
        dirs.retain(|entry| entry.entry_type() == EntryType::Dir);
        self.dir(&entry, &dirs, dirs.len() < in_trees.len())
    }

    /// Writes everything that a directory shows, from whatever layer.
    fn all_in(&mut self, merged: &Entry) -> Result<(), PackError> {
        let list = self.known.names(merged, &self.path)?;
        let mut names = self.read(list.read())?;
        while let Some(name) = self.read(names.read_next())?.map(<[u8]>::to_vec) {
            // Overlay lists some names that it cannot look up, such as whiteouts in a directory that it does not merge.
            let entry = merged.entry(&name).map_err(|source| self.failed(&name, source))?;
            let Some(entry) = entry else { continue };
            self.within(&name, |walk| {
                if entry.entry_type() != EntryType::Dir {
                    return walk.leaf(&name, &entry);
                }
                walk.reserved(&name)?;
                walk.write_entry(&entry, Kind::Dir)?;
                walk.all_in(&entry)
            })?;
        }
        self.known.forget(list)
    }

    /// Whether a name must be hidden; `top` is its topmost entry in the uppers.
    fn hidden(&self, top: &Entry, merged: &Entry, name: &[u8]) -> Result<bool, PackError> {
        let hidden = || {
            if top.entry_type() == EntryType::Socket {
                return Ok(true);
            }
            Ok(is_whiteout(top)? && merged.entry(name)?.is_none())
        };
        hidden().map_err(|source| self.failed(name, source))
    }

    /// Writes an entry that is not a directory.
    fn leaf(&mut self, name: &[u8], entry: &Entry) -> Result<(), PackError> {
        if entry.entry_type() == EntryType::Socket {
            return Ok(());
        }
        self.reserved(name)?;
        match entry.entry_type() {
            EntryType::Symlink => {
                let target = self.read(entry.target())?;
                self.write_entry(entry, Kind::Symlink(&target))
            }
            EntryType::File => self.write_entry(entry, Kind::File),
            // A directory never comes here, and an overlay never shows a whiteout.
            sort => match special(sort) {
                Some(special) => self.write_entry(entry, Kind::Special(special)),
                None => Err(PackError::Unseen(EntryName::new(&self.path))),
            },
        }
    }

    /// Writes the entry, or a hard link if the inode was packed before.
    fn write_entry(&mut self, entry: &Entry, kind: Kind<'_>) -> Result<(), PackError> {
        let metadata = self.read(EntryMetadata::of(entry, self.options))?;
        if let Some(inode) = metadata.linked.filter(|_| kind != Kind::Dir)
            && let Some(first) = self.known.first(inode, &self.path)?
        {
            let bare = EntryMetadata { xattrs: Vec::new(), ..metadata };
            return self.tar.entry(&self.path, Kind::Link(&first), &bare, &[]);
        }
        if kind != Kind::File {
            return self.tar.entry(&self.path, kind, &metadata, &[]);
        }
        let content = self.read(entry.open())?;
        let data = self.read(data(&content, metadata.size))?;
        self.tar.file(&self.path, &metadata, Holes::Zeros, &[], &content, &data)
    }

    /// Writes a whiteout.
    fn whiteout(&mut self, name: &[u8]) -> Result<(), PackError> {
        self.within(name, |walk| {
            walk.tar.entry(&walk.path, Kind::File, &EntryMetadata::default(), &[])
        })
    }

    fn reserved(&self, name: &[u8]) -> Result<(), PackError> {
        match name.starts_with(WHITEOUT) {
            true => Err(PackError::Reserved(EntryName::new(&self.path))),
            false => Ok(()),
        }
    }

    /// The names in all of these directories, each with the trees that have it ([`Grouped`]).
    fn names(&mut self, uppers: &[Entry]) -> Result<Sorted, PackError> {
        let mut names = self.known.sorter(&self.path);
        self.read(add_names(&mut names, uppers))?;
        self.known.sorted(names, &self.path)
    }

    /// Runs `work` with the path of `name` in the current directory.
    fn within<T>(
        &mut self,
        name: &[u8],
        work: impl FnOnce(&mut Self) -> Result<T, PackError>,
    ) -> Result<T, PackError> {
        let parent = path::push(&mut self.path, name);
        let done = work(self);
        self.path.truncate(parent);
        done
    }

    fn read<T>(&self, read: io::Result<T>) -> Result<T, PackError> {
        read.map_err(PackError::reading(&self.path))
    }

    fn failed(&self, name: &[u8], source: io::Error) -> PackError {
        PackError::reading(&[&self.path, name].join(&b'/'))(source)
    }
}
