//! What the file system of a folder can do, found out by doing it once in that folder.
//!
//! Deliberately absent: cleaning up; the folder is the caller's, empty, and removed by it afterwards.

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

/// Whether a folder's listing says what each entry is; overlay skips the entries of one that does not.
pub fn entry_types(folder: &Path) -> io::Result<bool> {
    fs::write(folder.join("entry"), "")?;
    let folder = File::open(folder)?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(&folder, &mut buffer);
    let mut known = true;
    while let Some(entry) = entries.next() {
        known &= entry?.file_type() != FileType::Unknown;
    }
    Ok(known)
}

/// Whether a rename can leave a whiteout behind (`RENAME_WHITEOUT`), and it is the one that overlay looks for.
pub fn whiteouts(folder: &Path) -> io::Result<bool> {
    let (from, to) = (folder.join("from"), folder.join("to"));
    fs::write(&from, "")?;
    renameat_with(CWD, &from, CWD, &to, RenameFlags::WHITEOUT)?;
    let left = fs::symlink_metadata(&from)?;
    Ok(left.file_type().is_char_device() && left.rdev() == 0)
}

/// Whether a file keeps extended attributes that begin with `trusted.`.
pub fn trusted_attributes(folder: &Path) -> io::Result<bool> {
    let name = "trusted.overlay.trial";
    let file = File::create(folder.join("file"))?;
    fsetxattr(&file, name, b"y", XattrFlags::empty())?;
    let mut value = [0; 8];
    Ok(fgetxattr(&file, name, &mut value)? == 1)
}

/// Whether a file has the extended attribute `name`.
pub fn has_attribute(file: &Path, name: &str) -> bool {
    lgetxattr(file, name, &mut [0_u8; 64]).is_ok()
}

/// Whether two files can share their bytes (`FICLONE`).
pub fn reflink(folder: &Path) -> io::Result<bool> {
    let mut from = File::create_new(folder.join("original"))?;
    from.write_all(&[7; 4096])?;
    let from = File::open(folder.join("original"))?;
    let to = File::create_new(folder.join("clone"))?;
    match ioctl_ficlone(&to, &from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn a_file_system_without_any_of_it_says_so() {
        let proc = Path::new("/proc/self");
        for trial in [entry_types, whiteouts, trusted_attributes, reflink] {
            assert!(!trial(proc).unwrap_or(false));
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn privileged_the_disk_of_temporaries_can_hold_an_upper() {
        let dir = Scratch::new();
        for (name, trial) in
            [("d", entry_types as fn(&Path) -> _), ("w", whiteouts), ("x", trusted_attributes)]
        {
            assert!(trial(&dir.folder(name)).unwrap(), "{name}");
        }
    }
}
