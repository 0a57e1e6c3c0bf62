//! Processes that are forked, continue in Rust code, and are waited for.
//!
//! Deliberately absent: forks of a process with several threads. The child would have only the thread that forked, and
//! the locks of all others.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork as nix_fork},
};
use rustix::process::set_parent_process_death_signal;

use crate::sys::{durable::at, proc_fd};

/// The exit code of a child whose code panicked.
const PANICKED: u8 = 101;

/// A process that was forked. It is not killed when this is dropped.
#[derive(Debug)]
pub struct Child(Pid);

impl Child {
    /// The id, as the parent sees it.
    pub fn id(&self) -> i32 {
        self.0.as_raw()
    }

    /// The exit code if the process has ended. For a process that a signal ended it is 128 + the number of the signal,
    /// as in a shell.
    pub fn try_wait(&self) -> io::Result<Option<u8>> {
        Ok(exit_code(waitpid(self.0, Some(WaitPidFlag::WNOHANG))?).map(|(_, code)| code))
    }

    /// Sends a signal. Valid only while the process was not waited for.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        Ok(kill(self.0, Signal::try_from(number)?)?)
    }
}

/// Waits for a child that has ended, without blocking. Returns its id and its exit code, as in [`Child::try_wait`].
pub fn reap() -> io::Result<Option<(i32, u8)>> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Err(Errno::ECHILD) => Ok(None),
        status => Ok(exit_code(status?)),
    }
}

fn exit_code(status: WaitStatus) -> Option<(i32, u8)> {
    match status {
        // The kernel keeps the low 8 bits of an exit code.
        WaitStatus::Exited(pid, code) => Some((pid.as_raw(), code.to_le_bytes()[0])),
        WaitStatus::Signaled(pid, signal, _) => {
            Some((pid.as_raw(), (128 + signal as i32).to_le_bytes()[0]))
        }
        _ => None,
    }
}

/// Forks a process that runs `child` and ends with the exit code that it returns.
///
/// # Errors
/// `Unsupported` if this process has more than one thread, and the errors of fork(2).
pub fn fork(child: impl FnOnce() -> u8) -> io::Result<Child> {
    require_one_thread()?;
    // SAFETY: this is the only thread, so no lock is held by another one in the child.
    match unsafe { nix_fork() }? {
        ForkResult::Parent { child } => Ok(Child(child)),
        ForkResult::Child => end_with(child),
    }
}

fn require_one_thread() -> io::Result<()> {
    let threads =
        fs::read_dir("/proc/self/task").map_err(at("list", "/proc/self/task".as_ref()))?;
    let threads = threads.count();
    if threads != 1 {
        let why = format!("a process with {threads} threads cannot be forked safely");
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(())
}

/// Runs the code of a child, and ends the process with the exit code that it returns.
fn end_with(child: impl FnOnce() -> u8) -> ! {
    let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
    // SAFETY: it ends the process without running what the parent registered with atexit(3).
    unsafe { libc::_exit(code.into()) }
}

/// Like [`fork`]. The child is process 1 of a new PID namespace. Later children of this process are in the namespace
/// of this process, as before.
///
/// # Errors
/// `PermissionDenied` without `CAP_SYS_ADMIN`, and those of [`fork`].
pub fn fork_as_init(child: impl FnOnce() -> u8) -> io::Result<Child> {
    let before = "/proc/self/ns/pid_for_children";
    let before = File::open(before).map_err(at("open", before.as_ref()))?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let forked = fork(child);
    if let Err(errno) = setns(&before, CloneFlags::CLONE_NEWPID) {
        if let Ok(child) = forked {
            child.signal(libc::SIGKILL)?;
            waitpid(child.0, None)?;
        }
        return Err(errno.into());
    }
    forked
}

/// Like [`fork_as_init`], with the child in the cgroup (v2) whose directory is open as `cgroup` from its first moment.
/// To move a process that exists, the kernel waits for all processors, which takes 5 to 25 ms (Linux 6.18, two cores).
///
/// # Errors
/// `Unsupported` if this process has more than one thread. Every other error means that nothing was forked: kernels
/// before 5.7 cannot do this, and a cgroup may refuse it (clone(2), `CLONE_INTO_CGROUP`).
pub fn fork_as_init_in(cgroup: BorrowedFd<'_>, child: impl FnOnce() -> u8) -> io::Result<Child> {
    require_one_thread()?;
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP | u64::from(CloneFlags::CLONE_NEWPID.bits().unsigned_abs()),
        exit_signal: libc::SIGCHLD.unsigned_abs().into(),
        cgroup: cgroup.as_raw_fd().unsigned_abs().into(),
        ..CloneArgs::default()
    };
    // SAFETY: the structure is valid and lives through the call. Without CLONE_VM and with no stack of its own, the child
    // has a copy of this process, as after fork(2). This is the only thread, so no lock is held by another one in it.
    let cloned =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match libc::pid_t::try_from(cloned) {
        Ok(0) => end_with(child),
        Ok(pid) if pid > 0 => Ok(Child(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `CLONE_INTO_CGROUP` of linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, which libc does not have.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes the kernel kill this process when its parent ends. It must not change its user afterwards, because that ends
/// this setting. The caller must check afterwards that the parent had not ended before.
pub fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// Closes this process's copy of a descriptor that the parent owns.
///
/// Only for a child that was forked with a borrow of the parent's descriptor. It never drops the owner.
pub fn close_copy(of: impl AsFd) {
    close(of.as_fd().as_raw_fd());
}

/// Closes all descriptors of this process but the standard ones and those in `keep`. With `keep_inherited`, those that
/// stay open in a program that is started are kept too: they came from the caller's own parent.
///
/// Only for a forked child that drops none of the owners.
pub fn close_descriptors(keep: &[BorrowedFd<'_>], keep_inherited: bool) -> io::Result<()> {
    let entries = fs::read_dir(proc_fd::DIR).map_err(at("list", proc_fd::DIR.as_ref()))?;
    let numbers: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2 && !keep.iter().any(|fd| fd.as_raw_fd() == *number))
        .collect();
    for number in numbers {
        // SAFETY: it takes a number and changes nothing. A number that is closed is an error.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if !(keep_inherited && flags >= 0 && flags & libc::FD_CLOEXEC == 0) {
            close(number);
        }
    }
    Ok(())
}

fn close(number: RawFd) {
    // SAFETY: the process is a forked child, which uses and drops no owner of this descriptor. So the number is not
    // used again by mistake.
    unsafe { libc::close(number) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each test has a thread beside the main one.
    #[test]
    fn a_process_with_several_threads_is_not_forked() {
        let cgroup = File::open("/").unwrap();
        let in_cgroup = fork_as_init_in(cgroup.as_fd(), || 0);
        assert_eq!(in_cgroup.unwrap_err().kind(), io::ErrorKind::Unsupported);
        for error in [fork(|| 0), fork_as_init(|| 0)].map(Result::unwrap_err) {
            let is_expected = [io::ErrorKind::Unsupported, io::ErrorKind::PermissionDenied];
            assert!(is_expected.contains(&error.kind()), "{error}");
        }
        assert_eq!(fork(|| 0).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
