//! OverlayDiffs are assigned to nodes and deleted, against a fake API server.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    cluster::fake::{FakeApi, eventually},
    metrics::Metrics,
};

const DIFFS: &str = "/apis/ovl.csi.dev/v1alpha1/namespaces/ci/overlaydiffs";
const RESULTS: &str = "/apis/ovl.csi.dev/v1alpha1/namespaces/ci/overlaydiffresults";
const VS: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/ci/volumesnapshots";
const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
const OVERLAYS: &str = "/apis/ovl.csi.dev/v1alpha1/overlaysnapshots";

/// A cluster with two nodes, a pod, and a controller that runs until the test ends.
struct World {
    api: FakeApi,
    task: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    fn new() -> Self {
        let api = FakeApi::default();
        for node in ["n-1", "n-2"] {
            let status = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
            api.put("/api/v1/nodes", json!({ "metadata": { "name": node }, "status": status }));
        }
        let volumes = json!([
            { "name": "ws", "csi": { "driver": "ovl.csi.dev" } },
            { "name": "ro", "csi": { "driver": "ovl.csi.dev", "readOnly": true } },
            { "name": "tmp", "emptyDir": {} },
            { "name": "other", "csi": { "driver": "other.csi.dev" } },
        ]);
        for (name, node) in [("p", "n-2"), ("unscheduled", ""), ("lost", "n-3")] {
            api.put(
                "/api/v1/namespaces/ci/pods",
                json!({
                    "metadata": { "name": name, "uid": "u-p" },
                    "spec": { "nodeName": node, "containers": [], "volumes": volumes },
                    "status": { "phase": "Running" },
                }),
            );
        }
        let controller = Controller::new(api.client(), "ovl.csi.dev", None, Metrics::default());
        let task = tokio::spawn(async move { controller.run_diffs().await });
        Self { api, task }
    }

    fn node_is_ready(&self, node: &str, ready: &str) {
        let conditions = json!([{ "type": "Ready", "status": ready }]);
        let path = format!("/api/v1/nodes/{node}/status");
        self.api.patch(&path, json!({ "status": { "conditions": conditions } }));
    }

    fn snapshot(&self, name: &str, node: &str, image: Option<&str>) {
        self.snapshot_of("ci", name, node, image);
    }

    fn snapshot_of(&self, namespace: &str, name: &str, node: &str, image: Option<&str>) {
        let (content, handle) = (format!("content-{name}"), format!("snap-{name}"));
        self.api.put(
            VS,
            json!({
                "metadata": { "name": name }, "spec": { "source": {} },
                "status": { "boundVolumeSnapshotContentName": content },
            }),
        );
        self.api.put(
            CONTENTS,
            json!({
                "metadata": { "name": content },
                "spec": {
                    "driver": "ovl.csi.dev", "deletionPolicy": "Delete",
                    "source": { "volumeHandle": "csi-0" }, "volumeSnapshotRef": {},
                },
                "status": { "snapshotHandle": handle },
            }),
        );
        self.api.put(
            OVERLAYS,
            json!({
                "metadata": { "name": handle },
                "spec": {
                    "driver": "ovl.csi.dev", "nodeName": node, "volumeHandle": "csi-0",
                    "source": { "namespace": namespace, "pod": "p", "podUid": "u", "volume": "ws" },
                    "freezeTimeoutMillis": 5000, "squashAbove": 32,
                },
                "status": { "phase": "Ready", "image": image },
            }),
        );
    }

    /// Creates a request, and returns its status, or the error in its result.
    async fn request(&self, name: &str, mut spec: Value) -> Result<Value, String> {
        if spec["driver"].is_null() {
            spec["driver"] = "ovl.csi.dev".into();
        }
        let created = Timestamp::now().to_string();
        self.api.put(
            DIFFS,
            json!({
                "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlayDiff",
                "metadata": { "name": name, "creationTimestamp": created }, "spec": spec,
            }),
        );
        let (request, result) = (format!("{DIFFS}/{name}"), format!("{RESULTS}/{name}"));
        eventually(|| {
            if let Some(result) = self.api.get(&result) {
                assert_eq!(result["spec"].get("nodeName"), None, "{result}");
                assert_eq!(result["metadata"]["ownerReferences"][0]["name"], name);
                return Some(Err(result["spec"]["error"].as_str().unwrap().to_owned()));
            }
            let status = self.api.get(&request)?["status"].clone();
            (!status.is_null()).then_some(Ok(status))
        })
        .await
    }

