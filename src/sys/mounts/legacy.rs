//! Overlays on kernels that do not take layers as this program has them: mounts attached nowhere, by descriptor.
//!
//! ```text
//! way        layers            told to the kernel as                      Linux
//! detached   attached nowhere  lowerdir+ by descriptor                    6.15
//! attached   in our directory     lowerdir+=/proc/self/fd/N, one by one      6.8
//! classic    in our directory     mount(2) with lowerdir=N:N:…, in a page    before
//! ```
//!
//! Before 6.15 an overlay takes only layers that are attached somewhere in the caller's mount namespace. They are attached in a
//! directory of the store that is a private mount, so that nothing of it reaches the node or a pod; each goes again with the
//! [`Detached`] that holds it, and what a killed process left goes at the next start. A layer is named by its descriptor: a text
//! of a few bytes whatever its path, and for `mount(2)` shorter still, from a working directory `/proc/self/fd`.
//! Deliberately absent: a lookup of the kernel's release. Which way works is tried by `overlay`.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_bind,
    mount_change, move_mount, unmount,
};

use super::error::refused;
use super::linux::clone_tree;
use super::{
    Attrs, Detached, Kind, LinuxMounts, Loop, Mount, MountError, Mounts, Param, Request, directory,
};
use crate::sys::{Errno, errno, host};

/// How layers are handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountApi {
    /// As they are; [`LinuxMounts`].
    Detached,
    /// Attached, each by a text of its own.
    Attached,
    /// Attached, all in the one text of `mount(2)`.
    Classic,
}

/// What `mount(2)` takes: a page, and it cuts the rest off without a word.
const DATA_LIMIT: usize = 4095;

/// The mounts of this process, where overlays have to be made in an older way.
#[derive(Debug)]
pub struct LegacyMounts {
    classic: bool,
    dir: PathBuf,
    next: AtomicU64,
    /// Held while a tree is placed: attached a second time it would leave its first place.
    placing: Mutex<()>,
}

impl LegacyMounts {
    /// Mounts whose overlays are made in `way` with the help of `dir`, which is made, emptied of what an earlier process left
    /// attached there, and becomes a private mount.
    pub fn new(way: MountApi, dir: &Path) -> Result<Self, MountError> {
        let failed = |what: &str, errno| refused(format!("{what} {}", dir.display()), errno);
        let disk = |what, e: &std::io::Error| {
            failed(what, Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
        };
        fs::create_dir_all(dir).map_err(|e| disk("make", &e))?;
        let targets = LinuxMounts.table()?.into_iter().map(|mount| mount.target);
        let left: Vec<PathBuf> = targets.filter(|target| target.starts_with(dir)).collect();
        for target in left.iter().rev() {
            // Lazily: nothing is written here, so nobody's writes go on unseen, and nothing can be busy.
            unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                .map_err(|e| refused(format!("unmount {}", target.display()), errno(e)))?;
        }
        for entry in fs::read_dir(dir).map_err(|e| disk("read", &e))? {
            let entry = entry.map_err(|e| disk("read", &e))?;
            fs::remove_dir(entry.path()).map_err(|e| disk("empty", &e))?;
        }
        mount_bind(dir, dir).map_err(|e| failed("bind", errno(e)))?;
        mount_change(dir, MountPropagationFlags::PRIVATE)
            .map_err(|e| failed("make private", errno(e)))?;
        let classic = way == MountApi::Classic;
        let (dir, next) = (dir.to_owned(), AtomicU64::new(0));
        Ok(Self { classic, dir, next, placing: Mutex::default() })
    }

    /// Attaches a tree that is attached nowhere yet; it stays until the tree is dropped.
    fn place(&self, tree: &Detached) -> Result<(), MountError> {
        let Kind::Mount(place) = &tree.kind else { return Ok(()) };
        let _alone = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if place.get().is_some() {
            return Ok(());
        }
        let made = Place::make(self)?;
        let target = directory::open(&made.0)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree.fd, "", &target, "", flags)
            .map_err(|e| refused(format!("attach a layer to {}", made.0.display()), errno(e)))?;
        place.get_or_init(|| made);
        Ok(())
    }

