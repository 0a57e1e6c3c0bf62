//! What a volume's `snapshot: NAME` leads to on a node without a cluster.

use serde_json::json;

use super::*;
use crate::{
    digest::Digest,
    image::fake::{FakeRegistry, OCI_MANIFEST},
    layers::SnapshotSource,
    sys::mounts::MemoryMounts,
    volumes::Owner,
};

/// A node with an empty store, and a registry where others push.
struct Here {
    registry: FakeRegistry,
    lookup: LocalLookup,
    _folder: tempfile::TempDir,
}

impl Here {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Arc::new(MemoryMounts::default())).unwrap();
        let registry = FakeRegistry::start().await;
        let lookup = LocalLookup {
            store: Arc::new(store),
            registries: Arc::new(registry.registries()),
            keyring: Keyring::default(),
            node: "n".into(),
            repository: Some(format!("{}/snapshots", registry.host()).parse().unwrap()),
        };
        Self { registry, lookup, _folder: folder }
    }

    async fn find(&self, namespace: &str, name: &str) -> Result<FoundSnapshot, LookupError> {
        self.lookup.find(namespace, name).await
    }

    /// As another node's push leaves it there.
    fn pushed(&self, name: &str, annotations: serde_json::Value) -> Digest {
        let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
            "digest": Digest::of(b"{}").to_string() });
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
            "layers": [], "annotations": annotations });
        self.registry.put_manifest("snapshots", name, &manifest.to_string(), OCI_MANIFEST)
    }
}

fn kept(name: &str) -> SnapshotRecord {
    SnapshotRecord {
        format: SnapshotRecord::FORMAT,
        id: name.parse().unwrap(),
        stack: Vec::new(),
        own: 2,
        manifests: Vec::new(),
        base: None,
        parent: None,
        source: SnapshotSource {
            namespace: "ci".into(),
            pod: "build".into(),
            pod_uid: "u-1".into(),
            volume: "csi-0123".into(),
        },
        owner: Some((1000, 100)),
        cut: "2026-11-21T10:00:00Z".parse().unwrap(),
        entries: 1,
        bytes: 1,
        frozen_micros: None,
        ended: false,
        torn: 0,
        pushed: None,
    }
}

#[tokio::test]
async fn a_snapshot_of_this_node_is_for_its_namespace_alone() {
    let here = Here::new().await;
    here.lookup.store.put_snapshot(kept("ws-1")).unwrap();
    let found = here.find("ci", "ws-1").await.unwrap();
    assert_eq!((found.own, found.image), (2, None));
    assert_eq!(found.owner, Some(Owner { uid: 1000, gid: 100 }));
    let denied = here.find("other", "ws-1").await.unwrap_err();
    assert!(denied.to_string().contains("another namespace"), "{denied}");
    let absent = here.find("ci", "ws-2").await.unwrap_err();
    assert_eq!(absent.class(), Class::NotFound, "{absent}");
}

#[tokio::test]
async fn one_that_another_node_has_pushed_is_found_by_its_name() {
    let here = Here::new().await;
    let digest = here.pushed(
        "ws-1",
        json!({ "dev.csi.ovl.namespace": "ci", "dev.csi.ovl.own-layers": "3",
            "dev.csi.ovl.owner": "1000:100" }),
    );
    let found = here.find("ci", "ws-1").await.unwrap();
    assert_eq!(found.image, Some(here.lookup.repository.as_ref().unwrap().at(&digest)));
    assert_eq!((found.own, found.owner), (3, Some(Owner { uid: 1000, gid: 100 })));
    assert_eq!(here.find("other", "ws-1").await.unwrap_err().class(), Class::Denied);
}

#[tokio::test]
async fn what_is_no_snapshot_there_is_not_taken_for_one() {
    let here = Here::new().await;
    here.pushed("image", json!({ "dev.csi.ovl.namespace": "ci" }));
    let unreadable = here.find("ci", "image").await.unwrap_err();
    assert_eq!(unreadable.class(), Class::Precondition, "{unreadable}");
    here.pushed("plain", json!({}));
    assert_eq!(here.find("ci", "plain").await.unwrap_err().class(), Class::Denied);
}

#[tokio::test]
async fn no_sentence_of_a_node_without_a_cluster_is_about_a_volume_snapshot() {
    let here = Here::new().await;
    here.lookup.store.put_snapshot(kept("ws-1")).unwrap();
    here.pushed("image", json!({ "dev.csi.ovl.namespace": "ci" }));
    here.pushed("plain", json!({}));
    for (namespace, name) in [("other", "ws-1"), ("ci", "ws-2"), ("ci", "image"), ("ci", "plain")] {
        let said = here.find(namespace, name).await.unwrap_err().to_string();
        assert!(said.contains(&format!("snapshot {name}")), "{said}");
        assert!(!said.contains("VolumeSnapshot"), "{said}");
    }
    let none = crate::volumes::NoSnapshots.find("ci", "ws-1").await.unwrap_err();
    assert!(!none.to_string().contains("VolumeSnapshot"), "{none}");
}
