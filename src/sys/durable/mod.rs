//! Durable writes: after each call returns, a power cut cannot undo it; before, it changes nothing.
//!
//! The order is always the same: bytes synced, name changed, directory synced. An error names the path
//! and keeps the [`io::ErrorKind`], so that a full disk can be told from a missing directory.
//! [`note`] is for what may wait for the journal: no call of it syncs.
//! Deliberately absent: retries, and any knowledge of what is written.

mod behind;
pub mod note;
mod remove;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with, syncfs};

use super::openat2;
pub use behind::{PIECE, WriteBehind, write_out_piece};
pub use remove::{remove_tree, remove_tree_soon};
pub use tree::{Amount, settle, unwritten, write_out};

/// Begins the name of every file that [`write_atomic`] has not yet renamed into place. A crash can
/// leave such a file behind; nothing refers to it, and start-up may remove it.
pub const TEMP_PREFIX: &str = ".ovl-tmp.";

/// Replaces the file at `path` with `bytes`: a reader, or a crash, sees the old or the new.
///
/// The file has mode 0600. A symlink at `path` is replaced, not followed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = openat2::parent(path)?;
    let (temp, mut file) = create_temp(directory)?;
    let written = (|| {
        file.write_all(bytes).map_err(at("write", &temp.0))?;
        sync_file(&file).map_err(at("sync", &temp.0))?;
        fs::rename(&temp.0, path).map_err(at("rename into place", path))
    })();
    if written.is_ok() {
        temp.keep();
    }
    written?;
    sync_dir(directory)
}

/// Renames `from` to `to` on one file system and never over something that is already there.
///
/// Errors: `AlreadyExists` if `to` is there, `CrossesDevices` between file systems.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_soon(from, to)?;
    // The new name first: a crash between the two may leave both names, never neither.
    sync_dir(openat2::parent(to)?)?;
    sync_dir(openat2::parent(from)?)
}

/// As [`rename`], and waits for no disk: after a crash the old name may be there, or the new one.
pub fn rename_soon(from: &Path, to: &Path) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(|e| at(&format!("rename {} to", from.display()), to)(e.into()))
}

/// Removes the file at `path`; a symlink is removed, not followed. One that is not there is fine.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(openat2::parent(path)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at("remove", path)(e)),
    }
}

/// Removes from the directory `path` what a crash left there of [`write_atomic`]. Nobody may be writing there.
pub fn sweep(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path).map_err(at("list", path))? {
        let entry = entry.map_err(at("list", path))?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes the directory `path` with exactly `mode`, whatever the umask. Parents are not made.
///
/// A directory that is there already is fine and is left as it is, because it may be in use, or be the
/// root of a mount. Errors: `AlreadyExists` where something that is no directory has the name.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    match make_dir(path, mode)? {
        true => sync_dir(openat2::parent(path)?),
        false => Ok(()),
    }
}

/// As [`create_dir`], and waits for no disk: after a crash it may be missing.
pub fn create_dir_soon(path: &Path, mode: u32) -> io::Result<()> {
    make_dir(path, mode).map(drop)
}

/// Returns whether it was made.
fn make_dir(path: &Path, mode: u32) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => {
            let directory = open_dir(path)?;
            let set = directory.set_permissions(fs::Permissions::from_mode(mode));
            set.map_err(at("set the mode of", path))?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_dir(path) => Ok(false),
        Err(e) => Err(at("make the directory", path)(e)),
    }
}

/// Waits until everything written to `file` is on the disk.
pub fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// Waits until the names in the directory `path` are on the disk.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    open_dir(path)?.sync_all().map_err(at("sync the directory", path))
}

/// Waits until everything on the file system of `dir` is on the disk, and says whether any write to
/// it failed (`syncfs(2)`, which reports errors since Linux 5.8). Everybody who writes there waits.
pub fn sync_filesystem(dir: &File) -> io::Result<()> {
    Ok(syncfs(dir)?)
}

/// The right to be alone with something, until dropped or until the process ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "closing it is what unlocks")] File);

/// Takes the lock file at `path` (made with mode 0600 if missing) without waiting; `None` means
/// that somebody else holds it. The file is never removed: a removed lock file can be held twice.
pub fn lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(at("open the lock", path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(at("lock", path)(e.into())),
    }
}

/// The kernel's name for this boot: what was not synced by another boot may be gone or torn.
pub fn boot_id() -> io::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(at("read", path))?.trim_end().to_owned())
}

/// Removes the file again unless it was kept.
struct Temp(PathBuf);

impl Temp {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // The write has failed already and that error is the one to tell; start-up removes it.
        let _ = fs::remove_file(&self.0);
    }
}

fn create_temp(directory: &Path) -> io::Result<(Temp, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{TEMP_PREFIX}{}.{number}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((Temp(path), file)),
            // In a container every run may have the same process id: a crash left this one.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at("make", &path)(e)),
        }
    }
}

fn open_dir(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed())
        .open(path)
        .map_err(at("open the directory", path))
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

/// Adds what was tried, and on what, to an error that only says why.
pub fn at(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()))
}
