//! What others make of an image that lies in a registry: containerd, umoci; and where their programs are.

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
    tree::{Tree, seen},
};
use crate::{
    image::Reference,
    sys::mounts::{LinuxMounts, Mounts},
};

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `cargo xtask test` keeps in its cache: the path in `variable`, else the last that was made of this name.
pub(super) fn kept(variable: &str, below: &str, prefix: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || var("HOME").map(|home| home.join(".cache"));
    let cache = || var("XDG_CACHE_HOME").or_else(home).map(|place| place.join("ovl-csi"));
    let place = var("OVL_CACHE").or_else(cache).unwrap_or_default().join(below);
    let entries = fs::read_dir(&place).into_iter().flatten().flatten();
    let fitting =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|n| n.starts_with(prefix)));
    let last = fitting.max_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
    last.map(|entry| entry.path()).unwrap_or_else(|| {
        panic!(
            "{}/{prefix}* is missing, and {variable} names nothing else: `cargo xtask test privileged` makes it",
            place.display()
        )
    })
}

/// A program that the harness builds.
pub(super) fn program(variable: &str, name: &str) -> PathBuf {
    let found = kept(variable, "products", &format!("{name}-v"));
    if found.is_dir() { found.join(name) } else { found }
}

/// A directory that goes with the test, and what is mounted in it before.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut left = LinuxMounts.table().unwrap();
        left.retain(|mount| mount.target.starts_with(self.path()));
        for mount in left.into_iter().rev() {
            let _ = LinuxMounts.unmount(&mount.target);
        }
    }
}

/// A daemon of a test's own, which ends with it.
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts `command`, which writes to `log`, and waits until `ready`.
    pub(super) fn start(command: &mut Command, log: &Path, ready: impl Fn() -> bool) -> Self {
        let out = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut daemon = Self { child: command.spawn().unwrap() };
        let begun = Instant::now();
        while !ready() {
            let ended = daemon.child.try_wait().unwrap();
            let said = || fs::read_to_string(log).unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{command:?}: {}", said());
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

/// containerd as nodes run it, with a store of its own and nothing of Kubernetes.
pub(super) struct Containerd {
    ctr: PathBuf,
    // Before its directory goes.
    _daemon: Daemon,
    place: Place,
}

impl Containerd {
    pub(super) fn start() -> Self {
        let programs = kept("OVL_CONTAINERD", "products", "containerd-v");
        let place = Place::new();
        let at = place.path().display();
        let config = format!(
            "version = 3\nroot = '{at}/root'\nstate = '{at}/state'\n
            disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri']\n
            [grpc]\naddress = '{at}/socket'\n[ttrpc]\naddress = '{at}/ttrpc'\n"
        );
        fs::write(place.path().join("config.toml"), config).unwrap();
        let mut command = Command::new(programs.join("containerd"));
        command.arg("--config").arg(place.path().join("config.toml"));
        let ctr = programs.join("ctr");
        let ready = || run(&ctr, place.path(), &["version"]).is_ok();
        let daemon = Daemon::start(&mut command, &place.path().join("log"), ready);
        Self { ctr, _daemon: daemon, place }
    }

    /// The tree that a container of this image starts with, or why there is none.
    ///
    /// Taken from the pod's is what containerd says nothing of: the root, whose entries it passes over; times before 1970, which
    /// it makes 1970; and when a directory changed that a layer has no entry of, only files in it.
    pub(super) fn unpacked(&self, image: &Reference, pod: &Tree) -> Result<Tree, String> {
        let name = image.to_string();
        // It keeps a note of each target, and takes none twice.
        let target = TempDir::new_in(self.place.path()).unwrap();
        let at = target.path().to_str().unwrap();
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.run(&["image", "pull", "--plain-http", "--snapshotter", "overlayfs", &name])?;
        self.run(&["image", "mount", "--snapshotter", "overlayfs", &name, at])?;
        let mut tree = seen(target.path());
        self.run(&["image", "unmount", "--rm", at])?;
        self.run(&["image", "rm", "--sync", &name])?;
        tree.retain(|path, _| path != Path::new(""));
        for (path, (mode, .., time, _, _)) in &mut tree {
            let Some((.., own, _, _)) = pod.get(path) else { continue };
            let made = FileType::from_raw_mode(*mode).is_dir() && time.0 >= begun.as_secs() as i64;
            if made || *time == (0, 0) && own.0 < 0 {
                *time = *own;
            }
        }
        tree.extend(
            pod.get_key_value(Path::new("")).map(|(path, seen)| (path.clone(), seen.clone())),
        );
        Ok(tree)
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        run(&self.ctr, self.place.path(), arguments)
    }
}

/// `ctr` with these arguments.
fn run(ctr: &Path, place: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(ctr);
    command.arg("--address").arg(place.join("socket")).args(arguments);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    // Above it are warnings.
    let error = said.split_once("ctr: ").map_or(said.as_str(), |(_, error)| error);
    if done.status.success() { Ok(()) } else { Err(error.to_owned()) }
}

/// What umoci unpacks of an image, in a directory that goes at once.
pub(super) fn umoci(image: &Reference) -> Result<Tree, String> {
    let place = TempDir::new().unwrap();
    let lines = format!(
        "skopeo --insecure-policy copy -q --src-tls-verify=false docker://{image} oci:layout:it 2>said \\
        && {} raw unpack --image layout:it unpacked 2>said || cat said",
        program("OVL_UMOCI", "umoci").display()
    );
    let said = sh(&lines, place.path(), Path::new("/dev/null"));
    if said.is_empty() { Ok(seen(&place.path().join("unpacked"))) } else { Err(said) }
}
