//! The lookup of a volume's `snapshot: NAME` on a node without a cluster.

use serde_json::json;

use super::*;
use crate::{
    digest::{Digest, ManifestDigest},
    image::fake::{FakeRegistry, OCI_MANIFEST},
    layers::testing::snapshot_record,
    owner::Owner,
    sys::mounts::FakeMounts,
};

/// A node with an empty store, and a registry to which other nodes push.
struct Node {
    registry: FakeRegistry,
    lookup: LocalLookup,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
        let registry = FakeRegistry::start().await;
        let lookup = LocalLookup {
            store: Arc::new(store),
            registries: Arc::new(registry.registries()),
            keyring: Keyring::default(),
            node: "n".into(),
            repository: Some(format!("{}/snapshots", registry.host()).parse().unwrap()),
        };
        Self { registry, lookup, _dir: dir }
    }

    async fn find(&self, namespace: &str, name: &str) -> Result<FoundSnapshot, LookupError> {
        self.lookup.find(namespace, name).await
    }

    /// Puts the manifest into the registry as a push of another node does.
    fn pushed(&self, name: &str, annotations: serde_json::Value) -> ManifestDigest {
        let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
            "digest": Digest::of(b"{}").to_string() });
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
            "layers": [], "annotations": annotations });
        self.registry.put_manifest("snapshots", name, &manifest.to_string(), OCI_MANIFEST)
    }
}

fn record(name: &str) -> SnapshotRecord {
    SnapshotRecord {
        own_layers: 2,
        owner: Some(Owner { uid: 1000, gid: 100 }),
        ..snapshot_record(name)
    }
}

#[tokio::test]
async fn a_snapshot_of_this_node_is_found_by_its_own_namespace_only() {
    let node = Node::new().await;
    node.lookup.store.snapshots.put(record("ws-1")).unwrap();
    let found = node.find("ci", "ws-1").await.unwrap();
    assert_eq!((found.snapshot_layers, found.image), (2, None));
    assert_eq!(found.owner, Some(Owner { uid: 1000, gid: 100 }));
    let denied = node.find("other", "ws-1").await.unwrap_err();
    assert!(denied.to_string().contains("another namespace"), "{denied}");
    let absent = node.find("ci", "ws-2").await.unwrap_err();
    assert_eq!(absent.class(), Class::NotFound, "{absent}");
}

#[tokio::test]
async fn a_snapshot_that_another_node_has_pushed_is_found_by_its_name() {
    let node = Node::new().await;
    let digest = node.pushed(
        "ws-1",
        json!({ "dev.csi.ovl.namespace": "ci", "dev.csi.ovl.own-layers": "3",
            "dev.csi.ovl.owner": "1000:100" }),
    );
    let found = node.find("ci", "ws-1").await.unwrap();
    assert_eq!(found.image, Some(node.lookup.repository.as_ref().unwrap().at(&digest)));
    assert_eq!((found.snapshot_layers, found.owner), (3, Some(Owner { uid: 1000, gid: 100 })));
    assert_eq!(node.find("other", "ws-1").await.unwrap_err().class(), Class::Denied);
}

#[tokio::test]
async fn an_image_without_a_snapshots_annotations_is_refused() {
    let node = Node::new().await;
    node.pushed("image", json!({ "dev.csi.ovl.namespace": "ci" }));
    let unreadable = node.find("ci", "image").await.unwrap_err();
    assert_eq!(unreadable.class(), Class::Precondition, "{unreadable}");
    node.pushed("plain", json!({}));
    assert_eq!(node.find("ci", "plain").await.unwrap_err().class(), Class::Denied);
}

#[tokio::test]
async fn no_message_without_a_cluster_mentions_a_volume_snapshot() {
    let node = Node::new().await;
    node.lookup.store.snapshots.put(record("ws-1")).unwrap();
    node.pushed("image", json!({ "dev.csi.ovl.namespace": "ci" }));
    node.pushed("plain", json!({}));
    for (namespace, name) in [("other", "ws-1"), ("ci", "ws-2"), ("ci", "image"), ("ci", "plain")] {
        let message = node.find(namespace, name).await.unwrap_err().to_string();
        assert!(message.contains(&format!("snapshot {name}")), "{message}");
        assert!(!message.contains("VolumeSnapshot"), "{message}");
    }
    let none = crate::volumes::NoSnapshots.find("ci", "ws-1").await.unwrap_err();
    assert!(!none.to_string().contains("VolumeSnapshot"), "{none}");
}
