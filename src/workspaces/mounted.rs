//! Mounts a workspace, and finds out where it is mounted.
//!
//! A workspace has at most one overlay, whose upper identifies it in the mount tables. The overlay can be in the namespace
//! of the caller ([`Workspace::mount`]) and in those of commands that run in the workspace. It exists until the last of
//! these has ended, so nothing is mounted after a kill of a command.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use globset::{Glob, GlobSetBuilder};

use super::{
    checks,
    error::{InUse, WorkspaceError},
    lock::Workspace,
    view::OpenStack,
};
use crate::{
    layers::WorkspaceName,
    overlay::{self, Lower, Plan, Spec, Stack},
    sys::{
        attributes, copy_up,
        durable::{self, at},
        mount_namespaces::{self, MountElsewhere},
        mount_target,
        mounts::{Detached, refresh},
    },
};

/// Where the overlay of a workspace is mounted.
#[derive(Debug)]
pub struct Live(Vec<MountElsewhere>);

impl Live {
    /// Where the overlay with this upper is mounted.
    pub(super) fn of(upper: &Path) -> Result<Self, WorkspaceError> {
        Ok(Self(mount_namespaces::find(upper, |mount| overlay::is_ours(mount, upper))?))
    }

    /// The same, from mounts that were found before.
    pub(super) fn among(found: &[MountElsewhere], upper: &Path) -> Self {
        let ours = found.iter().filter(|live| overlay::is_ours(&live.mount, upper));
        Self(ours.cloned().collect())
    }

    /// Refuses an action while the overlay is mounted.
    pub(super) fn refuse(
        &self,
        action: &'static str,
        name: &WorkspaceName,
    ) -> Result<(), WorkspaceError> {
        match self.in_use() {
            None => Ok(()),
            Some(how) => Err(WorkspaceError::InUse { action, name: name.clone(), how }),
        }
    }

    /// The mounts in the namespace of this process.
    pub fn here(&self) -> impl Iterator<Item = &MountElsewhere> {
        self.0.iter().filter(|mount| mount.is_own)
    }

    /// A mount of the overlay, one of this namespace if possible.
    pub(super) fn any(&self) -> Option<&MountElsewhere> {
        self.here().next().or_else(|| self.0.first())
    }

    /// The processes of other namespaces that have the overlay at another place than this namespace. At the same place, it
    /// is a copy of the mount here that the kernel has made for them, and in most of them it ends with the mount here.
    pub fn elsewhere(&self) -> Vec<u32> {
        let is_copy = |other: &MountElsewhere| {
            self.here().any(|here| here.mount.target == other.mount.target)
        };
        let others = self.0.iter().filter(|other| !other.is_own && !is_copy(other));
        let mut pids: Vec<u32> = others.flat_map(|mount| &mount.pids).copied().collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// The processes in all namespaces that have it.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.0.iter().flat_map(|mount| &mount.pids).copied().collect()
    }

    /// The ids of its mounts in all namespaces.
    pub(super) fn mount_ids(&self) -> Vec<u64> {
        self.0.iter().map(|mount| mount.mount.id).collect()
    }

    /// Whether the overlay is mounted nowhere.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// How it is in use, for a message. `None` if it is not.
    fn in_use(&self) -> Option<InUse> {
        match self.here().next() {
            Some(here) => Some(InUse::Mounted(here.mount.target.clone())),
            None if self.is_none() => None,
            None => Some(InUse::Running(self.elsewhere())),
        }
    }
}

