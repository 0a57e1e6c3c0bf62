//! A node as the chart makes it: the driver in a cgroup of 512 MiB, its store on a small disk, a directory for a kubelet.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};

pub const MIB: usize = 1 << 20;
/// The chart's limit.
pub const MEMORY: u64 = 512 << 20;
pub const DISK: u64 = 1536 << 20;
/// In percent of the disk: the chart's.
pub const MIN_FREE: u64 = 5;
/// How long the driver may take to serve after its start, whatever tenants left.
pub const START: Duration = Duration::from_secs(5);

/// A cgroup whose processes get [`MEMORY`] and no more; gone when dropped.
pub struct Cgroup {
    path: PathBuf,
    is_v1: bool,
}

impl Cgroup {
    fn new() -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let is_v1 = v1.is_dir();
        let root = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        let path = root.join(format!("ovl-hostile-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let limit = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(path.join(limit), MEMORY.to_string()).unwrap();
        Self { path, is_v1 }
    }

    /// How many processes the kernel has killed for want of memory.
    pub fn killed(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap().parse().unwrap()
    }

    /// Bytes that cannot be taken back: of processes, and of the kernel on their behalf.
    fn held(&self) -> u64 {
        let read = |file: &str| fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let stat = read("memory.stat");
        let value = |name: &str| -> u64 {
            let found = stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            found.unwrap_or_default()
        };
        match self.is_v1 {
            true => {
                let kernel: u64 = read("memory.kmem.usage_in_bytes").trim().parse().unwrap_or(0);
                value("rss ") + value("shmem ") + kernel
            }
            false => value("anon ") + value("shmem ") + value("kernel "),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its last process has been waited for; the kernel may need a moment to let go of it.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What was seen on the way, by a thread that looks a hundred times a second.
#[derive(Default)]
pub struct Seen {
    pub memory: AtomicU64,
    pub free: AtomicU64,
    done: AtomicBool,
}

/// The driver's process. Dropped, it is killed.
pub struct Driver(pub Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Dropped, nothing of it stays mounted.
pub struct Node {
    place: tempfile::TempDir,
    pub cgroup: Arc<Cgroup>,
    pub seen: Arc<Seen>,
    watch: Option<JoinHandle<()>>,
}

impl Node {
    pub fn new(hosts: &[&str]) -> Self {
        let seen = Arc::new(Seen { free: AtomicU64::new(u64::MAX), ..Seen::default() });
        let place = tempfile::tempdir().unwrap();
        let mut node = Self { place, cgroup: Arc::new(Cgroup::new()), seen, watch: None };
        for dir in ["disk", "kubelet/plugins", "kubelet/pods", "hosts"] {
            fs::create_dir_all(node.path(dir)).unwrap();
        }
        for host in hosts {
            let dir = node.path("hosts").join(host);
            fs::create_dir(&dir).unwrap();
            let plain = format!("server = \"http://{host}\"\n");
            fs::write(dir.join("hosts.toml"), plain).unwrap();
        }
        let image = node.path("disk.img");
        File::create(&image).unwrap().set_len(DISK).unwrap();
        // Directories of few names lie in their inodes: so there is room for a tree as deep as a pod likes.
        let options = ["-q", "-O", "inline_data", "-N", "1000000", "-m", "0"].map(Path::new);
        run("mkfs.ext4", &[&options[..], &[&image]].concat());
        node.mount_disk();
        let (seen, cgroup, disk) = (node.seen.clone(), node.cgroup.clone(), node.path("disk"));
        node.watch = Some(thread::spawn(move || {
            while !seen.done.load(Relaxed) {
                seen.memory.fetch_max(cgroup.held(), Relaxed);
                let space = rustix::fs::statvfs(&disk).unwrap();
                // Of another disk while this one is away.
                if space.f_blocks * space.f_frsize <= DISK {
                    seen.free.fetch_min(space.f_bavail * space.f_frsize, Relaxed);
                }
                thread::sleep(Duration::from_millis(10));
            }
        }));
        node
    }

    fn mount_disk(&self) {
        let loops = ["-o", "loop"].map(Path::new);
        run("mount", &[&loops[..], &[&self.path("disk.img"), &self.path("disk")]].concat());
    }

    /// Takes the disk away and brings it back, as a reboot does: the kernel remembers nothing of it. Volumes are gone with it.
    pub fn remount_disk(&self) {
        for target in self.mounts().into_iter().rev() {
            run("umount", &[Path::new(&target)]);
        }
        run("umount", &[&self.path("disk")]);
        self.mount_disk();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A driver that serves, and after how long it did.
    pub async fn start(&self) -> (Driver, NodeClient<Channel>, Duration) {
        let path = |name: &str| self.path(name).display().to_string();
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let begun = Instant::now();
        let mut ovl = Command::new("sh");
        ovl.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        ovl.arg(self.cgroup.path.join("cgroup.procs")).arg(env!("CARGO_BIN_EXE_ovl"));
        ovl.args(["node", "--node-name", "n", "--no-cluster", "--health-address", "127.0.0.1:0"]);
        ovl.args(["--root", &path("disk/store"), "--kubelet-dir", &path("kubelet")]);
        ovl.args(["--hosts-dir", &path("hosts")]);
        let driver = Driver(ovl.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        (driver, self.dial().await, begun.elapsed())
    }

    async fn dial(&self) -> NodeClient<Channel> {
        let socket = self.path("kubelet/plugins/ovl.csi.dev/csi.sock");
        let begun = Instant::now();
        loop {
            let to = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
            match to.connect().await {
                Ok(channel) => return NodeClient::new(channel),
                Err(error) => assert!(begun.elapsed() < 12 * START, "{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn target(&self, namespace: &str, id: &str) -> PathBuf {
        self.pod(namespace).join(id)
    }

    /// The kubelet's directory of the namespace's only pod.
    pub fn pod(&self, namespace: &str) -> PathBuf {
        self.path("kubelet/pods").join(uid(namespace))
    }

    pub fn publish(
        &self,
        namespace: &str,
        id: &str,
        attributes: &[(&str, &str)],
    ) -> NodePublishVolumeRequest {
        fs::create_dir_all(self.pod(namespace)).unwrap();
        let uid = uid(namespace);
        let pod = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.namespace", namespace),
            ("csi.storage.k8s.io/pod.name", "pod"),
            ("csi.storage.k8s.io/pod.uid", &uid),
        ];
        let context = pod.iter().chain(attributes);
        NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: self.target(namespace, id).display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            }),
            readonly: false,
            secrets: HashMap::new(),
            volume_context: context.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    pub fn unpublish(&self, namespace: &str, id: &str) -> NodeUnpublishVolumeRequest {
        let target_path = self.target(namespace, id).display().to_string();
        NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path }
    }

    /// Unpublishes as the kubelet: again while the answer is that it goes on.
    pub async fn remove(&self, client: &NodeClient<Channel>, namespace: &str, id: &str) {
        let begun = Instant::now();
        loop {
            let done = client.clone().node_unpublish_volume(self.unpublish(namespace, id)).await;
            let Err(status) = done else { return };
            assert!(goes_on(&status) && begun.elapsed() < 12 * START, "{status}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is mounted here beside the disk, the innermost last.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let disk = self.path("disk");
        let ours = |target: &&str| target.starts_with(self.place.path().to_str().unwrap());
        targets.filter(ours).filter(|t| Path::new(t) != disk).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(20_000);
            eprintln!("{}", log.get(from..).unwrap_or_default());
        }
        self.seen.done.store(true, Relaxed);
        let _ = self.watch.take().map(JoinHandle::join);
        let disk = self.path("disk").display().to_string();
        for target in self.mounts().into_iter().rev().chain([disk]) {
            let _ = Command::new("umount").args(["-l", &target]).status();
        }
    }
}

pub fn goes_on(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::Unavailable)
}

fn uid(namespace: &str) -> String {
    format!("pod-{namespace}")
}

fn run(program: &str, args: &[&Path]) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program}: {done:?}");
}
