//! Namespaces: makes them, and sets up what is new in them.
//!
//! All functions are for a process that was forked for this purpose.

use std::{
    ffi::OsStr,
    io,
    net::UdpSocket,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::CWD,
    mount::{
        MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
    },
    process::{chdir, fchdir, pivot_root},
    system::sethostname,
};

use crate::sys::{durable::at, mounts::Detached};

/// Moves this process to new namespaces for mounts, host name and IPC, and for the network if `own_network`.
///
/// Mounts that it makes are not visible outside. Mounts and unmounts outside, where they are shared, are still made
/// inside too: so a disk that is unmounted outside is not kept in use by an idle container (mount_namespaces(7), slave
/// mounts).
///
/// # Errors
/// `PermissionDenied` without `CAP_SYS_ADMIN`. `InvalidInput` from the second step in a chroot, whose `/` is not a
/// mount.
pub fn separate(own_network: bool) -> io::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    flags.set(CloneFlags::CLONE_NEWNET, own_network);
    unshare(flags)?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).map_err(|e| at("make a slave mount of", "/".as_ref())(e.into()))
}

/// Sets the host name of this process's UTS namespace.
///
/// # Errors
/// `InvalidInput` for a name of more than 64 bytes.
pub fn set_hostname(name: &OsStr) -> io::Result<()> {
    Ok(sethostname(name.as_bytes())?)
}

/// Sets the interface `lo` up. The kernel then gives it its addresses.
pub fn bring_loopback_up() -> io::Result<()> {
    // Any socket of the network namespace will do.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zeros are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the descriptor is an open socket, and the structure lives through the call (netdevice(7)).
    let done =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the detached mount `root` the root of this process's mount namespace, and unmounts all others. The working
/// directory is `/` afterwards.
///
/// # Errors
/// `InvalidInput` if the root of this process is not a mount, or is the kernel's initial file system (pivot_root(2)).
pub fn enter_root(root: &Detached) -> io::Result<()> {
    let root = root.descriptor();
    // pivot_root needs a root that is attached. Attached on `/`, it hides nothing that anyone sees: this process is
    // alone in its namespace, and still has the mount below as its root.
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| at("attach the tree to", "/".as_ref())(e.into()))?;
    fchdir(root)?;
    pivot_root(".", ".").map_err(|e| at("pivot the root to", "/".as_ref())(e.into()))?;
    // The former root lies on the new one now, at the same place.
    unmount(".", UnmountFlags::DETACH)
        .map_err(|e| at("unmount the former root", "/".as_ref())(e.into()))?;
    Ok(chdir("/")?)
}
