//! Finds what conflicts with changes in the directory, before anything is written.
//!
//! A path conflicts if its original has a ctime at or after the moment and is not what an earlier apply wrote, or if the
//! inode is not the one that the copy was made from. Each directory above it must be the one of the copy, too. Where
//! overlay could not name an inode, a directory with a later ctime counts as another one. So too much conflicts at times,
//! and never too little.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::unix::fs::MetadataExt as _,
};

use super::{
    error::{ApplyError, Conflict, ConflictReason as Reason},
    journal::{self, Earlier},
    origin::Origin,
    request::ApplyInput,
};
use crate::{
    changeset::{Change, Difference, Property},
    sys::{
        clock::Time,
        tree::Dir,
        tree_reader::{Entry, EntryType},
    },
    workspaces::{
        attributes::lookup,
        paths::{has_part, join, split},
    },
};

/// An entry of the directory as the check saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) is_dir: bool,
    pub(super) is_file: bool,
    pub(super) inode: u64,
    pub(super) ctime: Time,
    pub(super) mtime: Time,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) links: u64,
    pub(super) owner: (u32, u32),
}

impl Found {
    pub(super) fn of(entry: &Entry) -> io::Result<Self> {
        let metadata = entry.metadata()?;
        Ok(Self {
            is_dir: entry.entry_type() == EntryType::Dir,
            is_file: entry.entry_type() == EntryType::File,
            inode: metadata.ino(),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.len(),
            mode: metadata.mode(),
            links: metadata.nlink(),
            owner: (metadata.uid(), metadata.gid()),
        })
    }

    /// Whether it is the same file, with the same content as far as its times say. The ctime does not count, because
    /// the write of another name of it changes that.
    pub(super) fn is_still(&self, now: &Self) -> bool {
        let state = |of: &Self| (of.inode, of.mode, of.owner);
        state(self) == state(now)
            && (self.is_dir || (self.mtime, self.size) == (now.mtime, now.size))
    }
}

/// What is known of the directory and of the copy.
pub(super) struct Check<'a> {
    pub(super) root: &'a Dir,
    pub(super) layers: &'a [Entry],
    pub(super) since: Time,
    pub(super) since_git: Time,
    /// What earlier applies wrote: inode and ctime.
    pub(super) own: &'a HashSet<(u64, Time)>,
    pub(super) earlier: &'a Earlier,
    pub(super) git: bool,
    /// The directories that the list makes, and those that it makes of something else.
    made: HashSet<&'a [u8]>,
    parents: HashMap<Vec<u8>, Option<Reason>>,
}

