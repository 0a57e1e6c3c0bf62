//! Tests of whole lives of snapshots. `world` fakes the stock controllers and a node. One test kills the controller
//! between any two of its requests.

mod leaving;
mod refused;
mod stale;
mod world;

use serde_json::{Value, json};

use crate::cluster::fake::Loss;
use world::{CONTENTS, SNAPSHOTS, VS, World};

/// Checks what a user sees when the snapshot `ws-1` is ready.
fn assert_ready(world: &World) {
    let object = world.api.get(&format!("{VS}/ws-1")).unwrap();
    assert_eq!(object["status"]["readyToUse"], true, "{object:#}");
    let annotations = &object["metadata"]["annotations"];
    for (key, value) in [
        ("ovl.csi.dev/phase", "Ready"),
        ("ovl.csi.dev/node", "n-1"),
        ("ovl.csi.dev/image", "r.io/ci@sha256:0"),
        ("ovl.csi.dev/frozen", "12.3ms"),
    ] {
        assert_eq!(annotations[key], value, "{object:#}");
    }
    let content = world.api.get(&format!("{CONTENTS}/ws-1-content")).unwrap();
    assert_eq!(content["spec"]["source"], json!({"snapshotHandle": "snap-vs-1"}));
    let of = &content["spec"]["volumeSnapshotRef"];
    assert_eq!(
        (&of["namespace"], &of["name"], &of["uid"]),
        (&json!("ci"), &json!("ws-1"), &json!("vs-1"))
    );
    let made = world.api.get(&format!("{SNAPSHOTS}/snap-vs-1")).unwrap();
    assert_eq!(
        made["spec"]["volumeSnapshot"],
        json!({"namespace": "ci", "name": "ws-1", "uid": "vs-1"})
    );
    assert_eq!(made["spec"]["volumeHandle"], super::volume_handle("u-p", "ws"));
}

#[tokio::test]
async fn a_volume_snapshot_becomes_ready_and_reports_its_progress() {
    let world = World::new();
    world.class(
        "fast",
        "Delete",
        json!({"repository": "r.io/{namespace}", "freezeTimeout": "2s", "onFreezeTimeout": "live"}),
    );
    world.request(json!({"volumeSnapshotClassName": "fast"}));
    world.settle().await;
    assert_ready(&world);
    let spec = world.api.get(&format!("{SNAPSHOTS}/snap-vs-1")).unwrap()["spec"].clone();
    assert_eq!(
        (&spec["repository"], &spec["freezeTimeoutMillis"], &spec["orLive"]),
        (&json!("r.io/ci"), &json!(2000), &json!(true))
    );
    let content = world.api.get(&format!("{CONTENTS}/ws-1-content")).unwrap();
    assert_eq!(
        (&content["spec"]["deletionPolicy"], &content["spec"]["volumeSnapshotClassName"]),
        (&json!("Delete"), &json!("fast"))
    );
    let object = world.api.get(&format!("{VS}/ws-1")).unwrap();
    assert_eq!(object["metadata"]["annotations"]["ovl.csi.dev/class"], "fast");
    assert_eq!(world.reasons().await, ["SnapshotRequested", "SnapshotCaptured", "SnapshotPushed"]);
    // Nothing is left to do.
    let before = world.api.requests().len();
    world.controller_round().await;
    assert_eq!(world.api.requests()[before..], []);
}

/// The editors of a VolumeSnapshot must not be able to cause the same Events again and again.
#[tokio::test]
async fn events_are_recorded_once_even_if_a_user_edits_the_annotations() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    let reasons = world.reasons().await;
    assert_eq!(reasons, ["SnapshotRequested", "SnapshotCaptured", "SnapshotPushed"]);
    for phase in [json!(null), json!("Capturing"), json!("Pushing")] {
        let notes = json!({"metadata": {"annotations": {"ovl.csi.dev/phase": phase}}});
        world.api.patch(&format!("{VS}/ws-1"), notes);
        world.settle().await;
        assert_ready(&world);
    }
    assert_eq!(world.reasons().await, reasons);
}

