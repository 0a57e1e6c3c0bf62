//! Whole lives of snapshots, with the stock controllers and a node played by `world`, and with the controller killed between any two
//! of its requests.

mod leaving;
mod refused;
mod world;

use serde_json::{Value, json};

use crate::cluster::fake::Loss;
use world::{CONTENTS, SNAPSHOTS, VS, World};

/// What a user sees when all is well.
fn assert_ready(world: &World) {
    let asked = world.api.get(&format!("{VS}/ws-1")).unwrap();
    assert_eq!(asked["status"]["readyToUse"], true, "{asked:#}");
    let told = &asked["metadata"]["annotations"];
    for (key, value) in [
        ("ovl.csi.dev/phase", "Ready"),
        ("ovl.csi.dev/node", "n-1"),
        ("ovl.csi.dev/image", "r.io/ci@sha256:0"),
        ("ovl.csi.dev/frozen", "12.3ms"),
    ] {
        assert_eq!(told[key], value, "{asked:#}");
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
async fn a_volume_snapshot_is_made_and_told() {
    let world = World::new();
    world.class(
        "fast",
        "Delete",
        json!({"repository": "r.io/{namespace}", "freezeTimeout": "2s", "onFreezeTimeout": "live"}),
    );
    world.ask(json!({"volumeSnapshotClassName": "fast"}));
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
    assert_eq!(world.reasons().await, ["SnapshotRequested", "SnapshotCut", "SnapshotPushed"]);
    // Nothing is left to do.
    let before = world.api.asked().len();
    world.controller_round().await;
    assert!(world.api.asked()[before..].iter().all(|asked| asked.method == "GET"));
}

/// Who may edit a VolumeSnapshot may not have its Events told again and again.
#[tokio::test]
async fn events_are_told_once_whatever_an_editor_does_to_the_annotations() {
    let world = World::new();
    world.ask(json!({}));
    world.settle().await;
    let told = world.reasons().await;
    assert_eq!(told, ["SnapshotRequested", "SnapshotCut", "SnapshotPushed"]);
    for phase in [json!(null), json!("Cutting"), json!("Pushing")] {
        let notes = json!({"metadata": {"annotations": {"ovl.csi.dev/phase": phase}}});
        world.api.patch(&format!("{VS}/ws-1"), notes);
        world.settle().await;
        assert_ready(&world);
    }
    assert_eq!(world.reasons().await, told);
}

/// Registries take 255 characters, and a pod's name alone may have 253.
#[tokio::test]
async fn a_repository_of_long_names_is_shortened_and_said() {
    let world = World::new();
    let name = "w".repeat(240);
    world.class("long", "Delete", json!({"repository": "r.io/snapshots/{namespace}/{name}"}));
    world.ask_as(&name, "vs-9", json!({"volumeSnapshotClassName": "long"}));
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
async fn the_default_class_of_the_driver_is_taken_and_no_class_is_fine_too() {
    for (policy, classes) in [("Retain", 1), ("Delete", 0)] {
        let world = World::new();
        for n in 0..classes {
            let class = world.class(&format!("c-{n}"), policy, json!({}));
            world.api.patch(&class, json!({"metadata": {"annotations": {"snapshot.storage.kubernetes.io/is-default-class": "true"}}}));
        }
        world.ask(json!({}));
        world.settle().await;
        assert_ready(&world);
        let content = world.api.get(&format!("{CONTENTS}/ws-1-content")).unwrap();
        assert_eq!(content["spec"]["deletionPolicy"], policy);
        assert_eq!(content["spec"]["volumeSnapshotClassName"].is_string(), classes == 1);
    }
}

#[tokio::test]
async fn a_parent_of_the_same_namespace_is_named() {
    let world = World::new();
    world.ask(json!({}));
    world.settle().await;
    world.ask_as("ws-2", "vs-2", json!({}));
    world.controller_round().await;
    let parent = json!({"status": {"parent": "snap-vs-1"}});
    world.api.patch(&format!("{SNAPSHOTS}/snap-vs-2/status"), parent);
    world.settle().await;
    let child = world.api.get(&format!("{VS}/ws-2")).unwrap();
    assert_eq!(child["metadata"]["annotations"]["ovl.csi.dev/parent"], "ws-1");
}

#[tokio::test]
async fn what_fails_on_the_node_reaches_the_user() {
    let world = World::new();
    world.ask(json!({}));
    world.controller_round().await;
    let failed = json!({"status": {"phase": "Failed", "message": "the disk of n-1 is full"}});
    world.api.patch(&format!("{SNAPSHOTS}/snap-vs-1/status"), failed);
    world.settle().await;
    let asked = world.api.get(&format!("{VS}/ws-1")).unwrap();
    assert_eq!(asked["metadata"]["annotations"]["ovl.csi.dev/message"], "the disk of n-1 is full");
    assert_eq!(asked["status"]["readyToUse"], false);
    let error = asked["status"]["error"]["message"].as_str().unwrap();
    assert!(error.contains("snapshot snap-vs-1 failed: the disk of n-1 is full"), "{error}");
    assert_eq!(world.reasons().await, ["SnapshotRequested", "SnapshotFailed"]);
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    world.assert_empty();
}

/// A snapshot that was only on a node that is gone ends somewhere.
#[tokio::test]
async fn a_node_that_is_gone_for_good_is_said() {
    for (phase, sentence) in [
        (json!(null), "node n-1 is gone, and had not cut the volume"),
        (json!("Cutting"), "had not cut the volume"),
        (json!("Pushing"), "had not pushed all of the snapshot"),
        (json!("Ready"), "which alone had the snapshot, is gone"),
    ] {
        let world = World::new();
        world.ask(json!({}));
        world.controller_round().await;
        world.stock_round().await;
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Said", "message": "m", "lastTransitionTime": "2026-01-02T03:04:05Z"});
        let status = json!({"phase": phase, "conditions": [condition("Ready"), condition("Cut")]});
        world.api.patch(&format!("{SNAPSHOTS}/snap-vs-1/status"), json!({ "status": status }));
        // Not ready is not gone.
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
        // What a node that comes back after all goes by stays.
        let conditions = failed["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]), (2, &condition("Cut")));
        assert_eq!(
            (&conditions[1]["type"], &conditions[1]["status"], &conditions[1]["reason"]),
            (&json!("Ready"), &json!("False"), &json!("NodeGone"))
        );
        assert_eq!(conditions[1]["message"], failed["message"]);
        assert_ne!(conditions[1]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        let told = world.api.get(&format!("{VS}/ws-1")).unwrap()["metadata"]["annotations"].clone();
        assert!(told["ovl.csi.dev/message"].as_str().unwrap().contains(sentence), "{told}");
        world.api.delete(&format!("{VS}/ws-1"));
        world.settle().await;
        world.assert_empty();
    }
}

#[tokio::test]
async fn one_that_was_pushed_outlives_its_node() {
    let world = World::new();
    world.ask(json!({}));
    world.settle().await;
    world.api.delete("/api/v1/nodes/n-1");
    world.settle().await;
    assert_ready(&world);
}

#[tokio::test]
async fn a_volume_snapshot_that_goes_takes_everything_along() {
    for when in 0..12 {
        let world = World::new();
        world.ask(json!({}));
        // Some way into its making.
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
async fn retain_keeps_the_snapshot_whatever_goes() {
    let world = World::new();
    world.class("keep", "Retain", json!({}));
    world.ask(json!({"volumeSnapshotClassName": "keep"}));
    world.settle().await;
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

    // The policy is the content's, and may be changed there.
    let world = World::new();
    world.ask(json!({}));
    world.settle().await;
    world
        .api
        .patch(&format!("{CONTENTS}/ws-1-content"), json!({"spec": {"deletionPolicy": "Retain"}}));
    world.settle().await;
    for path in [format!("{VS}/ws-1"), format!("{CONTENTS}/ws-1-content")] {
        world.api.delete(&path);
        world.settle().await;
    }
    assert_eq!(world.api.all(SNAPSHOTS).len(), 1);
}

#[tokio::test]
async fn a_content_that_goes_without_csi_takes_the_snapshot_along() {
    // As when the side-car never looked at it: nobody calls DeleteSnapshot.
    let world = World::new();
    world.ask(json!({}));
    world.controller_round().await;
    world.api.delete(&format!("{VS}/ws-1"));
    world.api.delete(&format!("{CONTENTS}/ws-1-content"));
    world.controller_round().await;
    world.node_round();
    world.controller_round().await;
    world.assert_empty();
}

#[tokio::test]
async fn a_content_that_an_administrator_wrote_for_a_snapshot_is_theirs() {
    let world = World::new();
    world.ask(json!({}));
    world.settle().await;
    // Taken over into another namespace, by hand, for a VolumeSnapshot that is not there yet.
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
async fn a_snapshot_that_is_lost_is_not_cut_anew() {
    let world = World::new();
    world.ask(json!({}));
    world.settle().await;
    world.api.delete(&format!("{SNAPSHOTS}/snap-vs-1"));
    world.settle().await;
    assert!(world.api.all(SNAPSHOTS).is_empty());
    assert_eq!(world.reasons().await.last().map(String::as_str), Some("SnapshotLost"));
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    world.assert_empty();
}

#[tokio::test]
async fn a_node_that_says_nothing_is_waited_for_so_long() {
    let world = World::new();
    world.ask(json!({}));
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
    assert_eq!(world.reasons().await.last().map(String::as_str), Some("SnapshotLeftBehind"));
}

/// The controller is killed at each of its requests, before it arrives and before its answer does: the end is always the same.
#[tokio::test]
async fn killed_between_any_two_steps_it_ends_the_same() {
    for scene in [Scene::Made, Scene::Deleted, Scene::DeletedUnbound, Scene::DeletedEarly] {
        let whole = scene.play(None).await.unwrap();
        for how in [Loss::Request, Loss::Answer] {
            for after in 0.. {
                assert!(after < 500, "{scene:?} never ends");
                let Some(end) = scene.play(Some((after, how))).await else {
                    assert!(after > 10, "{scene:?} has too few requests: {after}");
                    break;
                };
                assert_eq!(end, whole, "{scene:?}, {how:?} {after}");
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scene {
    Made,
    Deleted,
    /// Before the stock controllers saw anything.
    DeletedUnbound,
    /// Once it was bound, and not ready.
    DeletedEarly,
}

impl Scene {
    /// The end of it; `None` where nothing was left to be lost.
    async fn play(self, loss: Option<(usize, Loss)>) -> Option<Value> {
        let world = World::new();
        world.class("fast", "Delete", json!({"repository": "r.io/{namespace}"}));
        world.ask(json!({"volumeSnapshotClassName": "fast"}));
        if self == Self::Deleted {
            world.settle().await;
        }
        if self != Self::Made && self != Self::DeletedUnbound {
            world.controller_round().await;
            world.stock_round().await;
        }
        if self == Self::DeletedUnbound {
            world.controller_round().await;
        }
        if self != Self::Made {
            world.api.delete(&format!("{VS}/ws-1"));
        }
        if let Some((after, how)) = loss {
            world.api.lose(after, how);
            // Until it dies; nothing gets through to the end.
            world.settle().await;
            if !world.api.mend() {
                return None;
            }
        }
        world.settle().await;
        match self {
            Self::Made => assert_ready(&world),
            _ => world.assert_empty(),
        }
        Some(world.state())
    }
}

/// The loop itself: watches, queue and workers, from a VolumeSnapshot to nothing left.
#[tokio::test]
async fn the_loop_follows_what_changes() {
    let world = World::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn({
        let (controller, stop) = (world.controller.clone(), stop.clone());
        async move { controller.run(stop).await }
    });
    world.ask(json!({}));
    let is_ready = || {
        let asked = world.api.get(&format!("{VS}/ws-1"));
        asked.is_some_and(|asked| {
            asked["metadata"]["annotations"]["ovl.csi.dev/phase"] == "Ready"
                && asked["status"]["readyToUse"] == true
        })
    };
    world.play_others_until(is_ready).await;
    assert_ready(&world);
    let metrics = || world.metrics.text().unwrap();
    world.play_others_until(|| metrics().contains("ovl_snapshots{phase=\"Ready\"} 1\n")).await;
    assert!(metrics().contains("ovl_reconciles_total{kind=\"VolumeSnapshot\",result=\"done\"}"));
    world.api.delete(&format!("{VS}/ws-1"));
    world
        .play_others_until(|| world.api.all(SNAPSHOTS).is_empty() && world.api.all(VS).is_empty())
        .await;
    world.assert_empty();
    stop.cancel();
    running.await.unwrap();
}
