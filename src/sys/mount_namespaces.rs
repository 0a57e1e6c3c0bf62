//! The mount namespaces of this machine: which mounts each of them has, and which processes keep it.
//!
//! A mount exists as long as one namespace has it, and a namespace exists as long as a process is in it. So the mount table
//! of this process alone does not say whether a file system is still mounted. Reading the tables of other processes needs
//! root.
//!
//! Deliberately absent: namespaces that only an open file keeps, and processes that this one does not see or may not look at.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::{AtFlags, StatxFlags, statx},
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    durable::at,
    errno,
    mounts::{Detached, Mount, MountError, parse_table},
};

/// How long a process that is ending is waited for. Its mounts may still be there.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two looks at a process that is ending.
const EXIT_PAUSE: Duration = Duration::from_millis(2);

/// Bytes of a mount table that are read at once.
const TABLE: usize = 64 << 10;

/// A mount in one mount namespace.
#[derive(Debug, Clone)]
pub struct MountElsewhere {
    /// The line of the mount table. Its target is as the processes of the namespace see it.
    pub mount: Mount,
    /// The processes in the namespace, in ascending order. At least one.
    pub pids: Vec<u32>,
    /// Whether it is the namespace of this process.
    pub is_own: bool,
}

/// The mounts for which `is_wanted` returns true, in all namespaces of this machine. Only tables that have `text` are
/// parsed. Waits for processes that are ending, because they may have a namespace still.
///
/// # Errors
/// The table of a process cannot be read or parsed.
pub fn find(
    text: &Path,
    is_wanted: impl Fn(&Mount) -> bool,
) -> Result<Vec<MountElsewhere>, MountError> {
    let own = namespace_of("self").map_err(MountError::Table)?;
    let mut found = Vec::new();
    for (namespace, pids) in namespaces().map_err(MountError::Table)? {
        let table = pids.iter().find_map(|pid| table_of(*pid).transpose());
        let Some(table) = table else { continue };
        let table = table.map_err(MountError::Table)?;
        if !contains(&table, text.as_os_str().as_bytes()) {
            continue;
        }
        let table = parse_table(&table)
            .map_err(|e| MountError::Table(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        let is_own = namespace == own;
        found.extend(
            table.into_iter().filter(|mount| is_wanted(mount)).map(|mount| MountElsewhere {
                mount,
                pids: pids.clone(),
                is_own,
            }),
        );
    }
    Ok(found)
}

/// Whether a process is in a mount namespace still. One that is ending has left it.
pub fn has_namespace(pid: u32) -> bool {
    namespace_of(&pid.to_string()).is_ok()
}

/// Makes a detached mount of the file system that process `pid` has mounted at `target`, as that process sees the path.
///
/// # Errors
/// The process has ended, or nothing is mounted there.
pub fn clone_from(pid: u32, target: &Path) -> Result<Detached, MountError> {
    let of_process = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
    let namespace =
        fs::File::open(&of_process).map_err(|e| MountError::Table(at("open", &of_process)(e)))?;
    let enter = || -> Result<Detached, nix::Error> {
        // Only this thread changes its namespace. It has a root and a working directory of its own for that.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(rustix::fs::CWD, target, flags).map(Detached::mount).map_err(errno)
    };
    let cloned = thread::scope(|scope| scope.spawn(enter).join());
    let failed = |errno| MountError::Refused {
        what: format!("clone the mount {} of process {pid}", target.display()),
        errno,
        kernel_log: Vec::new(),
    };
    match cloned {
        Ok(cloned) => cloned.map_err(failed),
        Err(panicked) => std::panic::resume_unwind(panicked),
    }
}

/// The processes that use a file or a directory at `path` or below it: as their working directory, their root, their
/// program, or an open file. In ascending order, without this process.
pub fn users_of(path: &Path) -> Vec<u32> {
    let uses = |pid: &u32| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let is_below = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(path));
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        ["cwd", "root", "exe"].iter().any(|link| is_below(process.join(link)))
            || files.map(|file| file.path()).any(is_below)
    };
    let pids = pids().unwrap_or_default();
    pids.into_iter().filter(|pid| *pid != process::id()).filter(uses).collect()
}

/// A process that has one of these mounts as its root or working directory, or has opened something through one. Without this
/// process and those in `except`. `None` if there is none.
pub fn user_of_mounts(mounts: &[u64], except: &[u32]) -> io::Result<Option<u32>> {
    let mut pids = pids()?;
    pids.retain(|pid| *pid != process::id() && !except.contains(pid));
    Ok(pids.into_iter().find(|pid| uses_mounts(*pid, mounts)))
}

