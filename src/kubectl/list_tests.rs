//! The table of snapshots and the state of a single one.

use serde_json::{Value, json};

use super::*;
use crate::{cluster::snapshot_api::VolumeSnapshot, kubectl::snapshot_view::State};

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

/// The arguments of a command line.
fn args(line: &str) -> ListArgs {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ListArgs,
    }
    <Line as clap::Parser>::parse_from(["list"].into_iter().chain(line.split_whitespace())).args
}

fn lines(rows: &[Vec<Cell>]) -> Vec<String> {
    let text = table::draw(rows, &table::widths(rows, None));
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_row_has_all_known_properties() {
    let now = "2026-01-02T05:04:05Z".parse().unwrap();
    let pushed = json!({
        "ovl.csi.dev/source": "dev-0/ws", "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/entries": "12",
        "ovl.csi.dev/bytes": "3565159", "ovl.csi.dev/image": "r.io/ci/ws@sha256:0", "ovl.csi.dev/node": "n-1",
        "ovl.csi.dev/layers": "4", "ovl.csi.dev/class": "fast", "ovl.csi.dev/pushed-bytes": "1024", "ovl.csi.dev/frozen": "12.3ms",
    });
    let local = json!({ "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/node": "n-1", "ovl.csi.dev/message": "a\u{1b}[2J",
        "ovl.csi.dev/source": "dev-0/ws" });
    let ready = json!({ "readyToUse": true });
    let all = [("a", pushed), ("b", local)].map(|(name, annotations)| {
        Snapshot::of(&object(name, annotations, ready.clone()), DRIVER).unwrap()
    });
    assert_eq!(all[1].message.as_deref(), Some("a\\u{1b}[2J"));
    let rows = args("-A -o wide").rows(&all, now);
    assert_eq!(
        anstream::adapter::strip_str(&lines(&rows).join("\n"))
            .to_string()
            .lines()
            .collect::<Vec<_>>(),
        [
            "NAMESPACE NAME SOURCE PHASE ENTRIES SIZE LOCATION AGE LAYERS PUSHED-SIZE FROZEN NODE CLASS IMAGE MESSAGE",
            "ci a dev-0/ws Ready 12 3.4 MiB registry 2h 4 1.0 KiB 12.3ms n-1 fast r.io/ci/ws@sha256:0",
            "ci b dev-0/ws Ready - - n-1 2h - - - n-1 - - a\\u{1b}[2J",
        ]
    );
    let json = serde_json::to_value(&all[0]).unwrap();
    assert_eq!(
        (&json["pushedBytes"], &json["parent"], &json["uid"]),
        (&json!(1024), &Value::Null, &json!("uid-a"))
    );
}

#[test]
fn a_refused_snapshot_has_its_reason_in_the_last_column() {
    let now = "2026-01-02T03:05:05Z".parse().unwrap();
    let refused = json!({ "ovl.csi.dev/source": "p/ws", "ovl.csi.dev/phase": "Refused",
        "ovl.csi.dev/message": "pod p does not exist\nin this namespace" });
    let child = json!({ "ovl.csi.dev/source": "q/ws", "ovl.csi.dev/parent": "old", "ovl.csi.dev/parent-uid": "u" });
    let all = [("a", refused), ("b", child.clone())]
        .map(|(name, notes)| Snapshot::of(&object(name, notes, json!({})), DRIVER).unwrap());
    let rows = args("").rows(&all, now);
    let widths = table::widths(&rows, Some(80));
    let text = anstream::adapter::strip_str(&table::draw(&rows, &widths)).to_string();
    let shown: Vec<_> = text.lines().collect();
    assert!(shown.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert!(shown[0].ends_with("MESSAGE") && shown[1].contains("Refused"), "{text}");
    assert!(shown[1].contains("pod p") && shown[1].ends_with('…'), "{text}");
    assert_eq!(shown[2], "(old, deleted)");
    // With a selector, the parent may only be left out.
    let rows = args("-l a=b --no-headers").rows(&all[1..], now);
    assert_eq!(lines(&rows)[0], "(old)");
}

#[test]
fn a_watch_prints_what_changed_and_what_is_gone() {
    let snapshot = |name: &str, phase: &str| {
        let notes = json!({ "ovl.csi.dev/source": "p/ws", "ovl.csi.dev/phase": phase });
        Snapshot::of(&object(name, notes, json!({})), DRIVER).unwrap()
    };
    let before =
        by_uid(vec![snapshot("a", "Ready"), snapshot("b", "Pushing"), snapshot("c", "Ready")]);
    let now =
        by_uid(vec![snapshot("a", "Ready"), snapshot("b", "Ready"), snapshot("d", "Capturing")]);
    let changes = changes(&before, &now);
    let changes: Vec<_> =
        changes.iter().map(|one| (one.name.as_str(), one.phase.as_str())).collect();
    assert_eq!(changes, [("b", "Ready"), ("d", "Capturing"), ("c", "Deleted")]);
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
        (phase("Failed"), ready.clone(), State::Failed("m".into())),
        (phase("NotInRegistry"), ready, State::Failed("m".into())),
        (phase("Deleted"), json!({}), State::Failed("it is being deleted".into())),
        (phase("Refused"), json!({}), State::Refused("m".into())),
        (phase("Pending"), json!({}), State::Waiting),
        // The warning of the snapshot-controller before this driver's controller has created the content.
        (json!({}), warned, State::Waiting),
    ] {
        assert_eq!(state(annotations.clone(), status), want, "{annotations}");
    }
}

/// While the driver creates the content, and other controllers bind it, these report what is missing.
#[test]
fn an_error_of_the_stock_controllers_is_shown_once_it_has_not_passed_for_a_minute() {
    let error = json!({ "error": { "message": "VolumeSnapshotContent is missing" } });
    let view = |annotations: Value| {
        Snapshot::of(&object("a", annotations, error.clone()), DRIVER).unwrap()
    };
    let capturing = json!({ "ovl.csi.dev/source": "p/ws", "ovl.csi.dev/phase": "Capturing" });
    let snapshot = view(capturing.clone());
    assert_eq!(snapshot.message, None);
    let at = |time: &str| snapshot.reason(time.parse().unwrap()).map(str::to_owned);
    assert_eq!(at("2026-01-02T03:05:04Z"), None);
    assert_eq!(at("2026-01-02T03:05:05Z").as_deref(), Some("VolumeSnapshotContent is missing"));
    let row =
        |now: &str| lines(&args("").rows(std::slice::from_ref(&snapshot), now.parse().unwrap()));
    assert!(!row("2026-01-02T03:04:07Z")[0].contains("MESSAGE"));
    assert!(row("2026-01-02T03:06:05Z")[1].ends_with("VolumeSnapshotContent is missing"));
    // The message of the driver is the better reason.
    let mut annotations = capturing;
    annotations["ovl.csi.dev/message"] = "no space".into();
    let snapshot = view(annotations);
    assert_eq!(snapshot.reason("2026-01-03T00:00:00Z".parse().unwrap()), Some("no space"));
}

#[test]
fn a_snapshot_that_is_being_deleted_has_no_message_from_before() {
    let message = |phase: &str| {
        let annotations = json!({ "ovl.csi.dev/source": "p/ws", "ovl.csi.dev/phase": phase,
            "ovl.csi.dev/message": "class x does not exist" });
        let error = json!({ "error": { "message": "SnapshotContentMissing" } });
        let mut object = object("a", annotations, error);
        let deleted = "2026-01-02T03:05:05Z".parse().unwrap();
        object.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(deleted));
        let snapshot = Snapshot::of(&object, DRIVER).unwrap();
        assert_eq!(snapshot.phase, "Deleting");
        let now = "2026-01-03T00:00:00Z".parse().unwrap();
        snapshot.reason(now).map(str::to_owned)
    };
    assert_eq!(message("Refused"), None);
    assert_eq!(message("Failed"), None);
    // Its node deletes it, and reports what is in the way.
    assert_eq!(message("Deleting").as_deref(), Some("class x does not exist"));
}

