//! The record of one image: what the store knows of it, and which names lead to it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::LayerKey;
use crate::digest::{BlobDigest, ManifestDigest};

/// One image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its manifest.
    pub manifest: ManifestDigest,
    /// The references, in canonical form, that resolved to it when they were last resolved; the latest last.
    pub references: Vec<String>,
    /// The digests of the image indexes through which it was resolved; the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<ManifestDigest>,
    /// The keys of its layers, bottom first.
    pub layers: Vec<LayerKey>,
    /// The digest of its config. `None` in a record of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<BlobDigest>,
    /// When it was last resolved.
    pub resolved: Timestamp,
    /// When a volume was last created from it without a request to a registry. The value on disk may be an hour older.
    #[serde(default)]
    pub used: Option<Timestamp>,
}

/// The fields of an image's record besides its layers. A field that is `None` keeps its recorded value.
#[derive(Debug, Clone, Default)]
pub struct ImageDetails {
    /// The digest of the image index through which it was resolved, if any.
    pub index: Option<ManifestDigest>,
    /// The digest of its config.
    pub config_digest: Option<BlobDigest>,
    /// The fields of its config on which a snapshot's image is based, as JSON.
    pub config: Option<String>,
}

impl ImageRecord {
    /// When it was last resolved or used.
    pub fn last_use(&self) -> Timestamp {
        self.used.map_or(self.resolved, |used| used.max(self.resolved))
    }

    /// Whether a reference to `place` (`registry/repository`) was resolved to it.
    pub(super) fn is_from(&self, place: &str) -> bool {
        let from = |reference: &String| {
            reference.strip_prefix(place).is_some_and(|rest| rest.starts_with([':', '@']))
        };
        self.references.iter().any(from)
    }

    pub(super) fn is_named(&self, reference: &str) -> bool {
        self.references.iter().any(|known| known == reference)
    }
}
