//! Tests of the caches: which snapshots a change concerns, also where a list replaces missed changes.

use serde_json::{Value, json};

use super::*;
use crate::cluster::{overlay_snapshot::OverlaySnapshot, snapshot_api::VolumeSnapshotContent};

fn overlay(name: &str, driver: &str, phase: Option<&str>) -> Overlay {
    let object: OverlaySnapshot = serde_json::from_value(json!({
        "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlaySnapshot", "metadata": {"name": name},
        "spec": {"driver": driver, "nodeName": "n-1", "volumeHandle": "csi-1", "freezeTimeoutMillis": 1, "squashAbove": 1,
                 "source": {"namespace": "ci", "pod": "p", "podUid": "u", "volume": "ws"}},
        "status": {"phase": phase},
    }))
    .unwrap();
    object.into()
}

fn request(uid: &str) -> Option<CachedVolumeSnapshot> {
    let object = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"namespace": "ci", "name": format!("ws-{uid}"), "uid": uid}, "spec": {"source": {}},
    });
    CachedVolumeSnapshot::of(serde_json::from_value(object).unwrap())
}

fn content(name: &str, driver: &str, handle: &str, reference: Value) -> Content {
    let object: VolumeSnapshotContent = serde_json::from_value(json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": name},
        "spec": {"driver": driver, "deletionPolicy": "Delete", "source": {"snapshotHandle": handle},
                 "volumeSnapshotRef": reference},
    }))
    .unwrap();
    Content::of(object, "d")
}

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn objects_deleted_between_watches_are_forgotten() {
    let caches = Caches::default();
    let all = Change::All(vec![request("a"), request("b")]);
    assert_eq!(caches.apply_volume_snapshots(all), ids(&["snap-a", "snap-b"]));
    let all = Change::All(vec![overlay("snap-a", "d", None), overlay("snap-c", "d", None)]);
    assert_eq!(caches.apply_overlays(all, "d"), ids(&["snap-a", "snap-c"]));
    // The same list changes nothing.
    let all = Change::All(vec![request("a"), request("b")]);
    assert_eq!(caches.apply_volume_snapshots(all), ids(&[]));
    // The OverlaySnapshot of a VolumeSnapshot that is gone must be reconciled.
    assert_eq!(caches.apply_volume_snapshots(Change::All(vec![request("b")])), ids(&["snap-a"]));
    let snapshot = caches.snapshots.get("snap-a").unwrap();
    assert!(snapshot.request.is_none() && snapshot.overlay.is_some());
    let changed = caches.apply_overlays(Change::All(Vec::new()), "d");
    assert_eq!(changed, ids(&["snap-a", "snap-c"]));
    assert_eq!(caches.snapshots.names(|_| true), ["snap-b"]);
    assert_eq!(caches.apply_volume_snapshots(Change::Gone(request("b"))), ids(&["snap-b"]));
    assert!(caches.snapshots.names(|_| true).is_empty());
}

#[test]
fn a_content_concerns_its_handle_and_the_volume_snapshot_that_it_names() {
    let caches = Caches::default();
    let reference = |uid: &str| json!({"namespace": "ci", "name": "ws", "uid": uid});
    let first = || content("c", "d", "snap-a", reference("a"));
    assert_eq!(caches.apply_contents(Change::Applied(first())), ids(&["snap-a"]));
    assert_eq!(caches.apply_contents(Change::Applied(first())), ids(&[]));
    assert_eq!(caches.snapshots.get("snap-a").unwrap().contents.len(), 1);
    // An administrator wrote another one for the same snapshot.
    let second = content("taken-over", "d", "snap-a", reference("b"));
    assert_eq!(caches.apply_contents(Change::Applied(second)), ids(&["snap-a", "snap-b"]));
    assert_eq!(caches.snapshots.get("snap-a").unwrap().contents.len(), 2);
    // The name of another driver's content is taken, but it concerns no snapshot.
    let other = content("other", "e", "snap-x", reference("x"));
    assert_eq!(caches.apply_contents(Change::Applied(other)), ids(&[]));
    assert!(caches.content("other").is_some() && caches.snapshots.get("snap-x").is_none());
    let changed = caches.apply_contents(Change::All(vec![first()]));
    assert_eq!(changed, ids(&["snap-a", "snap-b"]));
    assert_eq!(caches.snapshots.get("snap-a").unwrap().contents.len(), 1);
    assert!(caches.content("other").is_none());
    assert_eq!(caches.apply_contents(Change::Gone(first())), ids(&["snap-a"]));
    assert!(caches.snapshots.get("snap-a").is_none());
}

