//! Tests of refused VolumeSnapshots: the reason is reported once, and the snapshot starts once the user has fixed it.

use serde_json::{Value, json};

use super::super::Controller;
use super::world::{CLASSES, CONTENTS, PODS, SNAPSHOTS, VS, World, reconcile_all};
use crate::{cluster::Events, metrics::Metrics};

fn message(world: &World) -> String {
    let object = world.api.get(&format!("{VS}/ws-1")).unwrap();
    object["metadata"]["annotations"]["ovl.csi.dev/message"]
        .as_str()
        .unwrap_or("nothing")
        .to_owned()
}

fn phase(world: &World) -> String {
    let object = world.api.get(&format!("{VS}/ws-1")).unwrap();
    object["metadata"]["annotations"]["ovl.csi.dev/phase"].as_str().unwrap_or("none").to_owned()
}

fn source(world: &World, source: &str) {
    let annotations = json!({"ovl.csi.dev/source": source});
    world.api.patch(&format!("{VS}/ws-1"), json!({"metadata": {"annotations": annotations}}));
}

fn content_name(world: &World, name: &str) {
    let source = json!({"volumeSnapshotContentName": name});
    world.api.patch(&format!("{VS}/ws-1"), json!({"spec": {"source": source}}));
}

#[tokio::test]
async fn a_refusal_is_reported_once_and_ends_when_its_cause_is_fixed() {
    let pod = |volumes: Value| json!({"spec": {"volumes": volumes}});
    let pods = format!("{PODS}/p");
    for (set_up, fix, reason, expected) in [
        (
            &(|w: &World| source(w, "p")) as &dyn Fn(&World),
            &(|w: &World| source(w, "p/ws")) as &dyn Fn(&World),
            "SnapshotSourceInvalid",
            "the annotation ovl.csi.dev/source is \"p\": expected POD/VOLUME",
        ),
        (
            &|w| source(w, "other/p/ws"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceInvalid",
            "both in this namespace",
        ),
        (
            &|w| {
                drop(w.api.patch(&format!("{VS}/ws-1"), json!({"spec": {"source": {"persistentVolumeClaimName": "c", "volumeSnapshotContentName": null}}})))
            },
            &|w| {
                drop(w.api.patch(&format!("{VS}/ws-1"), json!({"spec": {"source": {"persistentVolumeClaimName": null, "volumeSnapshotContentName": "ws-1-content"}}})))
            },
            "SnapshotSourceInvalid",
            "remove spec.source.persistentVolumeClaimName",
        ),
        (
            &|w| content_name(w, "../../../api/v1/nodes/n-1"),
            &|w| content_name(w, "ws-1-content"),
            "SnapshotSourceInvalid",
            "spec.source.volumeSnapshotContentName is \"../../../api/v1/nodes/n-1\", which is not a valid object name",
        ),
        (
            &|w| content_name(w, &"a".repeat(254)),
            &|w| content_name(w, "ws-1-content"),
            "SnapshotSourceInvalid",
            "expected at most 253 lower-case letters",
        ),
        (
            &|w| source(w, "q/ws"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceMissing",
            "pod q does not exist in this namespace",
        ),
        (
            &|w| source(w, "p/wx"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceMissing",
            "pod p has no volume wx: its inline csi volumes are ws, ro",
        ),
        (
            &|w| source(w, "p/tmp"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceUnusable",
            "volume tmp of pod p is not an inline csi volume",
        ),
        (
            &|w| {
                // The class belongs to this driver, so this driver reports the error.
                w.class("fast", "Delete", json!({}));
                w.api.patch(
                    &format!("{VS}/ws-1"),
                    json!({"spec": {"volumeSnapshotClassName": "fast"}}),
                );
                w.api.patch(&pods, pod(json!([{"name": "ws", "csi": {"driver": "other.dev"}}])));
            },
            &|w| {
                drop(
                    w.api.patch(
                        &pods,
                        pod(json!([{"name": "ws", "csi": {"driver": "ovl.csi.dev"}}])),
                    ),
                )
            },
            "SnapshotSourceUnusable",
            "is not a volume of ovl.csi.dev: only inline csi volumes of this driver",
        ),
        (
            &|w| source(w, "p/ro"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceUnusable",
            "read-only: it has no changes to capture",
        ),
        (
            &|w| {
                drop(
                    w.api.patch(&format!("{pods}/status"), json!({"status": {"phase": "Pending"}})),
                )
            },
            &|w| {
                drop(
                    w.api.patch(&format!("{pods}/status"), json!({"status": {"phase": "Running"}})),
                )
            },
            "SnapshotPending",
            "pod p is not running yet",
        ),
        (
            &|w| {
                drop(
                    w.api.patch(
                        &format!("{pods}/status"),
                        json!({"status": {"phase": "Succeeded"}}),
                    ),
                )
            },
            // A pod that ended never runs again, but another one can have its name.
            &|w| {
                drop(
                    w.api.patch(&format!("{pods}/status"), json!({"status": {"phase": "Running"}})),
                )
            },
            "SnapshotSourceUnusable",
            "pod p has ended, and its volume is gone: take the snapshot while the pod runs",
        ),
        (
            &|w| {
                drop(w.api.patch(
                    &format!("{VS}/ws-1"),
                    json!({"spec": {"volumeSnapshotClassName": "late"}}),
                ))
            },
            &|w| drop(w.class("late", "Delete", json!({}))),
            "SnapshotClassUnusable",
            "VolumeSnapshotClass late does not exist",
        ),
        (
            &|w| {
                w.class("bad", "Delete", json!({"format": "best"}));
                w.api.patch(
                    &format!("{VS}/ws-1"),
                    json!({"spec": {"volumeSnapshotClassName": "bad"}}),
                );
            },
            &|w| {
                drop(
                    w.api.patch(
                        &format!("{CLASSES}/bad"),
                        json!({"parameters": {"format": "native"}}),
                    ),
                )
            },
            "SnapshotClassUnusable",
            "VolumeSnapshotClass bad: format is \"best\": expected portable or native",
        ),
        (
            &|w| {
                for name in ["d-1", "d-2"] {
                    let class = w.class(name, "Delete", json!({}));
                    w.api.patch(&class, json!({"metadata": {"annotations": {"snapshot.storage.kubernetes.io/is-default-class": "true"}}}));
                }
            },
            &|w| w.api.delete(&format!("{CLASSES}/d-2")),
            "SnapshotClassUnusable",
            "VolumeSnapshotClasses d-1, d-2 are all the default",
        ),
        (
            &|w| foreign(w),
            &|w| w.api.delete(&format!("{CONTENTS}/ws-1-content")),
            "SnapshotContentNameTaken",
            "VolumeSnapshotContent ws-1-content belongs to another snapshot",
        ),
        (
            &|w| left_content(w, "ci", "ws-1"),
            &|w| w.api.delete(&format!("{CONTENTS}/ws-1-content")),
            "SnapshotContentNameTaken",
            "VolumeSnapshotContent ws-1-content is left from an earlier VolumeSnapshot of this name",
        ),
        (
            &|w| content_name(w, "prod.ws-1"),
            &|w| content_name(w, "ws-1-content"),
            "SnapshotSourceInvalid",
            "names that begin with \"prod.\" are for snapshots of namespace prod: delete this VolumeSnapshot, and create it \
             with the content name ci.ws-1",
        ),
    ] {
        let world = World::new();
        world.request(json!({}));
        set_up(&world);
        for _ in 0..3 {
            world.controller_round().await;
        }
        let written = message(&world);
        assert!(written.contains(expected), "{expected:?} is not in {written:?}");
        assert_eq!(world.reasons().await, [reason], "{expected}");
        let waits = reason == "SnapshotPending";
        assert_eq!(phase(&world), if waits { "Pending" } else { "Refused" }, "{expected}");
        assert!(world.api.all(SNAPSHOTS).is_empty(), "{expected}");
        assert!(
            world.api.requests().iter().all(|request| !request.path.contains("..")),
            "{expected}"
        );
        fix(&world);
        world.settle().await;
        assert_eq!(message(&world), "nothing", "{expected}");
        super::assert_ready(&world);
        world.api.delete(&format!("{VS}/ws-1"));
        world.settle().await;
        world.assert_empty();
    }
}

/// Creates the content of another snapshot under the requested name.
fn foreign(world: &World) {
    left_content(world, "other", "ws-1");
}

/// Creates a retained content under the requested name, of a VolumeSnapshot that is gone.
fn left_content(world: &World, namespace: &str, name: &str) {
    world.api.put(CONTENTS, json!({
        "metadata": {"name": "ws-1-content"},
        "spec": {"driver": "ovl.csi.dev", "deletionPolicy": "Retain", "source": {"snapshotHandle": "snap-vs-0"},
                 "volumeSnapshotRef": {"namespace": namespace, "name": name, "uid": "vs-0"}},
    }));
}

/// The name is free when the OverlaySnapshot is created, and taken when the content is created.
#[tokio::test]
async fn a_name_that_is_taken_in_the_meantime_leaves_no_orphan() {
    let world = World::new();
    world.request(json!({}));
    world.controller_round().await;
    world.api.delete(&format!("{CONTENTS}/ws-1-content"));
    foreign(&world);
    world.controller_round().await;
    world.node_round();
    world.controller_round().await;
    assert!(world.api.all(SNAPSHOTS).is_empty());
    world.controller_round().await;
    assert!(message(&world).contains("belongs to another snapshot"));
    world.api.delete(&format!("{VS}/ws-1"));
    world.settle().await;
    // The content of the other snapshot stays.
    assert_eq!(world.api.all(CONTENTS).len(), 1);
}

#[tokio::test]
async fn objects_of_other_drivers_are_left_alone() {
    let world = World::new();
    world.api.put(
        CLASSES,
        json!({"metadata": {"name": "theirs"}, "driver": "other.dev", "deletionPolicy": "Delete"}),
    );
    world.request_as("a", "vs-a", json!({"volumeSnapshotClassName": "theirs"}));
    world.request_as("b", "vs-b", json!({}));
    world.api.patch(
        &format!("{VS}/b"),
        json!({"metadata": {"annotations": {"ovl.csi.dev/source": null}}}),
    );
    // Another release has claimed it.
    world.request_as("c", "vs-c", json!({}));
    world.api.patch(
        &format!("{VS}/c"),
        json!({"metadata": {"annotations": {"ovl.csi.dev/driver": "other.dev"}}}),
    );
    // An object of another driver, otherwise like one of this driver.
    let content = json!({"metadata": {"name": "d"}, "spec": {"driver": "other.dev", "deletionPolicy": "Delete",
        "source": {"snapshotHandle": "snap-vs-d"}, "volumeSnapshotRef": {"namespace": "ci", "name": "d", "uid": "vs-d"}}});
    world.api.put(CONTENTS, content);
    let before = world.state();
    world.controller_round().await;
    assert_eq!((world.state(), world.reasons().await), (before, Vec::new()));
}

/// Without a class, the volume decides. Until the driver is known, both releases write the same message, so neither
/// overwrites the other.
#[tokio::test]
async fn two_releases_do_not_overwrite_each_other_without_a_class() {
    for (from, expected) in [
        ("p/tmp", "volume tmp of pod p is not an inline csi volume"),
        ("q/ws", "pod q does not exist"),
        ("p/wx", "pod p has no volume wx"),
        ("p", "expected POD/VOLUME"),
        ("p/ws", "nothing"),
    ] {
        let world = World::new();
        let events = Events::start(world.api.client(), "c-2", "other.dev");
        let other = Controller::new(
            world.api.client(),
            "other.dev",
            Some(events),
            Metrics::of_controller(),
        );
        for name in ["d-1", "d-2"] {
            // Two default classes of the other release, which would refuse them as too many.
            let default = json!({"snapshot.storage.kubernetes.io/is-default-class": "true"});
            world.api.put(CLASSES, json!({"metadata": {"name": name, "annotations": default}, "driver": "other.dev", "deletionPolicy": "Delete"}));
        }
        world.request(json!({}));
        source(&world, from);
        reconcile_all(&world.reconciler(&other)).await;
        let written = message(&world);
        assert!(written.contains(expected), "{expected:?} is not in {written:?}");
        let reasons = world.reasons().await;
        assert_eq!(reasons.len(), usize::from(expected != "nothing"), "{reasons:?}");
        if expected == "nothing" {
            world.settle().await;
            super::assert_ready(&world);
        }
        let before = (world.api.get(&format!("{VS}/ws-1")), world.reasons().await);
        for controller in [&world.controller, &other, &world.controller, &other] {
            reconcile_all(&world.reconciler(controller)).await;
        }
        let after = (world.api.get(&format!("{VS}/ws-1")), world.reasons().await);
        assert_eq!(after, before, "{expected}");
    }
}
