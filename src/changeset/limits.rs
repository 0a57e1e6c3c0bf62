//! The limits of a layer: one list for the code that unpacks a layer, packs one, or copies a volume that will be packed
//! ([`Limits::bounds`]). So everything that was captured can be packed, and everything that was packed can be unpacked.
//!
//! Deliberately absent: a compression ratio. Zeros take no disk space ([`crate::erofs`]), and the code that knows the
//! disk limits the rest. Also absent are lengths that Linux itself bounds (a name's 255 bytes, a path's 4,095): no
//! setting could raise them.

use std::sync::Arc;

use super::path::PATH_MOST;
use crate::{
    budget::Budget,
    erofs::{ROOT_XATTRS, XATTR_VALUE},
    spill::Scratch,
    sys::clone::Bounds,
};

/// Headers of a tar for each entry: its own, one for pax records, two for GNU's long names, and as many for the entry
/// that makes a directory opaque.
const HEADERS: u64 = 8;

/// Limits of one layer, checked while it streams. A layer that exceeds one is refused with the entry's name. Two limits
/// do not refuse it: for memory of `budget`, which it shares with other work, it waits, and beyond `memory` it uses
/// files.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the uncompressed tar, and of one file with its holes. Default: 64 GiB.
    pub tar_bytes: u64,
    /// The window of a zstd frame in bytes, as a power of two: memory that the compressor of the layer demands.
    /// Default: 27 (128 MiB), as in the zstd tool.
    pub zstd_window: u32,
    /// Names in the image, and an eighth of the tar's headers. Default: 5,000,000.
    pub entries: u64,
    /// Parts of a path. Default: 256.
    pub depth: u32,
    /// Bytes of one entry's extended attributes, names and values. Default: 128 KiB.
    pub xattr_bytes: u64,
    /// Extended attributes of the root. The image can hold one more, which is reserved for overlay's opaque xattr. All
    /// other entries may have as many as `xattr_bytes` allows. Default: 254.
    pub root_xattrs: u64,
    /// Bytes of memory for all names, directories and directories' extended attributes together, counted as the worst
    /// case of an allocator: about 110 for a file and 330 for a directory with names of common length. A layer with
    /// more keeps them in files, of which some MiB stay in memory ([`crate::spill`]). Default: 32 MiB.
    pub memory: u64,
    /// The directory of these files.
    pub scratch: Scratch,
    /// The memory that this layer shares with all other work: names, buffers, the zstd window. When it is used up,
    /// layers wait for each other. Default: a budget of its own.
    pub budget: Arc<Budget>,
}

impl Limits {
    /// The most headers of all kinds in a tar.
    pub(super) fn headers(&self) -> u64 {
        self.entries.saturating_mul(HEADERS).saturating_add(HEADERS)
    }

    /// The limits for a tree that will be packed into a layer.
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
