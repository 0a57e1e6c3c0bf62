//! The description of a file system to be mounted.

use std::sync::Arc;

use super::detached::Detached;

/// The longest value of a text parameter that `fsconfig(2)` takes, in bytes (fs/fsopen.c).
pub const TEXT_LIMIT: usize = 255;

/// Describes a file system to be made by [`Mounts::create`](super::Mounts::create).
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
