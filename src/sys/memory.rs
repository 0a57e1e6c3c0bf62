//! How much memory this process may have: the smallest limit of its cgroup and of those above it.
//!
//! ```text
//! v2      <mount>/<path>/memory.max                  "max", or bytes
//! v1      <mount>/<path>/memory.limit_in_bytes       bytes, next to 2^63 where there is none
//! ```
//!
//! A container sees its own cgroup as the top one or nothing above it: then what is above counts for nothing here, and it is
//! rarely smaller. Source: kernel doc, cgroup-v2.rst and cgroup-v1/memory.rst; proc_pid_mountinfo(5).

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// A limit that is none.
const NONE: u64 = 1 << 60;

/// The limit in bytes; `None` where there is none, or it cannot be seen.
pub fn limit() -> Option<u64> {
    limit_of(Path::new("/proc/self"))
}

fn limit_of(process: &Path) -> Option<u64> {
    let groups = fs::read_to_string(process.join("cgroup")).ok()?;
    let mounts = fs::read(process.join("mountinfo")).ok()?;
    let mounts = mounts.split(|byte| *byte == b'\n').filter_map(mount);
    mounts.filter_map(|mount| mount.limit(&groups)).min()
}

/// A mount of a cgroup hierarchy that may limit memory.
struct Mount {
    root: PathBuf,
    at: PathBuf,
    is_v1: bool,
}

impl Mount {
    fn limit(&self, groups: &str) -> Option<u64> {
        let path = groups.lines().find_map(|line| self.path(line))?;
        // A mount that shows another part of the hierarchy shows this process's own cgroup as its root.
        let below = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let file = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        let bytes = |group: &Path| -> Option<u64> {
            let bytes = fs::read_to_string(self.at.join(group).join(file)).ok()?;
            bytes.trim().parse().ok().filter(|bytes| *bytes < NONE)
        };
        below.ancestors().filter_map(bytes).min()
    }

    /// The process's cgroup, where a line of its list is about this hierarchy: `number:controllers:path`.
    fn path<'l>(&self, line: &'l str) -> Option<&'l Path> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it = match self.is_v1 {
            true => controllers.split(',').any(|name| name == "memory"),
            false => controllers.is_empty(),
        };
        is_it.then_some(Path::new(path))
    }
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (root, at) = (fields.nth(3)?, fields.next()?);
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, options) = (behind.next()?, behind.nth(1)?);
    let is_v1 = match kind {
        b"cgroup" if options.split(|byte| *byte == b',').any(|name| name == b"memory") => true,
        b"cgroup2" => false,
        _ => return None,
    };
    // Blanks in these paths are written as \040; no cgroup of a kubelet has any.
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    Some(Mount { root: path(root), at: path(at), is_v1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process reads, with the cgroups in `files` mounted as `mounts` say (`%` stands for the directory).
    fn seen(cgroup: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
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
    fn the_smallest_limit_of_all_above_counts() {
        let files = [
            ("fs/a/b/c/memory.max", "max\n"),
            ("fs/a/b/memory.max", "1000\n"),
            ("fs/a/memory.max", "2000\n"),
        ];
        assert_eq!(seen("0::/a/b/c\n", V2, &files), Some(1000));
        assert_eq!(seen("0::/a\n", V2, &files), Some(2000));
        assert_eq!(seen("0::/elsewhere\n", V2, &files), None);
        assert_eq!(seen("0::/a/b/c\n", "", &files), None);
    }

    #[test]
    fn a_container_sees_its_own_cgroup_as_the_top_one() {
        let own = [("fs/memory.max", "512\n")];
        assert_eq!(seen("0::/\n", V2, &own), Some(512));
        let bound = "31 23 0:28 /kubepods/pod1/c1 %/fs ro - cgroup2 cgroup rw\n";
        assert_eq!(seen("0::/kubepods/pod1/c1\n", bound, &own), Some(512));
    }

    #[test]
    fn the_older_hierarchy_is_read_too() {
        let mounts = "32 31 0:29 / %/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / %/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / %/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/a/b\n1:cpu:/x\n0::/\n";
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.limit_in_bytes", "7000\n"),
            ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(seen(groups, mounts, &files), Some(7000));
        assert_eq!(seen(groups, mounts, &files[..1]), None);
    }
}
