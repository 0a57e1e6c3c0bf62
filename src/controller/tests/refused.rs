//! VolumeSnapshots that cannot be made: the user is told why, once, and where it can heal it does.

use serde_json::{Value, json};

use super::super::{Controller, queue::Key};
use super::world::{CLASSES, CONTENTS, PODS, SNAPSHOTS, VS, World};
use crate::metrics::Metrics;

fn message(world: &World) -> String {
    let asked = world.api.get(&format!("{VS}/ws-1")).unwrap();
    asked["metadata"]["annotations"]["ovl.csi.dev/message"].as_str().unwrap_or("nothing").to_owned()
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
async fn what_cannot_be_made_is_said_once_and_healed() {
    let pod = |volumes: Value| json!({"spec": {"volumes": volumes}});
    let pods = format!("{PODS}/p");
    for (spoil, heal, reason, sentence) in [
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
            "in the place of source.persistentVolumeClaimName",
        ),
        (
            &|w| content_name(w, "../../../api/v1/nodes/n-1"),
            &|w| content_name(w, "ws-1-content"),
            "SnapshotSourceInvalid",
            "source.volumeSnapshotContentName is \"../../../api/v1/nodes/n-1\", which no object can be called",
        ),
        (
            &|w| content_name(w, &"a".repeat(254)),
            &|w| content_name(w, "ws-1-content"),
            "SnapshotSourceInvalid",
            "expected at most 253 small letters",
        ),
        (
            &|w| source(w, "q/ws"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceMissing",
            "there is no pod q in this namespace",
        ),
        (
            &|w| source(w, "p/wx"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceMissing",
            "pod p has no volume wx: its volumes are ws, ro, tmp",
        ),
        (
            &|w| source(w, "p/tmp"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceUnusable",
            "volume tmp of pod p is no inline csi volume",
        ),
        (
            &|w| {
                // The class is the driver's, so it is the one to say it.
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
            "none of ovl.csi.dev: only its inline csi volumes",
        ),
        (
            &|w| source(w, "p/ro"),
            &|w| source(w, "p/ws"),
            "SnapshotSourceUnusable",
            "read-only: there is nothing of its own",
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
            "pod p does not run yet",
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
            "there is no VolumeSnapshotClass late",
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
    ] {
        let world = World::new();
        world.ask(json!({}));
        spoil(&world);
        for _ in 0..3 {
            world.controller_round().await;
        }
        let said = message(&world);
        assert!(said.contains(sentence), "{sentence:?} is not in {said:?}");
        assert_eq!(world.reasons().await, [reason], "{sentence}");
        assert!(world.api.all(SNAPSHOTS).is_empty(), "{sentence}");
        assert!(world.api.asked().iter().all(|asked| !asked.path.contains("..")), "{sentence}");
        heal(&world);
        world.settle().await;
        assert_eq!(message(&world), "nothing", "{sentence}");
        super::assert_ready(&world);
        world.api.delete(&format!("{VS}/ws-1"));
        world.settle().await;
        world.assert_empty();
    }
}

/// Another snapshot has the name.
fn foreign(world: &World) {
    world.api.put(CONTENTS, json!({
        "metadata": {"name": "ws-1-content"},
        "spec": {"driver": "ovl.csi.dev", "deletionPolicy": "Retain", "source": {"snapshotHandle": "snap-vs-0"},
                 "volumeSnapshotRef": {"namespace": "other", "name": "ws-1", "uid": "vs-0"}},
    }));
}

/// The name was free when the OverlaySnapshot was made, and is taken when the content is.
#[tokio::test]
async fn a_name_that_is_taken_in_between_leaves_nothing_behind() {
    let world = World::new();
    world.ask(json!({}));
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
    // The other one's stays.
    assert_eq!(world.api.all(CONTENTS).len(), 1);
}

#[tokio::test]
async fn what_is_not_for_this_driver_is_left_alone() {
    let world = World::new();
    world.api.put(
        CLASSES,
        json!({"metadata": {"name": "theirs"}, "driver": "other.dev", "deletionPolicy": "Delete"}),
    );
    world.ask_as("a", "vs-a", json!({"volumeSnapshotClassName": "theirs"}));
    world.ask_as("b", "vs-b", json!({}));
    world.api.patch(
        &format!("{VS}/b"),
        json!({"metadata": {"annotations": {"ovl.csi.dev/source": null}}}),
    );
    // Another release has it.
    world.ask_as("c", "vs-c", json!({}));
    world.api.patch(
        &format!("{VS}/c"),
        json!({"metadata": {"annotations": {"ovl.csi.dev/driver": "other.dev"}}}),
    );
    // An object of another driver, with everything else as ours.
    let content = json!({"metadata": {"name": "d"}, "spec": {"driver": "other.dev", "deletionPolicy": "Delete",
        "source": {"snapshotHandle": "snap-vs-d"}, "volumeSnapshotRef": {"namespace": "ci", "name": "d", "uid": "vs-d"}}});
    world.api.put(CONTENTS, content);
    let before = world.state();
    world.controller_round().await;
    assert_eq!((world.state(), world.reasons().await), (before, Vec::new()));
}

/// Without a class the volume decides; what is said before that is known is the same from both, so neither writes over the other.
#[tokio::test]
async fn two_releases_do_not_fight_over_what_names_no_class() {
    for (from, sentence) in [
        ("p/tmp", "volume tmp of pod p is no inline csi volume"),
        ("q/ws", "there is no pod q"),
        ("p/wx", "pod p has no volume wx"),
        ("p", "expected POD/VOLUME"),
        ("p/ws", "nothing"),
    ] {
        let world = World::new();
        let other = Controller::new(world.api.client(), "other.dev", "c-2", Metrics::default());
        for name in ["d-1", "d-2"] {
            // Of the other one, which would say that these are too many.
            let default = json!({"snapshot.storage.kubernetes.io/is-default-class": "true"});
            world.api.put(CLASSES, json!({"metadata": {"name": name, "annotations": default}, "driver": "other.dev", "deletionPolicy": "Delete"}));
        }
        world.ask(json!({}));
        source(&world, from);
        let key = Key::Request("ci".into(), "ws-1".into());
        other.work(key.clone()).await;
        let said = message(&world);
        assert!(said.contains(sentence), "{sentence:?} is not in {said:?}");
        let told = world.reasons().await;
        assert_eq!(told.len(), usize::from(sentence != "nothing"), "{told:?}");
        if sentence == "nothing" {
            world.settle().await;
            super::assert_ready(&world);
        }
        let before = (world.api.get(&format!("{VS}/ws-1")), world.reasons().await);
        for controller in [&world.controller, &other, &world.controller, &other] {
            controller.work(key.clone()).await;
        }
        let after = (world.api.get(&format!("{VS}/ws-1")), world.reasons().await);
        assert_eq!(after, before, "{sentence}");
    }
}
