//! Measures how long a pod is frozen, and the cost of its snapshot. Prints one line of JSON for `cargo xtask bench`,
//! which provides the disk, the registry and the images, and compares the figures with others.

// Started by hand or by the bench. Any error ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use ovl::{
    image::{Hosts, Keyring, Registries},
    layers::{SnapshotRecord, Store},
    media_type::{Compression, Format},
    metrics::Metrics,
    overlay::{KernelFeatures, Options},
    snapshots::{self, CaptureRequest, Consistency, PushRequest, Pushed, Snapshots},
    sys::{freezer::Freezer, mounts::LinuxMounts, mounts::Mounts as _},
    volumes::{
        FoundSnapshot, Lookup, NoSnapshots, Parts, Pod, PublishRequest, Settings, SnapshotLookup,
        VolumeSpec, Volumes,
    },
};
use serde_json::{Value, json};

/// Changed files of the capture whose pause is measured, and the bytes of each.
const FILES: usize = 1000;
const BYTES: usize = 1 << 20;
/// The number of rounds of slow measurements. The median counts, here and below.
const ROUNDS: usize = 3;
/// The images below the small captures.
const BASES: [&str; 4] = ["small", "large", "flat", "deep"];
/// The number of small captures above each image.
const TURNS: usize = 12;

/// The input from the bench.
struct Given {
    /// A directory on a file system with reflinks.
    dir: PathBuf,
    /// Host and port of a registry without TLS that takes pushes.
    registry: String,
    /// A directory with the change that is pushed.
    change: PathBuf,
}

impl Given {
    fn new() -> Self {
        let text = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        Self {
            dir: text("OVL_BENCH_DIR").into(),
            registry: text("OVL_BENCH_REGISTRY"),
            change: text("OVL_BENCH_CHANGE").into(),
        }
    }
}

/// A node for one measurement.
struct Node<'a> {
    given: &'a Given,
    root: PathBuf,
    volumes: Volumes,
    snapshots: Snapshots,
}

/// Finds the same snapshot for every name.
#[derive(Debug)]
struct Found(FoundSnapshot);

impl SnapshotLookup for Found {
    fn find<'a>(&'a self, _: &'a str, _: &'a str) -> Lookup<'a> {
        let found = self.0.clone();
        Box::pin(async move { Ok(found) })
    }
}

impl<'a> Node<'a> {
    fn new(given: &'a Given, name: &str, lookup: Arc<dyn SnapshotLookup>) -> Self {
        let root = given.dir.join(name);
        let (probe, hosts) = (root.join("probe"), root.join("hosts"));
        for dir in [&probe, &hosts.join(&given.registry), &root.join("kubelet/pods")] {
            fs::create_dir_all(dir).unwrap();
        }
        let server = format!("server = \"http://{}\"\n", given.registry);
        fs::write(hosts.join(&given.registry).join("hosts.toml"), server).unwrap();
        let registries = Arc::new(Registries::new(Hosts::load(&hosts).unwrap()).unwrap());
        let features = KernelFeatures::probe(&LinuxMounts, &probe).unwrap();
        let mounts = features.mounts(&root.join("lowers")).unwrap();
        let store = Arc::new(Store::open(&root.join("store"), mounts.clone()).unwrap());
        let parts = Parts::new(store.clone(), registries.clone(), mounts, features);
        let parts = Parts { snapshots: lookup, ..parts };
        let volumes = Volumes::open(parts, Settings::new(root.join("kubelet"))).unwrap();
        let parts = snapshots::Parts {
            store,
            volumes: volumes.clone(),
            registries,
            freezer: Freezer::new("/sys/fs/cgroup".into(), "/proc".into()),
            metrics: Metrics::default(),
        };
        Self { given, root, volumes, snapshots: Snapshots::open(parts).unwrap() }
    }

    /// Publishes a volume to a pod of its own. Returns how long that took.
    async fn publish(&self, pod: &PodGroup, spec: VolumeSpec) -> (PathBuf, Duration) {
        let target = self.root.join("kubelet/pods").join(&pod.uid).join("volume");
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let options = Options { metacopy: true, redirect_dir: true, ..Options::default() };
        let request = PublishRequest {
            id: pod.volume().parse().unwrap(),
            target: target.clone().try_into().unwrap(),
            pod: pod.pod(),
            spec: VolumeSpec { options, ..spec },
            keyring: Keyring::default(),
            deadline: None,
        };
        let since = Instant::now();
        self.volumes.publish(request).await.unwrap();
        (target, since.elapsed())
    }

