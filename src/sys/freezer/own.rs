//! A cgroup for the processes that this process starts, so that they can be frozen.
//!
//! It is below the cgroup of this process, so the limits of that one apply to it too. It gets no controllers.
//!
//! ```text
//! <cgroup of this process>/ovl-<name>-<pid>
//! ```
//!
//! It is removed when it is dropped. A cgroup of a process that was killed is removed when the next one is made.
//! Deliberately absent: limits.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use super::{Group, Version};
use crate::sys::{
    durable::at,
    mounts::{LinuxMounts, Mount, Mounts as _},
};

/// The prefix of the names of these cgroups.
const PREFIX: &str = "ovl-";

/// A cgroup of this process. It is removed when this is dropped; its processes must have ended by then.
#[derive(Debug)]
pub struct OwnGroup(Group);

impl OwnGroup {
    /// Makes the cgroup `ovl-<name>-<pid>`, with the id of this process. `name` is a part of a file name.
    ///
    /// # Errors
    /// `NotFound` if no cgroups that can be frozen are mounted, and the errors of mkdir(2), for example
    /// `PermissionDenied` and `ReadOnlyFilesystem`.
    pub fn make(name: &str) -> io::Result<Self> {
        let table = LinuxMounts.table().map_err(io::Error::other)?;
        let own = "/proc/self/cgroup";
        let own = fs::read_to_string(own).map_err(at("read", own.as_ref()))?;
        let why = "no cgroups that can be frozen are mounted";
        let mut error = io::Error::new(io::ErrorKind::NotFound, why);
        for (parent, version) in parents(&table, &own) {
            match Self::make_below(&parent, version, name) {
                Ok(made) => return Ok(made),
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    /// Makes one in each hierarchy.
    #[cfg(test)]
    pub fn make_each(name: &str) -> Vec<Self> {
        let table = LinuxMounts.table().unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let places = parents(&table, &own);
        assert!(!places.is_empty());
        let make = |(parent, version): (PathBuf, _)| Self::make_below(&parent, version, name);
        places.into_iter().map(make).collect::<io::Result<_>>().unwrap()
    }

    fn make_below(parent: &Path, version: Version, name: &str) -> io::Result<Self> {
        remove_of_ended_processes(parent);
        let path = parent.join(format!("{PREFIX}{name}-{}", process::id()));
        fs::create_dir(&path).map_err(at("make the cgroup", &path))?;
        let made = Self(Group { path, version });
        // Without its controller, a cgroup of v1 is only a name.
        let file = match version {
            Version::V1 => "freezer.state",
            Version::V2 => "cgroup.freeze",
        };
        fs::metadata(made.0.path.join(file)).map_err(at("freeze the cgroup", &made.0.path))?;
        Ok(made)
    }

    /// Moves a process to it. The processes that it starts later are in it too.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        let path = self.0.path.join("cgroup.procs");
        let opened = OpenOptions::new().write(true).open(&path);
        opened
            .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
            .map_err(at(&format!("add process {pid} to"), &path))
    }

    /// The open directory of the cgroup, in which a process can be started. `None` for v1, which has no such start.
    pub fn directory(&self) -> Option<File> {
        match self.0.version {
            Version::V1 => None,
            Version::V2 => File::open(&self.0.path).ok(),
        }
    }

    /// The cgroup, for [`Frozen`](super::Frozen) in this process or in another one.
    pub fn group(&self) -> &Group {
        &self.0
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        // A process that has ended is in it until the kernel has cleaned up, mostly for less than a millisecond.
        for pause in [1; 20].into_iter().chain([10; 100]) {
            match fs::remove_dir(&self.0.path) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(pause));
                }
                // What remains is removed when the next one is made.
                _ => return,
            }
        }
    }
}

/// The places where this process can make cgroups that can be frozen: its own cgroup in each hierarchy, v2 first.
///
/// `own` is `/proc/self/cgroup`.
fn parents(table: &[Mount], own: &str) -> Vec<(PathBuf, Version)> {
    let found = hierarchies(table).filter_map(|(mount, version)| {
        path_in(own, version).map(|path| (below(mount, path), version))
    });
    found.collect()
}

/// The hierarchies whose cgroups can be frozen, v2 first.
pub(super) fn hierarchies(table: &[Mount]) -> impl Iterator<Item = (&Mount, Version)> {
    [("cgroup2", None, Version::V2), ("cgroup", Some("freezer"), Version::V1)]
        .into_iter()
        .filter_map(|(fs_type, controller, version)| {
            let has_controller = |mount: &&Mount| {
                controller.is_none_or(|name| mount.super_options.iter().any(|(key, _)| key == name))
            };
            let mount =
                table.iter().filter(|mount| mount.fs_type == fs_type).find(has_controller)?;
            Some((mount, version))
        })
}

