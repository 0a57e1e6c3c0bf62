//! Mounts as values: made detached, attached to a checked directory, listed as the kernel lists them.
//!
//! [`Mounts`] is implemented by [`LinuxMounts`], by [`OlderMounts`] where a kernel takes layers in another
//! way only, and, for tests, by a twin that keeps its table in memory and refuses what the kernel
//! refuses; one suite runs against the first and the last. A [`Detached`] tree is
//! held by its descriptor alone: dropping it, or a kill, leaves nothing behind.
//! Deliberately absent: what an overlay's options mean (`overlay` knows), and lazy unmounts, after
//! which writers go on unseen.

mod directory;
mod error;
#[cfg(test)]
mod fake;
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
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use super::loops::Loop;
pub use error::MountError;
#[cfg(test)]
pub use fake::{Call, FakeMounts};
pub use image::{Backing, mount_image, mount_image_by};
use legacy::Place;
pub use legacy::{LegacyMounts, MountApi};
pub use linux::LinuxMounts;
pub use sample::sample_image;
pub use table::{Mount, SuperOptions, TableError, parse_table};

/// The longest text that `fsconfig(2)` takes as a value, in bytes (fs/fsopen.c).
pub const TEXT_LIMIT: usize = 255;

/// Everything this program does with mounts. All calls block; none waits for more than a second.
pub trait Mounts: Send + Sync + fmt::Debug {
    /// Makes a new file system instance, mounted nowhere.
    fn create(&self, request: &Request) -> Result<Detached, MountError>;

    /// Attaches `mount` to the directory `target`: absolute, without symlink or `..`, and not itself
    /// the root of a mount, so that a retry cannot stack a second one on the first.
    ///
    /// Takes the mount by value: its descriptor would keep the target busy, and it has one place.
    fn attach(&self, mount: Detached, target: &Path) -> Result<(), MountError>;

    /// A second, detached mount of what is mounted at `attached`: one volume, a second target.
    fn clone_of(&self, attached: &Path) -> Result<Detached, MountError>;

    /// Unmounts what is mounted at `target`; of several, the one on top. Where it is busy, asks
    /// again for about a second.
    fn unmount(&self, target: &Path) -> Result<(), MountError>;

    /// What is mounted at `target`, the topmost of several, without its propagation; `None` where nothing is, or where there is no
    /// such directory. Where the kernel can be asked about one place, it costs the same however many mounts there are.
    fn top(&self, target: &Path) -> Result<Option<Mount>, MountError> {
        Ok(self.table()?.into_iter().rfind(|mount| mount.target == target))
    }

    /// All mounts that this process sees, in the kernel's order: a later one at a target is on top.
    fn table(&self) -> Result<Vec<Mount>, MountError>;

    /// Whether both the mount and the file system beneath it take writes. An overlay that cannot
    /// make its work directory mounts without a word, read-only.
    fn writable(&self, mount: &Detached) -> Result<bool, MountError>;

    /// A plain directory as something an overlay can use; `path` as in [`Mounts::attach`]. It is no
    /// mount of its own and cannot be attached.
    fn open_dir(&self, path: &Path) -> Result<Detached, MountError>;

    /// A second mount of `tree`, attached nowhere, in which user 0 and `uid` have changed places, and group 0 and `gid`. Costs
    /// the same however many files there are. Nobody is lost by the change, so the file system keeps its own owners.
    ///
    /// Errors: `Unsupported` where the kernel or the tree's file system cannot do it (EROFS: Linux 5.19).
    fn idmapped(&self, tree: &Detached, uid: u32, gid: u32) -> Result<Detached, MountError>;

    /// A read-only block device that shows `image`, for kernels that mount nothing else.
    fn loop_over(&self, image: &Path) -> Result<Loop, MountError>;
}

/// A tree held by descriptor: a mount attached nowhere, or a plain directory. Dropped, it is gone.
#[derive(Debug)]
pub struct Detached {
    // Closed before the place goes: open, it would keep that busy.
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// With the place where a kernel that needs one has it.
    Mount(OnceLock<Place>),
    Dir,
    #[cfg(test)]
    Fake(fake::Tree),
}

impl Detached {
    fn mount(fd: OwnedFd) -> Self {
        Self { fd, kind: Kind::Mount(OnceLock::new()) }
    }

    /// A path to its root, good for as long as this is held, in this process alone.
    pub fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.fd.as_raw_fd().to_string())
    }

    /// What holds the tree: good for paths beneath `/proc/self/fd`, not for reading.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
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

/// A file system in memory, for root alone. Without limits it holds as much as half of the machine's memory.
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
    /// Refuse writes here, whether or not the file system takes them.
    pub read_only: bool,
    /// Ignore set-user-id, set-group-id and file capabilities.
    pub nosuid: bool,
    /// Refuse to open device nodes.
    pub nodev: bool,
    /// Refuse to execute files.
    pub noexec: bool,
    /// Never write access times.
    pub noatime: bool,
}
