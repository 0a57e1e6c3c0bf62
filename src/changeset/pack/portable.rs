//! A portable layer: the names that own trees have, as the merged tree shows them.
//!
//! Deliberately absent: what redirects and metacopies lead to. The merged tree knows.

use std::collections::HashMap;

use super::{
    PackError, Packing,
    state::{Raw, State, is_whiteout, special},
    tar::{Holes, Kind, Tar, data},
};
use crate::{
    changeset::error::EntryName,
    sys::{
        inside::{Inside, Sort},
        mounts::Detached,
    },
};

/// What a name begins with that stands for the absence of another.
const WHITEOUT: &[u8] = b".wh.";
/// The name that stands for the absence of everything below a folder.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes the layer.
pub(super) fn pack<'s>(
    own: &[&Detached],
    merged: &Detached,
    packing: &Packing,
    tar: Tar<'s>,
) -> Result<Tar<'s>, PackError> {
    let root = |tree| Inside::root(tree).map_err(PackError::reading(b"/"));
    let own = own.iter().map(|tree| root(tree)).collect::<Result<Vec<_>, _>>()?;
    let mut walk = Walk { tar, packing, known: HashMap::new(), path: Vec::new() };
    walk.folder(&root(merged)?, &own, false)?;
    Ok(walk.tar)
}

/// A name, and the own trees that have it in the folder that is looked at, bottom first.
type Named = (Vec<u8>, Vec<usize>);

struct Walk<'p, 's> {
    tar: Tar<'s>,
    packing: &'p Packing,
    /// Where an inode with several names was packed.
    known: HashMap<(u64, u64), Vec<u8>>,
    /// Of what is looked at.
    path: Vec<u8>,
}

impl Walk<'_, '_> {
    /// Writes a folder that `own`, bottom first, are in their trees. `replaces`: an own tree has something else there.
    fn folder(&mut self, merged: &Inside, own: &[Inside], replaces: bool) -> Result<(), PackError> {
        self.describe(merged, Kind::Folder)?;
        let mut hides = replaces;
        for folder in own {
            let raw = self.read(Raw::of(folder))?;
            hides |= raw.opaque || raw.redirect.is_some();
        }
        if hides {
            self.mark(OPAQUE)?;
            return self.all_in(merged);
        }
        let names = self.names(own)?;
        let mut shown = Vec::with_capacity(names.len());
        for (name, in_trees) in names {
            let top = in_trees.last().map(|tree| own[*tree].entry(&name));
            let top = top.transpose().map_err(|source| self.failed(&name, source))?.flatten();
            let hidden = match &top {
                Some(top) => self.hidden(top, merged, &name)?,
                None => false,
            };
            if hidden {
                self.within(&name, |walk| walk.reserved(&name))?;
                self.mark(&[WHITEOUT, &name].concat())?;
            } else {
                shown.push((name, in_trees));
            }
        }
        for (name, in_trees) in shown {
            let entry = merged.entry(&name).map_err(|source| self.failed(&name, source))?;
            self.within(&name, |walk| {
                let entry = entry.ok_or_else(|| PackError::Unseen(EntryName::new(&walk.path)))?;
                if entry.sort() != Sort::Folder {
                    return walk.leaf(&name, &entry);
                }
                walk.reserved(&name)?;
                let found = in_trees.iter().map(|tree| own[*tree].entry(&name));
                let found = walk.read(found.collect::<Result<Option<Vec<_>>, _>>())?;
                let mut folders = found.unwrap_or_default();
                folders.retain(|entry| entry.sort() == Sort::Folder);
                walk.folder(&entry, &folders, folders.len() < in_trees.len())
            })?;
        }
        Ok(())
    }

    /// Writes everything that a folder shows, whoever has it.
    fn all_in(&mut self, merged: &Inside) -> Result<(), PackError> {
        for name in self.read(merged.names())? {
            // Overlay lists some names that it does not know, such as whiteouts in a folder that it need not merge.
            let entry = merged.entry(&name).map_err(|source| self.failed(&name, source))?;
            let Some(entry) = entry else { continue };
            self.within(&name, |walk| {
                if entry.sort() != Sort::Folder {
                    return walk.leaf(&name, &entry);
                }
                walk.reserved(&name)?;
                walk.describe(&entry, Kind::Folder)?;
                walk.all_in(&entry)
            })?;
        }
        Ok(())
    }