    async fn of_image(&self, pod: &PodGroup, image: &str) -> PathBuf {
        let image = format!("{}/{image}", self.given.registry).parse().unwrap();
        self.publish(pod, VolumeSpec { images: vec![image], ..VolumeSpec::default() }).await.0
    }

    /// Captures the volume of a pod. Returns how long that took.
    ///
    /// The file `bench_captures/beside.rs` needs this name: it is also compiled with an earlier version of this
    /// program.
    async fn cut(&self, pod: &PodGroup) -> (SnapshotRecord, Duration) {
        let consistency = Consistency::Frozen { within: Duration::from_secs(20), or_live: false };
        let (id, volume) = (pod.snapshot(), pod.volume());
        let (id, volume) = (id.parse().unwrap(), volume.parse().unwrap());
        let request = CaptureRequest { id, volume, pod: Some(pod.pod()), consistency };
        let since = Instant::now();
        let record = self.snapshots.capture(request).await.unwrap();
        (record, since.elapsed())
    }

    async fn push(&self, pod: &PodGroup) -> (Pushed, Duration) {
        let request = PushRequest {
            id: pod.snapshot().parse().unwrap(),
            volume: "work".to_owned(),
            to: format!("{}/pushed/{}", self.given.registry, pod.uid).parse().unwrap(),
            format: Format::Portable,
            compression: Compression::Zstd,
            keyring: Keyring::default(),
        };
        let since = Instant::now();
        let pushed = self.snapshots.push(&request, &snapshots::Progress::default()).await.unwrap();
        (pushed, since.elapsed())
    }
}

/// Unmounts everything, so the disk can be unmounted.
impl Drop for Node<'_> {
    fn drop(&mut self) {
        for mount in LinuxMounts.table().unwrap_or_default().into_iter().rev() {
            if mount.target.starts_with(&self.root) {
                let _ = LinuxMounts.unmount(&mount.target);
            }
        }
    }
}

/// A pod: its cgroup, with one process in it.
struct PodGroup {
    uid: String,
    path: PathBuf,
    child: Child,
}

impl PodGroup {
    fn new(number: usize) -> Self {
        let uid = format!("{:08x}-2222-3333-4444-{number:012x}", std::process::id());
        let top = Path::new("/sys/fs/cgroup");
        let v1 = top.join("freezer");
        let top = if v1.is_dir() { v1 } else { top.to_owned() };
        let path = top.join(format!("ovl-bench-{uid}/kubepods/pod{uid}"));
        fs::create_dir_all(&path).unwrap();
        let script = format!("echo $$ > '{}/cgroup.procs' && exec sleep infinity", path.display());
        let child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        while fs::read_to_string(path.join("cgroup.procs")).unwrap().is_empty() {
            std::thread::yield_now();
        }
        Self { uid, path, child }
    }

    fn pod(&self) -> Pod {
        let (namespace, name) = ("bench".to_owned(), "pod".to_owned());
        Pod { namespace, name, uid: self.uid.parse().unwrap() }
    }

    fn volume(&self) -> String {
        format!("csi-{}", self.uid)
    }

    fn snapshot(&self) -> String {
        format!("snap-{}", self.uid)
    }
}

impl Drop for PodGroup {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
        // A cgroup stays in use for a moment after its last process has ended.
        let mut dir = &*self.path;
        for _ in 0..3 {
            let is_removed = || fs::remove_dir(dir).is_ok();
            let _ = (0..200).any(|_| {
                is_removed() || {
                    std::thread::sleep(Duration::from_millis(5));
                    false
                }
            });
            dir = dir.parent().unwrap();
        }
    }
}

/// Writes `files` files that do not compress. Nothing is synced.
fn write(dir: &Path, files: usize, bytes: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = vec![0_u8; bytes];
    for number in 0..files {
        for word in content.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        fs::write(dir.join(format!("file-{number}")), &content).unwrap();
    }
}

