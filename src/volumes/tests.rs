//! Tests of the lifecycle of a volume with the in-memory fake of the kernel: every state, every failing step, every
//! restart.

#![allow(
    clippy::disallowed_methods,
    reason = "the fake mounts nothing that a recursive delete could reach"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;

use super::{fake_snapshot_lookup::FakeSnapshots, pull_jobs::PullTimeouts, records::Records, *};
use crate::{
    error::Class,
    image::{Hosts, Keyring, PullPolicy, Registries},
    layers::Store,
    overlay::KernelFeatures,
    sys::{
        Errno, durable,
        mounts::{Attrs, Call, FakeMounts, Mounts, Request},
    },
};

/// A node: a store, a kubelet's directory with one pod in it, a kernel, and the Events of the pod.
pub(super) struct Node {
    pub(super) dir: TempDir,
    pub(super) kernel: FakeMounts,
    pub(super) volumes: Volumes,
    pub(super) snapshots: Arc<FakeSnapshots>,
    events: Arc<RecordedEvents>,
}

/// Records the Events of pods.
#[derive(Debug, Default)]
pub(super) struct RecordedEvents(Mutex<Vec<PodEvent>>);

impl EventRecorder for RecordedEvents {
    fn record(&self, _: &Pod, event: PodEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(no_registries())
    }

    pub(super) fn with(registries: Registries) -> Self {
        Self::with_settings(registries, |_| {})
    }

    pub(super) fn with_settings(
        registries: Registries,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::with_timeouts(registries, change, PullTimeouts::default())
    }

    pub(super) fn with_timeouts(
        registries: Registries,
        change: impl FnOnce(&mut Settings),
        timeouts: PullTimeouts,
    ) -> Self {
        let (dir, kernel) = (TempDir::new().unwrap(), FakeMounts::default());
        fs::create_dir_all(dir.path().join("kubelet/pods/pod-1/volumes")).unwrap();
        let (events, snapshots) = (Arc::default(), Arc::default());
        let volumes =
            open(dir.path(), &kernel, registries, (&events, &snapshots), change, timeouts);
        Self { dir, kernel, volumes, snapshots, events }
    }

    /// Restarts the driver: the process ends, and a new one opens the same store.
    pub(super) fn restarted(self) -> Self {
        let Self { dir, kernel, volumes, .. } = self;
        drop(volumes);
        let (events, snapshots) = (Arc::default(), Arc::default());
        let (registries, timeouts) = (no_registries(), PullTimeouts::default());
        let volumes =
            open(dir.path(), &kernel, registries, (&events, &snapshots), |_| {}, timeouts);
        volumes.recover(Duration::ZERO).unwrap();
        Self { dir, kernel, volumes, snapshots, events }
    }