#[test]
fn a_node_concerns_the_snapshots_that_need_it() {
    let caches = Caches::default();
    let pushed = |name: &str| {
        let mut overlay = overlay(name, "d", Some("Ready"));
        overlay.status.image = Some("r.io/a@sha256:0".into());
        overlay
    };
    let deleted = Overlay { is_deleted: true, ..pushed("deleted") };
    let (local, failed) =
        (overlay("local", "d", Some("Ready")), overlay("failed", "d", Some("Failed")));
    let all = vec![overlay("new", "d", None), local, failed, pushed("pushed"), deleted];
    caches.apply_overlays(Change::All(all), "d");
    assert_eq!(caches.node("n-1"), NodeState::Gone);
    let node = |name: &str, state| (name.to_owned(), state);
    let waiting = ids(&["new", "local", "deleted"]);
    let all = Change::All(vec![node("n-1", NodeState::Ready), node("n-2", NodeState::Ready)]);
    assert_eq!(caches.apply_nodes(all), waiting);
    let same = Change::Applied(node("n-1", NodeState::Ready));
    assert_eq!(caches.apply_nodes(same), ids(&[]));
    let lost = Change::Applied(node("n-1", NodeState::NotReady(None)));
    assert_eq!(caches.apply_nodes(lost), waiting);
    assert_eq!(caches.apply_nodes(Change::Gone(node("n-2", NodeState::Ready))), ids(&[]));
    assert_eq!(caches.apply_nodes(Change::All(Vec::new())), waiting);
    assert_eq!(caches.node("n-1"), NodeState::Gone);
}

#[test]
fn each_snapshot_counts_once_in_its_current_phase() {
    let caches = Caches::default();
    let counts = || caches.phases().into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
    let pushing = Some("Pushing");
    let all = vec![overlay("a", "d", None), overlay("b", "d", pushing), overlay("c", "e", pushing)];
    caches.apply_overlays(Change::All(all), "d");
    assert_eq!(counts(), [("Pending", 1), ("Pushing", 1)]);
    caches.apply_overlays(Change::Applied(overlay("a", "d", pushing)), "d");
    caches.apply_overlays(Change::Gone(overlay("b", "d", Some("Deleted"))), "d");
    assert_eq!(counts(), [("Pushing", 1)]);
    caches.apply_overlays(Change::Applied(overlay("a", "d", Some("Verifying"))), "d");
    assert_eq!(counts(), [("Unknown", 1)]);
    caches.apply_overlays(Change::All(Vec::new()), "d");
    assert_eq!(caches.phases().into_iter().map(|(_, count)| count).collect::<Vec<_>>(), [0; 9]);
}

#[test]
fn the_oldest_unpushed_snapshot_is_the_first_that_was_captured() {
    let caches = Caches::default();
    let captured = |name: &str, driver: &str, phase: &str, time: &str| {
        let mut overlay = overlay(name, driver, Some(phase));
        overlay.status.captured_at = Some(time.parse().unwrap());
        overlay
    };
    let (early, late) = ("2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z");
    let oldest = || caches.oldest_unpushed().map(|time| time.to_string());
    caches.apply_overlays(Change::Applied(captured("a", "d", "Pushing", late)), "d");
    caches.apply_overlays(Change::Applied(captured("b", "d", "Pushing", early)), "d");
    caches.apply_overlays(Change::Applied(captured("c", "e", "Pushing", early)), "d");
    caches.apply_overlays(Change::Applied(overlay("f", "d", Some("Pushing"))), "d");
    assert_eq!(oldest().as_deref(), Some(early));
    caches.apply_overlays(Change::Applied(captured("b", "d", "Ready", early)), "d");
    assert_eq!(oldest().as_deref(), Some(late));
    caches.apply_overlays(Change::Gone(captured("a", "d", "Pushing", late)), "d");
    assert_eq!(oldest(), None);
}

/// The watch brings the OverlaySnapshot as it was before, once or more, and then as it is.
#[test]
fn a_reported_phase_is_remembered_until_the_watch_brings_it() {
    let caches = Caches::default();
    let reported = |word: Option<&str>| Overlay {
        reported: word.map(str::to_owned),
        ..overlay("a", "d", Some("Ready"))
    };
    let memory = || caches.snapshots.get("a").unwrap().reported;
    caches.apply_overlays(Change::Applied(reported(Some("Pushing"))), "d");
    caches.set_reported("a", Phase::Ready);
    caches.apply_overlays(Change::Applied(overlay("a", "d", Some("Ready"))), "d");
    assert_eq!(memory(), Some(Phase::Ready));
    caches.apply_overlays(Change::Applied(reported(Some("Ready"))), "d");
    assert_eq!(memory(), None);
}
