//! Freezes the processes of a pod for a limited time, with the cgroup freezer.
//!
//! The cgroup of a pod is found by the pod's uid, for each cgroup driver of the kubelet and at any
//! depth:
//!
//! ```text
//! v2          <root>/…               cgroup.freeze, cgroup.events
//! v1          <root>/freezer/…       freezer.state
//! hybrid      v1, or <root>/unified/… as v2
//!
//! cgroupfs    …/pod<uid>
//! systemd     …/…-pod<uid, with _ for ->.slice
//! ```
//!
//! A process outside of a cluster puts the processes that it starts in an [`OwnGroup`]. [`OwnGroups`] finds it again.
//!
//! Frozen processes are thawed even if the caller fails: by [`Frozen`] when it is dropped, and by a
//! separate thread at the deadline. After a kill of this process they are thawed by a [`ThawProcess`], if the caller
//! started one, or by the caller that stored the [`Group`]s on disk. Deliberately absent: `FIFREEZE`, which blocks all programs on a
//! file system and outlives the process.

mod frozen;
mod own;
mod own_groups;
mod thaw_process;

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::frozen::{FreezeResult, Frozen};
pub use self::own::OwnGroup;
pub use self::own_groups::OwnGroups;
pub use self::thaw_process::ThawProcess;
use super::durable::at;

/// The deepest level at which a pod's cgroup is searched. A kubelet in a container of a container
/// has eight levels above it.
const DEPTH: usize = 16;

/// The largest number of cgroups that one search looks at.
const GROUPS: usize = 50_000;

/// Finds the cgroups of the node's pods.
#[derive(Debug, Clone)]
pub struct Freezer {
    root: PathBuf,
    proc: PathBuf,
}

/// A cgroup that can be frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    path: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Version {
    V1,
    V2,
}

impl Freezer {
    /// The freezer of a node whose cgroups are mounted at `root`, and whose processes are listed in
    /// `proc`.
    pub fn new(root: PathBuf, proc: PathBuf) -> Self {
        Self { root, proc }
    }

    /// The freezer of this node, as its first process sees the cgroups. A container may see only
    /// its own cgroup.
    pub fn of_node() -> Self {
        Self::new("/proc/1/root/sys/fs/cgroup".into(), "/proc".into())
    }

    /// The freezer of this machine, for a process that runs without a cluster: as the first process
    /// sees the cgroups, or as this process sees them if it may not read the root directory of the
    /// first.
    pub fn of_machine() -> Self {
        let node = Self::of_node();
        match fs::read_dir(&node.root) {
            Ok(_) => node,
            Err(_) => Self::new("/sys/fs/cgroup".into(), "/proc".into()),
        }
    }

    /// Returns the cgroups of a pod. None if the pod has ended, several if one search finds more
    /// than one.
    ///
    /// # Errors
    /// `NotFound` if no cgroups are mounted, or if a process is in a cgroup of the pod and that
    /// cgroup is not found. A caller must not treat this as a pod that has ended.
    pub fn find(&self, pod_uid: &str) -> io::Result<Vec<Group>> {
        let names = Names::of(pod_uid);
        let (mut found, mut visited) = (Vec::new(), 0);
        for (hierarchy, version) in self.hierarchies() {
            visited += 1;
            search(&hierarchy, version, &names, &mut found)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let not_found = |why| Err(io::Error::new(io::ErrorKind::NotFound, why));
        let root = self.root.display();
        if visited == 0 {
            return not_found(format!("no cgroups that can be frozen are mounted at {root}"));
        }
        match self.process_of(&names)? {
            Some(pid) => not_found(format!(
                "process {pid} is in a cgroup of pod {pod_uid}, and that cgroup is not below {root}"
            )),
            None => Ok(found),
        }
    }

    /// The cgroup hierarchies that can freeze processes, the one with controllers first.
    fn hierarchies(&self) -> Vec<(PathBuf, Version)> {
        let v2 = |path: &Path| path.join("cgroup.controllers").exists();
        let (freezer, unified) = (self.root.join("freezer"), self.root.join("unified"));
        let mut hierarchies = Vec::new();
        if v2(&self.root) {
            hierarchies.push((self.root.clone(), Version::V2));
        }
        if freezer.join("cgroup.procs").exists() {
            hierarchies.push((freezer, Version::V1));
        }
        if v2(&unified) {
            hierarchies.push((unified, Version::V2));
        }
        hierarchies
    }

    /// Returns the id of a process in a cgroup whose path names the pod.
    fn process_of(&self, names: &Names) -> io::Result<Option<String>> {
        for entry in fs::read_dir(&self.proc).map_err(at("list", &self.proc))? {
            let entry = entry.map_err(at("list", &self.proc))?;
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // A process that has ended meanwhile is in no cgroup.
            let groups = fs::read(entry.path().join("cgroup")).unwrap_or_default();
            let mut parts = groups.split(|byte| matches!(byte, b'/' | b'\n'));
            if parts.any(|part| names.matches(OsStr::from_bytes(part))) {
                return Ok(Some(pid));
            }
        }
        Ok(None)
    }
}

/// The possible names of one pod's cgroup.
struct Names {
    plain: String,
    slice: String,
}

impl Names {
    fn of(uid: &str) -> Self {
        Self { plain: format!("pod{uid}"), slice: format!("-pod{}.slice", uid.replace('-', "_")) }
    }

