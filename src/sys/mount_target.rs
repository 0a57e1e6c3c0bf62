//! The empty directories that mounts are attached to: made and removed without following a symlink on the way.
//!
//! Deliberately absent: removing anything that is in them. Whatever is in a target is somebody's.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, Mode, mkdirat, unlinkat};

use super::openat2;

/// Makes the directory `path` (0750, as the kubelet makes its own), or takes the one that is there. Answers whether it was made.
///
/// Errors: `DirectoryNotEmpty` where something is in it, `AlreadyExists` where it is no directory, `NotFound` where its parent
/// is missing, `FilesystemLoop` where a part of the path is a symlink.
pub fn make(path: &Path) -> io::Result<bool> {
    let (parent, name) = split(path)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o750)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => {
            let there = openat2::dir(path, openat2::HANDLE).map_err(io::Error::from)?;
            // Read by its descriptor: by its name it might be another one by now.
            let entries = format!("/proc/self/fd/{}", there.as_raw_fd());
            match fs::read_dir(entries)?.next() {
                None => Ok(false),
                Some(_) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Removes the empty directory `path`; one that is not there is fine.
///
/// Errors: `DirectoryNotEmpty`, `NotADirectory`, `FilesystemLoop` where a part of the path is a symlink.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed =
        split(path).and_then(|(parent, name)| Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?));
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn split(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let parent = openat2::dir(openat2::parent(path)?, openat2::READ)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((parent, name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn made_once_and_removed_once() {
        let dir = Scratch::new();
        let target = dir.path().join("target");
        assert!(make(&target).unwrap());
        assert!(!make(&target).unwrap());
        remove(&target).unwrap();
        remove(&target).unwrap();
        remove(&dir.path().join("no/parent")).unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn what_is_in_a_target_stays() {
        let dir = Scratch::new();
        let target = dir.path().join("target");
        make(&target).unwrap();
        fs::write(target.join("precious"), "").unwrap();
        assert_eq!(make(&target).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(remove(&target).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
        assert!(target.join("precious").exists());
    }

    #[test]
    fn no_symlink_leads_anywhere() {
        let dir = Scratch::new();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("empty")).unwrap();
        symlink(&outside, dir.path().join("link")).unwrap();
        let through = dir.path().join("link/empty");
        assert!(make(&through).is_err());
        assert!(remove(&through).is_err());
        assert!(make(&dir.path().join("link/new")).is_err());
        assert!(make(&dir.path().join("link")).is_err());
        assert!(remove(&dir.path().join("link")).is_err());
        assert!(outside.join("empty").exists());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