impl Workspace<'_> {
    /// Where its overlay is mounted, in all namespaces of this machine.
    ///
    /// # Errors
    /// The mount table of a process cannot be read.
    pub fn live(&self) -> Result<Live, WorkspaceError> {
        Live::of(self.upper_and_work().upper())
    }

    /// Refuses an action on a workspace that is mounted or running.
    pub(super) fn require_unmounted(&self, action: &'static str) -> Result<(), WorkspaceError> {
        self.live()?.refuse(action, &self.name)
    }

    /// Makes the kernel see changes of the directory below a mounted copy: drops the names that it remembers and no process
    /// uses.
    fn refresh(&self, path: &Path) -> Result<(), WorkspaceError> {
        match self.record.directory() {
            Some(_) => Ok(refresh(path)?),
            None => Ok(()),
        }
    }

    /// A detached clone of the mounted overlay, which shows the present files of the directory below. `None` if it is not
    /// mounted.
    pub(super) fn clone_live(&self) -> Result<Option<Detached>, WorkspaceError> {
        loop {
            let found = self.live()?;
            let Some(live) = found.any() else { return Ok(None) };
            match self.clone_of(live) {
                Ok(clone) => {
                    self.refresh(&clone.path())?;
                    return Ok(Some(clone));
                }
                // All of them have ended since they were found. Another process may have the overlay, or none.
                Err(_) if !live.pids.iter().any(|pid| mount_namespaces::has_namespace(*pid)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn clone_of(&self, live: &MountElsewhere) -> Result<Detached, WorkspaceError> {
        if live.is_own {
            return Ok(self.all.mounts.clone_of(&live.mount.target)?);
        }
        let target = &live.mount.target;
        let clones = live.pids.iter().map(|pid| mount_namespaces::clone_from(*pid, target));
        let mut last = None;
        for clone in clones {
            match clone {
                Ok(clone) => return Ok(clone),
                // It may have ended meanwhile.
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| WorkspaceError::NotMounted(self.name.clone()), Into::into))
    }

    /// The overlay of the workspace, detached: the one that is mounted, or a new one. `extra` is a layer below all others,
    /// which only a new overlay gets.
    ///
    /// # Errors
    /// A layer or the directory cannot be opened, or the kernel refuses the mount.
    pub fn overlay(&mut self, extra: Option<Lower>) -> Result<Detached, WorkspaceError> {
        match self.clone_live()? {
            Some(live) => Ok(live),
            None => self.new_overlay(extra),
        }
    }

    /// A new overlay, detached. The caller knows that there is none.
    fn new_overlay(&mut self, extra: Option<Lower>) -> Result<Detached, WorkspaceError> {
        if let Some(directory) = self.record.directory().filter(|path| path.is_dir()) {
            // One can have been made since the copy was created.
            checks::no_subvolume_below(directory)?;
        }
        let stack = self.all.open_stack(&self.name, &self.record, &self.record.below)?;
        self.make_upper(&stack)?;
        let OpenStack { lowers, lease } = stack;
        let spec = Spec {
            name: format!("ovl-{}", self.name),
            stack: Stack::new(extra.into_iter().chain(lowers).collect())?,
            upper: Some(self.upper_and_work()),
            owner: None,
            options: self.options(),
        };
        let plan = Plan::new(spec)?.on(&self.all.features)?;
        let merged = overlay::mount(&*self.all.mounts, &plan)?;
        drop(lease);
        self.try_write(&merged)?;
        self.copy_up(&merged)?;
        Ok(merged)
    }

    /// Mounts the workspace at `path`, or in the store. Returns where. Does nothing if it is mounted there.
    ///
    /// # Errors
    /// As [`Workspace::overlay`], or the path cannot be used.
    pub fn mount(&mut self, path: Option<&Path>) -> Result<PathBuf, WorkspaceError> {
        let live = self.live()?;
        let here = live.here().find(|live| path.is_none_or(|path| live.mount.target == path));
        if let Some(here) = here {
            self.refresh(&here.mount.target)?;
            return Ok(here.mount.target.clone());
        }
        let target = path.map_or_else(|| self.dir.join("merged"), Path::to_owned);
        match mount_target::make(&target) {
            // A directory with entries is hidden by the mount, as by mount(8).
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            made => drop(made.map_err(at("make the directory", &target))?),
        }
        let overlay = if live.is_none() { self.new_overlay(None)? } else { self.overlay(None)? };
        self.all.mounts.attach(overlay, &target)?;
        Ok(target)
    }

    /// Unmounts the workspace everywhere in the namespace of this process.
    ///
    /// # Errors
    /// It is not mounted; processes use it; or commands run in it.
    pub fn umount(&mut self) -> Result<(), WorkspaceError> {
        let live = self.live()?;
        let running = live.elsewhere();
        let here: Vec<_> = live.here().map(|live| live.mount.target.clone()).collect();
        if here.is_empty() && running.is_empty() {
            return Err(WorkspaceError::NotMounted(self.name.clone()));
        }
        if !running.is_empty() {
            let (action, name) = ("unmount", self.name.clone());
            return Err(WorkspaceError::InUse { action, name, how: InUse::Running(running) });
        }
        for path in here {
            match self.all.mounts.unmount(&path) {
                Err(error) => {
                    let pids = mount_namespaces::users_of(&path);
                    return Err(match pids.is_empty() {
                        true => error.into(),
                        false => WorkspaceError::BusyMount { path, pids },
                    });
                }
                Ok(()) if path.starts_with(&self.dir) => mount_target::remove(&path)?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Makes upper and work if they do not exist.
    fn make_upper(&self, stack: &OpenStack) -> Result<(), WorkspaceError> {
        let pair = self.upper_and_work();
        if !pair.work().exists() {
            durable::create_dir_unsynced(pair.work(), 0o700)?;
        }
        if pair.upper().exists() {
            return Ok(());
        }
        let new = pair.upper().with_extension("new");
        durable::remove_tree_unsynced(&new)?;
        durable::create_dir_unsynced(&new, 0o755)?;
        if let Some(top) = stack.lowers.last() {
            attributes::copy(&top.dir, &new)?;
        }
        Ok(durable::rename_unsynced(&new, pair.upper())?)
    }

    /// Makes and removes a file: a mount that succeeded can refuse every write.
    fn try_write(&self, merged: &Detached) -> Result<(), WorkspaceError> {
        let probe = merged.path().join(format!(".ovl-probe-{}", std::process::id()));
        let written = fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe));
        let failed = |source| WorkspaceError::NotWritable { name: self.name.clone(), source };
        written.map_err(failed)
    }

    /// Copies up the files that match the patterns of the record. A pattern without a match is no error.
    fn copy_up(&self, merged: &Detached) -> Result<(), WorkspaceError> {
        let mut patterns = GlobSetBuilder::new();
        for pattern in &self.record.pre_copy_up {
            let glob = Glob::new(pattern.trim_start_matches('/'));
            patterns.add(glob.map_err(io::Error::other)?);
        }
        let patterns = patterns.build().map_err(io::Error::other)?;
        if patterns.is_empty() {
            return Ok(());
        }
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            let full = merged.path().join(&dir);
            for entry in fs::read_dir(&full).map_err(at("list", &full))? {
                let entry = entry.map_err(at("list", &full))?;
                let (kind, path) = (entry.file_type()?, dir.join(entry.file_name()));
                if kind.is_dir() {
                    dirs.push(path);
                } else if kind.is_file() && patterns.is_match(&path) {
                    copy_up::copy_up(merged, &path)
                        .map_err(|source| WorkspaceError::CopyUp { path, source })?;
                }
            }
        }
        Ok(())
    }

    /// Removes the upper and the work directory, with everything that was written since the last state.
    pub(super) fn drop_upper(&self) -> Result<(), WorkspaceError> {
        let pair = self.upper_and_work();
        for dir in [pair.upper(), pair.work()] {
            let moved = self.all.store.staging.move_here(dir)?;
            if let Some(moved) = moved {
                durable::remove_tree_unsynced(&moved)?;
            }
        }
        Ok(())
    }
}
