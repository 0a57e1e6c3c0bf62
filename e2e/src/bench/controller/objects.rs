//! The objects of the bench: what users, a kubelet, a node's agent and the stock snapshot controllers write.
//!
//! Deliberately absent: what the controller under test writes.

use serde_json::{Value, json};

/// The paths of the kinds of snapshots in the API.
pub const VOLUME_SNAPSHOTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshots";
pub const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
pub const OVERLAY_SNAPSHOTS: &str = "/apis/ovl.csi.dev/v1alpha1/overlaysnapshots";

/// The annotation of a VolumeSnapshot with the progress.
pub const PHASE: &str = "ovl.csi.dev/phase";

/// Pods of each namespace.
pub const PODS: usize = 10;

const DRIVER: &str = "ovl.csi.dev";

/// The name of the class of all snapshots.
pub const CLASS: &str = "bench";

const TIME: &str = "2026-01-02T03:04:05Z";
const NODES_PATH: &str = "/api/v1/nodes";

/// A request: the path and the body.
pub type Request = (String, Value);

/// A VolumeSnapshot of the bench.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The number of its pod.
    pod: usize,
}

impl Snapshot {
    /// The one of this number among those of one kind.
    pub fn new(namespace: &str, kind: &str, number: usize) -> Self {
        let name = format!("{kind}-{number}");
        Self { namespace: namespace.to_owned(), name, pod: number % PODS }
    }

    /// The name of its VolumeSnapshotContent.
    pub fn content(&self) -> String {
        format!("{}-{}", self.namespace, self.name)
    }

    /// Creates it, as a user does.
    pub fn create(&self) -> Request {
        let path = format!("{}/volumesnapshots", namespaced(&self.namespace));
        let body = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
            "metadata": { "name": self.name, "annotations": {
                "ovl.csi.dev/source": format!("{}/work", pod_name(self.pod)) } },
            "spec": { "volumeSnapshotClassName": CLASS,
                "source": { "volumeSnapshotContentName": self.content() } },
        });
        (path, body)
    }

    /// The status of its content, as csi-snapshotter writes it.
    pub fn content_status(&self, ready: bool) -> Request {
        let status = json!({ "readyToUse": ready, "creationTime": 1_767_323_045_000_000_000_i64 });
        (format!("{CONTENTS}/{}/status", self.content()), json!({ "status": status }))
    }

    /// Its own status, as the snapshot-controller writes it.
    pub fn status(&self, ready: bool) -> Request {
        let path = format!("{}/volumesnapshots/{}/status", namespaced(&self.namespace), self.name);
        let status = json!({ "readyToUse": ready, "creationTime": TIME,
            "boundVolumeSnapshotContentName": self.content() });
        (path, json!({ "status": status }))
    }
}

/// The status of an OverlaySnapshot that a node has captured and pushed as this image.
pub fn ready(name: &str, image: &str) -> Request {
    let condition = |kind: &str| {
        json!({ "type": kind, "status": "True", "reason": kind, "message": "done",
            "lastTransitionTime": TIME })
    };
    let status = json!({
        "phase": "Ready", "captureTime": TIME, "frozenMicros": 1790, "entries": 1000,
        "bytes": 1_000_000_000, "layers": 7, "ownLayers": 1,
        "pushedBytes": 100_000_000, "image": image,
        "conditions": (["Captured", "Pushed", "Ready"].map(condition)),
    });
    (format!("{OVERLAY_SNAPSHOTS}/{name}/status"), json!({ "status": status }))
}

/// The class of all snapshots, which are pushed to this repository.
pub fn class(repository: &str) -> Request {
    let path = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses".to_owned();
    let body = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass",
        "metadata": { "name": CLASS }, "driver": DRIVER, "deletionPolicy": "Delete",
        "parameters": { "repository": repository },
    });
    (path, body)
}

/// A node, and its status.
pub fn node(number: usize) -> [Request; 2] {
    let name = node_name(number);
    let body = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
    let status = json!({ "conditions": [{ "type": "Ready", "status": "True",
        "reason": "KubeletReady", "message": "ready",
        "lastTransitionTime": TIME, "lastHeartbeatTime": TIME }] });
    [
        (NODES_PATH.to_owned(), body),
        (format!("{NODES_PATH}/{name}/status"), json!({ "status": status })),
    ]
}

/// A namespace.
pub fn namespace(name: &str) -> Request {
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    ("/api/v1/namespaces".to_owned(), body)
}

/// A running pod on a node with a volume of the driver, and its status.
pub fn pod(namespace: &str, number: usize, node: usize) -> [Request; 2] {
    let (name, pods) = (pod_name(number), format!("/api/v1/namespaces/{namespace}/pods"));
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "nodeName": node_name(node),
            "containers": [{ "name": "main", "image": "registry.invalid/bench:1",
                "volumeMounts": [{ "name": "work", "mountPath": "/work" }] }],
            "volumes": [{ "name": "work", "csi": { "driver": DRIVER,
                "volumeAttributes": { "image": "registry.invalid/bench:1" } } }],
        },
    });
    let status = json!({ "status": { "phase": "Running", "startTime": TIME } });
    let path = format!("{pods}/{name}/status");
    [(pods, body), (path, status)]
}

fn namespaced(namespace: &str) -> String {
    format!("/apis/snapshot.storage.k8s.io/v1/namespaces/{namespace}")
}

/// The name of the node of this number.
pub fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn pod_name(number: usize) -> String {
    format!("pod-{number}")
}
