//! Reconciles snapshots against a fake API server and a fake node, both of which fail as the test wants.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    controller::NodeController,
    engine::{Engine, Failure},
    shared::{Shared, Timing},
};
use crate::{
    cluster::fake::{FakeApi, Loss},
    digest::{Digest, ManifestDigest},
    error::Class,
    image::Keyring,
    layers::{LayerKey, SnapshotId, SnapshotRecord, testing::snapshot_record},
    owner::Owner,
    reference::{Reference, Repository},
    snapshots::{CaptureRequest, Progress, PushRequest, Pushed},
    volumes::{EventRecorder, Pod, PodEvent},
};

pub(super) const OVERLAYS: &str = "/apis/ovl.csi.dev/v1alpha1/overlaysnapshots";
pub(super) const SHORT: Timing = Timing {
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(5),
    delete_timeout: Duration::from_millis(50),
    progress_interval: Duration::from_millis(5),
    slow_interval: Duration::from_millis(40),
    // No check in the time of a test.
    check_interval: Duration::from_secs(60 * 60),
};

/// A fake node, which only records the operations.
#[derive(Clone, Default)]
pub(super) struct FakeNode(pub(super) Arc<State>);

#[derive(Default)]
pub(super) struct State {
    records: Mutex<BTreeMap<SnapshotId, SnapshotRecord>>,
    /// The operations, in their order.
    done: Mutex<Vec<String>>,
    /// The failures of the next operations of each kind.
    failures: Mutex<BTreeMap<&'static str, VecDeque<Class>>>,
    /// Each push waits for a permit, if there is a semaphore.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// The own layers of the snapshot that the next capture is based on.
    own: Mutex<usize>,
    /// The captures under way, by snapshot.
    busy: Mutex<BTreeMap<String, usize>>,
    /// The repositories that have lost their images. A push brings the image back.
    pub(super) lost: Mutex<BTreeSet<String>>,
    /// The repositories that do not respond to a check.
    pub(super) silent: Mutex<BTreeSet<String>>,
    /// Whether layers of all snapshots are missing on the node.
    pub(super) incomplete: AtomicBool,
    /// The checks in their order: when, and of which repository.
    pub(super) checks: Mutex<Vec<(Instant, String)>>,
}

impl FakeNode {
    pub(super) fn done(&self) -> Vec<String> {
        self.0.done.lock().unwrap().clone()
    }

    pub(super) fn fail(&self, operation: &'static str, classes: &[Class]) {
        self.0.failures.lock().unwrap().entry(operation).or_default().extend(classes);
    }

    /// Removes the failures that were not returned yet.
    pub(super) fn stop_failing(&self, operation: &'static str) {
        self.0.failures.lock().unwrap().remove(operation);
    }

    /// Removes the record of a snapshot, as a node does that lost its store.
    pub(super) fn forget_record(&self, id: &str) {
        self.0.records.lock().unwrap().remove(&id.parse().unwrap());
    }

    fn run(&self, operation: &'static str, id: &SnapshotId) -> Result<(), Failure> {
        self.0.done.lock().unwrap().push(format!("{operation} {id}"));
        self.next_failure(operation)
    }

    fn next_failure(&self, operation: &'static str) -> Result<(), Failure> {
        let mut failures = self.0.failures.lock().unwrap();
        let failure = failures.get_mut(operation).and_then(VecDeque::pop_front);
        failure.map_or(Ok(()), |class| Err(Failure::new(class, format!("{operation} failed"))))
    }

    pub(super) fn put(&self, record: SnapshotRecord) {
        self.0.records.lock().unwrap().insert(record.id.clone(), record);
    }

    pub(super) fn change(&self, id: &SnapshotId, change: impl FnOnce(&mut SnapshotRecord)) {
        change(self.0.records.lock().unwrap().get_mut(id).unwrap());
    }
}

pub(super) fn record(id: &SnapshotId, own: usize) -> SnapshotRecord {
    SnapshotRecord {
        stack: (0..=own).map(|n| LayerKey::of(&[n as u8])).collect(),
        own_layers: own,
        owner: Some(Owner { uid: 1000, gid: 100 }),
        entries: 1000,
        bytes: 1_000_000_000,
        frozen_micros: Some(12_345),
        ..snapshot_record(id.as_str())
    }
}

impl Engine for FakeNode {
    fn snapshot_ids(&self) -> Vec<SnapshotId> {
        self.0.records.lock().unwrap().keys().cloned().collect()
    }

    fn record(&self, id: &SnapshotId) -> Option<SnapshotRecord> {
        self.0.records.lock().unwrap().get(id).cloned()
    }

