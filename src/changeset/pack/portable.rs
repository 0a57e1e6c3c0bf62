//! A portable layer: the names that own trees have, as the merged tree shows them.
//!
//! Deliberately absent: what redirects and metacopies lead to. The merged tree knows.

use std::io;

use super::{
    PackError, Packing,
    holes::data,
    known::Known,
    state::{Raw, State, is_whiteout, special},
    tar::{Holes, Kind, Tar},
};
use crate::{
    budget::Share,
    changeset::error::EntryName,
    spill::{Sorted, SortedReader},
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
    share: &Share,
) -> Result<Tar<'s>, PackError> {
    let root = |tree| Inside::root(tree).map_err(PackError::reading(b"/"));
    let own = own.iter().map(|tree| root(tree)).collect::<Result<Vec<_>, _>>()?;
    let known = Known::new(&tar.limits().scratch, share);
    let mut walk = Walk { tar, packing, known, path: Vec::new() };
    walk.folder(&root(merged)?, &own, false)?;
    Ok(walk.tar)
}

/// A name, and the own trees that have it in the folder that is looked at, bottom first.
type Named = (Vec<u8>, Vec<usize>);

/// Names with the trees that have each, as texts that sort by name and then by tree: no name has a NUL.
fn text(name: &[u8], tree: usize) -> Vec<u8> {
    [name, &[0], &(tree as u16).to_be_bytes()].concat()
}

/// Reads such texts, those of one name at once.
struct Grouped<'s> {
    texts: SortedReader<'s>,
    next: Option<(Vec<u8>, usize)>,
}

impl<'s> Grouped<'s> {
    fn new(texts: &'s Sorted) -> io::Result<Self> {
        let mut grouped = Self { texts: texts.read()?, next: None };
        grouped.ahead()?;
        Ok(grouped)
    }

    fn ahead(&mut self) -> io::Result<()> {
        let text = self.texts.read_next()?.and_then(<[u8]>::split_last_chunk);
        self.next = text.map(|(name, tree)| {
            (name[..name.len().saturating_sub(1)].to_vec(), usize::from(u16::from_be_bytes(*tree)))
        });
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<Named>> {
        let Some((name, tree)) = self.next.take() else { return Ok(None) };
        let mut trees = vec![tree];
        self.ahead()?;
        while let Some((_, tree)) = self.next.take_if(|(next, _)| *next == name) {
            trees.push(tree);
            self.ahead()?;
        }
        Ok(Some((name, trees)))
    }
}

struct Walk<'p, 's> {
    tar: Tar<'s>,
    packing: &'p Packing,
    known: Known<'p>,
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
        let list = self.hide(merged, own)?;
        let mut shown = self.read(Grouped::new(&list))?;
        while let Some((name, in_trees)) = self.read(shown.next())? {
            self.within(&name, |walk| walk.shown(merged, own, &name, &in_trees))?;
        }
        self.known.forget(list)
    }

    /// Writes what own trees hide in a folder; returns the names in them that it shows.
    fn hide(&mut self, merged: &Inside, own: &[Inside]) -> Result<Sorted, PackError> {
        let list = self.names(own)?;
        let mut shown = self.known.sorter(&self.path);
        let mut names = self.read(Grouped::new(&list))?;
        while let Some((name, in_trees)) = self.read(names.next())? {
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
                let pushed = in_trees.iter().try_for_each(|tree| shown.push(&text(&name, *tree)));
                self.read(pushed)?;
            }
        }
        self.known.forget(list)?;
        self.known.sorted(shown, &self.path)
    }

    /// Writes what the folder `merged` shows under a name that these of the own trees have.
    fn shown(
        &mut self,
        merged: &Inside,
        own: &[Inside],
        name: &[u8],
        in_trees: &[usize],
    ) -> Result<(), PackError> {
        let entry = self.read(merged.entry(name))?;
        let entry = entry.ok_or_else(|| PackError::Unseen(EntryName::new(&self.path)))?;
        if entry.sort() != Sort::Folder {
            return self.leaf(name, &entry);
        }
        self.reserved(name)?;
        let found = in_trees.iter().map(|tree| own[*tree].entry(name));
        let found = self.read(found.collect::<Result<Option<Vec<_>>, _>>())?;
        let mut folders = found.unwrap_or_default();
        folders.retain(|entry| entry.sort() == Sort::Folder);
        self.folder(&entry, &folders, folders.len() < in_trees.len())
    }

    /// Writes everything that a folder shows, whoever has it.
    fn all_in(&mut self, merged: &Inside) -> Result<(), PackError> {
        let list = self.known.names(merged, &self.path)?;
        let mut names = self.read(list.read())?;
        while let Some(name) = self.read(names.read_next())?.map(<[u8]>::to_vec) {
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
        self.known.forget(list)
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
        if let Some(inode) = state.linked.filter(|_| kind != Kind::Folder)
            && let Some(first) = self.known.first(inode, &self.path)?
        {
            let bare = State { xattrs: Vec::new(), ..state };
            return self.tar.entry(&self.path, Kind::Link(&first), &bare, &[]);
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

    /// The names in all of these folders, and in which of them each is ([`Grouped`]).
    fn names(&mut self, own: &[Inside]) -> Result<Sorted, PackError> {
        let mut names = self.known.sorter(&self.path);
        for (tree, folder) in own.iter().enumerate() {
            self.read(folder.names(|name| names.push(&text(name, tree))))?;
        }
        self.known.sorted(names, &self.path)
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

    fn read<T>(&self, read: io::Result<T>) -> Result<T, PackError> {
        read.map_err(PackError::reading(&self.path))
    }

    fn failed(&self, name: &[u8], source: io::Error) -> PackError {
        PackError::reading(&[&self.path, name].join(&b'/'))(source)
    }
}
