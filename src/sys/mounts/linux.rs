//! [`Mounts`] by the kernel's new mount API: `fsopen(2)` and related calls, whose errors name the refused option.
//!
//! Deliberately absent: `mount(2)`, which silently truncates its options to a page. See `legacy`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree, unmount,
};

use super::detached::Kind;
use super::error::{no_context, refused, unsupported};
use super::{
    Attrs, Detached, Loop, Mount, MountError, Mounts, Param, Request, TEXT_LIMIT, directory,
};
use crate::sys::{Errno, errno, proc_fd, userns};

/// The pauses between the attempts to unmount a busy mount, together about a second. A container runtime that is
/// stopping a container holds its mounts for half of that.
pub(super) const BUSY_PAUSES: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(400),
];

/// Makes mounts in the mount namespace of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxMounts;

impl LinuxMounts {
    /// The error for a busy mount. Both an open file and a mount within it make it busy.
    fn busy(&self, target: &Path) -> MountError {
        let table = self.table().unwrap_or_default();
        let mut within = table.into_iter().map(|mount| mount.target);
        let within = within.find(|inner| inner.starts_with(target) && inner != target);
        MountError::Busy { target: target.to_owned(), within }
    }
}

impl Mounts for LinuxMounts {
    fn create(&self, request: &Request) -> Result<Detached, MountError> {
        let context = Context::open(request.fs_type, &request.source)?;
        context.set_text("source", &request.source)?;
        for param in &request.params {
            context.set(param)?;
        }
        fsconfig_create(&context.fd).map_err(|e| context.refused("create the file system", e))?;
        let mount = fsmount(&context.fd, FsMountFlags::FSMOUNT_CLOEXEC, attr_flags(request.attrs))
            .map_err(|e| context.refused("make a mount of the file system", e))?;
        Ok(Detached::mount(mount))
    }

    fn attach(&self, mount: Detached, target: &Path) -> Result<(), MountError> {
        let what = || format!("attach a mount to {}", target.display());
        if !matches!(mount.kind, Kind::Mount(_)) {
            return Err(refused(what(), Errno::EINVAL));
        }
        let dir = directory::open(target)?;
        if directory::is_mount_root(&dir, target)? {
            return Err(MountError::Occupied { target: target.to_owned() });
        }
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount.fd, "", &dir, "", flags).map_err(|e| refused(what(), errno(e)))
    }

    fn clone_of(&self, attached: &Path) -> Result<Detached, MountError> {
        let dir = directory::open(attached)?;
        if !directory::is_mount_root(&dir, attached)? {
            return Err(MountError::NotMounted { target: attached.to_owned() });
        }
        clone_tree(&dir)
            .map_err(|errno| refused(format!("clone the mount at {}", attached.display()), errno))
    }

    fn unmount(&self, target: &Path) -> Result<(), MountError> {
        // UMOUNT_NOFOLLOW protects only the last component of a path, so the parent is opened first. The target itself
        // must not be open, because that would keep it busy.
        let not_mounted = || MountError::NotMounted { target: target.to_owned() };
        let (parent, name) = target.parent().zip(target.file_name()).ok_or_else(not_mounted)?;
        let parent = match directory::open(parent) {
            Err(e) if e.errno() == Some(Errno::ENOENT) => return Err(not_mounted()),
            other => other?,
        };
        let path = proc_fd::path(&parent).join(name);
        let result = retry_while_busy(&BUSY_PAUSES, || unmount(&path, UnmountFlags::NOFOLLOW));
        result.map_err(|e| match errno(e) {
            Errno::EBUSY => self.busy(target),
            // EINVAL: a symlink, or a directory that is not the root of a mount.
            Errno::EINVAL | Errno::ENOENT => not_mounted(),
            errno => refused(format!("unmount {}", target.display()), errno),
        })
    }

    fn topmost(&self, target: &Path) -> Result<Option<Mount>, MountError> {
        match super::top::topmost(target)? {
            Ok(top) => Ok(top),
            Err(super::top::Unknown) => {
                Ok(self.table()?.into_iter().rfind(|mount| mount.target == target))
            }
        }
    }

    fn table(&self) -> Result<Vec<Mount>, MountError> {
        let bytes = fs::read("/proc/self/mountinfo").map_err(MountError::Table)?;
        super::parse_table(&bytes)
            .map_err(|e| MountError::Table(io::Error::new(io::ErrorKind::InvalidData, e)))
    }

    fn writable(&self, mount: &Detached) -> Result<bool, MountError> {
        let stat = fstatvfs(&mount.fd).map_err(|e| refused("stat a mount".to_owned(), errno(e)))?;
        Ok(!stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    fn open_dir(&self, path: &Path) -> Result<Detached, MountError> {
        Ok(Detached::dir(directory::open(path)?))
    }

    fn idmapped(&self, tree: &Detached, uid: u32, gid: u32) -> Result<Detached, MountError> {
        let what = || format!("show the files of root as {uid}:{gid}");
        let number = |e: &io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EINVAL));
        let namespace = userns::swapped(uid, gid).map_err(|e| match number(&e) {
            errno @ (Errno::ENOSPC | Errno::EUSERS) => {
                unsupported(what(), "raise the sysctl user.max_user_namespaces", errno)
            }
            errno => refused(format!("{}: make a user namespace", what()), errno),
        })?;
        let clone = clone_tree(&tree.fd).map_err(|errno| refused(what(), errno))?;
        userns::map(&clone.fd, &namespace).map_err(|e| match number(&e) {
            errno @ (Errno::EINVAL | Errno::ENOSYS) => unsupported(
                what(),
                "it needs Linux 5.19 and a file system with ID-mapped mounts (EROFS, ext4, xfs, btrfs)",
                errno,
            ),
            errno => refused(what(), errno),
        })?;
        Ok(clone)
    }

    fn loop_over(&self, image: &Path) -> Result<Loop, MountError> {
        Loop::over(image).map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
            unsupported(
                format!("show {} as a loop device ({e})", image.display()),
                "it needs the kernel module loop, and the node's /dev in this container",
                errno,
            )
        })
    }
}

