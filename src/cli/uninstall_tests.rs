use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake::FakeApi;

const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: BeforeUninstallArgs,
}

fn args(more: &[&str]) -> BeforeUninstallArgs {
    let usual = ["ovl", "--driver-name", "ovl.csi.dev", "--release", "ovl-csi"];
    let release = ["--namespace", "kube-system", "--revision", "3"];
    Cli::parse_from(usual.iter().chain(&release).chain(more)).args
}

fn snapshots(namespace: &str) -> String {
    format!("/apis/snapshot.storage.k8s.io/v1/namespaces/{namespace}/volumesnapshots")
}

fn snapshot(api: &FakeApi, namespace: &str, name: &str, annotations: Value) {
    let metadata = json!({"name": name, "uid": format!("uid-{name}"), "annotations": annotations});
    api.put(&snapshots(namespace), json!({"metadata": metadata, "spec": {"source": {}}}));
}

fn content(api: &FakeApi, driver: &str, namespace: &str, name: &str) {
    api.put(CONTENTS, json!({
        "metadata": {"name": format!("content-{name}"), "finalizers": [FINALIZER]},
        "spec": {"driver": driver, "deletionPolicy": "Delete", "source": {"snapshotHandle": "s"},
                 "volumeSnapshotRef": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")}},
    }));
}

async fn check(api: &FakeApi, more: &[&str]) -> (String, bool) {
    args(more).check(&api.client()).await.unwrap()
}

#[tokio::test]
async fn without_a_snapshot_of_the_driver_the_release_is_uninstalled() {
    let api = FakeApi::default();
    assert_eq!(check(&api, &[]).await, (String::new(), false));
    snapshot(&api, "ci", "theirs", json!({}));
    content(&api, "other.dev", "ci", "theirs");
    // A content whose VolumeSnapshot is gone: it was retained, and stays.
    content(&api, "ovl.csi.dev", "ci", "gone");
    assert_eq!(check(&api, &[]).await, (String::new(), false));
    // A cluster without the kinds.
    let none = FakeApi::responding(&[404, 404]);
    assert_eq!(check(&none, &[]).await, (String::new(), false));
}

#[tokio::test]
async fn snapshots_that_are_left_stop_the_uninstallation_and_are_listed() {
    let api = FakeApi::default();
    snapshot(&api, "ci", "ws-1", json!({}));
    content(&api, "ovl.csi.dev", "ci", "ws-1");
    // One without a content yet.
    snapshot(&api, "dev", "claimed", json!({"ovl.csi.dev/driver": "ovl.csi.dev"}));
    snapshot(&api, "dev", "theirs", json!({"ovl.csi.dev/driver": "other.dev"}));
    let before = api.all(CONTENTS);
    let (text, stops) = check(&api, &[]).await;
    assert!(stops && text.contains("2 VolumeSnapshots of ovl.csi.dev would be left"), "{text}");
    for line in [
        "  kubectl --namespace ci delete volumesnapshot ws-1\n",
        "  kubectl --namespace dev delete volumesnapshot claimed\n",
        "  helm --namespace kube-system rollback ovl-csi 3\n",
        "--set snapshots.onUninstall=retain\n",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert!(!text.contains("theirs"), "{text}");
    assert_eq!(api.all(CONTENTS), before);
    for n in 0..30 {
        snapshot(&api, "many", &format!("s-{n:02}"), json!({"ovl.csi.dev/driver": "ovl.csi.dev"}));
    }
    let (text, _) = check(&api, &[]).await;
    assert!(text.contains("  ... and 12 more\n") && !text.contains("s-18"), "{text}");
}

#[tokio::test]
async fn retained_snapshots_do_not_stop_it_and_deletions_end() {
    let api = FakeApi::default();
    for name in ["ws-1", "deleting"] {
        snapshot(&api, "ci", name, json!({}));
        content(&api, "ovl.csi.dev", "ci", name);
    }
    content(&api, "other.dev", "ci", "theirs");
    api.patch(
        &format!("{CONTENTS}/content-deleting"),
        json!({"metadata": {"finalizers": [FINALIZER, "example.org/other"]}}),
    );
    api.delete(&format!("{CONTENTS}/content-deleting"));
    for _ in 0..2 {
        let (text, stops) = check(&api, &["--retain"]).await;
        assert!(!stops && text.contains("2 VolumeSnapshotContents are retained"), "{text}");
    }
    let get = |name: &str| api.get(&format!("{CONTENTS}/content-{name}")).unwrap();
    assert_eq!(get("ws-1")["spec"]["deletionPolicy"], "Retain");
    // The snapshot-controller would add it again.
    assert_eq!(get("ws-1")["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(get("deleting")["metadata"]["finalizers"], json!(["example.org/other"]));
    assert_eq!(get("theirs")["spec"]["deletionPolicy"], "Delete");
}
