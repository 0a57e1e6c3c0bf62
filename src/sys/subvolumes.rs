//! The subvolumes of btrfs below a directory, found without a walk of all its files (linux/btrfs.h).
//!
//! A subvolume knows the inodes of the directories in which other subvolumes are, and btrfs knows the path of an inode.

use std::{
    ffi::{CStr, OsStr},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    ioctl::{Updater, ioctl, opcode},
};

/// The inode of the root of each subvolume (`BTRFS_FIRST_FREE_OBJECTID`).
const ROOT: u64 = 256;

/// The most subvolumes of one call.
const BATCH: usize = 255;

/// `struct btrfs_ioctl_get_subvol_rootref_args`: the id of each subvolume, and the inode of its parent directory.
#[repr(C)]
struct RootRefs {
    min_tree: u64,
    refs: [(u64, u64); BATCH],
    count: u8,
    unused: [u8; 7],
}

/// `struct btrfs_ioctl_ino_lookup_args`: the path of a directory in its subvolume, with a slash at its end.
#[repr(C)]
struct InodePath {
    tree: u64,
    inode: u64,
    path: [u8; 4080],
}

/// The subvolumes below the directory `dir` of a btrfs, but not those below these.
pub fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let opened = File::open(dir)?;
    let own = path_of(&opened, opened.metadata()?.ino())?;
    let mut found = Vec::new();
    for parent in parents(&opened)? {
        let path = path_of(&opened, parent)?;
        let Some(inside) = path.strip_prefix(&own[..]) else { continue };
        for entry in fs::read_dir(dir.join(OsStr::from_bytes(inside)))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.metadata()?.ino() == ROOT {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The inodes of the directories that have subvolumes.
fn parents(dir: &File) -> io::Result<Vec<u64>> {
    const GET: u32 = opcode::read_write::<RootRefs>(0x94, 61);
    let mut all = Vec::new();
    let mut refs = RootRefs { min_tree: 0, refs: [(0, 0); BATCH], count: 0, unused: [0; 7] };
    loop {
        // SAFETY: BTRFS_IOC_GET_SUBVOL_ROOTREF reads and fills a structure of the layout of RootRefs.
        let done = unsafe { ioctl(dir, Updater::<GET, RootRefs>::new(&mut refs)) };
        if !matches!(done, Ok(()) | Err(Errno::OVERFLOW)) {
            done?;
        }
        all.extend(refs.refs.iter().take(refs.count.into()).map(|(_, parent)| *parent));
        // Otherwise there are more, from `min_tree` on.
        if done.is_ok() {
            all.sort_unstable();
            all.dedup();
            return Ok(all);
        }
    }
}

/// The path of a directory in the subvolume of `dir`: empty for its root.
fn path_of(dir: &File, inode: u64) -> io::Result<Vec<u8>> {
    const LOOK_UP: u32 = opcode::read_write::<InodePath>(0x94, 18);
    let mut found = InodePath { tree: 0, inode, path: [0; 4080] };
    // SAFETY: BTRFS_IOC_INO_LOOKUP reads and fills a structure of the layout of InodePath.
    unsafe { ioctl(dir, Updater::<LOOK_UP, InodePath>::new(&mut found)) }?;
    let path = CStr::from_bytes_until_nul(&found.path).map_err(io::Error::other)?;
    Ok(path.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::test_dir::{Disk, TestDir};

    #[test]
    #[ignore = "needs root and mkfs.btrfs"]
    fn privileged_subvolumes_are_found_below_their_directory_only() {
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let disk = Disk::new(&scratch, "btrfs", &at);
        let make = |path: &str| {
            let mut create = Command::new("btrfs");
            let done = create.args(["subvolume", "create"]).arg(at.join(path)).output().unwrap();
            assert!(done.status.success(), "{path}");
        };
        fs::create_dir_all(at.join("plain/deep")).unwrap();
        make("sub");
        fs::create_dir_all(at.join("sub/dir/deep")).unwrap();
        fs::create_dir_all(at.join("sub/dir2")).unwrap();
        make("sub/dir/deep/one");
        make("sub/dir/two");
        make("sub/dir/deep/one/in-it");
        let found = |path: &str| below(&at.join(path)).unwrap();
        assert_eq!(found(""), [at.join("sub")]);
        assert_eq!(found("plain"), Vec::<PathBuf>::new());
        let both = ["sub/dir/deep/one", "sub/dir/two"].map(|path| at.join(path));
        assert_eq!((found("sub"), found("sub/dir")), (both.to_vec(), both.to_vec()));
        assert_eq!(found("sub/dir2"), Vec::<PathBuf>::new());
        fs::create_dir(at.join("many")).unwrap();
        for n in 0..BATCH + 10 {
            make(&format!("many/{n}"));
        }
        assert_eq!(found("many").len(), BATCH + 10);
        drop(disk);
    }
}
