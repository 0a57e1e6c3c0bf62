//! Writes the changes of a plan.
//!
//! Deliberately absent: what conflicts. A target that is not what the check saw ends the work.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
};

use super::{
    check::{Check, Found},
    error::{ApplyError, shown},
    journal::{self, Earlier, Journal},
    links::{Key, Links},
    plan::{Item, Plan},
    request::{ApplyInput, ApplyOptions, OnConflict, Written},
    top::Top,
};
use crate::{
    changeset::Change,
    overlay_xattr::METACOPY,
    sys::{
        clone::FileCopier,
        durable,
        tree::{Dir, Rename, replace_attributes},
        tree_reader::{Entry, EntryType},
    },
    workspaces::{
        attributes::{FileAttributes, lookup, node},
        paths::split,
    },
};

/// Writes everything and returns what was written, also by an interrupted apply before this one.
pub(super) fn write(
    plan: &Plan<'_>,
    root: &Dir,
    after: &Entry,
    earlier: &Earlier,
    input: ApplyInput<'_>,
    options: ApplyOptions,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Written>, ApplyError> {
    let parents = plan.items.iter().filter_map(|item| split(item.path()));
    let dirs: BTreeSet<Vec<u8>> = parents.map(|(parent, _)| parent.to_vec()).collect();
    let new: Vec<_> =
        plan.items.iter().filter(|item| item.is_new).map(|item| item.path()).collect();
    let make = || Journal::start(root, earlier, &dirs, &new);
    let (journal, top) = Top::around(root, plan, make).map_err(ApplyError::reading(b""))?;
    let journal = journal?;
    let own: HashSet<_> = input.own.iter().map(|it| (it.inode, it.ctime)).collect();
    let check = Check::new(root, input, &own, earlier, options.git, &[]);
    let links = Links::of(root, after, earlier, plan).map_err(ApplyError::reading(b""))?;
    let (copier, sharer) = (FileCopier::default(), FileCopier::default());
    let mut writer = Writer {
        root,
        after,
        check,
        options,
        owner: plan.owner,
        journal,
        links,
        top,
        copier,
        sharer,
        stop,
        dirs: BTreeMap::new(),
        new_dirs: Vec::new(),
        written: Vec::new(),
    };
    let done = writer.all(plan, &dirs);
    if done.is_err() {
        // The next apply does it, too. Here it frees the space of a copy that the disk had no space for.
        let _ = Earlier { dirs, ..Earlier::default() }.clean(root);
    }
    done?;
    Ok(earlier.all_written().chain(writer.written).collect())
}

struct Writer<'a> {
    root: &'a Dir,
    after: &'a Entry,
    check: Check<'a>,
    options: ApplyOptions,
    owner: (u32, u32),
    journal: Journal,
    links: Links,
    /// `None` if entries of the directory itself change.
    top: Option<Top>,
    copier: FileCopier,
    /// For files of a layer, with which the directory may share bytes.
    sharer: FileCopier,
    stop: &'a dyn Fn() -> bool,
    /// The directories in which something is written, as they were before.
    dirs: BTreeMap<Vec<u8>, Found>,
    new_dirs: Vec<(Vec<u8>, FileAttributes)>,
    written: Vec<Written>,
}

