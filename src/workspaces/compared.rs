//! Compares two states of a workspace.

use std::path::Path;

use super::{
    changes::{Changes, ChangesOptions, changes},
    error::WorkspaceError,
    export::{ExportError, export},
    lock::Workspace,
    open::Workspaces,
    view::Trees,
};
use crate::{
    changeset::{Comparison, Limits},
    layers::{Lease, StateName},
    sys::tree_reader::Entry,
};

/// The states that are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// The state before. `None`: what the workspace was made of.
    pub before: Option<Before>,
    /// The snapshot after. `None`: the present state.
    pub after: Option<StateName>,
}

/// The state before, if it is not what the workspace was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// A snapshot.
    Snapshot(StateName),
    /// The state to which a clean goes back.
    Current,
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
    /// The two states as trees.
    ///
    /// # Errors
    /// There is no such snapshot, or a layer or the directory cannot be opened.
    pub fn compared(&self, states: &Compared) -> Result<Trees, WorkspaceError> {
        let before = match &states.before {
            Some(Before::Snapshot(name)) => Some(self.layers_of(name)?),
            Some(Before::Current) => Some(self.record.current.clone()),
            None => None,
        };
        let after = states.after.as_ref().map(|name| self.layers_of(name)).transpose()?;
        self.trees(before.as_deref(), after.as_deref())
    }

    /// What the workspace was made of, and its present state at one moment: the changes of a mounted workspace are copied
    /// before. The lease keeps the copy.
    ///
    /// # Errors
    /// A layer or the directory cannot be opened, or the changes cannot be copied.
    pub(super) fn since_base(&mut self) -> Result<(Trees, Option<Lease>), WorkspaceError> {
        if self.live()?.is_none() {
            return Ok((self.compared(&Compared::default())?, None));
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