/// An upgrade must not repeat the Events of all snapshots.
#[tokio::test]
async fn no_event_is_repeated_for_a_phase_that_an_earlier_version_reported() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    let path = format!("{SNAPSHOTS}/snap-vs-1");
    let annotations = || world.api.get(&path).unwrap()["metadata"]["annotations"].clone();
    let reasons = world.reasons().await;
    let former = |phase: &str| {
        let former = json!({"ovl.csi.dev/reported-phase": null, "ovl.csi.dev/told": phase});
        world.api.patch(&path, json!({"metadata": {"annotations": former}}));
        // So that only the annotation of the OverlaySnapshot counts.
        let notes = json!({"metadata": {"annotations": {"ovl.csi.dev/phase": null}}});
        world.api.patch(&format!("{VS}/ws-1"), notes);
    };
    former("Ready");
    world.settle().await;
    assert_eq!(world.reasons().await, reasons);
    // The next report replaces it.
    former("Pushing");
    world.settle().await;
    assert_eq!(annotations()["ovl.csi.dev/reported-phase"], "Ready");
    assert!(annotations().get("ovl.csi.dev/told").is_none(), "{}", annotations());
}

/// Registries accept 255 characters, and the name of a pod alone may have 253.
#[tokio::test]
async fn a_repository_with_long_names_is_shortened_and_reported() {
    let world = World::new();
    let name = "w".repeat(240);
    world.class("long", "Delete", json!({"repository": "r.io/snapshots/{namespace}/{name}"}));
    world.request_as(&name, "vs-9", json!({"volumeSnapshotClassName": "long"}));
    world.settle().await;
    let made = world.api.get(&format!("{SNAPSHOTS}/snap-vs-9")).unwrap();
    let repository = made["spec"]["repository"].as_str().unwrap();
    assert!(
        repository.starts_with("r.io/snapshots/ci/www") && repository.len() < 60,
        "{repository}"
    );
    assert!(world.reasons().await.contains(&"RepositoryShortened".to_owned()));
}

#[tokio::test]
async fn without_a_named_class_the_default_class_is_used_if_there_is_one() {
    for (policy, classes) in [("Retain", 1), ("Delete", 0)] {
        let world = World::new();
        for n in 0..classes {
            let class = world.class(&format!("c-{n}"), policy, json!({}));
            world.api.patch(&class, json!({"metadata": {"annotations": {"snapshot.storage.kubernetes.io/is-default-class": "true"}}}));
        }
        world.request(json!({}));
        world.settle().await;
        assert_ready(&world);
        let content = world.api.get(&format!("{CONTENTS}/ws-1-content")).unwrap();
        assert_eq!(content["spec"]["deletionPolicy"], policy);
        assert_eq!(content["spec"]["volumeSnapshotClassName"].is_string(), classes == 1);
    }
}

#[tokio::test]
async fn a_parent_in_the_same_namespace_is_named() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    world.request_as("ws-2", "vs-2", json!({}));
    world.controller_round().await;
    let parent = json!({"status": {"parent": "snap-vs-1"}});
    world.api.patch(&format!("{SNAPSHOTS}/snap-vs-2/status"), parent);
    world.settle().await;
    let child = world.api.get(&format!("{VS}/ws-2")).unwrap();
    let annotations = |object: &Value| object["metadata"]["annotations"].clone();
    assert_eq!(annotations(&child)["ovl.csi.dev/parent"], "ws-1");
    assert_eq!(annotations(&child)["ovl.csi.dev/parent-uid"], "vs-1");
    // Another snapshot gets the name: the parent stays the first one.
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    world.request_as("ws-1", "vs-3", json!({}));
    world.settle().await;
    let child = world.api.get(&format!("{VS}/ws-2")).unwrap();
    assert_eq!(annotations(&child)["ovl.csi.dev/parent-uid"], "vs-1");
}