/// The path of a process's cgroup in the hierarchy of this version.
///
/// `text` is `/proc/<pid>/cgroup` (cgroups(7)): `ID:CONTROLLERS:PATH`, for v2 `0::PATH`.
pub(super) fn path_in(text: &str, version: Version) -> Option<&Path> {
    let controller = match version {
        Version::V1 => "freezer",
        Version::V2 => "",
    };
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        names.split(',').any(|name| name == controller).then(|| Path::new(path))
    })
}

/// The directory of the cgroup `path`. A mount may show only a part of the hierarchy. The cgroup of this process may be
/// outside of that part, and outside of its cgroup namespace (`/..`): then it is the root of the mount.
fn below(mount: &Mount, path: &Path) -> PathBuf {
    visible(mount, path).unwrap_or_else(|| mount.target.clone())
}

/// The directory of the cgroup `path`, if the mount shows it.
pub(super) fn visible(mount: &Mount, path: &Path) -> Option<PathBuf> {
    let inner = path.strip_prefix(&mount.root).ok()?;
    let is_inside = !inner.components().any(|part| part.as_os_str() == "..");
    is_inside.then(|| mount.target.components().chain(inner.components()).collect())
}

/// Removes the cgroups of processes that do not exist any more. The kernel refuses it for one with processes.
fn remove_of_ended_processes(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let of_ended = maker_of(&entry.file_name())
            .is_some_and(|(_, pid)| !Path::new("/proc").join(pid.to_string()).exists());
        if of_ended {
            remove_with_below(&entry.path());
        }
    }
}

/// A command in a cgroup may have made others below it, and was killed with it.
fn remove_with_below(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_with_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// The name that an [`OwnGroup`] with this file name was made with, and the id of the process that made it.
pub(super) fn maker_of(file_name: &OsStr) -> Option<(&str, u32)> {
    let (name, pid) = file_name.to_str()?.strip_prefix(PREFIX)?.rsplit_once('-')?;
    Some((name, pid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{mounts::parse_table, test_dir::TestDir};

    #[test]
    fn the_place_is_the_own_cgroup_of_each_hierarchy() {
        let v2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let hybrid = "32 31 0:29 / /c/cpu rw - cgroup cgroup rw,cpu\n\
                      37 31 0:34 / /c/freezer rw - cgroup cgroup rw,freezer\n\
                      41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let part = "31 23 0:28 /a/b /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (table, own, expected) in [
            (v2, "0::/user.slice/x.scope\n", &["/sys/fs/cgroup/user.slice/x.scope"][..]),
            (v2, "0::/\n", &["/sys/fs/cgroup"]),
            (
                hybrid,
                "6:cpu,cpuacct:/c\n5:freezer:/f/g\n1:name=systemd:/s\n0::/u\n",
                &["/c/unified/u", "/c/freezer/f/g"],
            ),
            (part, "0::/a/b/c\n", &["/sys/fs/cgroup/c"]),
            (part, "0::/other\n", &["/sys/fs/cgroup"]),
            (v2, "0::/../..\n", &["/sys/fs/cgroup"]),
            ("", "0::/\n", &[]),
        ] {
            let found = parents(&parse_table(table.as_bytes()).unwrap(), own);
            let found: Vec<_> = found.iter().map(|(path, _)| path.to_str().unwrap()).collect();
            assert_eq!(found, expected, "{own}");
        }
    }

    #[test]
    fn a_cgroup_of_an_ended_process_is_removed() {
        let dir = TestDir::new();
        let own = dir.dir(&format!("ovl-a-b-{}", process::id()));
        let others = ["ovl-a-x", "ovl-4194305", "other-a-4194305"].map(|name| dir.dir(name));
        let ended = dir.dir("ovl-a-4194305");
        dir.dir("ovl-a-4194305/ovl-b-4194306");
        remove_of_ended_processes(dir.path());
        assert!(!ended.exists() && own.exists());
        assert!(others.iter().all(|other| other.exists()));
    }

    #[test]
    #[ignore = "needs root"]
    fn privileged_processes_of_an_own_cgroup_can_be_frozen_in_each_hierarchy() {
        for group in OwnGroup::make_each("test") {
            let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
            group.add(child.id().cast_signed()).unwrap();
            assert!(group.group().is_populated().unwrap());
            let frozen = super::super::Frozen::new(
                std::slice::from_ref(group.group()),
                Duration::from_secs(10),
            )
            .unwrap();
            frozen.freeze().unwrap();
            assert!(frozen.thaw().unwrap().complete);
            child.kill().unwrap();
            child.wait().unwrap();
            let path = group.group().path().to_owned();
            drop(group);
            assert!(!path.exists(), "{}", path.display());
        }
    }
}
