//! Kills a process during captures, and checks what the next process finds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{testing::*, *};
use crate::{image::fake::FakeRegistry, sys::test_dir::TestDir};

/// Set in the environment of the process that is killed.
const VICTIM: &str = "OVL_TEST_VICTIM";

const ROUNDS: u32 = 4;

/// Captures one volume repeatedly while a pod writes to it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: the test below starts and kills it"]
async fn privileged_capture_until_killed() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let scratch = TestDir::new();
    let at = scratch.dir("node");
    let node = Node::new(scratch, &at).await;
    let at = node.publish("v", |_| {}).await;
    for n in 0..3_000 {
        fs::write(at.join(format!("f{n}")), "x").unwrap();
    }
    let mut pod = PodGroup::of(&node.uid);
    pod.run(&at, "while :; do i=$((i + 1)); echo $i >> first; echo $i >> second; done");
    for n in 0.. {
        node.capture(&format!("snap-{n}"), "v").await.unwrap();
    }
}

struct Victim {
    child: Child,
    scratch: TestDir,
}

impl Victim {
    fn new() -> Self {
        let scratch = TestDir::new();
        let test = "snapshots::kill_tests::privileged_capture_until_killed";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", test])
            .env(VICTIM, "1")
            .env("TMPDIR", scratch.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self { child, scratch }
    }

    /// The scratch directory of the process, once it has made one.
    fn dir(&self) -> Option<PathBuf> {
        Some(fs::read_dir(self.scratch.path()).unwrap().next()?.unwrap().path())
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&Path) -> bool) -> PathBuf {
        let start = Instant::now();
        loop {
            if let Some(dir) = self.dir().filter(|dir| done(dir)) {
                return dir;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "the process ended before {what}");
            assert!(start.elapsed() < Duration::from_secs(120), "no {what}");
            sleep(Duration::from_micros(200));
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// docs/hazards.md, 15 and 24.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, makes cgroups"]
async fn privileged_a_kill_during_a_capture_leaves_nothing_unfinished_and_no_pod_frozen() {
    let mut left_frozen = 0;
    for round in 0..ROUNDS {
        let mut victim = Victim::new();
        let uid = uid_of(victim.child.id(), 0);
        // Its drop kills the processes in all cases.
        let pod = PodGroup::of(&uid);
        let dir = victim
            .wait_for("first snapshot", |dir| !names(&dir.join("node/store/snapshots")).is_empty());
        if round < ROUNDS / 2 {
            let is_recorded = |dir: &Path| !names(&dir.join("node/store/frozen")).is_empty();
            victim.wait_for("record of a freeze", is_recorded);
            victim.wait_for("frozen pod", |_| pod.is_frozen());
        } else {
            sleep(Duration::from_millis(u64::from(round) * 7));
        }
        victim.kill();
        left_frozen += u32::from(pod.is_frozen());

        let registry = FakeRegistry::start().await;
        let (root, kubelet) = (dir.join("node"), dir.join("kubelet"));
        let (store, volumes, snapshots) = open(&kubelet, &root, &registry, &Metrics::default());
        assert!(!pod.is_frozen(), "round {round}");
        store.staging.remove_abandoned().unwrap();
        for part in ["staging", "frozen"] {
            assert_eq!(names(&store.root().join(part)), Vec::<String>::new(), "{round}: {part}");
        }
        let target = kubelet.join("pods").join(&uid).join("v");
        let size = || fs::metadata(target.join("second")).unwrap().len();
        let (before, start) = (size(), Instant::now());
        while size() == before {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "round {round}: the pod does not write"
            );
            sleep(Duration::from_millis(1));
        }
        assert_eq!(store.verify().unwrap(), []);
        for snapshot in store.snapshots.all() {
            for key in &snapshot.stack {
                store.layers.lower(key).unwrap();
            }
            let tree = store.layers.lower(&snapshot.stack[1]).unwrap().tree.path();
            let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap_or_default();
            assert!(read("first").starts_with(&read("second")), "{}: no prefix", snapshot.id);
        }
        snapshots.capture(request("snap-after", volume("v", &uid), &uid)).await.unwrap();
        drop(pod);
        volumes.unpublish(&volume("v", &uid), &target.try_into().unwrap()).await.unwrap();
    }
    assert!(left_frozen > 0, "no kill came during a freeze");
}
