//! Writes the merged tree of a workspace as a plain directory.
//!
//! All types, owners, modes, extended attributes and times are kept, holes stay holes, and the names of one file stay
//! names of one file. A file that the topmost layer has shares its bytes with it where the disk can. Overlay's own
//! attributes and the labels of the host are left out.
//!
//! Deliberately absent: what is mounted in the tree, and a clean-up after an error: the directory is the caller's, and
//! what was written shows how far it came.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{
    attributes::{FileAttributes, FileId, lookup, node},
    paths::{join, split},
};
use crate::{
    error::{Class, Explained},
    format,
    overlay_xattr::METACOPY,
    sys::{
        clone::FileCopier,
        durable,
        mounts::Detached,
        tree::{Dir, replace_attributes},
        tree_reader::{Entry, EntryType},
    },
};

/// Why a workspace was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The directory is not there, or cannot be opened.
    Open {
        /// The directory.
        dir: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The directory has content.
    NotEmpty(PathBuf),
    /// Something cannot be read.
    Read {
        /// The path in the workspace.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Something cannot be written.
    Write {
        /// The path in the workspace.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The caller stopped it.
    Stopped,
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

impl ExportError {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        match self {
            Self::Open { dir, source } => {
                Explained::new(format!("cannot export to {}", dir.display()))
                    .why(source.to_string())
                    .fix(
                        "the directory must exist or its parent must, and no part of its path may be a symbolic link",
                    )
            }
            Self::NotEmpty(dir) => Explained::new(format!("cannot export to {}", dir.display()))
                .why("it is not empty")
                .fix("name a new or an empty directory"),
            Self::Read { path, source } => {
                Explained::because(format!("cannot read {path}: {source}"))
            }
            Self::Write { path, source } => {
                Explained::because(format!("cannot write {path}: {source}"))
                    .fix("remove the reason and the directory, and export again")
            }
            Self::Stopped => {
                Explained::because("it was stopped; the directory is not complete")
            }
        }
    }

    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Class::NotFound
            }
            Self::Open { source, .. } | Self::Read { source, .. } | Self::Write { source, .. } => {
                Class::of_disk(source)
            }
            Self::NotEmpty(_) => Class::Precondition,
            Self::Stopped => Class::Unavailable,
        }
    }

    fn reading(path: &[u8]) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read { path: format::path(path), source }
    }

    fn writing(path: &[u8]) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Write { path: format::path(path), source }
    }
}

/// Writes a merged tree into the directory `to`, an absolute path without symbolic links: a new directory, or an empty
/// one. `top` is the root of the topmost layer. Ends soon after `stop` returns true. Everything is on the disk when it
/// returns.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    tree: &Detached,
    top: Option<&Entry>,
    to: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<(), ExportError> {
    let opening = |source| ExportError::Open { dir: to.to_owned(), source };
    durable::create_dir_unsynced(to, 0o700).map_err(opening)?;
    let root = Dir::open(to).map_err(opening)?;
    let mut is_empty = true;
    let listed = root.as_entry().and_then(|root| {
        root.names(|_| {
            is_empty = false;
            Ok(())
        })
    });
    listed.map_err(opening)?;
    if !is_empty {
        return Err(ExportError::NotEmpty(to.to_owned()));
    }
    let entry = Entry::root(tree).map_err(ExportError::reading(b"/"))?;
    let (copier, sharer) = (FileCopier::default(), FileCopier::default());
    let mut writer = Writer { root: &root, top, stop, copier, sharer, linked: HashMap::new() };
    writer.tree(&entry)?;
    let synced = root.as_file().and_then(|root| durable::sync_filesystem(&root));
    synced.map_err(ExportError::writing(b"/"))
}

struct Writer<'a> {
    root: &'a Dir,
    top: Option<&'a Entry>,
    stop: &'a dyn Fn() -> bool,
    copier: FileCopier,
    /// For files of the topmost layer, with which the directory may share bytes.
    sharer: FileCopier,
    /// The first path of each file with several names.
    linked: HashMap<FileId, Vec<u8>>,
}

impl Writer<'_> {
    /// Writes the directories from the root down. Their attributes come last, because each new entry changes the mtime
    /// of its directory.
    fn tree(&mut self, root: &Entry) -> Result<(), ExportError> {
        let (mut waiting, mut made) = (vec![Vec::new()], Vec::new());
        while let Some(path) = waiting.pop() {
            let reading = || ExportError::reading(&path);
            let found = lookup(root, &path).map_err(reading())?;
            // Removed meanwhile.
            let Some(entry) = found else { continue };
            let dir = self.root.below(&path).map_err(ExportError::writing(&path))?;
            let mut names = Vec::new();
            let listed = entry.names(|name| {
                names.push(name.to_vec());
                Ok(())
            });
            listed.map_err(reading())?;
            for name in names {
                if (self.stop)() {
                    return Err(ExportError::Stopped);
                }
                let inside = join(&path, &name);
                // An overlay may list a name that does not exist.
                let Some(child) = entry.entry(&name).map_err(ExportError::reading(&inside))? else {
                    continue;
                };
                if child.entry_type() == EntryType::Dir {
                    dir.dir(&name).map_err(ExportError::writing(&inside))?;
                    waiting.push(inside);
                } else {
                    self.entry(&dir, &name, &inside, &child)?;
                }
            }
            made.push((path.clone(), FileAttributes::of(&entry).map_err(reading())?));
        }
        for (path, attributes) in made.iter().rev() {
            let dir = self.root.below(path).map_err(ExportError::writing(path))?;
            dir.replace_attributes(&attributes.borrow()).map_err(ExportError::writing(path))?;
        }
        Ok(())
    }

    /// Writes an entry that is not a directory.
    fn entry(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), ExportError> {
        let (reading, writing) = (|| ExportError::reading(path), || ExportError::writing(path));
        let metadata = entry.metadata().map_err(reading())?;
        if let Some(file) = FileId::of_several_names(&metadata) {
            if let Some(first) = self.linked.get(&file) {
                let (above, first) = split(first).unwrap_or_default();
                let above = self.root.below(above).map_err(writing())?;
                return dir.link(name, &above, first).map_err(writing());
            }
            self.linked.insert(file, path.to_vec());
        }
        let attributes = FileAttributes::of(entry).map_err(reading())?;
        match entry.entry_type() {
            EntryType::Symlink => {
                let target = entry.target().map_err(reading())?;
                dir.symlink(name, &target, &attributes.borrow()).map_err(writing())
            }
            kind => match node(kind) {
                Some(node) => dir.node(name, node, &attributes.borrow()).map_err(writing()),
                None => {
                    let file = dir.file(name).map_err(writing())?;
                    self.fill(&file, path, entry)?;
                    replace_attributes(&file, &attributes.borrow()).map_err(writing())
                }
            },
        }
    }

    fn fill(&mut self, file: &File, path: &[u8], entry: &Entry) -> Result<(), ExportError> {
        let reading = || ExportError::reading(path);
        let top = self.top.map(|top| lookup(top, path)).transpose().map_err(reading())?.flatten();
        let top = top.filter(|top| top.entry_type() == EntryType::File);
        let (from, copier) = match top {
            Some(top) if top.xattr(METACOPY).map_err(reading())?.is_none() => {
                (top.open().map_err(reading())?, &mut self.sharer)
            }
            _ => (entry.open().map_err(reading())?, &mut self.copier),
        };
        let stop = self.stop;
        match copier.copy(&from, file, &|| !stop()).map_err(ExportError::writing(path))? {
            true => Ok(()),
            false => Err(ExportError::Stopped),
        }
    }
}
