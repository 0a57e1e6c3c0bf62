//! Copies and reads the metadata of a directory: owner, mode and extended attributes.
//!
//! Deliberately absent: times. A new directory has its own.

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
};

use rustix::{
    fs::{OFlags, XattrFlags, fsetxattr, getxattr, lgetxattr, listxattr, removexattr},
    io::Errno,
};

use super::mounts::Detached;
use crate::overlay_xattr::PREFIX;

/// Copies owner, mode and extended attributes of the root of `from` to the directory `to`, without overlay's own.
pub fn copy(from: &Detached, to: &Path) -> io::Result<()> {
    let source = from.path();
    let metadata = std::fs::metadata(&source)?;
    let dir = open(to)?;
    fchown(&dir, Some(metadata.uid()), Some(metadata.gid()))?;
    // After the owner: a change of owner clears the set-id bits. Before capabilities and ACLs, which may refine the
    // mode.
    dir.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
    for (name, value) in xattrs(&source)? {
        fsetxattr(&dir, &name[..], &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Whether two directories have the same owner, mode and extended attributes, without overlay's own.
pub fn are_equal(one: &Path, other: &Path) -> io::Result<bool> {
    let of = |path: &Path| -> io::Result<_> {
        let metadata = std::fs::metadata(path)?;
        let mut xattrs = xattrs(path)?;
        xattrs.sort_unstable();
        Ok((metadata.uid(), metadata.gid(), metadata.mode(), xattrs))
    };
    Ok(of(one)? == of(other)?)
}

/// Reads the extended attribute `name` of the file at `path`, without following a symlink.
///
/// `None` if the file does not exist or has no such attribute.
pub fn get_xattr(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let value = read(|buffer| lgetxattr(path, name, buffer));
    let absent = [Errno::NODATA, Errno::NOENT].map(|errno| Some(errno.raw_os_error()));
    match value {
        Err(e) if absent.contains(&e.raw_os_error()) => Ok(None),
        value => value.map(Some),
    }
}

/// Sets the mode of the directory `to`, independent of the umask.
pub fn set_mode(to: &Path, mode: u32) -> io::Result<()> {
    open(to)?.set_permissions(Permissions::from_mode(mode))
}

fn open(dir: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(dir)
}

/// The names of the extended attributes of `source`, without overlay's own.
pub(super) fn names(source: &Path) -> io::Result<Vec<Vec<u8>>> {
    let list = read(|buffer| listxattr(source, buffer))?;
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter(|name| !name.starts_with(PREFIX.as_bytes())).map(<[u8]>::to_vec).collect())
}

/// The extended attributes of `source`, without overlay's own: pairs of name and value.
pub(super) fn xattrs(source: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let xattrs = names(source)?.into_iter().map(|name| {
        let value = read(|buffer| getxattr(source, &name[..], buffer))?;
        Ok((name, value))
    });
    xattrs.collect()
}

/// Overlay's own extended attributes of `source`, as they are there: pairs of name and value.
pub(super) fn overlay_xattrs(source: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let list = read(|buffer| listxattr(source, buffer))?;
    let names = list.split(|byte| *byte == 0).filter(|name| name.starts_with(PREFIX.as_bytes()));
    names.map(|name| Ok((name.to_vec(), read(|buffer| getxattr(source, name, buffer))?))).collect()
}

/// Whether an extended attribute is a label. A security module sets it itself, and does not allow that it is removed.
pub(super) fn is_label(name: &[u8]) -> bool {
    name.starts_with(b"security.") && name != b"security.capability"
}

/// Removes an extended attribute of the file at `path`, if it has this one.
pub(super) fn remove_xattr(path: &Path, name: &[u8]) -> io::Result<()> {
    match removexattr(path, name) {
        // xfs lists an ACL under a second name, which is gone with the first.
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Calls `fill` with a small buffer, which most values and lists of attributes fit in, and else with one for the largest ones
/// in Linux (xattr(7)). To clear the large one takes longer than the call.
pub(super) fn read(fill: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<u8>> {
    const USUAL: usize = 256;
    const MOST: usize = 65_536;
    let filled = |size| {
        let mut buffer = vec![0; size];
        let length = fill(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    };
    let filled = match filled(USUAL) {
        Err(Errno::RANGE) => filled(MOST),
        filled => filled,
    };
    match filled {
        // A file system without support for extended attributes has none.
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        filled => Ok(filled?),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::sys::mounts::{LinuxMounts, Mounts};

    #[test]
    fn mode_and_attributes_are_copied_to_another_directory() {
        let dir = TempDir::new().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        set_mode(&from, 0o1777).unwrap();
        let file = open(&from).unwrap();
        fsetxattr(&file, "user.colour", b"green", XattrFlags::empty()).unwrap();
        copy(&LinuxMounts.open_dir(&from).unwrap(), &to).unwrap();
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        let value = read(|buffer| getxattr(&to, "user.colour", buffer)).unwrap();
        assert_eq!(value, b"green");
    }

    #[test]
    fn a_value_of_any_size_is_read_whole() {
        let dir = TempDir::new().unwrap();
        let file = open(dir.path()).unwrap();
        for size in [0, 255, 256, 257, 3000] {
            let value = vec![b'x'; size];
            fsetxattr(&file, "user.value", &value, XattrFlags::empty()).unwrap();
            assert_eq!(read(|buffer| getxattr(dir.path(), "user.value", buffer)).unwrap(), value);
        }
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(set_mode(&link, 0o777).is_err());
    }
}