    /// The reasons of the Events of pods since the process started.
    pub(super) fn events(&self) -> Vec<&'static str> {
        self.events.0.lock().unwrap().iter().map(|event| event.reason).collect()
    }

    /// Reboots the machine: nothing is mounted, and the records have another boot id.
    pub(super) fn rebooted(mut self) -> Self {
        for id in self.recorded() {
            self.records().change(&id.parse().unwrap(), |record| {
                let boot = durable::boot_id().unwrap();
                assert!(record.contains(&boot));
                record.replace(&boot, "another boot")
            });
        }
        self.kernel = FakeMounts::default();
        self.restarted()
    }

    pub(super) fn target(&self, name: &str) -> Target {
        self.dir.path().join("kubelet/pods/pod-1/volumes").join(name).try_into().unwrap()
    }

    pub(super) fn volume(&self, id: &str) -> PathBuf {
        self.dir.path().join("store/volumes").join(id)
    }

    pub(super) fn records(&self) -> &Records {
        &self.volumes.0.records
    }

    /// Waits until unpublished volumes are removed.
    pub(super) fn wait_for_removal(&self) {
        wait_for_removal(&self.volumes);
    }

    pub(super) fn recorded(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir.path().join("store/volumes"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(super) fn mounted(&self) -> Vec<PathBuf> {
        self.kernel.table().unwrap().into_iter().map(|mount| mount.target).collect()
    }

    pub(super) fn request(&self, id: &str, target: &str) -> PublishRequest {
        PublishRequest {
            id: id.parse().unwrap(),
            target: self.target(target),
            pod: Pod {
                namespace: "default".to_owned(),
                name: "one".to_owned(),
                uid: "pod-1".parse().unwrap(),
            },
            spec: VolumeSpec::default(),
            keyring: Keyring::default(),
            deadline: None,
        }
    }

    fn volatile(&self, id: &str, target: &str) -> PublishRequest {
        let mut request = self.request(id, target);
        request.spec.options.volatile = true;
        request.spec.written = ["volatile".to_owned()].into();
        request
    }

    pub(super) async fn unpublish(&self, id: &str, target: &str) -> Result<(), UnpublishError> {
        self.volumes.unpublish(&id.parse().unwrap(), &self.target(target)).await
    }

    pub(super) fn assert_nothing_left(&self) {
        assert_eq!(self.mounted(), Vec::<PathBuf>::new(), "mounts are left");
        assert_eq!(self.recorded(), Vec::<String>::new(), "volumes are left");
        let targets = fs::read_dir(self.dir.path().join("kubelet/pods/pod-1/volumes")).unwrap();
        assert_eq!(targets.count(), 0, "targets are left");
    }
}

/// Waits until unpublished volumes are removed.
pub(super) fn wait_for_removal(volumes: &Volumes) {
    for _ in 0..1_000 {
        if volumes.0.removal.is_idle() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("an unpublished volume is not removed after ten seconds");
}

/// Registries for volumes without images.
fn no_registries() -> Registries {
    Registries::new(Hosts::default()).unwrap()
}

fn open(
    dir: &Path,
    kernel: &FakeMounts,
    registries: Registries,
    (events, snapshots): (&Arc<RecordedEvents>, &Arc<FakeSnapshots>),
    change: impl FnOnce(&mut Settings),
    timeouts: PullTimeouts,
) -> Volumes {
    let kernel: Arc<dyn Mounts> = Arc::new(kernel.clone());
    let store = Arc::new(Store::open(&dir.join("store"), kernel.clone()).unwrap());
    let mut settings = Settings::new(dir.join("kubelet"));
    change(&mut settings);
    let parts = Parts {
        events: events.clone(),
        snapshots: snapshots.clone(),
        ..Parts::new(store, registries, kernel, KernelFeatures::lacking([]))
    };
    Volumes::open_at(parts, settings, timeouts).unwrap()
}

#[tokio::test]
async fn a_volume_is_published_and_unpublished() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(node.mounted(), [node.target("t").as_path()]);
    assert!(node.records().read(&"a".parse().unwrap()).unwrap().is_some());
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
    node.wait_for_removal();
    assert_eq!(fs::read_dir(node.dir.path().join("store/staging")).unwrap().count(), 0);
}

/// A removal can fail because of a mount in the volume or an error of its disk. No call repeats it, so the round of
/// each minute has to.
#[tokio::test]
async fn a_failed_removal_is_repeated_in_a_later_round() {
    let node = Node::new();
    let staging = node.dir.path().join("store/staging");
    // A file in the place of a directory makes the removal fail, as a mount in the tree would.
    let (blocked, tree) = (staging.join("77"), staging.join("77/tree"));
    fs::write(&blocked, "").unwrap();
    let gone = background_removal::RemovedVolume {
        tree: Some(tree.clone()),
        ..background_removal::RemovedVolume::default()
    };
    node.volumes.0.removal.remove(gone);
    node.wait_for_removal();
    fs::remove_file(&blocked).unwrap();
    fs::create_dir_all(tree.join("deep")).unwrap();
    node.volumes.recover(Duration::from_secs(60)).unwrap();
    node.wait_for_removal();
    assert!(!tree.exists());
}

/// A driver is upgraded while pods run.
#[tokio::test]
async fn a_volume_whose_record_is_in_a_file_still_works() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "one")).await.unwrap();
    let id = "a".parse().unwrap();
    let was_attribute = node.records().keep_as_file(&id);
    assert!(
        was_attribute
            || durable::xattr_text::Journal::of(&node.volume("a"))
                == durable::xattr_text::Journal::Unknown
    );
    fs::write(node.volume("a").join("upper/data"), "mine").unwrap();

    let node = node.restarted();
    let mounted = node.mounted();
    node.volumes.publish(node.request("a", "one")).await.unwrap();
    assert_eq!(node.mounted(), mounted, "it was mounted again");
    node.volumes.publish(node.request("a", "two")).await.unwrap();
    assert_eq!(node.records().read(&id).unwrap().unwrap().targets.len(), 2);
    assert!(node.volume("a").join("upper/data").exists());

    let node = node.restarted();
    for target in ["one", "two"] {
        node.unpublish("a", target).await.unwrap();
    }
    node.assert_nothing_left();
}

