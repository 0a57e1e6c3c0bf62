//! Which snapshots a pod can use, and which lookups are refused.

use serde_json::{Value, json};

use super::*;
use crate::{cluster::fake::FakeApi, digest::Digest, error::Class};

const SNAPSHOTS: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/ci/volumesnapshots";
const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
const OVERLAYS: &str = "/apis/ovl.csi.dev/v1alpha1/overlaysnapshots";

/// The three objects of a snapshot that is ready and pushed.
fn objects() -> [Value; 3] {
    let snapshot = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": { "name": "ws-1", "namespace": "ci", "uid": "vs-uid" },
        "spec": { "source": { "volumeSnapshotContentName": "content-1" } },
        "status": { "boundVolumeSnapshotContentName": "content-1" },
    });
    let content = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": { "name": "content-1" },
        "spec": {
            "driver": "ovl.csi.dev", "deletionPolicy": "Delete",
            "source": { "snapshotHandle": "snap-vs-uid" },
            "volumeSnapshotRef": { "namespace": "ci", "name": "ws-1", "uid": "vs-uid" },
        },
        "status": { "snapshotHandle": "snap-vs-uid" },
    });
    let overlay = json!({
        "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlaySnapshot",
        "metadata": { "name": "snap-vs-uid" },
        "spec": {
            "driver": "ovl.csi.dev", "nodeName": "node-1", "volumeHandle": "csi-0123",
            "source": { "namespace": "ci", "pod": "build", "podUid": "u-1", "volume": "ws" },
            "volumeSnapshot": { "namespace": "ci", "name": "ws-1", "uid": "vs-uid" },
            "freezeTimeoutMillis": 5000, "squashAbove": 32, "repository": "r.io/ws",
        },
        "status": {
            "phase": "Ready", "ownLayers": 3, "owner": "1000:100",
            "image": format!("r.io/ws@{}", Digest::of(b"manifest")),
        },
    });
    [snapshot, content, overlay]
}

/// The result of a lookup on node-2, after a merge patch of one of the objects.
async fn found(changed: usize, patch: Value) -> Result<FoundSnapshot, LookupError> {
    found_on("node-2", changed, patch).await
}

async fn found_on(node: &str, changed: usize, patch: Value) -> Result<FoundSnapshot, LookupError> {
    let (api, mut objects) = (FakeApi::default(), objects());
    merge(&mut objects[changed], &patch);
    for (path, object) in [SNAPSHOTS, CONTENTS, OVERLAYS].into_iter().zip(objects) {
        api.put(path, object);
    }
    let lookup = SnapshotsByName::new(api.client(), "ovl.csi.dev", node);
    lookup.find("ci", "ws-1").await
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => fields.iter().for_each(|(k, v)| merge(&mut target[k], v)),
        other => *target = other.clone(),
    }
}

#[tokio::test]
async fn a_ready_snapshot_is_found_with_its_image_and_owner() {
    let found = found(0, json!({})).await.unwrap();
    let image = format!("r.io/ws@{}", Digest::of(b"manifest"));
    assert_eq!(
        found,
        FoundSnapshot {
            id: "snap-vs-uid".parse().unwrap(),
            node: "node-1".into(),
            image: Some(image.parse().unwrap()),
            if_lost: "node node-1 checks this once an hour, and pushes the image again if it still has the layers; \
                      wait for that, or take a new snapshot"
                .into(),
            snapshot_layers: 3,
            owner: Some(Owner { uid: 1000, gid: 100 }),
        }
    );
}

