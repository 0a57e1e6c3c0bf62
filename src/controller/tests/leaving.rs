//! Snapshots that go: how long a node is waited for, and what it could not remove.

use serde_json::json;

use super::world::{SNAPSHOTS, VS, World};

const MADE: &str = "snap-vs-1";

/// A snapshot that its node is to remove, and nothing was heard of yet.
async fn leaving() -> World {
    let world = World::new();
    world.ask(json!({}));
    world.settle().await;
    world.silence_node();
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    let made = world.api.get(&format!("{SNAPSHOTS}/{MADE}")).unwrap();
    assert_eq!(made["spec"]["deleted"], true);
    world
}

/// The node says so, and has had so many minutes.
async fn said(world: &World, status: serde_json::Value, minutes: i64) {
    let path = format!("{SNAPSHOTS}/{MADE}");
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
    let annotations = json!({"ovl.csi.dev/deleted-at": since.to_string()});
    world.api.patch(&path, json!({"metadata": {"annotations": annotations}}));
    world.api.patch(&format!("{path}/status"), json!({ "status": status }));
    world.settle().await;
}

#[tokio::test]
async fn a_node_at_work_is_waited_for_longer_than_one_that_says_nothing() {
    for (phase, minutes, waits) in [
        ("Ready", 9, true),
        ("Ready", 11, false),
        ("Deleting", 11, true),
        ("Deleting", 29, true),
        ("Deleting", 31, false),
    ] {
        let world = leaving().await;
        said(&world, json!({"phase": phase}), minutes).await;
        assert_eq!(world.api.all(SNAPSHOTS).len(), usize::from(waits), "{phase} {minutes}");
        let told = world.reasons().await.last().cloned();
        assert_eq!(told.as_deref() == Some("SnapshotLeftBehind"), !waits, "{phase} {minutes}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_ready_for_a_moment_is_waited_for() {
    for (minutes, waits) in [(0, true), (2, false)] {
        let world = leaving().await;
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        let condition =
            json!({"type": "Ready", "status": "Unknown", "lastTransitionTime": since.to_string()});
        let status = json!({"status": {"conditions": [condition]}});
        world.api.patch("/api/v1/nodes/n-1/status", status);
        // At it for longer than that.
        said(&world, json!({"phase": "Deleting"}), 5).await;
        assert_eq!(world.api.all(SNAPSHOTS).len(), usize::from(waits), "{minutes}");
    }
}

#[tokio::test]
async fn what_is_left_in_a_registry_is_told() {
    for (message, told) in [(json!("its manifest is left in r.io/ci: no"), 1), (json!(null), 0)] {
        let world = leaving().await;
        said(&world, json!({"phase": "Deleted", "message": message}), 1).await;
        world.assert_empty();
        let left =
            world.reasons().await.into_iter().filter(|reason| reason == "SnapshotLeftBehind");
        assert_eq!(left.count(), told);
        let events = world.api.all("/api/v1/namespaces/ci/events");
        let sentence = "removed by node n-1: its manifest is left in r.io/ci: no";
        assert_eq!(events.iter().filter(|event| event["message"] == sentence).count(), told);
    }
}
