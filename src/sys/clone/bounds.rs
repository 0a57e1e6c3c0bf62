//! Limits of a layer: an entry within them can be packed here and unpacked on another node.
//!
//! Deliberately absent: the values. `changeset::Limits` is their only list.

use super::metadata::Weight;
use crate::format;

/// The limits of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Number of entries.
    pub entries: u64,
    /// Number of names in a path.
    pub depth: u32,
    /// Bytes of a path.
    pub path_bytes: u64,
    /// Bytes of one file, holes included.
    pub file_bytes: u64,
    /// Bytes of the layer as a tar: all files with their holes, and the headers.
    pub tar_bytes: u64,
    /// Bytes of the extended attributes of one entry, names and values.
    pub xattr_bytes: u64,
    /// Bytes of one value.
    pub xattr_value: u64,
    /// Number of extended attributes of the root.
    pub root_xattrs: u64,
}

/// Which limit an entry exceeds. The message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExceededBound {
    /// The entry is too deep.
    #[error("its path has more than {0} names, and a layer can have no more; move it up")]
    Depth(u32),
    /// The path is too long.
    #[error(
        "its path has more than {0} bytes, and a layer can have no more; shorten its names, or move it up"
    )]
    Path(u64),
    /// The file is too large.
    #[error(
        "it has {} with its holes, and a file of a layer can have at most {}; truncate or remove it",
        format::bytes(*.bytes), format::bytes(*.limit)
    )]
    File {
        /// Its size in bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// All entries together are too large.
    #[error(
        "the tar of the volume is larger than {} at this entry, and a layer can have no more; \
        remove some files, or take snapshots more often",
        format::bytes(*.0)
    )]
    Tar(u64),
    /// The extended attributes of an entry are too large.
    #[error(
        "its extended attributes have {bytes} bytes, and those of an entry can have at most {limit}; remove some"
    )]
    Xattrs {
        /// Their size in bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The value of an extended attribute is too large.
    #[error(
        "its extended attribute {name:?} has {bytes} bytes, and a value can have at most {limit}; shorten or remove it"
    )]
    XattrValue {
        /// Its name.
        name: String,
        /// The size of its value in bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The name of an extended attribute cannot be in a tar.
    #[error(
        "its extended attribute {0:?} has a \"=\" in its name, which a layer cannot hold; remove it"
    )]
    XattrName(String),
    /// The root has too many extended attributes: it can have fewer than other entries.
    #[error(
        "the volume's root has {found} extended attributes, and the root of a layer can have at most {limit}; remove some"
    )]
    RootXattrs {
        /// Their number.
        found: u64,
        /// The limit.
        limit: u64,
    },
}

/// Bytes of a tar header. All sizes in a tar are rounded up to it.
const BLOCK: u64 = 512;
/// Smaller files get no map of their holes. No map is longer than [`MAP_MAX`].
const HOLES_FROM: u64 = 64 << 10;
const MAP_MAX: u64 = 1 << 20;

impl Bounds {
    /// The largest number of bytes that an entry takes in a tar: its header, the header of its
    /// records, the records, and the content. A directory may also have a whiteout entry.
    pub(super) fn packed(path: usize, size: u64, weight: &Weight) -> u64 {
        // The text of a record, for each attribute and for the path, a link's target, owner, time
        // and size; and a map of holes.
        let map = if size < HOLES_FROM { 0 } else { (size / 32).min(MAP_MAX) };
        let records = 3 * path as u64 + weight.bytes + 40 * (weight.count + 8) + map;
        6 * BLOCK + records.next_multiple_of(BLOCK) + size.div_ceil(BLOCK).saturating_mul(BLOCK)
    }

    /// Checks the depth and the length of a path.
    pub(super) fn place(&self, parts: usize, bytes: usize) -> Result<(), ExceededBound> {
        if parts > self.depth as usize {
            return Err(ExceededBound::Depth(self.depth));
        }
        if bytes as u64 > self.path_bytes {
            return Err(ExceededBound::Path(self.path_bytes));
        }
        Ok(())
    }

    /// Checks the size of a file.
    pub(super) fn file(&self, bytes: u64) -> Result<(), ExceededBound> {
        match self.file_bytes {
            limit if bytes > limit => Err(ExceededBound::File { bytes, limit }),
            _ => Ok(()),
        }
    }

    /// Checks the extended attributes of an entry.
    pub(super) fn xattrs(&self, weight: &Weight, is_root: bool) -> Result<(), ExceededBound> {
        if let Some(name) = &weight.invalid_name {
            return Err(ExceededBound::XattrName(name.clone()));
        }
        let (name, bytes) = &weight.longest;
        if *bytes > self.xattr_value {
            let (name, bytes, limit) = (name.clone(), *bytes, self.xattr_value);
            return Err(ExceededBound::XattrValue { name, bytes, limit });
        }
        if weight.bytes > self.xattr_bytes {
            return Err(ExceededBound::Xattrs { bytes: weight.bytes, limit: self.xattr_bytes });
        }
        if is_root && weight.count > self.root_xattrs {
            return Err(ExceededBound::RootXattrs { found: weight.count, limit: self.root_xattrs });
        }
        Ok(())
    }
}
