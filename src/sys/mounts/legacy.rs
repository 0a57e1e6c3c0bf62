//! Makes overlays on kernels that do not take detached mounts as layers by descriptor.
//!
//! ```text
//! API        layers are              layers are passed as                       Linux
//! detached   detached                lowerdir+ by descriptor                    6.15
//! attached   in a directory of ours  lowerdir+=/proc/self/fd/N, one by one      6.8
//! classic    in a directory of ours  mount(2) with lowerdir=N:N:…, in a page    before
//! ```
//!
//! Before 6.15 an overlay takes only layers that are attached somewhere in the caller's mount namespace. They are
//! attached in a directory of the store that is a private mount, so they do not propagate to the node or to a pod. Each
//! is unmounted when its [`Detached`] is dropped, and the directory when [`LegacyMounts`] is. What a killed process has
//! left is removed by [`detach_below`].
//!
//! A layer is named by its descriptor, a text of a few bytes whatever the length of its path. For `mount(2)` the
//! working directory is `/proc/self/fd`, which makes the text shorter still.
//!
//! Deliberately absent: a check of the kernel's release. `overlay` probes which API works.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_bind,
    mount_change, move_mount, unmount,
};
use serde::{Deserialize, Serialize};

use super::detached::{AttachPoint, Kind};
use super::error::refused;
use super::linux::clone_tree;
use super::{
    Attrs, Detached, LinuxMounts, Loop, Mount, MountError, Mounts, Param, Request, directory,
};
use crate::sys::{Errno, errno, host, proc_fd};

/// How layers are passed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MountApi {
    /// As detached mounts, by descriptor ([`LinuxMounts`]).
    Detached,
    /// As attached mounts, each in a text option of its own.
    Attached,
    /// As attached mounts, all in the one text of `mount(2)`.
    Classic,
}

/// The maximum length of the options of `mount(2)` in bytes: a page. The kernel truncates a longer text without an
/// error.
const DATA_LIMIT: usize = 4095;

/// Makes mounts in the mount namespace of this process, with an older API for overlays.
#[derive(Debug)]
pub struct LegacyMounts {
    classic: bool,
    /// The private mount below which layers are attached.
    dir: PathBuf,
    /// The name of the next attach point.
    next: AtomicU64,
    /// Held while a tree is attached. A second attach would move it away from its first attach point.
    attaching: Mutex<()>,
}

impl LegacyMounts {
    /// Prepares `dir` for attaching layers, to make overlays with `api`.
    ///
    /// Makes the directory, removes the mounts that an earlier process left there, and makes it a private mount.
    pub fn new(api: MountApi, dir: &Path) -> Result<Self, MountError> {
        let failed = |what: &str, errno| refused(format!("{what} {}", dir.display()), errno);
        let disk = |what, e: &std::io::Error| {
            failed(what, Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
        };
        fs::create_dir_all(dir).map_err(|e| disk("make", &e))?;
        detach_below(dir)?;
        for entry in fs::read_dir(dir).map_err(|e| disk("read", &e))? {
            let entry = entry.map_err(|e| disk("read", &e))?;
            fs::remove_dir(entry.path()).map_err(|e| disk("empty", &e))?;
        }
        mount_bind(dir, dir).map_err(|e| failed("bind", errno(e)))?;
        mount_change(dir, MountPropagationFlags::PRIVATE)
            .map_err(|e| failed("make private", errno(e)))?;
        let classic = api == MountApi::Classic;
        let (dir, next) = (dir.to_owned(), AtomicU64::new(0));
        Ok(Self { classic, dir, next, attaching: Mutex::default() })
    }

    /// Attaches a detached mount below `dir`, unless it is there already. It stays until the tree is dropped.
    fn attach_layer(&self, tree: &Detached) -> Result<(), MountError> {
        let Kind::Mount(attached) = &tree.kind else { return Ok(()) };
        let _guard = self.attaching.lock();
        if attached.get().is_some() {
            return Ok(());
        }
        let point = self.attach_point()?;
        let target = directory::open(&point.0)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree.fd, "", &target, "", flags)
            .map_err(|e| refused(format!("attach a layer to {}", point.0.display()), errno(e)))?;
        attached.get_or_init(|| point);
        Ok(())
    }

    /// Makes a directory for one mount.
    fn attach_point(&self) -> Result<AttachPoint, MountError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(number.to_string());
        fs::create_dir(&path).map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
            refused(format!("make {}", path.display()), errno)
        })?;
        Ok(AttachPoint(path))
    }

    fn overlay(&self, request: &Request) -> Result<Detached, MountError> {
        for param in &request.params {
            if let Param::Tree(_, tree) = param {
                self.attach_layer(tree)?;
            }
        }
        if self.classic {
            return self.classic(request);
        }
        let params = request.params.iter().map(|param| match param {
            Param::Tree(key @ "lowerdir+", tree) => {
                Ok(Param::Text(key, tree.path().display().to_string()))
            }
            Param::Tree(key, tree) => Ok(Param::Text(key, path_text(tree)?)),
            other => Ok(other.clone()),
        });
        let params = params.collect::<Result<_, MountError>>()?;
        LinuxMounts.create(&Request { params, source: request.source.clone(), ..*request })
    }

    /// Makes an overlay with `mount(2)`, which always attaches it: to an attach point of ours. Returns a detached
    /// clone.
    fn classic(&self, request: &Request) -> Result<Detached, MountError> {
        let data = data(request)?;
        if data.len() > DATA_LIMIT {
            let kernel = host::release();
            return Err(MountError::DataTooLong { length: data.len(), limit: DATA_LIMIT, kernel });
        }
        let what = || format!("mount an overlay ({}) by mount(2)", request.source);
        let has_nul = |_| refused(what(), Errno::EINVAL);
        let source = CString::new(&*request.source).map_err(has_nul)?;
        let data = CString::new(data).map_err(has_nul)?;
        let point = self.attach_point()?;
        let mounted = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // The thread has a working directory of its own, and ends here.
                unshare(CloneFlags::CLONE_FS)?;
                rustix::process::chdir(proc_fd::DIR).map_err(errno)?;
                mount(&source, &point.0, c"overlay", mount_flags(request.attrs), Some(&*data))
                    .map_err(errno)
            });
            thread.join().unwrap_or(Err(Errno::EIO))
        });
        mounted.map_err(|errno| refused(what(), errno))?;
        clone_tree(&directory::open(&point.0)?).map_err(|errno| refused(what(), errno))
    }
}