/// A user may write another name into the annotation.
#[tokio::test]
async fn a_changed_parent_is_rewritten_even_if_the_parent_is_gone() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    world.request_as("ws-2", "vs-2", json!({}));
    world.controller_round().await;
    let parent = json!({"status": {"parent": "snap-vs-1"}});
    world.api.patch(&format!("{SNAPSHOTS}/snap-vs-2/status"), parent);
    world.settle().await;
    let forge = |parent: Value| {
        let notes = json!({"metadata": {"annotations": {"ovl.csi.dev/parent": parent}}});
        world.api.patch(&format!("{VS}/ws-2"), notes);
    };
    let parent = || {
        let child = world.api.get(&format!("{VS}/ws-2")).unwrap();
        child["metadata"]["annotations"]["ovl.csi.dev/parent"].clone()
    };
    for forged in [json!("other"), json!(null)] {
        forge(forged);
        world.settle().await;
        assert_eq!(parent(), "ws-1");
    }
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    assert!(world.api.get(&format!("{SNAPSHOTS}/snap-vs-1")).is_none());
    forge(json!("other"));
    world.settle().await;
    assert_eq!(parent(), "ws-1");
    // A snapshot without a parent has no such annotation.
    world.request_as("ws-3", "vs-3", json!({}));
    let notes = json!({"metadata": {"annotations": {"ovl.csi.dev/parent": "ws-2"}}});
    world.api.patch(&format!("{VS}/ws-3"), notes);
    world.settle().await;
    let object = world.api.get(&format!("{VS}/ws-3")).unwrap();
    assert!(object["metadata"]["annotations"].get("ovl.csi.dev/parent").is_none(), "{object:#}");
}

#[tokio::test]
async fn a_failure_on_the_node_reaches_the_user() {
    let world = World::new();
    world.request(json!({}));
    world.controller_round().await;
    let failed = json!({"status": {"phase": "Failed", "message": "the disk of n-1 is full"}});
    world.api.patch(&format!("{SNAPSHOTS}/snap-vs-1/status"), failed);
    world.settle().await;
    let object = world.api.get(&format!("{VS}/ws-1")).unwrap();
    assert_eq!(object["metadata"]["annotations"]["ovl.csi.dev/message"], "the disk of n-1 is full");
    assert_eq!(object["status"]["readyToUse"], false);
    let error = object["status"]["error"]["message"].as_str().unwrap();
    assert!(error.contains("snapshot ws-1 failed: the disk of n-1 is full"), "{error}");
    assert_eq!(world.reasons().await, ["SnapshotRequested", "SnapshotFailed"]);
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    world.assert_empty();
}

