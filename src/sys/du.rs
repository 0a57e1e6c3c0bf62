//! Counts what a directory holds, some entries at a time.
//!
//! Every step goes from an open directory to one of its entries, so that whoever changes the tree meanwhile cannot lead the walk
//! out of it or onto another mount. Deliberately absent: when to go on, and a memory of what was seen: a file with several names
//! counts for each of them in part, bytes and inode (overlay's whiteouts are names of few inodes).

use std::{io, path::Path};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, ResolveFlags, openat2, statat},
    io::Errno,
};

use super::{
    openat2::{self, READ},
    quota::Usage,
};

/// Directories open at a time; what lies deeper is not counted.
const DEPTH: usize = 256;

/// A count that is under way.
#[derive(Debug)]
pub struct Walk {
    open: Vec<Dir>,
    bytes: u64,
    /// In parts of [`ONE`].
    inodes: u64,
    since: i64,
}

/// One inode; what a name counts for may be a 65,000th of it.
const ONE: u64 = 1 << 32;

impl Walk {
    /// Begins with the entries of `dir`, an absolute path without symlinks.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let root = Dir::new(openat2::dir(dir, READ)?)?;
        Ok(Self { open: vec![root], bytes: 0, inodes: 0, since: i64::MIN })
    }

    /// Counts no directories, and of the rest only what changed at this time or later, in seconds since 1970.
    #[must_use]
    pub fn changed_since(self, since: i64) -> Self {
        Self { since, ..self }
    }

    /// Looks at up to `entries` more; answers what the directory holds once nothing is left. What vanishes on the way is not counted.
    pub fn go_on(&mut self, entries: usize) -> io::Result<Option<Usage>> {
        for _ in 0..entries {
            let Some(dir) = self.open.last_mut() else { return Ok(Some(self.found())) };
            match dir.read() {
                None => drop(self.open.pop()),
                Some(entry) => {
                    let name = entry?.file_name().to_owned();
                    if name.as_bytes() != b"." && name.as_bytes() != b".." {
                        self.look_at(&name)?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// What was found until now.
    pub fn found(&self) -> Usage {
        Usage { bytes: self.bytes, inodes: self.inodes.saturating_add(ONE / 2) / ONE }
    }

    fn add(&mut self, bytes: u64, inodes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.inodes = self.inodes.saturating_add(inodes);
    }

    fn look_at(&mut self, name: &std::ffi::CStr) -> io::Result<()> {
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
            #[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
            let names = u64::from(stat.st_nlink).max(1);
            self.add(bytes / names, ONE / names);
            return Ok(());
        }
        if self.open.len() < DEPTH {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            match openat2(dir.fd()?, name, READ, Mode::empty(), beneath) {
                Ok(child) => self.open.push(Dir::new(child)?),
                // Gone, replaced, or somebody mounted there: not ours to count.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if counts {
            self.add(bytes, ONE);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::sys::scratch::Scratch;

    fn whole(dir: &Path, at_once: usize) -> Usage {
        let mut walk = Walk::new(dir).unwrap();
        loop {
            if let Some(found) = walk.go_on(at_once).unwrap() {
                return found;
            }
        }
    }

    #[test]
    fn a_tree_is_counted_in_any_steps() {
        let scratch = Scratch::new();
        scratch.dir("tree/a/b/c");
        let outside = scratch.dir("outside");
        fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        scratch.file("tree/a/file", vec![1; 64 << 10]);
        fs::hard_link(scratch.path().join("tree/a/file"), scratch.path().join("tree/a/b/again"))
            .unwrap();
        symlink(&outside, scratch.path().join("tree/link")).unwrap();
        let tree = scratch.path().join("tree");
        let found = whole(&tree, 1);
        assert_eq!(found, whole(&tree, 1_000));
        assert_eq!(found.inodes, 5, "the file with two names is one");
        assert!((64 << 10..512 << 10).contains(&found.bytes), "{found:?}");
    }

    #[test]
    fn what_changed_before_is_not_counted() {
        let scratch = Scratch::new();
        scratch.dir("tree/a");
        let file = scratch.file("tree/a/file", "x");
        let changed = std::os::unix::fs::MetadataExt::ctime(&fs::metadata(file).unwrap());
        let since = |since| {
            let walk = Walk::new(&scratch.path().join("tree")).unwrap();
            walk.changed_since(since).go_on(100).unwrap().unwrap().inodes
        };
        assert_eq!((since(changed), since(changed + 1)), (1, 0));
    }

    #[test]
    fn what_lies_too_deep_ends_the_way_down() {
        let scratch = Scratch::new();
        scratch.dir(&format!("tree/{}", "d/".repeat(DEPTH + 20)));
        assert_eq!(whole(&scratch.path().join("tree"), 100).inodes, DEPTH as u64);
    }
}
