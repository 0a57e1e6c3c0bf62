//! Layers that cannot be made alone: their hard links lead to files of the layers below them, or what they hold lies in directories
//! that these describe.
//!
//! Such a layer is good for one stack only, so it is kept under the OCI ChainID of the stack up to it instead of its diff id
//! (image-spec, config.md, "Layer ChainID"). All else treats the two kinds of keys alike. No layer's diff id is such a key: it
//! would be a tar of 143 bytes, which is none; but an image may claim one, see [`Store::fits`]. A cut has no diff id, and a native
//! layer's does not say which of two trees it is; in a ChainID their keys stand for them.

use std::{
    io::{self, Read},
    os::unix::fs::MetadataExt as _,
    sync::Arc,
};

use super::{AddError, Lower, NewLayer, Reservation, Store, layer_meta::LayerMeta};
use crate::{
    changeset::{ParentEntry, ParentEntryKind, ParentLayers, ParentLookup},
    digest::Digest,
    erofs::{Extent, Meta, Special, Time, XattrError, Xattrs},
    sys::{
        mounts::Detached,
        tree_reader::{self, Entry, EntryType},
    },
};

/// Overlay's mark of a directory that shows nothing of the layers below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The ChainID of a stack: the one of the stack `below` the layer `diff_id`, and that.
pub fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    below.map_or(*diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes()))
}

impl Store {
    /// Like [`Store::add`] for a layer that needs the layers below it, or lies on none: `below` are the keys of the layers beneath it, bottom first.
    /// Answers its key. The caller has a lease of all of them.
    pub fn add_onto(
        &self,
        layer: &NewLayer,
        below: &[Digest],
        room: Reservation,
        blob: impl Read + Send,
    ) -> Result<Digest, AddError> {
        let told = |source| AddError::Below { diff_id: layer.diff_id, source };
        let mut chain = None;
        let mut stack = Stack(Vec::new());
        for key in below {
            stack.0.push(self.lower(key).map_err(told)?);
            let link = self.description(key).map_err(told)?.link().unwrap_or(*key);
            chain = Some(chain_id(chain.as_ref(), &link));
        }
        self.take(layer, chain, Some(&stack), room, blob)
    }

    /// Whether the layer under this key is here and may lie in this place. A ChainID must not be taken for a diff id: what such a
    /// layer holds of the layers below, its origins do not show, and a cut is of somebody's volume.
    pub fn fits(&self, key: &Digest, place: Place) -> bool {
        if !self.has(key) {
            return false;
        }
        let Ok(known) = LayerMeta::read(&self.layer(key)) else { return place != Place::Chain };
        let follows_from_diff_id = !known.is_snapshot() && known.link() == Some(*key);
        match place {
            Place::Any => follows_from_diff_id && !known.has_unnamed,
            Place::Bottom => follows_from_diff_id,
            Place::Chain => !follows_from_diff_id,
        }
    }
}

/// Where a layer is to lie, which says what its key has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Anywhere in any stack: it was made alone, and its key follows from its diff id.
    Any,
    /// At the bottom of a stack. Its key follows from its diff id.
    Bottom,
    /// On the layers that its key, a ChainID, names.
    Chain,
}

/// Open layers, bottom first.
struct Stack(Vec<Lower>);

/// What one layer says of a path.
#[derive(Debug)]
enum Seen {
    /// Nothing; so many of its first parts are directories in it.
    Nothing(usize),
    /// It hides what lies below.
    Hidden,
    /// The part with this number is this symbolic link, and not the last.
    Through(usize, Entry),
    There(Entry),
}

impl ParentLayers for Stack {
    fn find(&self, path: &[u8], mut dirs: usize) -> io::Result<ParentLookup> {
        for lower in self.0.iter().rev() {
            match look(&lower.tree, path)? {
                Seen::There(found) => return linked(&found),
                Seen::Through(depth, link) if depth >= dirs => {
                    return Ok(ParentLookup::Through(depth, link.target()?));
                }
                Seen::Hidden | Seen::Through(..) => return Ok(ParentLookup::Nothing),
                Seen::Nothing(_) if lower.opaque_root => return Ok(ParentLookup::Nothing),
                Seen::Nothing(depth) => dirs = dirs.max(depth),
            }
        }
        Ok(ParentLookup::Nothing)
    }
}

fn look(tree: &Arc<Detached>, path: &[u8]) -> io::Result<Seen> {
    let (mut at, mut opaque) = (Entry::root(tree)?, false);
    for (depth, part) in path.split(|byte| *byte == b'/').enumerate() {
        match at.sort() {
            EntryType::Dir => {}
            EntryType::Symlink => return Ok(Seen::Through(depth - 1, at)),
            _ => return Ok(Seen::Hidden),
        }
        // On a layer's root the mark means nothing to overlay; the store knows it otherwise.
        opaque |= depth > 0 && at.xattr(OPAQUE)?.is_some_and(|value| value == b"y");
        match at.entry(part)? {
            Some(entry) if entry.sort() == EntryType::Whiteout => return Ok(Seen::Hidden),
            Some(entry) => at = entry,
            None if opaque => return Ok(Seen::Hidden),
            None => return Ok(Seen::Nothing(depth)),
        }
    }
    Ok(Seen::There(at))
}

fn linked(found: &Entry) -> io::Result<ParentLookup> {
    let metadata = found.metadata()?;
    let kind = match found.sort() {
        EntryType::File => {
            let content = found.open()?;
            let data = tree_reader::data(&content)?;
            let data = data.into_iter().map(|(offset, len)| Extent { offset, len }).collect();
            ParentEntryKind::File { content, size: metadata.len(), data }
        }
        EntryType::Symlink => ParentEntryKind::Symlink(found.target()?),
        EntryType::Dir => ParentEntryKind::Dir,
        EntryType::Fifo => ParentEntryKind::Special(Special::Fifo),
        EntryType::CharDevice(major, minor) => {
            ParentEntryKind::Special(Special::CharDevice(major, minor))
        }
        EntryType::BlockDevice(major, minor) => {
            ParentEntryKind::Special(Special::BlockDevice(major, minor))
        }
        EntryType::Socket => ParentEntryKind::Special(Special::Socket),
        EntryType::Whiteout => return Ok(ParentLookup::Nothing),
    };
    let meta = Meta {
        mode: (metadata.mode() & 0o7777) as u16,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Time {
            seconds: metadata.mtime(),
            nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
        xattrs: xattrs(found)?,
    };
    Ok(ParentLookup::There(ParentEntry { id: (metadata.dev(), metadata.ino()), meta, kind }))
}

fn xattrs(found: &Entry) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::default();
    for (name, value) in found.xattrs()? {
        match xattrs.set(&name, &value) {
            Ok(()) | Err(XattrError::Namespace) => {}
            Err(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
    }
    Ok(xattrs)
}

#[cfg(test)]
#[path = "parent_layers_tests.rs"]
mod tests;
