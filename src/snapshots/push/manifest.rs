//! Makes the manifest of a snapshot's image (image-spec, manifest.md).
//!
//! Pure. The lineage is in annotations, not in `subject`: registries delete the manifests that refer to a manifest
//! together with it, and a snapshot must outlive the snapshot from which its volume started.

use std::collections::BTreeMap;

use crate::{
    changeset,
    digest::{BlobDigest, ManifestDigest},
    image::{NewLayerBlob, new_manifest},
    layers::{PackedBlob, SnapshotRecord},
    media_type::{self, Format},
};

/// A layer blob of an image that is pushed or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The digest of the blob, that is of the compressed bytes.
    pub digest: BlobDigest,
    /// The media type, size and diff ID of the blob.
    pub packed: PackedBlob,
}

impl Blob {
    /// The blob of a layer that was packed here.
    pub fn packed(packed: &changeset::Packed, format: Format) -> Self {
        let media_type = media_type::of_layer(format, packed.compression).to_owned();
        let (size, diff_id) = (packed.size, packed.diff_id);
        Self { digest: packed.digest, packed: PackedBlob { media_type, size, diff_id } }
    }

    /// The layer in a manifest.
    pub fn in_manifest(&self) -> NewLayerBlob<'_> {
        let Self { digest, packed } = self;
        NewLayerBlob { media_type: &packed.media_type, digest, size: packed.size }
    }
}

/// The bytes of the manifest.
pub(super) fn manifest(
    config: &[u8],
    layers: &[Blob],
    annotations: &BTreeMap<&str, String>,
) -> Vec<u8> {
    new_manifest(config, layers.iter().map(Blob::in_manifest), annotations)
}

/// The annotations of the manifest, which give its origin. `volume` is the volume's name in its pod, or its
/// CSI id on a node without a cluster. `parent` is the reference of the parent's image, if it is known.
pub(super) fn annotations(
    record: &SnapshotRecord,
    volume: &str,
    parent: Option<String>,
) -> BTreeMap<&'static str, String> {
    let source = &record.source;
    let known = [
        ("org.opencontainers.image.created", Some(record.captured_at.to_string())),
        ("org.opencontainers.image.base.name", record.base.clone()),
        (
            "org.opencontainers.image.base.digest",
            record.manifests.first().map(ManifestDigest::to_string),
        ),
        ("dev.csi.ovl.snapshot", Some(record.id.to_string())),
        ("dev.csi.ovl.namespace", Some(source.namespace.clone())),
        ("dev.csi.ovl.pod", Some(source.pod.clone())),
        ("dev.csi.ovl.volume", Some(volume.to_owned())),
        ("dev.csi.ovl.own-layers", Some(record.own_layers.to_string())),
        ("dev.csi.ovl.owner", record.owner.map(|owner| owner.to_string())),
        ("dev.csi.ovl.parent", record.parent.as_ref().map(ToString::to_string)),
        ("dev.csi.ovl.parent.image", parent),
    ];
    known.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        digest::DiffId,
        layers::{LayerKey, testing::snapshot_record},
        owner::Owner,
    };

    fn record() -> SnapshotRecord {
        SnapshotRecord {
            stack: vec![LayerKey::of(b"base"), LayerKey::of(b"captured")],
            manifests: vec![ManifestDigest::of(b"manifest")],
            ..snapshot_record("snap-1")
        }
    }

    #[test]
    fn a_manifest_has_exactly_these_bytes() {
        let layer = Blob {
            digest: BlobDigest::of(b"blob"),
            packed: PackedBlob {
                media_type: "application/vnd.oci.image.layer.v1.tar+zstd".into(),
                size: 4,
                diff_id: DiffId::of(b"tar"),
            },
        };
        let named = SnapshotRecord { base: Some("r.io/base:1".into()), ..record() };
        let annotations = annotations(&named, "ws", None);
        let text = String::from_utf8(manifest(b"{}", &[layer], &annotations)).unwrap();
        let (base, config, blob) =
            (ManifestDigest::of(b"manifest"), BlobDigest::of(b"{}"), BlobDigest::of(b"blob"));
        let expected = format!(
            r#"{{"annotations":{{"dev.csi.ovl.namespace":"ci","dev.csi.ovl.own-layers":"1","dev.csi.ovl.pod":"build","dev.csi.ovl.snapshot":"snap-1","dev.csi.ovl.volume":"ws","org.opencontainers.image.base.digest":"{base}","org.opencontainers.image.base.name":"r.io/base:1","org.opencontainers.image.created":"2026-11-21T10:00:00Z"}},"config":{{"digest":"{config}","mediaType":"application/vnd.oci.image.config.v1+json","size":2}},"layers":[{{"digest":"{blob}","mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","size":4}}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn lineage_and_owner_are_annotations() {
        let child = SnapshotRecord {
            parent: Some("snap-0".parse().unwrap()),
            owner: Some(Owner { uid: 1000, gid: 100 }),
            manifests: Vec::new(),
            ..record()
        };
        let known = annotations(&child, "ws", Some("r.io/ws@sha256:1".into()));
        assert_eq!(known["dev.csi.ovl.parent"], "snap-0");
        assert_eq!(known["dev.csi.ovl.parent.image"], "r.io/ws@sha256:1");
        assert_eq!(known["dev.csi.ovl.owner"], "1000:100");
        assert!(!known.keys().any(|key| key.contains("base")));
    }
}
