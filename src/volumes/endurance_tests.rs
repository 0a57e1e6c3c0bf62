//! Many volumes, one after another and at once: what they leave in the process and on the disk. As many as show a leak; with
//! `OVL_SOAK=1` 10,000 and 2,000.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{
    privileged_tests::{Node, registry},
    tests::wait_for_removal,
    *,
};

/// Set for the process that is measured: the other tests of this one open files too.
const MEASURED: &str = "OVL_TEST_MEASURED";

/// Volumes one after another, and volumes at once.
fn volumes() -> (usize, usize) {
    if std::env::var_os("OVL_SOAK").is_some() { (10_000, 2_000) } else { (400, 150) }
}

/// What an allocator keeps, in bytes, and what a volume may leave: less than its record.
const KEPT: u64 = 1 << 20;
const LEFT: u64 = 200;

/// What grows where something is forgotten.
#[derive(Debug, PartialEq, Eq)]
struct State {
    descriptors: usize,
    mounts: usize,
    files: BTreeSet<PathBuf>,
}

impl State {
    fn of(node: &Node) -> Self {
        wait_for_removal(&node.volumes);
        let mut files = BTreeSet::new();
        list(&node.dir.path().join("store"), &mut files);
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        Self { descriptors, mounts: node.mounts().len(), files }
    }
}

fn list(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            list(&path, found);
        }
        found.insert(path);
    }
}

/// A number of `/proc/self/status`.
fn status(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(':'));
    value.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

async fn life(node: &Node, images: &[Reference], id: &str) {
    node.publish(id, images, false, false).await;
    fs::write(node.target(id).join("new"), "mine").unwrap();
    node.unpublish(id).await;
}

#[allow(clippy::print_stderr, reason = "what it measured")]
#[tokio::test]
#[ignore = "needs root and a process of its own: the test below runs it"]
async fn many_volumes_measured() {
    assert!(std::env::var_os(MEASURED).is_some(), "it measures a process that runs nothing else");
    let (in_turn, at_once) = volumes();
    let (registry, images) = registry().await;
    let mut node = Node::new(&registry);
    for n in 0..50 {
        life(&node, &images, &format!("first-{n}")).await;
    }
    let (before, memory, threads) = (State::of(&node), status("RssAnon"), status("Threads"));
    for n in 0..in_turn {
        life(&node, &images, &format!("turn-{n}")).await;
    }
    assert_eq!(State::of(&node), before, "after {in_turn} in turn");
    assert!(status("Threads") <= threads + 1, "{threads} threads, then {}", status("Threads"));
    let grown = status("RssAnon").saturating_sub(memory) << 10;
    assert!(grown < in_turn as u64 * LEFT + KEPT, "{grown} bytes more after {in_turn}");

    let ids: Vec<_> = (0..at_once).map(|n| format!("held-{n}")).collect();
    for id in &ids {
        node.publish(id, &images, false, false).await;
    }
    let held = State::of(&node);
    assert_eq!(held.mounts, at_once);
    assert_eq!(held.descriptors, before.descriptors, "a volume that is mounted has a descriptor");
    let begun = Instant::now();
    node.restart(&registry).await;
    for id in &ids {
        node.publish(id, &images, false, false).await;
    }
    let again = begun.elapsed();
    // A few milliseconds each on a quiet machine.
    assert!(again < Duration::from_secs(30), "{again:?}");
    assert_eq!(node.mounts().len(), at_once, "they were mounted again");
    for id in &ids {
        node.unpublish(id).await;
    }
    eprintln!(
        "{in_turn} in turn: {grown} bytes more; {at_once} at once: {} bytes, there again after {again:?}",
        status("RssAnon") << 10
    );
    let after = State::of(&node);
    assert_eq!((after.mounts, after.files), (before.mounts, before.files));
}

#[allow(clippy::print_stderr, reason = "what it measured")]
#[test]
#[ignore = "needs root"]
fn privileged_many_volumes_leave_nothing_behind() {
    let test = "volumes::endurance_tests::many_volumes_measured";
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(MEASURED, "1")
        .output()
        .unwrap();
    let said =
        [done.stderr, done.stdout].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    eprintln!("{said}");
}
