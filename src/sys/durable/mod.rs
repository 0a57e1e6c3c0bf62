//! Durable writes: after a call returns, a power cut cannot undo it. Before that, a power cut
//! leaves the old state.
//!
//! The order is always the same: sync the bytes, change the name, sync the directory. An error
//! names the path and keeps the [`io::ErrorKind`], so that a caller can distinguish a full disk
//! from a missing directory.
//!
//! These do less: the functions whose names end in `_unsynced` change names and do not wait for the
//! disk; [`xattr_text`] leaves that to the journal; [`write_out()`] and [`WriteBehind`] write bytes
//! out without the metadata; [`sync_tree`] leaves the names of a tree to the next file that is made
//! and synced there. Deliberately absent: retries, and any knowledge of what is written.

mod remove;
#[cfg(test)]
mod tests;
mod tree;
mod write_behind;
mod write_out;
pub mod xattr_text;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags, renameat_with, syncfs};

use super::openat2;
pub(super) use remove::remove_tree_in;
pub use remove::{remove_tree, remove_tree_unsynced};
pub use tree::{sync_tree, unwritten};
pub use write_behind::{PIECE, WriteBehind, write_out_in_pieces};
pub use write_out::{Amount, write_out};

/// The name prefix of each file that [`write_atomic`] has not renamed into place yet. A crash can
/// leave such a file. Nothing refers to it, and the start of the driver may remove it.
pub const TEMP_PREFIX: &str = ".ovl-tmp.";

/// Replaces the file at `path` with `bytes`. A reader sees the old or the new content, and so does
/// the next start after a crash.
///
/// The file has mode 0600. A symlink at `path` is replaced, not followed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_from(openat2::parent(path)?, path, bytes)
}

/// Like [`write_atomic`], with its temporary file in `temp_dir`, which is on the same file system.
pub fn write_atomic_from(temp_dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (temp, mut file) = create_temp(temp_dir)?;
    let result = (|| {
        file.write_all(bytes).map_err(at("write", &temp.0))?;
        sync_file(&file).map_err(at("sync", &temp.0))?;
        fs::rename(&temp.0, path).map_err(at("rename into place", path))
    })();
    if result.is_ok() {
        temp.keep();
    }
    result?;
    sync_dir(openat2::parent(path)?)
}

/// Writes the same bytes to new files of mode 0600. They are on the disk with their names when this returns. Files that
/// are written together wait for the disk about as long as one.
///
/// # Errors
/// `AlreadyExists` if one of them exists. After an error, some may exist.
pub fn write_new(paths: &[PathBuf], bytes: &[u8]) -> io::Result<()> {
    // Each file is open until it is synced.
    for some in paths.chunks(64) {
        let mut files = Vec::with_capacity(some.len());
        for path in some {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(path);
            let mut file = file.map_err(at("make", path))?;
            file.write_all(bytes).map_err(at("write", path))?;
            files.push((file, path));
        }
        // Where the bytes are is metadata, too. So the first sync writes that of all files.
        for (file, path) in &files {
            write_out(file).map_err(at("write", path))?;
        }
        for (file, path) in &files {
            sync_file(file).map_err(at("sync", path))?;
            sync_dir(openat2::parent(path)?)?;
        }
    }
    Ok(())
}

/// Renames `from` to `to` on one file system. Never replaces an existing `to`.
///
/// # Errors
/// `AlreadyExists` if `to` exists, `CrossesDevices` if the two are on different file systems.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_unsynced(from, to)?;
    // The new name first: a crash between the two syncs may leave both names, never neither.
    sync_dir(openat2::parent(to)?)?;
    sync_dir(openat2::parent(from)?)
}

/// Like [`rename`], but does not wait for the disk. After a crash the old or the new name exists.
pub fn rename_unsynced(from: &Path, to: &Path) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(|e| at(&format!("rename {} to", from.display()), to)(e.into()))
}

/// Removes the file at `path`. A symlink is removed, not followed. Succeeds if there is no file.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(openat2::parent(path)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at("remove", path)(e)),
    }
}

/// Removes from the directory `path` the temporary files that [`write_atomic`] left there before a
/// crash. No thread of any process may be writing to the directory with it.
pub fn remove_temp_files(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path).map_err(at("list", path))? {
        let entry = entry.map_err(at("list", path))?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes the directory `path` with exactly `mode`, whatever the umask. Does not make its parents.
///
/// An existing directory is left as it is, because it may be in use or be the root of a mount.
///
/// # Errors
/// `AlreadyExists` if the name belongs to something that is not a directory.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    match make_dir(path, mode)? {
        true => sync_dir(openat2::parent(path)?),
        false => Ok(()),
    }
}

/// Like [`create_dir`], but does not wait for the disk. After a crash the directory may be missing.
pub fn create_dir_unsynced(path: &Path, mode: u32) -> io::Result<()> {
    make_dir(path, mode).map(drop)
}

/// Makes the directory if it does not exist. Returns whether it made it.
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

/// Waits until everything that was written to `file` is on the disk.
pub fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// Waits until the names in the directory `path` are on the disk.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    open_dir(path)?.sync_all().map_err(at("sync the directory", path))
}

/// Allocates `bytes` bytes of disk space for an empty file.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

/// Waits until all data of the file system of `dir` is on the disk. Fails if any write to it failed
/// (`syncfs(2)`, which reports errors since Linux 5.8). All programs that write to this file system
/// can be slowed down meanwhile.
pub fn sync_filesystem(dir: &File) -> io::Result<()> {
    Ok(syncfs(dir)?)
}

/// The kernel's id of this boot. Data that an earlier boot did not sync may be lost or torn.
pub fn boot_id() -> io::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(at("read", path))?.trim_end().to_owned())
}

/// A temporary file that is removed on drop unless it is kept.
struct Temp(PathBuf);

impl Temp {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // The write has failed already, and the caller gets that error. The next start removes the
        // file.
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
            // In a container each run may have the same process id: a crash left this file.
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

/// Adds the operation and the path to an error.
pub fn at(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot {what} {}: {e}", path.display()))
}
