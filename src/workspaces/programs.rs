//! Finds the programs of a workspace that can be frozen.
//!
//! Only programs that `ovl run` started can be: each run has a cgroup of its own. A copy shows a state at one moment only if
//! nothing else can write to the overlay. So a capture looks for other processes before the freeze, while the programs are
//! frozen, and after the thaw.
//!
//! Deliberately absent: writable mappings of a file that a process outside has closed.

use std::io;

use super::{copied::NotFrozen, error::WorkspaceError, lock::Workspace};
use crate::sys::{
    freezer::{Group, OwnGroups},
    mount_namespaces,
};

/// The programs of a workspace that can be frozen.
#[derive(Debug)]
pub(super) enum Programs {
    /// They have ended.
    Ended,
    /// They are in these cgroups, and nothing else can write.
    In(Vec<Group>),
}

impl Workspace<'_> {
    /// The cgroups with everything that can write to the overlay.
    pub(super) fn programs(&self) -> Result<Result<Programs, NotFrozen>, WorkspaceError> {
        if OwnGroups::has_this_process()? {
            return Ok(Err(NotFrozen::InsideRun));
        }
        let live = self.live()?;
        if live.is_none() {
            return Ok(Ok(Programs::Ended));
        }
        let (own, mut groups) = (OwnGroups::mounted()?, Vec::new());
        for pid in live.pids() {
            if let Some(group) = own.of(pid, self.name.as_str())?
                && !groups.contains(&group)
            {
                groups.push(group);
            }
        }
        Ok(self.check_all_in(&groups)?.map(|()| Programs::In(groups)))
    }

    /// Checks that everything that can write to the overlay is in these cgroups.
    pub(super) fn check_all_in(
        &self,
        groups: &[Group],
    ) -> Result<Result<(), NotFrozen>, WorkspaceError> {
        if let Err(why) = self.check_namespaces(groups)? {
            return Ok(Err(why));
        }
        let mounts = self.live()?.mount_ids();
        let inside = pids_in(groups)?;
        match mount_namespaces::user_of_mounts(&mounts, &inside)? {
            // It may have been started in one of the cgroups meanwhile.
            Some(pid) if !pids_in(groups)?.contains(&pid) => Ok(Err(NotFrozen::Outside(pid))),
            _ => Ok(Ok(())),
        }
    }

    /// Checks that all processes that have the overlay mounted are in these cgroups.
    pub(super) fn check_namespaces(
        &self,
        groups: &[Group],
    ) -> Result<Result<(), NotFrozen>, WorkspaceError> {
        let live = self.live()?;
        if let Some(here) = live.here().next() {
            return Ok(Err(NotFrozen::Mounted(here.mount.target.clone())));
        }
        // After the look at the namespaces: a process that was found there is in its cgroup still, or has ended.
        let inside = pids_in(groups)?;
        let outside = |pid: &u32| !inside.contains(pid) && mount_namespaces::has_namespace(*pid);
        match live.pids().into_iter().find(outside) {
            Some(pid) => Ok(Err(NotFrozen::Outside(pid))),
            None => Ok(Ok(())),
        }
    }
}

/// The processes in these cgroups.
fn pids_in(groups: &[Group]) -> io::Result<Vec<u32>> {
    let pids = groups.iter().map(Group::pids).collect::<io::Result<Vec<_>>>()?;
    Ok(pids.into_iter().flatten().collect())
}

#[cfg(test)]
#[path = "programs_tests.rs"]
mod tests;
