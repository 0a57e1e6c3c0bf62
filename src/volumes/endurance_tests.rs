//! Many volumes, one after another and at the same time, and what they leave in the process and on the disk.
//!
//! The default counts are enough to show a leak. With `OVL_ENDURANCE=1` they are 10,000 and 2,000.

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
};
use crate::reference::Reference;

/// Environment variable that is set for the measured process, which runs nothing else: other tests open files too.
const MEASURED: &str = "OVL_TEST_MEASURED";

/// The number of volumes one after another, and of volumes at the same time.
fn volumes() -> (usize, usize) {
    if std::env::var_os("OVL_ENDURANCE").is_some() { (10_000, 2_000) } else { (400, 150) }
}

/// Bytes of memory that the allocator may keep.
const ALLOCATOR_BYTES: u64 = 1 << 20;
/// Bytes of memory that each volume may leave: less than its record.
const BYTES_PER_VOLUME: u64 = 200;

/// The counts that grow with a leak.
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

/// The number in a line of `/proc/self/status`.
fn status(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    value.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

async fn publish_and_unpublish(node: &Node, images: &[Reference], id: &str) {
    node.publish(id, images, false, false).await;
    fs::write(node.target(id).join("new"), "mine").unwrap();
    node.unpublish(id).await;
}

#[allow(clippy::print_stderr, reason = "prints what it measured")]
#[tokio::test]
#[ignore = "needs root and a process of its own: the test below runs it"]
async fn many_volumes_measured() {
    assert!(std::env::var_os(MEASURED).is_some(), "it measures a process that runs nothing else");
    let (in_turn, at_once) = volumes();
    let (registry, images) = registry().await;
    let mut node = Node::new(&registry);
    for n in 0..50 {
        publish_and_unpublish(&node, &images, &format!("first-{n}")).await;
    }
    let (before, memory, threads) = (State::of(&node), status("RssAnon"), status("Threads"));
    for n in 0..in_turn {
        publish_and_unpublish(&node, &images, &format!("turn-{n}")).await;
    }
    assert_eq!(State::of(&node), before, "after {in_turn} volumes in turn");
    assert!(status("Threads") <= threads + 1, "{threads} threads, then {}", status("Threads"));
    let growth = status("RssAnon").saturating_sub(memory) << 10;
    assert!(
        growth < in_turn as u64 * BYTES_PER_VOLUME + ALLOCATOR_BYTES,
        "{growth} bytes more after {in_turn}"
    );

    let ids: Vec<_> = (0..at_once).map(|n| format!("mounted-{n}")).collect();
    for id in &ids {
        node.publish(id, &images, false, false).await;
    }
    let mounted = State::of(&node);
    assert_eq!(mounted.mounts, at_once);
    assert_eq!(mounted.descriptors, before.descriptors, "a mounted volume keeps a descriptor open");
    let started = Instant::now();
    node.restart(&registry).await;
    for id in &ids {
        node.publish(id, &images, false, false).await;
    }
    let elapsed = started.elapsed();
    // A few milliseconds each on a quiet machine.
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
    assert_eq!(node.mounts().len(), at_once, "the volumes were mounted a second time");
    for id in &ids {
        node.unpublish(id).await;
    }
    eprintln!(
        "{in_turn} in turn: {growth} bytes more; {at_once} at once: {} bytes, published again after {elapsed:?}",
        status("RssAnon") << 10
    );
    let after = State::of(&node);
    assert_eq!((after.mounts, after.files), (before.mounts, before.files));
}

#[allow(clippy::print_stderr, reason = "prints what it measured")]
#[test]
#[ignore = "needs root"]
fn privileged_many_volumes_leave_nothing_behind() {
    let test = "volumes::endurance_tests::many_volumes_measured";
    let finished = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(MEASURED, "1")
        .output()
        .unwrap();
    let output = [finished.stderr, finished.stdout]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(finished.status.success() && output.contains("1 passed"), "{output}");
    eprintln!("{output}");
}
