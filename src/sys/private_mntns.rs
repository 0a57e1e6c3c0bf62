//! Work in a thread with mounts of its own, for trials that must leave nothing behind whatever happens.
//!
//! What is attached there is seen nowhere else, and goes with the thread: when it is done, or when the process is killed.
//! Deliberately absent: bringing anything back but a value.

use std::{io, panic, thread};

use rustix::mount::{MountPropagationFlags, mount_change};

use super::durable::at;

/// Does `work` in a thread of its own that sees a private copy of all mounts.
///
/// Errors: `PermissionDenied` without `CAP_SYS_ADMIN`.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: it changes this thread alone, which is ours and ends here; no descriptor or memory is touched.
            if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } < 0 {
                return Err(io::Error::last_os_error());
            }
            let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", everything)
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
        scratch::Scratch,
    };

    #[test]
    #[ignore = "needs root"]
    fn privileged_what_is_attached_aside_is_never_seen() {
        let dir = Scratch::new();
        let target = dir.dir("target");
        let seen = run(|| {
            LinuxMounts
                .attach(LinuxMounts.create(&tmpfs("aside", None, None)).unwrap(), &target)
                .unwrap();
            std::fs::write(target.join("file"), "").unwrap();
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            table.contains(target.to_str().unwrap())
        });
        assert!(seen.unwrap());
        assert!(!target.join("file").exists());
        assert!(!LinuxMounts.table().unwrap().iter().any(|mount| mount.target == target));
    }
}