impl<'a> Check<'a> {
    pub(super) fn new(
        root: &'a Dir,
        input: ApplyInput<'a>,
        own: &'a HashSet<(u64, Time)>,
        earlier: &'a Earlier,
        git: bool,
        list: &'a [&'a Difference],
    ) -> Self {
        let ApplyInput { layers, since, since_git, .. } = input;
        let is_made = |one: &&&Difference| {
            let is_new = one.properties.contains(&Property::Type);
            one.kind == EntryType::Dir && (one.change == Change::Added || is_new)
        };
        let made = list.iter().filter(is_made).map(|one| &one.path[..]).collect();
        let parents = HashMap::new();
        Self { root, layers, since, since_git, own, earlier, git, made, parents }
    }

    /// What the directory has at a path, and why that conflicts.
    pub(super) fn path(
        &mut self,
        one: &Difference,
        conflicts: &mut Vec<Conflict>,
    ) -> Result<Option<Found>, ApplyError> {
        let path = &one.path[..];
        let mut refuse = |reason| conflicts.push(Conflict { path: path.to_vec(), reason });
        if let Some((above, _)) = split(path)
            && let Some(reason) = self.parent(above)?
        {
            refuse(reason);
            return Ok(None);
        }
        let entry = match self.entry(path) {
            Ok(entry) => entry,
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                refuse(Reason::Mounted);
                return Ok(None);
            }
            Err(e) => return Err(ApplyError::reading(path)(e)),
        };
        let origin = Origin::find(self.layers, path).map_err(ApplyError::reading(path))?;
        let Some(entry) = entry else {
            // A removed path needs no removal.
            let is_gone = match one.change {
                Change::Removed => false,
                Change::Changed => true,
                Change::Added => {
                    let moved = || self.is_moved_by_copy(path, &origin);
                    origin != Origin::None && !moved().map_err(ApplyError::reading(path))?
                }
            };
            if is_gone {
                refuse(Reason::Gone);
            }
            return Ok(None);
        };
        let found = Found::of(&entry).map_err(ApplyError::reading(path))?;
        let is_other = || {
            // The copy keeps the name of the inode that an earlier apply has replaced.
            let differs = !self.is_written(&found) && origin.differs_from(&entry)? == Some(true);
            Ok(differs && !self.is_moved_by_copy(path, &origin)?)
        };
        let is_other = is_other().map_err(ApplyError::reading(path))?;
        if one.change == Change::Added {
            refuse(Reason::Appeared);
        } else if self.is_later(path, &found) {
            // Of the original, nothing is known but the moment. An mtime can be put back after a write, so it decides nothing.
            let is_old = found.mtime < self.since(path);
            refuse(if is_old { Reason::Ctime } else { Reason::Changed });
        } else if is_other {
            refuse(Reason::Replaced);
        } else if found.is_dir && (one.change == Change::Removed || one.kind != EntryType::Dir) {
            self.content(path, conflicts)?;
        }
        Ok(Some(found))
    }

    /// Notes that the directory keeps what it has at a path, so that nothing is made there.
    pub(super) fn keeps(&mut self, path: &[u8]) {
        self.made.remove(path);
    }

    /// Whether the entry at a path was changed at or after the moment, and not by an apply.
    pub(super) fn is_later(&self, path: &[u8], found: &Found) -> bool {
        found.ctime >= self.since(path)
            && !self.is_written(found)
            && !self.earlier.touched.contains(&found.inode)
    }

    /// Whether an entry is as an earlier apply has left it.
    fn is_written(&self, found: &Found) -> bool {
        let key = (found.inode, found.ctime);
        self.own.contains(&key) || self.earlier.written.contains_key(&key)
    }

    /// The moment for a path.
    fn since(&self, path: &[u8]) -> Time {
        if has_part(path, b".git") { self.since_git } else { self.since }
    }

    /// Whether the inode of an origin is as it was at the moment, so that it has its names of that time. Then the copy
    /// has renamed it to the path of this origin, or made a link.
    fn is_moved_by_copy(&self, path: &[u8], origin: &Origin) -> io::Result<bool> {
        let Origin::Of(handle) = origin else { return Ok(false) };
        let inode = self.root.by_handle(handle)?;
        let found = inode.map(|inode| Found::of(&inode)).transpose()?;
        Ok(found.is_some_and(|it| !self.is_later(path, &it)))
    }

    /// What the directory has at a path.
    fn entry(&self, path: &[u8]) -> io::Result<Option<Entry>> {
        lookup(&self.root.as_entry()?, path)
    }

    /// Why nothing can be carried into a directory.
    fn parent(&mut self, path: &[u8]) -> Result<Option<Reason>, ApplyError> {
        let Some((above, _)) = split(path) else { return Ok(None) };
        if let Some(known) = self.parents.get(path) {
            return Ok(known.clone());
        }
        let reason = match self.parent(above)? {
            None => self.dir(path)?,
            known => known,
        };
        self.parents.insert(path.to_vec(), reason.clone());
        Ok(reason)
    }

    fn dir(&self, path: &[u8]) -> Result<Option<Reason>, ApplyError> {
        let is_made = self.made.contains(path);
        let reading = || ApplyError::reading(path);
        let entry = match self.entry(path) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                return Ok(Some(Reason::Mounted));
            }
            entry => entry.map_err(reading())?,
        };
        let replaced = || Some(Reason::Parent(path.to_vec()));
        let origin = Origin::find(self.layers, path).map_err(reading())?;
        let Some(entry) = entry else {
            return Ok(if is_made && origin == Origin::None { None } else { replaced() });
        };
        if entry.entry_type() != EntryType::Dir {
            return Ok(if is_made { None } else { Some(Reason::NoDir(path.to_vec())) });
        }
        let found = Found::of(&entry).map_err(reading())?;
        let differs = origin.differs_from(&entry).map_err(reading())?;
        Ok(if differs.unwrap_or_else(|| self.is_later(path, &found)) { replaced() } else { None })
    }

    /// Looks at all that is in a directory which is removed.
    pub(super) fn content(
        &self,
        path: &[u8],
        conflicts: &mut Vec<Conflict>,
    ) -> Result<(), ApplyError> {
        let mut dirs = vec![path.to_vec()];
        while let Some(dir) = dirs.pop() {
            let mut names = Vec::new();
            let entry = self.root.below(&dir).and_then(|opened| opened.as_entry());
            let entry = entry.map_err(ApplyError::reading(&dir))?;
            let listed = entry.names(|name| {
                names.push(name.to_vec());
                Ok(())
            });
            listed.map_err(ApplyError::reading(&dir))?;
            names.sort_unstable();
            for name in names.into_iter().filter(|name| !journal::is_temporary(name)) {
                let inside = join(&dir, &name);
                let mut refuse = |reason| conflicts.push(Conflict { path: inside.clone(), reason });
                let found = match entry.entry(&name) {
                    Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                        refuse(Reason::Mounted);
                        continue;
                    }
                    found => found.and_then(|found| found.as_ref().map(Found::of).transpose()),
                };
                let Some(found) = found.map_err(ApplyError::reading(&inside))? else { continue };
                if self.is_later(&inside, &found) {
                    refuse(Reason::Changed);
                } else if !self.git && has_part(&name, b".git") {
                    refuse(Reason::Git);
                } else if found.is_dir {
                    dirs.push(inside);
                }
            }
        }
        Ok(())
    }

    /// Whether a changed path is a new one that an earlier apply wrote. Its owner is that of the directory, and so the
    /// owner alone differs from the copy.
    pub(super) fn is_applied(
        &self,
        one: &Difference,
        found: &Found,
        owner: (u32, u32),
    ) -> io::Result<bool> {
        if one.properties != [Property::Owner] || found.owner != owner {
            return Ok(false);
        }
        let is_own = || self.own.contains(&(found.inode, found.ctime));
        Ok(self.earlier.new.contains(&one.path)
            || (is_own() && Origin::find(self.layers, &one.path)? == Origin::None))
    }
}
