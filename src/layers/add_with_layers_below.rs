//! Layers that need the layers below them: their hard links have targets in these, or their entries lie in directories
//! whose attributes only these define.
//!
//! Such a layer is valid in one stack only. Its key is the ChainID of the stack up to it (`key.rs`). All other code
//! treats all keys alike. An image may claim a ChainID as a diff ID, see [`Layers::fits`].

use std::{
    io::{self, Read},
    os::unix::fs::MetadataExt as _,
    sync::Arc,
};

use super::{
    add::{NewLayer, StackBelow},
    error::{AddError, LowerError},
    key::{ChainId, LayerKey},
    layer_meta::LayerMeta,
    mounted_layer::OpenLayer,
    reservation::Reservation,
    stored_layers::Layers,
};
use crate::{
    changeset::{EntryBelow, EntryBelowKind, LayersBelow, LookupBelow},
    digest::DiffId,
    erofs::{Extent, Meta, Special, Time, XattrError, Xattrs},
    media_type::Format,
    overlay_xattr::OPAQUE,
    sys::{
        mounts::Detached,
        tree_reader::{self, Entry, EntryType},
    },
};

impl Layers {
    /// As [`Layers::add`], for a layer that needs the layers below it, or that is the bottom layer. `below` are the keys
    /// of the layers below, bottom first. Returns the layer's key. The caller has a lease of all of them.
    ///
    /// # Errors
    /// As [`Layers::add`]; or a layer of `below` cannot be opened ([`AddError::LayerBelow`]).
    pub fn add_with_layers_below(
        &self,
        layer: &NewLayer,
        below: &[LayerKey],
        reservation: Reservation,
        blob: impl Read + Send,
    ) -> Result<LayerKey, AddError> {
        let failed = |source| AddError::LayerBelow { diff_id: layer.diff_id, source };
        let chain = self.chain_id(below).map_err(failed)?;
        let below = below.iter().map(|key| self.lower(key).map_err(failed));
        let stack = OpenLayers(below.collect::<Result<_, _>>()?);
        self.add_layer(layer, Some(StackBelow { chain, files: &stack }), reservation, blob)
    }

    /// The keys that a layer of an image can have on top of the layers `below`, bottom first.
    ///
    /// # Errors
    /// The metadata of a layer below cannot be read.
    pub fn possible_keys(
        &self,
        diff_id: &DiffId,
        format: Format,
        below: &[LayerKey],
    ) -> Result<Vec<LayerKey>, LowerError> {
        let alone = LayerKey::alone(diff_id, format);
        let mut keys = Vec::new();
        let place = if below.is_empty() { Place::Bottom } else { Place::Any };
        if self.fits(&alone, place) {
            keys.push(alone);
        }
        let chain = self.chain_id(below)?;
        let chained = LayerKey::of_chain(&ChainId::new(chain.as_ref(), &alone));
        if !below.is_empty() && self.fits(&chained, Place::Chain) {
            keys.push(chained);
        }
        Ok(keys)
    }

    /// The ChainID of a stack of layers, bottom first. `None` for no layers.
    ///
    /// # Errors
    /// The metadata of a layer cannot be read.
    pub fn chain_id(&self, layers: &[LayerKey]) -> Result<Option<ChainId>, LowerError> {
        layers.iter().try_fold(None, |chain, key| {
            let member = self.dirs.meta(key)?.chain_member().unwrap_or(*key);
            Ok(Some(ChainId::new(chain.as_ref(), &member)))
        })
    }

    /// Whether the layer with this key exists and may be used in this place of a stack. A ChainID that an image claims
    /// as a diff ID is refused: such a layer has content of the layers below, which its origins do not cover. The key
    /// of a snapshot layer is refused too: its content is from another user's volume.
    pub fn fits(&self, key: &LayerKey, place: Place) -> bool {
        if !self.has(key) {
            return false;
        }
        let Ok(meta) = LayerMeta::read(&self.dirs.of(key)) else { return place != Place::Chain };
        let follows_from_diff_id = !meta.is_snapshot() && meta.chain_member() == Some(*key);
        match place {
            Place::Any => follows_from_diff_id && !meta.has_unnamed,
            Place::Bottom => follows_from_diff_id,
            Place::Chain => !follows_from_diff_id,
        }
    }
}

