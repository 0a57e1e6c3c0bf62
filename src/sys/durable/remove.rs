//! Removes a tree without ever leaving it.
//!
//! A recursive delete once followed a mount that was left behind and ate the data of users, so each
//! directory is opened from its parent's descriptor with `RESOLVE_NO_XDEV`: the kernel itself refuses
//! to step onto any other mount, a bind mount of the same file system too, which comparing mount
//! ids could only notice afterwards. Deliberately absent: recursion; how deep a tree goes was up to
//! whoever wrote it, so names are kept and one directory is open at a time. A directory that is open keeps
//! all above it in the kernel's memory, a KiB each, and that memory is charged to this process: what
//! lies deeper than [`DEPTH`] is first renamed up to the tree's top.

use std::ffi::{CStr, CString};
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

/// How deep the walk goes.
const DEPTH: usize = 256;

/// Removes `path` and everything beneath it. Nothing there is fine; a symlink is removed, never
/// followed; anything that is no directory is removed like a file.
///
/// Errors: `CrossesDevices`, naming the place, if a mount lies at or beneath `path`. What the mount
/// shows is untouched; what was removed before it was met stays removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match remove_tree_soon(path).and_then(|()| sync_dir(parent(path)?)) {
        // Nothing lies in what is not there.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// As [`remove_tree`], and waits for no disk: after a crash any of it may be there.
pub fn remove_tree_soon(path: &Path) -> io::Result<()> {
    let dir = parent(path)?;
    let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    let Some(name) = name else {
        let why = format!("cannot remove {}: its last part is no name", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    };
    let here = match open_dir(dir) {
        Ok(dir) => dir.into(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    Walk { here, top: None, start: dir, steps: Vec::new(), lifted: 0 }.remove(name)
}

/// The way from the directory that holds the tree down to the directory being emptied.
struct Walk<'a> {
    here: OwnedFd,
    /// The tree's top, once it was entered.
    top: Option<OwnedFd>,
    start: &'a Path,
    steps: Vec<Step>,
    /// How many names were tried at the top.
    lifted: u64,
}

/// One step down: the name that was entered, and which directory it was entered from.
struct Step {
    name: CString,
    above: (u64, u64),
}

impl Walk<'_> {
    fn remove(mut self, name: CString) -> io::Result<()> {
        if self.remove_unless_dir(&name)? {
            return Ok(());
        }
        self.enter(name)?;
        while !self.steps.is_empty() {
            match self.empty_until_dir()? {
                Some(child) => self.enter(child)?,
                None => self.leave()?,
            }
        }
        Ok(())
    }

    /// Removes entries of the directory we are in; stops at the first directory among them that is to be entered.
    fn empty_until_dir(&mut self) -> io::Result<Option<CString>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
        let mut lifted = self.lifted;
        let mut entries = RawDir::new(&self.here, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| self.failure("read", None, e))?;
            let name = entry.file_name();
            if name == c"." || name == c".." || self.remove_unless_dir(name)? {
                continue;
            }
            match &self.top {
                Some(top) if self.steps.len() >= DEPTH => self.lift(top, name, &mut lifted)?,
                _ => return Ok(Some(name.to_owned())),
            }
        }
        self.lifted = lifted;
        Ok(None)
    }

    /// Renames a directory of the one we are in to a new name in the tree's top, where it will be found.
    fn lift(&self, top: &OwnedFd, name: &CStr, lifted: &mut u64) -> io::Result<()> {
        loop {
            let new = format!(".ovl-deep.{lifted}");
            match renameat_with(&self.here, name, top, &new, RenameFlags::NOREPLACE) {
                Err(Errno::NOENT) => return Ok(()),
                // Whoever wrote the tree may have such names in it: the next.
                Err(Errno::EXIST) => *lifted += 1,
                // Not a mount, which is BUSY: the top wants its own project for all that comes to it.
                Err(Errno::XDEV) if quota::stop_inheriting(top).is_ok_and(|was| was) => {}
                Err(Errno::BUSY) => return Err(self.failure("move", Some(name), Errno::XDEV)),
                done => return done.map_err(|e| self.failure("move", Some(name), e)),
            }
        }
    }

    /// A directory is never tried before it is empty: each refusal would cost the kernel a walk over
    /// all it has cached beneath.
    fn remove_unless_dir(&self, name: &CStr) -> io::Result<bool> {
        match self.unlink(name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            Err(e) => Err(self.failure("remove", Some(name), e)),
        }
    }

    fn unlink(&self, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
        match unlinkat(&self.here, name, flags) {
            // What the kernel says of a place that something is mounted on.
            Err(Errno::BUSY) => Err(Errno::XDEV),
            other => other,
        }
    }

    fn enter(&mut self, name: CString) -> io::Result<()> {
        let above = self.identity()?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        self.here = openat2(&self.here, &name, READ, Mode::empty(), resolve)
            .map_err(|e| self.failure("enter", Some(&name), e))?;
        if self.top.is_none() {
            self.top = Some(self.here.try_clone()?);
        }
        self.steps.push(Step { name, above });
        Ok(())
    }

    /// Goes back up and removes the directory that we came from.
    fn leave(&mut self) -> io::Result<()> {
        let Some(Step { name, above }) = self.steps.pop() else { return Ok(()) };
        self.here = openat2(&self.here, "..", READ, Mode::empty(), ResolveFlags::NO_XDEV)
            .map_err(|e| self.failure("return to", None, e))?;
        if self.identity()? != above {
            // Somebody moved the directory while we were in it: what lies above now is not ours.
            return Err(self.failure("return to", None, Errno::STALE));
        }
        self.unlink(&name, AtFlags::REMOVEDIR).map_err(|e| self.failure("remove", Some(&name), e))
    }

    /// Tells the directory we are in from any other that exists.
    fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(&self.here).map_err(|e| self.failure("stat", None, e))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn failure(&self, what: &str, name: Option<&CStr>, e: Errno) -> io::Error {
        let steps = self.steps.iter().map(|step| step.name.as_c_str()).chain(name);
        let mut place = PathBuf::from(self.start);
        place.extend(steps.map(|name| std::ffi::OsStr::from_bytes(name.to_bytes())));
        let place = place.display();
        let e = io::Error::from(e);
        let why = match e.kind() {
            io::ErrorKind::CrossesDevices => "a mount is there, and what it shows is not removed",
            _ => &e.to_string(),
        };
        io::Error::new(e.kind(), format!("cannot {what} {place}: {why}"))
    }
}