    async fn capture(&self, request: CaptureRequest) -> Result<SnapshotRecord, Failure> {
        let CaptureRequest { id, pod, .. } = request;
        let pod = pod.unwrap();
        if pod.uid.as_str() != "u-1" {
            return Err(Failure::new(Class::Denied, "it belongs to another pod"));
        }
        *self.0.busy.lock().unwrap().entry(id.to_string()).or_default() += 1;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(self.0.busy.lock().unwrap().remove(id.as_str()), Some(1), "two at once");
        self.run("capture", &id)?;
        let mut record = record(&id, *self.0.own.lock().unwrap() + 1);
        record.source.namespace = pod.namespace;
        self.put(record.clone());
        Ok(record)
    }

    async fn squash(&self, id: &SnapshotId, push: Option<&PushRequest>) -> Result<(), Failure> {
        self.run(if push.is_some() { "squash and send" } else { "squash" }, id)?;
        self.change(id, |record| {
            record.stack.truncate(2);
            record.own_layers = 1;
        });
        Ok(())
    }

    async fn push(&self, request: &PushRequest, progress: &Progress) -> Result<Pushed, Failure> {
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            self.0.done.lock().unwrap().push(format!("start push {}", request.id));
            let mut layer = 1;
            loop {
                tokio::select! {
                    permit = gate.acquire() => break permit.unwrap().forget(),
                    () = sleep(Duration::from_millis(1)) => layer += 1,
                }
                progress.layer(layer, 1_000_000);
            }
        }
        self.run("push", &request.id)?;
        self.next_failure("pack").map_err(|failure| Failure { permanent: true, ..failure })?;
        self.0.lost.lock().unwrap().remove(&request.to.to_string());
        let image = request.to.at(&ManifestDigest::of(b"manifest")).to_string();
        self.change(&request.id, |record| record.pushed = Some(image.clone()));
        Ok(Pushed { image, sent: 10, own_bytes: 7 })
    }

    async fn has_layers(&self, id: &SnapshotId) -> bool {
        self.record(id).is_some() && !self.0.incomplete.load(Ordering::SeqCst)
    }

    async fn has_image(
        &self,
        of: &Repository,
        _: &ManifestDigest,
        _: &Keyring,
    ) -> Result<bool, Failure> {
        let of = of.to_string();
        self.0.checks.lock().unwrap().push((Instant::now(), of.clone()));
        if self.0.silent.lock().unwrap().contains(&of) {
            std::future::pending::<()>().await;
        }
        self.next_failure("check")?;
        Ok(!self.0.lost.lock().unwrap().contains(&of))
    }

    async fn delete_manifest(
        &self,
        id: &SnapshotId,
        _: &Repository,
        image: Option<&Reference>,
        _: &Keyring,
    ) -> Result<bool, Failure> {
        self.run(if image.is_some() { "delete image" } else { "delete tag" }, id)?;
        Ok(true)
    }

    async fn forget(&self, id: &SnapshotId) -> Result<(), Failure> {
        self.run("forget", id)?;
        self.0.records.lock().unwrap().remove(id);
        Ok(())
    }
}

/// Records the Events as text.
#[derive(Debug, Default)]
struct FakeRecorder(Mutex<Vec<String>>);

impl EventRecorder for FakeRecorder {
    fn record(&self, pod: &Pod, PodEvent { reason, message, .. }: PodEvent) {
        self.0.lock().unwrap().push(format!("{}/{}: {reason}: {message}", pod.namespace, pod.name));
    }
}

