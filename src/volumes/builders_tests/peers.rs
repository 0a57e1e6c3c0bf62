//! Trees that containerd and umoci unpack of an image in a registry, and the paths of their programs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    fs::FileType,
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

use super::{
    super::tools_tests::sh,
    tree::{Tree, read_tree},
};
use crate::{
    reference::Reference,
    sys::mounts::{LinuxMounts, Mounts},
};

/// How long a daemon may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A path in the cache of `cargo xtask test`: the value of the environment variable `variable`, or the newest entry
/// of the directory `below` whose name begins with `prefix`.
pub(super) fn cached(variable: &str, below: &str, prefix: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || var("HOME").map(|home| home.join(".cache"));
    let cache = || var("XDG_CACHE_HOME").or_else(home).map(|dir| dir.join("ovl-csi"));
    let dir = var("OVL_CACHE").or_else(cache).unwrap_or_default().join(below);
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let matching =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|n| n.starts_with(prefix)));
    let newest = matching.max_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
    newest.map(|entry| entry.path()).unwrap_or_else(|| {
        panic!(
            "{}/{prefix}* is missing, and {variable} names no other path: run `cargo xtask test privileged`, which makes it",
            dir.display()
        )
    })
}

/// A program that the harness builds.
pub(super) fn program(variable: &str, name: &str) -> PathBuf {
    let found = cached(variable, "products", &format!("{name}-v"));
    if found.is_dir() { found.join(name) } else { found }
}

/// A directory for one test. Dropped, it unmounts what is mounted in it and is removed.
pub(super) struct TestDir(TempDir);

impl TestDir {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let mut mounts = LinuxMounts.table().unwrap();
        mounts.retain(|mount| mount.target.starts_with(self.path()));
        for mount in mounts.into_iter().rev() {
            let _ = LinuxMounts.unmount(&mount.target);
        }
    }
}

/// A daemon for one test. Dropped, it gets SIGTERM, and its end is awaited.
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts `command`, which writes to `log`, and waits until `ready`.
    pub(super) fn start(command: &mut Command, log: &Path, ready: impl Fn() -> bool) -> Self {
        let out = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut daemon = Self { child: command.spawn().unwrap() };
        let started = Instant::now();
        while !ready() {
            let ended = daemon.child.try_wait().unwrap();
            let logged = || fs::read_to_string(log).unwrap();
            assert!(
                ended.is_none() && started.elapsed() < READY_TIMEOUT,
                "{command:?}: {}",
                logged()
            );
            sleep(Duration::from_millis(50));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// containerd as it runs on nodes, with its own store and without the CRI plugins.
pub(super) struct Containerd {
    ctr: PathBuf,
    // Dropped first: the daemon must end before its directory is removed.
    _daemon: Daemon,
    dir: TestDir,
}

impl Containerd {
    pub(super) fn start() -> Self {
        let programs = cached("OVL_CONTAINERD", "products", "containerd-v");
        let dir = TestDir::new();
        let at = dir.path().display();
        let config = format!(
            "version = 3\nroot = '{at}/root'\nstate = '{at}/state'\n
            disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri']\n
            [grpc]\naddress = '{at}/socket'\n[ttrpc]\naddress = '{at}/ttrpc'\n"
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut command = Command::new(programs.join("containerd"));
        command.arg("--config").arg(dir.path().join("config.toml"));
        let ctr = programs.join("ctr");
        let ready = || run(&ctr, dir.path(), &["version"]).is_ok();
        let daemon = Daemon::start(&mut command, &dir.path().join("log"), ready);
        Self { ctr, _daemon: daemon, dir }
    }

    /// The tree that a container of this image starts with, or the error of `ctr`.
    ///
    /// These are copied from the pod's tree, because containerd does not keep them:
    /// - the root: containerd ignores its entries;
    /// - times before 1970, which containerd changes to 1970;
    /// - the time of a directory for which a layer has no entry, only files in it.
    pub(super) fn unpacked(&self, image: &Reference, pod: &Tree) -> Result<Tree, String> {
        let name = image.to_string();
        // containerd remembers each target and accepts none twice.
        let target = TempDir::new_in(self.dir.path()).unwrap();
        let at = target.path().to_str().unwrap();
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.run(&["image", "pull", "--plain-http", "--snapshotter", "overlayfs", &name])?;
        self.run(&["image", "mount", "--snapshotter", "overlayfs", &name, at])?;
        let mut tree = read_tree(target.path());
        self.run(&["image", "unmount", "--rm", at])?;
        self.run(&["image", "rm", "--sync", &name])?;
        tree.retain(|path, _| path != Path::new(""));
        for (path, (mode, .., time, _, _)) in &mut tree {
            let Some((.., pod_time, _, _)) = pod.get(path) else { continue };
            let created =
                FileType::from_raw_mode(*mode).is_dir() && time.0 >= started.as_secs() as i64;
            if created || *time == (0, 0) && pod_time.0 < 0 {
                *time = *pod_time;
            }
        }
        tree.extend(
            pod.get_key_value(Path::new("")).map(|(path, entry)| (path.clone(), entry.clone())),
        );
        Ok(tree)
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        run(&self.ctr, self.dir.path(), arguments)
    }
}

/// Runs `ctr` with these arguments.
fn run(ctr: &Path, dir: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(ctr);
    command.arg("--address").arg(dir.join("socket")).args(arguments);
    let done = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    // Warnings come before the error.
    let error = stderr.split_once("ctr: ").map_or(stderr.as_str(), |(_, error)| error);
    if done.status.success() { Ok(()) } else { Err(error.to_owned()) }
}

/// The tree that umoci unpacks of an image, or the error output.
pub(super) fn umoci(image: &Reference) -> Result<Tree, String> {
    let dir = TempDir::new().unwrap();
    let lines = format!(
        "skopeo --insecure-policy copy -q --src-tls-verify=false docker://{image} oci:layout:it 2>errors \\
        && {} raw unpack --image layout:it unpacked 2>errors || cat errors",
        program("OVL_UMOCI", "umoci").display()
    );
    let errors = sh(&lines, dir.path(), Path::new("/dev/null"));
    if errors.is_empty() { Ok(read_tree(&dir.path().join("unpacked"))) } else { Err(errors) }
}