impl Writer<'_> {
    fn all(&mut self, plan: &Plan<'_>, dirs: &BTreeSet<Vec<u8>>) -> Result<(), ApplyError> {
        // The journal changes the top, too.
        for path in dirs.iter().chain(&[Vec::new()]) {
            // A missing one is made later.
            if let Some(found) = self.found(path).map_err(ApplyError::reading(path))? {
                self.dirs.insert(path.clone(), found);
            }
        }
        for item in plan.items.iter().filter(|item| item.is_attributes()) {
            self.step()?;
            self.attributes(item)?;
        }
        for item in plan.items.iter().filter(|item| !item.is_attributes()) {
            self.step()?;
            self.item(item)?;
        }
        self.finish()
    }

    fn step(&self) -> Result<(), ApplyError> {
        if (self.stop)() { Err(ApplyError::Stopped) } else { Ok(()) }
    }

    /// The directory at a path, if it is one.
    fn found(&self, path: &[u8]) -> io::Result<Option<Found>> {
        let entry = lookup(&self.root.as_entry()?, path)?;
        let found = entry.as_ref().map(Found::of).transpose()?;
        Ok(found.filter(|found| found.is_dir))
    }

    /// Sets the attributes of a directory that exists.
    fn attributes(&mut self, item: &Item<'_>) -> Result<(), ApplyError> {
        let path = item.path();
        let dir = self.open(path, path)?;
        let entry = dir.as_entry().map_err(ApplyError::reading(path))?;
        let now = Found::of(&entry).map_err(ApplyError::reading(path))?;
        if item.found.is_none_or(|found| !found.is_still(&now)) {
            return Err(ApplyError::Meanwhile(shown(path)));
        }
        let mut attributes = self.wanted(item)?.1;
        attributes.mtime = (now.mtime.0, now.mtime.1 as u32);
        dir.replace_attributes(&attributes.borrow()).map_err(ApplyError::writing(path))?;
        let now = Found::of(&dir.as_entry().map_err(ApplyError::reading(path))?);
        self.dirs.insert(path.to_vec(), now.map_err(ApplyError::reading(path))?);
        Ok(())
    }

    /// What the workspace has for an item, and the attributes that the directory's file gets.
    fn wanted(&self, item: &Item<'_>) -> Result<(Entry, FileAttributes), ApplyError> {
        let path = item.path();
        let entry = lookup(self.after, path).map_err(ApplyError::reading(path))?;
        let entry = entry.ok_or_else(|| ApplyError::Meanwhile(shown(path)))?;
        let mut attributes = FileAttributes::of(&entry).map_err(ApplyError::reading(path))?;
        if item.is_new {
            attributes.owner = self.owner;
        }
        Ok((entry, attributes))
    }

    /// Opens a directory for the item at `path`.
    fn open(&self, dir: &[u8], path: &[u8]) -> Result<Dir, ApplyError> {
        self.root.below(dir).map_err(|source| match journal::is_gone(&source) {
            true => ApplyError::Meanwhile(shown(path)),
            false => ApplyError::writing(path)(source),
        })
    }

    fn item(&mut self, item: &Item<'_>) -> Result<(), ApplyError> {
        let path = item.path();
        let Some((above, name)) = split(path) else { return Ok(()) };
        let dir = self.open(above, path)?;
        let target = dir.as_entry().and_then(|dir| dir.entry(name));
        let target = target.map_err(ApplyError::reading(path))?;
        let now = target.as_ref().map(Found::of).transpose().map_err(ApplyError::reading(path))?;
        let is_still = match (&item.found, &now) {
            (None, None) => true,
            (Some(found), Some(now)) => found.is_still(now),
            _ => false,
        };
        if !is_still || (now.is_some_and(|now| now.is_dir) && !self.is_free(path)?) {
            return Err(ApplyError::Meanwhile(shown(path)));
        }
        if let Some(found) = now.filter(|_| item.has_links()) {
            self.journal.touches(found.inode)?;
        }
        match item.change.change {
            Change::Removed => self.remove(&dir, name, item)?,
            Change::Added | Change::Changed => self.put(&dir, name, item)?,
        }
        // The ctime of the former file has changed, and it may have other names.
        if let Some(target) = target.filter(|_| item.has_links()) {
            self.wrote(path, &target)?;
        }
        Ok(())
    }

    /// Whether a directory to remove has nothing new in it.
    fn is_free(&self, path: &[u8]) -> Result<bool, ApplyError> {
        let mut conflicts = Vec::new();
        self.check.content(path, &mut conflicts)?;
        conflicts.retain(|conflict| {
            !conflict.reason.is_choice() || self.options.on_conflict != OnConflict::Ours
        });
        Ok(conflicts.is_empty())
    }

    fn remove(&mut self, dir: &Dir, name: &[u8], item: &Item<'_>) -> Result<(), ApplyError> {
        let writing = || ApplyError::writing(item.path());
        if item.found.is_none_or(|found| !found.is_dir) {
            return dir.remove_file(name).map_err(writing());
        }
        let temporary = journal::temporary();
        dir.rename(name, &temporary, Rename::New).map_err(writing())?;
        self.step()?;
        dir.remove_tree(&temporary).map_err(writing())
    }

    /// Writes the new state of a path.
    fn put(&mut self, dir: &Dir, name: &[u8], item: &Item<'_>) -> Result<(), ApplyError> {
        let path = item.path();
        let (entry, attributes) = self.wanted(item)?;
        let is_dir = entry.entry_type() == EntryType::Dir;
        let is_file = entry.entry_type() == EntryType::File;
        let was_file = item.found.is_some_and(|found| found.is_file);
        let key = Key::of(&entry, attributes.owner).map_err(ApplyError::reading(path))?;
        if self.options.in_place && is_file && was_file && item.has_links() {
            self.write_through(dir, name, item, &entry, &attributes)?;
            if let Some((key, found)) = key.zip(item.found) {
                self.links.add(key, path, found.inode);
            }
            return Ok(());
        }
        let temporary = journal::temporary();
        if !self.link(dir, &temporary, path, key)? {
            self.make(dir, &temporary, path, &entry, &attributes)?;
        }
        if key.is_some() {
            // After a kill, other names of the file are made of this one.
            let made = dir.as_entry().and_then(|dir| dir.entry(&temporary));
            if let Some(made) = made.map_err(ApplyError::reading(path))? {
                let made = Written::of(path, &made).map_err(ApplyError::reading(path))?;
                self.journal.wrote(&made)?;
            }
        }
        self.step()?;
        let how = match item.found {
            None => Rename::New,
            Some(found) if found.is_dir || is_dir => Rename::Exchange,
            Some(_) => Rename::Replace,
        };
        dir.rename(&temporary, name, how).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ApplyError::Meanwhile(shown(path)),
            _ => ApplyError::writing(path)(source),
        })?;
        self.step()?;
        if how == Rename::Exchange {
            dir.remove_tree(&temporary).map_err(ApplyError::writing(path))?;
        }
        if is_dir {
            self.new_dirs.push((path.to_vec(), attributes));
            return Ok(());
        }
        let written = dir.as_entry().and_then(|dir| dir.entry(name));
        let Some(written) = written.map_err(ApplyError::reading(path))? else { return Ok(()) };
        let inode = self.wrote(path, &written)?;
        if let Some(key) = key {
            self.links.add(key, path, inode);
        }
        Ok(())
    }

    /// Makes a name of a file that was carried under another name. Returns false if there is none.
    fn link(
        &mut self,
        dir: &Dir,
        temporary: &[u8],
        path: &[u8],
        key: Option<Key>,
    ) -> Result<bool, ApplyError> {
        let Some(key) = key else { return Ok(false) };
        let Some(inode) = self.links.inode(&key) else { return Ok(false) };
        // The new name changes its ctime.
        self.journal.touches(inode)?;
        self.links.link(self.root, dir, temporary, &key).map_err(ApplyError::writing(path))
    }

    /// Makes the new state under a temporary name.
    fn make(
        &mut self,
        dir: &Dir,
        temporary: &[u8],
        path: &[u8],
        entry: &Entry,
        attributes: &FileAttributes,
    ) -> Result<(), ApplyError> {
        let wanted = attributes.borrow();
        let writing = || ApplyError::writing(path);
        match entry.entry_type() {
            EntryType::Dir => {
                let made = dir.dir(temporary).map_err(writing())?;
                made.replace_attributes(&wanted).map_err(writing())
            }
            EntryType::Symlink => {
                let target = entry.target().map_err(ApplyError::reading(path))?;
                dir.symlink(temporary, &target, &wanted).map_err(writing())
            }
            kind => match node(kind) {
                Some(node) => dir.node(temporary, node, &wanted).map_err(writing()),
                None => {
                    let file = dir.file(temporary).map_err(writing())?;
                    self.fill(&file, path, entry)?;
                    replace_attributes(&file, &wanted).map_err(writing())
                }
            },
        }
    }

    /// Copies the content into an empty file: from the upper, with which the directory can share bytes, or from the
    /// merged tree, with which it cannot.
    fn fill(&mut self, file: &File, path: &[u8], entry: &Entry) -> Result<(), ApplyError> {
        let reading = || ApplyError::reading(path);
        let upper = self.check.layers.last().map(|layer| lookup(layer, path)).transpose();
        let upper = upper.map_err(reading())?.flatten();
        let upper = upper.filter(|upper| upper.entry_type() == EntryType::File);
        let (from, copier) = match upper {
            Some(upper) if upper.xattr(METACOPY).map_err(reading())?.is_none() => {
                (upper.open().map_err(reading())?, &mut self.sharer)
            }
            _ => (entry.open().map_err(reading())?, &mut self.copier),
        };
        let stop = self.stop;
        match copier.copy(&from, file, &|| !stop()).map_err(ApplyError::writing(path))? {
            true => Ok(()),
            false => Err(ApplyError::Stopped),
        }
    }

    /// Writes into a file that has several names.
    fn write_through(
        &mut self,
        dir: &Dir,
        name: &[u8],
        item: &Item<'_>,
        entry: &Entry,
        attributes: &FileAttributes,
    ) -> Result<(), ApplyError> {
        let path = item.path();
        let writing = || ApplyError::writing(path);
        let file = dir.open_file(name).map_err(writing())?;
        let metadata = file.metadata().map_err(writing())?;
        let is_target = item.found.is_some_and(|found| found.inode == metadata.ino());
        if !metadata.is_file() || !is_target {
            return Err(ApplyError::Meanwhile(shown(path)));
        }
        file.set_len(0).map_err(writing())?;
        self.step()?;
        self.fill(&file, path, entry)?;
        self.step()?;
        replace_attributes(&file, &attributes.borrow()).map_err(writing())
    }

    /// Records a file as it is now. Returns its inode.
    fn wrote(&mut self, path: &[u8], entry: &Entry) -> Result<u64, ApplyError> {
        let written = Written::of(path, entry).map_err(ApplyError::reading(path))?;
        let inode = written.inode;
        self.journal.wrote(&written)?;
        self.written.push(written);
        Ok(inode)
    }

    /// Sets the times of new directories, writes everything to the disk, and records the directories.
    fn finish(&mut self) -> Result<(), ApplyError> {
        for (path, attributes) in self.new_dirs.iter().rev() {
            self.step()?;
            let dir = self.open(path, path)?;
            dir.set_attributes(&attributes.borrow()).map_err(ApplyError::writing(path))?;
        }
        self.step()?;
        let synced = self.root.as_file().and_then(|root| durable::sync_filesystem(&root));
        synced.map_err(ApplyError::writing(b""))?;
        self.step()?;
        let remove = || self.root.remove_file(journal::NAME);
        Top::after(self.top.take(), self.root, remove)
            .map_err(ApplyError::writing(journal::NAME))?;
        let new: Vec<_> = self.new_dirs.iter().map(|(path, _)| path.clone()).collect();
        for path in self.dirs.keys().chain(&new) {
            let now = self.found(path).map_err(ApplyError::reading(path))?;
            let before = self.dirs.get(path);
            let is_same = |now: &Found| before.is_none_or(|before| before.is_still(now));
            // A directory that another process changed meanwhile conflicts later.
            if let Some(Found { inode, ctime, .. }) = now.filter(is_same) {
                self.written.push(Written { path: path.clone(), inode, ctime });
            }
        }
        Ok(())
    }
}
