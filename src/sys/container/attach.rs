//! Detached mounts of a container: clones of paths, device nodes, and the look-up of a path below the root of a mount.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, chmod, makedev, mknodat, openat2},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::sys::{mounts::Detached, openat2, proc_fd};

/// Attaches a detached mount to `target`, an opened directory, or an opened file for a mount of a file. It may already
/// be a mount point.
pub fn attach(mount: &Detached, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount.descriptor(), "", target, "", flags)?)
}

/// Makes a detached mount of what this process sees at `path`, a directory or a file, with all mounts below it.
/// Symlinks are followed.
///
/// What is mounted on the result later is not visible at `path`.
pub fn clone_path(path: &Path) -> io::Result<Detached> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let clone = Detached::mount(open_tree(CWD, path, flags)?);
    set(&clone, true, 0, libc::MS_SLAVE)?;
    Ok(clone)
}

/// Refuses writes through a detached mount, and through all mounts below it if `recursive`.
pub fn set_read_only(mount: &Detached, recursive: bool) -> io::Result<()> {
    set(mount, recursive, libc::MOUNT_ATTR_RDONLY, 0)
}

/// `mount_setattr(2)`.
fn set(mount: &Detached, recursive: bool, attr_set: u64, propagation: u64) -> io::Result<()> {
    let change = libc::mount_attr { attr_set, attr_clr: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the path is an empty C string, and the structure lives through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.descriptor().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a character device that every user may read and write.
pub fn make_device(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor))?;
    // The umask may have taken bits off.
    Ok(chmod(path, mode)?)
}

/// Opens what `path` leads to below `root`, without access to its content. Symlinks are followed as a process with this
/// root would follow them; none leads out of it. The path may begin with `/`.
pub fn open_in(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// Opens a regular file below `root` for reading, with the rules of [`open_in`].
///
/// # Errors
/// `InvalidInput` if it is another kind of file. Such a file is not opened, because an open of a device has effects.
pub fn open_regular_in(root: impl AsFd, path: &Path) -> io::Result<File> {
    let found = open_in(root, path)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    File::options().read(true).custom_flags(libc::O_CLOEXEC).open(proc_fd::path(&found))
}

/// Opens a directory below `root` for use as a layer of an overlay, with the rules of [`open_in`].
pub fn open_dir_in(root: impl AsFd, path: &Path) -> io::Result<Detached> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Detached::dir(openat2(root, path, flags, Mode::empty(), resolve)?))
}

/// Opens `path`, an absolute path without symlinks, as a place to attach a mount to.
pub(super) fn open_exact(path: &Path) -> io::Result<OwnedFd> {
    let flags = openat2::HANDLE.difference(OFlags::DIRECTORY);
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(CWD, path, flags, Mode::empty(), resolve)?)
}
