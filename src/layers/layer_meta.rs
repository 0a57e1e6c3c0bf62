//! What is written beside a layer: what it is, which never changes, and where it came from, which grows.

use std::{fs, io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{SnapshotContents, parent_layers::chain_id};
use crate::{
    changeset::{Features, Format, Unpacked},
    digest::Digest,
    sys::durable::{self, at},
};

/// `layer.json`: for people, and for what has to be known of a layer without opening it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerMeta {
    pub(super) form: LayerFormat,
    /// Of the tar that it came as; a cut came as none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) diff_id: Option<Digest>,
    /// Under what it is kept, where that is neither its diff id nor a ChainID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Digest>,
    /// For a layer that was made onto others: the ChainID of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) onto: Option<Digest>,
    pub(super) tar_bytes: u64,
    /// What the layer takes on the disk.
    pub(super) image_bytes: u64,
    pub(super) entries: u64,
    /// Whether it hides everything below it.
    pub(super) opaque_root: bool,
    /// Whether it has directories that its tar does not name. Made onto others, it would be another tree.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_unnamed: bool,
    /// Overlay's marks in it that a mount has to be told to follow.
    #[serde(default, skip_serializing_if = "is_none_of_them")]
    pub(super) features: Features,
    pub(super) added: Timestamp,
}

/// How a layer lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerFormat {
    /// One EROFS image, `layer.erofs`.
    Erofs,
    /// A directory tree, `diff/`.
    Dir,
}

impl LayerFormat {
    /// The name of the layer's bytes in its directory.
    pub(super) fn content(self) -> &'static str {
        match self {
            Self::Erofs => "layer.erofs",
            Self::Dir => "diff",
        }
    }
}

fn is_none_of_them(features: &Features) -> bool {
    *features == Features::default()
}

/// The key of a native layer. The same tar, read as a portable one, is another tree, so its diff id alone would not say which.
pub fn native_key(diff_id: &Digest) -> Digest {
    Digest::of(format!("ovl-csi native {diff_id}").as_bytes())
}

/// The key of a layer that is made alone.
pub fn layer_key(diff_id: &Digest, format: Format) -> Digest {
    match format {
        Format::Portable => *diff_id,
        Format::Native => native_key(diff_id),
    }
}

impl LayerMeta {
    pub(super) fn new(
        form: LayerFormat,
        format: Format,
        unpacked: &Unpacked,
        onto: Option<Digest>,
    ) -> Self {
        Self {
            form,
            diff_id: Some(unpacked.diff_id),
            key: (format == Format::Native).then(|| native_key(&unpacked.diff_id)),
            onto,
            tar_bytes: unpacked.tar_bytes,
            image_bytes: unpacked.image_bytes,
            entries: unpacked.entries,
            opaque_root: unpacked.opaque_root,
            has_unnamed: unpacked.has_unnamed,
            features: unpacked.features,
            added: Timestamp::now(),
        }
    }

    pub(super) fn of_snapshot(key: Digest, contents: &SnapshotContents) -> Self {
        Self {
            form: LayerFormat::Dir,
            diff_id: None,
            key: Some(key),
            onto: None,
            tar_bytes: 0,
            image_bytes: contents.bytes,
            entries: contents.entries,
            // Whoever writes to a volume cannot remove its root.
            opaque_root: false,
            has_unnamed: false,
            features: contents.features,
            added: Timestamp::now(),
        }
    }

    /// Whether it was copied out of a volume.
    pub(super) fn is_snapshot(&self) -> bool {
        self.diff_id.is_none()
    }

    /// The key under which the layer is kept; `None` where the description is broken.
    pub(super) fn key(&self) -> Option<Digest> {
        self.key.or_else(|| Some(chain_id(self.onto.as_ref(), self.diff_id.as_ref()?)))
    }

    /// What stands for it in the ChainID of a stack: its diff id. That says nothing of a cut, and of a native layer not which of two
    /// trees it is, so for these it is the key.
    pub(super) fn link(&self) -> Option<Digest> {
        self.key.or(self.diff_id)
    }

    /// Reads that of the layer in `dir`.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join("layer.json");
        fs::read(&path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(at("read", &path))
    }

    /// Writes it into `dir`.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        durable::write_atomic(&dir.join("layer.json"), &serde_json::to_vec_pretty(self)?)
    }
}

/// Where a layer's bytes came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The registry, `host[:port]`.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// The digest of the blob as it lies there (compressed).
    pub blob: Digest,
    /// Whether it was given to somebody without a credential.
    pub public: bool,
    /// What a manifest says of it, so that another one can name it too; not known of one that an earlier version brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// For a layer that was pushed there: the namespace whose snapshot it is of. It says nothing of any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A layer's blob as a manifest and its config describe it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Packed {
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// The digest of its uncompressed tar: for a cut the store knows none by itself.
    pub diff_id: Digest,
}

/// Whether both name the same bytes in the same place, for the same askers.
pub(super) fn same_place(one: &Origin, other: &Origin) -> bool {
    let place = (&one.registry, &one.repository, one.blob, &one.namespace);
    place == (&other.registry, &other.repository, other.blob, &other.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it, with its only origin inside: a driver is upgraded while pods run.
    #[test]
    fn a_description_of_the_first_version_is_read() {
        let (dir, diff_id) = (tempfile::TempDir::new().unwrap(), Digest::of(b"tar"));
        let old = serde_json::json!({
            "form": "erofs", "diff_id": diff_id, "tar_bytes": 3, "image_bytes": 4096, "entries": 1, "opaque_root": true,
            "origin": { "registry": "r.io", "repository": "a", "blob": Digest::of(b"blob") },
            "added": "2026-11-01T10:00:00Z",
        });
        fs::write(dir.path().join("layer.json"), old.to_string()).unwrap();
        let read = LayerMeta::read(dir.path()).unwrap();
        assert_eq!(
            (read.form, read.diff_id, read.image_bytes),
            (LayerFormat::Erofs, Some(diff_id), 4096)
        );
        assert!(read.opaque_root);
        assert_eq!(
            (read.key(), read.link(), read.is_snapshot()),
            (Some(diff_id), Some(diff_id), false)
        );
        assert_eq!(read.features, Features::default());
    }
}
