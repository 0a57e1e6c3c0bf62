//! Which inode an entry of an upper was copied up from: overlay's `origin` xattr (Linux, `fs/overlayfs/overlayfs.h`,
//! `struct ovl_fb`), compared with the inode that the original has now.
//!
//! Deliberately absent: the UUID in it, which says nothing that a handle does not.

use std::io;

use crate::{
    overlay_xattr::ORIGIN,
    sys::tree_reader::{Entry, EntryType, FileHandle},
    workspaces::attributes::lookup,
};

/// The bytes before the handle: version, magic, length, flags, form of the handle, UUID.
const HEAD: usize = 21;
const MAGIC: u8 = 0xfb;

/// The origin of a path in the layers of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The path was made in the copy, or no layer has it.
    None,
    /// It was copied up, from an inode that overlay could not name.
    Unknown,
    /// It was copied up from this inode.
    Of(FileHandle),
}

impl Origin {
    /// The origin of a path in the lowest layer that has it. The layers come bottom first.
    pub(super) fn find(layers: &[Entry], path: &[u8]) -> io::Result<Self> {
        for layer in layers {
            match lookup(layer, path)? {
                None => {}
                // What is above a whiteout was made in the copy.
                Some(entry) if entry.entry_type() == EntryType::Whiteout => return Ok(Self::None),
                Some(entry) => {
                    let value = entry.xattr(ORIGIN)?;
                    return Ok(value.map_or(Self::None, |value| Self::parse(&value)));
                }
            }
        }
        Ok(Self::None)
    }

    fn parse(value: &[u8]) -> Self {
        match value {
            [0, MAGIC, len, _flags, kind, ..]
                if value.len() > HEAD && value.len() == usize::from(*len) =>
            {
                Self::Of(FileHandle { kind: i32::from(*kind), bytes: value[HEAD..].to_vec() })
            }
            _ => Self::Unknown,
        }
    }

    /// Whether the original is another inode. `None` if that cannot be known.
    pub(super) fn differs_from(&self, original: &Entry) -> io::Result<Option<bool>> {
        match self {
            Self::None => Ok(Some(false)),
            Self::Unknown => Ok(None),
            Self::Of(handle) => Ok(original.handle()?.map(|found| found != *handle)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_and_what_is_no_origin_is_unknown() {
        let mut value = vec![0, MAGIC, 29, 0, 1];
        value.extend([7; 16]);
        value.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        let handle = FileHandle { kind: 1, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8] };
        assert_eq!(Origin::parse(&value), Origin::Of(handle));
        for broken in [&value[..28], &[], &[0; 40], &[0, MAGIC, 5, 0, 1]] {
            assert_eq!(Origin::parse(broken), Origin::Unknown, "{broken:?}");
        }
    }
}
