//! What a layer may be: one list for whoever unpacks a layer, whoever packs one, and whoever copies a volume that is to become
//! one ([`Limits::bounds`]). So what was captured can be packed, and what was packed can be unpacked.
//!
//! Deliberately absent: how much smaller a blob may be than its tar. Zeros take no room ([`crate::erofs`]), and how much the rest may
//! take is for whoever knows the disk. And lengths that Linux itself bounds (a name's 255 bytes, a path's 4,095): no setting
//! could raise them.

use std::sync::Arc;

use super::path::PATH_MOST;
use crate::{
    budget::Budget,
    erofs::{ROOT_XATTRS, XATTR_VALUE},
    spill::Scratch,
    sys::clone::Bounds,
};

/// Headers of a tar for each entry: its own, one for pax records, two for GNU's long names, and as much for the mark of a folder
/// that is opaque.
const HEADERS: u64 = 8;

/// Bounds on one layer, checked while it streams. A layer that reaches one is refused with the entry's name; only for
/// the budget, which it shares with others, it waits, and beyond `memory` it goes on in files.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the uncompressed tar, and of one file with its holes. Default: 64 GiB.
    pub tar_bytes: u64,
    /// A zstd frame's window, as a power of two: memory that its packer asks for. Default: 27 (128 MiB), as the zstd
    /// tool has it.
    pub zstd_window: u32,
    /// Names in the image, and an eighth of a tar's headers. Default: 5,000,000.
    pub entries: u64,
    /// Parts of a path. Default: 256.
    pub depth: u32,
    /// Bytes of one entry's extended attributes, names and values. Default: 128 KiB.
    pub xattr_bytes: u64,
    /// Extended attributes of the root, of which the image has room for one more: the mark of an opaque one. All other entries
    /// may have as many as `xattr_bytes` hold. Default: 254.
    pub root_xattrs: u64,
    /// Bytes of memory for all names, folders and folders' extended attributes together, counted as an allocator's worst case:
    /// about 110 for a file and 330 for a folder, if their names are of common length. Of a layer with more, files hold them, of
    /// which some MiB stay in memory ([`crate::spill`]). Default: 32 MiB.
    pub memory: u64,
    /// Where these files are.
    pub scratch: Scratch,
    /// What this layer holds together with all other work: names, buffers, zstd's window. Beyond it, layers wait for one
    /// another. Default: one of its own, for a layer by itself.
    pub budget: Arc<Budget>,
}

impl Limits {
    /// Headers of a tar, of every kind.
    pub(super) fn headers(&self) -> u64 {
        self.entries.saturating_mul(HEADERS).saturating_add(HEADERS)
    }

    /// What a tree may be that is to become a layer.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            entries: self.entries,
            depth: self.depth,
            path_bytes: PATH_MOST as u64,
            file_bytes: self.tar_bytes,
            tar_bytes: self.tar_bytes,
            xattr_bytes: self.xattr_bytes,
            xattr_value: XATTR_VALUE,
            root_xattrs: self.root_xattrs,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tar_bytes: 64 << 30,
            zstd_window: 27,
            entries: 5_000_000,
            depth: 256,
            xattr_bytes: 128 << 10,
            root_xattrs: ROOT_XATTRS - 1,
            memory: 32 << 20,
            scratch: Scratch::default(),
            budget: Arc::default(),
        }
    }
}