#[tokio::test]
async fn the_same_request_again_mounts_nothing() {
    let node = Node::new();
    for _ in 0..3 {
        node.volumes.publish(node.request("a", "t")).await.unwrap();
    }
    assert_eq!(node.mounted().len(), 1);
}

#[tokio::test]
async fn a_different_request_for_the_same_volume_is_a_conflict() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let error = node.volumes.publish(node.volatile("a", "t")).await.unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    assert!(error.to_string().contains("volatile"), "{error}");
    assert_eq!(node.mounted().len(), 1, "the first mount stays");
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing() {
    for (call, nth) in [(Call::Create, 1), (Call::Create, 2), (Call::Attach, 1)] {
        let node = Node::new();
        node.kernel.fail(call, nth, Errno::ENOSPC);
        let error = node.volumes.publish(node.request("a", "t")).await.unwrap_err();
        assert_eq!(error.class(), Class::Exhausted, "{error}");
        node.assert_nothing_left();
        node.volumes.publish(node.request("a", "t")).await.unwrap();
    }
}

/// docs/hazards.md, 3: overlay becomes read-only without an error.
#[tokio::test]
async fn an_overlay_that_was_mounted_read_only_is_refused() {
    let node = Node::new();
    node.kernel.make_read_only(true);
    assert!(node.volumes.publish(node.request("a", "t")).await.is_err());
    node.assert_nothing_left();
}

#[tokio::test]
async fn unpublish_can_be_repeated_and_succeeds_for_an_unknown_volume() {
    let node = Node::new();
    node.unpublish("never-seen", "t").await.unwrap();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    node.unpublish("a", "t").await.unwrap();
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_busy_mount_keeps_its_volume_until_it_can_be_unmounted() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    node.kernel.fail(Call::Unmount, 1, Errno::EBUSY);
    assert!(node.unpublish("a", "t").await.is_err());
    assert_eq!(node.mounted().len(), 1);
    assert_eq!(node.recorded(), ["a"]);
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

/// docs/hazards.md, 18: a recursive delete of a target once deleted a user's data.
#[tokio::test]
async fn files_in_a_target_are_not_deleted() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let precious = node.target("t").as_path().join("precious");
    fs::write(&precious, "data").unwrap(); // the fake mounts nothing over the directory
    let error = node.unpublish("a", "t").await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    assert_eq!(fs::read(&precious).unwrap(), b"data");
}

