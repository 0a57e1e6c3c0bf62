//! Compares two states of a workspace.

use std::{io, path::Path, str::FromStr};

use super::{
    changes::{Changes, ChangesOptions, changes},
    error::WorkspaceError,
    export::{ExportError, export},
    lock::{OnLocked, Workspace},
    name::{CURRENT, FAILED, NameAt, NameError},
    open::Workspaces,
    view::Trees,
};
use crate::{
    changeset::{Comparison, Limits},
    layers::{Lease, StateName, WorkspaceName, WorkspaceRecord},
    sys::tree_reader::Entry,
};

/// The state before, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Against {
    /// `current`, a snapshot of the workspace, or another workspace. A snapshot comes first.
    Name(StateName),
    /// The present state of a workspace, or a snapshot of it.
    Of(NameAt),
}

impl FromStr for Against {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name: NameAt = text.parse()?;
        match text.parse() {
            Ok(state) => Ok(Self::Name(state)),
            // It has an @.
            Err(_) => Ok(Self::Of(name)),
        }
    }
}

/// Two states of workspaces, which do not change as long as this exists.
#[derive(Debug)]
pub struct Compared<'w> {
    /// The states as trees.
    pub trees: Trees,
    workspace: Workspace<'w>,
    /// The other workspace.
    _other: Option<Workspace<'w>>,
}

impl Compared<'_> {
    /// The directory of a copy.
    pub fn directory(&self) -> Option<&Path> {
        self.workspace.record.directory()
    }
}

/// The layers of two workspaces mean the same only on the same base.
fn require_same_base(one: &Workspace<'_>, other: &Workspace<'_>) -> Result<(), WorkspaceError> {
    let (this, that) = (&one.record, &other.record);
    match (this.image_layers(), this.directory()) == (that.image_layers(), that.directory()) {
        true => Ok(()),
        false => Err(WorkspaceError::OtherBase(Box::new(
            [one, other].map(|of| (of.name.clone(), of.record.base.clone())),
        ))),
    }
}

/// Why a state was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportFailure {
    /// The workspace cannot be read.
    Workspace(#[from] WorkspaceError),
    /// The directory cannot be written.
    Export(#[from] ExportError),
}

impl Workspace<'_> {
    /// What the workspace was made of, and its present state at one moment: the changes of a mounted workspace are copied
    /// before. The lease keeps the copy.
    ///
    /// # Errors
    /// A layer or the directory cannot be opened, or the changes cannot be copied.
    pub(super) fn since_base(&mut self) -> Result<(Trees, Option<Lease>), WorkspaceError> {
        if self.live()?.is_none() {
            return Ok((self.trees(None, None)?, None));
        }
        let (layers, lease) = self.present_layers()?;
        Ok((self.trees(None, Some(&layers))?, lease))
    }

    /// Writes a state into the directory `to`, an absolute path without symlinks: a new one, or an empty one.
    ///
    /// # Errors
    /// [`ExportFailure`].
    pub fn export(&mut self, state: Option<&StateName>, to: &Path) -> Result<(), ExportFailure> {
        let (trees, _lease) = match state {
            Some(state) => {
                let layers = self.layers_of(state)?;
                (self.trees(None, Some(&layers))?, None)
            }
            None => self.since_base()?,
        };
        let top = trees.layers.last().map(|top| Entry::root(top)).transpose();
        Ok(export(&trees.after, top.map_err(WorkspaceError::from)?.as_ref(), to, &|| false)?)
    }
}

impl Workspaces {
    /// A state of a workspace, and the one that it is compared with: what the workspace was made of, unless another one is
    /// named.
    ///
    /// # Errors
    /// There is no such snapshot or workspace, the other workspace stands on another base, or a layer or the directory cannot
    /// be opened.
    pub fn compared(
        &self,
        name: &NameAt,
        against: Option<&Against>,
        on: OnLocked,
    ) -> Result<Compared<'_>, WorkspaceError> {
        let own = &name.workspace;
        let other = match against {
            Some(Against::Of(other)) => Some(other.clone()),
            Some(Against::Name(text)) => self.other_workspace(own, text)?,
            None => None,
        };
        let (workspace, other) = match other {
            None => (self.lock(own, on)?, None),
            Some(other) if other.workspace == *own => (self.lock(own, on)?, Some((other, None))),
            Some(other) => {
                // In one order, so two commands do not wait for each other.
                let first = self.lock((&other.workspace).min(own), on)?;
                let second = self.lock((&other.workspace).max(own), on)?;
                match first.name == *own {
                    true => (first, Some((other, Some(second)))),
                    false => (second, Some((other, Some(first)))),
                }
            }
        };
        let before = match (&other, against) {
            (Some((at, other)), _) => {
                let other = other.as_ref().unwrap_or(&workspace);
                require_same_base(&workspace, other)?;
                let layers = at.state.as_ref().map(|state| other.layers_of(state)).transpose()?;
                other.side(layers.as_deref())?
            }
            (None, Some(Against::Name(state))) if state.as_str() != CURRENT => {
                workspace.side(Some(&workspace.layers_of(state)?))?
            }
            (None, Some(_)) => workspace.side(Some(&workspace.record.current))?,
            (None, None) => workspace.side(Some(&[]))?,
        };
        let after = name.state.as_ref().map(|state| workspace.layers_of(state)).transpose()?;
        let trees = self.trees_of(before, workspace.side(after.as_deref())?)?;
        let _other = other.and_then(|(_, other)| other);
        Ok(Compared { trees, workspace, _other })
    }

    /// The workspace with this name, unless `own` has a snapshot of it.
    fn other_workspace(
        &self,
        own: &WorkspaceName,
        text: &StateName,
    ) -> Result<Option<NameAt>, WorkspaceError> {
        let record = self.store.workspaces.get(own)?;
        let is_failed =
            |record: &WorkspaceRecord| record.failed.is_some() && text.as_str() == FAILED;
        let has_state =
            |record: WorkspaceRecord| record.state(text).is_some() || is_failed(&record);
        if text.as_str() == CURRENT || record.is_some_and(has_state) {
            return Ok(None);
        }
        let workspace: WorkspaceName = text.as_str().parse().map_err(io::Error::other)?;
        let is_there = self.store.workspaces.get(&workspace)?.is_some();
        Ok(is_there.then_some(NameAt { workspace, state: None }))
    }

    /// What differs between two trees.
    ///
    /// # Errors
    /// A tree cannot be read.
    pub fn changes(
        &self,
        trees: &Trees,
        options: ChangesOptions,
    ) -> Result<Changes, WorkspaceError> {
        let comparison = Comparison {
            first: &trees.before,
            second: &trees.after,
            layers: trees.roots()?,
            hides_all: trees.hides_all,
            times: true,
        };
        Ok(changes(comparison, options, &self.limits(), &|| false)?)
    }

    /// The limits of a comparison or of a packing.
    pub(super) fn limits(&self) -> Limits {
        let (budget, scratch) = (self.store.budget.clone(), self.store.disk.scratch());
        Limits { budget, scratch, ..Limits::default() }
    }
}

#[cfg(test)]
#[path = "compared_tests.rs"]
mod tests;
