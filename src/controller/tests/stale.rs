//! Tests of old caches and of several controllers at once: no snapshot is captured twice or lost, and no Event is
//! repeated.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    super::Controller,
    assert_ready,
    world::{CONTENTS, SNAPSHOTS, VS, World, reconcile_all},
};
use crate::{cluster::Events, metrics::Metrics};

/// Runs all parts until nothing changes any more. Returns a controller with the caches of each moment.
async fn settle_and_remember(world: &World) -> Vec<super::super::run::Reconciler> {
    let mut old = Vec::new();
    for _ in 0..20 {
        old.push(world.reconciler(&world.controller));
        world.controller_round().await;
        old.push(world.reconciler(&world.controller));
        world.stock_round().await;
        world.node_round();
    }
    old
}

#[tokio::test]
async fn a_reconcile_from_an_old_cache_does_no_harm() {
    let world = World::new();
    world.class("fast", "Delete", json!({"repository": "r.io/{namespace}"}));
    let early = world.reconciler(&world.controller);
    world.request(json!({"volumeSnapshotClassName": "fast"}));
    let mut old = settle_and_remember(&world).await;
    old.push(early);
    assert_ready(&world);
    let (state, reasons) = (world.state(), world.reasons().await);
    for old in &old {
        reconcile_all(old).await;
        world.settle().await;
        assert_eq!(world.state(), state);
        assert_eq!(world.reasons().await, reasons);
    }
    // The same while it is deleted, and afterwards.
    world.api.delete(&format!("{VS}/ws-1"));
    for old in &old {
        reconcile_all(old).await;
        world.controller_round().await;
    }
    old.extend(settle_and_remember(&world).await);
    world.settle().await;
    world.assert_empty();
    for old in &old {
        reconcile_all(old).await;
        world.settle().await;
        world.assert_empty();
    }
}

/// Each list is of another moment: one has a VolumeSnapshot or a content that the others do not have yet.
#[tokio::test]
async fn a_snapshot_is_kept_whose_other_objects_are_not_in_the_cache_yet() {
    for policy in ["Retain", "Delete"] {
        let world = World::new();
        world.class("fast", policy, json!({}));
        world.request(json!({"volumeSnapshotClassName": "fast"}));
        world.settle().await;
        let state = world.state();
        for missing in [&[VS, CONTENTS][..], &[VS], &[CONTENTS], &[SNAPSHOTS]] {
            reconcile_all(&world.reconciler_without(missing)).await;
            world.settle().await;
            assert_eq!(world.state(), state, "{policy} {missing:?}");
        }
        assert!(!world.reasons().await.contains(&"SnapshotLost".to_owned()));
    }
    let world = World::new();
    world.class("keep", "Retain", json!({}));
    world.request(json!({"volumeSnapshotClassName": "keep"}));
    world.settle().await;
    let path = format!("{SNAPSHOTS}/snap-vs-1");
    // A node that is not in the cache yet is not gone.
    world.api.patch(&format!("{path}/status"), json!({"status": {"image": null}}));
    reconcile_all(&world.reconciler_without(&["/api/v1/nodes"])).await;
    assert_eq!(world.api.get(&path).unwrap()["status"]["phase"], "Ready");
    // The VolumeSnapshot is deleted before the policy of the content is known.
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    let notes = json!({"metadata": {"annotations": {"ovl.csi.dev/deletion-policy": null}}});
    world.api.patch(&path, notes);
    reconcile_all(&world.reconciler_without(&[CONTENTS])).await;
    assert_eq!(world.api.get(&path).unwrap()["spec"]["deleted"], false);
}

#[tokio::test]
async fn two_controllers_at_once_do_no_harm() {
    let world = World::new();
    let events = Events::start(world.api.client(), "c-2", "ovl.csi.dev");
    let other =
        Controller::new(world.api.client(), "ovl.csi.dev", Some(events), Metrics::of_controller());
    let stop = CancellationToken::new();
    let running: Vec<_> = [world.controller.clone(), other.clone()]
        .map(|controller| {
            let stop = stop.clone();
            tokio::spawn(async move { controller.run(stop).await })
        })
        .into();
    let names: Vec<_> = (0..20).map(|n| format!("ws-{n}")).collect();
    for name in &names {
        world.request_as(name, &format!("vs-{name}"), json!({}));
    }
    let ready = || {
        names.iter().all(|name| {
            let object = world.api.get(&format!("{VS}/{name}")).unwrap();
            object["metadata"]["annotations"]["ovl.csi.dev/phase"] == "Ready"
                && object["status"]["readyToUse"] == true
        })
    };
    world.run_others_until(ready).await;
    world.run_others_until(|| world.api.all(CONTENTS).len() == names.len()).await;
    assert_eq!(world.api.all(SNAPSHOTS).len(), names.len());
    other.flush().await;
    for reason in ["SnapshotRequested", "SnapshotCaptured", "SnapshotPushed"] {
        let reasons = world.reasons().await;
        let count = reasons.iter().filter(|known| *known == reason).count();
        assert_eq!(count, names.len(), "{reason} in {reasons:?}");
    }
    names.iter().for_each(|name| world.api.delete(&format!("{VS}/{name}")));
    let gone = || world.api.all(SNAPSHOTS).is_empty() && world.api.all(VS).is_empty();
    world.run_others_until(gone).await;
    world.assert_empty();
    stop.cancel();
    for running in running {
        running.await.unwrap();
    }
}

/// No other object changes when a node disappears.
#[tokio::test]
async fn a_snapshot_fails_as_soon_as_its_node_is_deleted() {
    let world = World::new();
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (controller, stop) = (world.controller.clone(), stop.clone());
        async move { controller.run(stop).await }
    });
    world.silence_node();
    world.request(json!({}));
    world.run_others_until(|| !world.api.all(CONTENTS).is_empty()).await;
    world.api.delete("/api/v1/nodes/n-1");
    let phase = || world.api.all(SNAPSHOTS)[0]["status"]["phase"] == "Failed";
    world.run_others_until(phase).await;
    stop.cancel();
    running.await.unwrap();
}
