//! Tests with directories that look like cgroups, and with cgroups.

use std::{
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::*;
use crate::sys::test_dir::TestDir;

const UID: &str = "0b6f5f0e-1111-2222-3333-444455556666";
const OTHER: &str = "ffffffff-1111-2222-3333-444455556666";

fn freezer(scratch: &TestDir) -> Freezer {
    Freezer::new(scratch.dir("cgroup"), scratch.dir("proc"))
}

/// The v1 and v2 names of cgroupfs and systemd at any depth, and names that belong to another pod.
#[test]
fn a_pod_is_found_under_each_name_of_its_cgroup() {
    let slice = UID.replace('-', "_");
    for (marker, dir) in [
        ("cgroup.controllers", format!("kubepods/besteffort/pod{UID}")),
        ("cgroup.controllers", format!("kubepods/pod{UID}")),
        ("cgroup.controllers", format!("kubepods.slice/kubepods-pod{slice}.slice")),
        (
            "cgroup.controllers",
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{slice}.slice"
            ),
        ),
        ("freezer/cgroup.procs", format!("freezer/kubepods/burstable/pod{UID}")),
        (
            "freezer/cgroup.procs",
            format!("freezer/docker/0123/kubelet/kubepods/besteffort/pod{UID}"),
        ),
        ("unified/cgroup.controllers", format!("unified/a/kubepods-pod{slice}.slice")),
    ] {
        let scratch = TestDir::new();
        let freezer = freezer(&scratch);
        let path = scratch.dir(&format!("cgroup/{dir}"));
        scratch.file(&format!("cgroup/{marker}"), "");
        scratch.dir("cgroup/freezer/elsewhere");
        let version = if marker.starts_with("freezer") { Version::V1 } else { Version::V2 };
        assert_eq!(freezer.find(UID).unwrap(), [Group { path, version }], "{dir}");
        assert_eq!(freezer.find(OTHER).unwrap(), [], "{dir}");
        assert_eq!(freezer.find(&UID[1..]).unwrap(), [], "{dir}");
    }
}

#[test]
fn cgroups_that_another_pod_made_are_ignored() {
    let scratch = TestDir::new();
    let freezer = freezer(&scratch);
    scratch.file("cgroup/cgroup.controllers", "");
    scratch.dir(&format!("cgroup/kubepods/pod{OTHER}/pod{UID}"));
    let slice = OTHER.replace('-', "_");
    scratch.dir(&format!("cgroup/kubepods.slice/kubepods-pod{slice}.slice/pod{UID}"));
    assert_eq!(freezer.find(UID).unwrap(), []);
}

#[test]
fn a_running_pod_whose_cgroup_is_not_found_is_an_error() {
    let scratch = TestDir::new();
    let freezer = freezer(&scratch);
    let error = freezer.find(UID).unwrap_err();
    assert!(error.to_string().contains("no cgroups"), "{error}");
    scratch.file("cgroup/cgroup.controllers", "");
    scratch.dir("proc/7");
    scratch.dir("proc/self");
    scratch.file("proc/7/cgroup", "0::/init.scope\n");
    assert_eq!(freezer.find(UID).unwrap(), []);
    scratch.file("proc/7/cgroup", format!("0::/elsewhere/pod{UID}/container\n"));
    let error = freezer.find(UID).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("process 7"), "{error}");
}

/// Makes a directory that looks like a v2 cgroup.
fn v2(scratch: &TestDir) -> Group {
    let path = scratch.dir("group");
    scratch.file("group/cgroup.freeze", "0\n");
    scratch.file("group/cgroup.events", "populated 1\nfrozen 0\n");
    Group { path, version: Version::V2 }
}

/// The kernel reports an empty cgroup as frozen.
#[test]
fn a_cgroup_is_populated_by_processes_in_it_or_beneath_it() {
    let scratch = TestDir::new();
    let group = v2(&scratch);
    assert!(group.is_populated().unwrap());
    scratch.file("group/cgroup.events", "populated 0\nfrozen 1\n");
    assert!(!group.is_populated().unwrap());
    let group = Group { version: Version::V1, ..group };
    scratch.dir("group/container");
    scratch.file("group/cgroup.procs", "");
    scratch.file("group/container/cgroup.procs", "");
    assert!(!group.is_populated().unwrap());
    scratch.file("group/container/cgroup.procs", "7\n");
    assert!(group.is_populated().unwrap());
    let missing = Group { path: scratch.path().join("missing"), version: Version::V1 };
    assert!(!missing.is_populated().unwrap());
}

fn freeze(groups: &[Group], within: Duration) -> io::Result<Frozen> {
    let frozen = Frozen::new(groups, within)?;
    frozen.freeze().map(|()| frozen)
}

fn freeze_requested(scratch: &TestDir) -> String {
    fs::read_to_string(scratch.path().join("group/cgroup.freeze")).unwrap()[..1].to_owned()
}

#[test]
fn processes_are_thawed_on_drop() {
    let scratch = TestDir::new();
    let group = v2(&scratch);
    scratch.file("group/cgroup.events", "populated 1\nfrozen 1\n");
    let frozen = freeze(std::slice::from_ref(&group), Duration::from_secs(60)).unwrap();
    assert_eq!(freeze_requested(&scratch), "1");
    drop(frozen);
    assert_eq!(freeze_requested(&scratch), "0");
    let frozen = freeze(&[group], Duration::from_secs(60)).unwrap();
    let outcome = frozen.thaw().unwrap();
    assert!(outcome.complete && outcome.duration < Duration::from_secs(60), "{outcome:?}");
    assert!(frozen.thaw().unwrap().complete);
}