#[tokio::test]
async fn a_snapshot_whose_objects_do_not_refer_to_each_other_is_refused() {
    const VS: usize = 0;
    const CONTENT: usize = 1;
    const OVERLAY: usize = 2;
    let refers = |patch: Value| json!({ "spec": { "volumeSnapshotRef": patch } });
    for (changed, patch, class, words) in [
        // Not yet.
        (VS, json!({ "status": null }), Class::Unavailable, "it has no content yet"),
        (
            VS,
            json!({ "status": { "boundVolumeSnapshotContentName": null, "error": { "message": "reason" } } }),
            Class::Unavailable,
            "reason",
        ),
        (
            VS,
            json!({ "status": { "boundVolumeSnapshotContentName": "none" } }),
            Class::Unavailable,
            "its content does not exist",
        ),
        (
            VS,
            json!({ "status": { "boundVolumeSnapshotContentName": "../nodes/n" } }),
            Class::Denied,
            "the name of its content is invalid",
        ),
        (
            CONTENT,
            json!({
                "spec": { "source": { "snapshotHandle": "a/../b" } },
                "status": { "snapshotHandle": "a/../b" },
            }),
            Class::Denied,
            "the name of its OverlaySnapshot is invalid",
        ),
        (CONTENT, refers(json!({ "uid": null })), Class::Unavailable, "not bound to it yet"),
        (
            CONTENT,
            json!({ "spec": { "source": { "snapshotHandle": null } }, "status": null }),
            Class::Unavailable,
            "no handle yet",
        ),
        (OVERLAY, json!({ "status": null }), Class::Unavailable, "node-1 is capturing it"),
        (
            OVERLAY,
            json!({ "status": { "phase": "Pushing", "image": null, "message": "registry down" } }),
            Class::Unavailable,
            "node-1 is pushing it: registry down",
        ),
        // Of another namespace or driver, or being deleted.
        (
            VS,
            json!({ "metadata": { "deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["x"] } }),
            Class::Denied,
            "being deleted",
        ),
        (CONTENT, json!({ "spec": { "driver": "other" } }), Class::Denied, "to driver other"),
        (CONTENT, refers(json!({ "namespace": "prod" })), Class::Denied, "another VolumeSnapshot"),
        (CONTENT, refers(json!({ "name": "ws-2" })), Class::Denied, "another VolumeSnapshot"),
        (CONTENT, refers(json!({ "uid": "other" })), Class::Denied, "earlier VolumeSnapshot"),
        (
            CONTENT,
            json!({ "status": { "snapshotHandle": "snap-other" } }),
            Class::Denied,
            "two handles",
        ),
        (OVERLAY, json!({ "spec": { "driver": "other" } }), Class::Denied, "to driver other"),
        (
            OVERLAY,
            json!({ "spec": { "source": { "namespace": "prod" } } }),
            Class::Denied,
            "another namespace",
        ),
        (
            OVERLAY,
            json!({ "spec": { "volumeSnapshot": { "namespace": "prod", "uid": "other" } } }),
            Class::Denied,
            "another namespace",
        ),
        (OVERLAY, json!({ "spec": { "deleted": true } }), Class::Denied, "being deleted"),
        (OVERLAY, json!({ "status": { "phase": "Deleting" } }), Class::Denied, "being deleted"),
        // Failed for good.
        (
            OVERLAY,
            json!({ "status": { "phase": "Failed", "message": "the pod is gone" } }),
            Class::Precondition,
            "failed: the pod is gone; take a new snapshot",
        ),
        (
            OVERLAY,
            json!({ "metadata": { "name": "snap-other" } }),
            Class::Precondition,
            "its OverlaySnapshot was deleted",
        ),
        (
            OVERLAY,
            json!({ "status": { "image": "not/an image" } }),
            Class::Precondition,
            "its image cannot be read",
        ),
        (
            OVERLAY,
            json!({ "status": { "owner": "me" } }),
            Class::Precondition,
            "its owner cannot be read",
        ),
        (
            OVERLAY,
            json!({ "status": { "owner": "+5:4294967295" } }),
            Class::Precondition,
            "its owner cannot be read",
        ),
    ] {
        let error = found(changed, patch.clone()).await.unwrap_err();
        assert_eq!(error.class(), class, "{patch}: {error}");
        assert!(error.to_string().contains(words), "{patch}: {error}");
        assert!(error.to_string().contains("ws-1"), "{patch}: {error}");
    }
}

/// An administrator writes a content with the handle of a snapshot that was retained, or restores a backup, which gives
/// VolumeSnapshots new uids.
#[tokio::test]
async fn the_snapshot_of_another_volume_snapshot_can_be_used_only_when_that_one_is_gone() {
    let (api, objects) = (FakeApi::default(), objects());
    for (path, mut object) in [SNAPSHOTS, CONTENTS, OVERLAYS].into_iter().zip(objects) {
        if path == OVERLAYS {
            object["spec"]["volumeSnapshot"] =
                json!({ "namespace": "ci", "name": "ws-0", "uid": "earlier" });
        }
        api.put(path, object);
    }
    let other = |name: &str, uid: &str| {
        json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
            "metadata": { "name": name, "namespace": "ci", "uid": uid },
            "spec": { "source": {} },
        })
    };
    let lookup = SnapshotsByName::new(api.client(), "ovl.csi.dev", "node-2");
    api.put(SNAPSHOTS, other("ws-0", "earlier"));
    let error = lookup.find("ci", "ws-1").await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    assert!(error.to_string().contains("snap-vs-uid, which is of VolumeSnapshot ws-0"), "{error}");
    api.delete(&format!("{SNAPSHOTS}/ws-0"));
    assert_eq!(lookup.find("ci", "ws-1").await.unwrap().id.as_str(), "snap-vs-uid");
    // Another VolumeSnapshot of that name.
    api.put(SNAPSHOTS, other("ws-0", "later"));
    assert!(lookup.find("ci", "ws-1").await.is_ok());
}

/// A CSI call requested it, so it refers to no VolumeSnapshot.
#[tokio::test]
async fn a_snapshot_that_refers_to_no_volume_snapshot_can_be_used_in_its_namespace() {
    assert!(found(2, json!({ "spec": { "volumeSnapshot": null } })).await.is_ok());
}

#[tokio::test]
async fn the_node_that_pushes_a_snapshot_can_use_it_at_once() {
    let pushing = json!({ "status": { "phase": "Pushing", "image": null } });
    let found = found_on("node-1", 2, pushing.clone()).await.unwrap();
    assert_eq!((found.node.as_str(), found.image), ("node-1", None));
    assert!(found_on("node-2", 2, pushing).await.is_err());
}

#[tokio::test]
async fn a_snapshot_whose_image_the_registry_has_lost_is_found_with_the_way_out() {
    for (phase, words) in [
        ("NotInRegistry", "node node-1 cannot push it again either (`kubectl ovl describe ws-1`"),
        ("Pushing", "node node-1 is pushing it again"),
    ] {
        let patch = json!({ "status": { "phase": phase, "message": "m" } });
        // A node that has pulled the image before can use it without the registry.
        let found = found_on("node-2", 2, patch).await.unwrap();
        assert!(found.image.is_some() && found.if_lost.starts_with(words), "{found:?}");
    }
}

#[tokio::test]
async fn a_snapshot_that_failed_after_its_capture_can_be_used_on_its_node() {
    let failed = |r#type: &str, captured: &str| {
        let condition = |r#type: &str, status: &str| {
            json!({
                "type": r#type, "status": status, "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            })
        };
        let conditions = [condition(r#type, captured), condition("Pushed", "False")];
        json!({ "status": { "phase": "Failed", "image": null, "conditions": conditions } })
    };
    // An earlier version wrote the type `Cut`.
    for r#type in ["Captured", "Cut"] {
        assert_eq!(found_on("node-1", 2, failed(r#type, "True")).await.unwrap().image, None);
    }
    for (node, captured) in [("node-2", "True"), ("node-1", "False")] {
        let error = found_on(node, 2, failed("Captured", captured)).await.unwrap_err();
        assert_eq!(error.class(), Class::Precondition, "{node} {captured}: {error}");
    }
}

#[tokio::test]
async fn an_image_in_the_status_must_be_in_the_repository_of_the_spec() {
    let digest = Digest::of(b"manifest");
    for (repository, image, words) in [
        (json!("r.io/ws"), format!("evil.io/ws@{digest}"), "is not in r.io/ws"),
        (json!("r.io/ws"), format!("r.io/other@{digest}"), "is not in r.io/ws"),
        (json!("r.io/ws"), format!("r.io:444/ws@{digest}"), "is not in r.io/ws"),
        (json!("r.io/ws"), "r.io/ws:latest".to_owned(), "has no digest"),
        (json!(null), format!("r.io/ws@{digest}"), "has an image but no repository"),
    ] {
        let patch =
            json!({ "spec": { "repository": repository }, "status": { "image": image.clone() } });
        // It is refused on its own node too.
        for node in ["node-1", "node-2"] {
            let error = found_on(node, 2, patch.clone()).await.unwrap_err();
            assert_eq!(error.class(), Class::Denied, "{image}: {error}");
            assert!(error.to_string().contains(words), "{image}: {error}");
        }
    }
    // The same repository, written in another form.
    let patch = json!({
        "spec": { "repository": "team/x" },
        "status": { "image": format!("docker.io/team/x@{digest}") },
    });
    assert!(found(2, patch).await.unwrap().image.is_some());
}

#[tokio::test]
async fn a_missing_snapshot_and_an_unavailable_api_server_are_different_errors() {
    let empty = SnapshotsByName::new(FakeApi::default().client(), "ovl.csi.dev", "n");
    let error = empty.find("ci", "ws-1").await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.to_string().contains("no snapshot ws-1 in namespace ci"), "{error}");
    let down = SnapshotsByName::new(FakeApi::responding(&[503]).client(), "ovl.csi.dev", "n");
    assert_eq!(down.find("ci", "ws-1").await.unwrap_err().class(), Class::Unavailable);
}
