//! What the file system of a directory can do, found out by doing it once in that directory.
//!
//! Deliberately absent: cleaning up; the directory is the caller's, empty, and removed by it afterwards.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    mem::MaybeUninit,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use rustix::fs::{
    CWD, FileType, RawDir, RenameFlags, XattrFlags, fgetxattr, fsetxattr, ioctl_ficlone, lgetxattr,
    renameat_with,
};
use rustix::io::Errno;

/// Whether a directory's listing says what each entry is; overlay skips the entries of one that does not.
pub fn entry_types(directory: &Path) -> io::Result<bool> {
    fs::write(directory.join("entry"), "")?;
    let directory = File::open(directory)?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut known = true;
    while let Some(entry) = entries.next() {
        known &= entry?.file_type() != FileType::Unknown;
    }
    Ok(known)
}

/// Whether a rename can leave a whiteout behind (`RENAME_WHITEOUT`), and it is the one that overlay looks for.
pub fn whiteouts(directory: &Path) -> io::Result<bool> {
    let (from, to) = (directory.join("from"), directory.join("to"));
    fs::write(&from, "")?;
    renameat_with(CWD, &from, CWD, &to, RenameFlags::WHITEOUT)?;
    let left = fs::symlink_metadata(&from)?;
    Ok(left.file_type().is_char_device() && left.rdev() == 0)
}

/// Whether a file keeps extended attributes that begin with `trusted.`.
pub fn trusted_attributes(directory: &Path) -> io::Result<bool> {
    let name = "trusted.overlay.trial";
    let file = File::create(directory.join("file"))?;
    fsetxattr(&file, name, b"y", XattrFlags::empty())?;
    let mut value = [0; 8];
    Ok(fgetxattr(&file, name, &mut value)? == 1)
}

/// Whether a file has the extended attribute `name`.
pub fn has_attribute(file: &Path, name: &str) -> bool {
    lgetxattr(file, name, &mut [0_u8; 64]).is_ok()
}

/// The bytes that overlay's marks take of the disk for a file that was copied up without its data (`metacopy`): 0 where they fit
/// into the inode. ext4 gives them a block of their own where its inodes have 256 bytes.
pub fn mark_bytes(directory: &Path) -> io::Result<u64> {
    // fs/overlayfs/overlayfs.h: `struct ovl_fb` with a file handle of EROFS.
    const ORIGIN: [u8; 33] = [0xfb; 33];
    let file = File::create(directory.join("marked"))?;
    fsetxattr(&file, "trusted.overlay.origin", &ORIGIN, XattrFlags::empty())?;
    fsetxattr(&file, "trusted.overlay.metacopy", b"", XattrFlags::empty())?;
    Ok(file.metadata()?.blocks() * 512)
}

/// Whether two files can share their bytes (`FICLONE`).
pub fn reflink(directory: &Path) -> io::Result<bool> {
    let mut from = File::create_new(directory.join("original"))?;
    from.write_all(&[7; 4096])?;
    let from = File::open(directory.join("original"))?;
    let to = File::create_new(directory.join("clone"))?;
    match ioctl_ficlone(&to, &from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::{Disk, Scratch};

    #[test]
    fn a_file_system_without_any_of_it_says_so() {
        let proc = Path::new("/proc/self");
        for trial in [entry_types, whiteouts, trusted_attributes, reflink] {
            assert!(!trial(proc).unwrap_or(false));
        }
        assert!(mark_bytes(proc).is_err());
    }

    /// As many bytes as `chown` of a file in a layer takes.
    #[test]
    #[ignore = "needs root, mkfs.ext4 and mkfs.xfs"]
    fn privileged_marks_take_a_block_where_inodes_are_small() {
        for (fs_type, options, bytes) in [
            ("ext4", &["-I", "256", "-b", "4096"][..], 4096),
            ("ext4", &["-I", "512"], 0),
            ("xfs", &[], 0),
        ] {
            let scratch = Scratch::new();
            let disk = Disk::with(&scratch, fs_type, options, &scratch.dir("disk"));
            let have = mark_bytes(&scratch.path().join("disk")).unwrap();
            assert_eq!(have, bytes, "{fs_type} {options:?}");
            drop(disk);
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn privileged_the_disk_of_temporaries_can_hold_an_upper() {
        let dir = Scratch::new();
        for (name, trial) in
            [("d", entry_types as fn(&Path) -> _), ("w", whiteouts), ("x", trusted_attributes)]
        {
            assert!(trial(&dir.dir(name)).unwrap(), "{name}");
        }
    }
}
