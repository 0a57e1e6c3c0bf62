//! A fake of [`LinuxMounts`](super::LinuxMounts) for tests: the mount table is in memory, the directories are real.
//!
//! It refuses what the kernel refuses, allows what the kernel allows (two overlays on one upper), writes to the work
//! directory what the kernel writes there, and fails when a test wants it.
//!
//! Deliberately absent: content. A directory that something is "mounted" on still shows its own files.

mod rules;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::detached::Kind;
use super::error::{no_context, refused};
use super::linux::{BUSY_PAUSES, retry_while_busy};
use super::{Attrs, Detached, Loop, Mount, MountError, Mounts, Param, Request, directory};
use crate::sys::Errno;

/// A call that a test can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Mounts::create`]
    Create,
    /// [`Mounts::attach`]
    Attach,
    /// [`Mounts::unmount`]
    Unmount,
}

/// Mounts that exist only in memory. Clones share one table.
#[derive(Debug, Clone, Default)]
pub struct FakeMounts(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    table: Vec<Mount>,
    /// The last number given to a file system or mount.
    last_number: u64,
    requests: Vec<String>,
    tables_read: usize,
    /// The calls that fail: the kind, the number of calls of this kind until then, and the error.
    failures: Vec<(Call, usize, Errno)>,
    /// How many unmounts return EBUSY.
    busy: usize,
    read_only: bool,
}

/// A detached tree of the fake.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// The path in the mount table when the tree is a part of an overlay: `/` for a detached mount.
    shown: PathBuf,
    /// `None` for a plain directory.
    mount: Option<Superblock>,
    /// The user and group that own root's files in an ID-mapped mount.
    owner: Option<(u32, u32)>,
}

#[derive(Debug, Clone)]
struct Superblock {
    number: u64,
    fs_type: String,
    source: OsString,
    attrs: Attrs,
    read_only: bool,
    options: Vec<(String, Option<OsString>)>,
}

impl FakeMounts {
    /// Makes the `nth` next call of this kind, counted from 1, fail with `errno` and change nothing.
    pub fn fail(&self, call: Call, nth: usize, errno: Errno) {
        self.state().failures.push((call, nth, errno));
    }

    /// Whether new file systems become read-only without an error, from now on.
    pub fn make_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// Makes the next `times` attempts to unmount return EBUSY.
    pub fn be_busy(&self, times: usize) {
        self.state().busy = times;
    }

    /// All requests to [`Mounts::create`], one line each, also refused ones.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Adds a line to the table, for a mount that another process made.
    pub fn put(&self, mount: Mount) {
        self.state().table.push(mount);
    }

    /// How often the table was read.
    pub fn tables_read(&self) -> usize {
        self.state().tables_read
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a test that panicked has failed already")
    }
}

impl State {
    fn fails(&mut self, call: Call) -> Result<(), MountError> {
        let mut failure = None;
        self.failures.retain_mut(|(which, nth, errno)| {
            if *which != call {
                return true;
            }
            *nth -= 1;
            if *nth == 0 {
                failure = Some(*errno);
            }
            *nth > 0
        });
        failure.map_or(Ok(()), |errno| Err(refused(format!("{call:?}, as the test wants"), errno)))
    }

    fn top_at(&self, target: &Path) -> Option<usize> {
        self.table.iter().rposition(|mount| mount.target == target)
    }
}

impl Mounts for FakeMounts {
    fn create(&self, request: &Request) -> Result<Detached, MountError> {
        let mut state = self.state();
        state.requests.push(describe(request));
        state.fails(Call::Create)?;
        rules::check_texts(request)?;
        match request.fs_type {
            "overlay" => rules::overlay(request)?,
            "erofs" if !Path::new(&request.source).is_file() && request.source != "/dev/loop7" => {
                return Err(refused(format!("open {}", request.source), Errno::ENOENT));
            }
            "erofs" | "tmpfs" => {}
            other => return Err(no_context(other, Errno::ENODEV)),
        }
        state.last_number += 1;
        let superblock = Superblock {
            number: state.last_number,
            fs_type: request.fs_type.to_owned(),
            source: request.source.clone().into(),
            attrs: request.attrs,
            read_only: state.read_only || request.fs_type == "erofs",
            options: request.params.iter().filter_map(shown_option).collect(),
        };
        Ok(detached(Tree { shown: "/".into(), mount: Some(superblock), owner: None }))
    }

    fn attach(&self, mount: Detached, target: &Path) -> Result<(), MountError> {
        let mut state = self.state();
        state.fails(Call::Attach)?;
        let Kind::Fake(Tree { mount: Some(superblock), .. }) = mount.kind else {
            return Err(refused("attach a directory".to_owned(), Errno::EINVAL));
        };
        directory::open(target)?;
        if state.top_at(target).is_some() {
            return Err(MountError::Occupied { target: target.to_owned() });
        }
        state.last_number += 1;
        let id = state.last_number;
        state.table.push(superblock.line(id, target));
        Ok(())
    }

    fn clone_of(&self, attached: &Path) -> Result<Detached, MountError> {
        directory::open(attached)?;
        let state = self.state();
        let mount = state
            .top_at(attached)
            .map(|at| Superblock::of(&state.table[at]))
            .ok_or_else(|| MountError::NotMounted { target: attached.to_owned() })?;
        Ok(detached(Tree { shown: "/".into(), mount: Some(mount), owner: None }))
    }

