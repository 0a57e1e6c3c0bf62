//! The process is killed while it cuts: what the next one finds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{testing::*, *};
use crate::{image::fake::FakeRegistry, sys::scratch::Scratch};

/// Set for the process that is killed.
const VICTIM: &str = "OVL_TEST_VICTIM";

const ROUNDS: u32 = 4;

/// Cuts one volume again and again, with a pod that writes to it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: it is what the test below kills"]
async fn privileged_cut_until_killed() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let scratch = Scratch::new();
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
    scratch: Scratch,
}

impl Victim {
    fn new() -> Self {
        let scratch = Scratch::new();
        let test = "snapshots::kill_tests::privileged_cut_until_killed";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", test])
            .env(VICTIM, "1")
            .env("TMPDIR", scratch.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self { child, scratch }
    }

    /// The directory that it has made for itself.
    fn dir(&self) -> Option<PathBuf> {
        Some(fs::read_dir(self.scratch.path()).unwrap().next()?.unwrap().path())
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&Path) -> bool) -> PathBuf {
        let begun = Instant::now();
        loop {
            if let Some(dir) = self.dir().filter(|dir| done(dir)) {
                return dir;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended before {what}");
            assert!(begun.elapsed() < Duration::from_secs(120), "no {what}");
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

/// HAZARDS 15 and 24.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, makes cgroups"]
async fn privileged_a_kill_in_the_middle_leaves_nothing_half_made_and_nobody_frozen() {
    let mut left_frozen = 0;
    for round in 0..ROUNDS {
        let mut victim = Victim::new();
        let uid = uid_of(victim.child.id(), 0);
        // Its processes go with this, whatever happens.
        let pod = PodGroup::of(&uid);
        let dir = victim
            .wait_for("first snapshot", |dir| !names(&dir.join("node/store/snapshots")).is_empty());
        if round < ROUNDS / 2 {
            let is_noted = |dir: &Path| !names(&dir.join("node/store/frozen")).is_empty();
            victim.wait_for("note", is_noted);
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
        store.empty_staging().unwrap();
        for part in ["staging", "frozen"] {
            assert_eq!(names(&store.root().join(part)), Vec::<String>::new(), "{round}: {part}");
        }
        let target = kubelet.join("pods").join(&uid).join("v");
        let size = || fs::metadata(target.join("second")).unwrap().len();
        let (before, begun) = (size(), Instant::now());
        while size() == before {
            assert!(begun.elapsed() < Duration::from_secs(30), "round {round}: nobody writes");
            sleep(Duration::from_millis(1));
        }
        assert_eq!(store.verify().unwrap(), []);
        for snapshot in store.snapshots() {
            for key in &snapshot.stack {
                store.lower(key).unwrap();
            }
            let tree = store.lower(&snapshot.stack[1]).unwrap().tree.path();
            let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap_or_default();
            assert!(read("first").starts_with(&read("second")), "{}: no prefix", snapshot.id);
        }
        snapshots.capture(request("snap-after", volume("v", &uid), &uid)).await.unwrap();
        drop(pod);
        volumes.unpublish(&volume("v", &uid), &target.try_into().unwrap()).await.unwrap();
    }
    assert!(left_frozen > 0, "no kill met a frozen pod");
}