/// A snapshot that exists only on a node that is gone must not wait for ever.
#[tokio::test]
async fn a_snapshot_fails_when_the_only_node_that_has_it_is_gone() {
    for (phase, message) in [
        (json!(null), "node n-1 is gone, and it had not captured the volume"),
        (json!("Capturing"), "it had not captured the volume"),
        (json!("Pushing"), "it had not pushed the snapshot completely"),
        (json!("Ready"), "the snapshot was only on node n-1, which is gone"),
    ] {
        let world = World::new();
        world.request(json!({}));
        world.controller_round().await;
        world.stock_round().await;
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Said", "message": "m", "lastTransitionTime": "2026-01-02T03:04:05Z"});
        let status =
            json!({"phase": phase, "conditions": [condition("Ready"), condition("Captured")]});
        world.api.patch(&format!("{SNAPSHOTS}/snap-vs-1/status"), json!({ "status": status }));
        // A node that is not ready is not gone.
        world.node_is("Unknown");
        world.controller_round().await;
        let status = |world: &World| {
            world.api.get(&format!("{SNAPSHOTS}/snap-vs-1")).unwrap()["status"].clone()
        };
        assert_eq!(status(&world)["phase"], phase);
        world.api.delete("/api/v1/nodes/n-1");
        world.settle().await;
        let failed = status(&world);
        assert_eq!(failed["phase"], "Failed");
        // The conditions stay, because a node that comes back continues from them.
        let conditions = failed["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]), (2, &condition("Captured")));
        assert_eq!(
            (&conditions[1]["type"], &conditions[1]["status"], &conditions[1]["reason"]),
            (&json!("Ready"), &json!("False"), &json!("NodeGone"))
        );
        assert_eq!(conditions[1]["message"], failed["message"]);
        assert_ne!(conditions[1]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        let object = world.api.get(&format!("{VS}/ws-1")).unwrap();
        let written = &object["metadata"]["annotations"]["ovl.csi.dev/message"];
        assert!(written.as_str().unwrap().contains(message), "{object}");
        world.api.delete(&format!("{VS}/ws-1"));
        world.settle().await;
        world.assert_empty();
    }
}

#[tokio::test]
async fn a_pushed_snapshot_outlives_its_node() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    world.api.delete("/api/v1/nodes/n-1");
    world.settle().await;
    assert_ready(&world);
}

#[tokio::test]
async fn deleting_a_volume_snapshot_removes_everything() {
    for when in 0..12 {
        let world = World::new();
        world.request(json!({}));
        // The snapshot is in progress.
        for step in 0..when {
            match step % 3 {
                0 => world.controller_round().await,
                1 => world.stock_round().await,
                _ => world.node_round(),
            }
        }
        world.api.delete(&format!("{VS}/ws-1"));
        world.settle().await;
        world.assert_empty();
    }
}

#[tokio::test]
async fn retain_keeps_the_snapshot_when_its_objects_are_deleted() {
    let world = World::new();
    world.class("keep", "Retain", json!({}));
    world.request(json!({"volumeSnapshotClassName": "keep"}));
    world.settle().await;
    let policy = |world: &World| {
        let snapshot = world.api.get(&format!("{VS}/ws-1")).unwrap();
        snapshot["metadata"]["annotations"]["ovl.csi.dev/deletion-policy"].clone()
    };
    assert_eq!(policy(&world), "Retain");
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    assert!(world.api.get(&format!("{VS}/ws-1")).is_none());
    assert!(world.api.get(&format!("{CONTENTS}/ws-1-content")).is_some());
    world.api.delete(&format!("{CONTENTS}/ws-1-content"));
    world.settle().await;
    assert!(world.api.all(CONTENTS).is_empty());
    assert_eq!(
        world.api.get(&format!("{SNAPSHOTS}/snap-vs-1")).unwrap()["spec"]["deleted"],
        json!(false)
    );

    // The policy of the content counts, and a user may change it there.
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    assert_eq!(policy(&world), "Delete");
    world
        .api
        .patch(&format!("{CONTENTS}/ws-1-content"), json!({"spec": {"deletionPolicy": "Retain"}}));
    world.settle().await;
    assert_eq!(policy(&world), "Retain");
    for path in [format!("{VS}/ws-1"), format!("{CONTENTS}/ws-1-content")] {
        world.api.delete(&path);
        world.settle().await;
    }
    assert_eq!(world.api.all(SNAPSHOTS).len(), 1);
}

#[tokio::test]
async fn deleting_a_content_without_a_csi_call_removes_the_snapshot() {
    // The sidecar never saw the content, so DeleteSnapshot is not called.
    let world = World::new();
    world.request(json!({}));
    world.controller_round().await;
    world.api.delete(&format!("{VS}/ws-1"));
    world.api.delete(&format!("{CONTENTS}/ws-1-content"));
    world.controller_round().await;
    world.node_round();
    world.controller_round().await;
    world.assert_empty();
}

#[tokio::test]
async fn a_content_that_an_administrator_wrote_is_not_deleted() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    // An administrator writes a content for another namespace, whose VolumeSnapshot does not exist yet.
    let mut content = world.api.get(&format!("{CONTENTS}/ws-1-content")).unwrap();
    content["metadata"] = json!({"name": "taken-over"});
    content["spec"]["volumeSnapshotRef"] =
        json!({"namespace": "other", "name": "ws", "uid": "vs-9"});
    world.api.put(CONTENTS, content);
    world
        .api
        .patch(&format!("{CONTENTS}/ws-1-content"), json!({"spec": {"deletionPolicy": "Retain"}}));
    world.settle().await;
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    assert!(world.api.get(&format!("{CONTENTS}/taken-over")).is_some());
    assert_eq!(world.api.all(SNAPSHOTS).len(), 1);
}

#[tokio::test]
async fn a_lost_snapshot_is_not_captured_again() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    world.api.delete(&format!("{SNAPSHOTS}/snap-vs-1"));
    world.settle().await;
    assert!(world.api.all(SNAPSHOTS).is_empty());
    assert_eq!(world.reasons().await.last().map(String::as_str), Some("SnapshotLost"));
    let object = world.api.get(&format!("{VS}/ws-1")).unwrap();
    assert_eq!(object["metadata"]["annotations"]["ovl.csi.dev/phase"], "Failed");
    let before = world.api.requests().len();
    world.controller_round().await;
    assert_eq!(world.api.requests()[before..], []);
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    world.assert_empty();
}

