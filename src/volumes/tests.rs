//! The life of a volume against the in-memory twin of the kernel: every state, every failing step, every restart.

#![allow(
    clippy::disallowed_methods,
    reason = "the twin mounts nothing that a recursive delete could reach"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;

use super::{fake_snapshot_lookup::FakeSnapshots, *};
use crate::{
    error::Class,
    image::{Hosts, Registries},
    sys::{
        Errno,
        mounts::{Attrs, Call, FakeMounts, Mounts, Request},
    },
};

/// A node: a store, a kubelet's directory with one pod in it, a kernel, and what the pod was told.
pub(super) struct Node {
    pub(super) dir: TempDir,
    pub(super) kernel: FakeMounts,
    pub(super) volumes: Volumes,
    pub(super) known: Arc<FakeSnapshots>,
    told: Arc<Told>,
}

/// The reasons of what pods were told.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Vec<PodEvent>>);

impl EventRecorder for Told {
    fn record(&self, _: &Pod, notice: PodEvent) {
        self.0.lock().unwrap().push(notice);
    }
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(nowhere())
    }

    pub(super) fn with(registries: Registries) -> Self {
        Self::with_settings(registries, |_| {})
    }

    pub(super) fn with_settings(
        registries: Registries,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::at_pace(registries, change, PullTimeouts::default())
    }

    pub(super) fn at_pace(
        registries: Registries,
        change: impl FnOnce(&mut Settings),
        pace: PullTimeouts,
    ) -> Self {
        let (dir, kernel) = (TempDir::new().unwrap(), FakeMounts::default());
        fs::create_dir_all(dir.path().join("kubelet/pods/pod-1/volumes")).unwrap();
        let (told, known) = (Arc::default(), Arc::default());
        let volumes = open(dir.path(), &kernel, registries, (&told, &known), change, pace);
        Self { dir, kernel, volumes, known, told }
    }

    /// The process ends and another one starts on what it left.
    pub(super) fn restarted(self) -> Self {
        let Self { dir, kernel, volumes, .. } = self;
        drop(volumes);
        let (told, known) = (Arc::default(), Arc::default());
        let (registries, pace) = (nowhere(), PullTimeouts::default());
        let volumes = open(dir.path(), &kernel, registries, (&told, &known), |_| {}, pace);
        volumes.recover(Duration::ZERO).unwrap();
        Self { dir, kernel, volumes, known, told }
    }

    /// The reasons of what pods were told since the process began.
    pub(super) fn told(&self) -> Vec<&'static str> {
        self.told.0.lock().unwrap().iter().map(|notice| notice.reason).collect()
    }

    /// The machine goes down and comes up: nothing is mounted, and the records are of another boot.
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

    /// Waits until what was unpublished is removed.
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

/// Waits until what was unpublished is removed.
pub(super) fn wait_for_removal(volumes: &Volumes) {
    for _ in 0..1_000 {
        if volumes.0.removal.is_idle() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("what was unpublished is not removed after ten seconds");
}

/// For volumes without images.
fn nowhere() -> Registries {
    Registries::new(Hosts::default()).unwrap()
}

fn open(
    dir: &Path,
    kernel: &FakeMounts,
    registries: Registries,
    (told, known): (&Arc<Told>, &Arc<FakeSnapshots>),
    change: impl FnOnce(&mut Settings),
    pace: PullTimeouts,
) -> Volumes {
    let kernel: Arc<dyn Mounts> = Arc::new(kernel.clone());
    let store = Arc::new(Store::open(&dir.join("store"), kernel.clone()).unwrap());
    let mut settings = Settings::new(dir.join("kubelet"));
    change(&mut settings);
    let parts = Parts {
        notices: told.clone(),
        snapshots: known.clone(),
        ..Parts::new(store, registries, kernel, Features::lacking([]))
    };
    Volumes::open_at(parts, settings, pace).unwrap()
}

#[tokio::test]
async fn a_volume_comes_and_goes() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(node.mounted(), [node.target("t").as_path()]);
    assert!(node.records().read(&"a".parse().unwrap()).unwrap().is_some());
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
    node.wait_for_removal();
    assert_eq!(fs::read_dir(node.dir.path().join("store/staging")).unwrap().count(), 0);
}

/// Something is mounted in it, or its disk says no: nobody asks for it again, so the minute's round has to.
#[tokio::test]
async fn what_could_not_be_removed_goes_in_a_later_round() {
    let node = Node::new();
    let staging = node.dir.path().join("store/staging");
    // A file where a directory has to be fails the removal, as a mount in the tree would.
    let (blocked, tree) = (staging.join("77"), staging.join("77/tree"));
    fs::write(&blocked, "").unwrap();
    let gone = background_removal::Gone {
        tree: Some(tree.clone()),
        ..background_removal::Gone::default()
    };
    node.volumes.0.removal.take(gone);
    node.wait_for_removal();
    fs::remove_file(&blocked).unwrap();
    fs::create_dir_all(tree.join("deep")).unwrap();
    node.volumes.recover(Duration::from_secs(60)).unwrap();
    node.wait_for_removal();
    assert!(!tree.exists());
}