#[tokio::test]
async fn a_target_that_is_a_symlink_is_neither_followed_nor_removed() {
    let node = Node::new();
    let outside = node.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, node.target("t").as_path()).unwrap();
    assert!(node.volumes.publish(node.request("a", "t")).await.is_err());
    assert!(node.unpublish("a", "t").await.is_err());
    assert!(outside.is_dir());
    assert_eq!(node.mounted(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_second_target_shows_the_same_volume() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t1")).await.unwrap();
    node.volumes.publish(node.request("a", "t2")).await.unwrap();
    assert_eq!(node.mounted().len(), 2);
    node.unpublish("a", "t1").await.unwrap();
    assert_eq!(node.mounted(), [node.target("t2").as_path()]);
    assert_eq!(node.recorded(), ["a"]);
    node.unpublish("a", "t2").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_foreign_mount_at_the_target_is_refused_and_kept() {
    let node = Node::new();
    fs::create_dir(node.target("t").as_path()).unwrap();
    let tmpfs = Request {
        fs_type: "tmpfs",
        source: "foreign".to_owned(),
        params: Vec::new(),
        attrs: Attrs::default(),
    };
    node.kernel.attach(node.kernel.create(&tmpfs).unwrap(), node.target("t").as_path()).unwrap();
    let error = node.volumes.publish(node.request("a", "t")).await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    assert_eq!(node.mounted().len(), 1, "the foreign mount stays: {error}");
}

#[tokio::test]
async fn only_targets_beneath_the_kubelets_directory_are_accepted() {
    let node = Node::new();
    for path in ["/etc", "/var/lib", node.dir.path().join("kubelet").to_str().unwrap()] {
        let target: Target = path.parse().unwrap();
        let mut request = node.request("a", "t");
        request.target = target.clone();
        let error = node.volumes.publish(request).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{error}");
        let error = node.volumes.unpublish(&"a".parse().unwrap(), &target).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{error}");
    }
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_call_during_another_is_refused_as_busy() {
    let node = Node::new();
    let lock = node.volumes.0.locks.try_lock(&"a".parse().unwrap()).unwrap();
    let error = node.volumes.publish(node.request("a", "t")).await.unwrap_err();
    assert_eq!(error.class(), Class::Busy);
    assert_eq!(node.unpublish("a", "t").await.unwrap_err().class(), Class::Busy);
    drop(lock);
    node.volumes.publish(node.request("a", "t")).await.unwrap();
}

#[tokio::test]
async fn an_image_that_may_not_be_pulled_leaves_nothing() {
    let node = Node::new();
    let mut request = node.request("a", "t");
    request.spec.images = vec!["registry.invalid/x:1".parse().unwrap()];
    request.spec.pull_policy = Some(PullPolicy::Never);
    let error = node.volumes.publish(request).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.to_string().contains("registry.invalid/x:1"), "{error}");
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_restart_keeps_mounted_volumes() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let node = node.restarted();
    assert_eq!(node.mounted().len(), 1);
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(node.mounted().len(), 1, "the kubelet publishes again after its own restart");
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_restart_removes_incomplete_volumes() {
    let node = Node::new();
    fs::create_dir_all(node.volume("half").join("upper/deep")).unwrap();
    let node = node.restarted();
    node.assert_nothing_left();
}

/// Without podInfoOnMount the pod's author may write the identity of the pod. Only the kubelet makes the directory of
/// a pod's uid.
#[tokio::test]
async fn a_request_with_the_identity_of_another_pod_is_refused() {
    let node = Node::new();
    let mut request = node.request("a", "t");
    request.pod.uid = "pod-2".parse().unwrap();
    let error = node.volumes.publish(request).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert!(
        error.to_string().contains("does not belong to pod pod-2, which the request names"),
        "{error}"
    );
    node.assert_nothing_left();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
}

#[tokio::test]
async fn a_restart_removes_volumes_of_pods_that_are_gone() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let node = node.rebooted();
    assert_eq!(node.recorded(), ["a"], "the pod still exists: the kubelet will publish again");
    fs::remove_dir_all(node.dir.path().join("kubelet/pods/pod-1")).unwrap();
    let node = node.restarted();
    assert_eq!(node.recorded(), Vec::<String>::new());
}

#[tokio::test]
async fn a_mounted_volume_is_kept_without_its_pods_directory() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let elsewhere = node.dir.path().join("elsewhere");
    fs::rename(node.dir.path().join("kubelet/pods/pod-1"), elsewhere).unwrap();
    let node = node.restarted();
    assert_eq!(node.recorded(), ["a"]);
}

#[tokio::test]
async fn a_plain_volume_keeps_its_data_across_a_reboot() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    fs::write(node.volume("a").join("upper/data"), "kept").unwrap();
    let node = node.rebooted();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(fs::read(node.volume("a").join("upper/data")).unwrap(), b"kept");
}

