//! The memory limit of this process: the smallest limit of its cgroup and of the cgroups above it.
//!
//! ```text
//! v2      <mount>/<path>/memory.max                  "max", or bytes
//! v1      <mount>/<path>/memory.limit_in_bytes       bytes; close to 2^63 if there is no limit
//! ```
//!
//! A container sees its own cgroup as the topmost one. Limits above it are then not visible and do not count here. They
//! are rarely smaller. Source: kernel doc, cgroup-v2.rst and cgroup-v1/memory.rst; proc_pid_mountinfo(5).

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// A number of bytes from here on means "no limit".
const NO_LIMIT: u64 = 1 << 60;

/// The limit in bytes. `None` if there is no limit, or none is visible.
pub fn limit() -> Option<u64> {
    limit_of(Path::new("/proc/self"))
}

fn limit_of(process: &Path) -> Option<u64> {
    let cgroups = fs::read_to_string(process.join("cgroup")).ok()?;
    let mounts = fs::read(process.join("mountinfo")).ok()?;
    let mounts = mounts.split(|byte| *byte == b'\n').filter_map(mount);
    mounts.filter_map(|mount| mount.limit(&cgroups)).min()
}

/// A mount of a cgroup hierarchy that may limit memory.
struct Mount {
    root: PathBuf,
    at: PathBuf,
    is_v1: bool,
}

impl Mount {
    fn limit(&self, cgroups: &str) -> Option<u64> {
        let path = cgroups.lines().find_map(|line| self.path(line))?;
        // A mount that shows another part of the hierarchy shows this process's own cgroup as its root.
        let below = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let file = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        let bytes = |cgroup: &Path| -> Option<u64> {
            let bytes = fs::read_to_string(self.at.join(cgroup).join(file)).ok()?;
            bytes.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
        };
        below.ancestors().filter_map(bytes).min()
    }

    /// The path of the process's cgroup, if `line` of `/proc/PID/cgroup` belongs to this hierarchy. The format is
    /// `number:controllers:path`.
    fn path<'l>(&self, line: &'l str) -> Option<&'l Path> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let matches = match self.is_v1 {
            true => controllers.split(',').any(|name| name == "memory"),
            false => controllers.is_empty(),
        };
        matches.then_some(Path::new(path))
    }
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, at) = (fields.nth(3)?, fields.next()?);
    let mut after_separator = fields.skip_while(|field| *field != b"-").skip(1);
    let (fs_type, options) = (after_separator.next()?, after_separator.nth(1)?);
    let is_v1 = match fs_type {
        b"cgroup" if options.split(|byte| *byte == b',').any(|name| name == b"memory") => true,
        b"cgroup2" => false,
        _ => return None,
    };
    // Spaces in these paths are escaped as \040. No cgroup of a kubelet has spaces.
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    Some(Mount { root: path(root), at: path(at), is_v1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit of a process with the given `/proc/PID/cgroup`, mount table and cgroup files. In `mounts`, `%` stands
    /// for the test's directory.
    fn limit_with(cgroup: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(dir.path().join("cgroup"), cgroup).unwrap();
        let here = dir.path().display().to_string();
        fs::write(dir.path().join("mountinfo"), mounts.replace('%', &here)).unwrap();
        limit_of(dir.path())
    }

    const V2: &str = "31 23 0:28 / %/fs rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_smallest_limit_of_all_ancestors_counts() {
        let files = [
            ("fs/a/b/c/memory.max", "max\n"),
            ("fs/a/b/memory.max", "1000\n"),
            ("fs/a/memory.max", "2000\n"),
        ];
        assert_eq!(limit_with("0::/a/b/c\n", V2, &files), Some(1000));
        assert_eq!(limit_with("0::/a\n", V2, &files), Some(2000));
        assert_eq!(limit_with("0::/elsewhere\n", V2, &files), None);
        assert_eq!(limit_with("0::/a/b/c\n", "", &files), None);
    }

    #[test]
    fn a_limit_is_read_where_a_container_sees_its_own_cgroup_as_the_root() {
        let own = [("fs/memory.max", "512\n")];
        assert_eq!(limit_with("0::/\n", V2, &own), Some(512));
        let bound = "31 23 0:28 /kubepods/pod1/c1 %/fs ro - cgroup2 cgroup rw\n";
        assert_eq!(limit_with("0::/kubepods/pod1/c1\n", bound, &own), Some(512));
    }

    #[test]
    fn the_limits_of_cgroup_v1_are_read() {
        let mounts = "32 31 0:29 / %/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / %/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / %/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/a/b\n1:cpu:/x\n0::/\n";
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.limit_in_bytes", "7000\n"),
            ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limit_with(groups, mounts, &files), Some(7000));
        assert_eq!(limit_with(groups, mounts, &files[..1]), None);
    }
}
