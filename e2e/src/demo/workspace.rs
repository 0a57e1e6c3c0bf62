//! What the demonstration creates on the machine and removes again: one directory, and a cgroup for
//! each pod.
//!
//! ```text
//! <cache>/demo/              one demonstration at a time: <cache>/demo.lock
//!   first/ second/           the nodes: store/ kubelet/ hosts/ driver.log
//!   alone/                   copies of a directory: original/ store/
//!   empty/                   the mount point of the pods' roots
//! /sys/fs/cgroup/…/ovl-demo/pod<uid>
//! ```
//!
//! Deliberately absent: the lock of the harness. The demonstration can run while a cluster is being
//! created.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};

use crate::machine::cache::Cache;
use crate::machine::mounts;

/// The cgroup above those of the pods.
const GROUPS: &str = "ovl-demo";

/// How long a cgroup may take to become empty after its last process was killed.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The directory of one demonstration.
pub struct Workspace {
    /// Where it is.
    pub root: PathBuf,
    _lock: Flock<File>,
}

impl Workspace {
    /// Creates it, and removes the remains of a killed demonstration.
    ///
    /// # Errors
    /// Another demonstration runs, or the directory cannot be created.
    pub fn create() -> Result<Self> {
        let cache = Cache::open()?;
        let file = cache.root().join("demo.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        let lock = lock.with_context(|| format!("opening {}", file.display()))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                bail!("another demonstration runs (it holds {}): wait for its end", file.display())
            }
            Err((_, errno)) => bail!("locking {}: {errno}", file.display()),
        };
        let place = Self { root: cache.root().join("demo"), _lock: lock };
        place.clear()?;
        let empty = place.empty();
        fs::create_dir_all(&empty).with_context(|| format!("making {}", empty.display()))?;
        Ok(place)
    }

    /// The directory over which a pod mounts its root.
    pub fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    /// Mounts a file system in memory there, for a disk that can hold no store.
    ///
    /// # Errors
    /// The kernel refuses the mount.
    pub fn in_memory(&self) -> Result<()> {
        let tmpfs = Some("tmpfs");
        mount(tmpfs, &self.root, tmpfs, MsFlags::empty(), Some("size=1g,mode=700"))
            .context("mounting a tmpfs")?;
        fs::create_dir_all(self.empty()).context("making a directory")
    }

    /// Removes everything: mounts, cgroups and files. The processes have ended by now.
    ///
    /// # Errors
    /// Something cannot be removed. The error says what.
    pub fn clear(&self) -> Result<()> {
        clear(&self.root)
    }
}

/// As [`Workspace::clear`], for a caller without a workspace.
///
/// # Errors
/// As there.
pub fn clear(root: &Path) -> Result<()> {
    for (top, _) in hierarchies() {
        remove_groups(&top.join(GROUPS))?;
    }
    mounts::unmount_below(&[root])?;
    // A mount on the root itself is our tmpfs.
    while is_mounted(root)? {
        nix::mount::umount2(root, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", root.display()))?;
    }
    mounts::remove(root)
}

fn is_mounted(root: &Path) -> Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let text = root.display().to_string().replace(' ', "\\040");
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&text)))
}

/// Everything of the demonstration that is still on the machine: mounts, files and cgroups.
///
/// # Errors
/// The mount table cannot be read.
pub fn remaining(root: &Path) -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let text = root.display().to_string().replace(' ', "\\040");
    let mut left: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| Path::new(target).starts_with(&text))
        .map(|target| format!("a mount at {target}"))
        .collect();
    left.extend(root.exists().then(|| format!("the directory {}", root.display())));
    let groups = hierarchies().into_iter().map(|(top, _)| top.join(GROUPS));
    left.extend(groups.filter(|g| g.exists()).map(|g| format!("the cgroup {}", g.display())));
    Ok(left)
}

/// The cgroup of a pod.
pub struct PodCgroup(PathBuf);

impl PodCgroup {
    /// Creates one in the first hierarchy that has a freezer and accepts it, in the driver's order.
    /// The error says why none does.
    pub fn create(uid: &str) -> Result<Self> {
        let mut why = "no hierarchy of cgroups is mounted at /sys/fs/cgroup".to_owned();
        for (top, file) in hierarchies() {
            let path = top.join(GROUPS).join(format!("pod{uid}"));
            match fs::create_dir_all(&path) {
                Ok(()) if path.join(file).exists() => return Ok(Self(path)),
                Ok(()) => why = format!("{} cannot be frozen", path.display()),
                Err(error) => why = format!("{}: {error}", path.display()),
            }
        }
        bail!(why)
    }

    /// The file with which a process joins.
    pub fn processes(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        // `remaining` finds what cannot be removed now.
        remove_group(&self.0).unwrap_or_default();
    }
}

/// The hierarchies with a freezer, each with a file that a cgroup has there. The one with
/// controllers is first.
fn hierarchies() -> Vec<(PathBuf, &'static str)> {
    let root = Path::new("/sys/fs/cgroup");
    let (v1, unified) = (root.join("freezer"), root.join("unified"));
    let v2 = |path: &Path| path.join("cgroup.controllers").exists();
    let mut hierarchies = Vec::new();
    hierarchies.extend(v2(root).then(|| (root.to_owned(), "cgroup.freeze")));
    hierarchies.extend(v1.join("cgroup.procs").exists().then(|| (v1.clone(), "freezer.state")));
    hierarchies.extend(v2(&unified).then(|| (unified.clone(), "cgroup.freeze")));
    hierarchies
}

/// Removes the cgroups of all pods. Killed processes leave them first.
fn remove_groups(above: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(above) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_group(&entry.path())?;
    }
    remove_group(above)
}

fn remove_group(path: &Path) -> Result<()> {
    // A frozen process ends only after a thaw. One of the two files does not exist.
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if path.join(file).exists() {
            fs::write(path.join(file), word).unwrap_or_default();
        }
    }
    let since = Instant::now();
    while let Err(error) = fs::remove_dir(path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Ok(());
        }
        ensure!(
            since.elapsed() < CGROUP_TIMEOUT,
            "removing the cgroup {}: {error}",
            path.display()
        );
        thread::sleep(Duration::from_millis(10));
    }
    // The parent is removed with the last of its pods.
    if let Some(above) = path.parent().filter(|above| above.ends_with(GROUPS)) {
        fs::remove_dir(above).unwrap_or_default();
    }
    Ok(())
}
