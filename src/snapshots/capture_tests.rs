//! Captures of real volumes, with pods that write.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{testing::*, *};
use crate::{
    error::Class,
    layers::{DiskLimits, LayerKey},
    sys::{
        mounts::{Attrs, LinuxMounts, Mounts as _, Param, Request},
        statfs,
        test_dir::{Disk, TestDir},
    },
    volumes::{GuardError, Medium, Pod},
};

async fn node() -> Node {
    let scratch = TestDir::new();
    let at = scratch.dir("node");
    Node::new(scratch, &at).await
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        sleep(Duration::from_millis(2));
    }
}

/// The stack of the image's layers and the captured layer shows all changes of the pod.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_snapshot_shows_all_changes_of_a_pod() {
    for disk in [Some("xfs"), Some("ext4"), None] {
        let scratch = TestDir::new();
        let at = scratch.dir("node");
        let _disk = disk.map(|fs_type| Disk::new(&scratch, fs_type, &at));
        let node = Node::new(scratch, &at).await;
        let memory = if disk.is_none() { Medium::Memory } else { Medium::Disk };
        let at = node.publish("v", |spec| spec.medium = memory).await;
        let write = |name: &str, text: &str| fs::write(at.join(name), text).unwrap();
        fs::remove_file(at.join("gone")).unwrap();
        fs::set_permissions(at.join("mode"), Permissions::from_mode(0o4755)).unwrap();
        fs::rename(at.join("dir"), at.join("renamed")).unwrap();
        fs::rename(at.join("deep/a"), at.join("a")).unwrap();
        write("renamed/new", "new");
        fs::remove_file(at.join("covered/old")).unwrap();
        fs::remove_dir(at.join("covered")).unwrap();
        fs::create_dir(at.join("covered")).unwrap();
        write("covered/young", "young");
        write("one", "linked");
        fs::hard_link(at.join("one"), at.join("other")).unwrap();
        symlink("kept", at.join("link")).unwrap();
        let socket = |name: &str| {
            let (kind, mode) = (rustix::fs::FileType::Socket, rustix::fs::Mode::RUSR);
            rustix::fs::mknodat(rustix::fs::CWD, at.join(name), kind, mode, 0).unwrap();
        };
        fs::create_dir(at.join("pure")).unwrap();
        fs::remove_file(at.join("renamed/two")).unwrap();
        let sockets = ["pure/socket", "renamed/two", "deep/socket"];
        sockets.iter().for_each(|name| socket(name));
        let sparse = fs::File::create(at.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        drop(sparse);

        let snapshot = node.capture("snap-1", "v").await.unwrap();
        node.assert_nothing_unfinished("snapshot");
        assert_eq!(
            (snapshot.own_layers, snapshot.stack.len(), snapshot.frozen_micros),
            (1, 2, None)
        );
        assert_eq!(snapshot.stack[1], LayerKey::of_snapshot(&snapshot.id));
        assert_eq!(snapshot.source.volume_id, node.volume("v").as_str());
        assert!(snapshot.entries > 8 && snapshot.bytes < 1 << 20, "{snapshot:?}");
        let features = node.store.layers.lower(&snapshot.stack[1]).unwrap().features;
        assert!(features.metacopy && features.redirect, "{features:?}");
        let restored = node.restored(&snapshot.stack);
        // A snapshot has no sockets, not even their names.
        sockets.iter().for_each(|name| fs::remove_file(at.join(name)).unwrap());
        let names = [
            "pure",
            "renamed/two",
            "",
            "kept",
            "gone",
            "mode",
            "dir",
            "renamed",
            "renamed/one",
            "renamed/new",
            "deep",
            "deep/a",
            "a",
            "a/b/c",
            "covered",
            "covered/young",
            "one",
            "other",
            "link",
        ];
        for name in names {
            let (was, is) = (describe(&at.join(name)), describe(&restored.path().join(name)));
            assert_eq!(is, was, "{name} on {disk:?}");
        }
        let is = |name: &str| fs::symlink_metadata(restored.path().join(name)).unwrap();
        assert_eq!((is("one").ino(), is("one").nlink()), (is("other").ino(), 2));
        assert_eq!((is("sparse").len(), is("sparse").blocks()), (1 << 30, 0));
        assert!(is("link").is_symlink());

        // The pod runs on, and the snapshot does not change. A restored volume has its own writes.
        write("kept", "changed since");
        assert_eq!(describe(&restored.path().join("kept")), "644 base");
        fs::write(restored.path().join("a/b/c"), "theirs").unwrap();
        assert_eq!(describe(&at.join("a/b/c")), "644 base");
        // A repeated request returns the same snapshot.
        assert_eq!(node.capture("snap-1", "v").await.unwrap(), snapshot);
        let second = node.capture("snap-2", "v").await.unwrap();
        assert_eq!(
            describe(&node.restored(&second.stack).path().join("kept")),
            "644 changed since"
        );
        drop(restored);
        node.unpublish("v").await;
        let error = node.capture("snap-3", "v").await.unwrap_err();
        assert!(
            matches!(error, CaptureError::Guard { source: GuardError::Absent(_), .. }),
            "{error}"
        );
        assert_eq!(node.store.verify().unwrap(), []);
    }
}