/// The median, in seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// The pause of a capture of dirty files, and for comparison a bare loop of clones of similar files that are synced
/// already.
async fn pause(given: &Given, node: &Node<'_>, pods: &mut usize) -> Value {
    let (mut pauses, mut totals, mut loops) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let pod = next(pods);
        let target = node.of_image(&pod, "small:1").await;
        write(&target, FILES, BYTES);
        let (record, total) = node.cut(&pod).await;
        let frozen = record.frozen_micros.expect("the pod was not frozen");
        pauses.push(Duration::from_micros(frozen));
        totals.push(total);

        let (from, to) = (given.dir.join("loop/from"), given.dir.join("loop/to"));
        for dir in [&from, &to] {
            fs::create_dir_all(dir).unwrap();
        }
        write(&from, FILES, BYTES);
        rustix::fs::syncfs(File::open(&from).unwrap()).unwrap();
        let since = Instant::now();
        for number in 0..FILES {
            let name = format!("file-{number}");
            let (old, new) = (File::open(from.join(&name)), File::create_new(to.join(&name)));
            rustix::fs::ioctl_ficlone(new.unwrap(), old.unwrap()).unwrap();
        }
        loops.push(since.elapsed());
        ovl::sys::durable::remove_tree(&given.dir.join("loop")).unwrap();
    }
    json!({ "pause": median(pauses), "total": median(totals), "loop": median(loops) })
}

/// The time of a capture of few changes, by the image below. The images take turns, because a disk becomes slower the
/// more was written to it.
async fn small_captures(node: &Node<'_>, pods: &mut usize) -> Value {
    let mut times = BASES.map(|base| (base, Vec::new()));
    for round in 0..TURNS {
        // Each image is the first equally often.
        times.rotate_left(usize::from(round > 0));
        for (base, times) in &mut times {
            let pod = next(pods);
            let target = node.of_image(&pod, &format!("{base}:1")).await;
            write(&target, FILES, 1024);
            rustix::fs::syncfs(File::open(&node.root).unwrap()).unwrap();
            times.push(node.cut(&pod).await.1);
        }
    }
    times.into_iter().map(|(base, times)| (base.to_owned(), json!(median(times)))).collect()
}

/// Packs and pushes a change of many files. Two other nodes then get it: one restores the snapshot, one pulls the
/// image.
async fn push(given: &Given, node: &Node<'_>, pods: &mut usize) -> Value {
    let (mut pushes, mut sent, mut memory, mut last) = (Vec::new(), 0, 0, None);
    for _ in 0..ROUNDS {
        let pod = next(pods);
        let target = node.of_image(&pod, "small:1").await;
        let copied = Command::new("cp").arg("-r").arg(&given.change).arg(&target).status();
        assert!(copied.unwrap().success(), "the change cannot be copied");
        let record = node.cut(&pod).await.0;
        // proc(5): 5 resets the peak of resident memory.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let (pushed, time) = node.push(&pod).await;
        memory = memory.max(peak());
        sent = pushed.own_bytes;
        pushes.push(time);
        last = Some((record, pushed));
    }
    let (record, pushed) = last.unwrap();
    let image: ovl::reference::Reference = pushed.image.parse().unwrap();
    let found = FoundSnapshot {
        id: record.id,
        node: "another".to_owned(),
        image: Some(image.clone()),
        if_lost: String::new(),
        snapshot_layers: record.own_layers,
        owner: None,
    };
    let (mut restores, mut pulls) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let lookup: Arc<dyn SnapshotLookup> = Arc::new(NoSnapshots);
        let other = Node::new(given, &format!("pull-{round}"), lookup);
        let of_image = VolumeSpec { images: vec![image.clone()], ..VolumeSpec::default() };
        pulls.push(other.publish(&next(pods), of_image).await.1);
        let other = Node::new(given, &format!("restore-{round}"), Arc::new(Found(found.clone())));
        let of_snapshot = VolumeSpec { snapshot: Some("ws".to_owned()), ..VolumeSpec::default() };
        restores.push(other.publish(&next(pods), of_snapshot).await.1);
    }
    json!({
        "push": median(pushes), "sent": sent, "memory": memory,
        "restore": median(restores), "pull": median(pulls),
    })
}

fn next(pods: &mut usize) -> PodGroup {
    *pods += 1;
    PodGroup::new(*pods)
}

/// The peak of resident memory of this process, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement that needs the input of `cargo xtask bench`"]
async fn bench_snapshots() {
    let (given, mut pods) = (Given::new(), 0);
    let node = Node::new(&given, "node", Arc::new(NoSnapshots));
    let result = json!({
        "captures": small_captures(&node, &mut pods).await,
        "pause": pause(&given, &node, &mut pods).await,
        "push": push(&given, &node, &mut pods).await,
    });
    println!("BENCH {result}");
}

include!("bench_captures/beside.rs");