#[test]
fn what_a_retained_snapshot_leaves_is_named_with_the_commands_that_delete_it() {
    let retained = |policy: Option<&str>, image: Option<&str>| {
        let annotations = json!({ "ovl.csi.dev/source": "p/ws", "ovl.csi.dev/entries": "1",
            "ovl.csi.dev/deletion-policy": policy, "ovl.csi.dev/image": image });
        let mut annotations = annotations.as_object().unwrap().clone();
        annotations.retain(|_, value| !value.is_null());
        let status = json!({ "boundVolumeSnapshotContentName": "ci.a" });
        Snapshot::of(&object("a", annotations.into(), status), DRIVER).unwrap().retained()
    };
    assert_eq!(retained(None, None), None);
    assert_eq!(retained(Some("Delete"), Some("r.io/a@sha256:0")), None);
    let text = retained(Some("Retain"), Some("r.io/a@sha256:0")).unwrap();
    for part in [
        "its image r.io/a@sha256:0, its layers and VolumeSnapshotContent ci.a stay",
        r#"kubectl patch volumesnapshotcontent ci.a --type=merge -p '{"spec":{"deletionPolicy":"Delete"}}'"#,
        "kubectl delete volumesnapshotcontent ci.a --ignore-not-found",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!retained(Some("Retain"), None).unwrap().contains("image"));
}

/// Kubernetes' controllers leave `readyToUse` true.
#[test]
fn a_snapshot_whose_image_the_registry_has_lost_is_not_ready_and_in_no_place() {
    let shown = |phase: &str| {
        let annotations = json!({
            "ovl.csi.dev/source": "dev-0/ws", "ovl.csi.dev/phase": phase, "ovl.csi.dev/node": "n-1",
            "ovl.csi.dev/image": "r.io/ci/ws@sha256:0",
        });
        let object = object("a", annotations, json!({ "readyToUse": true }));
        let snapshot = Snapshot::of(&object, DRIVER).unwrap();
        (snapshot.ready, snapshot.place().to_owned())
    };
    assert_eq!(shown("Ready"), (true, "registry".to_owned()));
    assert_eq!(shown("NotInRegistry"), (false, "-".to_owned()));
}
