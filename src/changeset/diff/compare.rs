//! Lists the paths at which two stacks of layers differ.
//!
//! Each stack is given as its *merged tree*, the overlay of all its layers. The *differing layers* are those that lie above
//! the layers which both stacks have in common at their bottom. Names come from the differing layers alone, so the
//! common layers, which are often a large image, are not walked. For each name both merged trees show what is there. So
//! the kernel resolves redirects and metacopies, and each difference is exact. In a directory that is opaque, renamed or
//! replaced in a differing layer, all names of both merged trees are compared.
//!
//! A directory that is removed, or replaced by something else, is one difference: its content is not listed.
//!
//! A comparison with times ([`Comparison::times`]) also counts the mtime of everything but directories. A file whose mtime
//! differs is different already, so its content is not read.
//!
//! Deliberately absent: the times of directories, which change without a change of their own attributes, and which names
//! are hard links of one file.

use std::{fs::Metadata, io, os::unix::fs::MetadataExt as _};

use super::{
    content::ContentReader,
    difference::{Change, CompareError, Difference, Property},
    grouped::{Grouped, add_names},
    metadata::{UpperXattrs, is_packed},
};
use crate::{
    budget::Share,
    changeset::{
        Limits,
        error::EntryName,
        path::{self, parts},
    },
    spill::{Sorted, Sorter},
    sys::{
        mounts::Detached,
        tree_reader::{Entry, EntryType},
    },
};

/// Bytes of memory for the names of one directory. More go to a file. It is small, so that a comparison rarely holds more
/// of the budget than each operation may hold without a wait.
const NAMES: usize = 64 << 10;

/// Two trees to compare.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// The merged tree before.
    pub first: &'a Detached,
    /// The merged tree after.
    pub second: &'a Detached,
    /// The roots of the differing layers of both stacks, in any order.
    pub layers: Vec<Entry>,
    /// Whether a differing layer hides everything below it, so that the layers' names are not enough.
    pub hides_all: bool,
    /// Whether times count. Where they do not, a file that was written again with the same content is no difference.
    pub times: bool,
}

/// Calls `emit` with each difference: a directory before what is in it, and the names of a directory in byte order. Ends
/// soon after `stop` returns true. Blocks while other work has the memory of the budget.
///
/// A tree that is written to meanwhile shows each file as it is at some moment of the comparison.
///
/// # Errors
/// [`CompareError`].
pub fn compare(
    comparison: Comparison<'_>,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
    emit: &mut dyn FnMut(Difference),
) -> Result<(), CompareError> {
    let root = |tree| Entry::root(tree).map_err(CompareError::reading(b""));
    let Comparison { first, second, layers, hides_all, times } = comparison;
    let names = match hides_all {
        true => Names::All,
        false => Names::OfLayers(layers),
    };
    let (first, second) = (root(first)?, root(second)?);
    let share = limits.budget.share();
    share.take(ContentReader::BYTES)?;
    let content = ContentReader::default();
    let mut walk =
        Walk { limits, share, taken: 0, listed: 0, content, times, stop, emit, path: Vec::new() };
    walk.pair(Some(&first), Some(&second), names)
}

/// Which names of a directory are compared.
enum Names {
    /// All that one of the merged trees has.
    All,
    /// Those that one of these directories has: the same directory in the differing layers that have it.
    OfLayers(Vec<Entry>),
}

struct Walk<'a> {
    limits: &'a Limits,
    share: Share,
    /// Bytes taken from the share for names.
    taken: u64,
    /// Bytes of memory of the names in the directories from the root to the current one.
    listed: usize,
    content: ContentReader,
    times: bool,
    stop: &'a dyn Fn() -> bool,
    emit: &'a mut dyn FnMut(Difference),
    /// The current path.
    path: Vec<u8>,
}

