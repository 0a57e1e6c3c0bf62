//! How much a layer may ask of this node.
//!
//! Deliberately absent: how much smaller a blob may be than its tar. Zeros take no room ([`crate::erofs`]), and how much the rest may
//! take is for whoever knows the disk. And lengths that Linux itself bounds (a name's 255 bytes, a path's 4,095): no setting
//! could raise them.

use std::sync::Arc;

use crate::budget::Budget;

/// Bounds on one layer, checked while it streams. A layer that reaches one is refused with the entry's name; only for
/// the budget, which it shares with others, it waits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the uncompressed tar, and of one file with its holes. Default: 64 GiB.
    pub tar_bytes: u64,
    /// A zstd frame's window, as a power of two: memory that its packer asks for. Default: 27 (128 MiB), as the zstd
    /// tool has it.
    pub zstd_window: u32,
    /// Headers of the tar, and names in the image. Default: 4,000,000.
    pub entries: u64,
    /// Parts of a path. Default: 256.
    pub depth: u32,
    /// Bytes of one entry's extended attributes, names and values. Default: 128 KiB.
    pub xattr_bytes: u64,
    /// Bytes of memory for all names, folders and folders' extended attributes together, which are held to the
    /// end, counted as an allocator's worst case: about 110 for a file and 270 for a folder, if their names are
    /// of common length. A million files in 60,000 folders pass; far more are refused. Default: 128 MiB.
    pub held_bytes: u64,
    /// What this layer holds together with all other work: names, buffers, zstd's window. Beyond it, layers wait for one
    /// another. Default: one of its own, for a layer by itself.
    pub budget: Arc<Budget>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tar_bytes: 64 << 30,
            zstd_window: 27,
            entries: 4_000_000,
            depth: 256,
            xattr_bytes: 128 << 10,
            held_bytes: 128 << 20,
            budget: Arc::default(),
        }
    }
}