    fn unmount(&self, target: &Path) -> Result<(), MountError> {
        let mut state = self.state();
        state.fails(Call::Unmount)?;
        let Some(at) = state.top_at(target) else {
            return Err(MountError::NotMounted { target: target.to_owned() });
        };
        let pauses = BUSY_PAUSES.map(|_| Duration::ZERO);
        retry_while_busy(&pauses, || match state.busy {
            0 => Ok(()),
            _ => {
                state.busy -= 1;
                Err(rustix::io::Errno::BUSY)
            }
        })
        .map_err(|_| MountError::Busy { target: target.to_owned(), within: None })?;
        state.table.remove(at);
        Ok(())
    }

    fn topmost(&self, target: &Path) -> Result<Option<Mount>, MountError> {
        let state = self.state();
        Ok(state.top_at(target).map(|at| state.table[at].clone()))
    }

    fn table(&self) -> Result<Vec<Mount>, MountError> {
        let mut state = self.state();
        state.tables_read += 1;
        Ok(state.table.clone())
    }

    fn writable(&self, mount: &Detached) -> Result<bool, MountError> {
        let Kind::Fake(Tree { mount: Some(superblock), .. }) = &mount.kind else {
            return Ok(true);
        };
        Ok(!superblock.attrs.read_only && !superblock.read_only)
    }

    fn open_dir(&self, path: &Path) -> Result<Detached, MountError> {
        let fd = directory::open(path)?;
        let kind = Kind::Fake(Tree { shown: path.to_owned(), mount: None, owner: None });
        Ok(Detached { fd, kind })
    }

    fn idmapped(&self, tree: &Detached, uid: u32, gid: u32) -> Result<Detached, MountError> {
        if uid == u32::MAX || gid == u32::MAX {
            return Err(refused("map an invalid id".to_owned(), Errno::EINVAL));
        }
        Ok(detached(Tree { owner: Some((uid, gid)), ..tree_of(tree).clone() }))
    }

    fn loop_over(&self, _: &Path) -> Result<Loop, MountError> {
        Ok(Loop::named("/dev/loop7"))
    }
}

impl Superblock {
    fn line(self, id: u64, target: &Path) -> Mount {
        let flag = |on: bool, name: &str| on.then(|| name.to_owned());
        let access = |read_only: bool| if read_only { "ro" } else { "rw" }.to_owned();
        let mut super_options = vec![(access(self.read_only), None)];
        super_options.extend(self.options);
        let attrs = self.attrs;
        Mount {
            id,
            parent: 0,
            device: (0, self.number as u32),
            root: "/".into(),
            target: target.to_owned(),
            options: [
                Some(access(attrs.read_only)),
                flag(attrs.nosuid, "nosuid"),
                flag(attrs.nodev, "nodev"),
                flag(attrs.noexec, "noexec"),
                Some(if attrs.noatime { "noatime" } else { "relatime" }.to_owned()),
            ]
            .into_iter()
            .flatten()
            .collect(),
            propagation: Vec::new(),
            fs_type: self.fs_type,
            source: self.source,
            super_options: super_options.into_iter().collect(),
        }
    }

    fn of(line: &Mount) -> Self {
        let has = |name: &str| line.options.iter().any(|o| o == name);
        Self {
            number: line.device.1.into(),
            fs_type: line.fs_type.clone(),
            source: line.source.clone(),
            attrs: Attrs {
                read_only: has("ro"),
                nosuid: has("nosuid"),
                nodev: has("nodev"),
                noexec: has("noexec"),
                noatime: has("noatime"),
            },
            read_only: line.super_options.iter().next().is_some_and(|(key, _)| key == "ro"),
            options: line.super_options.iter().skip(1).collect(),
        }
    }
}

fn detached(tree: Tree) -> Detached {
    let root = directory::open(Path::new("/")).expect("the root directory is there");
    Detached { fd: root, kind: Kind::Fake(tree) }
}

fn tree_of(detached: &Detached) -> &Tree {
    match &detached.kind {
        Kind::Fake(tree) => tree,
        kind => panic!("a tree of the kernel ({kind:?}) was passed to the fake"),
    }
}

/// An option as fs/overlayfs/params.c shows it. Values that equal the module's default are left out.
fn shown_option(param: &Param) -> Option<(String, Option<OsString>)> {
    match param {
        Param::Flag("volatile") => Some(("fsync".to_owned(), Some("volatile".into()))),
        Param::Flag(key) => Some(((*key).to_owned(), None)),
        Param::Text("index" | "nfs_export" | "xino" | "metacopy", value) if value == "off" => None,
        Param::Text(key, value) => Some(((*key).to_owned(), Some(value.into()))),
        Param::Tree(key, tree) => {
            Some(((*key).to_owned(), Some(tree_of(tree).shown.clone().into())))
        }
    }
}

fn owner_suffix(tree: &Detached) -> String {
    tree_of(tree).owner.map_or(String::new(), |(uid, gid)| format!("@{uid}:{gid}"))
}

/// A request in one line, for tests that compare.
pub(crate) fn describe(request: &Request) -> String {
    let params = request.params.iter().map(|param| match param {
        Param::Flag(key) => (*key).to_owned(),
        Param::Text(key, value) => format!("{key}={value}"),
        Param::Tree(key, tree) => match &tree_of(tree).mount {
            Some(superblock) => {
                format!("{key}=<{}>{}", superblock.source.to_string_lossy(), owner_suffix(tree))
            }
            None => format!("{key}={}{}", tree_of(tree).shown.display(), owner_suffix(tree)),
        },
    });
    let Attrs { read_only, nosuid, nodev, noexec, noatime } = request.attrs;
    let attrs = [
        (read_only, "ro"),
        (nosuid, "nosuid"),
        (nodev, "nodev"),
        (noexec, "noexec"),
        (noatime, "noatime"),
    ];
    let attrs: Vec<&str> = attrs.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let params: Vec<String> = params.collect();
    format!("{} {} [{}] {}", request.fs_type, request.source, attrs.join(","), params.join(" "))
}
