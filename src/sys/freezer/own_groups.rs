//! Finds the cgroups that [`OwnGroup`](super::OwnGroup)s of other processes are.
//!
//! They are found by the processes in them, so no record of them is needed. Deliberately absent: cgroups that no mount of
//! this process shows.

use std::{fs, io, path::Path};

use super::{
    Group,
    own::{hierarchies, maker_of, path_in, visible},
};
use crate::sys::{
    durable::at,
    mounts::{LinuxMounts, Mount, Mounts as _},
};

/// The hierarchies in which such cgroups can be.
#[derive(Debug)]
pub struct OwnGroups {
    table: Vec<Mount>,
}

impl OwnGroups {
    /// Those that are mounted now.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn mounted() -> io::Result<Self> {
        let table = LinuxMounts.table().map_err(io::Error::other)?;
        let is_cgroup = |mount: &Mount| mount.fs_type.starts_with("cgroup");
        Ok(Self { table: table.into_iter().filter(is_cgroup).collect() })
    }

    /// The cgroup that was made with `name` and has the process in it or below it. Of several, the outermost. `None` if
    /// there is none, or if the process has ended.
    pub fn of(&self, pid: u32, name: &str) -> io::Result<Option<Group>> {
        let Some(text) = cgroups_of(&pid.to_string())? else { return Ok(None) };
        Ok(self.outermost(&text, name))
    }

    fn outermost(&self, text: &str, name: &str) -> Option<Group> {
        hierarchies(&self.table).find_map(|(mount, version)| {
            let path = path_in(text, version)?;
            let is_named =
                |path: &&Path| is_own(path).is_some_and(|(made_with, _)| made_with == name);
            let path = path.ancestors().filter(is_named).last()?;
            Some(Group { path: visible(mount, path)?, version })
        })
    }

    /// Whether this process is in such a cgroup.
    pub fn has_this_process() -> io::Result<bool> {
        let text = cgroups_of("self")?.unwrap_or_default();
        let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        Ok(paths.any(|path| Path::new(path).ancestors().any(|path| is_own(path).is_some())))
    }
}

fn is_own(path: &Path) -> Option<(&str, u32)> {
    maker_of(path.file_name()?)
}

/// The cgroups of a process. `None` if it has ended.
fn cgroups_of(process: &str) -> io::Result<Option<String>> {
    let path = format!("/proc/{process}/cgroup");
    match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        read => read.map(Some).map_err(at("read", path.as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mounts::parse_table;

    #[test]
    fn the_outermost_cgroup_with_the_name_is_found_where_a_mount_shows_it() {
        let table = "37 31 0:34 /f /c/freezer rw - cgroup cgroup rw,freezer\n\
                     41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let groups = OwnGroups { table: parse_table(table.as_bytes()).unwrap() };
        for (text, expected) in [
            ("0::/u/ovl-box-12\n", Some("/c/unified/u/ovl-box-12")),
            ("0::/ovl-box-12/ovl-box-2-13/ovl-box-14/x\n", Some("/c/unified/ovl-box-12")),
            ("5:freezer:/f/ovl-box-12\n0::/\n", Some("/c/freezer/ovl-box-12")),
            ("5:freezer:/ovl-box-12\n0::/\n", None),
            ("0::/../ovl-box-12\n", None),
            ("0::/ovl-box-2-12\n", None),
            ("0::/ovl-box\n", None),
            ("0::/\n", None),
        ] {
            let found = groups.outermost(text, "box");
            assert_eq!(
                found.as_ref().map(|group| group.path().to_str().unwrap()),
                expected,
                "{text}"
            );
        }
        assert!(!OwnGroups::has_this_process().unwrap());
    }
}