/// A driver is upgraded while pods run.
#[tokio::test]
async fn a_volume_of_a_version_that_kept_records_in_files_lives_on() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "one")).await.unwrap();
    let id = "a".parse().unwrap();
    let was_attribute = node.records().keep_as_file(&id);
    assert!(
        was_attribute
            || durable::note::Journal::of(&node.volume("a")) == durable::note::Journal::Unknown
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
async fn the_same_volume_asked_for_differently_is_a_conflict() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let error = node.volumes.publish(node.volatile("a", "t")).await.unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    assert!(error.to_string().contains("volatile"), "{error}");
    assert_eq!(node.mounted().len(), 1, "what was there stays");
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

/// HAZARDS: overlay falls back to read-only without a word.
#[tokio::test]
async fn an_overlay_that_came_up_read_only_is_refused() {
    let node = Node::new();
    node.kernel.come_up_read_only(true);
    assert!(node.volumes.publish(node.request("a", "t")).await.is_err());
    node.assert_nothing_left();
}

#[tokio::test]
async fn unpublish_of_nothing_is_fine_and_twice_is_once() {
    let node = Node::new();
    node.unpublish("never-seen", "t").await.unwrap();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    node.unpublish("a", "t").await.unwrap();
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_busy_mount_keeps_its_volume_until_it_can_go() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    node.kernel.fail(Call::Unmount, 1, Errno::EBUSY);
    assert!(node.unpublish("a", "t").await.is_err());
    assert_eq!(node.mounted().len(), 1);
    assert_eq!(node.recorded(), ["a"]);
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

/// HAZARDS: a recursive delete of a target once ate a user's data.
#[tokio::test]
async fn what_lies_in_a_target_is_not_deleted() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let precious = node.target("t").as_path().join("precious");
    fs::write(&precious, "data").unwrap(); // the twin mounts nothing over the directory
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
async fn something_else_at_the_target_is_not_taken_for_ours() {
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
async fn only_the_kubelets_directory_is_touched() {
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
async fn a_call_during_another_is_told_to_come_again() {
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
async fn a_restart_keeps_what_is_mounted() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let node = node.restarted();
    assert_eq!(node.mounted().len(), 1);
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(node.mounted().len(), 1, "the kubelet asks again after its own restart");
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_restart_removes_what_was_half_made() {
    let node = Node::new();
    fs::create_dir_all(node.volume("half").join("upper/deep")).unwrap();
    let node = node.restarted();
    node.assert_nothing_left();
}

/// Without podInfoOnMount a pod's author may write who the pod is; the directory of its uid is the kubelet's to make.
#[tokio::test]
async fn a_pod_that_says_it_is_another_is_refused() {
    let node = Node::new();
    let mut request = node.request("a", "t");
    request.pod.uid = "pod-2".parse().unwrap();
    let error = node.volumes.publish(request).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("is not of pod pod-2, which the request names"), "{error}");
    node.assert_nothing_left();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
}

#[tokio::test]
async fn a_restart_removes_volumes_of_pods_that_are_gone() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let node = node.rebooted();
    assert_eq!(node.recorded(), ["a"], "the pod is there still: the kubelet will ask again");
    fs::remove_dir_all(node.dir.path().join("kubelet/pods/pod-1")).unwrap();
    let node = node.restarted();
    assert_eq!(node.recorded(), Vec::<String>::new());
}

#[tokio::test]
async fn a_mounted_volume_outlives_its_pods_directory() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let elsewhere = node.dir.path().join("elsewhere");
    fs::rename(node.dir.path().join("kubelet/pods/pod-1"), elsewhere).unwrap();
    let node = node.restarted();
    assert_eq!(node.recorded(), ["a"]);
}

#[tokio::test]
async fn a_plain_volume_keeps_its_data_over_a_reboot() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    fs::write(node.volume("a").join("upper/data"), "kept").unwrap();
    let node = node.rebooted();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(fs::read(node.volume("a").join("upper/data")).unwrap(), b"kept");
}

/// HAZARDS: the kernel's own mark of a volatile overlay does not survive a power cut; our record does.
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
async fn a_record_nobody_can_read_stops_its_own_volume_only() {
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
async fn a_hundred_at_once_are_a_hundred() {
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
async fn unpublish_of_one_volume_leaves_another_alone() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let error = node.unpublish("other", "t").await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    assert_eq!(node.mounted().len(), 1);
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_second_target_that_fails_is_forgotten() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t1")).await.unwrap();
    node.kernel.fail(Call::Attach, 1, Errno::ENOMEM);
    assert!(node.volumes.publish(node.request("a", "t2")).await.is_err());
    node.unpublish("a", "t1").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn what_is_mounted_within_a_volume_is_never_deleted_through() {
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
async fn a_lost_record_does_not_cost_a_mounted_upper() {
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
async fn a_kubelets_directory_that_cannot_be_read_removes_nothing() {
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
async fn a_pod_that_is_gone_has_some_grace() {
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

/// The kubelet asks again for a volume that is there, and the mount table of a full node is long.
#[tokio::test]
async fn a_volume_that_is_there_costs_no_look_at_the_mount_table() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    let read = node.kernel.tables_read();
    node.volumes.publish(node.request("a", "t")).await.unwrap();
    assert_eq!(node.kernel.tables_read(), read);
    node.unpublish("a", "t").await.unwrap();
    assert_eq!(node.kernel.tables_read(), read + 1, "whether anything else is mounted from it");
}

/// Two releases on one node, or a store beside one that was moved away.
#[tokio::test]
async fn volumes_of_one_id_in_two_stores_do_not_block_each_other() {
    let (one, other) = (Node::new(), Node::new());
    let kernel = one.kernel.clone();
    let (told, known) = (Arc::default(), Arc::default());
    let dir = other.dir;
    drop(other.volumes);
    let (registries, pace) = (nowhere(), PullTimeouts::default());
    let volumes = open(dir.path(), &kernel, registries, (&told, &known), |_| {}, pace);
    let other = Node { dir, kernel, volumes, known, told };
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

/// A read-only volume that the former version mounted shows its id and nothing else.
#[tokio::test]
async fn a_mount_that_an_earlier_version_named_is_known() {
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
