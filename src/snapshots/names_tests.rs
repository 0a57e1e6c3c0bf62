//! Measures the memory to capture, push, pull and mount a volume of many files. Each phase runs in a process of its
//! own, in a memory cgroup whose limit kills it if it uses more, with a store on a disk of its own. The registry is
//! outside of the cgroup.

#![allow(clippy::print_stdout, reason = "it measures")]

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use self::many_names::{FLAT, Group, fill, name};
use super::*;
use crate::{
    budget::Budget,
    changeset::Limits,
    image::{
        Keyring,
        fake::{FakeRegistry, registries},
    },
    layers::{SnapshotRecord, StoreLock, StoreSettings},
    media_type::{Compression, Format},
    overlay::KernelFeatures,
    sys::{
        durable, limits, memory,
        mounts::LinuxMounts,
        test_dir::{Disk, TestDir},
    },
    volumes::{Parts as VolumeParts, Pod, PublishRequest, Settings, VolumeSpec},
};

#[path = "../../tests/support/many_names.rs"]
mod many_names;

/// For the process that a test starts: its phase, its directory, and the host of the registry.
const PHASE: &str = "OVL_TEST_NAMES_PHASE";
const AT: &str = "OVL_TEST_NAMES_AT";
const HOST: &str = "OVL_TEST_NAMES_HOST";
/// The number of names in the long test. A lower number makes it shorter.
const NAMES: &str = "OVL_TEST_NAMES";

/// The uid of the pod with these volumes.
const POD: &str = "pod-names";

impl Group {
    /// The most bytes that it used, including reclaimable memory of the kernel.
    fn peak(&self) -> u64 {
        let peak = self.either("memory.max_usage_in_bytes", "memory.peak");
        fs::read_to_string(peak).unwrap().trim().parse().unwrap()
    }
}

