//! What a directory is apart from its entries: owner, mode, extended attributes.
//!
//! Deliberately absent: times, which nobody expects a new directory to have from elsewhere.

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{OFlags, XattrFlags, fsetxattr, getxattr, lgetxattr, listxattr},
    io::Errno,
};

use super::mounts::Detached;

/// Overlay's own marks say what a directory is within one stack; on another they would be lies.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Gives the directory `to` the owner, mode and extended attributes of the root of `from`.
pub fn copy(from: &Detached, to: &Path) -> io::Result<()> {
    // Such a descriptor takes no reads of its own (O_PATH); its name in /proc does.
    let source = PathBuf::from(format!("/proc/self/fd/{}", from.descriptor().as_raw_fd()));
    let metadata = std::fs::metadata(&source)?;
    let dir = open(to)?;
    fchown(&dir, Some(metadata.uid()), Some(metadata.gid()))?;
    // After the owner, whose change takes set-id bits away; before capabilities and ACLs, which may refine it.
    dir.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
    for name in names(&source)? {
        let value = read(|space| getxattr(&source, &name[..], space))?;
        fsetxattr(&dir, &name[..], &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// One attribute of what stands at a path, no symlink followed; `None` where it has none of that name, or nothing is there.
pub fn of(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let told = read(|space| lgetxattr(path, name, space));
    let absent = [Errno::NODATA, Errno::NOENT].map(|errno| Some(errno.raw_os_error()));
    match told {
        Err(e) if absent.contains(&e.raw_os_error()) => Ok(None),
        told => told.map(Some),
    }
}

/// Gives the directory `to` a mode, whatever the umask.
pub fn set_mode(to: &Path, mode: u32) -> io::Result<()> {
    open(to)?.set_permissions(Permissions::from_mode(mode))
}

fn open(dir: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(dir)
}

/// The names of its extended attributes, but for overlay's own.
pub(super) fn names(source: &Path) -> io::Result<Vec<Vec<u8>>> {
    let list = read(|space| listxattr(source, space))?;
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter(|name| !name.starts_with(OVERLAY)).map(<[u8]>::to_vec).collect())
}

/// Asks with more and more room: 64 KiB is the most that Linux gives (xattr(7)).
pub(super) fn read(ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<u8>> {
    let mut space = vec![0; 65_536];
    match ask(&mut space) {
        Ok(length) => {
            space.truncate(length);
            Ok(space)
        }
        // A file system without extended attributes has none.
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::sys::mounts::{LinuxMounts, Mounts};

    #[test]
    fn a_directory_is_dressed_like_another() {
        let dir = TempDir::new().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        set_mode(&from, 0o1777).unwrap();
        let file = open(&from).unwrap();
        fsetxattr(&file, "user.colour", b"green", XattrFlags::empty()).unwrap();
        copy(&LinuxMounts.open_dir(&from).unwrap(), &to).unwrap();
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        let value = read(|space| getxattr(&to, "user.colour", space)).unwrap();
        assert_eq!(value, b"green");
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(set_mode(&link, 0o777).is_err());
    }
}
