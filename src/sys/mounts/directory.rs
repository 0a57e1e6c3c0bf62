//! Opens directories by paths that contain no symlinks and no `..`.
//!
//! Deliberately absent: making directories, and any lookup through a symlink.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use super::MountError;
use super::error::refused;
use crate::sys::{Errno, errno, openat2, proc_fd};

/// Opens the directory at `path` as an `O_PATH` descriptor. Checks that the kernel's own path of the result equals
/// `path`.
pub(super) fn open(path: &Path) -> Result<OwnedFd, MountError> {
    let wrong = |why, errno| MountError::Dir { path: path.to_owned(), why, errno };
    if !path.is_absolute() {
        return Err(wrong("its path is not absolute", Errno::EINVAL));
    }
    let dir = openat2::dir(path, openat2::HANDLE).map_err(|e| match errno(e) {
        errno @ Errno::ELOOP => wrong("a part of its path is a symlink", errno),
        errno @ Errno::ENOENT => wrong("it does not exist", errno),
        errno @ Errno::ENOTDIR => {
            wrong("it or a part of its path is not a directory (it may be a symlink)", errno)
        }
        errno => wrong("it cannot be opened", errno),
    })?;
    let opened = fs::read_link(proc_fd::path(&dir))
        .map_err(|_| wrong("its descriptor cannot be read in /proc/self/fd", Errno::EIO))?;
    if opened != path {
        return Err(wrong("its path contains `..`, or it was moved away", Errno::EINVAL));
    }
    Ok(dir)
}

/// Whether `dir`, opened at `path`, is the root of a mount.
pub(super) fn is_mount_root(dir: &OwnedFd, path: &Path) -> Result<bool, MountError> {
    let stat = statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map_err(|e| refused(format!("stat {}", path.display()), errno(e)))?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
