//! The states of a workspace: snapshot, rollback, clean, remove, rename.
//!
//! | command | upper | `below` | `current` |
//! |---|---|---|---|
//! | snapshot, with an upper | becomes a layer | and this layer | the new `below` |
//! | snapshot, without | | | the `below` |
//! | snapshot, mounted | stays | | `below` and a copied layer |
//! | rollback to a state | removed | the state | the state |
//! | clean | removed | the `current` | |
//!
//! The states of a record are changed by functions without a disk, which the model of the tests checks.

use jiff::Timestamp;

use super::{
    copied::Copied,
    error::WorkspaceError,
    list::has_entries,
    lock::Workspace,
    name::{CURRENT, FAILED},
};
use crate::{
    layers::{LayerKey, Layers, NamedState, StateName, WorkspaceName, WorkspaceRecord},
    sys::{attributes, durable},
};

/// How a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The workspace was not mounted, so nothing was copied.
    Unmounted,
    /// The upper of the mounted workspace was copied.
    Mounted(Copied),
}

impl WorkspaceRecord {
    /// Adds a name for a state. Replaces nothing.
    pub(super) fn name_state(&mut self, name: StateName, layers: Vec<LayerKey>) {
        self.states.push(NamedState { name, layers, taken: Timestamp::now() });
    }

    /// Goes back to a state. Names of it are current then.
    pub(super) fn go_back(&mut self, layers: Vec<LayerKey>) {
        self.below.clone_from(&layers);
        self.current = layers;
    }
}

