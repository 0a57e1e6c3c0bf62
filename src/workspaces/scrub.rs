//! Removes workspaces with all their states: all that are named, or none.

use std::{collections::BTreeSet, fmt, io};

use super::{
    error::WorkspaceError,
    lock::{OnLocked, Workspace},
    mounted::Live,
    open::Workspaces,
};
use crate::{
    error::Explained,
    layers::{LayerKey, WorkspaceName},
};

/// Why workspaces were not removed.
#[derive(Debug, thiserror::Error)]
pub struct ScrubError {
    /// The workspaces that cannot be removed, and why. One at least.
    pub reasons: Vec<(WorkspaceName, WorkspaceError)>,
    /// How many were to be removed.
    wanted: usize,
    /// Those that were removed before.
    removed: Vec<WorkspaceName>,
}

impl ScrubError {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        if let ([(_, error)], 1) = (&self.reasons[..], self.wanted) {
            return error.explained();
        }
        let removed: Vec<_> = self.removed.iter().map(WorkspaceName::as_str).collect();
        let what = match &removed[..] {
            [] => "no workspace was removed".to_owned(),
            names => format!("only {} were removed", names.join(", ")),
        };
        let (mut why, mut fix) = (Vec::new(), Vec::new());
        for (name, error) in &self.reasons {
            let Explained { what, why: reason, fix: advice } = error.explained();
            why.push(match (what, reason) {
                (Some(what), Some(reason)) => format!("{what}: {reason}"),
                (Some(what), None) => what,
                (None, reason) => format!("workspace {name}: {}", reason.unwrap_or_default()),
            });
            fix.extend(advice.filter(|advice| !fix.contains(advice)));
        }
        let fix = (!fix.is_empty()).then(|| fix.join("\n"));
        Explained { what: Some(what), why: Some(why.join("\n")), fix }
    }
}

impl fmt::Display for ScrubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

/// A workspace that can be removed.
enum Removable<'w> {
    Locked(Box<Workspace<'w>>),
    /// This version cannot read its record. Its layers stay for `gc`.
    Unreadable(WorkspaceName),
}

impl Workspaces {
    /// Removes workspaces with all their states. If one of them cannot be removed, none is.
    ///
    /// # Errors
    /// [`ScrubError`]: there is no such workspace, another command has it ([`OnLocked::Fail`]), or it is mounted.
    pub fn scrub(&self, names: &[WorkspaceName], on: OnLocked) -> Result<(), ScrubError> {
        // In one order, so two commands do not wait for each other. Each once: its lock is taken once.
        let names: BTreeSet<_> = names.iter().collect();
        let wanted = names.len();
        let (mut all, mut reasons) = (Vec::new(), Vec::new());
        for name in names {
            match self.removable(name, on) {
                Ok(one) => all.push(one),
                Err(error) => reasons.push((name.clone(), error)),
            }
        }
        if !reasons.is_empty() {
            return Err(ScrubError { reasons, wanted, removed: Vec::new() });
        }
        let mut removed = Vec::new();
        for one in all {
            let name = one.name().clone();
            if let Err(error) = one.remove(self) {
                return Err(ScrubError { reasons: vec![(name, error)], wanted, removed });
            }
            removed.push(name);
        }
        Ok(())
    }

    fn removable(
        &self,
        name: &WorkspaceName,
        on: OnLocked,
    ) -> Result<Removable<'_>, WorkspaceError> {
        match self.lock(name, on) {
            Err(WorkspaceError::Disk(e)) if e.kind() == io::ErrorKind::InvalidData => {
                Live::of(&self.store.workspaces.dir(name).join("upper"))?.refuse("remove", name)?;
                Ok(Removable::Unreadable(name.clone()))
            }
            workspace => {
                let workspace = workspace?;
                workspace.require_unmounted("remove")?;
                Ok(Removable::Locked(Box::new(workspace)))
            }
        }
    }
}

impl Removable<'_> {
    fn name(&self) -> &WorkspaceName {
        match self {
            Self::Locked(workspace) => &workspace.name,
            Self::Unreadable(name) => name,
        }
    }

    fn remove(self, all: &Workspaces) -> Result<(), WorkspaceError> {
        match self {
            Self::Locked(workspace) => workspace.scrub(),
            Self::Unreadable(name) => Ok(all.store.workspaces.remove(&name)?),
        }
    }
}

impl Workspace<'_> {
    /// Removes the workspace with all its states.
    ///
    /// # Errors
    /// The workspace is mounted.
    pub fn scrub(self) -> Result<(), WorkspaceError> {
        self.require_unmounted("remove")?;
        let layers: Vec<LayerKey> = self.record.own_layers().copied().collect();
        self.all.store.workspaces.remove(&self.name)?;
        self.all.remove_layers(&layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::testing::{Machine, workspace};

    #[test]
    #[ignore = "needs root: mounts overlays"]
    fn privileged_of_several_workspaces_all_are_removed_or_none() {
        let machine = Machine::new();
        let names = |names: &[&str]| names.iter().map(|name| workspace(name)).collect::<Vec<_>>();
        let scrub = |these: &[&str]| machine.all.scrub(&names(these), OnLocked::Fail);
        drop(machine.copy("a"));
        machine.all.fork(&workspace("a"), &names(&["b", "c", "d"]), OnLocked::Fail).unwrap();
        machine.lock("b").mount(None).unwrap();
        let held = machine.lock("c");
        let refused = scrub(&["d", "nothing", "c", "b", "a"]).unwrap_err();
        let found: Vec<_> = refused.reasons.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, ["b", "c", "nothing"]);
        let Explained { what, why, fix } = refused.explained();
        assert_eq!(what.as_deref(), Some("no workspace was removed"));
        let why = why.unwrap();
        assert!(why.starts_with("cannot remove workspace b: it is mounted at "), "{why}");
        assert!(why.contains("\nworkspace c: workspace c is in use by another command"), "{why}");
        assert!(why.ends_with("\nthere is no workspace nothing"), "{why}");
        assert_eq!(fix.unwrap().lines().count(), 3);
        assert_eq!(machine.all.list(None).unwrap().len(), 4);
        drop(held);
        machine.lock("b").umount().unwrap();
        // A name that is written twice is one.
        scrub(&["d", "c", "d", "b"]).unwrap();
        let alone = scrub(&["d"]).unwrap_err().explained();
        assert_eq!(alone.what.as_deref(), Some("there is no workspace d"));
        scrub(&["a"]).unwrap();
        assert_eq!(machine.all.list(None).unwrap().len(), 0);
    }
}
