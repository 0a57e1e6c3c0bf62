//! Runs code in a thread with a private mount namespace, for probes that must leave no mounts behind.
//!
//! Mounts that are attached there are visible nowhere else. They disappear when the thread ends, also when the process
//! is killed. Deliberately absent: results other than a value.

use std::{io, panic, thread};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::durable::at;

/// Runs `work` in a new thread that sees a private copy of all mounts.
///
/// # Errors
/// `PermissionDenied` without `CAP_SYS_ADMIN`.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // It changes only this thread, which is ours and ends here.
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
            let recursive_private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", recursive_private)
                .map_err(|e| at("make private", "/".as_ref())(e.into()))?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{
        mounts::{LinuxMounts, Mounts as _, tmpfs},
        test_dir::TestDir,
    };

    #[test]
    #[ignore = "needs root"]
    fn privileged_a_mount_in_a_private_namespace_is_not_visible_outside() {
        let dir = TestDir::new();
        let target = dir.dir("target");
        let visible_inside = run(|| {
            LinuxMounts
                .attach(LinuxMounts.create(&tmpfs("private", None, None)).unwrap(), &target)
                .unwrap();
            std::fs::write(target.join("file"), "").unwrap();
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            table.contains(target.to_str().unwrap())
        });
        assert!(visible_inside.unwrap());
        assert!(!target.join("file").exists());
        assert!(!LinuxMounts.table().unwrap().iter().any(|mount| mount.target == target));
    }
}
