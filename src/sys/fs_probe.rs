//! Probes of a file system: each tries one feature in a directory of it.
//!
//! Deliberately absent: cleanup. The caller supplies an empty directory and removes it afterwards.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    mem::MaybeUninit,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use rustix::fs::{
    CWD, FileType, RawDir, RenameFlags, XattrFlags, fgetxattr, fsetxattr, ioctl_ficlone,
    ioctl_getflags, lgetxattr, renameat_with,
};
use rustix::io::Errno;

use crate::overlay_xattr::{METACOPY, ORIGIN};

/// Whether a directory listing contains the type of each entry (`d_type`). Overlay skips entries without a type.
pub fn entry_types(directory: &Path) -> io::Result<bool> {
    fs::write(directory.join("entry"), "")?;
    let directory = File::open(directory)?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut all_known = true;
    while let Some(entry) = entries.next() {
        all_known &= entry?.file_type() != FileType::Unknown;
    }
    Ok(all_known)
}

/// Whether a rename can leave a whiteout behind (`RENAME_WHITEOUT`) in the form that overlay recognizes.
pub fn whiteouts(directory: &Path) -> io::Result<bool> {
    let (from, to) = (directory.join("from"), directory.join("to"));
    fs::write(&from, "")?;
    renameat_with(CWD, &from, CWD, &to, RenameFlags::WHITEOUT)?;
    let whiteout = fs::symlink_metadata(&from)?;
    Ok(whiteout.file_type().is_char_device() && whiteout.rdev() == 0)
}

/// Whether the names in a directory ignore upper and lower case (`FS_CASEFOLD_FL`).
pub fn folds_case(directory: &Path) -> io::Result<bool> {
    /// `FS_CASEFOLD_FL` of linux/fs.h, which rustix does not name.
    const CASEFOLD: u32 = 0x4000_0000;
    Ok(ioctl_getflags(File::open(directory)?)?.bits() & CASEFOLD != 0)
}

/// Whether the file system stores extended attributes whose names begin with `trusted.`.
pub fn trusted_xattrs(directory: &Path) -> io::Result<bool> {
    let name = "trusted.overlay.probe";
    let file = File::create(directory.join("file"))?;
    fsetxattr(&file, name, b"y", XattrFlags::empty())?;
    let mut value = [0; 8];
    Ok(fgetxattr(&file, name, &mut value)? == 1)
}

/// Whether a file has the extended attribute `name`, with a value of at most 64 bytes. Does not follow a symlink.
pub fn has_xattr(file: &Path, name: &str) -> bool {
    lgetxattr(file, name, &mut [0_u8; 64]).is_ok()
}

/// The disk space, in bytes, of overlay's extended attributes on a file that was copied up without its data
/// (`metacopy`).
///
/// 0 if they fit into the inode. ext4 stores them in a separate block if its inodes have 256 bytes.
pub fn overlay_xattr_bytes(directory: &Path) -> io::Result<u64> {
    // fs/overlayfs/overlayfs.h: `struct ovl_fb` with a file handle of EROFS.
    const VALUE: [u8; 33] = [0xfb; 33];
    let file = File::create(directory.join("marked"))?;
    fsetxattr(&file, ORIGIN, &VALUE, XattrFlags::empty())?;
    fsetxattr(&file, METACOPY, b"", XattrFlags::empty())?;
    Ok(file.metadata()?.blocks() * 512)
}

/// Whether two files can share their data blocks (`FICLONE`).
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
    use crate::sys::test_dir::{Disk, TestDir};

    #[test]
    fn procfs_has_none_of_the_features() {
        let proc = Path::new("/proc/self");
        for probe in [entry_types, whiteouts, trusted_xattrs, reflink] {
            assert!(!probe(proc).unwrap_or(false));
        }
        assert!(overlay_xattr_bytes(proc).is_err());
    }

    /// A `chown` of a file in a layer takes this much disk space.
    #[test]
    #[ignore = "needs root, mkfs.ext4 and mkfs.xfs"]
    fn privileged_overlay_xattrs_take_a_block_if_inodes_are_small() {
        for (fs_type, options, bytes) in [
            ("ext4", &["-I", "256", "-b", "4096"][..], 4096),
            ("ext4", &["-I", "512"], 0),
            ("xfs", &[], 0),
        ] {
            let scratch = TestDir::new();
            let disk = Disk::with(&scratch, fs_type, options, &scratch.dir("disk"));
            let measured = overlay_xattr_bytes(&scratch.path().join("disk")).unwrap();
            assert_eq!(measured, bytes, "{fs_type} {options:?}");
            drop(disk);
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn privileged_the_temporary_directory_can_hold_an_upper() {
        let dir = TestDir::new();
        for (name, probe) in
            [("d", entry_types as fn(&Path) -> _), ("w", whiteouts), ("x", trusted_xattrs)]
        {
            assert!(probe(&dir.dir(name)).unwrap(), "{name}");
        }
    }
}