impl Workspace<'_> {
    /// Gives the present state a name. The state of a mounted workspace is copied.
    ///
    /// # Errors
    /// The name is taken or reserved, or the state cannot be captured.
    pub fn snapshot(&mut self, name: &StateName) -> Result<Taken, WorkspaceError> {
        self.check_new_name(name)?;
        let before = self.record.current.clone();
        let taken = match self.live()?.is_none() {
            true => self.snapshot_unmounted(name)?,
            false => self.snapshot_mounted(name)?,
        };
        // The former current state may have lost its names before.
        self.remove_unused(&before)?;
        Ok(taken)
    }

    fn snapshot_mounted(&mut self, name: &StateName) -> Result<Taken, WorkspaceError> {
        let captured = self.capture()?;
        let mut layers = self.record.below.clone();
        layers.push(captured.key);
        self.record.current.clone_from(&layers);
        self.record.name_state(name.clone(), layers);
        self.save()?;
        Ok(Taken::Mounted(captured.copied))
    }

    fn snapshot_unmounted(&mut self, name: &StateName) -> Result<Taken, WorkspaceError> {
        self.drop_unwritten()?;
        if self.has_upper() {
            let key = Layers::new_key()?;
            self.record.below.push(key);
            self.record.sealing = Some(key);
        }
        self.record.current.clone_from(&self.record.below);
        self.record.name_state(name.clone(), self.record.below.clone());
        self.save_and_seal()?;
        Ok(Taken::Unmounted)
    }

    /// Makes the upper a layer without a name, so that other workspaces can stand on it. Does nothing without an upper.
    pub(super) fn seal(&mut self) -> Result<(), WorkspaceError> {
        self.drop_unwritten()?;
        if !self.has_upper() {
            return Ok(());
        }
        let key = Layers::new_key()?;
        self.record.below.push(key);
        self.record.sealing = Some(key);
        self.save_and_seal()
    }

    /// Writes the record, and makes the upper the layer that the record names. The record comes first: after a kill in
    /// between, the next command continues. The record says that this is not complete until the next change of it.
    fn save_and_seal(&mut self) -> Result<(), WorkspaceError> {
        self.save()?;
        let Some(key) = self.record.sealing else { return Ok(()) };
        let _lease = self.all.store.leases.take(&[key])?;
        let (pair, features) = (self.upper_and_work(), self.layer_features());
        if !self.all.store.layers.seal(pair.upper(), &key, features)? {
            return Err(WorkspaceError::Lost(self.name.clone()));
        }
        self.record.sealing = None;
        Ok(durable::remove_tree_unsynced(pair.work())?)
    }

    /// Keeps what a failed command has left as the state `failed`, in place of an earlier one. The workspace goes back to
    /// the state before the command.
    pub fn keep_failed(&mut self) -> Result<(), WorkspaceError> {
        let before: Vec<LayerKey> = self.record.failed.take().into_iter().flatten().collect();
        let mut layers = self.record.below.clone();
        if self.has_upper() {
            let key = Layers::new_key()?;
            layers.push(key);
            self.record.sealing = Some(key);
        }
        self.record.failed = Some(layers);
        self.save_and_seal()?;
        self.remove_unused(&before)
    }

    /// Makes what a command has left a layer on which the workspace stands. Returns its key; `None` if the workspace was
    /// not mounted.
    pub(super) fn keep_layer(&mut self) -> Result<Option<LayerKey>, WorkspaceError> {
        if !self.has_upper() {
            return Ok(None);
        }
        let key = Layers::new_key()?;
        self.record.sealing = Some(key);
        self.stand_on(key)?;
        Ok(Some(key))
    }

    /// Puts a layer on top of the state, which is current then.
    pub(super) fn stand_on(&mut self, layer: LayerKey) -> Result<(), WorkspaceError> {
        let before = self.record.current.clone();
        self.record.below.push(layer);
        self.record.current.clone_from(&self.record.below);
        self.save_and_seal()?;
        self.remove_unused(&before)
    }

    /// Whether a rollback to `layers` would lose changes: those in the upper, or layers that no snapshot has.
    fn would_lose(&self, layers: &[LayerKey]) -> Result<bool, WorkspaceError> {
        let is_in = |state: &[LayerKey]| state.starts_with(&self.record.below);
        let stays = is_in(layers) || self.record.states.iter().any(|state| is_in(&state.layers));
        Ok(!stays || self.has_written()?)
    }

    /// Drops an upper in which nothing was written, so that it does not become a state.
    fn drop_unwritten(&self) -> Result<(), WorkspaceError> {
        match self.is_unwritten()? {
            true => self.drop_upper(),
            false => Ok(()),
        }
    }

    /// Whether it has an upper in which nothing was written: without an entry, and with the attributes of the directory below.
    pub(super) fn is_unwritten(&self) -> Result<bool, WorkspaceError> {
        if !self.has_upper() || self.has_written()? {
            return Ok(false);
        }
        let stack = self.all.open_stack(&self.name, &self.record, &self.record.below)?;
        let Some(top) = stack.lowers.last() else { return Ok(false) };
        Ok(attributes::are_equal(&top.dir.path(), self.upper_and_work().upper())?)
    }

    /// Whether the upper has an entry.
    pub(super) fn has_written(&self) -> Result<bool, WorkspaceError> {
        Ok(has_entries(self.upper_and_work().upper())?)
    }

    /// Checks that [`Workspace::rollback`] can go back to a snapshot. Returns whether that would lose changes.
    ///
    /// # Errors
    /// There is no such snapshot, or the workspace is mounted.
    pub fn check_rollback(&self, name: &StateName) -> Result<bool, WorkspaceError> {
        let layers = self.layers_of(name)?;
        self.require_unmounted("roll back")?;
        self.would_lose(&layers)
    }

    /// Goes back to a snapshot. All changes since the last state are lost.
    ///
    /// # Errors
    /// There is no such snapshot, or the workspace is mounted.
    pub fn rollback(&mut self, name: &StateName) -> Result<(), WorkspaceError> {
        let layers = self.layers_of(name)?;
        self.go_back("roll back", layers)
    }

    /// Goes back to the state that was last taken, or rolled back to. All changes since then are lost.
    ///
    /// # Errors
    /// The workspace is mounted.
    pub fn clean(&mut self) -> Result<(), WorkspaceError> {
        let layers = self.record.current.clone();
        self.go_back("clean", layers)
    }

    fn go_back(
        &mut self,
        action: &'static str,
        layers: Vec<LayerKey>,
    ) -> Result<(), WorkspaceError> {
        self.require_unmounted(action)?;
        let before: Vec<LayerKey> = self.record.own_layers().copied().collect();
        // The upper goes first: a kill in between loses what the user wants to lose, and no more.
        self.drop_upper()?;
        self.record.go_back(layers);
        self.save()?;
        self.remove_unused(&before)
    }

    /// Removes the name of a state. Its layers are deleted if nothing else needs them.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub fn remove(&mut self, name: &StateName) -> Result<(), WorkspaceError> {
        let before = self.layers_of(name)?;
        match name.as_str() {
            FAILED => self.record.failed = None,
            _ => self.record.states.retain(|state| state.name != *name),
        }
        self.save()?;
        self.remove_unused(&before)
    }

    /// Gives the workspace another name.
    ///
    /// # Errors
    /// The name is taken, or the workspace is mounted.
    pub fn rename(self, to: &WorkspaceName) -> Result<(), WorkspaceError> {
        self.require_unmounted("rename")?;
        match self.all.store.workspaces.rename(&self.name, to)? {
            true => Ok(()),
            false => Err(WorkspaceError::Taken(to.clone())),
        }
    }

    /// The own layers of a snapshot.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub fn layers_of(&self, name: &StateName) -> Result<Vec<LayerKey>, WorkspaceError> {
        layers_of(&self.name, &self.record, name)
    }

    fn check_new_name(&self, name: &StateName) -> Result<(), WorkspaceError> {
        if [CURRENT, FAILED].contains(&name.as_str()) {
            return Err(WorkspaceError::Reserved(name.to_string()));
        }
        match self.record.state(name) {
            None => Ok(()),
            Some(_) => Err(WorkspaceError::StateTaken {
                workspace: self.name.clone(),
                state: name.clone(),
            }),
        }
    }

    fn remove_unused(&self, layers: &[LayerKey]) -> Result<(), WorkspaceError> {
        let kept: std::collections::HashSet<_> = self.record.own_layers().collect();
        let unused: Vec<LayerKey> =
            layers.iter().filter(|key| !kept.contains(key)).copied().collect();
        match unused.is_empty() {
            true => Ok(()),
            false => self.all.remove_layers(&unused),
        }
    }
}

/// The own layers of a snapshot of the workspace with this record, or of what a failed command has left.
///
/// # Errors
/// There is no such snapshot.
pub(super) fn layers_of(
    workspace: &WorkspaceName,
    record: &WorkspaceRecord,
    name: &StateName,
) -> Result<Vec<LayerKey>, WorkspaceError> {
    let failed = record.failed.as_ref().filter(|_| name.as_str() == FAILED);
    let found = failed.or_else(|| record.state(name).map(|state| &state.layers));
    found.cloned().ok_or_else(|| WorkspaceError::UnknownState {
        workspace: workspace.clone(),
        state: name.clone(),
        known: record.states.iter().map(|state| state.name.clone()).collect(),
    })
}

#[cfg(test)]
#[path = "states_tests.rs"]
mod tests;
