//! Removes a directory tree and never leaves it.
//!
//! A recursive delete once followed a mount that an earlier run had left, and deleted the data of
//! users. Therefore each directory is opened from the descriptor of its parent with
//! `RESOLVE_NO_XDEV`: the kernel refuses to step onto any other mount. This includes a bind mount
//! of the same file system. A comparison of mount ids would notice that only afterwards.
//!
//! Deliberately absent: recursion. The writer of a tree decides how deep it is, so names are kept
//! and only one directory is open at a time. An open directory keeps all directories above it in
//! the kernel's memory, one KiB each, and that memory is charged to this process. Directories
//! deeper than [`DEPTH`] are first renamed up to the top of the tree.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, RawDir, RenameFlags, ResolveFlags, fstat, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::super::openat2::{READ, parent};
use super::super::quota;
use super::{open_dir, sync_dir};

/// The deepest level that the walk enters.
const DEPTH: usize = 256;

/// Removes `path` and everything below it. Succeeds if it does not exist. A symlink is removed,
/// never followed. Anything that is not a directory is removed like a file.
///
/// # Errors
/// `CrossesDevices`, with the path, if there is a mount at or below `path`. The content of the
/// mount is not changed. Entries that were removed before stay removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match remove_tree_unsynced(path).and_then(|()| sync_dir(parent(path)?)) {
        // The parent does not exist, so the tree does not either.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Like [`remove_tree`], but does not wait for the disk. After a crash any part of it may exist.
pub fn remove_tree_unsynced(path: &Path) -> io::Result<()> {
    let dir = parent(path)?;
    let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    let Some(name) = name else {
        let why = format!("cannot remove {}: the path does not end with a name", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    };
    let dir_fd = match open_dir(dir) {
        Ok(dir) => dir.into(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    Walk { dir_fd, top: None, start: dir, levels: Vec::new(), next_number: 0 }.remove(name)
}

/// Like [`remove_tree_unsynced`], for a name in an open directory.
pub(in crate::sys) fn remove_tree_in(dir_fd: OwnedFd, name: &OsStr) -> io::Result<()> {
    let name = CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let start = Path::new("");
    Walk { dir_fd, top: None, start, levels: Vec::new(), next_number: 0 }.remove(name)
}

/// The position in the tree: the directories from the parent of the tree down to the one that is
/// being emptied.
struct Walk<'a> {
    dir_fd: OwnedFd,
    /// The root of the tree, after it was entered.
    top: Option<OwnedFd>,
    start: &'a Path,
    levels: Vec<Level>,
    /// Number of the next name for a directory that is moved to the root.
    next_number: u64,
}

/// One level: the name that was entered, and the device and inode of the directory above it.
struct Level {
    name: CString,
    above: (u64, u64),
}

impl Walk<'_> {
    fn remove(mut self, name: CString) -> io::Result<()> {
        if self.remove_unless_dir(&name)? {
            return Ok(());
        }
        self.enter(name)?;
        while !self.levels.is_empty() {
            match self.empty_until_dir()? {
                Some(child) => self.enter(child)?,
                None => self.leave()?,
            }
        }
        Ok(())
    }

    /// Removes entries of the current directory, up to the first directory that must be entered.
    fn empty_until_dir(&mut self) -> io::Result<Option<CString>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
        let mut next_number = self.next_number;
        let mut entries = RawDir::new(&self.dir_fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| self.failure("read", None, e))?;
            let name = entry.file_name();
            if name == c"." || name == c".." || self.remove_unless_dir(name)? {
                continue;
            }
            match &self.top {
                Some(top) if self.levels.len() >= DEPTH => {
                    self.move_to_top(top, name, &mut next_number)?
                }
                _ => return Ok(Some(name.to_owned())),
            }
        }
        self.next_number = next_number;
        Ok(None)
    }

    /// Moves a directory of the current directory to a new name in the root of the tree, where the
    /// walk finds it later.
    fn move_to_top(&self, top: &OwnedFd, name: &CStr, next_number: &mut u64) -> io::Result<()> {
        loop {
            let new = format!(".ovl-deep.{next_number}");
            match renameat_with(&self.dir_fd, name, top, &new, RenameFlags::NOREPLACE) {
                Err(Errno::NOENT) => return Ok(()),
                // The tree may contain such a name: try the next.
                Err(Errno::EXIST) => *next_number += 1,
                // Not a mount, which would be EBUSY. A directory with an inherited quota project
                // accepts only entries of that project: turn that off and try again.
                Err(Errno::XDEV) if quota::stop_inheriting(top).is_ok_and(|was| was) => {}
                Err(Errno::BUSY) => return Err(self.failure("move", Some(name), Errno::XDEV)),
                done => return done.map_err(|e| self.failure("move", Some(name), e)),
            }
        }
    }

    /// Removes an entry unless it is a directory. Returns whether it was removed. `rmdir` is called
    /// only on empty directories: for each refusal the kernel would walk everything that it has
    /// cached below.
    fn remove_unless_dir(&self, name: &CStr) -> io::Result<bool> {
        match self.unlink(name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            Err(e) => Err(self.failure("remove", Some(name), e)),
        }
    }

    fn unlink(&self, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
        match unlinkat(&self.dir_fd, name, flags) {
            // The kernel's error for a path that is a mount point.
            Err(Errno::BUSY) => Err(Errno::XDEV),
            other => other,
        }
    }

    fn enter(&mut self, name: CString) -> io::Result<()> {
        let above = self.identity()?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        self.dir_fd = openat2(&self.dir_fd, &name, READ, Mode::empty(), resolve)
            .map_err(|e| self.failure("enter", Some(&name), e))?;
        if self.top.is_none() {
            self.top = Some(self.dir_fd.try_clone()?);
        }
        self.levels.push(Level { name, above });
        Ok(())
    }

    /// Returns to the directory above and removes the one that was left.
    fn leave(&mut self) -> io::Result<()> {
        let Some(Level { name, above }) = self.levels.pop() else { return Ok(()) };
        self.dir_fd = openat2(&self.dir_fd, "..", READ, Mode::empty(), ResolveFlags::NO_XDEV)
            .map_err(|e| self.failure("return to", None, e))?;
        if self.identity()? != above {
            // Another process moved the directory meanwhile. The directory above is not part of the
            // tree.
            return Err(self.failure("return to", None, Errno::STALE));
        }
        self.unlink(&name, AtFlags::REMOVEDIR).map_err(|e| self.failure("remove", Some(&name), e))
    }

    /// The device and inode of the current directory.
    fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(&self.dir_fd).map_err(|e| self.failure("stat", None, e))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn failure(&self, what: &str, name: Option<&CStr>, e: Errno) -> io::Error {
        let levels = self.levels.iter().map(|level| level.name.as_c_str()).chain(name);
        let mut path = PathBuf::from(self.start);
        path.extend(levels.map(|name| std::ffi::OsStr::from_bytes(name.to_bytes())));
        let path = path.display();
        let e = io::Error::from(e);
        let why = match e.kind() {
            io::ErrorKind::CrossesDevices => {
                "something is mounted there, and the content of a mount is not removed; unmount it"
            }
            _ => &e.to_string(),
        };
        io::Error::new(e.kind(), format!("cannot {what} {path}: {why}"))
    }
}
