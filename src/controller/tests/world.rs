//! A fake cluster in memory: one pod, one node, and the stock controllers as far as they matter here.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Change, Events, NodeState, fake::FakeApi, overlay_snapshot::OverlaySnapshot},
    controller::{
        Controller, Query,
        cached::{CachedVolumeSnapshot, Content, Overlay},
        run::Reconciler,
    },
    metrics::Metrics,
};

pub(super) const VS: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/ci/volumesnapshots";
pub(super) const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
pub(super) const CLASSES: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses";
pub(super) const SNAPSHOTS: &str = "/apis/ovl.csi.dev/v1alpha1/overlaysnapshots";
pub(super) const PODS: &str = "/api/v1/namespaces/ci/pods";
const EVENTS: &str = "/api/v1/namespaces/ci/events";

const SOURCE_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection";
const BOUND_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
const CONTENT_FINALIZER: &str =
    "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";

pub(super) struct World {
    pub(super) api: FakeApi,
    pub(super) controller: Controller,
    pub(super) metrics: Metrics,
    silent: AtomicBool,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_events(true)
    }

    /// A cluster whose controller emits Events, or does not.
    pub(super) fn with_events(emits: bool) -> Self {
        let api = FakeApi::default();
        let metrics = Metrics::of_controller();
        let events = emits.then(|| Events::start(api.client(), "c-1", "ovl.csi.dev"));
        let controller = Controller::new(api.client(), "ovl.csi.dev", events, metrics.clone());
        let world = Self { api, controller, metrics, silent: AtomicBool::new(false) };
        world.api.put("/api/v1/nodes", json!({"metadata": {"name": "n-1"}, "status": {}}));
        world.node_is("True");
        world.api.put(
            PODS,
            json!({
                "metadata": {"name": "p", "uid": "u-p"},
                "spec": {"nodeName": "n-1", "containers": [], "volumes": [
                    {"name": "ws", "csi": {"driver": "ovl.csi.dev"}},
                    {"name": "ro", "csi": {"driver": "ovl.csi.dev", "readOnly": true}},
                    {"name": "tmp", "emptyDir": {}}]},
                "status": {"phase": "Running"},
            }),
        );
        world
    }

    pub(super) fn node_is(&self, ready: &str) {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        self.api.patch("/api/v1/nodes/n-1/status", json!({"status": {"conditions": conditions}}));
    }

    /// Stops the node's plugin: it reports nothing more.
    pub(super) fn silence_node(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Creates a class and returns its path.
    pub(super) fn class(&self, name: &str, policy: &str, parameters: Value) -> String {
        self.api.put(CLASSES, json!({"metadata": {"name": name}, "driver": "ovl.csi.dev", "deletionPolicy": policy, "parameters": parameters}));
        format!("{CLASSES}/{name}")
    }

    pub(super) fn request(&self, spec: Value) {
        self.request_as("ws-1", "vs-1", spec);
    }

    /// Creates a VolumeSnapshot of the pod's volume, with these further fields in its spec.
    pub(super) fn request_as(&self, name: &str, uid: &str, mut spec: Value) {
        spec["source"] = json!({"volumeSnapshotContentName": format!("{name}-content")});
        let metadata =
            json!({"name": name, "uid": uid, "annotations": {"ovl.csi.dev/source": "p/ws"}});
        self.api.put(VS, json!({"metadata": metadata, "spec": spec}));
    }

    /// Reconciles once everything that a controller finds when it starts.
    pub(super) async fn controller_round(&self) {
        reconcile_all(&self.reconciler(&self.controller)).await;
    }

    /// A controller whose caches have the present objects, and get no later ones.
    pub(super) fn reconciler(&self, controller: &Controller) -> Reconciler {
        self.filled(controller, &[])
    }

    /// A controller whose caches lack all objects of some paths.
    pub(super) fn reconciler_without(&self, missing: &[&str]) -> Reconciler {
        self.filled(&self.controller, missing)
    }

    fn filled(&self, controller: &Controller, missing: &[&str]) -> Reconciler {
        let all =
            |path: &str| if missing.contains(&path) { Vec::new() } else { self.api.all(path) };
        let (due, _) = futures::channel::mpsc::unbounded();
        let reconciler = Reconciler::new(controller, due, CancellationToken::new());
        let (caches, driver) = (&reconciler.caches, &controller.0.driver);
        let requests = objects(all(VS)).into_iter().map(CachedVolumeSnapshot::of).collect();
        caches.apply_volume_snapshots(Change::All(requests));
        let contents = objects(all(CONTENTS)).into_iter();
        let contents = contents.map(|content| Content::of(content, driver)).collect();
        caches.apply_contents(Change::All(contents));
        let overlays = objects::<OverlaySnapshot>(all(SNAPSHOTS)).into_iter();
        caches.apply_overlays(Change::All(overlays.map(Overlay::from).collect()), driver);
        caches.apply_classes(Change::All(objects(all(CLASSES))));
        caches.apply_nodes(Change::All(nodes(all("/api/v1/nodes"))));
        reconciler
    }

    /// The node does its next step for each snapshot.
    pub(super) fn node_round(&self) {
        if self.silent.load(Ordering::Relaxed) || self.api.get("/api/v1/nodes/n-1").is_none() {
            return;
        }
        for made in self.api.all(SNAPSHOTS) {
            let status = match (made["spec"]["deleted"] == true, made["status"]["phase"].as_str()) {
                (true, _) => json!({"phase": "Deleted"}),
                (false, None) => json!({"phase": "Capturing"}),
                (false, Some("Capturing")) => {
                    json!({"phase": "Pushing", "frozenMicros": 12_345, "captureTime": "2026-01-02T03:05:00Z", "bytes": 7})
                }
                (false, Some("Pushing")) => json!({"phase": "Ready", "image": "r.io/ci@sha256:0"}),
                _ => continue,
            };
            let path = format!("{SNAPSHOTS}/{}/status", made["metadata"]["name"].as_str().unwrap());
            self.api.patch(&path, json!({ "status": status }));
        }
    }

    /// snapshot-controller and csi-snapshotter 8.6 reconcile everything once.
    pub(super) async fn stock_round(&self) {
        for object in self.api.all(VS) {
            self.stock_snapshot(&object);
        }
        for content in self.api.all(CONTENTS) {
            self.sidecar(&content).await;
        }
    }

    fn stock_snapshot(&self, object: &Value) {
        let path = format!("{VS}/{}", object["metadata"]["name"].as_str().unwrap());
        let uid = &object["metadata"]["uid"];
        let deleting = object["metadata"]["deletionTimestamp"].is_string();
        let wanted =
            object["spec"]["source"]["volumeSnapshotContentName"].as_str().unwrap_or_default();
        let bound = object["status"]["boundVolumeSnapshotContentName"].as_str();
        let name = if deleting { bound } else { Some(wanted) };
        let content = name.and_then(|name| self.api.get(&format!("{CONTENTS}/{name}")));
        let content = content.filter(|content| content["spec"]["volumeSnapshotRef"]["uid"] == *uid);
        let content_path = format!("{CONTENTS}/{}", name.unwrap_or_default());
        if let Some(content) = &content
            && !content["metadata"]["deletionTimestamp"].is_string()
            && !content["metadata"]["finalizers"].is_array()
        {
            self.api.patch(&content_path, json!({"metadata": {"finalizers": [CONTENT_FINALIZER]}}));
        }
        match (deleting, content) {
            (false, Some(content)) => {
                self.api.patch(
                    &path,
                    json!({"metadata": {"finalizers": [SOURCE_FINALIZER, BOUND_FINALIZER]}}),
                );
                let ready = content["status"]["readyToUse"] == true;
                let error = &content["status"]["error"];
                let status = json!({"boundVolumeSnapshotContentName": wanted, "readyToUse": ready, "error": error});
                self.api.patch(&format!("{path}/status"), json!({ "status": status }));
            }
            (false, None) => {
                self.api.patch(&path, json!({"metadata": {"finalizers": [SOURCE_FINALIZER]}}));
                let error = json!({"message": "VolumeSnapshotContent is missing"});
                self.api.patch(
                    &format!("{path}/status"),
                    json!({"status": {"readyToUse": false, "error": error}}),
                );
            }
            (true, Some(content)) => {
                self.api.patch(
                    &content_path,
                    json!({"metadata": {"annotations": {BEING_DELETED: "yes"}}}),
                );
                if content["spec"]["deletionPolicy"] == "Delete" {
                    self.api.delete(&content_path);
                } else {
                    self.api.patch(&path, json!({"metadata": {"finalizers": []}}));
                }
            }
            (true, None) => drop(self.api.patch(&path, json!({"metadata": {"finalizers": []}}))),
        }
    }

    async fn sidecar(&self, content: &Value) {
        let path = format!("{CONTENTS}/{}", content["metadata"]["name"].as_str().unwrap());
        let handle = content["spec"]["source"]["snapshotHandle"].as_str().unwrap().to_owned();
        let annotations = &content["metadata"]["annotations"];
        if content["metadata"]["deletionTimestamp"].is_string() {
            if !annotations[BEING_DELETED].is_string() {
                return;
            }
            if content["spec"]["deletionPolicy"] == "Delete"
                && content["status"]["snapshotHandle"].is_string()
            {
                if self.controller.delete_snapshot(&handle).await.is_err() {
                    return;
                }
                self.api
                    .patch(&format!("{path}/status"), json!({"status": {"snapshotHandle": null}}));
            }
            if self.api.get(&path).is_some() {
                self.api.patch(&path, json!({"metadata": {"finalizers": []}}));
            }
            return;
        }
        if content["status"]["readyToUse"] == true {
            return;
        }
        let query = Query { id: Some(handle.clone()), ..Query::default() };
        let status = match self.controller.list_snapshots(&query).await {
            Ok(page) if page.snapshots.is_empty() => {
                json!({"readyToUse": false, "error": {"message": "can not find snapshot"}})
            }
            Ok(page) => {
                json!({"snapshotHandle": handle, "readyToUse": page.snapshots[0].ready, "error": null})
            }
            Err(error) => json!({"readyToUse": false, "error": {"message": error.to_string()}}),
        };
        if self.api.get(&path).is_some() {
            self.api.patch(&format!("{path}/status"), json!({ "status": status }));
        }
    }

    /// Runs all parts until nothing changes any more.
    pub(super) async fn settle(&self) {
        for _ in 0..100 {
            let before = self.state();
            self.controller_round().await;
            self.stock_round().await;
            self.node_round();
            if self.state() == before {
                return;
            }
        }
        panic!("the state never settles: {:#}", self.state());
    }

    /// Runs the stock controllers and the node next to a controller that runs by itself.
    pub(super) async fn run_others_until(&self, done: impl Fn() -> bool) {
        let others = async {
            while !done() {
                self.stock_round().await;
                self.node_round();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), others).await.expect("the awaited state");
    }

    /// All objects, without the fields that differ from one run to the next.
    pub(super) fn state(&self) -> Value {
        let plain = |path: &str| -> Vec<Value> {
            let mut objects = self.api.all(path);
            for object in &mut objects {
                let metadata = object["metadata"].as_object_mut().unwrap();
                metadata.remove("resourceVersion");
                metadata.remove("uid");
                if let Some(notes) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
                {
                    notes.remove("ovl.csi.dev/deleted-at");
                }
            }
            objects
        };
        json!([plain(VS), plain(CONTENTS), plain(SNAPSHOTS)])
    }

    pub(super) fn assert_empty(&self) {
        assert_eq!(self.state(), json!([[], [], []]), "{:#}", self.state());
    }

    /// The reasons of all Events, in their order.
    pub(super) async fn reasons(&self) -> Vec<String> {
        self.controller.flush().await;
        let reason = |event: &Value| {
            let about = &event["involvedObject"];
            assert_eq!(
                (&about["kind"], &about["namespace"]),
                (&json!("VolumeSnapshot"), &json!("ci"))
            );
            event["reason"].as_str().unwrap().to_owned()
        };
        let mut events = self.api.all(EVENTS);
        events.sort_by_key(|event| {
            event["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        });
        events.iter().map(reason).collect()
    }
}

/// Reconciles everything in the caches once.
pub(super) async fn reconcile_all(reconciler: &Reconciler) {
    let snapshots = &reconciler.caches.snapshots;
    let mut ids = snapshots.names(|_| true);
    ids.sort();
    for id in ids {
        let snapshot = snapshots.get(&id).unwrap();
        // An error is retried in the next round.
        let _ = reconciler.reconcile(&id, &snapshot).await;
    }
}

fn objects<T: DeserializeOwned>(all: Vec<Value>) -> Vec<T> {
    all.into_iter().map(|object| serde_json::from_value(object).unwrap()).collect()
}

fn nodes(all: Vec<Value>) -> Vec<(String, NodeState)> {
    let state = |node: Value| {
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        let ready = &node["status"]["conditions"][0];
        let since = ready["lastTransitionTime"].as_str();
        match ready["status"] == "True" {
            true => (name, NodeState::Ready),
            false => (name, NodeState::NotReady(since.map(|since| since.parse().unwrap()))),
        }
    };
    all.into_iter().map(state).collect()
}
