//! Snapshots carried out against an API server and a node that fail as they are told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    engine::{Engine, Failure},
    run::{Running, Shared},
    worker::Pace,
};
use crate::{
    cluster::fake::{FakeApi, Loss},
    digest::Digest,
    fault::Class,
    image::{Keyring, Reference, Repository},
    layers::{SnapshotId, SnapshotRecord, SnapshotSource},
    snapshots::{CutRequest, Progress, PushRequest, Pushed},
    volumes::{Notice, Notices, Pod},
};

const OVERLAYS: &str = "/apis/ovl.csi.dev/v1alpha1/overlaysnapshots";
const QUICK: Pace = Pace {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(5),
    patience: Duration::from_millis(50),
    news: Duration::from_millis(5),
    slow: Duration::from_millis(40),
};

/// A node that does nothing, and says so.
#[derive(Clone, Default)]
struct FakeNode(Arc<State>);

#[derive(Default)]
struct State {
    records: Mutex<BTreeMap<SnapshotId, SnapshotRecord>>,
    /// What was done, in its order.
    done: Mutex<Vec<String>>,
    /// How the next of each kind fail.
    fails: Mutex<BTreeMap<&'static str, VecDeque<Class>>>,
    /// Pushes wait here while it is closed to them.
    gate: Mutex<Option<Arc<Semaphore>>>,
    own: Mutex<usize>,
    busy: Mutex<BTreeMap<String, usize>>,
}

impl FakeNode {
    fn done(&self) -> Vec<String> {
        self.0.done.lock().unwrap().clone()
    }

    fn fail(&self, what: &'static str, classes: &[Class]) {
        self.0.fails.lock().unwrap().entry(what).or_default().extend(classes);
    }

    fn does(&self, what: &'static str, id: &SnapshotId) -> Result<(), Failure> {
        self.0.done.lock().unwrap().push(format!("{what} {id}"));
        self.fails(what)
    }

    fn fails(&self, what: &'static str) -> Result<(), Failure> {
        let failed = self.0.fails.lock().unwrap().get_mut(what).and_then(VecDeque::pop_front);
        failed.map_or(Ok(()), |class| Err(Failure::new(class, format!("{what} went wrong"))))
    }

    fn keep(&self, record: SnapshotRecord) {
        self.0.records.lock().unwrap().insert(record.id.clone(), record);
    }

    fn change(&self, id: &SnapshotId, change: impl FnOnce(&mut SnapshotRecord)) {
        change(self.0.records.lock().unwrap().get_mut(id).unwrap());
    }
}

fn record(id: &SnapshotId, own: usize) -> SnapshotRecord {
    SnapshotRecord {
        format: SnapshotRecord::FORMAT,
        id: id.clone(),
        stack: (0..=own).map(|n| Digest::of(&[n as u8])).collect(),
        own,
        manifests: Vec::new(),
        base: None,
        parent: None,
        source: SnapshotSource {
            namespace: "ci".into(),
            pod: "build".into(),
            pod_uid: "u-1".into(),
            volume: "csi-0123".into(),
        },
        owner: Some((1000, 100)),
        cut: "2026-11-21T10:00:00Z".parse().unwrap(),
        entries: 1000,
        bytes: 1_000_000_000,
        frozen_micros: Some(12_345),
        ended: false,
        torn: 0,
        pushed: None,
    }
}

impl Engine for FakeNode {
    fn here(&self) -> Vec<SnapshotId> {
        self.0.records.lock().unwrap().keys().cloned().collect()
    }

    fn record(&self, id: &SnapshotId) -> Option<SnapshotRecord> {
        self.0.records.lock().unwrap().get(id).cloned()
    }

    async fn cut(&self, request: CutRequest) -> Result<SnapshotRecord, Failure> {
        let CutRequest { id, pod, .. } = request;
        let pod = pod.unwrap();
        if pod.uid.as_str() != "u-1" {
            return Err(Failure::new(Class::Denied, "it is of another pod"));
        }
        *self.0.busy.lock().unwrap().entry(id.to_string()).or_default() += 1;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(self.0.busy.lock().unwrap().remove(id.as_str()), Some(1), "two at once");
        self.does("cut", &id)?;
        let mut record = record(&id, *self.0.own.lock().unwrap() + 1);
        record.source.namespace = pod.namespace;
        self.keep(record.clone());
        Ok(record)
    }