    async fn node_of(&self, name: &str, spec: Value) -> String {
        let status = self.request(name, spec).await.unwrap();
        status["nodeName"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_pods_volume_is_compared_on_the_pods_node() {
    let world = World::new();
    let pod = |name: &str, volume: &str| json!({ "pod": { "name": name, "volume": volume } });
    let status = world.request("a", pod("p", "ws")).await.unwrap();
    let handle = super::super::names::volume_handle("u-p", "ws");
    assert_eq!(status, json!({ "nodeName": "n-2", "podUid": "u-p", "volumeHandle": handle }));
    for (name, spec, message) in [
        ("no-pod", pod("none", "ws"), "pod none does not exist in this namespace"),
        (
            "no-volume",
            pod("p", "none"),
            "pod p has no volume none: its inline csi volumes are ws, ro, other",
        ),
        ("no-csi", pod("p", "tmp"), "volume tmp of pod p is not an inline csi volume"),
        ("foreign", pod("p", "other"), "volume other of pod p is not a volume of ovl.csi.dev"),
        (
            "read-only",
            pod("p", "ro"),
            "volume ro of pod p is read-only, so nothing in it has changed",
        ),
        ("unscheduled", pod("unscheduled", "ws"), "pod unscheduled is on no node yet"),
        ("lost", pod("lost", "ws"), "node n-3 of pod lost is not Ready"),
        ("path", pod("../x", "ws"), "\"../x\" is not a valid name of an object"),
        ("empty", json!({}), "set either volumeSnapshotName or pod"),
    ] {
        let why = world.request(name, spec).await.unwrap_err();
        assert!(why.starts_with(message), "{name}: {why}");
    }
    assert!(!world.api.requests().iter().any(|seen| seen.path.contains("..")));
}

#[tokio::test]
async fn a_snapshot_is_compared_on_a_node_that_has_it() {
    let world = World::new();
    world.snapshot("one", "n-1", None);
    world.snapshot("two", "n-2", None);
    world.snapshot("pushed", "n-1", Some("r.io/a@sha256:0"));
    world.snapshot("also-pushed", "n-2", Some("r.io/b@sha256:0"));
    let of = |name: &str, base: Option<&str>| json!({ "volumeSnapshotName": name, "baseVolumeSnapshotName": base });
    assert_eq!(world.node_of("a", of("one", None)).await, "n-1");
    assert_eq!(world.node_of("b", of("two", None)).await, "n-2");
    // One that was not pushed is on its own node only.
    assert_eq!(world.node_of("c", of("pushed", Some("two"))).await, "n-2");
    assert_eq!(world.node_of("d", of("two", Some("pushed"))).await, "n-2");
    assert_eq!(world.node_of("e", of("pushed", Some("also-pushed"))).await, "n-1");
    world.node_is_ready("n-1", "Unknown");
    assert_eq!(world.node_of("f", of("pushed", Some("also-pushed"))).await, "n-2");
    let why = world.request("g", of("one", None)).await.unwrap_err();
    assert!(why.starts_with("node n-1, which has snapshot one, is not Ready"), "{why}");
    let why = world.request("h", of("pushed", Some("one"))).await.unwrap_err();
    assert!(why.contains("snapshot one"), "{why}");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_used_is_refused_with_the_reason() {
    let world = World::new();
    world.snapshot_of("other", "foreign", "n-1", None);
    world.snapshot("unbound", "n-1", None);
    world.api.patch(&format!("{VS}/unbound/status"), json!({ "status": null }));
    world.snapshot("driver", "n-1", None);
    let other = json!({ "spec": { "driver": "other.csi.dev" } });
    world.api.patch(&format!("{CONTENTS}/content-driver"), other);
    for (name, message) in [
        ("none", "there is no VolumeSnapshot none in namespace ci"),
        ("foreign", "VolumeSnapshot foreign cannot be used: its content is for another namespace"),
        ("unbound", "VolumeSnapshot unbound is not captured yet"),
        ("driver", "VolumeSnapshot driver cannot be used: it belongs to another driver"),
        ("../../nodes/n-1", "\"../../nodes/n-1\" is not a valid name of an object"),
    ] {
        let request = format!("of-{}", name.replace(['.', '/'], "x"));
        let why = world.request(&request, json!({ "volumeSnapshotName": name })).await.unwrap_err();
        assert!(why.starts_with(message), "{name}: {why}");
    }
}

#[tokio::test]
async fn old_requests_of_any_driver_are_deleted_and_young_ones_stay() {
    let world = World::new();
    let now = Timestamp::now();
    let created = |age: u64| now.saturating_sub(Duration::from_secs(age)).unwrap().to_string();
    for (name, driver, age) in [
        ("old", "ovl.csi.dev", 605),
        ("of-no-driver", "gone.csi.dev", 605),
        ("young", "ovl.csi.dev", 500),
    ] {
        let metadata = json!({ "name": name, "creationTimestamp": created(age) });
        let spec = json!({ "driver": driver, "volumeSnapshotName": "ws" });
        world.api.put(DIFFS, json!({ "metadata": metadata, "spec": spec }));
    }
    let controller = Controller::new(world.api.client(), "ovl.csi.dev", None, Metrics::default());
    let mut requests = Requests::new(&controller);
    let all =
        world.api.all(DIFFS).into_iter().map(|object| serde_json::from_value(object).unwrap());
    requests.apply(Change::All(all.collect()));
    requests.delete_expired(now).await;
    let names: Vec<_> =
        world.api.all(DIFFS).iter().map(|o| o["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["young"]);
    assert!(
        !world
            .api
            .requests()
            .iter()
            .any(|seen| { seen.method == "GET" && seen.path.contains("overlaydiffresults") }),
        "the controller reads no results"
    );
}

#[tokio::test]
async fn a_request_of_another_driver_is_not_assigned() {
    let world = World::new();
    let spec = json!({ "driver": "other.csi.dev", "pod": { "name": "p", "volume": "other" } });
    world.api.put(DIFFS, json!({ "metadata": { "name": "other", "creationTimestamp": Timestamp::now().to_string() }, "spec": spec }));
    world.node_of("ours", json!({ "pod": { "name": "p", "volume": "ws" } })).await;
    let other = world.api.get(&format!("{DIFFS}/other")).unwrap();
    assert_eq!(other.get("status"), None, "{other}");
}

#[tokio::test]
async fn a_namespace_has_a_limited_number_of_requests() {
    let world = World::new();
    let pod = || json!({ "pod": { "name": "p", "volume": "ws" } });
    for n in 0..NAMESPACE_MAX {
        world.request(&format!("d-{n}"), pod()).await.unwrap();
    }
    let why = world.request("more", pod()).await.unwrap_err();
    assert!(why.starts_with("this namespace has 32 other OverlayDiffs already"), "{why}");
    for name in ["more", "d-0"] {
        world.api.delete(&format!("{DIFFS}/{name}"));
    }
    world.request("again", pod()).await.unwrap();
}
