//! A process that thaws cgroups when this process is killed.
//!
//! ```text
//! this process ── pipe ──► the other one waits
//!   end            a byte     ends
//!   drop, a kill   closed     thaws, ends
//!                  deadline   thaws, ends
//! ```
//!
//! It has a session of its own and blocks all signals, so what ends this process (Ctrl-C, the end of a service) does not end
//! it too. It has opened the files that it writes before, so it needs no memory, and this process may have several threads.
//!
//! It keeps the locks of this process until it ends. So a process that waits for such a lock does not freeze the same cgroups
//! before they were thawed.

use std::{
    fs::{File, OpenOptions},
    io::{self, PipeWriter, Read as _, Write as _},
    os::fd::{AsRawFd as _, RawFd},
    time::Duration,
};

use nix::sys::signal::{SigSet, SigmaskHow};

use super::Group;
use crate::sys::durable::at;

/// How often a thaw that the kernel refuses is tried, and the pause between two tries in milliseconds.
const TRIES: u32 = 20;
const PAUSE: libc::c_int = 10;

/// A process that thaws cgroups when this process ends without [`ThawProcess::end`].
#[derive(Debug)]
pub struct ThawProcess {
    pid: libc::pid_t,
    /// Closed first when this is dropped.
    pipe: Option<PipeWriter>,
}

impl ThawProcess {
    /// Starts it for these cgroups, before they are frozen. It thaws them after `within` at the latest.
    ///
    /// # Errors
    /// No process can be started, or a file of a cgroup cannot be opened.
    pub fn start(groups: &[Group], within: Duration) -> io::Result<Self> {
        let files = groups.iter().map(Request::new).collect::<io::Result<Vec<_>>>()?;
        let requests: Vec<_> =
            files.iter().map(|file| (file.file.as_raw_fd(), file.value.as_bytes())).collect();
        let (reader, writer) = io::pipe()?;
        let (mut ready, ready_writer) = io::pipe()?;
        let millis = within.as_millis().try_into().unwrap_or(libc::c_int::MAX);
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the child calls only functions that are async-signal-safe (signal-safety(7)), and allocates nothing.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: this is the child of a fork.
            unsafe {
                let (ready, writer) = (ready_writer.as_raw_fd(), writer.as_raw_fd());
                thaw_at_end(reader.as_raw_fd(), writer, ready, &requests, millis)
            }
        }
        let error = io::Error::last_os_error();
        before.thread_set_mask()?;
        if pid == -1 {
            return Err(error);
        }
        let process = Self { pid, pipe: Some(writer) };
        drop(ready_writer);
        // Before that, a signal to the process group of this process would end it too.
        ready.read_exact(&mut [0])?;
        Ok(process)
    }

    /// Ends it after the cgroups were thawed.
    pub fn end(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // It may have ended at the deadline.
            let _ = pipe.write_all(&[0]);
        }
    }
}

impl Drop for ThawProcess {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // SAFETY: a null pointer is valid for a status that is not wanted. The process is a child that was not waited for.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// A file that thaws a cgroup, opened, and what is written to it.
struct Request {
    file: File,
    value: &'static str,
}

impl Request {
    fn new(group: &Group) -> io::Result<Self> {
        let (file, value) = group.thaw_request();
        let path = group.path().join(file);
        let file = OpenOptions::new().write(true).open(&path).map_err(at("open", &path))?;
        Ok(Self { file, value })
    }
}

/// The child: waits, thaws, and ends.
///
/// # Safety
/// It must run in the child of a fork only, because it closes the writer of the parent and ends the process.
unsafe fn thaw_at_end(
    reader: RawFd,
    writer: RawFd,
    ready: RawFd,
    requests: &[(RawFd, &[u8])],
    millis: libc::c_int,
) -> ! {
    let mut wait = libc::pollfd { fd: reader, events: libc::POLLIN, revents: 0 };
    // SAFETY: the descriptors are those of the parent, the buffers live, and all functions are async-signal-safe.
    unsafe {
        libc::setsid();
        libc::close(writer);
        libc::write(ready, [0_u8].as_ptr().cast(), 1);
        if libc::poll(&raw mut wait, 1, millis) == 1 && wait.revents & libc::POLLIN != 0 {
            libc::_exit(0);
        }
        for _ in 0..TRIES {
            let mut is_done = true;
            for (file, value) in requests {
                let written = libc::write(*file, value.as_ptr().cast(), value.len());
                // A cgroup that was removed has no processes.
                is_done &= written >= 0 || *libc::__errno_location() == libc::ENODEV;
            }
            if is_done {
                break;
            }
            libc::poll(std::ptr::null_mut(), 0, PAUSE);
        }
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::sys::{freezer::Version, test_dir::TestDir};

    /// A cgroup of files, and whether it was thawed.
    fn group(dir: &TestDir, version: Version, name: &str) -> Group {
        dir.file(name, "");
        Group { path: dir.path().to_owned(), version }
    }

    #[test]
    fn the_cgroups_are_thawed_when_the_process_ends_or_at_the_deadline_and_not_after_the_end() {
        for (version, name, value) in
            [(Version::V2, "cgroup.freeze", "0"), (Version::V1, "freezer.state", "THAWED")]
        {
            let dir = TestDir::new();
            let group = group(&dir, version, name);
            let read = || fs::read_to_string(dir.path().join(name)).unwrap();
            let start = |within| ThawProcess::start(std::slice::from_ref(&group), within).unwrap();
            start(Duration::from_secs(60)).end();
            assert_eq!(read(), "");
            // As if this process was killed: the pipe is closed.
            drop(start(Duration::from_secs(60)));
            assert_eq!(read(), value);
            dir.file(name, "");
            let process = start(Duration::from_millis(10));
            let started = Instant::now();
            while read() != value {
                assert!(started.elapsed() < Duration::from_secs(30));
                std::thread::sleep(Duration::from_millis(5));
            }
            process.end();
        }
    }
}