impl Mounts for LegacyMounts {
    fn create(&self, request: &Request) -> Result<Detached, MountError> {
        match request.fs_type {
            "overlay" => self.overlay(request),
            _ => LinuxMounts.create(request),
        }
    }

    fn idmapped(&self, tree: &Detached, uid: u32, gid: u32) -> Result<Detached, MountError> {
        // These kernels also cannot clone a detached mount.
        self.attach_layer(tree)?;
        LinuxMounts.idmapped(tree, uid, gid)
    }

    fn attach(&self, mount: Detached, target: &Path) -> Result<(), MountError> {
        LinuxMounts.attach(mount, target)
    }

    fn clone_of(&self, attached: &Path) -> Result<Detached, MountError> {
        LinuxMounts.clone_of(attached)
    }

    fn unmount(&self, target: &Path) -> Result<(), MountError> {
        LinuxMounts.unmount(target)
    }

    fn topmost(&self, target: &Path) -> Result<Option<Mount>, MountError> {
        LinuxMounts.topmost(target)
    }

    fn table(&self) -> Result<Vec<Mount>, MountError> {
        LinuxMounts.table()
    }

    fn writable(&self, mount: &Detached) -> Result<bool, MountError> {
        LinuxMounts.writable(mount)
    }

    fn open_dir(&self, path: &Path) -> Result<Detached, MountError> {
        LinuxMounts.open_dir(path)
    }

    fn loop_over(&self, image: &Path) -> Result<Loop, MountError> {
        LinuxMounts.loop_over(image)
    }
}

impl Drop for LegacyMounts {
    fn drop(&mut self) {
        // What remains is removed by the next process.
        let _ = detach_below(&self.dir);
    }
}

/// Unmounts everything at `dir` and below it in which layers were attached: what a killed process has left.
pub fn detach_below(dir: &Path) -> Result<(), MountError> {
    let targets = LinuxMounts.table()?.into_iter().map(|mount| mount.target);
    let old_mounts: Vec<PathBuf> = targets.filter(|target| target.starts_with(dir)).collect();
    for target in old_mounts.iter().rev() {
        // Lazily, so that a mount cannot be busy. Nothing is written here, so no writer can continue unseen.
        unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
            .map_err(|e| refused(format!("unmount {}", target.display()), errno(e)))?;
    }
    Ok(())
}

/// The kernel's own path of a directory. The mount table shows this path for an upper.
fn path_text(tree: &Detached) -> Result<String, MountError> {
    let path = fs::read_link(tree.path())
        .map_err(|_| refused("read the path of a directory from /proc".to_owned(), Errno::EIO))?;
    match path.to_str() {
        // In a text option these characters separate options or are removed. The mount table would show another path.
        Some(text) if !text.contains([',', ':', '\\']) => Ok(text.to_owned()),
        _ => Err(MountError::Dir {
            path,
            why: "this kernel takes its path only as text, so it must be UTF-8 without comma, colon and backslash",
            errno: Errno::EILSEQ,
        }),
    }
}

/// The options for `mount(2)`, in one text.
fn data(request: &Request) -> Result<String, MountError> {
    let mut lowers = String::new();
    let mut rest = String::new();
    for param in &request.params {
        // Writing to a String cannot fail.
        let _ = match param {
            Param::Tree("lowerdir+", tree) => {
                let colon = if lowers.is_empty() { "" } else { ":" };
                write!(lowers, "{colon}{}", tree.fd.as_raw_fd())
            }
            Param::Tree(key, tree) => write!(rest, ",{key}={}", path_text(tree)?),
            Param::Flag(key) => write!(rest, ",{key}"),
            // An SELinux label may contain commas. SELinux parses this option and supports quotes.
            Param::Text(key @ "context", value) => write!(rest, ",{key}=\"{value}\""),
            Param::Text(key, value) => write!(rest, ",{key}={value}"),
        };
    }
    Ok(format!("lowerdir={lowers}{rest}"))
}

fn mount_flags(attrs: Attrs) -> MountFlags {
    [
        (attrs.read_only, MountFlags::RDONLY),
        (attrs.nosuid, MountFlags::NOSUID),
        (attrs.nodev, MountFlags::NODEV),
        (attrs.noexec, MountFlags::NOEXEC),
        (attrs.noatime, MountFlags::NOATIME),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}
