//! A layer's metadata: the file `layer.json`. It never changes, except that a layer without a content digest gets one.

use std::{fs, io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    access::Access,
    content_digest::ContentDigest,
    key::{ChainId, LayerKey},
    layer_storage::LayerStorage,
};
use crate::{
    changeset::{LayerFeatures, Unpacked},
    digest::DiffId,
    media_type::Format,
    sys::{
        clone::Cloned,
        durable::{self, at},
    },
};

/// The content of `layer.json`: what is known of a layer without opening it. People may read it too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerMeta {
    #[serde(rename = "form")]
    pub(super) storage: LayerStorage,
    /// The digest of its uncompressed tar; `None` for a snapshot layer, which was not added from a tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) diff_id: Option<DiffId>,
    /// The layer's key, if that is neither its diff ID nor a ChainID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<LayerKey>,
    /// The ChainID of the layers below, if the layer was unpacked on top of them.
    #[serde(rename = "onto", default, skip_serializing_if = "Option::is_none")]
    pub(super) below: Option<ChainId>,
    /// The size of its uncompressed tar, in bytes; 0 for a snapshot layer.
    pub(super) tar_bytes: u64,
    /// The size of its image, or of a snapshot layer's files, in bytes.
    pub(super) image_bytes: u64,
    /// The number of its entries.
    pub(super) entries: u64,
    /// Whether it hides all layers below it.
    pub(super) opaque_root: bool,
    /// Whether it has directories that its tar does not name. On top of other layers it would be another tree: such a
    /// directory then has the attributes of the one below.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_unnamed: bool,
    /// The overlay features that a mount with this layer must enable.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) features: LayerFeatures,
    /// The digest of what lies on the disk. `None` for a layer of an earlier version, or one that was made of an upper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<ContentDigest>,
    /// When it was added, by the wall clock.
    pub(super) added: Timestamp,
}

/// The contents of a snapshot layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotContents {
    /// The number of its names.
    pub entries: u64,
    /// The bytes of its files.
    pub bytes: u64,
    /// The overlay features that a mount with this layer must enable.
    pub features: LayerFeatures,
}

/// What a copy of a tree has, as a layer.
impl From<Cloned> for SnapshotContents {
    fn from(copy: Cloned) -> Self {
        let Cloned { entries, bytes, metacopy, redirect, torn: _ } = copy;
        Self { entries, bytes, features: LayerFeatures { metacopy, redirect } }
    }
}

fn is_default(features: &LayerFeatures) -> bool {
    *features == LayerFeatures::default()
}

impl LayerMeta {
    pub(super) fn new(
        storage: LayerStorage,
        format: Format,
        unpacked: &Unpacked,
        below: Option<ChainId>,
        content: Option<ContentDigest>,
    ) -> Self {
        Self {
            storage,
            diff_id: Some(unpacked.diff_id),
            key: (format == Format::Native).then(|| LayerKey::alone(&unpacked.diff_id, format)),
            below,
            tar_bytes: unpacked.tar_bytes,
            image_bytes: unpacked.image_bytes,
            entries: unpacked.entries,
            opaque_root: unpacked.opaque_root,
            has_unnamed: unpacked.has_unnamed,
            features: unpacked.features,
            content,
            added: Timestamp::now(),
        }
    }

    pub(super) fn of_snapshot(key: LayerKey, contents: &SnapshotContents) -> Self {
        Self {
            storage: LayerStorage::Dir,
            diff_id: None,
            key: Some(key),
            below: None,
            tar_bytes: 0,
            image_bytes: contents.bytes,
            entries: contents.entries,
            // A pod cannot replace the root of its volume, so the root is never opaque.
            opaque_root: false,
            has_unnamed: false,
            features: contents.features,
            content: None,
            added: Timestamp::now(),
        }
    }

    /// Whether it is a snapshot layer: copied from a volume's upper.
    pub(super) fn is_snapshot(&self) -> bool {
        self.diff_id.is_none()
    }

    /// The layer's key; `None` if the metadata is invalid.
    pub(super) fn key(&self) -> Option<LayerKey> {
        let member = self.chain_member()?;
        Some(match (self.key, &self.below) {
            (None, Some(below)) => LayerKey::of_chain(&ChainId::new(Some(below), &member)),
            _ => member,
        })
    }

    /// The key that the layer has alone, which represents it in the ChainID of a stack; `None` if the metadata is
    /// invalid.
    pub(super) fn chain_member(&self) -> Option<LayerKey> {
        self.key.or_else(|| Some(LayerKey::alone(&self.diff_id?, Format::Portable)))
    }

    /// Reads the metadata of the layer in `dir`.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join("layer.json");
        fs::read(&path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(at("read", &path))
    }

    /// Adds the content digest to the metadata of the layer in `dir`. Fields of a later version stay.
    pub(super) fn add_content(
        dir: &Path,
        content: &ContentDigest,
        access: &Access,
    ) -> io::Result<()> {
        let path = dir.join("layer.json");
        let read = fs::read(&path).and_then(|bytes| {
            Ok(serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes)?)
        });
        let mut fields = read.map_err(at("read", &path))?;
        fields.insert("content".to_owned(), serde_json::to_value(content)?);
        access.replace(&path, &serde_json::to_vec_pretty(&fields)?)
    }

    /// Writes the metadata into `dir`, durably.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        durable::write_atomic(&dir.join("layer.json"), &serde_json::to_vec_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first version wrote the only origin into `layer.json`. A driver is upgraded while pods run.
    #[test]
    fn layer_metadata_of_the_first_version_is_read() {
        let (dir, diff_id) = (tempfile::TempDir::new().unwrap(), DiffId::of(b"tar"));
        let old = serde_json::json!({
            "form": "erofs", "diff_id": diff_id, "tar_bytes": 3, "image_bytes": 4096, "entries": 1, "opaque_root": true,
            "origin": { "registry": "r.io", "repository": "a", "blob": crate::digest::BlobDigest::of(b"blob") },
            "added": "2026-11-01T10:00:00Z",
        });
        fs::write(dir.path().join("layer.json"), old.to_string()).unwrap();
        let read = LayerMeta::read(dir.path()).unwrap();
        assert_eq!(
            (read.storage, read.diff_id, read.image_bytes),
            (LayerStorage::Erofs, Some(diff_id), 4096)
        );
        assert!(read.opaque_root);
        let key = LayerKey::alone(&diff_id, Format::Portable);
        assert_eq!(
            (read.key(), read.chain_member(), read.is_snapshot()),
            (Some(key), Some(key), false)
        );
        assert_eq!(read.features, LayerFeatures::default());
        assert_eq!(read.content, None);
    }
}
