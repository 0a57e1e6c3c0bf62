//! The tree of snapshots and the state of a single one.

use serde_json::{Value, json};

use super::*;
use crate::{cli::kubectl::snapshot_view::State, cluster::snapshot_api::VolumeSnapshot};

const DRIVER: &str = "ovl.csi.dev";

fn object(name: &str, annotations: Value, status: Value) -> VolumeSnapshot {
    let metadata = json!({ "name": name, "namespace": "ci", "uid": format!("uid-{name}"),
        "creationTimestamp": "2026-01-02T03:04:05Z", "annotations": annotations });
    serde_json::from_value(
        json!({ "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": metadata, "spec": { "source": {} }, "status": status }),
    )
    .unwrap()
}

fn snapshot(name: &str, parent: Option<&str>) -> Snapshot {
    let mut annotations = json!({ "ovl.csi.dev/source": "dev-0/ws" });
    if let Some(parent) = parent {
        annotations["ovl.csi.dev/parent"] = parent.into();
    }
    Snapshot::of(&object(name, annotations, json!({})), DRIVER).unwrap()
}

fn drawn(of: &[(&str, Option<&str>)]) -> Vec<String> {
    let snapshots: Vec<_> = of.iter().map(|(name, parent)| snapshot(name, *parent)).collect();
    tree(&snapshots).into_iter().map(|(branch, one)| branch + &one.name).collect()
}

#[test]
fn each_snapshot_is_below_its_parent() {
    let drawn = drawn(&[
        ("a", None),
        ("a1", Some("a")),
        ("a11", Some("a1")),
        ("a12", Some("a1")),
        ("a2", Some("a")),
        ("a21", Some("a2")),
        ("b", Some("gone")),
        ("b1", Some("b")),
    ]);
    let want = ["a", "├─ a1", "│  ├─ a11", "│  └─ a12", "└─ a2", "   └─ a21", "b", "└─ b1"];
    assert_eq!(drawn, want);
}

#[test]
fn a_ring_and_a_deep_tree_are_drawn() {
    assert_eq!(drawn(&[("a", Some("b")), ("b", Some("a")), ("c", Some("c"))]), ["a", "└─ b", "c"]);
    let names: Vec<_> = (0..20_000).map(|i| format!("s-{i}")).collect();
    let deep: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.as_str(), i.checked_sub(1).map(|i| names[i].as_str())))
        .collect();
    let snapshots: Vec<_> =
        deep[..3_000].iter().map(|(name, parent)| snapshot(name, *parent)).collect();
    assert_eq!(tree(&snapshots).len(), 3_000);
}

#[test]
fn snapshots_of_one_name_in_two_namespaces_are_not_mixed_up() {
    let mut other = snapshot("a1", Some("a"));
    other.namespace = "other".into();
    let snapshots = [snapshot("a", None), snapshot("a1", Some("a")), other];
    let drawn: Vec<_> =
        tree(&snapshots).into_iter().map(|(branch, one)| branch + &one.name).collect();
    assert_eq!(drawn, ["a", "└─ a1", "a1"]);
}

#[test]
fn a_row_has_all_known_properties() {
    let now = "2026-01-02T05:04:05Z".parse().unwrap();
    let pushed = json!({
        "ovl.csi.dev/source": "dev-0/ws", "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/entries": "12",
        "ovl.csi.dev/bytes": "3565159", "ovl.csi.dev/image": "r.io/ci/ws@sha256:0", "ovl.csi.dev/node": "n-1",
        "ovl.csi.dev/layers": "4", "ovl.csi.dev/pushed-bytes": "1024", "ovl.csi.dev/frozen": "12.3ms",
    });
    let local = json!({ "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/node": "n-1", "ovl.csi.dev/message": "a\u{1b}[2J",
        "ovl.csi.dev/source": "dev-0/ws" });
    let ready = json!({ "readyToUse": true });
    let all = [("a", pushed), ("b", local)].map(|(name, annotations)| {
        Snapshot::of(&object(name, annotations, ready.clone()), DRIVER).unwrap()
    });
    assert_eq!(all[1].message.as_deref(), Some("a\\u{1b}[2J"));
    let text = print::table(&rows(&all, true, true, now));
    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "NAMESPACE NAME SOURCE PHASE ENTRIES SIZE LOCATION AGE LAYERS PUSHED-SIZE FROZEN NODE CLASS IMAGE",
            "ci a dev-0/ws Ready 12 3.4 MiB r.io/ci/ws 2h 4 1.0 KiB 12.3ms n-1 - r.io/ci/ws@sha256:0",
            "ci b dev-0/ws Ready - - only on node n-1 2h - - - n-1 - -",
        ]
    );
    let json = serde_json::to_value(&all[0]).unwrap();
    assert_eq!(
        (&json["pushedBytes"], &json["parent"], &json["uid"]),
        (&json!(1024), &Value::Null, &Value::Null)
    );
}

#[test]
fn volume_snapshots_of_other_drivers_are_ignored() {
    let is_ours =
        |annotations: Value| Snapshot::of(&object("a", annotations, json!({})), DRIVER).is_some();
    assert!(!is_ours(json!({ "other/x": "y" })) && !is_ours(Value::Null));
    let claimed =
        |driver: &str| json!({ "ovl.csi.dev/source": "p/v", "ovl.csi.dev/driver": driver });
    assert!(is_ours(claimed(DRIVER)) && !is_ours(claimed("other.dev")));
    // No controller has claimed it yet.
    assert!(is_ours(json!({ "ovl.csi.dev/source": "p/v" })));
}

#[test]
fn the_state_of_a_snapshot_follows_the_phase_of_its_node() {
    let state = |annotations: Value, status: Value| {
        let mut all = json!({ "ovl.csi.dev/source": "dev-0/ws" });
        all.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
        Snapshot::of(&object("a", all, status), DRIVER).unwrap().state()
    };
    let phase = |phase: &str| json!({ "ovl.csi.dev/phase": phase, "ovl.csi.dev/message": "m" });
    let ready = json!({ "readyToUse": true });
    let warned = json!({ "readyToUse": false, "error": { "message": "SnapshotContentMissing" } });
    for (annotations, status, want) in [
        (json!({}), json!({}), State::Waiting),
        (json!({}), ready.clone(), State::Ready),
        (phase("Ready"), ready.clone(), State::Ready),
        // The annotations or the status are not up to date yet.
        (phase("Pushing"), ready.clone(), State::Waiting),
        (phase("Ready"), json!({}), State::Waiting),
        (phase("Capturing"), warned.clone(), State::Waiting),
        // The word of an earlier version.
        (phase("Cutting"), warned.clone(), State::Waiting),
        (phase("Failed"), ready, State::Failed("m".into())),
        (phase("Deleted"), json!({}), State::Failed("it is being deleted".into())),
        (json!({ "ovl.csi.dev/message": "no pod" }), json!({}), State::Refused("no pod".into())),
        // The warning of the snapshot-controller before this driver's controller has created the content.
        (json!({}), warned, State::Waiting),
    ] {
        assert_eq!(state(annotations.clone(), status), want, "{annotations}");
    }
}
