//! Makes the processes of a pod stand still, for a bounded time.
//!
//! A pod's cgroup is found by the pod's uid, whatever the kubelet's cgroup driver calls it and however deep it lies:
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
//! Whatever becomes of the caller, who is frozen is thawed: by [`Frozen`] when it is dropped, and by a thread of its own at the
//! deadline. What a kill of this process leaves frozen is thawed by whoever kept the [`Group`]s on disk. Deliberately absent:
//! `FIFREEZE`, which stops everybody on a file system and outlives the process.

mod frozen;

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

pub use self::frozen::{Frozen, Stood};
use super::durable::at;

/// How deep a pod's cgroup may lie: a kubelet in a container of a container has eight above it.
const DEPTH: usize = 16;

/// The most cgroups that are looked at.
const GROUPS: usize = 50_000;

/// Where the cgroups of the node's pods are found.
#[derive(Debug, Clone)]
pub struct Freezer {
    root: PathBuf,
    proc: PathBuf,
}

/// A cgroup whose processes can be made to stand still.
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
    /// That of a node whose cgroups are mounted at `root`, and whose processes are listed in `proc`.
    pub fn new(root: PathBuf, proc: PathBuf) -> Self {
        Self { root, proc }
    }

    /// This node's, as its first process sees it: a container may see no cgroup but its own.
    pub fn of_node() -> Self {
        Self::new("/proc/1/root/sys/fs/cgroup".into(), "/proc".into())
    }

    /// This machine's, for a process that runs on it without a cluster: as the first process sees it, or, where nobody may look
    /// through that one's eyes, as this one does.
    pub fn of_machine() -> Self {
        let node = Self::of_node();
        match fs::read_dir(&node.root) {
            Ok(_) => node,
            Err(_) => Self::new("/sys/fs/cgroup".into(), "/proc".into()),
        }
    }

    /// The cgroups of a pod: none where it has ended, several where one is seen in several places.
    ///
    /// Errors: `NotFound` where there are no cgroups to look at, or where a process is in a cgroup of the pod and that is not
    /// found; nobody must take it for a pod that has ended.
    pub fn find(&self, pod_uid: &str) -> io::Result<Vec<Group>> {
        let names = Names::of(pod_uid);
        let (mut found, mut looked) = (Vec::new(), 0);
        for (top, version) in self.tops() {
            looked += 1;
            search(&top, version, &names, &mut found)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let missing = |why| Err(io::Error::new(io::ErrorKind::NotFound, why));
        let root = self.root.display();
        if looked == 0 {
            return missing(format!("no cgroups that can be frozen are mounted at {root}"));
        }
        match self.process_of(&names)? {
            Some(pid) => missing(format!(
                "process {pid} is in a cgroup of pod {pod_uid}, which is not beneath {root}"
            )),
            None => Ok(found),
        }
    }

    /// The hierarchies that can freeze, the one that has controllers first.
    fn tops(&self) -> Vec<(PathBuf, Version)> {
        let v2 = |path: &Path| path.join("cgroup.controllers").exists();
        let (freezer, unified) = (self.root.join("freezer"), self.root.join("unified"));
        let mut tops = Vec::new();
        if v2(&self.root) {
            tops.push((self.root.clone(), Version::V2));
        }
        if freezer.join("cgroup.procs").exists() {
            tops.push((freezer, Version::V1));
        }
        if v2(&unified) {
            tops.push((unified, Version::V2));
        }
        tops
    }

    /// A process in a cgroup whose path names the pod.
    fn process_of(&self, names: &Names) -> io::Result<Option<String>> {
        for entry in fs::read_dir(&self.proc).map_err(at("list", &self.proc))? {
            let entry = entry.map_err(at("list", &self.proc))?;
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // One that has ended meanwhile is in no cgroup.
            let groups = fs::read(entry.path().join("cgroup")).unwrap_or_default();
            let mut parts = groups.split(|byte| matches!(byte, b'/' | b'\n'));
            if parts.any(|part| names.is_it(OsStr::from_bytes(part))) {
                return Ok(Some(pid));
            }
        }
        Ok(None)
    }
}

/// What the cgroup of one pod may be called.
struct Names {
    plain: String,
    slice: String,
}

impl Names {
    fn of(uid: &str) -> Self {
        Self { plain: format!("pod{uid}"), slice: format!("-pod{}.slice", uid.replace('-', "_")) }
    }

    fn is_it(&self, name: &OsStr) -> bool {
        name == self.plain.as_str() || name.as_bytes().ends_with(self.slice.as_bytes())
    }
}