    /// Whether a name, of which this is the topmost entry in own trees, is to be hidden.
    fn hidden(&self, top: &Inside, merged: &Inside, name: &[u8]) -> Result<bool, PackError> {
        let hidden = || {
            if top.sort() == Sort::Socket {
                return Ok(true);
            }
            Ok(is_whiteout(top)? && merged.entry(name)?.is_none())
        };
        hidden().map_err(|source| self.failed(name, source))
    }

    /// Writes what is no folder.
    fn leaf(&mut self, name: &[u8], entry: &Inside) -> Result<(), PackError> {
        if entry.sort() == Sort::Socket {
            return Ok(());
        }
        self.reserved(name)?;
        match entry.sort() {
            Sort::Symlink => {
                let target = self.read(entry.target())?;
                self.describe(entry, Kind::Symlink(&target))
            }
            Sort::File => self.describe(entry, Kind::File),
            // A folder does not come here, and no whiteout shows through an overlay.
            sort => match special(sort) {
                Some(special) => self.describe(entry, Kind::Special(special)),
                None => Err(PackError::Unseen(EntryName::new(&self.path))),
            },
        }
    }

    /// Writes the entry, or one more name of it.
    fn describe(&mut self, entry: &Inside, kind: Kind<'_>) -> Result<(), PackError> {
        let state = self.read(State::of(entry, self.packing))?;
        if let Some(inode) = state.linked.filter(|_| kind != Kind::Folder) {
            if let Some(first) = self.known.get(&inode) {
                let bare = State { xattrs: Vec::new(), ..state };
                return self.tar.entry(&self.path, Kind::Link(first), &bare, &[]);
            }
            self.known.insert(inode, self.path.clone());
        }
        if kind != Kind::File {
            return self.tar.entry(&self.path, kind, &state, &[]);
        }
        let content = self.read(entry.open())?;
        let data = self.read(data(&content, state.size))?;
        self.tar.file(&self.path, &state, Holes::Zeros, &[], &content, &data)
    }

    /// Writes a name that stands for an absence.
    fn mark(&mut self, name: &[u8]) -> Result<(), PackError> {
        self.within(name, |walk| walk.tar.entry(&walk.path, Kind::File, &State::default(), &[]))
    }

    fn reserved(&self, name: &[u8]) -> Result<(), PackError> {
        match name.starts_with(WHITEOUT) {
            true => Err(PackError::Reserved(EntryName::new(&self.path))),
            false => Ok(()),
        }
    }

    /// The names in all of these folders, and in which of them each is.
    fn names(&self, own: &[Inside]) -> Result<Vec<Named>, PackError> {
        let mut names = Vec::new();
        for (tree, folder) in own.iter().enumerate() {
            names.extend(self.read(folder.names())?.into_iter().map(|name| (name, tree)));
        }
        names.sort_unstable();
        let mut grouped: Vec<Named> = Vec::with_capacity(names.len());
        for (name, tree) in names {
            match grouped.last_mut().filter(|(last, _)| *last == name) {
                Some((_, trees)) => trees.push(tree),
                None => grouped.push((name, vec![tree])),
            }
        }
        Ok(grouped)
    }

    /// Goes one name down and back.
    fn within<T>(
        &mut self,
        name: &[u8],
        work: impl FnOnce(&mut Self) -> Result<T, PackError>,
    ) -> Result<T, PackError> {
        let above = self.path.len();
        self.path.extend_from_slice(if above == 0 { b"" } else { b"/" });
        self.path.extend_from_slice(name);
        let done = work(self);
        self.path.truncate(above);
        done
    }

    fn read<T>(&self, read: std::io::Result<T>) -> Result<T, PackError> {
        read.map_err(PackError::reading(&self.path))
    }

    fn failed(&self, name: &[u8], source: std::io::Error) -> PackError {
        PackError::reading(&[&self.path, name].join(&b'/'))(source)
    }
}
