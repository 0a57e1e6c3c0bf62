//! Locks between processes: `flock(2)`.
//!
//! The kernel releases a lock when its process ends, however it ends. So no lock is ever stale, and nothing has to be
//! removed after a kill.
//!
//! A lock belongs to an open file. A child that was forked has that file open too, until it starts a program
//! (`O_CLOEXEC`) or ends. So a lock is released explicitly, and closing the file only does that after a kill. The
//! children of a process that was killed keep its locks until they end.
//!
//! A process may remove a file or a directory whose lock it has exclusively. Another process that opened it before that
//! then gets the lock of a file without a name. It finds that out with [`Lock::is_at`], and begins again.
//!
//! Deliberately absent: locks on NFS, which are those of the server, and which the kernel may lose.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::durable::at;

/// Whether a lock excludes all others, or only the exclusive ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any number of processes have it at the same time.
    Shared,
    /// One process has it.
    Exclusive,
}

/// A lock, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks an open file or directory without waiting. `None` if a lock of another open file excludes this one.
    pub fn try_take(file: File, kind: Kind) -> io::Result<Option<Self>> {
        let operation = match kind {
            Kind::Shared => FlockOperation::NonBlockingLockShared,
            Kind::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Locks an open file or directory. Blocks until no other lock excludes this one.
    pub fn wait(file: File, kind: Kind) -> io::Result<Self> {
        let operation = match kind {
            Kind::Shared => FlockOperation::LockShared,
            Kind::Exclusive => FlockOperation::LockExclusive,
        };
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Whether `path` is a name of the locked file. If not, the file was removed before the lock was taken.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        let locked = self.0.metadata().map_err(at("look at", path))?;
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(is_same(&found, &locked)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(at("look at", path)(e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It cannot fail for an open file, and closing the file releases the lock, too.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Opens the file at `path` for a lock. Makes it with mode 0600 if it does not exist.
pub fn open_file(path: &Path) -> io::Result<File> {
    open_file_with(path, 0o600)
}

/// As [`open_file`], with this mode less the umask for a file that does not exist.
pub fn open_file_with(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(at("open the lock", path))
}

/// Opens the directory at `path` for a lock.
pub fn open_dir(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed())
        .open(path)
        .map_err(at("open the directory", path))
}

/// Makes the directory `path` with mode 0700 and locks it exclusively. `None` if another process, which removes
/// directories without a lock, was faster; then the name may be free again.
///
/// # Errors
/// `AlreadyExists` if the name is in use.
pub fn create_locked_dir(path: &Path) -> io::Result<Option<Lock>> {
    DirBuilder::new().mode(0o700).create(path).map_err(at("make the directory", path))?;
    let dir = match open_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match Lock::try_take(dir, Kind::Exclusive)? {
        Some(lock) if lock.is_at(path)? => Ok(Some(lock)),
        _ => Ok(None),
    }
}

/// The ids of the processes that have a lock of the file at `path`, for a message. Processes of other pid namespaces may
/// be missing, and a process that has just released its lock.
pub fn holders(path: &Path) -> Vec<u32> {
    let (Ok(file), Ok(locks)) = (fs::metadata(path), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let pids = locks.lines().filter_map(|line| pid_of_lock(line, file.ino()));
    let mut pids: Vec<_> = pids.filter(|pid| has_open(*pid, &file)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The process of a line of `/proc/locks`, if it is a lock of the inode: `1: FLOCK  ADVISORY  WRITE 731 08:02:1311 0 EOF`.
/// A process that waits for a lock has `->` after the number. The device is not compared: on btrfs it is another one
/// than that of `stat(2)`.
fn pid_of_lock(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let pid = words.nth(2)?.parse().ok()?;
    let locked: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
    (locked == inode).then_some(pid)
}

/// Whether the process has the file open.
fn has_open(pid: u32, file: &Metadata) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|open| is_same(&open, file));
    descriptors.flatten().any(|descriptor| is_open(&descriptor.path()))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use std::{process, sync::mpsc, thread, time::Duration};

    use super::*;
    use crate::sys::test_dir::TestDir;

    fn try_file(path: &Path, kind: Kind) -> Option<Lock> {
        Lock::try_take(open_file(path).unwrap(), kind).unwrap()
    }

    #[test]
    fn an_exclusive_lock_has_one_holder_and_a_shared_one_has_many_until_they_are_dropped() {
        let dir = TestDir::new();
        let path = dir.path().join("lock");
        let first = try_file(&path, Kind::Exclusive);
        assert!(first.is_some());
        assert!(try_file(&path, Kind::Exclusive).is_none());
        assert!(try_file(&path, Kind::Shared).is_none());
        drop(first);
        let shared = [0, 1].map(|_| try_file(&path, Kind::Shared).unwrap());
        assert!(try_file(&path, Kind::Exclusive).is_none());
        drop(shared);
        assert!(try_file(&path, Kind::Exclusive).is_some());
    }

    #[test]
    fn a_lock_that_is_waited_for_is_taken_when_its_holder_drops_it() {
        let dir = TestDir::new();
        let path = dir.path().join("lock");
        let first = try_file(&path, Kind::Shared);
        let (taken, is_taken) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let lock = Lock::wait(open_file(&path).unwrap(), Kind::Exclusive).unwrap();
                taken.send(()).unwrap();
                drop(lock);
            });
            assert!(is_taken.recv_timeout(Duration::from_millis(50)).is_err());
            drop(first);
            is_taken.recv_timeout(Duration::from_secs(60)).unwrap();
        });
    }

    #[test]
    fn a_lock_of_a_file_that_was_removed_or_replaced_is_not_at_its_path() {
        let dir = TestDir::new();
        let path = dir.path().join("lock");
        let removed = try_file(&path, Kind::Exclusive).unwrap();
        assert!(removed.is_at(&path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!removed.is_at(&path).unwrap());
        let new = try_file(&path, Kind::Exclusive).unwrap();
        assert!(new.is_at(&path).unwrap() && !removed.is_at(&path).unwrap());
    }

    #[test]
    fn a_new_directory_is_locked_and_an_existing_one_is_an_error() {
        let dir = TestDir::new();
        let path = dir.path().join("new");
        let lock = create_locked_dir(&path).unwrap().unwrap();
        assert!(Lock::try_take(open_dir(&path).unwrap(), Kind::Shared).unwrap().is_none());
        drop(lock);
        assert_eq!(create_locked_dir(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn the_holders_of_a_lock_are_listed_without_those_that_wait() {
        let dir = TestDir::new();
        let (path, other) = (dir.path().join("lock"), dir.path().join("other"));
        let _other = try_file(&other, Kind::Exclusive);
        assert_eq!(holders(&path), Vec::<u32>::new());
        let shared = [0, 1].map(|_| try_file(&path, Kind::Shared));
        assert_eq!(holders(&path), [process::id()]);
        drop(shared);
        assert_eq!(holders(&path), Vec::<u32>::new());
        let waits = "7: -> FLOCK  ADVISORY  WRITE 731 08:02:1311 0 EOF";
        assert_eq!(pid_of_lock(waits, 1311), None);
        let has = "7: FLOCK  ADVISORY  WRITE 731 08:02:1311 0 EOF";
        assert_eq!((pid_of_lock(has, 1311), pid_of_lock(has, 1312)), (Some(731), None));
    }
}