    fn overlay(&self, request: &Request) -> Result<Detached, MountError> {
        for param in &request.params {
            if let Param::Tree(_, tree) = param {
                self.place(tree)?;
            }
        }
        if self.classic {
            return self.classic(request);
        }
        let params = request.params.iter().map(|param| match param {
            Param::Tree(key @ "lowerdir+", tree) => {
                Ok(Param::Text(key, tree.path().display().to_string()))
            }
            Param::Tree(key, tree) => Ok(Param::Text(key, name(tree)?)),
            other => Ok(other.clone()),
        });
        let params = params.collect::<Result<_, MountError>>()?;
        LinuxMounts.create(&Request { params, source: request.source.clone(), ..*request })
    }

    /// By `mount(2)`, which attaches what it makes: in a place of ours, of which a detached clone is taken.
    fn classic(&self, request: &Request) -> Result<Detached, MountError> {
        let data = data(request)?;
        if data.len() > DATA_LIMIT {
            let kernel = host::release();
            return Err(MountError::DataTooLong { length: data.len(), limit: DATA_LIMIT, kernel });
        }
        let what = || format!("mount an overlay ({}) by mount(2)", request.source);
        let bare = |_| refused(what(), Errno::EINVAL);
        let (source, data) =
            (CString::new(&*request.source).map_err(bare)?, CString::new(data).map_err(bare)?);
        let place = Place::make(self)?;
        let mounted = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: it parts this thread's working directory from the others', and the thread is ours and ends here.
                if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
                    return Err(Errno::last());
                }
                rustix::process::chdir("/proc/self/fd").map_err(errno)?;
                mount(&source, &place.0, c"overlay", mount_flags(request.attrs), Some(&*data))
                    .map_err(errno)
            });
            thread.join().unwrap_or(Err(Errno::EIO))
        });
        mounted.map_err(|errno| refused(what(), errno))?;
        clone_tree(&directory::open(&place.0)?).map_err(|errno| refused(what(), errno))
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
        // Nor can what is attached nowhere be cloned.
        self.place(tree)?;
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

    fn top(&self, target: &Path) -> Result<Option<Mount>, MountError> {
        LinuxMounts.top(target)
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

/// A directory that something of ours is attached to, until dropped.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    fn make(mounts: &LegacyMounts) -> Result<Self, MountError> {
        let number = mounts.next.fetch_add(1, Ordering::Relaxed);
        let path = mounts.dir.join(number.to_string());
        fs::create_dir(&path).map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
            refused(format!("make {}", path.display()), errno)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Lazily: a child that another thread starts holds every descriptor until its exec, and would make this mount busy. Nothing
        // is hidden by that: a layer is never written to, and of an overlay there is a clone that counts. What does not go now goes
        // at the next start.
        let _ = unmount(&self.0, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// The directory that a tree is, by the kernel's own name for it: the mount table shows an upper by it.
fn name(tree: &Detached) -> Result<String, MountError> {
    let path = fs::read_link(tree.path())
        .map_err(|_| refused("read a directory's name from /proc".to_owned(), Errno::EIO))?;
    match path.to_str() {
        // As a text these separate options or are taken away, and the mount table would show another path than ours.
        Some(text) if !text.contains([',', ':', '\\']) => Ok(text.to_owned()),
        _ => Err(MountError::Dir {
            path,
            why: "this kernel takes it as a text only, so it may have no comma, colon, backslash or bad UTF-8",
            errno: Errno::EILSEQ,
        }),
    }
}

/// The text for `mount(2)`.
fn data(request: &Request) -> Result<String, MountError> {
    let mut lowers = String::new();
    let mut rest = String::new();
    for param in &request.params {
        // Writing to a text cannot fail.
        let _ = match param {
            Param::Tree("lowerdir+", tree) => {
                let colon = if lowers.is_empty() { "" } else { ":" };
                write!(lowers, "{colon}{}", tree.fd.as_raw_fd())
            }
            Param::Tree(key, tree) => write!(rest, ",{key}={}", name(tree)?),
            Param::Flag(key) => write!(rest, ",{key}"),
            // An SELinux label may have commas in it, and is read by SELinux, which knows quotes.
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
