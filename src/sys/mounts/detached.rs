//! Trees that are held by a descriptor.

use std::{fs, os::fd::OwnedFd, path::PathBuf, sync::OnceLock};

use rustix::mount::{UnmountFlags, unmount};

#[cfg(test)]
use super::fake;
use crate::sys::proc_fd;

/// A tree held by its descriptor: a detached mount, or a plain directory. Dropping it closes the descriptor; a detached
/// mount then disappears.
#[derive(Debug)]
pub struct Detached {
    // Before `kind`, so that it is closed first: an open descriptor would keep the attach point busy.
    pub(super) fd: OwnedFd,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A mount. Has an attach point only if the kernel takes no detached layers.
    Mount(OnceLock<AttachPoint>),
    Dir,
    #[cfg(test)]
    Fake(fake::Tree),
}

impl Detached {
    /// A detached mount, by the descriptor of its root.
    pub(in crate::sys) fn mount(fd: OwnedFd) -> Self {
        Self { fd, kind: Kind::Mount(OnceLock::new()) }
    }

    /// A directory of a mount, by its descriptor.
    pub(in crate::sys) fn dir(fd: OwnedFd) -> Self {
        Self { fd, kind: Kind::Dir }
    }

    /// A path to the root of the tree. Valid only in this process, and only until this is dropped.
    pub fn path(&self) -> PathBuf {
        proc_fd::path(&self.fd)
    }

    /// The `O_PATH` descriptor of the tree's root: usable for paths below `/proc/self/fd`, not for reading.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.fd
    }
}

/// A directory for one mount. Dropping it unmounts and removes it.
#[derive(Debug)]
pub(super) struct AttachPoint(pub(super) PathBuf);

impl Drop for AttachPoint {
    fn drop(&mut self) {
        // Lazily: a child that another thread starts holds all descriptors until its exec, and would make this mount
        // busy. No writer can continue unseen: a layer is never written to, and an overlay is used through its clone.
        // Errors are ignored, because the next start removes what remains.
        let _ = unmount(&self.0, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}
