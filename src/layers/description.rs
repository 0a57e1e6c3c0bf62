//! What is written beside a layer: what it is, which never changes, and where it came from, which grows.

use std::{fs, io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::onto::chain_id;
use crate::{
    changeset::Unpacked,
    digest::Digest,
    sys::durable::{self, at},
};

/// `layer.json`: for people, and for what has to be known of a layer without opening it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) form: Form,
    pub(super) diff_id: Digest,
    /// For a layer that was made onto others: the ChainID of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) onto: Option<Digest>,
    pub(super) tar_bytes: u64,
    /// What the layer takes on the disk.
    pub(super) image_bytes: u64,
    pub(super) entries: u64,
    /// Whether it hides everything below it.
    pub(super) opaque_root: bool,
    pub(super) added: Timestamp,
}

/// How a layer lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One EROFS image, `layer.erofs`.
    Erofs,
    /// A folder tree, `diff/`.
    Dir,
}

impl Form {
    /// The name of the layer's bytes in its folder.
    pub(super) fn content(self) -> &'static str {
        match self {
            Self::Erofs => "layer.erofs",
            Self::Dir => "diff",
        }
    }
}

impl Description {
    pub(super) fn new(form: Form, unpacked: &Unpacked, onto: Option<Digest>) -> Self {
        Self {
            form,
            diff_id: unpacked.diff_id,
            onto,
            tar_bytes: unpacked.tar_bytes,
            image_bytes: unpacked.image_bytes,
            entries: unpacked.entries,
            opaque_root: unpacked.opaque_root,
            added: Timestamp::now(),
        }
    }

    /// The key under which the layer is kept.
    pub(super) fn key(&self) -> Digest {
        chain_id(self.onto.as_ref(), &self.diff_id)
    }

    /// Reads that of the layer in `folder`.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let path = folder.join("layer.json");
        fs::read(&path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(at("read", &path))
    }

    /// Writes it into `folder`.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        durable::write_atomic(&folder.join("layer.json"), &serde_json::to_vec_pretty(self)?)
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
}

/// Whether both name the same bytes in the same place.
pub(super) fn same_place(one: &Origin, other: &Origin) -> bool {
    (&one.registry, &one.repository, one.blob) == (&other.registry, &other.repository, other.blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it, with its only origin inside: a driver is upgraded while pods run.
    #[test]
    fn a_description_of_the_first_version_is_read() {
        let (folder, diff_id) = (tempfile::TempDir::new().unwrap(), Digest::of(b"tar"));
        let old = serde_json::json!({
            "form": "erofs", "diff_id": diff_id, "tar_bytes": 3, "image_bytes": 4096, "entries": 1, "opaque_root": true,
            "origin": { "registry": "r.io", "repository": "a", "blob": Digest::of(b"blob") },
            "added": "2026-11-01T10:00:00Z",
        });
        fs::write(folder.path().join("layer.json"), old.to_string()).unwrap();
        let read = Description::read(folder.path()).unwrap();
        assert_eq!((read.form, read.diff_id, read.image_bytes), (Form::Erofs, diff_id, 4096));
        assert!(read.opaque_root);
    }
}
