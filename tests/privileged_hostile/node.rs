//! A node as the chart configures it: the driver in a cgroup of 512 MiB, its store on a small disk, and a kubelet
//! directory.

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
/// The memory limit of the chart, in bytes.
pub const MEMORY: u64 = 512 << 20;
pub const DISK: u64 = 1536 << 20;
/// The free space that the chart keeps, in percent of the disk.
pub const MIN_FREE: u64 = 5;
/// The longest time from the start of the driver until it serves, in any state of the disk.
pub const START: Duration = Duration::from_secs(5);

/// A cgroup whose processes get at most [`MEMORY`]. It is removed when dropped.
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

    /// The number of processes that the kernel has killed for lack of memory.
    pub fn killed(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap().parse().unwrap()
    }

    /// Bytes that cannot be reclaimed: memory of the processes, and of the kernel for them.
    fn unreclaimable(&self) -> u64 {
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
        // Its last process has ended. The kernel may need a moment to release the cgroup.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The peak of memory and the minimum of free space, measured by a thread a hundred times a second.
#[derive(Default)]
pub struct Measured {
    pub memory: AtomicU64,
    pub free: AtomicU64,
    done: AtomicBool,
}

/// The driver's process. It is killed when dropped.
pub struct Driver(pub Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The node. Its drop unmounts everything below its directory.
pub struct Node {
    dir: tempfile::TempDir,
    pub cgroup: Arc<Cgroup>,
    pub measured: Arc<Measured>,
    watch: Option<JoinHandle<()>>,
}

impl Node {
    pub fn new(hosts: &[&str]) -> Self {
        let measured = Arc::new(Measured { free: AtomicU64::new(u64::MAX), ..Measured::default() });
        let dir = tempfile::tempdir().unwrap();
        let mut node = Self { dir, cgroup: Arc::new(Cgroup::new()), measured, watch: None };
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
        // Small directories are stored in their inodes, so a tree of any depth fits on the disk.
        let options = ["-q", "-O", "inline_data", "-N", "1000000", "-m", "0"].map(Path::new);
        run("mkfs.ext4", &[&options[..], &[&image]].concat());
        node.mount_disk();
        let (measured, cgroup, disk) =
            (node.measured.clone(), node.cgroup.clone(), node.path("disk"));
        node.watch = Some(thread::spawn(move || {
            while !measured.done.load(Relaxed) {
                measured.memory.fetch_max(cgroup.unreclaimable(), Relaxed);
                let space = rustix::fs::statvfs(&disk).unwrap();
                // While the disk is unmounted, the values are those of another disk.
                if space.f_blocks * space.f_frsize <= DISK {
                    measured.free.fetch_min(space.f_bavail * space.f_frsize, Relaxed);
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

    /// Unmounts and mounts the disk. As after a reboot, the kernel has nothing of it in memory, and no volume is
    /// mounted.
    pub fn remount_disk(&self) {
        for target in self.mounts().into_iter().rev() {
            run("umount", &[Path::new(&target)]);
        }
        run("umount", &[&self.path("disk")]);
        self.mount_disk();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a driver. Returns it with a client, and the time until it served.
    pub async fn start(&self) -> (Driver, NodeClient<Channel>, Duration) {
        let path = |name: &str| self.path(name).display().to_string();
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let start = Instant::now();
        let mut ovl = Command::new("sh");
        ovl.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        ovl.arg(self.cgroup.path.join("cgroup.procs")).arg(env!("CARGO_BIN_EXE_ovl"));
        ovl.args(["node", "--node-name", "n", "--no-cluster", "--health-address", "127.0.0.1:0"]);
        ovl.args(["--root", &path("disk/store"), "--kubelet-dir", &path("kubelet")]);
        ovl.args(["--hosts-dir", &path("hosts")]);
        let driver = Driver(ovl.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        (driver, self.connect().await, start.elapsed())
    }

    async fn connect(&self) -> NodeClient<Channel> {
        let socket = self.path("kubelet/plugins/ovl.csi.dev/csi.sock");
        let start = Instant::now();
        loop {
            let to = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
            match to.connect().await {
                Ok(channel) => return NodeClient::new(channel),
                Err(error) => assert!(start.elapsed() < 12 * START, "{error}"),
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

    /// The kubelet's directory for the only pod of the namespace.
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

    /// Unpublishes as the kubelet does: repeats the call while the operation is in progress.
    pub async fn remove(&self, client: &NodeClient<Channel>, namespace: &str, id: &str) {
        let start = Instant::now();
        loop {
            let result = client.clone().node_unpublish_volume(self.unpublish(namespace, id)).await;
            let Err(status) = result else { return };
            assert!(is_in_progress(&status) && start.elapsed() < 12 * START, "{status}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The mounts below this directory, without the disk, the innermost last.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let disk = self.path("disk");
        let ours = |target: &&str| target.starts_with(self.dir.path().to_str().unwrap());
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
        self.measured.done.store(true, Relaxed);
        let _ = self.watch.take().map(JoinHandle::join);
        let disk = self.path("disk").display().to_string();
        for target in self.mounts().into_iter().rev().chain([disk]) {
            let _ = Command::new("umount").args(["-l", &target]).status();
        }
    }
}

pub fn is_in_progress(status: &Status) -> bool {
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