    fn matches(&self, name: &OsStr) -> bool {
        name == self.plain.as_str() || name.as_bytes().ends_with(self.slice.as_bytes())
    }
}

/// Whether it is the cgroup of any pod. The names of the cgroups below it are chosen by that pod.
fn is_of_a_pod(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let uid = |rest: &[u8]| {
        rest.len() >= 32 && rest.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
    };
    name.strip_prefix(b"pod").is_some_and(uid)
        || name.ends_with(b".slice") && name.windows(4).any(|part| part == b"-pod")
}

fn search(
    hierarchy: &Path,
    version: Version,
    names: &Names,
    found: &mut Vec<Group>,
) -> io::Result<()> {
    let mut next = VecDeque::from([(hierarchy.to_owned(), 0)]);
    let mut visited = 0;
    while let Some((dir, depth)) = next.pop_front() {
        visited += 1;
        if visited > GROUPS {
            let why = format!("there are more than {GROUPS} cgroups below {}", hierarchy.display());
            return Err(io::Error::other(why));
        }
        let entries = match fs::read_dir(&dir) {
            // The cgroup was removed after it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => continue,
            entries => entries.map_err(at("list", &dir))?,
        };
        // A cgroup that is removed while it is listed has no more entries.
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            if names.matches(&name) {
                found.push(Group { path: entry.path(), version });
            } else if depth < DEPTH && !is_of_a_pod(&name) {
                next.push_back((entry.path(), depth + 1));
            }
        }
    }
    Ok(())
}

impl Group {
    /// The absolute path of the cgroup.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a process is in it or below it. The kernel reports an empty cgroup as frozen.
    pub fn is_populated(&self) -> io::Result<bool> {
        match self.version {
            Version::V2 => {
                Ok(self.read("cgroup.events")?.lines().any(|line| line == "populated 1"))
            }
            Version::V1 => {
                let mut next = vec![self.clone()];
                while let Some(group) = next.pop() {
                    if !group.read("cgroup.procs")?.is_empty() {
                        return Ok(true);
                    }
                    next.extend(group.children());
                }
                Ok(false)
            }
        }
    }

    /// The processes in it and below it, in ascending order.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let (mut pids, mut next) = (Vec::new(), vec![self.clone()]);
        while let Some(group) = next.pop() {
            let text = group.read("cgroup.procs")?;
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            next.extend(group.children());
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// The cgroups directly below it. A cgroup that is removed while it is listed has no processes.
    fn children(&self) -> impl Iterator<Item = Self> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let version = self.version;
        dirs.map(move |entry| Self { path: entry.path(), version })
    }

    /// Thaws all processes in it, and retries until the kernel accepts it. A removed cgroup has no
    /// processes.
    pub fn thaw(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let (file, value) = self.thaw_request();
            match self.write(file, value) {
                Err(e) if tries == 20 => return Err(e),
                Err(_) => thread::sleep(Duration::from_millis(10)),
                Ok(_) => return Ok(()),
            }
            tries += 1;
        }
    }

    /// The file that thaws it, and what is written to it.
    fn thaw_request(&self) -> (&'static str, &'static str) {
        match self.version {
            Version::V1 => ("freezer.state", "THAWED"),
            Version::V2 => ("cgroup.freeze", "0"),
        }
    }

    /// Requests the freeze of all processes in it. Returns whether they are frozen.
    fn freeze(&self) -> io::Result<bool> {
        let exists = match self.version {
            // v1 needs the request again for processes that were started meanwhile.
            Version::V1 => self.write("freezer.state", "FROZEN")?,
            Version::V2 => self.write("cgroup.freeze", "1")?,
        };
        Ok(!exists || self.is_frozen()?)
    }

    /// Whether all processes in it are frozen.
    fn is_frozen(&self) -> io::Result<bool> {
        let (file, value) = match self.version {
            Version::V1 => ("freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.events", "frozen 1"),
        };
        let text = self.read(file)?;
        // A removed cgroup has no processes.
        Ok(text.lines().any(|line| line == value) || text.is_empty() && !self.exists())
    }

    /// Whether a freeze of it was requested. Before this process requests one, the request is from
    /// another program, which then thaws it.
    fn is_frozen_by_others(&self) -> io::Result<bool> {
        let file = match self.version {
            Version::V1 => "freezer.self_freezing",
            Version::V2 => "cgroup.freeze",
        };
        Ok(self.read(file)?.trim_end() == "1")
    }

    fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Writes to one of its files. Returns whether the cgroup exists.
    fn write(&self, file: &str, value: &str) -> io::Result<bool> {
        let path = self.path.join(file);
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(value.as_bytes()));
        match written {
            Ok(()) => Ok(true),
            Err(e) if is_removed(&e) && !self.exists() => Ok(false),
            Err(e) => Err(at(&format!("write {value} to"), &path)(e)),
        }
    }

    /// Reads one of its files. The result is empty if the cgroup was removed.
    fn read(&self, file: &str) -> io::Result<String> {
        let path = self.path.join(file);
        match fs::read_to_string(&path) {
            Err(e) if is_removed(&e) && !self.exists() => Ok(String::new()),
            read => read.map_err(at("read", &path)),
        }
    }
}

fn is_removed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests;
