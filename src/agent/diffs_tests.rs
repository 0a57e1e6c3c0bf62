//! OverlayDiffs are carried out against a fake API server and a fake comparison.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinHandle};

use super::*;
use crate::{
    agent::SnapshotsByName,
    changeset::{self, Difference, EntryType},
    cluster::fake::{FakeApi, Loss, eventually},
};

const DIFFS: &str = "/apis/ovl.csi.dev/v1alpha1/namespaces/ci/overlaydiffs";
const RESULTS: &str = "/apis/ovl.csi.dev/v1alpha1/namespaces/ci/overlaydiffresults";
/// A fake comparison: it finds one file, or fails. It waits for a permit if there is a semaphore.
#[derive(Clone, Default)]
struct FakeCompare(Arc<State>);

#[derive(Default)]
struct State {
    requests: Mutex<Vec<DiffRequest>>,
    failure: Mutex<Option<String>>,
    gate: Mutex<Option<Arc<Semaphore>>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

/// Counts a running comparison until it ends or is dropped.
struct Running(Arc<State>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Compare for FakeCompare {
    async fn compare(&self, request: DiffRequest) -> Result<Collected, String> {
        let state = &self.0;
        let running = state.running.fetch_add(1, SeqCst) + 1;
        state.most.fetch_max(running, SeqCst);
        let _running = Running(state.clone());
        state.requests.lock().unwrap().push(request);
        let gate = state.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        if let Some(failure) = state.failure.lock().unwrap().clone() {
            return Err(failure);
        }
        let mut collected = Collected::default();
        collected.take(Difference {
            path: b"file".to_vec(),
            change: changeset::Change::Added,
            kind: EntryType::File,
            size: Some(1),
            properties: Vec::new(),
        });
        Ok(collected)
    }
}

/// A node that runs until the test ends.
struct Node {
    api: FakeApi,
    compare: FakeCompare,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    fn start() -> Self {
        let (api, compare) = (FakeApi::default(), FakeCompare::default());
        let task = Self::run(&api, &compare);
        Self { api, compare, task }
    }

    fn run(api: &FakeApi, compare: &FakeCompare) -> JoinHandle<()> {
        let lookup = SnapshotsByName::new(api.client(), "ovl.csi.dev", "n-1");
        let parts = DiffParts {
            client: api.client(),
            compare: compare.clone(),
            lookup: Arc::new(lookup),
            node: "n-1".to_owned(),
            driver: "ovl.csi.dev".to_owned(),
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(5)),
        };
        tokio::spawn(DiffController::new(parts).run())
    }

    /// A request for a pod's volume, assigned to a node.
    fn request(&self, name: &str, node: &str, driver: &str) {
        self.api.put(DIFFS, json!({
            "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlayDiff", "metadata": { "name": name },
            "spec": { "driver": driver, "pod": { "name": "dev-0", "volume": "ws" } },
        }));
        let status = json!({ "nodeName": node, "podUid": "u-1", "volumeHandle": "csi-0123" });
        self.api.patch(&format!("{DIFFS}/{name}/status"), json!({ "status": status }));
    }

    async fn result(&self, name: &str) -> Value {
        let path = format!("{RESULTS}/{name}");
        eventually(|| self.api.get(&path)).await
    }
}

#[tokio::test]
async fn a_pods_volume_is_compared_with_its_start_and_the_result_names_its_request() {
    let node = Node::start();
    node.request("a", "n-1", "ovl.csi.dev");
    let result = node.result("a").await;
    assert_eq!(
        result["spec"],
        json!({
            "driver": "ovl.csi.dev", "nodeName": "n-1", "added": 1, "changed": 0, "removed": 0,
            "changes": [{ "path": "file", "change": "added", "type": "file", "size": 1 }],
        })
    );
    let request = node.api.get(&format!("{DIFFS}/a")).unwrap();
    let owner = &result["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], request["metadata"]["uid"]);
    let requests = node.compare.0.requests.lock().unwrap().clone();
    let [DiffRequest { namespace, base: None, state: VolumeState::Mounted(volume) }] =
        &requests[..]
    else {
        panic!("{requests:?}")
    };
    assert_eq!(
        (namespace.as_str(), volume.name.as_str(), volume.id.as_str()),
        ("ci", "ws", "csi-0123")
    );
    let pod = &volume.pod;
    assert_eq!(
        (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
        ("ci", "dev-0", "u-1")
    );
}

#[tokio::test]
async fn a_request_is_carried_out_once_and_those_of_others_are_not() {
    let node = Node::start();
    node.request("other-node", "n-2", "ovl.csi.dev");
    node.request("other-driver", "n-1", "other.csi.dev");
    node.request("a", "n-1", "ovl.csi.dev");
    node.result("a").await;
    node.api.patch(&format!("{DIFFS}/a"), json!({ "metadata": { "labels": { "x": "y" } } }));
    node.request("b", "n-1", "ovl.csi.dev");
    node.result("b").await;
    assert_eq!(node.compare.0.requests.lock().unwrap().len(), 2);
    assert_eq!(node.api.all(RESULTS).len(), 2);
    // A new process finds the result of the earlier one.
    node.task.abort();
    let again = Node {
        task: Node::run(&node.api, &node.compare),
        api: node.api.clone(),
        compare: node.compare.clone(),
    };
    let compared = || (node.compare.0.requests.lock().unwrap().len() == 4).then_some(());
    eventually(compared).await;
    again.request("c", "n-1", "ovl.csi.dev");
    again.result("c").await;
    assert_eq!(node.api.all(RESULTS).len(), 3);
}

#[tokio::test]
async fn an_error_is_a_result() {
    let node = Node::start();
    *node.compare.0.failure.lock().unwrap() =
        Some("volume ws of pod dev-0 is not mounted".to_owned());
    node.request("failed", "n-1", "ovl.csi.dev");
    let spec = node.result("failed").await["spec"].clone();
    assert_eq!(spec["error"], "volume ws of pod dev-0 is not mounted");
    assert_eq!(spec.get("changes"), None);
    let snapshot = |name: &str, snapshot: &str| {
        node.api.put(DIFFS, json!({
            "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlayDiff", "metadata": { "name": name },
            "spec": { "driver": "ovl.csi.dev", "volumeSnapshotName": snapshot },
        }));
        let status = json!({ "status": { "nodeName": "n-1" } });
        node.api.patch(&format!("{DIFFS}/{name}/status"), status);
    };
    for (name, of, message) in [
        ("absent", "ws-1", "there is no snapshot ws-1 in namespace ci"),
        ("path", "../../pods/p", "\"../../pods/p\" is not a valid name of a VolumeSnapshot"),
    ] {
        snapshot(name, of);
        assert_eq!(node.result(name).await["spec"]["error"], message);
    }
    assert!(!node.api.requests().iter().any(|seen| seen.path.contains("..")));
}

#[tokio::test]
async fn a_comparison_ends_when_its_request_is_deleted() {
    let node = Node::start();
    *node.compare.0.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    node.request("a", "n-1", "ovl.csi.dev");
    let running =
        |count| move |node: &Node| (node.compare.0.running.load(SeqCst) == count).then_some(());
    eventually(|| running(1)(&node)).await;
    node.api.delete(&format!("{DIFFS}/a"));
    eventually(|| running(0)(&node)).await;
    assert_eq!(node.api.all(RESULTS), Vec::<Value>::new());
}

#[tokio::test]
async fn the_number_of_requests_at_a_time_is_bounded() {
    let node = Node::start();
    let gate = Arc::new(Semaphore::new(0));
    *node.compare.0.gate.lock().unwrap() = Some(gate.clone());
    for n in 0..2 * REQUESTS {
        node.request(&format!("d-{n}"), "n-1", "ovl.csi.dev");
    }
    eventually(|| (node.compare.0.running.load(SeqCst) == REQUESTS).then_some(())).await;
    gate.add_permits(2 * REQUESTS);
    eventually(|| (node.api.all(RESULTS).len() == 2 * REQUESTS).then_some(())).await;
    assert_eq!(node.compare.0.most.load(SeqCst), REQUESTS);
}

#[tokio::test]
async fn a_result_is_created_when_the_api_server_is_back() {
    let node = Node::start();
    let gate = Arc::new(Semaphore::new(0));
    *node.compare.0.gate.lock().unwrap() = Some(gate.clone());
    node.request("a", "n-1", "ovl.csi.dev");
    eventually(|| (node.compare.0.running.load(SeqCst) == 1).then_some(())).await;
    node.api.lose(0, Loss::Request);
    gate.add_permits(1);
    eventually(|| node.api.requests().iter().any(|seen| seen.method == "LOST").then_some(())).await;
    assert!(node.api.restore());
    node.result("a").await;
}