/// Whether it is the cgroup of some pod. What is called what within is up to that pod.
fn is_of_a_pod(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let uid = |rest: &[u8]| {
        rest.len() >= 32 && rest.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
    };
    name.strip_prefix(b"pod").is_some_and(uid)
        || name.ends_with(b".slice") && name.windows(4).any(|part| part == b"-pod")
}

fn search(top: &Path, version: Version, names: &Names, found: &mut Vec<Group>) -> io::Result<()> {
    let mut next = VecDeque::from([(top.to_owned(), 0)]);
    let mut looked = 0;
    while let Some((dir, depth)) = next.pop_front() {
        looked += 1;
        if looked > GROUPS {
            let why = format!("more than {GROUPS} cgroups are beneath {}", top.display());
            return Err(io::Error::other(why));
        }
        let entries = match fs::read_dir(&dir) {
            // Its last process has gone since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => continue,
            entries => entries.map_err(at("list", &dir))?,
        };
        // One that vanishes while it is listed has no more entries.
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            if names.is_it(&name) {
                found.push(Group { path: entry.path(), version });
            } else if depth < DEPTH && !is_of_a_pod(&name) {
                next.push_back((entry.path(), depth + 1));
            }
        }
    }
    Ok(())
}

impl Group {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a process is in it or beneath it. The kernel takes a cgroup without any for one that stands still.
    pub fn is_populated(&self) -> io::Result<bool> {
        match self.version {
            Version::V2 => {
                Ok(self.read("cgroup.events")?.lines().any(|line| line == "populated 1"))
            }
            Version::V1 => {
                let mut next = vec![Self { path: self.path.clone(), version: self.version }];
                while let Some(group) = next.pop() {
                    if !group.read("cgroup.procs")?.is_empty() {
                        return Ok(true);
                    }
                    // One that vanishes while it is listed has nobody in it.
                    let entries = fs::read_dir(&group.path).into_iter().flatten().flatten();
                    let dirs =
                        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                    next.extend(
                        dirs.map(|entry| Self { path: entry.path(), version: self.version }),
                    );
                }
                Ok(false)
            }
        }
    }

    /// Lets everybody in it go on, again and again until the kernel takes it. One that is gone has nobody in it.
    pub fn thaw(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let (file, word) = match self.version {
                Version::V1 => ("freezer.state", "THAWED"),
                Version::V2 => ("cgroup.freeze", "0"),
            };
            match self.write(file, word) {
                Err(e) if tries == 20 => return Err(e),
                Err(_) => thread::sleep(Duration::from_millis(10)),
                Ok(_) => return Ok(()),
            }
            tries += 1;
        }
    }

    /// Tells everybody in it to stand still; answers whether they do.
    fn freeze(&self) -> io::Result<bool> {
        let there = match self.version {
            // Once more each time: a process that was made meanwhile has not heard it.
            Version::V1 => self.write("freezer.state", "FROZEN")?,
            Version::V2 => self.write("cgroup.freeze", "1")?,
        };
        Ok(!there || self.is_still()?)
    }

    /// Whether everybody in it stands still.
    fn is_still(&self) -> io::Result<bool> {
        let (file, word) = match self.version {
            Version::V1 => ("freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.events", "frozen 1"),
        };
        let said = self.read(file)?;
        // One that is gone has nobody in it.
        Ok(said.lines().any(|line| line == word) || said.is_empty() && !self.is_there())
    }

    /// Whether somebody else has frozen it: then it is theirs to thaw.
    fn is_frozen_by_others(&self) -> io::Result<bool> {
        let asked = match self.version {
            Version::V1 => "freezer.self_freezing",
            Version::V2 => "cgroup.freeze",
        };
        Ok(self.read(asked)?.trim_end() == "1")
    }

    fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Writes to one of its files; answers whether the cgroup is there.
    fn write(&self, file: &str, word: &str) -> io::Result<bool> {
        let path = self.path.join(file);
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(word.as_bytes()));
        match written {
            Ok(()) => Ok(true),
            Err(e) if is_gone(&e) && !self.is_there() => Ok(false),
            Err(e) => Err(at(&format!("write {word} to"), &path)(e)),
        }
    }

    /// What one of its files says; nothing where the cgroup is gone.
    fn read(&self, file: &str) -> io::Result<String> {
        let path = self.path.join(file);
        match fs::read_to_string(&path) {
            Err(e) if is_gone(&e) && !self.is_there() => Ok(String::new()),
            read => read.map_err(at("read", &path)),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests;
