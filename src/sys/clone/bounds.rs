//! What a layer can hold, so that whatever is copied can be packed, and be unpacked elsewhere.
//!
//! Deliberately absent: numbers. `changeset::Limits` is their only list.

use super::metadata::Weight;

/// The most that a layer can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Names in it.
    pub entries: u64,
    /// Parts of a path.
    pub depth: u32,
    /// Bytes of a path.
    pub path_bytes: u64,
    /// Bytes of one file, holes included.
    pub file_bytes: u64,
    /// Bytes of all files with what a tar has beside them, holes included.
    pub tar_bytes: u64,
    /// Bytes of one entry's extended attributes, names and values.
    pub xattr_bytes: u64,
    /// Bytes of one such value.
    pub xattr_value: u64,
    /// Extended attributes of the root.
    pub root_xattrs: u64,
}

/// Which bound is passed, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Beyond {
    /// Too many directories in each other.
    #[error("it lies more than {0} names deep, the most that a layer may have; move it up")]
    Depth(u32),
    /// Too long a path.
    #[error(
        "its path has more than {0} bytes, the most that a layer may have; shorten its names, or move it up"
    )]
    Path(u64),
    /// Too large a file.
    #[error(
        "it has {bytes} bytes with its holes, and a file of a layer has at most {limit}; shorten or remove it"
    )]
    File {
        /// Its bytes.
        bytes: u64,
        /// The most.
        limit: u64,
    },
    /// Too much of everything.
    #[error(
        "up to here the volume has more than {0} bytes with what a tar needs beside them, the most that a layer may have; remove \
         some files, or take snapshots more often"
    )]
    Tar(u64),
    /// Too large attributes.
    #[error(
        "its extended attributes have {bytes} bytes, and an entry of a layer has at most {limit}; remove some"
    )]
    Xattrs {
        /// Their bytes.
        bytes: u64,
        /// The most.
        limit: u64,
    },
    /// Too large a value.
    #[error(
        "its extended attribute {name:?} has {bytes} bytes, and one of a layer has at most {limit}; shorten or remove it"
    )]
    XattrValue {
        /// Its name.
        name: String,
        /// Bytes of its value.
        bytes: u64,
        /// The most.
        limit: u64,
    },
    /// A name that a tar cannot hold.
    #[error(
        "its extended attribute {0:?} has a \"=\" in its name, which no layer can hold; remove it"
    )]
    XattrName(String),
    /// The root has less room for them than others.
    #[error(
        "the volume's root has {found} extended attributes, and that of a layer has at most {limit}; remove some"
    )]
    RootXattrs {
        /// How many.
        found: u64,
        /// The most.
        limit: u64,
    },
}

/// Bytes of a tar's header, and what all is rounded up to.
const BLOCK: u64 = 512;
/// Smaller files get no map of their holes, and no map is longer.
const HOLES_FROM: u64 = 64 << 10;
const MAP_MOST: u64 = 1 << 20;

impl Bounds {
    /// The most bytes that an entry takes in a tar: a header and one for its records, and these, and its content; a directory may
    /// have a mark beside it.
    pub(super) fn packed(path: usize, size: u64, weight: &Weight) -> u64 {
        // A record's own words, for each attribute and for the path, a link's target, owner, time and size; and a map of holes.
        let map = if size < HOLES_FROM { 0 } else { (size / 32).min(MAP_MOST) };
        let records = 3 * path as u64 + weight.bytes + 40 * (weight.count + 8) + map;
        6 * BLOCK + records.next_multiple_of(BLOCK) + size.div_ceil(BLOCK).saturating_mul(BLOCK)
    }

    /// Checks where something lies.
    pub(super) fn place(&self, parts: usize, bytes: usize) -> Result<(), Beyond> {
        if parts > self.depth as usize {
            return Err(Beyond::Depth(self.depth));
        }
        if bytes as u64 > self.path_bytes {
            return Err(Beyond::Path(self.path_bytes));
        }
        Ok(())
    }

    /// Checks a file's size.
    pub(super) fn file(&self, bytes: u64) -> Result<(), Beyond> {
        match self.file_bytes {
            limit if bytes > limit => Err(Beyond::File { bytes, limit }),
            _ => Ok(()),
        }
    }

    /// Checks extended attributes.
    pub(super) fn xattrs(&self, weight: &Weight, is_root: bool) -> Result<(), Beyond> {
        if let Some(name) = &weight.odd {
            return Err(Beyond::XattrName(name.clone()));
        }
        let (name, bytes) = &weight.longest;
        if *bytes > self.xattr_value {
            let (name, bytes, limit) = (name.clone(), *bytes, self.xattr_value);
            return Err(Beyond::XattrValue { name, bytes, limit });
        }
        if weight.bytes > self.xattr_bytes {
            return Err(Beyond::Xattrs { bytes: weight.bytes, limit: self.xattr_bytes });
        }
        if is_root && weight.count > self.root_xattrs {
            return Err(Beyond::RootXattrs { found: weight.count, limit: self.root_xattrs });
        }
        Ok(())
    }
}
