//! Counts the disk usage of a directory tree in steps, a limited number of entries at a time.
//!
//! Every step goes from an open directory to one of its entries. So a process that changes the tree meanwhile cannot
//! lead the walk out of the tree or onto another mount.
//!
//! A file with several names counts in part for each of them, both bytes and inode. Overlay's whiteouts are many names
//! of few inodes. So the walk needs no memory of the inodes that it has visited.
//!
//! Deliberately absent: when to continue, and that memory.

use std::{io, path::Path};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, ResolveFlags, openat2, statat},
    io::Errno,
};

use super::{
    openat2::{self, READ},
    quota::ProjectUsage,
};

/// The number of directories open at a time. Entries of deeper directories are not counted.
const MAX_DEPTH: usize = 256;

/// A walk through a tree that has not ended.
#[derive(Debug)]
pub struct Walk {
    /// The path of open directories from the root to the current one.
    open: Vec<Dir>,
    bytes: u64,
    /// In fractions of [`ONE_INODE`].
    inodes: u64,
    /// Seconds since 1970. `i64::MIN` to count everything.
    since: i64,
}

/// One inode. A single name may count as a 65,000th of it.
const ONE_INODE: u64 = 1 << 32;

impl Walk {
    /// Starts with the entries of `dir`, an absolute path without symlinks.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let root = Dir::new(openat2::dir(dir, READ)?)?;
        Ok(Self { open: vec![root], bytes: 0, inodes: 0, since: i64::MIN })
    }

    /// Counts no directories, and only those other files whose ctime is `since` or later, in seconds since 1970.
    #[must_use]
    pub fn changed_since(self, since: i64) -> Self {
        Self { since, ..self }
    }

    /// Counts up to `entries` more entries. Returns the usage of the tree once none are left, else `None`.
    ///
    /// Does not count files that are removed before the walk reaches them.
    pub fn step(&mut self, entries: usize) -> io::Result<Option<ProjectUsage>> {
        for _ in 0..entries {
            let Some(dir) = self.open.last_mut() else { return Ok(Some(self.usage())) };
            match dir.read() {
                None => drop(self.open.pop()),
                Some(entry) => {
                    let name = entry?.file_name().to_owned();
                    if name.as_bytes() != b"." && name.as_bytes() != b".." {
                        self.count(&name)?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// The usage counted so far, with inodes rounded to the nearest number.
    pub fn usage(&self) -> ProjectUsage {
        let inodes = self.inodes.saturating_add(ONE_INODE / 2) / ONE_INODE;
        ProjectUsage { bytes: self.bytes, inodes }
    }

    fn add(&mut self, bytes: u64, inodes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.inodes = self.inodes.saturating_add(inodes);
    }

    fn count(&mut self, name: &std::ffi::CStr) -> io::Result<()> {
        let Some(dir) = self.open.last() else { return Ok(()) };
        let stat = match statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let counts = self.since == i64::MIN || !is_dir && stat.st_ctime >= self.since;
        if !is_dir {
            if !counts {
                return Ok(());
            }
            #[allow(clippy::useless_conversion, reason = "the field has 32 bits on some machines")]
            let names = u64::from(stat.st_nlink).max(1);
            self.add(bytes / names, ONE_INODE / names);
            return Ok(());
        }
        if self.open.len() < MAX_DEPTH {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            match openat2(dir.fd()?, name, READ, Mode::empty(), beneath) {
                Ok(child) => self.open.push(Dir::new(child)?),
                // Removed, replaced, or a mount point: not counted.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if counts {
            self.add(bytes, ONE_INODE);
        }
        Ok(())
    }
}

/// The bytes on the disk of a directory tree. 0 if it does not exist.
///
/// # Errors
/// A directory cannot be read.
pub fn bytes_of(tree: &Path) -> io::Result<u64> {
    let mut walk = match Walk::new(tree) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        walk => walk?,
    };
    loop {
        if let Some(usage) = walk.step(10_000)? {
            return Ok(usage.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::sys::test_dir::TestDir;

    fn usage(dir: &Path, entries_per_step: usize) -> ProjectUsage {
        let mut walk = Walk::new(dir).unwrap();
        loop {
            if let Some(usage) = walk.step(entries_per_step).unwrap() {
                return usage;
            }
        }
    }

    #[test]
    fn the_usage_does_not_depend_on_the_size_of_the_steps() {
        let scratch = TestDir::new();
        scratch.dir("tree/a/b/c");
        let outside = scratch.dir("outside");
        fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        scratch.file("tree/a/file", vec![1; 64 << 10]);
        fs::hard_link(scratch.path().join("tree/a/file"), scratch.path().join("tree/a/b/again"))
            .unwrap();
        symlink(&outside, scratch.path().join("tree/link")).unwrap();
        let tree = scratch.path().join("tree");
        let found = usage(&tree, 1);
        assert_eq!(found, usage(&tree, 1_000));
        assert_eq!(found.inodes, 5, "the file with two names counts once");
        assert!((64 << 10..512 << 10).contains(&found.bytes), "{found:?}");
    }

    #[test]
    fn files_that_changed_before_the_given_time_are_not_counted() {
        let scratch = TestDir::new();
        scratch.dir("tree/a");
        let file = scratch.file("tree/a/file", "x");
        let changed = std::os::unix::fs::MetadataExt::ctime(&fs::metadata(file).unwrap());
        let inodes_since = |since| {
            let walk = Walk::new(&scratch.path().join("tree")).unwrap();
            walk.changed_since(since).step(100).unwrap().unwrap().inodes
        };
        assert_eq!((inodes_since(changed), inodes_since(changed + 1)), (1, 0));
    }

    #[test]
    fn directories_below_the_maximum_depth_are_not_counted() {
        let scratch = TestDir::new();
        scratch.dir(&format!("tree/{}", "d/".repeat(MAX_DEPTH + 20)));
        assert_eq!(usage(&scratch.path().join("tree"), 100).inodes, MAX_DEPTH as u64);
    }
}
