//! Makes the manifest of an image that is pushed or written (image-spec, manifest.md).
//!
//! Pure. The same facts give the same bytes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    digest::BlobDigest,
    media_type::{OCI_CONFIG, OCI_MANIFEST},
};

/// A layer in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewLayerBlob<'a> {
    /// The media type.
    pub media_type: &'a str,
    /// The digest of the blob, that is of the compressed bytes.
    pub digest: &'a BlobDigest,
    /// The size of the blob in bytes.
    pub size: u64,
}

/// The bytes of the manifest with this config and these layers, bottom first.
pub fn new_manifest<'a>(
    config: &[u8],
    layers: impl IntoIterator<Item = NewLayerBlob<'a>>,
    annotations: &BTreeMap<&str, String>,
) -> Vec<u8> {
    let layers = layers.into_iter().map(|it| descriptor(it.media_type, it.digest, it.size));
    let manifest = json!({
        "annotations": annotations,
        "config": descriptor(OCI_CONFIG, &BlobDigest::of(config), config.len() as u64),
        "layers": layers.collect::<Vec<_>>(),
        "mediaType": OCI_MANIFEST,
        "schemaVersion": 2,
    });
    manifest.to_string().into_bytes()
}

fn descriptor(media_type: &str, digest: &BlobDigest, size: u64) -> Value {
    json!({ "digest": digest, "mediaType": media_type, "size": size })
}
