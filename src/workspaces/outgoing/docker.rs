//! The documents of an archive as of `docker save`.
//!
//! Pure. Deliberately absent: `repositories` and the directories of layers of older versions, which no present reader needs.

use serde_json::json;

use crate::{digest::Digest, reference::Reference, snapshots::Blob};

/// The name of the list of images.
pub(super) const MANIFEST: &str = "manifest.json";

/// The name of a layer in the archive.
pub(super) fn layer(layer: &Blob) -> String {
    format!("{}.tar", layer.packed.diff_id.digest().hex())
}

/// The name of a config in the archive.
pub(super) fn config(config: &[u8]) -> String {
    format!("{}.json", Digest::of(config).hex())
}

/// The list of images with this one.
pub(super) fn manifest(config: &[u8], layers: &[Blob], name: Option<&Reference>) -> Vec<u8> {
    let names: Vec<String> = name.map(ToString::to_string).into_iter().collect();
    let layers: Vec<String> = layers.iter().map(layer).collect();
    let image = json!({ "Config": self::config(config), "RepoTags": names, "Layers": layers });
    json!([image]).to_string().into_bytes()
}
