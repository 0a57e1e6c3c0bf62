//! User namespaces for ID-mapped mounts. No process runs in them; they only define how a mount shows owners.
//!
//! Deliberately absent: running anything in one. A namespace needs a first process. That child does nothing and is
//! killed at once.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};
use parking_lot::Mutex;

/// The number of namespaces that are kept open. Authors of pods choose the owners, so the number needs a bound. A mount
/// keeps its own namespace alive.
const KEPT: usize = 64;

/// The last id that can be mapped. To the kernel, all ones (`(uid_t)-1`) means "no user".
const LAST: u32 = u32::MAX - 1;

static NAMESPACES: Mutex<Vec<Namespace>> = Mutex::new(Vec::new());

struct Namespace {
    owner: (u32, u32),
    open: Arc<OwnedFd>,
}

/// Returns a namespace that swaps user 0 with `uid`, and group 0 with `gid`. All other ids stay the same.
///
/// # Errors
/// `InvalidInput` for an id that no file can have, and the errors of `clone(2)`: ENOSPC or EUSERS if
/// `user.max_user_namespaces` is reached.
pub(super) fn swapped(uid: u32, gid: u32) -> io::Result<Arc<OwnedFd>> {
    let maps = (swap(uid)?, swap(gid)?);
    let mut namespaces = NAMESPACES.lock();
    if let Some(known) = namespaces.iter().find(|known| known.owner == (uid, gid)) {
        return Ok(known.open.clone());
    }
    let open = Arc::new(make(&maps.0, &maps.1)?);
    if namespaces.len() >= KEPT {
        namespaces.remove(0);
    }
    namespaces.push(Namespace { owner: (uid, gid), open: open.clone() });
    Ok(open)
}

/// Maps the owners of a mount, which must be detached and not yet ID-mapped (`mount_setattr(2)`, Linux 5.12).
pub(super) fn map(mount: &OwnedFd, namespace: &OwnedFd) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd().cast_unsigned().into(),
    };
    // SAFETY: both descriptors are open, the path is an empty C string, and the structure lives through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The lines of a `uid_map` (user_namespaces(7)) that swaps 0 and `id`: at most four ranges, which never overlap.
fn swap(id: u32) -> io::Result<String> {
    if id > LAST {
        let why =
            format!("no file can belong to {id}: to the kernel this number means \"no user\"");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut lines = String::new();
    let mut range = |from: u32, to: u32, count: u32| {
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{from} {to} {count}");
        }
    };
    match id {
        0 => range(0, 0, LAST + 1),
        id => {
            range(0, id, 1);
            range(1, 1, id - 1);
            range(id, 0, 1);
            range(id + 1, id + 1, LAST - id);
        }
    }
    Ok(lines)
}

fn make(uids: &str, gids: &str) -> io::Result<OwnedFd> {
    let child = Child::spawn()?;
    let proc_path = |name: &str| format!("/proc/{}/{name}", child.0);
    fs::write(proc_path("uid_map"), uids)?;
    fs::write(proc_path("gid_map"), gids)?;
    Ok(File::open(proc_path("ns/user"))?.into())
}

/// A sleeping process in a new user namespace. It is killed when this is dropped, and when the thread that made it
/// ends, for example because this process died.
struct Child(Pid);

impl Child {
    fn spawn() -> io::Result<Self> {
        // It shares our descriptors. With copies of them it would keep locks and mounts busy while it lives.
        let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::CLONE_FILES | libc::SIGCHLD);
        let parent = std::process::id();
        // SAFETY: without CLONE_VM and without a stack this is fork(2): the child continues here, on its own copy of
        // memory. Other threads may have held locks of the allocator or of libc at the time of the copy. So the child
        // only makes system calls that open and close nothing, and never returns.
        let id = unsafe {
            match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
                0 => {
                    libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                    // The parent may have died before the prctl.
                    while libc::syscall(libc::SYS_getppid) == libc::c_long::from(parent) {
                        let hour = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
                        libc::syscall(libc::SYS_nanosleep, &raw const hour, 0);
                    }
                    libc::syscall(libc::SYS_exit_group, 0);
                    // exit_group never returns.
                    loop {
                        std::hint::spin_loop();
                    }
                }
                id => id,
            }
        };
        if id < 0 {
            return Err(io::Error::last_os_error());
        }
        let id = libc::pid_t::try_from(id).map_err(io::Error::other)?;
        Ok(Self(Pid::from_raw(id)))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The process is our child and no other code waits for it, so its id is not reused before waitpid returns.
        let _ = kill(self.0, Signal::SIGKILL);
        while waitpid(self.0, None) == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_of_the_whole_range_is_mapped_once() {
        for id in [0, 1, 2, 1000, 65_534, LAST - 1, LAST] {
            let text = swap(id).unwrap();
            let mut ranges: Vec<[u32; 3]> = text
                .lines()
                .map(|line| {
                    let numbers = line.split(' ').map(|number| number.parse().unwrap());
                    numbers.collect::<Vec<u32>>().try_into().unwrap()
                })
                .collect();
            for side in [0, 1] {
                ranges.sort_by_key(|range| range[side]);
                let mut next = 0;
                for range in &ranges {
                    assert_eq!(range[side], next, "{id}: {text}");
                    next += range[2];
                }
                assert_eq!(next, u32::MAX, "{id}: {text}");
            }
            let mapped = |inside: u32| {
                let range = ranges.iter().find(|r| r[0] <= inside && inside - r[0] < r[2]).unwrap();
                range[1] + (inside - range[0])
            };
            assert_eq!((mapped(0), mapped(id), mapped(LAST / 2 + 7)), (id, 0, LAST / 2 + 7));
        }
        assert!(swap(u32::MAX).is_err());
    }

    #[test]
    #[ignore = "needs root"]
    fn privileged_namespaces_are_reused_and_their_number_is_bounded() {
        let first = swapped(4_000_001, LAST).unwrap();
        assert!(Arc::ptr_eq(&first, &swapped(4_000_001, LAST).unwrap()));
        for uid in 4_100_000..4_100_100 {
            swapped(uid, 0).unwrap();
        }
        let kept = NAMESPACES.lock().len();
        assert!(kept <= KEPT, "{kept}");
    }

    #[test]
    #[ignore = "needs root"]
    fn privileged_a_child_ends_when_it_is_dropped_and_when_its_thread_ends() {
        let state = |id: Pid| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        };
        let child = Child::spawn().unwrap();
        let id = child.0;
        assert!(state(id).is_some());
        drop(child);
        assert_eq!(state(id), None);

        let thread = std::thread::spawn(move || {
            let child = std::mem::ManuallyDrop::new(Child::spawn().unwrap());
            // A child that sleeps has set PR_SET_PDEATHSIG.
            while state(child.0) != Some('S') {
                std::thread::yield_now();
            }
            child.0
        });
        let orphan = Child(thread.join().unwrap());
        for _ in 0..500 {
            if state(orphan.0) == Some('Z') {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the child outlived the thread that made it: {:?}", state(orphan.0));
    }
}