#[tokio::test]
async fn the_controller_stops_waiting_for_a_node_that_does_not_respond() {
    let world = World::new();
    world.request(json!({}));
    world.settle().await;
    world.silence_node();
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    let path = format!("{SNAPSHOTS}/snap-vs-1");
    assert_eq!(world.api.get(&path).unwrap()["spec"]["deleted"], true);
    let long_ago =
        json!({"metadata": {"annotations": {"ovl.csi.dev/deleted-at": "2026-01-02T03:04:05Z"}}});
    world.api.patch(&path, long_ago);
    world.settle().await;
    world.assert_empty();
    assert_eq!(world.reasons().await.last().map(String::as_str), Some("DeletedWithoutNode"));
}

#[tokio::test]
async fn a_controller_without_events_takes_snapshots_and_writes_no_event() {
    let world = World::with_events(false);
    world.request(json!({}));
    world.settle().await;
    assert_ready(&world);
    assert_eq!(world.reasons().await, [""; 0]);
}

/// The controller is killed at each of its requests: before the request arrives, and before its response does. The
/// final state is always the same.
#[tokio::test]
async fn a_controller_killed_between_any_two_steps_reaches_the_same_state() {
    for scenario in
        [Scenario::Created, Scenario::Deleted, Scenario::DeletedUnbound, Scenario::DeletedEarly]
    {
        let whole = scenario.run(None).await.unwrap();
        for how in [Loss::Request, Loss::Response] {
            for after in 0.. {
                assert!(after < 500, "{scenario:?} never ends");
                let Some(end) = scenario.run(Some((after, how))).await else {
                    assert!(after > 5, "{scenario:?} has too few requests: {after}");
                    break;
                };
                assert_eq!(end, whole, "{scenario:?}, {how:?} {after}");
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scenario {
    Created,
    Deleted,
    /// Deleted before the stock controllers saw anything.
    DeletedUnbound,
    /// Deleted after it was bound and before it was ready.
    DeletedEarly,
}

impl Scenario {
    /// Runs the scenario and returns the final state; `None` if no request was lost.
    async fn run(self, loss: Option<(usize, Loss)>) -> Option<Value> {
        let world = World::new();
        world.class("fast", "Delete", json!({"repository": "r.io/{namespace}"}));
        world.request(json!({"volumeSnapshotClassName": "fast"}));
        if self == Self::Deleted {
            world.settle().await;
        }
        if self != Self::Created && self != Self::DeletedUnbound {
            world.controller_round().await;
            world.stock_round().await;
        }
        if self == Self::DeletedUnbound {
            world.controller_round().await;
        }
        if self != Self::Created {
            world.api.delete(&format!("{VS}/ws-1"));
        }
        if let Some((after, how)) = loss {
            world.api.lose(after, how);
            // The controller dies at the lost request: no later request arrives.
            world.settle().await;
            if !world.api.restore() {
                return None;
            }
        }
        world.settle().await;
        match self {
            Self::Created => assert_ready(&world),
            _ => world.assert_empty(),
        }
        Some(world.state())
    }
}

/// The whole loop with its watches and its turns, from the creation of a VolumeSnapshot to its removal.
#[tokio::test]
async fn the_loop_reconciles_every_change() {
    let world = World::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn({
        let (controller, stop) = (world.controller.clone(), stop.clone());
        async move { controller.run(stop).await }
    });
    world.request(json!({}));
    let is_ready = || {
        let object = world.api.get(&format!("{VS}/ws-1"));
        object.is_some_and(|object| {
            object["metadata"]["annotations"]["ovl.csi.dev/phase"] == "Ready"
                && object["status"]["readyToUse"] == true
        })
    };
    world.run_others_until(is_ready).await;
    assert_ready(&world);
    let metrics = || world.metrics.text().unwrap();
    world.run_others_until(|| metrics().contains("ovl_snapshots{phase=\"Ready\"} 1\n")).await;
    assert!(metrics().contains("ovl_reconciles_total{kind=\"VolumeSnapshot\",result=\"done\"}"));
    world.api.delete(&format!("{VS}/ws-1"));
    world
        .run_others_until(|| world.api.all(SNAPSHOTS).is_empty() && world.api.all(VS).is_empty())
        .await;
    world.assert_empty();
    stop.cancel();
    running.await.unwrap();
}