/// The place of a layer in a stack, which decides what its key must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Anywhere in any stack: it does not depend on the layers below, and its key is derived from its diff ID.
    Any,
    /// At the bottom of a stack. Its key is derived from its diff ID.
    Bottom,
    /// On top of the layers that its key, a ChainID, names.
    Chain,
}

/// Open layers, bottom first.
struct OpenLayers(Vec<OpenLayer>);

/// The result of the lookup of a path in one layer.
#[derive(Debug)]
enum LayerLookup {
    /// The layer does not have the path. This number of its leading components are directories in the layer.
    Missing(usize),
    /// The layer does not have the path and hides it in the layers below.
    Hidden,
    /// The component with this index, not the last one, is this symbolic link.
    Symlink(usize, Entry),
    /// The layer has the path.
    Found(Entry),
}

impl LayersBelow for OpenLayers {
    fn find(&self, path: &[u8], mut dirs: usize) -> io::Result<LookupBelow> {
        for layer in self.0.iter().rev() {
            match lookup(&layer.tree, path)? {
                LayerLookup::Found(found) => return entry_below(&found),
                LayerLookup::Symlink(depth, link) if depth >= dirs => {
                    return Ok(LookupBelow::Through(depth, link.target()?));
                }
                LayerLookup::Hidden | LayerLookup::Symlink(..) => return Ok(LookupBelow::Nothing),
                LayerLookup::Missing(_) if layer.opaque_root => return Ok(LookupBelow::Nothing),
                LayerLookup::Missing(depth) => dirs = dirs.max(depth),
            }
        }
        Ok(LookupBelow::Nothing)
    }
}

/// Looks a path up in one layer. Follows no symbolic link.
fn lookup(tree: &Arc<Detached>, path: &[u8]) -> io::Result<LayerLookup> {
    let (mut at, mut opaque) = (Entry::root(tree)?, false);
    for (depth, part) in path.split(|byte| *byte == b'/').enumerate() {
        match at.entry_type() {
            EntryType::Dir => {}
            EntryType::Symlink => return Ok(LayerLookup::Symlink(depth - 1, at)),
            _ => return Ok(LayerLookup::Hidden),
        }
        // Overlay ignores the xattr on a layer's root; `OpenLayer::opaque_root` covers that case.
        opaque |= depth > 0 && at.xattr(OPAQUE)?.is_some_and(|value| value == b"y");
        match at.entry(part)? {
            Some(entry) if entry.entry_type() == EntryType::Whiteout => {
                return Ok(LayerLookup::Hidden);
            }
            Some(entry) => at = entry,
            None if opaque => return Ok(LayerLookup::Hidden),
            None => return Ok(LayerLookup::Missing(depth)),
        }
    }
    Ok(LayerLookup::Found(at))
}

/// Describes a file of a layer below, for a copy or a hard link in the new layer.
fn entry_below(found: &Entry) -> io::Result<LookupBelow> {
    let metadata = found.metadata()?;
    let kind = match found.entry_type() {
        EntryType::File => {
            let content = found.open()?;
            let data = tree_reader::data_ranges(&content)?;
            let data = data.into_iter().map(|(offset, len)| Extent { offset, len }).collect();
            EntryBelowKind::File { content, size: metadata.len(), data }
        }
        EntryType::Symlink => EntryBelowKind::Symlink(found.target()?),
        EntryType::Dir => EntryBelowKind::Dir,
        EntryType::Fifo => EntryBelowKind::Special(Special::Fifo),
        EntryType::CharDevice(major, minor) => {
            EntryBelowKind::Special(Special::CharDevice(major, minor))
        }
        EntryType::BlockDevice(major, minor) => {
            EntryBelowKind::Special(Special::BlockDevice(major, minor))
        }
        EntryType::Socket => EntryBelowKind::Special(Special::Socket),
        EntryType::Whiteout => return Ok(LookupBelow::Nothing),
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
    Ok(LookupBelow::There(EntryBelow { id: (metadata.dev(), metadata.ino()), meta, kind }))
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
#[path = "add_with_layers_below_tests.rs"]
mod tests;