fn uses_mounts(pid: u32, mounts: &[u64]) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let is_in = |link: &str| {
        // The file system itself, which may not respond, is not asked.
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let found = statx(rustix::fs::CWD, process.join(link), flags, StatxFlags::MNT_ID);
        found.is_ok_and(|found| mounts.contains(&found.stx_mnt_id))
    };
    let opened = |file: fs::DirEntry| {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        let mount = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        mount.and_then(|id| id.trim().parse().ok()).is_some_and(|id| mounts.contains(&id))
    };
    let files = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
    is_in("cwd") || is_in("root") || files.into_iter().any(opened)
}

/// The name of a process. `None` if it has ended.
pub fn process_name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The processes of each namespace.
fn namespaces() -> io::Result<BTreeMap<PathBuf, Vec<u32>>> {
    let mut all: BTreeMap<PathBuf, Vec<u32>> = BTreeMap::new();
    for pid in pids()? {
        let start = Instant::now();
        loop {
            match namespace_of(&pid.to_string()) {
                Ok(namespace) => {
                    all.entry(namespace).or_default().push(pid);
                    break;
                }
                // This process may not look at it, as in a container.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => break,
                // It has ended, or is ending.
                Err(_) if has_no_mounts(pid) || start.elapsed() > EXIT_TIMEOUT => break,
                Err(_) => thread::sleep(EXIT_PAUSE),
            }
        }
    }
    all.values_mut().for_each(|pids| pids.sort_unstable());
    Ok(all)
}

fn namespace_of(process: &str) -> io::Result<PathBuf> {
    let link = PathBuf::from(format!("/proc/{process}/ns/mnt"));
    fs::read_link(&link).map_err(at("read", &link))
}

/// Whether a process without a namespace has left no mounts behind: it is a zombie, or gone. A process that is ending has
/// left its namespace already, and its last mounts end before it becomes a zombie (`do_exit` in kernel/exit.c).
fn has_no_mounts(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name in brackets can have any character.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, None | Some('Z' | 'X' | 'I'))
}

/// The mount table of a process. `None` if it has ended.
fn table_of(pid: u32) -> io::Result<Option<Vec<u8>>> {
    let path = PathBuf::from(format!("/proc/{pid}/mountinfo"));
    // The kernel does not say how long it is. With a buffer that grows from 32 bytes, most reads return a part of a line.
    let mut table = Vec::with_capacity(TABLE);
    match fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut table)) {
        Ok(_) => Ok(Some(table)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        // It is ending.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => Ok(None),
        Err(e) => Err(at("read", &path)(e)),
    }
}

/// All processes, without the kernel's threads. There can be a thousand of these. They have the namespace of the first process
/// and no files.
fn pids() -> io::Result<Vec<u32>> {
    let kernel = kernel_threads();
    let proc = Path::new("/proc");
    let mut pids = Vec::new();
    for entry in fs::read_dir(proc).map_err(at("list", proc))? {
        let name = entry.map_err(at("list", proc))?.file_name();
        pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    pids.retain(|pid| !kernel.contains(pid));
    Ok(pids)
}

/// The threads of the kernel: the children of kthreadd, which has the id 2. Empty in a container and on kernels without
/// `CONFIG_PROC_CHILDREN`.
fn kernel_threads() -> HashSet<u32> {
    /// `PF_KTHREAD` of include/linux/sched.h.
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let stat = fs::read_to_string("/proc/2/stat").unwrap_or_default();
    // After the name in brackets, the flags are the seventh field (proc_pid_stat(5)).
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6));
    let flags = flags.and_then(|flags| flags.parse::<u32>().ok()).unwrap_or_default();
    if flags & KERNEL_THREAD == 0 {
        return HashSet::new();
    }
    let children = fs::read_to_string("/proc/2/task/2/children").unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether the table has `text`. A path with an escaped character counts as found: then the table is parsed.
fn contains(table: &[u8], text: &[u8]) -> bool {
    let is_escaped = text.iter().any(|byte| b" \t\n\\,=:".contains(byte));
    is_escaped || memchr::memmem::find(table, text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_of_the_kernel_are_no_processes() {
        let (pids, kernel) = (pids().unwrap(), kernel_threads());
        assert!(pids.contains(&process::id()));
        assert!(pids.iter().all(|pid| !kernel.contains(pid)));
        for thread in kernel {
            let words = fs::read(format!("/proc/{thread}/cmdline")).unwrap_or_default();
            assert!(words.is_empty(), "{thread} has arguments");
        }
    }
}
