//! The mount API of the driver: makes detached mounts, attaches them to checked directories and reads the mount table.
//!
//! Implementations of [`Mounts`]:
//!
//! - [`LinuxMounts`] uses the new mount API of the kernel.
//! - [`LegacyMounts`] makes overlays on kernels that do not take detached layers.
//! - `FakeMounts`, for tests, keeps its table in memory and refuses what the kernel refuses. One test suite runs
//!   against it and against [`LinuxMounts`].
//!
//! A [`Detached`] tree is held only by its descriptor. Nothing remains of it when it is dropped or the process is
//! killed.
//!
//! Deliberately absent: the meaning of overlay's options (see `overlay`), and lazy unmounts of volumes. After a lazy
//! unmount, writers continue unseen.

mod directory;
mod error;
#[cfg(test)]
mod fake;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod image;
mod legacy;
mod linux;
mod sample;
#[cfg(test)]
mod suite;
mod table;
#[cfg(test)]
mod tests;
mod top;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use super::loops::Loop;
use super::proc_fd;
pub use error::MountError;
#[cfg(test)]
pub use fake::{Call, FakeMounts};
pub use image::{Backing, mount_image, mount_image_by};
use legacy::AttachPoint;
pub use legacy::{LegacyMounts, MountApi};
pub use linux::LinuxMounts;
pub use sample::sample_image;
pub use table::{Mount, SuperOptions, TableError, parse_table};

/// The longest value of a text parameter that `fsconfig(2)` takes, in bytes (fs/fsopen.c).
pub const TEXT_LIMIT: usize = 255;

/// All mount operations of the driver. All calls block. None waits longer than about a second.
pub trait Mounts: Send + Sync + fmt::Debug {
    /// Makes a new file system instance as a detached mount.
    fn create(&self, request: &Request) -> Result<Detached, MountError>;

    /// Attaches `mount` to the directory `target`.
    ///
    /// The path must be absolute, without symlinks and `..`. The directory must not be the root of a mount, so that a
    /// retry cannot stack a second mount on the first.
    ///
    /// Takes the mount by value: a mount has one target, and its open descriptor would keep the target busy.
    fn attach(&self, mount: Detached, target: &Path) -> Result<(), MountError>;

    /// Makes a second, detached mount of the file system that is mounted at `attached`, for a second target of a
    /// volume.
    fn clone_of(&self, attached: &Path) -> Result<Detached, MountError>;

    /// Unmounts the topmost mount at `target`. While it is busy, tries again for about a second.
    fn unmount(&self, target: &Path) -> Result<(), MountError>;

    /// The topmost mount at `target`, without its propagation. `None` if nothing is mounted there or the directory does
    /// not exist.
    ///
    /// On kernels with `statmount(2)`, the cost does not depend on the number of mounts.
    fn top(&self, target: &Path) -> Result<Option<Mount>, MountError> {
        Ok(self.table()?.into_iter().rfind(|mount| mount.target == target))
    }

    /// All mounts that this process sees, in the kernel's order: of several at a target, the last one is on top.
    fn table(&self) -> Result<Vec<Mount>, MountError>;

    /// Whether both the mount and its file system take writes. An overlay that cannot make its work directory becomes
    /// read-only without an error.
    fn writable(&self, mount: &Detached) -> Result<bool, MountError>;

    /// Opens a plain directory for use as a part of an overlay, with the rules for `path` of [`Mounts::attach`]. The
    /// result is not a mount and cannot be attached.
    fn open_dir(&self, path: &Path) -> Result<Detached, MountError>;

    /// Makes a second, detached mount of `tree` that swaps user 0 with `uid`, and group 0 with `gid`.
    ///
    /// The cost does not depend on the number of files. Every id stays mapped, and the owners in the file system itself
    /// do not change.
    ///
    /// # Errors
    /// `Unsupported` if the kernel or the tree's file system has no ID-mapped mounts (EROFS: Linux 5.19).
    fn idmapped(&self, tree: &Detached, uid: u32, gid: u32) -> Result<Detached, MountError>;

    /// Sets up a read-only loop device that shows `image`, for kernels that mount only block devices.
    fn loop_over(&self, image: &Path) -> Result<Loop, MountError>;
}

/// A tree held by its descriptor: a detached mount, or a plain directory. Dropping it closes the descriptor; a detached
/// mount then disappears.
#[derive(Debug)]
pub struct Detached {
    // Before `kind`, so that it is closed first: an open descriptor would keep the attach point busy.
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A mount. Has an attach point only if the kernel takes no detached layers.
    Mount(OnceLock<AttachPoint>),
    Dir,
    #[cfg(test)]
    Fake(fake::Tree),
}

impl Detached {
    fn mount(fd: OwnedFd) -> Self {
        Self { fd, kind: Kind::Mount(OnceLock::new()) }
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

/// Describes a file system to be made by [`Mounts::create`].
#[derive(Debug, Clone)]
pub struct Request {
    /// The kernel's name of the type: `overlay`, `erofs`, `tmpfs`.
    pub fs_type: &'static str,
    /// For EROFS the path of the image or of its loop device. For other types only a name in the mount table.
    pub source: String,
    /// The mount options, in the order in which the kernel gets them.
    pub params: Vec<Param>,
    /// Attributes of the mount, independent of the file system's options.
    pub attrs: Attrs,
}

/// One mount option of a file system.
#[derive(Debug, Clone)]
pub enum Param {
    /// A key without a value.
    Flag(&'static str),
    /// A key with a text of at most [`TEXT_LIMIT`] bytes.
    Text(&'static str, String),
    /// A key with a tree, which the kernel gets as a descriptor.
    Tree(&'static str, Arc<Detached>),
}

/// A request for a tmpfs with mode 0700. Without limits it can use half of the machine's memory.
pub fn tmpfs(source: &str, bytes: Option<u64>, inodes: Option<u64>) -> Request {
    let number = |key, value: Option<u64>| value.map(|value| Param::Text(key, value.to_string()));
    let mode = Param::Text("mode", "0700".to_owned());
    Request {
        fs_type: "tmpfs",
        source: source.to_owned(),
        params: [number("size", bytes), number("nr_inodes", inodes), Some(mode)]
            .into_iter()
            .flatten()
            .collect(),
        attrs: Attrs { nosuid: true, nodev: true, ..Attrs::default() },
    }
}

/// Attributes of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attrs {
    /// Refuses writes through this mount, even if the file system takes them.
    pub read_only: bool,
    /// Ignores set-user-id bits, set-group-id bits and file capabilities.
    pub nosuid: bool,
    /// Refuses to open device nodes.
    pub nodev: bool,
    /// Refuses to execute files.
    pub noexec: bool,
    /// Does not update access times.
    pub noatime: bool,
}
