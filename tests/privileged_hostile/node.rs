//! A node as the chart configures it: the driver in a cgroup of 512 MiB, and its store on a small disk. Both are
//! measured.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tonic::transport::Channel;

pub use super::support::Driver;
use super::{
    csi::node_client::NodeClient,
    support::{self, OVL, run},
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

/// The node, measured until it is dropped.
pub struct Node {
    node: support::Node,
    pub cgroup: Arc<Cgroup>,
    pub measured: Arc<Measured>,
    watch: Option<JoinHandle<()>>,
}

impl Deref for Node {
    type Target = support::Node;

    fn deref(&self) -> &support::Node {
        &self.node
    }
}

impl Node {
    pub fn new(registries: &[&str]) -> Self {
        // Small directories are stored in their inodes, so a tree of any depth fits on the disk.
        let options = ["-O", "inline_data", "-N", "1000000", "-m", "0"];
        let node = support::Node::new(DISK, &options, registries);
        let measured = Arc::new(Measured { free: AtomicU64::new(u64::MAX), ..Measured::default() });
        let cgroup = Arc::new(Cgroup::new());
        let watch = watch(measured.clone(), cgroup.clone(), node.path("disk"));
        Self { node, cgroup, measured, watch: Some(watch) }
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

    /// Starts a driver. Returns it with a client, and the time until it served.
    pub async fn start(&self) -> (Driver, NodeClient<Channel>, Duration) {
        let start = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.cgroup.path.join("cgroup.procs")).arg(OVL);
        let driver = self.node.start(command, &[]);
        (driver, self.connect().await, start.elapsed())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.measured.done.store(true, Relaxed);
        let _ = self.watch.take().map(JoinHandle::join);
    }
}

fn watch(measured: Arc<Measured>, cgroup: Arc<Cgroup>, disk: PathBuf) -> JoinHandle<()> {
    thread::spawn(move || {
        while !measured.done.load(Relaxed) {
            measured.memory.fetch_max(cgroup.unreclaimable(), Relaxed);
            let space = rustix::fs::statvfs(&disk).unwrap();
            // While the disk is unmounted, the values are those of another disk.
            if space.f_blocks * space.f_frsize <= DISK {
                measured.free.fetch_min(space.f_bavail * space.f_frsize, Relaxed);
            }
            thread::sleep(Duration::from_millis(10));
        }
    })
}