/// Makes the kernel forget the names below `target` that no process uses, so that they are looked up again. All options of
/// the mount stay as they are: a reconfiguration without options changes none. For an overlay whose lower was changed.
pub fn refresh(target: &Path) -> Result<(), MountError> {
    let failed = |e| refused(format!("refresh the mount {}", target.display()), errno(e));
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_NO_AUTOMOUNT;
    let context = fspick(rustix::fs::CWD, target, flags).map_err(failed)?;
    fsconfig_reconfigure(&context).map_err(failed)
}

pub(super) fn clone_tree(tree: &OwnedFd) -> Result<Detached, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(tree, "", flags).map(Detached::mount).map_err(errno)
}

/// Calls `unmount` again after each pause while it returns EBUSY.
pub(super) fn retry_while_busy(
    pauses: &[Duration],
    mut unmount: impl FnMut() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    for pause in pauses {
        match unmount() {
            Err(rustix::io::Errno::BUSY) => thread::sleep(*pause),
            other => return other,
        }
    }
    unmount()
}

/// A file system context of `fsopen(2)`. The kernel writes its log messages to it.
struct Context<'a> {
    fd: OwnedFd,
    fs_type: &'static str,
    source: &'a str,
}

impl<'a> Context<'a> {
    fn open(fs_type: &'static str, source: &'a str) -> Result<Self, MountError> {
        match fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno) {
            Ok(fd) => Ok(Self { fd, fs_type, source }),
            Err(errno) => Err(no_context(fs_type, errno)),
        }
    }

    fn set(&self, param: &Param) -> Result<(), MountError> {
        match param {
            Param::Flag(key) => fsconfig_set_flag(&self.fd, *key)
                .map_err(|e| self.refused(&format!("set {key}"), e)),
            Param::Text(key, value) => self.set_text(key, value),
            Param::Tree(key, tree) => fsconfig_set_fd(&self.fd, *key, &tree.fd).map_err(|e| {
                self.lacks_descriptors(key, tree, errno(e))
                    .unwrap_or_else(|| self.refused(&format!("set {key} by descriptor"), e))
            }),
        }
    }

    /// Finds out, with new contexts, whether the kernel refuses this kind of descriptor in general.
    fn lacks_descriptors(&self, key: &str, tree: &Detached, errno: Errno) -> Option<MountError> {
        let takes = |fd: &OwnedFd| {
            Self::open(self.fs_type, self.source)
                .is_ok_and(|fresh| fsconfig_set_fd(&fresh.fd, key, fd).is_ok())
        };
        if errno != Errno::EINVAL || takes(&tree.fd) {
            return None;
        }
        let dir = directory::open(Path::new("/")).ok()?;
        let what = |kind| format!("take {kind} as {key} of {}", self.fs_type);
        Some(if takes(&dir) {
            unsupported(what("a detached mount"), "it needs Linux 6.15", errno)
        } else {
            unsupported(what("a descriptor"), "it needs Linux 6.13", errno)
        })
    }

    fn set_text(&self, key: &'static str, value: &str) -> Result<(), MountError> {
        // For a longer text the kernel returns EINVAL without a log message.
        if value.len() > TEXT_LIMIT {
            return Err(MountError::TooLong { key, length: value.len() });
        }
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|e| self.refused(&format!("set {key}={value}"), e))
    }

    fn refused(&self, what: &str, e: rustix::io::Errno) -> MountError {
        MountError::Refused {
            what: format!("{what} for {} ({})", self.fs_type, self.source),
            errno: errno(e),
            kernel_log: self.log(),
        }
    }

    /// Reads the log. Each read returns one line, which begins with its level (`e `, `w `, `i `). ENODATA is the end.
    fn log(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(length) = rustix::io::read(&self.fd, &mut buffer) {
            if length == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&buffer[..length]);
            let line = line.trim_end();
            lines.push(line.split_once(' ').map_or(line, |(_, message)| message).to_owned());
        }
        lines
    }
}

fn attr_flags(attrs: Attrs) -> MountAttrFlags {
    [
        (attrs.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (attrs.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (attrs.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (attrs.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (attrs.noatime, MountAttrFlags::MOUNT_ATTR_NOATIME),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(MountAttrFlags::empty(), |all, (_, flag)| all | flag)
}