/// The number of names below a path.
fn count(at: &Path) -> u64 {
    let (mut count, mut dirs) = (0, vec![at.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            count += 1;
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    count
}

/// A node of this test, opened as at the start of a process.
struct Node {
    at: PathBuf,
    store: Arc<Store>,
    volumes: Volumes,
    snapshots: Snapshots,
}

impl Node {
    /// Opens the node `name`, whose operations take their memory from `budget`.
    fn open(at: &Path, name: &str, host: &str, budget: Budget) -> Self {
        let root = at.join("disk").join(name);
        fs::create_dir_all(root.join("probe")).unwrap();
        fs::create_dir_all(at.join("kubelet/pods").join(POD)).unwrap();
        let features = KernelFeatures::probe(&LinuxMounts, &root.join("probe")).unwrap();
        durable::remove_tree(&root.join("probe")).unwrap();
        let kernel = features.mounts(&root.join("lowers")).unwrap();
        let lock = StoreLock::exclusive(&root.join("store")).unwrap();
        let settings = StoreSettings { budget: Arc::new(budget), ..StoreSettings::default() };
        let store = Arc::new(Store::open_locked(lock, kernel.clone(), settings).unwrap());
        let registries = Arc::new(registries(&[(host, &format!("server = \"http://{host}\""))]));
        let parts = VolumeParts::new(store.clone(), registries.clone(), kernel, features);
        let volumes = Volumes::open(parts, Settings::new(at.join("kubelet"))).unwrap();
        let snapshots = Snapshots::open(Parts {
            store: store.clone(),
            volumes: volumes.clone(),
            registries,
            freezer: Freezer::new("/sys/fs/cgroup".into(), "/proc".into()),
            metrics: Metrics::default(),
        });
        Self { at: at.to_owned(), store, volumes, snapshots: snapshots.unwrap() }
    }

    async fn publish(&self, volume: &str, image: Option<&str>) {
        let images = image.map(|image| image.parse().unwrap()).into_iter().collect();
        let pod = Pod { namespace: "ci".into(), name: "build".into(), uid: POD.parse().unwrap() };
        let request = PublishRequest {
            id: volume.parse().unwrap(),
            target: target(&self.at, volume).try_into().unwrap(),
            pod,
            spec: VolumeSpec { images, ..VolumeSpec::default() },
            keyring: Keyring::default(),
            deadline: None,
        };
        self.volumes.publish(request).await.unwrap();
    }

    async fn capture(&self, volume: &str) -> Result<SnapshotRecord, CaptureError> {
        let (id, volume) = ("snap-names".parse().unwrap(), volume.parse().unwrap());
        self.snapshots
            .capture(CaptureRequest { id, volume, pod: None, consistency: Consistency::Live })
            .await
    }

    /// Pushes the captured snapshot. Returns its image.
    async fn push(&self, host: &str) -> String {
        let request = PushRequest {
            id: "snap-names".parse().unwrap(),
            volume: "ws".into(),
            to: format!("{host}/ws").parse().unwrap(),
            format: Format::Portable,
            compression: Compression::Zstd,
            keyring: Keyring::default(),
        };
        self.snapshots.push(&request, &Progress::default()).await.unwrap().image
    }
}

fn target(at: &Path, volume: &str) -> PathBuf {
    at.join("kubelet/pods").join(POD).join(volume)
}

/// One phase, in the process that a test starts.
async fn run(phase: &str, at: &Path, host: &str) {
    limits::refuse_huge_pages().unwrap();
    let name = if matches!(phase, "pull" | "mount") { "two" } else { "one" };
    let node = Node::open(at, name, host, Budget::of_limit(memory::limit()));
    let image = || fs::read_to_string(at.join("image")).unwrap();
    match phase {
        "publish" => node.publish("first", None).await,
        "capture" => drop(node.capture("first").await.unwrap()),
        "push" => fs::write(at.join("image"), node.push(host).await).unwrap(),
        "pull" => node.publish("second", Some(&image())).await,
        "mount" => node.publish("third", Some(&image())).await,
        _ => panic!("there is no phase {phase}"),
    }
    assert_eq!(fs::read_dir(node.store.root().join("staging")).unwrap().count(), 0);
    assert_eq!(node.store.budget.used(), 0);
    // proc(5): the peak of resident memory.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    fs::write(at.join("peak"), (kib << 10).to_string()).unwrap();
}

/// The most memory that each phase may use, in bytes.
#[derive(Clone, Copy)]
struct MemoryLimits {
    /// Resident memory of the process.
    resident: u64,
    /// Memory of its cgroup, which also counts memory of the kernel, much of it reclaimable.
    group: u64,
}

/// Captures, pushes, pulls and mounts a volume with `entries` names in processes, on a disk of at most `disk` bytes.
async fn run_phases(test: &str, entries: u64, disk: u64, limits: MemoryLimits) {
    if let Ok(phase) = std::env::var(PHASE) {
        let [at, host] = [AT, HOST].map(|name| std::env::var(name).unwrap());
        return run(&phase, Path::new(&at), &host).await;
    }
    let (scratch, registry) = (TestDir::new(), FakeRegistry::start().await);
    let at = scratch.path().to_owned();
    // Inodes for a tree, its copy, and the rest of the store. Without a journal, which would take most of the time.
    let inodes = format!("-N{}", 2 * entries + entries / 5 + 10_000);
    let options =
        ["-Onone,extent,filetype,dir_index,large_file,huge_file,extra_isize,sparse_super", &inodes];
    let _disk = Disk::of(&scratch, disk, "ext4", &options, &scratch.dir("disk"));
    let host = registry.host();
    let phase = async |phase: &str| {
        let (test, at, host, phase) = (test.to_owned(), at.clone(), host.clone(), phase.to_owned());
        // The registry serves in the meantime.
        tokio::task::spawn_blocking(move || run_in_process(&test, &phase, &at, &host, limits))
            .await
            .unwrap();
    };
    phase("publish").await;
    let upper = at.join("disk/one/store/volumes/first/upper");
    let start = Instant::now();
    // In the upper itself, of which the overlay has nothing cached yet: this is twice as fast.
    tokio::task::spawn_blocking(move || fill(&upper, entries)).await.unwrap();
    println!("{entries} names were made in {:.1?}", start.elapsed());
    for name in ["capture", "push", "pull", "mount"] {
        phase(name).await;
    }
    let mounted = target(&at, "third");
    assert_eq!(count(&mounted), entries);
    assert_eq!(fs::metadata(mounted.join(FLAT.0).join(name(9))).unwrap().nlink(), 2);
}

/// Runs one phase in a process, and prints its time and memory.
fn run_in_process(test: &str, phase: &str, at: &Path, host: &str, limits: MemoryLimits) {
    let (group, start) = (Group::new(limits.group), Instant::now());
    let done = group
        .run_test(&format!("snapshots::names_tests::{test}"))
        .envs([(PHASE, phase), (AT, at.to_str().unwrap()), (HOST, host)])
        .output()
        .unwrap();
    let took = start.elapsed();
    assert!(done.status.success(), "{phase}, in {} bytes: {done:#?}", limits.group);
    let resident: u64 = fs::read_to_string(at.join("peak")).unwrap().parse().unwrap();
    let (mib, all) = (resident >> 20, group.peak() >> 20);
    println!("{phase}: {mib} MiB at most, {all} MiB with memory of the kernel; {took:.1?}");
    assert!(resident <= limits.resident, "{phase}: {resident} bytes, limit {}", limits.resident);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, and makes memory cgroups"]
async fn privileged_a_snapshot_of_many_files_is_restored_on_another_node() {
    let test = "privileged_a_snapshot_of_many_files_is_restored_on_another_node";
    let limits = MemoryLimits { resident: 96 << 20, group: 256 << 20 };
    run_phases(test, 20_000, 320 << 20, limits).await;
}

/// The most files that a layer may have. Takes long: `cargo xtask soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long, and needs root"]
async fn soak_a_snapshot_of_five_million_files_is_restored_on_another_node() {
    let test = "soak_a_snapshot_of_five_million_files_is_restored_on_another_node";
    let limits = MemoryLimits {
        resident: 150 << 20,
        // The limit of the chart. With less, the kernel waits until inodes are written before it makes others, which
        // takes hours.
        group: 512 << 20,
    };
    let all = Limits::default().entries;
    let names = std::env::var(NAMES).map_or(all, |names| names.parse().unwrap());
    run_phases(test, names, 6 << 30, limits).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_capture_beyond_the_memory_budget_is_refused() {
    let scratch = TestDir::new();
    scratch.dir("disk");
    let node = Node::open(scratch.path(), "one", "localhost", Budget::new(0, 0, 1));
    node.publish("small", None).await;
    let error = node.capture("small").await.unwrap_err();
    assert_eq!(error.class(), crate::error::Class::Precondition, "{error}");
    assert!(error.to_string().contains("raise that limit"), "{error}");
    assert_eq!(node.store.budget.used(), 0);
}
