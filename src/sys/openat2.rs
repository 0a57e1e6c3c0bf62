//! Opens paths so that no symlink on the way, planted or swapped in, can redirect them.
//!
//! Deliberately absent: any fallback by path string; a kernel without `openat2` (before 5.6) is not
//! supported.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// A handle on a directory that can be stat-ed, mounted on or given to an overlay, but not read.
pub(super) const HANDLE: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory opened for reading its entries, or for syncing it.
pub(super) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory at `path`, an absolute path none of whose parts is a symlink.
///
/// Errors: `ELOOP` where a part is a symlink, `ENOTDIR`, `ENOENT`, and whatever `openat2(2)` gives.
pub(super) fn dir(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat2(
        CWD,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The directory a path lies in. Errors: `InvalidInput` for `/` and for the empty path.
pub(super) fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} lies in no directory", path.display()),
        )),
    }
}
