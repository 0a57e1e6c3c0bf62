//! The size of a tree that nothing changes meanwhile, with each inode counted once.
//!
//! [`du`](super::du) counts trees that programs write to, and works in steps.

use std::{collections::HashSet, io, os::unix::fs::MetadataExt as _};

use super::tree_reader::{Entry, EntryType};

/// The size of a tree, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeSize {
    /// The sizes of files and symbolic links.
    pub apparent: u64,
    /// The blocks of everything, directories too.
    pub on_disk: u64,
}

/// A directory of the path to the current one, and the names in it that were not visited yet.
struct Level {
    dir: Entry,
    names: Vec<Vec<u8>>,
}

/// Measures the tree below `root`, and `root` itself. Holds a descriptor for each level of directories.
///
/// # Errors
/// An entry cannot be read.
pub fn of(root: &Entry) -> io::Result<TreeSize> {
    let (mut size, mut seen) = (TreeSize::default(), HashSet::new());
    size.add(root, &mut seen)?;
    let mut open = vec![level(root.again()?)?];
    while let Some(Level { dir, names }) = open.last_mut() {
        let Some(name) = names.pop() else {
            open.pop();
            continue;
        };
        let Some(entry) = dir.entry(&name)? else { continue };
        size.add(&entry, &mut seen)?;
        if entry.entry_type() == EntryType::Dir {
            open.push(level(entry)?);
        }
    }
    Ok(size)
}

fn level(dir: Entry) -> io::Result<Level> {
    let mut names = Vec::new();
    dir.names(|name| {
        names.push(name.to_vec());
        Ok(())
    })?;
    Ok(Level { dir, names })
}

impl TreeSize {
    fn add(&mut self, entry: &Entry, seen: &mut HashSet<u64>) -> io::Result<()> {
        let metadata = entry.metadata()?;
        let kind = entry.entry_type();
        if kind != EntryType::Dir && metadata.nlink() > 1 && !seen.insert(metadata.ino()) {
            return Ok(());
        }
        if matches!(kind, EntryType::File | EntryType::Symlink) {
            self.apparent += metadata.size();
        }
        self.on_disk += metadata.blocks() * 512;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::{
        mounts::{LinuxMounts, Mounts as _},
        test_dir::TestDir,
    };

    #[test]
    fn a_file_with_two_names_counts_once() {
        let scratch = TestDir::new();
        let dir = scratch.dir("tree");
        scratch.dir("tree/sub");
        scratch.file("tree/a", "0123456789");
        fs::hard_link(dir.join("a"), dir.join("sub/b")).unwrap();
        std::os::unix::fs::symlink("target", dir.join("link")).unwrap();
        let tree = LinuxMounts.open_dir(&dir).unwrap();
        let size = of(&Entry::root(&tree).unwrap()).unwrap();
        assert_eq!(size.apparent, 10 + 6);
        assert!(size.on_disk >= 4096, "{size:?}");
    }
}