/// docs/hazards.md, 1: the kernel's own marker of a volatile overlay does not survive a power cut. The driver's
/// record does.
#[tokio::test]
async fn a_volatile_volume_is_empty_after_a_reboot() {
    for marker_survived in [true, false] {
        let node = Node::new();
        node.volumes.publish(node.volatile("a", "t")).await.unwrap();
        fs::write(node.volume("a").join("upper/data"), "torn").unwrap();
        if !marker_survived {
            fs::remove_dir_all(node.volume("a").join("work/work/incompat")).unwrap();
        }
        let node = node.rebooted();
        node.volumes.publish(node.volatile("a", "t")).await.unwrap();
        assert!(!node.volume("a").join("upper/data").exists());
        assert_eq!(node.mounted().len(), 1);
    }
}

#[tokio::test]
async fn a_volatile_volume_keeps_its_data_within_a_boot() {
    let node = Node::new();
    node.volumes.publish(node.volatile("a", "t")).await.unwrap();
    fs::write(node.volume("a").join("upper/data"), "kept").unwrap();
    node.kernel.unmount(node.target("t").as_path()).unwrap(); // as when the node's container restarts
    let node = node.restarted();
    node.volumes.publish(node.volatile("a", "t")).await.unwrap();
    assert_eq!(fs::read(node.volume("a").join("upper/data")).unwrap(), b"kept");
}

#[tokio::test]
async fn an_unreadable_record_stops_only_its_own_volume() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    for garbage in ["", "{", r#"{"format":99}"#] {
        fs::write(node.volume("a").join("record.json"), garbage).unwrap();
        let error = node.volumes.publish(node.request("a", "t")).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
    }
    let node = node.restarted();
    node.volumes.publish(node.request("b", "t2")).await.unwrap();
    node.unpublish("b", "t2").await.unwrap();
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_hundred_volumes_are_published_at_once() {
    let node = Node::new();
    let all = (0..100).map(|n| {
        let request = node.request(&format!("v{n}"), &format!("t{n}"));
        node.volumes.publish(request)
    });
    for done in futures::future::join_all(all).await {
        done.unwrap();
    }
    assert_eq!(node.mounted().len(), 100);
    let names: Vec<_> = (0..100).map(|n| (format!("v{n}"), format!("t{n}"))).collect();
    let all = names.iter().map(|(id, target)| node.unpublish(id, target));
    for done in futures::future::join_all(all).await {
        done.unwrap();
    }
    node.assert_nothing_left();
}