    async fn squash(&self, id: &SnapshotId, push: Option<&PushRequest>) -> Result<(), Failure> {
        self.does(if push.is_some() { "squash and send" } else { "squash" }, id)?;
        self.change(id, |record| {
            record.stack.truncate(2);
            record.own = 1;
        });
        Ok(())
    }

    async fn push(&self, request: &PushRequest, progress: &Progress) -> Result<Pushed, Failure> {
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            self.0.done.lock().unwrap().push(format!("begin {}", request.id));
            let mut layer = 1;
            loop {
                tokio::select! {
                    permit = gate.acquire() => break permit.unwrap().forget(),
                    () = sleep(Duration::from_millis(1)) => layer += 1,
                }
                progress.layer(layer, 1_000_000);
            }
        }
        self.does("push", &request.id)?;
        self.fails("pack").map_err(|failure| Failure { lasts: true, ..failure })?;
        let image = request.to.at(&Digest::of(b"manifest")).to_string();
        self.change(&request.id, |record| record.pushed = Some(image.clone()));
        Ok(Pushed { image, sent: 10, own_bytes: 7 })
    }

    async fn unpush(
        &self,
        id: &SnapshotId,
        _: &Repository,
        image: Option<&Reference>,
        _: &Keyring,
    ) -> Result<bool, Failure> {
        self.does(if image.is_some() { "unpush" } else { "unpush by tag" }, id)?;
        Ok(true)
    }

    async fn forget(&self, id: &SnapshotId) -> Result<(), Failure> {
        self.does("forget", id)?;
        self.0.records.lock().unwrap().remove(id);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Notices for Told {
    fn tell(&self, pod: &Pod, Notice { reason, message, .. }: Notice) {
        self.0.lock().unwrap().push(format!("{}/{}: {reason}: {message}", pod.namespace, pod.name));
    }
}

/// A cluster, a node in it, and the agent on that, whose process is a runtime of its own: it ends with every worker.
struct World {
    api: FakeApi,
    node: FakeNode,
    told: Arc<Told>,
    agent: Option<Runtime>,
}

impl World {
    fn new() -> Self {
        Self {
            api: FakeApi::default(),
            node: FakeNode::default(),
            told: Arc::default(),
            agent: None,
        }
    }

    fn shared(&self) -> Shared<FakeNode> {
        let shared = Shared::new(self.api.client(), self.node.clone(), self.told.clone(), QUICK);
        let (node, driver) = ("node-1".to_owned(), "ovl.csi.dev".to_owned());
        Shared { node, driver, namespace: "ovl-csi".to_owned(), ..shared }
    }

    fn start(&mut self) {
        let process = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = {
            let _inside = process.enter();
            Running::new(self.shared())
        };
        process.spawn(running.run());
        self.agent = Some(process);
    }

    async fn kill(&mut self) {
        let process = self.agent.take().unwrap();
        spawn_blocking(|| process.shutdown_timeout(Duration::from_secs(20))).await.unwrap();
        self.node.0.busy.lock().unwrap().clear();
    }

    fn put(&self, name: &str, spec: Value) {
        let mut whole = json!({
            "driver": "ovl.csi.dev", "nodeName": "node-1", "volumeHandle": "csi-0123",
            "source": { "namespace": "ci", "pod": "build", "podUid": "u-1", "volume": "ws" },
            "volumeSnapshot": { "namespace": "ci", "name": "ws-1", "uid": "vs" },
            "freezeTimeoutMillis": 5000, "squashAbove": 32,
        });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlaySnapshot",
            "metadata": { "name": name }, "spec": whole,
        });
        self.api.put(OVERLAYS, object);
    }

    fn patch(&self, name: &str, spec: Value) {
        self.api.patch(&format!("{OVERLAYS}/{name}"), json!({ "spec": spec }));
    }

    fn status(&self, name: &str) -> Value {
        self.api.get(&format!("{OVERLAYS}/{name}")).map_or(Value::Null, |o| o["status"].clone())
    }

    fn condition(&self, name: &str, r#type: &str) -> (String, String) {
        let status = self.status(name);
        let of = |condition: &&Value| condition["type"] == r#type;
        let found = status["conditions"].as_array().unwrap().iter().find(of);
        let found = found.unwrap_or_else(|| panic!("no {} in {status}", r#type));
        let text = |key: &str| found[key].as_str().unwrap().to_owned();
        (text("status"), text("reason"))
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let ended = timeout(Duration::from_secs(20), waiting).await;
        assert!(ended.is_ok(), "{what} never came: {:?}", self.node.done());
    }

    async fn phase(&self, name: &str, phase: &str) {
        self.until(phase, |world| world.status(name)["phase"] == phase).await;
    }

    fn told(&self) -> Vec<String> {
        self.told.0.lock().unwrap().clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn pushed() -> Value {
    json!({ "repository": "r.io/ws" })
}

#[tokio::test]
async fn a_snapshot_that_stays_is_ready_once_it_is_cut() {
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
    assert_eq!(status["cutTime"], "2026-11-21T10:00:00Z");
    assert_eq!(world.condition("snap-1", "Cut"), ("True".into(), "Cut".into()));
    assert_eq!(world.condition("snap-1", "Ready"), ("True".into(), "Local".into()));
    assert_eq!(
        world.told(),
        [
            "ci/build: Snapshotted: snapshot ws-1 of volume ws: the pod stood still for 12 ms, 1000 entries, 1.0 GB"
        ]
    );
    assert_eq!(world.node.done(), ["cut snap-1"]);
}

#[tokio::test]
async fn others_snapshots_are_left_alone() {
    let mut world = World::new();
    world.put("snap-driver", json!({ "driver": "other" }));
    world.put("snap-node", json!({ "nodeName": "node-2" }));
    world.start();
    world.put("snap-1", json!({}));
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.node.done(), ["cut snap-1"]);
    assert_eq!(world.status("snap-driver"), Value::Null);
}

#[tokio::test]
async fn what_heals_is_tried_again_and_said_meanwhile() {
    let mut world = World::new();
    world.node.fail("cut", &[Class::Busy, Class::Exhausted]);
    world.node.fail("push", &[Class::Unavailable, Class::Corrupt]);
    world.start();
    world.put("snap-1", pushed());
    world.phase("snap-1", "Ready").await;
    let want = ["cut", "cut", "cut", "push", "push", "push"].map(|what| format!("{what} snap-1"));
    assert_eq!(world.node.done(), want);
    let asked = world.api.asked();
    let said = |words: &str| asked.iter().any(|a| a.body["status"]["message"] == words);
    assert!(said("cut went wrong") && said("push went wrong"));
    let status = world.status("snap-1");
    assert_eq!(status["message"], Value::Null);
    assert_eq!(status["image"], format!("r.io/ws@{}", Digest::of(b"manifest")));
    assert_eq!(status["pushedBytes"], 7);
    for (r#type, reason) in [("Cut", "Cut"), ("Pushed", "Pushed"), ("Ready", "Pushed")] {
        assert_eq!(world.condition("snap-1", r#type), ("True".into(), reason.into()));
    }
}

/// Each try costs the disk that has no room.
#[tokio::test]
async fn a_capture_that_finds_no_room_fails_with_its_reason_after_some_tries() {
    let mut world = World::new();
    world.node.fail("cut", &[Class::Exhausted; 20]);
    world.start();
    world.put("snap-1", pushed());
    world.phase("snap-1", "Failed").await;
    let message = world.status("snap-1")["message"].to_string();
    assert!(message.contains("cut went wrong") && message.contains("after 8 tries"), "{message}");
    assert_eq!(world.node.done().len(), 8);
}

#[tokio::test]
async fn what_does_not_heal_fails_with_its_sentence() {
    let cases = [
        ("cut", Class::NotFound, "Cut", "NotFound"),
        ("cut", Class::Precondition, "Cut", "Precondition"),
        ("pack", Class::Precondition, "Pushed", "Precondition"),
        ("pack", Class::Invalid, "Pushed", "Invalid"),
    ];
    for (what, class, condition, reason) in cases {
        let mut world = World::new();
        world.node.fail(what, &[class]);
        world.start();
        world.put("snap-1", pushed());
        world.phase("snap-1", "Failed").await;
        assert_eq!(world.status("snap-1")["message"], format!("{what} went wrong"));
        assert_eq!(world.condition("snap-1", condition), ("False".into(), reason.into()));
        assert_eq!(world.condition("snap-1", "Ready"), ("False".into(), "Failed".into()));
        let told = world.told().pop().unwrap();
        assert!(told.contains("SnapshotFailed: snapshot ws-1 of volume ws"), "{told}");
        // And stays so.
        world.patch("snap-1", json!({ "squashAbove": 31 }));
        sleep(Duration::from_millis(20)).await;
        assert_eq!(world.status("snap-1")["phase"], "Failed");
    }
}

#[tokio::test]
async fn what_a_registry_refuses_is_waited_for_and_told_once() {
    for class in [Class::Denied, Class::NotFound, Class::Precondition, Class::Invalid] {
        let mut world = World::new();
        world.node.fail("push", &[class, class, Class::Unavailable, class]);
        world.start();
        world.put("snap-1", pushed());
        world.phase("snap-1", "Ready").await;
        let pushes = world.node.done().iter().filter(|done| *done == "push snap-1").count();
        assert_eq!(pushes, 5, "{class:?}");
        let asked = world.api.asked();
        let said = |phase: &str, words: &str| {
            let status =
                |a: &Value| a["status"]["phase"] == phase && a["status"]["message"] == words;
            asked.iter().any(|a| status(&a.body))
        };
        assert!(said("Pushing", "push went wrong"), "{class:?}");
        assert!(!asked.iter().any(|a| a.body["status"]["phase"] == "Failed"), "{class:?}");
        let told = world.told().into_iter().filter(|told| !told.contains(": Snapshotted: "));
        let want = "ci/build: SnapshotNotPushed: snapshot ws-1 of volume ws cannot be pushed yet: push went wrong";
        assert_eq!(told.collect::<Vec<_>>(), [want], "{class:?}");
        assert_eq!(world.condition("snap-1", "Pushed"), ("True".into(), "Pushed".into()));
    }
}

#[tokio::test]
async fn how_far_a_push_is_is_said_while_it_lasts() {
    let mut world = World::new();
    let gate = Arc::new(Semaphore::new(0));
    *world.node.0.gate.lock().unwrap() = Some(gate.clone());
    world.start();
    world.put("snap-1", pushed());
    world.until("news", |world| is_news(&world.status("snap-1")["message"])).await;
    assert_eq!(world.status("snap-1")["phase"], "Pushing");
    // A try that fails says why, and the next one how far it is.
    world.node.fail("push", &[Class::Unavailable]);
    gate.add_permits(1);
    let last = |world: &World, is: fn(&Value) -> bool| {
        world.api.asked().iter().rposition(|asked| is(&asked.body["status"]["message"]))
    };
    world
        .until("news again", |world| {
            let failed = last(world, |said| said == "push went wrong");
            failed.is_some() && last(world, is_news) > failed
        })
        .await;
    gate.add_permits(1);
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.status("snap-1")["message"], Value::Null);
}

fn is_news(message: &Value) -> bool {
    message.as_str().is_some_and(|said| said.starts_with("layer "))
}

/// A controller that gives the snapshot up is not contradicted by news.
#[tokio::test]
async fn news_of_a_push_are_no_word_on_its_phase() {
    let mut world = World::new();
    let gate = Arc::new(Semaphore::new(0));
    *world.node.0.gate.lock().unwrap() = Some(gate);
    world.start();
    world.put("snap-1", pushed());
    world.until("news", |world| is_news(&world.status("snap-1")["message"])).await;
    let path = format!("{OVERLAYS}/snap-1/status");
    world.api.patch(&path, json!({"status": {"phase": "Failed", "message": "its node is gone"}}));
    let asked = world.api.asked().len();
    world.until("more looks", |world| world.api.asked().len() > asked + 2).await;
    assert_eq!(world.status("snap-1")["phase"], "Failed");
    assert_eq!(world.status("snap-1")["message"], "its node is gone");
}

#[tokio::test]
async fn what_waits_is_told_once_also_by_the_next_process() {
    let mut world = World::new();
    world.node.fail("push", &[Class::Denied; 100_000]);
    world.start();
    world.put("snap-1", pushed());
    let told = |world: &World| world.told().iter().filter(|t| t.contains("NotPushed")).count();
    world.until("told", |world| told(world) == 1).await;
    world.kill().await;
    let (before, tries) = (told(&world), world.node.done().len());
    world.start();
    world.until("tries", |world| world.node.done().len() > tries + 2).await;
    assert_eq!((before, told(&world)), (1, 1));
    assert_eq!(world.status("snap-1")["phase"], "Pushing");
    assert_eq!(world.status("snap-1")["message"], "push went wrong");
    assert_eq!(world.condition("snap-1", "Pushed"), ("False".into(), "Denied".into()));
    assert_eq!(world.condition("snap-1", "Ready"), ("False".into(), "Pushing".into()));
}

/// The controller gives a snapshot up whose node is gone: in its phase only, for the conditions are the node's.
#[tokio::test]
async fn a_snapshot_that_was_given_up_goes_on_when_its_node_is_back_with_it() {
    let condition = |r#type: &str, holds: &str, reason: &str| {
        json!({
            "type": r#type, "status": holds, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        })
    };
    let cut = condition("Cut", "True", "Cut");
    let waited = condition("Pushed", "False", "Unavailable");
    for (ready, here, phase) in [
        (condition("Ready", "False", "Pushing"), true, "Ready"),
        (condition("Ready", "False", "Pushing"), false, "Failed"),
        (condition("Ready", "False", "Failed"), true, "Failed"),
    ] {
        let mut world = World::new();
        if here {
            world.node.keep(record(&"snap-1".parse().unwrap(), 1));
        }
        world.put("snap-1", pushed());
        let status = json!({
            "phase": "Failed", "message": "node node-1 is gone",
            "conditions": [cut.clone(), waited.clone(), ready.clone()],
        });
        world.api.patch(&format!("{OVERLAYS}/snap-1/status"), json!({ "status": status }));
        world.start();
        world.put("snap-2", json!({}));
        world.phase("snap-2", "Ready").await;
        sleep(Duration::from_millis(20)).await;
        world.phase("snap-1", phase).await;
        let pushed = world.node.done().contains(&"push snap-1".to_owned());
        assert_eq!(pushed, phase == "Ready", "{ready}");
        assert_eq!(world.status("snap-1")["message"].is_null(), phase == "Ready", "{ready}");
        assert!(!world.node.done().contains(&"cut snap-1".to_owned()), "{ready}");
    }
}

#[tokio::test]
async fn few_objects_are_looked_at_at_a_time() {
    let world = World::new();
    let running = Running::new(world.shared());
    let looks = running.shared.looks.available_permits();
    assert!(looks <= 8);
    let all = running.shared.looks.acquire_many(looks as u32).await.unwrap();
    world.put("snap-1", json!({}));
    running.see("snap-1", false);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(world.api.asked().len(), 0);
    drop(all);
    world.phase("snap-1", "Ready").await;
}

#[tokio::test]
async fn a_spec_that_means_nothing_fails() {
    let mut world = World::new();
    world.start();
    world.put("snap-1", json!({ "repository": "r.io/Upper" }));
    world.phase("snap-1", "Failed").await;
    assert!(world.status("snap-1")["message"].as_str().unwrap().contains("lower-case"));
    assert_eq!(world.node.done(), Vec::<String>::new());
}

#[tokio::test]
async fn a_volume_of_another_pod_is_nobodys_snapshot() {
    let mut world = World::new();
    world.start();
    let source = json!({ "namespace": "ci", "pod": "build", "podUid": "other", "volume": "ws" });
    world.put("snap-1", json!({ "source": source }));
    world.phase("snap-1", "Failed").await;
    assert_eq!(world.condition("snap-1", "Cut"), ("False".into(), "Denied".into()));
    assert_eq!(world.node.here(), []);
}

#[tokio::test]
async fn layers_that_are_gone_are_told() {
    for (status, phase) in [
        (json!({ "phase": "Ready" }), "Failed"),
        (json!({ "phase": "Pushing" }), "Failed"),
        (json!({ "phase": "Ready", "image": "r.io/ws@sha256:1" }), "Ready"),
    ] {
        let mut world = World::new();
        world.put("snap-1", pushed());
        world.api.patch(&format!("{OVERLAYS}/snap-1/status"), json!({ "status": status }));
        world.start();
        world.put("snap-2", json!({}));
        world.phase("snap-2", "Ready").await;
        world.phase("snap-1", phase).await;
        assert_eq!(world.node.done(), ["cut snap-2"], "{status}");
    }
}

#[tokio::test]
async fn many_layers_are_squashed_before_they_are_pushed() {
    for (spec, squash) in [(pushed(), "squash and send snap-1"), (json!({}), "squash snap-1")] {
        let mut world = World::new();
        *world.node.0.own.lock().unwrap() = 3;
        world.start();
        let mut spec = spec;
        spec["squashAbove"] = 3.into();
        world.put("snap-1", spec.clone());
        world.until("Squashed", |world| world.status("snap-1")["ownLayers"] == 1).await;
        world.phase("snap-1", "Ready").await;
        assert_eq!(world.node.done()[..2], ["cut snap-1".to_owned(), squash.to_owned()]);
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
    assert_eq!(world.condition("snap-1", "Squashed"), ("False".into(), "Exhausted".into()));
    assert_eq!(world.status("snap-1")["ownLayers"], 4);
    world.patch("snap-1", json!({ "squashAbove": 3 }));
    sleep(Duration::from_millis(20)).await;
    assert_eq!(world.node.done(), ["cut snap-1", "squash and send snap-1", "push snap-1"]);
}

#[tokio::test]
async fn a_deleted_snapshot_goes_from_registry_and_node() {
    let mut world = World::new();
    world.start();
    world.put("snap-1", pushed());
    world.phase("snap-1", "Ready").await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    assert_eq!(world.node.done(), ["cut snap-1", "push snap-1", "unpush snap-1", "forget snap-1"]);
    assert_eq!(world.node.here(), []);
    assert_eq!(world.condition("snap-1", "Ready").0, "False");
}

#[tokio::test]
async fn delete_wins_over_a_push_and_over_waiting() {
    let mut world = World::new();
    *world.node.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    world.start();
    world.put("snap-1", pushed());
    world.until("the push", |w| w.node.done().contains(&"begin snap-1".to_owned())).await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    // Its manifest may be there: nobody knows by which digest.
    let want = ["cut snap-1", "begin snap-1", "unpush by tag snap-1", "forget snap-1"];
    assert_eq!(world.node.done(), want);

    // Also where it waits for its turn behind others.
    let mut world = World::new();
    *world.node.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    world.start();
    (1..4).for_each(|n| world.put(&format!("snap-{n}"), pushed()));
    let begun = |world: &World| {
        let done = world.node.done();
        let begun = |n: &u32| done.contains(&format!("begin snap-{n}"));
        (1..4).partition::<Vec<u32>, _>(begun)
    };
    world.until("two pushes", |world| begun(world).0.len() == 2).await;
    let waits = format!("snap-{}", begun(&world).1[0]);
    world.phase(&waits, "Pushing").await;
    world.patch(&waits, json!({ "deleted": true }));
    world.phase(&waits, "Deleted").await;

    let mut world = World::new();
    world.node.fail("cut", &[Class::Busy; 1000]);
    world.start();
    world.put("snap-1", pushed());
    world.until("a try", |world| !world.node.done().is_empty()).await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    assert!(!world.node.done().iter().any(|done| done.contains("unpush")));
}

/// Its registry may be a tenant's own, which does not answer for as long as it likes.
#[tokio::test]
async fn pushes_that_hardly_move_keep_no_other_namespace_waiting() {
    let mut world = World::new();
    *world.node.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    world.start();
    (0..10).for_each(|n| world.put(&format!("snap-{n}"), pushed()));
    let begun = |world: &World| world.node.done().iter().filter(|d| d.contains("begin")).count();
    world.until("its part", |world| begun(world) == 8).await;
    let source = json!({ "namespace": "quiet", "pod": "build", "podUid": "u-1", "volume": "ws" });
    world.put("snap-quiet", json!({ "repository": "r.io/ws", "source": source }));
    let quiet = "begin snap-quiet".to_owned();
    world.until("another's push", |world| world.node.done().contains(&quiet)).await;
    assert_eq!(begun(&world), 9, "one namespace has more than its part");
}

#[tokio::test]
async fn nobody_waits_for_a_registry_that_is_gone() {
    let mut world = World::new();
    world.node.fail("unpush", &[Class::Unavailable; 1000]);
    world.start();
    world.put("snap-1", pushed());
    world.phase("snap-1", "Ready").await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    let message = world.status("snap-1")["message"].clone();
    assert_eq!(message, "its manifest is left in r.io/ws: unpush went wrong");
    assert_eq!(world.node.here(), []);
}

#[tokio::test]
async fn what_was_left_behind_is_forgotten_but_only_where_the_others_are_listed() {
    let mut world = World::new();
    world.node.keep(record(&"snap-left".parse().unwrap(), 1));
    world.node.keep(record(&"snap-1".parse().unwrap(), 1));
    world.put("snap-1", json!({}));
    world.start();
    world.until("forgotten", |world| world.node.here().len() == 1).await;
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.node.done(), ["forget snap-left"]);
    // The object goes without a word: its node was thought to be gone.
    world.api.delete(&format!("{OVERLAYS}/snap-1"));
    world.until("forgotten", |world| world.node.here().is_empty()).await;

    let world = World::new();
    world.node.keep(record(&"snap-left".parse().unwrap(), 1));
    let api = FakeApi::answering(&[404; 1000]);
    let shared = Shared { client: api.client(), ..world.shared() };
    let running = Running::new(Shared { node: "node-1".into(), ..shared });
    running.see("snap-left", false);
    world.until("asked", |_| api.asked().len() > 5).await;
    assert_eq!(world.node.here().len(), 1, "an API server without the kind knows of no snapshot");
}

/// Every request that is not answered, or not heard, ends a process; the next one goes on.
#[tokio::test]
async fn a_process_that_ends_anywhere_is_gone_on_from() {
    for how in [Loss::Request, Loss::Answer] {
        for after in 0.. {
            let mut world = World::new();
            *world.node.0.own.lock().unwrap() = 3;
            world.put("snap-1", json!({ "repository": "r.io/ws", "squashAbove": 2 }));
            world.api.lose(after, how);
            world.start();
            // Until the API server is away, or all is done.
            world
                .until("an end", |world| {
                    let lost = world.api.asked().iter().filter(|a| a.method == "LOST").count();
                    lost > 2 || world.status("snap-1")["phase"] == "Ready"
                })
                .await;
            world.kill().await;
            let was_lost = world.api.mend();
            world.start();
            world.phase("snap-1", "Ready").await;
            let done = world.node.done();
            let count = |what: &str| done.iter().filter(|done| done.starts_with(what)).count();
            assert_eq!((count("cut"), count("squash")), (1, 1), "{how:?} {after}: {done:?}");
            assert_eq!(world.status("snap-1")["ownLayers"], 1, "{how:?} {after}");
            assert_eq!(world.status("snap-1")["pushedBytes"], 7, "{how:?} {after}");
            if !was_lost {
                break;
            }
        }
    }
}

#[tokio::test]
async fn fifty_at_once_are_each_cut_once_and_no_worker_stays() {
    let world = World::new();
    let running = Running::new(world.shared());
    for n in 0..50 {
        world.put(&format!("snap-{n}"), pushed());
    }
    for _ in 0..3 {
        (0..50).for_each(|n| running.see(&format!("snap-{n}"), false));
        tokio::task::yield_now().await;
    }
    let ready = |w: &World| (0..50).all(|n| w.status(&format!("snap-{n}"))["phase"] == "Ready");
    world.until("all of them", ready).await;
    world.until("rest", |_| running.at_work() == 0).await;
    let done = world.node.done();
    assert_eq!(done.iter().filter(|done| done.starts_with("cut")).count(), 50);
}

#[tokio::test]
async fn the_push_secret_is_read_in_the_drivers_namespace_and_never_shown() {
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
            world.status("snap-1")["message"].as_str().is_some_and(|said| said.contains(words))
        };
        world.until(words, waits).await;
        assert_eq!(world.status("snap-1")["phase"], "Pushing", "{words}");
        assert!(!world.status("snap-1").to_string().contains("hush"), "{words}");
        assert_eq!(world.node.done(), ["cut snap-1"], "{words}");
        // It comes, or is mended.
        if is_there {
            world.api.delete(&format!("{path}/push"));
        }
        world.api.put(path, secret(json!({ ".dockerconfigjson": good })));
        world.phase("snap-1", "Ready").await;
        assert!(!world.status("snap-1").to_string().contains("hush"), "{words}");
    }
}
