//! A test node with real mounts and real cgroups, on a disk of its own if a test needs one.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::sleep,
    time::Duration,
};

use super::*;
use crate::{
    image::fake::FakeRegistry,
    layers::{DiskLimits, LayerKey, SnapshotRecord, StoreLock, StoreSettings},
    overlay::{KernelFeatures, Options, Plan, Spec, Stack, UpperAndWork},
    sys::{
        durable,
        mounts::{Detached, LinuxMounts, Mounts as _},
        test_dir::TestDir,
    },
    volumes::{Parts as VolumeParts, Pod, PublishRequest, Settings, VolumeId, VolumeSpec},
};

pub(super) const IMAGE: &str = "base";

/// A new pod uid. Each pod of a test run needs its own, because all tests share the cgroups of the machine.
fn uid() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    uid_of(std::process::id(), NEXT.fetch_add(1, Relaxed))
}

pub(super) fn uid_of(process: u32, number: usize) -> String {
    format!("{process:08x}-1111-2222-3333-{number:012x}")
}

/// A node on this machine. Its drop unmounts all volumes that a failed test left mounted.
pub(super) struct Node {
    pub(super) root: PathBuf,
    pub(super) registry: FakeRegistry,
    pub(super) store: Arc<Store>,
    pub(super) volumes: Volumes,
    pub(super) snapshots: Snapshots,
    pub(super) metrics: Metrics,
    pub(super) uid: String,
    pub(super) scratch: TestDir,
}

impl Node {
    /// A node whose store is in the directory `at` of `scratch`.
    pub(super) async fn new(scratch: TestDir, at: &Path) -> Self {
        Self::with_limits(DiskLimits::default(), scratch, at).await
    }

    /// The same, with limits for its use of the disk.
    pub(super) async fn with_limits(limits: DiskLimits, scratch: TestDir, at: &Path) -> Self {
        let (registry, uid) = (FakeRegistry::start().await, uid());
        registry.push_image(IMAGE, "1", &[base()], true);
        let root = at.to_owned();
        scratch.dir(&format!("kubelet/pods/{uid}"));
        let metrics = Metrics::default();
        let (store, volumes, snapshots) =
            open_with_limits(limits, &scratch.path().join("kubelet"), &root, &registry, &metrics);
        Self { root, registry, store, volumes, snapshots, metrics, uid, scratch }
    }

    /// The id of a volume. It has the pod's uid, because mounts are named by it and other tests have mounts too.
    pub(super) fn volume(&self, name: &str) -> VolumeId {
        volume(name, &self.uid)
    }

    pub(super) fn target(&self, name: &str) -> PathBuf {
        self.scratch.path().join("kubelet/pods").join(&self.uid).join(name)
    }

    /// Publishes a volume of the base image.
    pub(super) async fn publish(
        &self,
        name: &str,
        change: impl FnOnce(&mut VolumeSpec),
    ) -> PathBuf {
        let mut spec = VolumeSpec {
            images: vec![self.registry.reference(IMAGE, "1")],
            ..VolumeSpec::default()
        };
        spec.options = Options { metacopy: true, redirect_dir: true, ..Options::default() };
        change(&mut spec);
        let request = PublishRequest {
            id: self.volume(name),
            target: self.target(name).try_into().unwrap(),
            pod: self.pod(),
            spec,
            keyring: crate::image::Keyring::default(),
            deadline: None,
        };
        self.volumes.publish(request).await.unwrap();
        self.target(name)
    }

    pub(super) async fn unpublish(&self, name: &str) {
        let target = self.target(name).try_into().unwrap();
        self.volumes.unpublish(&self.volume(name), &target).await.unwrap();
    }

    pub(super) async fn capture(
        &self,
        id: &str,
        volume: &str,
    ) -> Result<SnapshotRecord, CaptureError> {
        self.snapshots.capture(self.request(id, volume)).await
    }

    pub(super) fn request(&self, id: &str, volume: &str) -> CaptureRequest {
        request(id, self.volume(volume), &self.uid)
    }

    pub(super) fn pod(&self) -> Pod {
        pod(&self.uid)
    }

