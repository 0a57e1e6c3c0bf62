//! Space that is kept for commands which free space.
//!
//! ```text
//! <root>/spare/<n>      files without content, removed when the disk is full
//! ```
//!
//! Even a command that only removes something needs a few inodes and blocks: a staging directory, a lock, a new record. On a
//! full disk none of them can be made. So a store keeps some while there is enough space, and gives them up when there is not.
//! Best effort: another process may take what becomes free. A node needs none of this, because it keeps a part of its disk free.

use std::{fs, io, path::Path};

use crate::sys::{durable, statfs};

/// The number of files.
const FILES: u64 = 16;
/// The bytes of each file.
const BYTES: u64 = 64 << 10;
/// With less free space than this, in bytes, the files are removed.
const LOW: u64 = 512 << 10;
/// With less free space than this, in bytes, no files are made.
const ENOUGH: u64 = 16 << 20;
/// The numbers of free inodes with the same meaning.
const LOW_INODES: u64 = FILES;
const ENOUGH_INODES: u64 = 16 * FILES;

/// Keeps space in the store at `root` if there is enough, or gives it up if there is little. Errors are not reported: the
/// caller finds out whether there is space.
pub(super) fn keep_or_release(root: &Path) {
    let dir = root.join("spare");
    let Ok(space) = statfs::of(root) else { return };
    let inodes_free = if space.inodes == 0 { u64::MAX } else { space.inodes_free };
    if space.available < LOW || inodes_free < LOW_INODES {
        let _ = durable::remove_tree_unsynced(&dir);
    } else if space.available >= ENOUGH && inodes_free >= ENOUGH_INODES && !dir.exists() {
        // A part of them is of use too.
        let _ = make(&dir);
    }
}

fn make(dir: &Path) -> io::Result<()> {
    durable::create_dir_unsynced(dir, 0o700)?;
    for number in 0..FILES {
        let file = fs::File::create(dir.join(number.to_string()))?;
        durable::allocate(&file, BYTES)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{
        mounts::{LinuxMounts, Mounts as _, tmpfs},
        test_dir::TestDir,
    };

    #[test]
    #[ignore = "needs root: real mounts"]
    fn privileged_a_full_disk_gets_the_space_back() {
        let scratch = TestDir::new();
        let disk = scratch.dir("disk");
        let limited = LinuxMounts.create(&tmpfs("ovl-test", Some(20 << 20), None)).unwrap();
        LinuxMounts.attach(limited, &disk).unwrap();
        keep_or_release(&disk);
        assert_eq!(fs::read_dir(disk.join("spare")).unwrap().count() as u64, FILES);
        let filler = disk.join("filler");
        let size = statfs::of(&disk).unwrap().available;
        fs::write(&filler, vec![1; usize::try_from(size).unwrap()]).unwrap();
        assert_eq!(statfs::of(&disk).unwrap().available, 0);
        keep_or_release(&disk);
        assert!(statfs::of(&disk).unwrap().available >= FILES * BYTES);
        // Not while there is little space.
        keep_or_release(&disk);
        assert!(!disk.join("spare").exists());
        fs::remove_file(&filler).unwrap();
        keep_or_release(&disk);
        assert!(disk.join("spare").exists());
    }
}
