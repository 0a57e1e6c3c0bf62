//! Directories that look like cgroups, and cgroups.

use std::{
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::*;
use crate::sys::scratch::Scratch;

const UID: &str = "0b6f5f0e-1111-2222-3333-444455556666";
const OTHER: &str = "ffffffff-1111-2222-3333-444455556666";

fn freezer(scratch: &Scratch) -> Freezer {
    Freezer::new(scratch.dir("cgroup"), scratch.dir("proc"))
}

/// The v1 and v2 names of cgroupfs and systemd, at any depth, and what must not be taken for one.
#[test]
fn a_pod_is_found_whatever_its_cgroup_is_called() {
    let slice = UID.replace('-', "_");
    for (mark, dir) in [
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
        let scratch = Scratch::new();
        let freezer = freezer(&scratch);
        let path = scratch.dir(&format!("cgroup/{dir}"));
        scratch.file(&format!("cgroup/{mark}"), "");
        scratch.dir("cgroup/freezer/elsewhere");
        let version = if mark.starts_with("freezer") { Version::V1 } else { Version::V2 };
        assert_eq!(freezer.find(UID).unwrap(), [Group { path, version }], "{dir}");
        assert_eq!(freezer.find(OTHER).unwrap(), [], "{dir}");
        assert_eq!(freezer.find(&UID[1..]).unwrap(), [], "{dir}");
    }
}

#[test]
fn what_a_pod_calls_its_own_cgroups_is_not_believed() {
    let scratch = Scratch::new();
    let freezer = freezer(&scratch);
    scratch.file("cgroup/cgroup.controllers", "");
    scratch.dir(&format!("cgroup/kubepods/pod{OTHER}/pod{UID}"));
    let slice = OTHER.replace('-', "_");
    scratch.dir(&format!("cgroup/kubepods.slice/kubepods-pod{slice}.slice/pod{UID}"));
    assert_eq!(freezer.find(UID).unwrap(), []);
}

#[test]
fn a_pod_that_runs_and_is_not_found_is_no_pod_that_has_ended() {
    let scratch = Scratch::new();
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

/// A directory that looks like a v2 cgroup.
fn v2(scratch: &Scratch) -> Group {
    let path = scratch.dir("group");
    scratch.file("group/cgroup.freeze", "0\n");
    scratch.file("group/cgroup.events", "populated 1\nfrozen 0\n");
    Group { path, version: Version::V2 }
}

/// The kernel takes a cgroup that is empty for one that stands still.
#[test]
fn a_cgroup_is_populated_by_processes_in_it_or_beneath_it() {
    let scratch = Scratch::new();
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
    let gone = Group { path: scratch.path().join("gone"), version: Version::V1 };
    assert!(!gone.is_populated().unwrap());
}

fn freeze(groups: &[Group], within: Duration) -> io::Result<Frozen> {
    let frozen = Frozen::new(groups, within)?;
    frozen.hold().map(|()| frozen)
}

fn told(scratch: &Scratch) -> String {
    fs::read_to_string(scratch.path().join("group/cgroup.freeze")).unwrap()[..1].to_owned()
}

#[test]
fn everybody_goes_on_when_it_is_dropped() {
    let scratch = Scratch::new();
    let group = v2(&scratch);
    scratch.file("group/cgroup.events", "populated 1\nfrozen 1\n");
    let frozen = freeze(std::slice::from_ref(&group), Duration::from_secs(60)).unwrap();
    assert_eq!(told(&scratch), "1");
    drop(frozen);
    assert_eq!(told(&scratch), "0");
    let frozen = freeze(&[group], Duration::from_secs(60)).unwrap();
    let stood = frozen.thaw().unwrap();
    assert!(stood.to_the_end && stood.time < Duration::from_secs(60), "{stood:?}");
    assert!(frozen.thaw().unwrap().to_the_end);
}

/// HAZARDS 24.
#[test]
fn nobody_stands_still_beyond_the_deadline() {
    let scratch = Scratch::new();
    let group = v2(&scratch);
    // Somebody cannot be stopped.
    let error = freeze(std::slice::from_ref(&group), Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(told(&scratch), "0");
    // Whoever froze is stuck elsewhere.
    scratch.file("group/cgroup.events", "frozen 1\n");
    let frozen = freeze(&[group], Duration::from_millis(20)).unwrap();
    while told(&scratch) == "1" {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(frozen.is_late());
    assert!(!frozen.thaw().unwrap().to_the_end);
}

#[test]
fn what_others_froze_is_theirs_and_what_is_gone_stands_still() {
    let scratch = Scratch::new();
    let group = v2(&scratch);
    scratch.file("group/cgroup.freeze", "1\n");
    scratch.file("group/cgroup.events", "frozen 1\n");
    let frozen = freeze(&[group], Duration::from_secs(60)).unwrap();
    assert!(frozen.thaw().unwrap().to_the_end);
    drop(frozen);
    assert_eq!(told(&scratch), "1");
    for version in [Version::V1, Version::V2] {
        let gone = Group { path: scratch.path().join("gone"), version };
        drop(freeze(std::slice::from_ref(&gone), Duration::from_secs(60)).unwrap());
        gone.thaw().unwrap();
    }
}

/// Whoever froze it may be slow, and lets it go on when they like.
#[test]
fn what_others_froze_must_stand_still_from_begin_to_end() {
    let scratch = Scratch::new();
    let group = [v2(&scratch)];
    scratch.file("group/cgroup.freeze", "1\n");
    let error = freeze(&group, Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(told(&scratch), "1");
    for (file, text) in [("cgroup.freeze", "0\n"), ("cgroup.events", "frozen 0\n")] {
        scratch.file("group/cgroup.freeze", "1\n");
        scratch.file("group/cgroup.events", "frozen 1\n");
        let frozen = freeze(&group, Duration::from_secs(60)).unwrap();
        scratch.file(&format!("group/{file}"), text);
        let stood = frozen.thaw().unwrap();
        assert!(stood.let_go && !stood.to_the_end, "{file}: {stood:?}");
        assert!(!frozen.thaw().unwrap().to_the_end, "{file}");
    }
}

#[test]
fn what_is_given_up_stands_still_no_more_whatever_its_holder_does() {
    let scratch = Scratch::new();
    let group = [v2(&scratch)];
    scratch.file("group/cgroup.events", "frozen 1\n");
    let frozen = freeze(&group, Duration::from_secs(60)).unwrap();
    frozen.give_up().unwrap();
    assert_eq!(told(&scratch), "0");
    assert_eq!(frozen.hold().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(told(&scratch), "0");
    assert!(!frozen.thaw().unwrap().to_the_end);
}

/// A process that counts into a file, in a cgroup of its own.
struct Counting {
    child: Child,
    group: PathBuf,
    count: PathBuf,
}

impl Counting {
    fn new(scratch: &Scratch, group: PathBuf) -> Self {
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

    fn goes_on(&self) -> bool {
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
        // Down to the one that this test made; the kernel may take a moment.
        while dir.to_string_lossy().contains("ovl-test-") {
            let gone = AtomicBool::new(false);
            (0..200).any(|_| {
                gone.store(fs::remove_dir(dir).is_ok() || !dir.exists(), Relaxed);
                thread::sleep(Duration::from_millis(if gone.load(Relaxed) { 0 } else { 5 }));
                gone.load(Relaxed)
            });
            dir = dir.parent().unwrap();
        }
    }
}

/// In whichever of the kernel's two ways this machine has.
#[test]
#[ignore = "needs root: makes cgroups"]
fn privileged_a_process_stands_still_and_goes_on() {
    let root = Path::new("/sys/fs/cgroup");
    let freezer = Freezer::new(root.to_owned(), "/proc".into());
    let tops = freezer.tops();
    assert!(!tops.is_empty(), "this machine has no cgroups");
    for (number, (top, version)) in tops.into_iter().enumerate() {
        let scratch = Scratch::new();
        let uid = format!("{:08x}-1111-2222-3333-{number:012x}", std::process::id());
        let group = top.join(format!("ovl-test-{uid}/kubepods/besteffort/pod{uid}"));
        let counting = Counting::new(&scratch, group.clone());
        let groups = freezer.find(&uid).unwrap();
        assert_eq!(groups, [Group { path: group, version }]);
        assert!(counting.goes_on(), "{version:?}");
        let frozen = freeze(&groups, Duration::from_secs(60)).unwrap();
        let before = counting.count();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(counting.count(), before, "{version:?}");
        frozen.thaw().unwrap();
        assert!(counting.goes_on(), "{version:?}");
        let late = freeze(&groups, Duration::from_millis(200)).unwrap();
        thread::sleep(Duration::from_millis(250));
        assert!(counting.goes_on(), "{version:?}: the watchdog slept");
        assert!(!late.thaw().unwrap().to_the_end);
    }
}