/// docs/hazards.md, 24.
#[test]
fn processes_are_thawed_at_the_deadline() {
    let scratch = TestDir::new();
    let group = v2(&scratch);
    // A process cannot be frozen.
    let error = freeze(std::slice::from_ref(&group), Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(freeze_requested(&scratch), "0");
    // The caller that froze it is stuck.
    scratch.file("group/cgroup.events", "frozen 1\n");
    let frozen = freeze(&[group], Duration::from_millis(20)).unwrap();
    while freeze_requested(&scratch) == "1" {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(frozen.is_late());
    assert!(!frozen.thaw().unwrap().complete);
}

#[test]
fn a_cgroup_frozen_by_others_stays_frozen_and_a_missing_one_counts_as_frozen() {
    let scratch = TestDir::new();
    let group = v2(&scratch);
    scratch.file("group/cgroup.freeze", "1\n");
    scratch.file("group/cgroup.events", "frozen 1\n");
    let frozen = freeze(&[group], Duration::from_secs(60)).unwrap();
    assert!(frozen.thaw().unwrap().complete);
    drop(frozen);
    assert_eq!(freeze_requested(&scratch), "1");
    for version in [Version::V1, Version::V2] {
        let missing = Group { path: scratch.path().join("missing"), version };
        drop(freeze(std::slice::from_ref(&missing), Duration::from_secs(60)).unwrap());
        missing.thaw().unwrap();
    }
}

/// Another program that froze it may be slow, and may thaw it at any time.
#[test]
fn a_cgroup_frozen_by_others_must_stay_frozen_to_the_end() {
    let scratch = TestDir::new();
    let group = [v2(&scratch)];
    scratch.file("group/cgroup.freeze", "1\n");
    let error = freeze(&group, Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(freeze_requested(&scratch), "1");
    for (file, text) in [("cgroup.freeze", "0\n"), ("cgroup.events", "frozen 0\n")] {
        scratch.file("group/cgroup.freeze", "1\n");
        scratch.file("group/cgroup.events", "frozen 1\n");
        let frozen = freeze(&group, Duration::from_secs(60)).unwrap();
        scratch.file(&format!("group/{file}"), text);
        let outcome = frozen.thaw().unwrap();
        assert!(outcome.thawed_by_others && !outcome.complete, "{file}: {outcome:?}");
        assert!(!frozen.thaw().unwrap().complete, "{file}");
    }
}

#[test]
fn a_freeze_that_is_given_up_stays_thawed() {
    let scratch = TestDir::new();
    let group = [v2(&scratch)];
    scratch.file("group/cgroup.events", "frozen 1\n");
    let frozen = freeze(&group, Duration::from_secs(60)).unwrap();
    frozen.abort().unwrap();
    assert_eq!(freeze_requested(&scratch), "0");
    assert_eq!(frozen.freeze().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(freeze_requested(&scratch), "0");
    assert!(!frozen.thaw().unwrap().complete);
}

/// A process in its own cgroup that counts in a file.
struct Counting {
    child: Child,
    group: PathBuf,
    count: PathBuf,
}

impl Counting {
    fn new(scratch: &TestDir, group: PathBuf) -> Self {
        fs::create_dir_all(&group).unwrap();
        let count = scratch.path().join("count");
        let script = "while :; do i=$((i + 1)); echo $i > \"$0\"; done";
        let child = Command::new("sh").args(["-c", script]).arg(&count).spawn().unwrap();
        let counting = Self { child, group, count };
        fs::write(counting.group.join("cgroup.procs"), counting.child.id().to_string()).unwrap();
        counting
    }

    fn count(&self) -> String {
        fs::read_to_string(&self.count).unwrap_or_default()
    }

    fn is_running(&self) -> bool {
        let before = self.count();
        (0..500).any(|_| {
            thread::sleep(Duration::from_millis(1));
            !["", &before].contains(&&*self.count())
        })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut dir = &*self.group;
        // Each cgroup that this test made. The kernel may need a moment.
        while dir.to_string_lossy().contains("ovl-test-") {
            let removed = AtomicBool::new(false);
            (0..200).any(|_| {
                removed.store(fs::remove_dir(dir).is_ok() || !dir.exists(), Relaxed);
                thread::sleep(Duration::from_millis(if removed.load(Relaxed) { 0 } else { 5 }));
                removed.load(Relaxed)
            });
            dir = dir.parent().unwrap();
        }
    }
}

/// With the cgroup versions that this machine has.
#[test]
#[ignore = "needs root: makes cgroups"]
fn privileged_a_process_is_frozen_and_thawed() {
    let root = Path::new("/sys/fs/cgroup");
    let freezer = Freezer::new(root.to_owned(), "/proc".into());
    let hierarchies = freezer.hierarchies();
    assert!(!hierarchies.is_empty(), "this machine has no cgroups");
    for (number, (hierarchy, version)) in hierarchies.into_iter().enumerate() {
        let scratch = TestDir::new();
        let uid = format!("{:08x}-1111-2222-3333-{number:012x}", std::process::id());
        let group = hierarchy.join(format!("ovl-test-{uid}/kubepods/besteffort/pod{uid}"));
        let counting = Counting::new(&scratch, group.clone());
        let groups = freezer.find(&uid).unwrap();
        assert_eq!(groups, [Group { path: group, version }]);
        assert!(counting.is_running(), "{version:?}");
        let frozen = freeze(&groups, Duration::from_secs(60)).unwrap();
        let before = counting.count();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(counting.count(), before, "{version:?}");
        frozen.thaw().unwrap();
        assert!(counting.is_running(), "{version:?}");
        let late = freeze(&groups, Duration::from_millis(200)).unwrap();
        thread::sleep(Duration::from_millis(250));
        assert!(counting.is_running(), "{version:?}: the watchdog did not thaw it");
        assert!(!late.thaw().unwrap().complete);
    }
}
