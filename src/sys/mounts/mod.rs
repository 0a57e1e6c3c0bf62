//! Mounts as values: made detached, attached to a checked folder, listed as the kernel lists them.
//!
//! [`Mounts`] is implemented by [`LinuxMounts`] and, for tests, by a twin that keeps its table in
//! memory and refuses what the kernel refuses; one suite runs against both. A [`Detached`] tree is
//! held by its descriptor alone: dropping it, or a kill, leaves nothing behind.
//! Deliberately absent: what an overlay's options mean (`overlay` knows), and lazy unmounts, after
//! which writers go on unseen.

mod error;
mod folder;
mod image;
mod linux;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod suite;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

pub use error::MountError;
pub use image::mount_image;
pub use linux::LinuxMounts;
#[cfg(test)]
pub use memory::{Call, MemoryMounts};
pub use table::{Mount, TableError, parse_table};

/// The longest text that `fsconfig(2)` takes as a value, in bytes (fs/fsopen.c).
pub const TEXT_LIMIT: usize = 255;

/// Everything this program does with mounts. All calls block; none waits for more than a second.
pub trait Mounts: Send + Sync + fmt::Debug {
    /// Makes a new file system instance, mounted nowhere.
    fn create(&self, request: &Request) -> Result<Detached, MountError>;

    /// Attaches `mount` to the folder `target`: absolute, without symlink or `..`, and not itself
    /// the root of a mount, so that a retry cannot stack a second one on the first.
    ///
    /// Takes the mount by value: its descriptor would keep the target busy, and it has one place.
    fn attach(&self, mount: Detached, target: &Path) -> Result<(), MountError>;

    /// A second, detached mount of what is mounted at `attached`: one volume, a second target.
    fn clone_of(&self, attached: &Path) -> Result<Detached, MountError>;

    /// Unmounts what is mounted at `target`; of several, the one on top. Where it is busy, asks
    /// again for about a second.
    fn unmount(&self, target: &Path) -> Result<(), MountError>;

    /// All mounts that this process sees, in the kernel's order: a later one at a target is on top.
    fn table(&self) -> Result<Vec<Mount>, MountError>;

    /// Whether both the mount and the file system beneath it take writes. An overlay that cannot
    /// make its work folder mounts without a word, read-only.
    fn writable(&self, mount: &Detached) -> Result<bool, MountError>;

    /// A plain folder as something an overlay can use; `path` as in [`Mounts::attach`]. It is no
    /// mount of its own and cannot be attached.
    fn open_dir(&self, path: &Path) -> Result<Detached, MountError>;
}

/// A tree held by descriptor: a mount attached nowhere, or a plain folder. Dropped, it is gone.
#[derive(Debug)]
pub struct Detached {
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Mount,
    Folder,
    #[cfg(test)]
    Twin(memory::Tree),
}

impl Detached {
    /// What holds the tree: good for paths beneath `/proc/self/fd`, not for reading.
    pub(in crate::sys) fn descriptor(&self) -> &OwnedFd {
        &self.fd
    }
}

/// A file system to be made.
#[derive(Debug, Clone)]
pub struct Request {
    /// The kernel's name of the type: `overlay`, `erofs`, `tmpfs`.
    pub fs_type: &'static str,
    /// What it is made from: an image's path for EROFS, else only a name in the mount table.
    pub source: String,
    /// Its parameters, given in this order.
    pub params: Vec<Param>,
    /// What holds for the mount, whatever the file system says.
    pub attrs: Attrs,
}

/// One parameter of a file system.
#[derive(Debug, Clone)]
pub enum Param {
    /// A key that is on by being there.
    Flag(&'static str),
    /// A key with a text of at most [`TEXT_LIMIT`] bytes.
    Text(&'static str, String),
    /// A key whose value is a tree, by descriptor.
    Tree(&'static str, Arc<Detached>),
}

/// Attributes of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attrs {
    /// Refuse writes here, whether or not the file system takes them.
    pub read_only: bool,
    /// Ignore set-user-id, set-group-id and file capabilities.
    pub nosuid: bool,
    /// Refuse to open device nodes.
    pub nodev: bool,
    /// Refuse to execute files.
    pub noexec: bool,
}
