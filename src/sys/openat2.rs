//! Opens paths without following symlinks, also those that another process plants or swaps in meanwhile.
//!
//! Deliberately absent: any fallback by path string. A kernel without `openat2` (before 5.6) is not supported.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// Flags for a handle on a directory (`O_PATH`): it can be stat-ed, mounted on or passed to an overlay, but not read.
pub(super) const HANDLE: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Flags to open a directory for reading its entries, or for syncing it.
pub(super) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory at `path`, an absolute path without symlinks.
///
/// # Errors
/// `ELOOP` if a part is a symlink, `ENOTDIR`, `ENOENT`, and the other errors of `openat2(2)`.
pub(super) fn dir(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat2(
        CWD,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The parent directory of a path.
///
/// # Errors
/// `InvalidInput` for `/` and for the empty path.
pub(super) fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the path {:?} has no parent directory", path.display()),
        )),
    }
}