    /// A writable mount of a stack, as a pod that is started from it has.
    pub(super) fn restored(&self, stack: &[LayerKey]) -> Detached {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let at = self.root.join(format!("restored-{}", NEXT.fetch_add(1, Relaxed)));
        let [upper, work] = ["upper", "work"].map(|name| at.join(name));
        for dir in [&upper, &work] {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).unwrap();
        }
        let lowers = stack.iter().map(|key| crate::overlay::Lower {
            id: key.to_string(),
            dir: self.store.layers.lower(key).unwrap().tree,
            mapped: true,
            needs: crate::overlay::RequiredFeatures::default(),
        });
        let plan = Plan::new(Spec {
            name: "restored".to_owned(),
            stack: Stack::new(lowers.collect()).unwrap(),
            upper: Some(UpperAndWork::new(upper, work)),
            owner: None,
            options: Options { metacopy: true, redirect_dir: true, ..Options::default() },
        });
        crate::overlay::mount(&LinuxMounts, &plan.unwrap()).unwrap()
    }

    pub(super) fn names(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.store.root().join(part)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Asserts that no staged layer and no record of a freeze is left.
    pub(super) fn assert_nothing_unfinished(&self, why: &str) {
        for part in ["staging", "frozen"] {
            assert_eq!(self.names(part), Vec::<String>::new(), "{why}: {part}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mount in LinuxMounts.table().unwrap_or_default().into_iter().rev() {
            if mount.target.starts_with(self.scratch.path().join("kubelet")) {
                let _ = LinuxMounts.unmount(&mount.target);
            }
        }
    }
}

/// A pod's cgroup with processes of this test. The drop kills them and removes the cgroup.
pub(super) struct PodGroup {
    path: PathBuf,
    test: PathBuf,
    children: Vec<Child>,
}

impl PodGroup {
    /// The cgroup of the pod with this uid, at the path that a container runtime uses.
    pub(super) fn of(uid: &str) -> Self {
        let top = Path::new("/sys/fs/cgroup");
        let top = match top.join("freezer/cgroup.procs").exists() {
            true => top.join("freezer"),
            false => top.to_owned(),
        };
        let test = top.join(format!("ovl-test-{uid}"));
        let path = test.join(format!("kubepods/besteffort/pod{uid}"));
        fs::create_dir_all(&path).unwrap();
        Self { path, test, children: Vec::new() }
    }

    /// Runs a shell script in a directory, as a container of the pod does.
    pub(super) fn run(&mut self, dir: &Path, script: &str) {
        // The shell enters the cgroup first.
        let script = format!("echo $$ > '{}/cgroup.procs' && {script}", self.path.display());
        let child = Command::new("sh").args(["-c", &script]).current_dir(dir).spawn().unwrap();
        self.children.push(child);
    }

    pub(super) fn is_frozen(&self) -> bool {
        let read = |file: &str| fs::read_to_string(self.path.join(file)).unwrap_or_default();
        read("freezer.state").trim_end() != "THAWED" && !read("freezer.state").is_empty()
            || read("cgroup.freeze").trim_end() == "1"
    }
}

impl Drop for PodGroup {
    fn drop(&mut self) {
        // A frozen process cannot be killed.
        let _ = fs::write(self.path.join("freezer.state"), "THAWED");
        let _ = fs::write(self.path.join("cgroup.freeze"), "0");
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The children of a killed process are here too.
        let left = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in left.split_whitespace() {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
        let mut dir = &*self.path;
        while dir.starts_with(&self.test) {
            let is_removed = || fs::remove_dir(dir).is_ok() || !dir.exists();
            let _ = (0..200).any(|_| {
                is_removed() || {
                    sleep(Duration::from_millis(5));
                    false
                }
            });
            dir = dir.parent().unwrap();
        }
    }
}

pub(super) fn volume(name: &str, uid: &str) -> VolumeId {
    format!("{name}-{uid}").parse().unwrap()
}

pub(super) fn pod(uid: &str) -> Pod {
    let (namespace, name) = ("default".to_owned(), "one".to_owned());
    Pod { namespace, name, uid: uid.parse().unwrap() }
}

pub(super) fn request(id: &str, volume: VolumeId, uid: &str) -> CaptureRequest {
    // Long, for a busy machine.
    let consistency = Consistency::Frozen { within: Duration::from_secs(20), or_live: false };
    CaptureRequest { id: id.parse().unwrap(), volume, pod: Some(pod(uid)), consistency }
}

pub(super) fn open(
    kubelet: &Path,
    root: &Path,
    registry: &FakeRegistry,
    metrics: &Metrics,
) -> (Arc<Store>, Volumes, Snapshots) {
    open_with_limits(DiskLimits::default(), kubelet, root, registry, metrics)
}

fn open_with_limits(
    limits: DiskLimits,
    kubelet: &Path,
    root: &Path,
    registry: &FakeRegistry,
    metrics: &Metrics,
) -> (Arc<Store>, Volumes, Snapshots) {
    let probe = root.join("probe");
    fs::create_dir_all(&probe).unwrap();
    let features = KernelFeatures::probe(&LinuxMounts, &probe).unwrap();
    durable::remove_tree(&probe).unwrap();
    let kernel = features.mounts(&root.join("lowers")).unwrap();
    let lock = StoreLock::exclusive(&root.join("store")).unwrap();
    let settings = StoreSettings { limits, ..StoreSettings::default() };
    let store = Arc::new(Store::open_locked(lock, kernel.clone(), settings).unwrap());
    let registries = Arc::new(registry.registries());
    let parts = VolumeParts::new(store.clone(), registries.clone(), kernel, features);
    let volumes = Volumes::open(parts, Settings::new(kubelet.to_owned())).unwrap();
    let snapshots = Snapshots::open(Parts {
        store: store.clone(),
        volumes: volumes.clone(),
        registries,
        freezer: Freezer::new("/sys/fs/cgroup".into(), "/proc".into()),
        metrics: metrics.clone(),
    });
    (store, volumes, snapshots.unwrap())
}

/// A base layer with an entry for each kind of change.
fn base() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["kept", "gone", "mode", "dir/one", "dir/two", "deep/a/b/c", "covered/old"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_mtime(1_234_567_890);
        tar.append_data(&mut header, name, &b"base\n"[..]).unwrap();
    }
    let mut file = |kind: tar::EntryType, name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        match kind {
            tar::EntryType::Link => tar.append_link(&mut header, name, "linked/one").unwrap(),
            _ => tar.append_data(&mut header, name, bytes).unwrap(),
        }
    };
    file(tar::EntryType::Regular, "linked/one", b"base\n");
    ["linked/two", "linked/three"].iter().for_each(|name| file(tar::EntryType::Link, name, b""));
    tar.into_inner().unwrap()
}

/// A text for the entry at a path: its mode and content, or its mode and names if it is a directory. `-` if there is
/// none.
pub(super) fn describe(path: &Path) -> String {
    let Ok(is) = fs::symlink_metadata(path) else { return "-".to_owned() };
    let mode = is.permissions().mode() & 0o7777;
    if is.is_dir() {
        let names = fs::read_dir(path).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        return format!("{mode:o} {}", names.join(" "));
    }
    format!("{mode:o} {}", fs::read_to_string(path).unwrap().trim_end())
}
