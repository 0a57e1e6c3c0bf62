//! Makes and removes the empty directories that mounts are attached to, without following symlinks.
//!
//! Deliberately absent: removal of their content. It belongs to another owner.

use std::{ffi::OsStr, fs, io, os::fd::OwnedFd, path::Path};

use rustix::fs::{AtFlags, Mode, mkdirat, unlinkat};

use super::{openat2, proc_fd};

/// Makes the directory `path` with mode 0750, as the kubelet does, or uses an empty one that exists.
///
/// Returns whether it was made.
///
/// # Errors
/// - `DirectoryNotEmpty`: the directory exists and has entries.
/// - `AlreadyExists`: `path` exists and is not a directory.
/// - `NotFound`: the parent is missing.
/// - `FilesystemLoop`: a part of the path is a symlink.
pub fn make(path: &Path) -> io::Result<bool> {
    let (parent, name) = split(path)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o750)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => {
            let existing = openat2::dir(path, openat2::HANDLE).map_err(io::Error::from)?;
            // Read through the descriptor: the path may lead to another directory by now.
            match fs::read_dir(proc_fd::path(&existing))?.next() {
                None => Ok(false),
                Some(_) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Removes the empty directory `path`. Succeeds if it does not exist.
///
/// # Errors
/// `DirectoryNotEmpty`, `NotADirectory`, and `FilesystemLoop` if a part of the path is a symlink.
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
    use crate::sys::test_dir::TestDir;

    #[test]
    fn a_target_can_be_made_and_removed_repeatedly() {
        let dir = TestDir::new();
        let target = dir.path().join("target");
        assert!(make(&target).unwrap());
        assert!(!make(&target).unwrap());
        remove(&target).unwrap();
        remove(&target).unwrap();
        remove(&dir.path().join("no/parent")).unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn a_target_with_content_is_refused_and_kept() {
        let dir = TestDir::new();
        let target = dir.path().join("target");
        make(&target).unwrap();
        fs::write(target.join("precious"), "").unwrap();
        assert_eq!(make(&target).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(remove(&target).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
        assert!(target.join("precious").exists());
    }

    #[test]
    fn symlinks_are_not_followed() {
        let dir = TestDir::new();
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
