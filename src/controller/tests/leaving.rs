//! Tests of removal: how long the controller waits for a node, and how it reports what a node could not remove.

use serde_json::json;

use super::world::{CONTENTS, SNAPSHOTS, VS, World, reconcile_all};

const MADE: &str = "snap-vs-1";

/// A snapshot whose removal is requested from a node that does not respond.
async fn removal_requested() -> World {
    removal_requested_of(json!({})).await
}

/// The same for a VolumeSnapshot with these further fields in its spec.
async fn removal_requested_of(spec: serde_json::Value) -> World {
    let world = World::new();
    world.class("pushed", "Delete", json!({"repository": "r.io/{namespace}"}));
    world.request(spec);
    world.settle().await;
    world.silence_node();
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    let made = world.api.get(&format!("{SNAPSHOTS}/{MADE}")).unwrap();
    assert_eq!(made["spec"]["deleted"], true);
    world
}

/// The node reports a status, after the removal was requested so many minutes ago.
async fn node_reports(world: &World, status: serde_json::Value, minutes: i64) {
    let path = format!("{SNAPSHOTS}/{MADE}");
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
    let annotations = json!({"ovl.csi.dev/deleted-at": since.to_string()});
    world.api.patch(&path, json!({"metadata": {"annotations": annotations}}));
    world.api.patch(&format!("{path}/status"), json!({ "status": status }));
    world.settle().await;
}

#[tokio::test]
async fn the_controller_waits_longer_for_a_node_that_has_started_the_removal() {
    for (phase, minutes, waits) in [
        ("Ready", 9, true),
        ("Ready", 11, false),
        ("Deleting", 11, true),
        ("Deleting", 29, true),
        ("Deleting", 31, false),
    ] {
        let world = removal_requested().await;
        node_reports(&world, json!({"phase": phase}), minutes).await;
        assert_eq!(world.api.all(SNAPSHOTS).len(), usize::from(waits), "{phase} {minutes}");
        let last = world.reasons().await.last().cloned();
        assert_eq!(last.as_deref() == Some("DeletedWithoutNode"), !waits, "{phase} {minutes}");
    }
}

#[tokio::test]
async fn the_controller_waits_for_a_node_that_is_not_ready_for_a_moment() {
    for (minutes, waits) in [(0, true), (2, false)] {
        let world = removal_requested().await;
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        let condition =
            json!({"type": "Ready", "status": "Unknown", "lastTransitionTime": since.to_string()});
        let status = json!({"status": {"conditions": [condition]}});
        world.api.patch("/api/v1/nodes/n-1/status", status);
        // The removal was requested before the node became not ready.
        node_reports(&world, json!({"phase": "Deleting"}), 5).await;
        assert_eq!(world.api.all(SNAPSHOTS).len(), usize::from(waits), "{minutes}");
    }
}

#[tokio::test]
async fn an_image_that_may_stay_in_the_registry_is_reported() {
    let world = removal_requested_of(json!({"volumeSnapshotClassName": "pushed"})).await;
    node_reports(&world, json!({"phase": "Ready"}), 11).await;
    assert_eq!(world.reasons().await.last().map(String::as_str), Some("ImageNotDeleted"));
    let events = world.api.all("/api/v1/namespaces/ci/events");
    let expected = "the image may still be in r.io/ci, where an administrator must delete it: the snapshot was deleted \
                    without node n-1, which did not delete it within 10m;";
    let is_expected = |event: &serde_json::Value| {
        event["message"].as_str().is_some_and(|message| message.starts_with(expected))
    };
    assert!(events.iter().any(is_expected), "{events:?}");
}

#[tokio::test]
async fn an_image_that_stays_in_the_registry_is_reported() {
    for (message, events_expected) in
        [(json!("the image is still in r.io/ci: no"), 1), (json!(null), 0)]
    {
        let world = removal_requested().await;
        node_reports(&world, json!({"phase": "Deleted", "message": message}), 1).await;
        world.assert_empty();
        let left = world.reasons().await.into_iter().filter(|reason| reason == "ImageNotDeleted");
        assert_eq!(left.count(), events_expected);
        let events = world.api.all("/api/v1/namespaces/ci/events");
        let expected = "node n-1 deleted the snapshot, but the image is still in r.io/ci: no";
        let count = events.iter().filter(|event| event["message"] == expected).count();
        assert_eq!(count, events_expected);
    }
}

/// csi-snapshotter replaces the status of a content after a call DeleteSnapshot, and warns if the content changed
/// meanwhile.
#[tokio::test]
async fn a_content_does_not_change_after_its_snapshot_is_removed() {
    let world = removal_requested().await;
    let status = json!({"status": {"phase": "Deleted"}});
    world.api.patch(&format!("{SNAPSHOTS}/{MADE}/status"), status);
    let before = world.reconciler(&world.controller);
    world.controller.delete_snapshot(MADE).await.unwrap();
    let removed = world.api.all(CONTENTS);
    assert_eq!(removed[0]["metadata"]["annotations"]["ovl.csi.dev/phase"], "Deleted");
    for reconciler in [before, world.reconciler(&world.controller)] {
        reconcile_all(&reconciler).await;
        assert_eq!(world.api.all(CONTENTS), removed);
    }
}
