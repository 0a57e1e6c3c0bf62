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

mod detached;
mod directory;
mod error;
#[cfg(test)]
mod fake;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod image;
mod legacy;
mod linux;
mod request;
mod sample;
#[cfg(test)]
mod suite;
mod table;
#[cfg(test)]
mod tests;
mod top;

use std::fmt;
use std::path::Path;

pub use super::loops::Loop;
pub use detached::Detached;
pub use error::MountError;
#[cfg(test)]
pub use fake::{Call, FakeMounts};
pub use image::{Backing, mount_image, mount_image_by};
pub use legacy::{LegacyMounts, MountApi, detach_below};
pub use linux::{LinuxMounts, refresh};
pub use request::{Attrs, Param, Request, TEXT_LIMIT, tmpfs};
pub use sample::sample_image;
pub use table::{Mount, SuperOptions, TableError, parse_table};

/// All mount operations of the driver. All calls block. None waits longer than about a second, except for the end of an
/// overlay: when its last mount is unmounted, or its last [`Detached`] tree is dropped, the kernel writes out the whole
/// file system of the upper.
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
    fn topmost(&self, target: &Path) -> Result<Option<Mount>, MountError> {
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