/// The pod appends to two files in turn: each line of the second file is in the first.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, makes cgroups"]
async fn privileged_a_frozen_capture_shows_one_moment() {
    for fs_type in ["xfs", "ext4"] {
        let scratch = TestDir::new();
        let at = scratch.dir("node");
        let _disk = Disk::new(&scratch, fs_type, &at);
        let node = Node::new(scratch, &at).await;
        let at = node.publish("v", |_| {}).await;
        let mut pod = PodGroup::of(&node.uid);
        // Many files, so a live copy takes longer than one step of the pod.
        for n in 0..300 {
            fs::write(at.join(format!("between-{n}")), "x").unwrap();
        }
        pod.run(&at, "while :; do i=$((i + 1)); echo $i >> a-first; echo $i >> z-second; done");
        wait_until("the pod does not write", || at.join("z-second").exists());
        for round in 0..5 {
            let snapshot = node.capture(&format!("snap-{round}"), "v").await.unwrap();
            assert!(!pod.is_frozen(), "{fs_type}");
            let frozen = Duration::from_micros(snapshot.frozen_micros.unwrap());
            assert!(frozen < Duration::from_secs(5), "{frozen:?}");
            let restored = node.restored(&snapshot.stack);
            let read = |name: &str| fs::read_to_string(restored.path().join(name)).unwrap();
            let (first, second) = (read("a-first"), read("z-second"));
            assert!(first.starts_with(&second), "{fs_type}: no prefix");
            assert!(first.lines().count() <= second.lines().count() + 1, "{fs_type}: two moments");
            assert_eq!(first.lines().count().to_string(), first.lines().last().unwrap());
        }
        let before = fs::metadata(at.join("z-second")).unwrap().len();
        wait_until("the pod does not run again", || {
            fs::metadata(at.join("z-second")).unwrap().len() > before
        });
        node.assert_nothing_unfinished(fs_type);
        let text = node.metrics.text().unwrap();
        assert!(text.contains("ovl_captures_total{result=\"frozen\"} 5"), "{text}");
    }
}