impl Walk<'_> {
    /// Compares what the two trees have at the current path, and what is in it.
    fn pair(
        &mut self,
        first: Option<&Entry>,
        second: Option<&Entry>,
        names: Names,
    ) -> Result<(), CompareError> {
        if (self.stop)() {
            return Err(CompareError::Stopped);
        }
        if parts(&self.path).count() > self.limits.depth as usize {
            let (path, most) = (EntryName::new(&self.path), self.limits.depth);
            return Err(CompareError::Deep { path, most });
        }
        if let Some(difference) = self.difference(first, second)? {
            (self.emit)(difference);
        }
        let is_dir = |entry: &&Entry| entry.entry_type() == EntryType::Dir;
        let Some(second) = second.filter(is_dir) else { return Ok(()) };
        match (first.filter(is_dir), names) {
            (Some(first), Names::OfLayers(layers)) if !self.is_hidden(&layers)? => {
                self.named(first, second, &layers)
            }
            (first, _) => self.all(first, second),
        }
    }

    /// Whether one of these directories does not show what the layers below it have at the same path.
    fn is_hidden(&self, layers: &[Entry]) -> Result<bool, CompareError> {
        for dir in layers {
            let xattrs = UpperXattrs::of(dir).map_err(CompareError::reading(&self.path))?;
            if xattrs.opaque || xattrs.redirect.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Compares the names that the layers have in a directory.
    fn named(
        &mut self,
        first: &Entry,
        second: &Entry,
        layers: &[Entry],
    ) -> Result<(), CompareError> {
        let mut names = self.sorter();
        self.read(add_names(&mut names, layers))?;
        let list = self.sorted(names)?;
        let mut names = self.read(Grouped::new(&list))?;
        while let Some((name, in_trees)) = self.read(names.next())? {
            self.within(&name, |walk| {
                let found = in_trees.iter().map(|tree| layers[*tree].entry(&name));
                let found = walk.read(found.collect::<Result<Option<Vec<_>>, _>>())?;
                let mut dirs = found.unwrap_or_default();
                dirs.retain(|entry| entry.entry_type() == EntryType::Dir);
                // Another layer has something else there, which hides what is below it.
                let replaces = dirs.len() < in_trees.len();
                let names = if replaces { Names::All } else { Names::OfLayers(dirs) };
                walk.child(Some(first), second, &name, names)
            })?;
        }
        self.forget(list)
    }

    /// Compares all names of a directory.
    fn all(&mut self, first: Option<&Entry>, second: &Entry) -> Result<(), CompareError> {
        let mut names = self.sorter();
        for dir in first.into_iter().chain([second]) {
            self.read(dir.names(|name| names.push(name)))?;
        }
        let list = self.sorted(names)?;
        let (mut names, mut last) = (self.read(list.read())?, Vec::new());
        while let Some(name) = self.read(names.read_next())? {
            if name == last {
                continue;
            }
            last = name.to_vec();
            self.within(&last, |walk| walk.child(first, second, &last, Names::All))?;
        }
        self.forget(list)
    }

    /// Compares a name of a directory. The current path ends with the name.
    fn child(
        &mut self,
        first: Option<&Entry>,
        second: &Entry,
        name: &[u8],
        names: Names,
    ) -> Result<(), CompareError> {
        let first = first.map(|dir| dir.entry(name)).transpose();
        let (first, second) = (self.read(first)?.flatten(), self.read(second.entry(name))?);
        self.pair(first.as_ref(), second.as_ref(), names)
    }

    fn difference(
        &mut self,
        first: Option<&Entry>,
        second: Option<&Entry>,
    ) -> Result<Option<Difference>, CompareError> {
        let mut properties = Vec::new();
        let (change, entry) = match (first, second) {
            (None, None) => return Ok(None),
            (None, Some(second)) => (Change::Added, second),
            (Some(first), None) => (Change::Removed, first),
            (Some(first), Some(second)) => {
                let differing = self.differing(first, second);
                properties = self.read(differing)?;
                if properties.is_empty() {
                    return Ok(None);
                }
                (Change::Changed, second)
            }
        };
        let size = match entry.entry_type() {
            EntryType::File => Some(self.read(entry.metadata())?.len()),
            _ => None,
        };
        let path = self.path.clone();
        Ok(Some(Difference { path, change, kind: entry.entry_type(), size, properties }))
    }

    /// The properties in which two entries differ.
    fn differing(&mut self, one: &Entry, other: &Entry) -> io::Result<Vec<Property>> {
        use EntryType::{BlockDevice, CharDevice, File, Symlink};
        let (before, after) = (one.metadata()?, other.metadata()?);
        let mtime = |of: &Metadata| (of.mtime(), of.mtime_nsec());
        let is_dir = before.is_dir() || after.is_dir();
        let newer = self.times && !is_dir && mtime(&before) != mtime(&after);
        let mut found = Vec::new();
        match (one.entry_type(), other.entry_type()) {
            (File, File) if before.len() != after.len() => {
                found.extend([Property::Size, Property::Content]);
            }
            (File, File) => {
                let is_unread = newer || before.len() == 0;
                if !is_unread && !self.content.is_same(one, other, self.stop)? {
                    found.push(Property::Content);
                }
            }
            (Symlink, Symlink) => {
                if one.target()? != other.target()? {
                    found.push(Property::Target);
                }
            }
            (one, other) if one == other => {}
            (CharDevice(..), CharDevice(..)) | (BlockDevice(..), BlockDevice(..)) => {
                found.push(Property::Device);
            }
            _ => found.push(Property::Type),
        }
        // The kernel ignores the mode of a symbolic link.
        let is_link = other.entry_type() == Symlink || one.entry_type() == Symlink;
        if !is_link && (before.mode() ^ after.mode()) & 0o7777 != 0 {
            found.push(Property::Mode);
        }
        if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
            found.push(Property::Owner);
        }
        if xattrs(one)? != xattrs(other)? {
            found.push(Property::Xattrs);
        }
        if newer {
            found.push(Property::Mtime);
        }
        Ok(found)
    }

    fn sorter(&self) -> Sorter {
        Sorter::new(&self.limits.scratch, NAMES)
    }

    /// The names in byte order; pass them to [`Self::forget`] after the last one.
    fn sorted(&mut self, names: Sorter) -> Result<Sorted, CompareError> {
        let names = self.read(names.sorted())?;
        self.listed += names.memory();
        self.share.follow(&mut self.taken, self.listed as u64)?;
        Ok(names)
    }

    /// Returns the memory of such names.
    fn forget(&mut self, names: Sorted) -> Result<(), CompareError> {
        self.listed -= names.memory();
        drop(names);
        Ok(self.share.follow(&mut self.taken, self.listed as u64)?)
    }

    /// Runs `work` with the path of `name` in the current directory.
    fn within<T>(
        &mut self,
        name: &[u8],
        work: impl FnOnce(&mut Self) -> Result<T, CompareError>,
    ) -> Result<T, CompareError> {
        let parent = path::push(&mut self.path, name);
        let done = work(self);
        self.path.truncate(parent);
        done
    }

    fn read<T>(&self, read: io::Result<T>) -> Result<T, CompareError> {
        read.map_err(CompareError::reading(&self.path))
    }
}

/// The extended attributes that are compared, sorted: those that a layer keeps. Overlay's own and the labels of the host
/// are not among them.
pub fn xattrs(entry: &Entry) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = entry.xattrs()?;
    xattrs.retain(|(name, _)| is_packed(name));
    xattrs.sort_unstable();
    Ok(xattrs)
}