#[tokio::test]
async fn unpublish_with_the_target_of_another_volume_is_refused() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let error = node.unpublish("other", "t").await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    assert_eq!(node.mounted().len(), 1);
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_second_target_that_fails_is_not_recorded() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t1")).await.unwrap();
    node.kernel.fail(Call::Attach, 1, Errno::ENOMEM);
    assert!(node.volumes.publish(node.request("a", "t2")).await.is_err());
    node.unpublish("a", "t1").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_removal_never_crosses_a_mount_in_a_volume() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let within = node.volume("a").join("upper/within");
    fs::create_dir(&within).unwrap();
    let tmpfs = Request {
        fs_type: "tmpfs",
        source: "foreign".to_owned(),
        params: Vec::new(),
        attrs: Attrs::default(),
    };
    node.kernel.attach(node.kernel.create(&tmpfs).unwrap(), &within).unwrap();
    let error = node.unpublish("a", "t").await.unwrap_err();
    assert!(error.to_string().contains(within.to_str().unwrap()), "{error}");
    assert!(within.is_dir());
    node.kernel.unmount(&within).unwrap();
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_mounted_upper_is_kept_when_its_record_is_lost() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    fs::write(node.volume("a").join("upper/data"), "kept").unwrap();
    node.records().lose(&"a".parse().unwrap());
    assert!(node.volumes.publish(node.request("a", "t")).await.is_err());
    assert_eq!(fs::read(node.volume("a").join("upper/data")).unwrap(), b"kept");
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn an_unreadable_kubelet_directory_removes_nothing() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let node = node.rebooted();
    let pods = node.dir.path().join("kubelet/pods");
    fs::rename(&pods, node.dir.path().join("elsewhere")).unwrap();
    let node = node.restarted();
    assert_eq!(node.recorded(), ["a"], "no pods at all");
    std::os::unix::fs::symlink(&pods, &pods).unwrap();
    let node = node.restarted();
    assert_eq!(node.recorded(), ["a"], "a loop");
}

#[tokio::test]
async fn the_volume_of_a_deleted_pod_has_a_grace_period() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let node = node.rebooted();
    fs::remove_dir_all(node.dir.path().join("kubelet/pods/pod-1")).unwrap();
    node.volumes.recover(Duration::from_secs(3_600)).unwrap();
    node.volumes.recover(Duration::from_secs(3_600)).unwrap();
    assert_eq!(node.recorded(), ["a"]);
    node.volumes.recover(Duration::ZERO).unwrap();
    assert_eq!(node.recorded(), Vec::<String>::new());
}

/// The kubelet repeats the publish of a mounted volume, and the mount table of a full node is long.
#[tokio::test]
async fn publish_of_a_mounted_volume_does_not_read_the_mount_table() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let read = node.kernel.tables_read();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(node.kernel.tables_read(), read);
    node.unpublish("a", "t").await.unwrap();
    assert_eq!(node.kernel.tables_read(), read + 1, "one read, for other mounts of the volume");
}

/// Two releases of the chart on one node, or a new store next to one that was moved away.
#[tokio::test]
async fn volumes_of_one_id_in_two_stores_do_not_block_each_other() {
    let (one, other) = (Node::new(), Node::new());
    let kernel = one.kernel.clone();
    let (events, snapshots) = (Arc::default(), Arc::default());
    let dir = other.dir;
    drop(other.volumes);
    let (registries, timeouts) = (no_registries(), PullTimeouts::default());
    let volumes = open(dir.path(), &kernel, registries, (&events, &snapshots), |_| {}, timeouts);
    let other = Node { dir, kernel, volumes, snapshots, events };
    for read_only in [true, false] {
        let request = |node: &Node| {
            let mut request = node.request("a", "t");
            request.spec.read_only = read_only;
            request
        };
        one.volumes.publish(request(&one)).await.unwrap();
        other.volumes.publish(request(&other)).await.unwrap();
        assert_eq!(one.mounted().len(), 2);
        one.unpublish("a", "t").await.unwrap();
        assert_eq!(one.mounted(), [other.target("t").as_path()]);
        assert!(one.recorded().is_empty() && other.recorded() == ["a"]);
        other.unpublish("a", "t").await.unwrap();
        other.assert_nothing_left();
    }
}

/// The mount source of a read-only volume of the previous version is its id only.
#[tokio::test]
async fn a_mount_that_an_earlier_version_named_is_recognized() {
    let node = Node::new();
    let mut request = node.request("a", "t");
    request.spec.read_only = true;
    node.volumes.publish(request.clone()).await.unwrap();
    let target = node.target("t");
    let mut overlay = node.kernel.table().unwrap().pop().unwrap();
    overlay.source = "ovl-csi:a".into();
    node.kernel.unmount(target.as_path()).unwrap();
    node.kernel.put(overlay);
    node.volumes.publish(request).await.unwrap();
    assert_eq!(node.mounted().len(), 1);
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}