/// docs/hazards.md, 24: a pod whose volume cannot be copied in time is thawed, and the capture fails or is live.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, makes cgroups"]
async fn privileged_a_pod_is_never_frozen_beyond_the_deadline() {
    let node = node().await;
    let at = node.publish("v", |_| {}).await;
    let mut pod = PodGroup::of(&node.uid);
    pod.run(&at, "while :; do date > clock; done");
    wait_until("the pod does not write", || at.join("clock").exists());
    let consistency = |or_live| Consistency::Frozen { within: Duration::ZERO, or_live };
    let request = CaptureRequest { consistency: consistency(false), ..node.request("snap-1", "v") };
    let error = node.snapshots.capture(request).await.unwrap_err();
    assert!(matches!(error, CaptureError::FreezeTimeout { .. }), "{error}");
    assert_eq!(error.class(), Class::Precondition);
    for part in ["default/one", "freezeTimeout", "thawed"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    wait_until("the pod is still frozen", || !pod.is_frozen());
    node.assert_nothing_unfinished("late");
    assert!(node.store.snapshots.get(&"snap-1".parse().unwrap()).is_none());
    let request = CaptureRequest { consistency: consistency(true), ..node.request("snap-1", "v") };
    let snapshot = node.snapshots.capture(request).await.unwrap();
    assert_eq!(snapshot.frozen_micros, None);
    let live = CaptureRequest { consistency: Consistency::Live, ..node.request("snap-2", "v") };
    assert_eq!(node.snapshots.capture(live).await.unwrap().frozen_micros, None);
    assert!(!pod.is_frozen());
    node.assert_nothing_unfinished("live");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_concurrent_calls_make_one_snapshot() {
    let node = node().await;
    let at = node.publish("v", |_| {}).await;
    node.publish("w", |_| {}).await;
    fs::write(at.join("new"), "x").unwrap();
    let calls = (0..8).map(|_| node.capture("snap-1", "v"));
    let mut made = Vec::new();
    for result in futures::future::join_all(calls).await {
        match result {
            Ok(record) => made.push(record),
            Err(error) => assert_eq!(error.class(), Class::Busy, "{error}"),
        }
    }
    assert!(!made.is_empty());
    made.dedup();
    assert_eq!(made.len(), 1);
    // Captures of the same volume wait for each other.
    let names: Vec<_> = (2..9).map(|n| format!("snap-{n}")).collect();
    let captures =
        futures::future::join_all(names.iter().map(|name| node.capture(name, "v"))).await;
    for result in captures {
        assert_eq!(result.unwrap().own_layers, 1);
    }
    let error = node.capture("snap-1", "w").await.unwrap_err();
    assert_eq!(error.class(), Class::Conflict, "{error}");
    assert!(node.snapshots.delete(&"snap-1".parse().unwrap()).unwrap());
    assert!(!node.snapshots.delete(&"snap-1".parse().unwrap()).unwrap());
    node.capture("snap-1", "w").await.unwrap();
    node.assert_nothing_unfinished("done");
}

/// docs/hazards.md, 2: a copy that did not reach the disk is no snapshot.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a file system on a loop device"]
async fn privileged_a_disk_that_fails_makes_the_capture_fail() {
    let scratch = TestDir::new();
    let at = scratch.dir("node");
    let disk = Disk::new(&scratch, "xfs", &at);
    let node = Node::new(scratch, &at).await;
    let at = node.publish("v", |spec| spec.options.volatile = true).await;
    fs::write(at.join("new"), vec![1; 1 << 20]).unwrap();
    let guard = node.volumes.guard(&node.volume("v"), Some(&node.pod())).unwrap();
    disk.cut_power();
    let error = node
        .snapshots
        .0
        .capture_now(guard, &node.request("snap-1", "v"), &CancellationToken::new())
        .unwrap_err();
    assert_eq!(error.class(), Class::Internal, "{error}");
    node.capture("snap-1", "v").await.unwrap_err();
    assert!(node.store.snapshots.get(&"snap-1".parse().unwrap()).is_none());
}

/// docs/hazards.md, 17: a capture leaves the configured free space to other pods.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a tmpfs"]
async fn privileged_a_capture_without_space_fails_cleanly_and_leaves_space_to_other_pods() {
    let scratch = TestDir::new();
    let at = scratch.dir("node");
    let disk = Request {
        fs_type: "tmpfs",
        source: "ovl-test".to_owned(),
        params: vec![Param::Text("size", "60m".to_owned())],
        attrs: Attrs::default(),
    };
    LinuxMounts.attach(LinuxMounts.create(&disk).unwrap(), &at).unwrap();
    let limits = DiskLimits { min_free: 5, ..DiskLimits::default() };
    let node = Node::with_limits(limits, scratch, &at).await;
    let volume = node.publish("v", |_| {}).await;
    fs::write(volume.join("big"), vec![1; 32 << 20]).unwrap();
    let (done, least) = (CancellationToken::new(), Arc::new(AtomicU64::new(u64::MAX)));
    let (stop, minimum, root) = (done.clone(), least.clone(), at.clone());
    let monitor = std::thread::spawn(move || {
        while !stop.is_cancelled() {
            minimum.fetch_min(statfs::of(&root).unwrap().available, Relaxed);
        }
    });
    let error = node.capture("snap-1", "v").await.unwrap_err();
    done.cancel();
    monitor.join().unwrap();
    assert!(matches!(error, CaptureError::NoSpace { .. }), "{error}");
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    for part in [node.store.root().to_str().unwrap(), "not enough free space", "must stay free"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(least.load(Relaxed) < 20 << 20, "nothing was copied");
    assert!(least.load(Relaxed) >= 3 << 20, "{least:?} bytes were left to others");
    node.assert_nothing_unfinished("full");
    fs::write(volume.join("big"), "small").unwrap();
    node.capture("snap-1", "v").await.unwrap();
}

/// A capture that kills the driver each time, for example for lack of memory, would freeze the pod at each attempt.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_capture_that_killed_the_driver_three_times_is_not_started_again() {
    let node = node().await;
    node.publish("v", |_| {}).await;
    let starts = node.store.starts().join("snap-1");
    fs::write(&starts, "||").unwrap();
    // The third start, which ends.
    node.capture("snap-1", "v").await.unwrap();
    assert!(!starts.exists());
    assert!(node.snapshots.delete(&"snap-1".parse().unwrap()).unwrap());
    fs::write(&starts, "|||").unwrap();
    let error = node.capture("snap-1", "v").await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    for part in ["killed 3 times", "`resources.limits.memory`"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    node.assert_nothing_unfinished("killed");
}

/// docs/hazards.md, 46: earlier writes of the pod are on the disk before the freeze, and the lower layers do not
/// matter.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a file system on a loop device, makes cgroups"]
async fn privileged_a_freeze_lasts_only_as_long_as_the_copy_of_late_changes() {
    let scratch = TestDir::new();
    let at = scratch.dir("node");
    let _disk = Disk::new(&scratch, "xfs", &at);
    let node = Node::new(scratch, &at).await;
    let at = node.publish("v", |_| {}).await;
    let mut pod = PodGroup::of(&node.uid);
    for n in 0..1_000 {
        fs::write(at.join(format!("f{n}")), vec![7; 100 << 10]).unwrap();
    }
    pod.run(&at, "while :; do date > clock; sleep 0.01; done");
    let snapshot = node.capture("snap-1", "v").await.unwrap();
    let frozen = Duration::from_micros(snapshot.frozen_micros.unwrap());
    assert!(frozen < Duration::from_millis(100), "{frozen:?}");
}

#[test]
fn an_unreadable_freeze_record_keeps_no_node_from_serving() {
    let scratch = TestDir::new();
    let records = scratch.dir("frozen");
    scratch.file("frozen/snap-1.json", "not a record");
    scratch.dir("group");
    let group = scratch.path().join("group");
    for (file, text) in [("cgroup.freeze", "1\n"), ("cgroup.events", "frozen 1\n")] {
        scratch.file(&format!("group/{file}"), text);
    }
    let record = serde_json::json!({ "groups": [{ "path": group, "version": "v2" }] });
    scratch.file("frozen/snap-2.json", record.to_string());
    scratch.file("frozen/.ovl-tmp.1.1", "half");
    freeze::thaw_all(&records).unwrap();
    assert_eq!(fs::read_to_string(group.join("cgroup.freeze")).unwrap(), "0\n");
    assert!(records.join("snap-1.json").exists() && !records.join("snap-2.json").exists());
}

/// Of two captures of one pod, the second waits until the first has thawed it.
#[test]
fn a_pod_is_frozen_by_one_capture_at_a_time() {
    let all = freeze::Freezes::default();
    let turn = all.turn("a", &|| true).unwrap();
    drop(all.turn("b", &|| true).unwrap());
    let other = all.clone();
    let waiting = std::thread::spawn(move || other.turn("a", &|| true).is_some());
    sleep(Duration::from_millis(30));
    assert!(!waiting.is_finished());
    drop(turn);
    assert!(waiting.join().unwrap());
    let _turn = all.turn("a", &|| true).unwrap();
    assert!(all.turn("a", &|| false).is_none(), "it waits although its volume is unpublished");
    let other = all.clone();
    let waiting = std::thread::spawn(move || other.turn("a", &|| true).is_none());
    all.close();
    assert!(waiting.join().unwrap() && all.turn("b", &|| true).is_none());
}

#[test]
fn a_frozen_pod_is_thawed_when_this_process_ends() {
    let scratch = TestDir::new();
    let (records, group) = (scratch.dir("frozen"), scratch.dir("group"));
    for (file, text) in [("cgroup.freeze", "0\n"), ("cgroup.events", "frozen 1\n")] {
        scratch.file(&format!("group/{file}"), text);
    }
    let groups: Vec<crate::sys::freezer::Group> =
        serde_json::from_value(serde_json::json!([{ "path": group, "version": "v2" }])).unwrap();
    let state = || fs::read_to_string(group.join("cgroup.freeze")).unwrap()[..1].to_owned();
    let (all, id) = (freeze::Freezes::default(), "snap-1".parse().unwrap());
    let (first, late) = (all.turn("a", &|| true).unwrap(), all.turn("b", &|| true).unwrap());
    let freeze =
        first.freeze(&records, &id, groups.clone(), Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((state().as_str(), records.join("snap-1.json").exists()), ("1", true));
    all.abort_all();
    assert_eq!(state(), "0");
    // The copy does not show one moment.
    assert!(!freeze.end().unwrap().complete);
    assert!(late.freeze(&records, &id, groups, Duration::from_secs(60)).unwrap().is_none());
    assert_eq!((state().as_str(), records.join("snap-1.json").exists()), ("0", false));
    freeze::thaw_all(&scratch.path().join("none")).unwrap();
}

#[test]
fn a_tree_of_too_many_entries_is_a_failed_precondition() {
    let (id, volume) = ("snap-1".parse().unwrap(), "v".parse().unwrap());
    let source = crate::sys::clone::CloneError::TooMany(4_000_000);
    let error = CaptureError::Copy { id, volume, source };
    assert_eq!(error.class(), Class::Precondition);
    assert!(error.to_string().contains("more than 4000000 files"), "{error}");
}

/// Captures two volumes of one pod at the same time: each snapshot shows one moment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, makes cgroups"]
async fn privileged_two_volumes_of_a_pod_are_captured_at_once() {
    let node = node().await;
    let at = [node.publish("v", |_| {}).await, node.publish("w", |_| {}).await];
    let mut pod = PodGroup::of(&node.uid);
    for at in &at {
        for n in 0..300 {
            fs::write(at.join(format!("between-{n}")), "x").unwrap();
        }
        pod.run(at, "while :; do i=$((i + 1)); echo $i >> a-first; echo $i >> z-second; done");
        wait_until("the pod does not write", || at.join("z-second").exists());
    }
    for round in 0..5 {
        let ids = ["v", "w"].map(|name| (format!("snap-{name}-{round}"), name));
        let captures = ids.iter().map(|(id, name)| node.capture(id, name));
        for result in futures::future::join_all(captures).await {
            let snapshot = result.unwrap();
            assert!(snapshot.frozen_micros.is_some());
            let restored = node.restored(&snapshot.stack);
            let read = |name: &str| fs::read_to_string(restored.path().join(name)).unwrap();
            let (first, second) = (read("a-first"), read("z-second"));
            assert!(first.starts_with(&second), "no prefix");
            assert!(first.lines().count() <= second.lines().count() + 1, "two moments");
        }
        assert!(!pod.is_frozen());
    }
    node.assert_nothing_unfinished("both");
}

/// A pod whose processes run in a virtual machine has a cgroup without processes, and continues to write.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, makes cgroups"]
async fn privileged_a_pod_whose_processes_run_elsewhere_does_not_count_as_frozen() {
    let node = node().await;
    let at = node.publish("v", |_| {}).await;
    fs::write(at.join("new"), "x").unwrap();
    let pod = PodGroup::of(&node.uid);
    let error = node.capture("snap-1", "v").await.unwrap_err();
    assert!(matches!(error, CaptureError::Freeze { .. }), "{error}");
    for part in ["virtual machine", "consistency: live", &node.uid] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let or_live = Consistency::Frozen { within: Duration::from_secs(5), or_live: true };
    let request = CaptureRequest { consistency: or_live, ..node.request("snap-1", "v") };
    let snapshot = node.snapshots.capture(request).await.unwrap();
    assert_eq!((snapshot.frozen_micros, snapshot.ended), (None, false));
    // The cgroup of a pod that has ended is removed a moment later.
    let ending = node.capture("snap-2", "v");
    let removal = tokio::task::spawn_blocking(move || {
        sleep(Duration::from_millis(300));
        drop(pod);
    });
    let (result, removed) = tokio::join!(ending, removal);
    removed.unwrap();
    assert!(result.unwrap().ended);
}

/// The deletion of a pod or of a snapshot does not wait for a copy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_copy_ends_when_its_volume_is_unpublished_or_it_is_cancelled() {
    let node = node().await;
    let at = node.publish("v", |_| {}).await;
    for n in 0..20_000 {
        fs::write(at.join(format!("f{n}")), "x").unwrap();
    }
    let start = |id| {
        let (snapshots, request) = (node.snapshots.clone(), node.request(id, "v"));
        let task = tokio::spawn(async move { snapshots.capture(request).await });
        wait_until("no copy starts", || !node.names("staging").is_empty());
        task
    };
    start("snap-1").abort();
    wait_until("the copy does not stop", || node.names("staging").is_empty());
    assert!(node.store.snapshots.get(&"snap-1".parse().unwrap()).is_none());

    let task = start("snap-2");
    let target = node.target("v").try_into().unwrap();
    let mut tries = 0;
    while node.volumes.unpublish(&node.volume("v"), &target).await.is_err() {
        tries += 1;
        assert!(tries < 100, "unpublish waits for the copy");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, CaptureError::Unpublishing { .. }), "{error}");
    assert_eq!(error.class(), Class::Busy);
    // Unpublish returns before the upper is removed.
    wait_until("staging is not emptied", || node.names("staging").is_empty());
    node.assert_nothing_unfinished("gone");
}

/// With `index: on`, the other hard links of a changed file lead to the change through overlay's index, which a copy of
/// the upper does not have.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_no_snapshot_shows_old_content_under_another_hard_link_of_a_changed_file() {
    let node = node().await;
    let at = node.publish("v", |spec| spec.options.index = true).await;
    node.capture("snap-0", "v").await.unwrap();
    fs::write(at.join("linked/one"), "new").unwrap();
    assert_eq!(describe(&at.join("linked/two")), "644 new", "there is no index");
    let error = node.capture("snap-1", "v").await.unwrap_err();
    assert!(matches!(error, CaptureError::StaleHardLinks { files: 1, .. }), "{error}");
    assert_eq!(error.class(), Class::Precondition);
    assert!(error.to_string().contains("find . -links +1 -exec touch -c {} +"), "{error}");
    node.assert_nothing_unfinished("stale hard links");
    // Runs the command of the error message.
    let find = ["-links", "+1", "-exec", "touch", "-c", "{}", "+"];
    assert!(std::process::Command::new("find").arg(&at).args(find).status().unwrap().success());
    let snapshot = node.capture("snap-1", "v").await.unwrap();
    let restored = node.restored(&snapshot.stack);
    for name in ["one", "two", "three"] {
        assert_eq!(describe(&restored.path().join("linked").join(name)), "644 new", "{name}");
    }
    fs::remove_file(at.join("linked/three")).unwrap();
    node.capture("snap-2", "v").await.unwrap();
}

/// A request for another pod's volume freezes no pod.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_the_volume_of_another_pod_is_not_copied() {
    let node = node().await;
    node.publish("v", |_| {}).await;
    let pod = Pod { uid: uid_of(0, 0).parse().unwrap(), ..node.pod() };
    let request = CaptureRequest { pod: Some(pod), ..node.request("snap-1", "v") };
    let error = node.snapshots.capture(request).await.unwrap_err();
    assert!(
        matches!(error, CaptureError::Guard { source: GuardError::Foreign { .. }, .. }),
        "{error}"
    );
    assert_eq!(error.class(), Class::Denied);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_the_volume_of_an_ended_pod_is_captured_without_a_freeze() {
    let node = node().await;
    let at = node.publish("v", |_| {}).await;
    let mut log = OpenOptions::new().create(true).append(true).open(at.join("log")).unwrap();
    log.write_all(b"the last word\n").unwrap();
    drop(log);
    let snapshot = node.capture("snap-1", "v").await.unwrap();
    assert_eq!((snapshot.frozen_micros, snapshot.ended), (None, true));
    let restored = node.restored(&snapshot.stack);
    assert_eq!(describe(&restored.path().join("log")), "644 the last word");
    let text = node.metrics.text().unwrap();
    assert!(text.contains("ovl_captures_total{result=\"not_frozen\"} 1"), "{text}");
    assert!(Path::new(&node.root).exists());
}