/// A cluster with one node and the agent on it. The agent has its own runtime, which stands for its process: to end it
/// ends all reconcilers.
pub(super) struct World {
    pub(super) api: FakeApi,
    pub(super) node: FakeNode,
    recorder: Arc<FakeRecorder>,
    agent: Option<Runtime>,
    pub(super) timing: Timing,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            api: FakeApi::default(),
            node: FakeNode::default(),
            recorder: Arc::default(),
            agent: None,
            timing: SHORT,
        }
    }

    pub(super) fn shared(&self) -> Shared<FakeNode> {
        let recorder = self.recorder.clone();
        let shared = Shared::new(self.api.client(), self.node.clone(), recorder, self.timing);
        let (node, driver) = ("node-1".to_owned(), "ovl.csi.dev".to_owned());
        Shared { node, driver, namespace: "ovl-csi".to_owned(), ..shared }
    }

    pub(super) fn start(&mut self) {
        let process = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let controller = {
            let _entered = process.enter();
            NodeController::new(self.shared())
        };
        process.spawn(controller.run());
        self.agent = Some(process);
    }

    pub(super) async fn kill(&mut self) {
        let process = self.agent.take().unwrap();
        spawn_blocking(|| process.shutdown_timeout(Duration::from_secs(20))).await.unwrap();
        self.node.0.busy.lock().unwrap().clear();
    }

    pub(super) fn put(&self, name: &str, spec: Value) {
        let mut full_spec = json!({
            "driver": "ovl.csi.dev", "nodeName": "node-1", "volumeHandle": "csi-0123",
            "source": { "namespace": "ci", "pod": "build", "podUid": "u-1", "volume": "ws" },
            "volumeSnapshot": { "namespace": "ci", "name": "ws-1", "uid": "vs" },
            "freezeTimeoutMillis": 5000, "squashAbove": 32,
        });
        full_spec.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlaySnapshot",
            "metadata": { "name": name }, "spec": full_spec,
        });
        self.api.put(OVERLAYS, object);
    }

    pub(super) fn patch(&self, name: &str, spec: Value) {
        self.api.patch(&format!("{OVERLAYS}/{name}"), json!({ "spec": spec }));
    }

    pub(super) fn status(&self, name: &str) -> Value {
        self.api.get(&format!("{OVERLAYS}/{name}")).map_or(Value::Null, |o| o["status"].clone())
    }

    pub(super) fn condition(&self, name: &str, r#type: &str) -> (String, String) {
        let status = self.status(name);
        let of = |condition: &&Value| condition["type"] == r#type;
        let found = status["conditions"].as_array().unwrap().iter().find(of);
        let found = found.unwrap_or_else(|| panic!("no {} in {status}", r#type));
        let text = |key: &str| found[key].as_str().unwrap().to_owned();
        (text("status"), text("reason"))
    }

    pub(super) async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let ended = timeout(Duration::from_secs(20), waiting).await;
        assert!(ended.is_ok(), "{what} did not happen: {:?}", self.node.done());
    }

    pub(super) async fn phase(&self, name: &str, phase: &str) {
        self.until(phase, |world| world.status(name)["phase"] == phase).await;
    }

    pub(super) fn events(&self) -> Vec<String> {
        self.recorder.0.lock().unwrap().clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

pub(super) fn with_repository() -> Value {
    json!({ "repository": "r.io/ws" })
}

#[tokio::test]
async fn a_snapshot_without_a_repository_is_ready_after_its_capture() {
    let mut world = World::new();
    world.start();
    world.put("snap-1", json!({}));
    world.phase("snap-1", "Ready").await;
    let status = world.status("snap-1");
    assert_eq!(status["entries"], 1000);
    assert_eq!(status["bytes"], 1_000_000_000);
    assert_eq!(status["frozenMicros"], 12_345);
    assert_eq!((&status["layers"], &status["ownLayers"]), (&json!(2), &json!(1)));
    assert_eq!((&status["owner"], &status["image"]), (&json!("1000:100"), &Value::Null));
    assert_eq!(status["captureTime"], "2026-11-21T10:00:00Z");
    assert_eq!(world.condition("snap-1", "Captured"), ("True".into(), "Captured".into()));
    assert_eq!(world.condition("snap-1", "Ready"), ("True".into(), "OnNode".into()));
    assert_eq!(
        world.events(),
        [
            "ci/build: SnapshotCaptured: captured snapshot ws-1 of volume ws: 1000 entries, 953.6 MiB; the pod was frozen for 12.3ms"
        ]
    );
    assert_eq!(world.node.done(), ["capture snap-1"]);
}

#[tokio::test]
async fn snapshots_of_other_drivers_and_nodes_are_ignored() {
    let mut world = World::new();
    world.put("snap-driver", json!({ "driver": "other" }));
    world.put("snap-node", json!({ "nodeName": "node-2" }));
    world.start();
    world.put("snap-1", json!({}));
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.node.done(), ["capture snap-1"]);
    assert_eq!(world.status("snap-driver"), Value::Null);
}

#[tokio::test]
async fn a_temporary_failure_is_retried_and_shown_in_the_message_meanwhile() {
    let mut world = World::new();
    world.node.fail("capture", &[Class::Busy, Class::Exhausted]);
    world.node.fail("push", &[Class::Unavailable, Class::Corrupt]);
    world.start();
    world.put("snap-1", with_repository());
    world.phase("snap-1", "Ready").await;
    let operations = ["capture", "capture", "capture", "push", "push", "push"];
    assert_eq!(world.node.done(), operations.map(|operation| format!("{operation} snap-1")));
    let requests = world.api.requests();
    let shown = |message: &str| requests.iter().any(|r| r.body["status"]["message"] == message);
    assert!(shown("capture failed") && shown("push failed"));
    let status = world.status("snap-1");
    assert_eq!(status["message"], Value::Null);
    assert_eq!(status["image"], format!("r.io/ws@{}", Digest::of(b"manifest")));
    assert_eq!(status["pushedBytes"], 7);
    for (r#type, reason) in [("Captured", "Captured"), ("Pushed", "Pushed"), ("Ready", "Pushed")] {
        assert_eq!(world.condition("snap-1", r#type), ("True".into(), reason.into()));
    }
}

/// Each try writes to the full disk.
#[tokio::test]
async fn a_capture_without_enough_free_space_fails_after_eight_tries() {
    let mut world = World::new();
    world.node.fail("capture", &[Class::Exhausted; 20]);
    world.start();
    world.put("snap-1", with_repository());
    world.phase("snap-1", "Failed").await;
    let message = world.status("snap-1")["message"].to_string();
    assert!(message.contains("capture failed") && message.contains("after 8 tries"), "{message}");
    assert_eq!(world.node.done().len(), 8);
}

#[tokio::test]
async fn a_permanent_failure_sets_the_phase_failed_with_its_message() {
    let cases = [
        ("capture", Class::NotFound, "Captured", "NotFound"),
        ("capture", Class::Precondition, "Captured", "ActionRequired"),
        ("pack", Class::Precondition, "Pushed", "ActionRequired"),
        ("pack", Class::Invalid, "Pushed", "Invalid"),
    ];
    for (operation, class, condition, reason) in cases {
        let mut world = World::new();
        world.node.fail(operation, &[class]);
        world.start();
        world.put("snap-1", with_repository());
        world.phase("snap-1", "Failed").await;
        assert_eq!(world.status("snap-1")["message"], format!("{operation} failed"));
        assert_eq!(world.condition("snap-1", condition), ("False".into(), reason.into()));
        assert_eq!(world.condition("snap-1", "Ready"), ("False".into(), "Failed".into()));
        let event = world.events().pop().unwrap();
        assert!(event.contains("SnapshotFailed: snapshot ws-1 of volume ws failed: "), "{event}");
        // A change of the spec does not retry it.
        world.patch("snap-1", json!({ "squashAbove": 31 }));
        sleep(Duration::from_millis(20)).await;
        assert_eq!(world.status("snap-1")["phase"], "Failed");
    }
}

#[tokio::test]
async fn a_push_that_a_registry_refuses_is_retried_and_one_event_is_emitted() {
    for class in [Class::Denied, Class::NotFound, Class::Precondition, Class::Invalid] {
        let mut world = World::new();
        world.node.fail("push", &[class, class, Class::Unavailable, class]);
        world.start();
        world.put("snap-1", with_repository());
        world.phase("snap-1", "Ready").await;
        let pushes = world.node.done().iter().filter(|done| *done == "push snap-1").count();
        assert_eq!(pushes, 5, "{class:?}");
        let requests = world.api.requests();
        let shown = |phase: &str, message: &str| {
            let status =
                |r: &Value| r["status"]["phase"] == phase && r["status"]["message"] == message;
            requests.iter().any(|r| status(&r.body))
        };
        assert!(shown("Pushing", "push failed"), "{class:?}");
        assert!(!requests.iter().any(|r| r.body["status"]["phase"] == "Failed"), "{class:?}");
        let events =
            world.events().into_iter().filter(|event| !event.contains(": SnapshotCaptured: "));
        let want = "ci/build: SnapshotNotPushed: snapshot ws-1 of volume ws cannot be pushed yet: push failed";
        assert_eq!(events.collect::<Vec<_>>(), [want], "{class:?}");
        assert_eq!(world.condition("snap-1", "Pushed"), ("True".into(), "Pushed".into()));
    }
}

#[tokio::test]
async fn the_message_has_the_progress_of_a_push() {
    let mut world = World::new();
    let gate = Arc::new(Semaphore::new(0));
    *world.node.0.gate.lock().unwrap() = Some(gate.clone());
    world.start();
    world.put("snap-1", with_repository());
    world.until("progress", |world| is_progress(&world.status("snap-1")["message"])).await;
    assert_eq!(world.status("snap-1")["phase"], "Pushing");
    // A try that fails leaves its reason, then the next one its progress.
    world.node.fail("push", &[Class::Unavailable]);
    gate.add_permits(1);
    let last = |world: &World, is: fn(&Value) -> bool| {
        world.api.requests().iter().rposition(|request| is(&request.body["status"]["message"]))
    };
    world
        .until("progress again", |world| {
            let failed = last(world, |message| message == "push failed");
            failed.is_some() && last(world, is_progress) > failed
        })
        .await;
    gate.add_permits(1);
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.status("snap-1")["message"], Value::Null);
}

fn is_progress(message: &Value) -> bool {
    message.as_str().is_some_and(|text| text.starts_with("layer "))
}

/// Progress does not overwrite the status of a snapshot that the controller gave up.
#[tokio::test]
async fn the_progress_of_a_push_does_not_change_the_phase() {
    let mut world = World::new();
    let gate = Arc::new(Semaphore::new(0));
    *world.node.0.gate.lock().unwrap() = Some(gate);
    world.start();
    world.put("snap-1", with_repository());
    world.until("progress", |world| is_progress(&world.status("snap-1")["message"])).await;
    let path = format!("{OVERLAYS}/snap-1/status");
    world.api.patch(&path, json!({"status": {"phase": "Failed", "message": "its node is gone"}}));
    let count = world.api.requests().len();
    world.until("more requests", |world| world.api.requests().len() > count + 2).await;
    assert_eq!(world.status("snap-1")["phase"], "Failed");
    assert_eq!(world.status("snap-1")["message"], "its node is gone");
}

#[tokio::test]
async fn the_event_of_a_push_that_waits_is_not_repeated_after_a_restart() {
    let mut world = World::new();
    world.node.fail("push", &[Class::Denied; 100_000]);
    world.start();
    world.put("snap-1", with_repository());
    let events = |world: &World| world.events().iter().filter(|e| e.contains("NotPushed")).count();
    world.until("the event", |world| events(world) == 1).await;
    world.kill().await;
    let (before, tries) = (events(&world), world.node.done().len());
    world.start();
    world.until("more tries", |world| world.node.done().len() > tries + 2).await;
    assert_eq!((before, events(&world)), (1, 1));
    assert_eq!(world.status("snap-1")["phase"], "Pushing");
    assert_eq!(world.status("snap-1")["message"], "push failed");
    assert_eq!(world.condition("snap-1", "Pushed"), ("False".into(), "AccessDenied".into()));
    assert_eq!(world.condition("snap-1", "Ready"), ("False".into(), "Pushing".into()));
}

/// The controller gives up a snapshot whose node is gone. It changes the phase only: the conditions belong to the node.
#[tokio::test]
async fn a_snapshot_that_was_given_up_continues_when_its_node_is_back_with_it() {
    let condition = |r#type: &str, status: &str, reason: &str| {
        json!({
            "type": r#type, "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        })
    };
    let captured = condition("Captured", "True", "Captured");
    let not_pushed = condition("Pushed", "False", "Unavailable");
    for (ready, on_node, phase) in [
        (condition("Ready", "False", "Pushing"), true, "Ready"),
        (condition("Ready", "False", "Pushing"), false, "Failed"),
        (condition("Ready", "False", "Failed"), true, "Failed"),
    ] {
        let mut world = World::new();
        if on_node {
            world.node.put(record(&"snap-1".parse().unwrap(), 1));
        }
        world.put("snap-1", with_repository());
        let status = json!({
            "phase": "Failed", "message": "node node-1 is gone",
            "conditions": [captured.clone(), not_pushed.clone(), ready.clone()],
        });
        world.api.patch(&format!("{OVERLAYS}/snap-1/status"), json!({ "status": status }));
        world.start();
        world.put("snap-2", json!({}));
        world.phase("snap-2", "Ready").await;
        sleep(Duration::from_millis(20)).await;
        world.phase("snap-1", phase).await;
        let is_pushed = world.node.done().contains(&"push snap-1".to_owned());
        assert_eq!(is_pushed, phase == "Ready", "{ready}");
        assert_eq!(world.status("snap-1")["message"].is_null(), phase == "Ready", "{ready}");
        assert!(!world.node.done().contains(&"capture snap-1".to_owned()), "{ready}");
    }
}

/// An upgrade of the node between the capture and the push.
#[tokio::test]
async fn a_status_of_an_earlier_version_is_continued_and_written_with_the_names_of_this_one() {
    let mut world = World::new();
    world.node.put(record(&"snap-1".parse().unwrap(), 1));
    world.put("snap-1", with_repository());
    let status = json!({
        "phase": "Pushing", "cutTime": "2026-11-21T10:00:00Z",
        "conditions": [{
            "type": "Cut", "status": "True", "reason": "Cut", "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }],
    });
    world.api.patch(&format!("{OVERLAYS}/snap-1/status"), json!({ "status": status }));
    // An earlier version had begun this one.
    world.put("snap-2", json!({}));
    world
        .api
        .patch(&format!("{OVERLAYS}/snap-2/status"), json!({ "status": { "phase": "Cutting" } }));
    world.start();
    for name in ["snap-1", "snap-2"] {
        world.phase(name, "Ready").await;
        let status = world.status(name);
        assert_eq!(
            (&status["captureTime"], &status["cutTime"]),
            (&json!("2026-11-21T10:00:00Z"), &Value::Null)
        );
        assert_eq!(world.condition(name, "Captured"), ("True".into(), "Captured".into()));
        let conditions = status["conditions"].as_array().unwrap();
        assert!(conditions.iter().all(|condition| condition["type"] != "Cut"), "{status}");
    }
    // Its capture was true before.
    let since = &world.status("snap-1")["conditions"][0]["lastTransitionTime"];
    assert_eq!(since, "2026-01-02T03:04:05Z");
    let done = world.node.done();
    assert!(!done.contains(&"capture snap-1".to_owned()), "{done:?}");
}

#[tokio::test]
async fn at_most_eight_objects_are_read_at_a_time() {
    let world = World::new();
    let controller = NodeController::new(world.shared());
    let permits = controller.shared.gets.available_permits();
    assert!(permits <= 8);
    let all = controller.shared.gets.acquire_many(permits as u32).await.unwrap();
    world.put("snap-1", json!({}));
    controller.notify("snap-1", false);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(world.api.requests().len(), 0);
    drop(all);
    world.phase("snap-1", "Ready").await;
}

#[tokio::test]
async fn an_invalid_spec_sets_the_phase_failed() {
    let mut world = World::new();
    world.start();
    world.put("snap-1", json!({ "repository": "r.io/Upper" }));
    world.phase("snap-1", "Failed").await;
    assert!(world.status("snap-1")["message"].as_str().unwrap().contains("lower-case"));
    assert_eq!(world.node.done(), Vec::<String>::new());
}

#[tokio::test]
async fn a_snapshot_of_another_pods_volume_is_denied() {
    let mut world = World::new();
    world.start();
    let source = json!({ "namespace": "ci", "pod": "build", "podUid": "other", "volume": "ws" });
    world.put("snap-1", json!({ "source": source }));
    world.phase("snap-1", "Failed").await;
    assert_eq!(world.condition("snap-1", "Captured"), ("False".into(), "AccessDenied".into()));
    assert_eq!(world.node.snapshot_ids(), []);
}

#[tokio::test]
async fn a_snapshot_whose_layers_are_missing_fails_unless_it_was_pushed() {
    for (status, phase) in [
        (json!({ "phase": "Ready" }), "Failed"),
        (json!({ "phase": "Pushing" }), "Failed"),
        (json!({ "phase": "Ready", "image": "r.io/ws@sha256:1" }), "Ready"),
    ] {
        let mut world = World::new();
        world.put("snap-1", with_repository());
        world.api.patch(&format!("{OVERLAYS}/snap-1/status"), json!({ "status": status }));
        world.start();
        world.put("snap-2", json!({}));
        world.phase("snap-2", "Ready").await;
        world.phase("snap-1", phase).await;
        assert_eq!(world.node.done(), ["capture snap-2"], "{status}");
    }
}

/// A later version of this node wrote the phase, and was replaced by this one.
#[tokio::test]
async fn a_phase_of_a_later_version_is_in_progress() {
    let captured = json!({"type": "Captured", "status": "True", "reason": "Captured", "message": "m",
                          "lastTransitionTime": "2026-01-02T03:04:05Z"});
    for (conditions, phase, captures) in [(json!([]), "Ready", 1), (json!([captured]), "Failed", 0)]
    {
        let mut world = World::new();
        world.put("snap-1", json!({}));
        let status = json!({"phase": "Verifying", "conditions": conditions});
        world.api.patch(&format!("{OVERLAYS}/snap-1/status"), json!({ "status": status }));
        world.start();
        world.phase("snap-1", phase).await;
        assert_eq!(world.node.done().len(), captures, "{phase}");
    }
}

#[tokio::test]
async fn many_layers_are_squashed_before_they_are_pushed() {
    for (spec, squash) in
        [(with_repository(), "squash and send snap-1"), (json!({}), "squash snap-1")]
    {
        let mut world = World::new();
        *world.node.0.own.lock().unwrap() = 3;
        world.start();
        let mut spec = spec;
        spec["squashAbove"] = 3.into();
        world.put("snap-1", spec.clone());
        world.until("Squashed", |world| world.status("snap-1")["ownLayers"] == 1).await;
        world.phase("snap-1", "Ready").await;
        assert_eq!(world.node.done()[..2], ["capture snap-1".to_owned(), squash.to_owned()]);
        assert_eq!(world.condition("snap-1", "Squashed"), ("True".into(), "Squashed".into()));
        assert_eq!(world.status("snap-1")["layers"], 2);
    }
}

#[tokio::test]
async fn a_squash_that_fails_leaves_the_snapshot_as_it_was_and_is_not_repeated() {
    let mut world = World::new();
    *world.node.0.own.lock().unwrap() = 3;
    world.node.fail("squash and send", &[Class::Exhausted]);
    world.start();
    world.put("snap-1", json!({ "repository": "r.io/ws", "squashAbove": 2 }));
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.condition("snap-1", "Squashed"), ("False".into(), "NoSpace".into()));
    assert_eq!(world.status("snap-1")["ownLayers"], 4);
    world.patch("snap-1", json!({ "squashAbove": 3 }));
    sleep(Duration::from_millis(20)).await;
    assert_eq!(world.node.done(), ["capture snap-1", "squash and send snap-1", "push snap-1"]);
}

#[tokio::test]
async fn a_deleted_snapshot_is_removed_from_its_registry_and_its_node() {
    let mut world = World::new();
    world.start();
    world.put("snap-1", with_repository());
    world.phase("snap-1", "Ready").await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    let want = ["capture snap-1", "push snap-1", "delete image snap-1", "forget snap-1"];
    assert_eq!(world.node.done(), want);
    assert_eq!(world.node.snapshot_ids(), []);
    assert_eq!(world.condition("snap-1", "Ready").0, "False");
}

#[tokio::test]
async fn a_deletion_ends_a_push_and_each_wait() {
    let mut world = World::new();
    *world.node.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    world.start();
    world.put("snap-1", with_repository());
    world.until("the push", |w| w.node.done().contains(&"start push snap-1".to_owned())).await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    // The manifest may be in the registry, but its digest is not known.
    let want = ["capture snap-1", "start push snap-1", "delete tag snap-1", "forget snap-1"];
    assert_eq!(world.node.done(), want);

    // A push that waits for its turn ends too.
    let mut world = World::new();
    *world.node.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    world.start();
    (1..4).for_each(|n| world.put(&format!("snap-{n}"), with_repository()));
    let by_start = |world: &World| {
        let done = world.node.done();
        let is_started = |n: &u32| done.contains(&format!("start push snap-{n}"));
        (1..4).partition::<Vec<u32>, _>(is_started)
    };
    world.until("two pushes", |world| by_start(world).0.len() == 2).await;
    let waiting = format!("snap-{}", by_start(&world).1[0]);
    world.phase(&waiting, "Pushing").await;
    world.patch(&waiting, json!({ "deleted": true }));
    world.phase(&waiting, "Deleted").await;

    let mut world = World::new();
    world.node.fail("capture", &[Class::Busy; 1000]);
    world.start();
    world.put("snap-1", with_repository());
    world.until("a try", |world| !world.node.done().is_empty()).await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    assert!(!world.node.done().iter().any(|done| done.contains("delete")));
}

/// A tenant can control its registry and let it respond as slowly as it likes.
#[tokio::test]
async fn slow_pushes_do_not_delay_other_namespaces() {
    let mut world = World::new();
    *world.node.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    world.start();
    (0..10).for_each(|n| world.put(&format!("snap-{n}"), with_repository()));
    let started =
        |world: &World| world.node.done().iter().filter(|d| d.contains("start push")).count();
    world.until("the limit of a namespace", |world| started(world) == 8).await;
    let source = json!({ "namespace": "other", "pod": "build", "podUid": "u-1", "volume": "ws" });
    world.put("snap-other", json!({ "repository": "r.io/ws", "source": source }));
    let other = "start push snap-other".to_owned();
    world.until("the other push", |world| world.node.done().contains(&other)).await;
    assert_eq!(started(&world), 9, "one namespace has more than its limit");
}

#[tokio::test]
async fn a_deletion_does_not_wait_forever_for_a_registry_that_is_gone() {
    let mut world = World::new();
    world.node.fail("delete image", &[Class::Unavailable; 1000]);
    world.start();
    world.put("snap-1", with_repository());
    world.phase("snap-1", "Ready").await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    let message = world.status("snap-1")["message"].clone();
    assert_eq!(message, "the image is still in r.io/ws: delete image failed");
    assert_eq!(world.node.snapshot_ids(), []);
}

#[tokio::test]
async fn an_orphans_record_is_deleted_only_if_a_list_of_the_objects_lacks_it() {
    let mut world = World::new();
    world.node.put(record(&"snap-orphan".parse().unwrap(), 1));
    world.node.put(record(&"snap-1".parse().unwrap(), 1));
    world.put("snap-1", json!({}));
    world.start();
    world.until("the deletion", |world| world.node.snapshot_ids().len() == 1).await;
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.node.done(), ["forget snap-orphan"]);
    // The object is deleted without `deleted` in its spec, as the controller does for a node that it takes to be gone.
    world.api.delete(&format!("{OVERLAYS}/snap-1"));
    world.until("the deletion", |world| world.node.snapshot_ids().is_empty()).await;

    let world = World::new();
    world.node.put(record(&"snap-orphan".parse().unwrap(), 1));
    let api = FakeApi::responding(&[404; 1000]);
    let shared = Shared { client: api.client(), ..world.shared() };
    let controller = NodeController::new(Shared { node: "node-1".into(), ..shared });
    controller.notify("snap-orphan", false);
    world.until("requests", |_| api.requests().len() > 5).await;
    assert_eq!(
        world.node.snapshot_ids().len(),
        1,
        "an API server without the kind knows of no snapshot"
    );
}

/// Loses each request or each response in turn and then kills the process. The next process continues.
#[tokio::test]
async fn a_process_continues_after_a_kill_at_any_request() {
    for how in [Loss::Request, Loss::Response] {
        for after in 0.. {
            let mut world = World::new();
            *world.node.0.own.lock().unwrap() = 3;
            world.put("snap-1", json!({ "repository": "r.io/ws", "squashAbove": 2 }));
            world.api.lose(after, how);
            world.start();
            // Until the API server is down, or all is done.
            world
                .until("an end", |world| {
                    let lost = world.api.requests().iter().filter(|r| r.method == "LOST").count();
                    lost > 2 || world.status("snap-1")["phase"] == "Ready"
                })
                .await;
            world.kill().await;
            let was_lost = world.api.restore();
            world.start();
            world.phase("snap-1", "Ready").await;
            let done = world.node.done();
            let count =
                |operation: &str| done.iter().filter(|done| done.starts_with(operation)).count();
            assert_eq!((count("capture"), count("squash")), (1, 1), "{how:?} {after}: {done:?}");
            assert_eq!(world.status("snap-1")["ownLayers"], 1, "{how:?} {after}");
            assert_eq!(world.status("snap-1")["pushedBytes"], 7, "{how:?} {after}");
            if !was_lost {
                break;
            }
        }
    }
}

#[tokio::test]
async fn fifty_snapshots_at_once_are_each_captured_once_and_all_reconcilers_end() {
    let world = World::new();
    let controller = NodeController::new(world.shared());
    for n in 0..50 {
        world.put(&format!("snap-{n}"), with_repository());
    }
    for _ in 0..3 {
        (0..50).for_each(|n| controller.notify(&format!("snap-{n}"), false));
        tokio::task::yield_now().await;
    }
    let ready = |w: &World| (0..50).all(|n| w.status(&format!("snap-{n}"))["phase"] == "Ready");
    world.until("all of them", ready).await;
    world.until("the end of all", |_| controller.running() == 0).await;
    let done = world.node.done();
    assert_eq!(done.iter().filter(|done| done.starts_with("capture")).count(), 50);
}

#[tokio::test]
async fn the_push_secret_is_read_from_the_drivers_namespace_and_never_shown() {
    let secret = |data: Value| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "push" }, "data": data });
    // {"auths":{"r.io":{"username":"u","password":"hush"}}}
    let good = "eyJhdXRocyI6eyJyLmlvIjp7InVzZXJuYW1lIjoidSIsInBhc3N3b3JkIjoiaHVzaCJ9fX0=";
    for (data, words) in [
        (Some(json!({ "password": "aHVzaA==" })), "has no .dockerconfigjson"),
        (Some(json!({ ".dockerconfigjson": "aHVzaA==" })), "not a usable"),
        (None, "there is no Secret push in namespace ovl-csi"),
    ] {
        let mut world = World::new();
        let path = "/api/v1/namespaces/ovl-csi/secrets";
        let is_there = data.is_some();
        if let Some(data) = data {
            world.api.put(path, secret(data));
        }
        world.start();
        world.put("snap-1", json!({ "repository": "r.io/ws", "pushSecretName": "push" }));
        let waits = |world: &World| {
            world.status("snap-1")["message"].as_str().is_some_and(|text| text.contains(words))
        };
        world.until(words, waits).await;
        assert_eq!(world.status("snap-1")["phase"], "Pushing", "{words}");
        assert!(!world.status("snap-1").to_string().contains("hush"), "{words}");
        assert_eq!(world.node.done(), ["capture snap-1"], "{words}");
        // The Secret is created, or fixed.
        if is_there {
            world.api.delete(&format!("{path}/push"));
        }
        world.api.put(path, secret(json!({ ".dockerconfigjson": good })));
        world.phase("snap-1", "Ready").await;
        assert!(!world.status("snap-1").to_string().contains("hush"), "{words}");
    }
}
