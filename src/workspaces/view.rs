//! States as read-only trees: overlays without an upper that are attached nowhere.

use std::{io, sync::Arc};

use super::{error::WorkspaceError, lock::Workspace, open::Workspaces};
use crate::{
    layers::{LayerKey, Lease, WorkspaceRecord},
    overlay::{self, Lower, Options, Plan, RequiredFeatures, Spec, Stack},
    sys::{mounts::Detached, tree_reader::Entry},
};

/// The source of the mounts of views. It appears in the kernel's log only.
const NAME: &str = "ovl-view";

/// The layers of a state, opened.
#[derive(Debug)]
pub(super) struct OpenStack {
    /// Bottom first.
    pub(super) lowers: Vec<Lower>,
    /// Keeps them in the store.
    pub(super) lease: Lease,
}

/// Two states of a workspace as trees, for a comparison.
#[derive(Debug)]
pub struct Trees {
    /// The state before.
    pub before: Detached,
    /// The state after.
    pub after: Detached,
    /// The layers in which the two differ.
    pub layers: Vec<Arc<Detached>>,
    /// Whether one of these hides everything below it.
    pub hides_all: bool,
    pub(super) _leases: Vec<Lease>,
}

/// One of two states to compare, of workspaces that stand on the same base.
#[derive(Debug)]
pub(super) struct Side {
    tree: Detached,
    own: Vec<LayerKey>,
    /// The upper on these layers.
    upper: Option<Arc<Detached>>,
    lease: Lease,
}

impl Trees {
    /// The roots of the layers in which the two differ.
    ///
    /// # Errors
    /// A root cannot be read.
    pub(super) fn roots(&self) -> io::Result<Vec<Entry>> {
        self.layers.iter().map(|layer| Entry::root(layer)).collect()
    }
}

impl Workspaces {
    /// Opens the base of a workspace and these own layers, bottom first, without what a layer with an opaque root hides.
    pub(super) fn open_stack(
        &self,
        workspace: &crate::layers::WorkspaceName,
        record: &WorkspaceRecord,
        own: &[LayerKey],
    ) -> Result<OpenStack, WorkspaceError> {
        let keys: Vec<LayerKey> = record.image_layers().iter().chain(own).copied().collect();
        let directory = record.directory().map(|path| {
            self.mounts.open_dir(path).map_err(|source| WorkspaceError::DirectoryGone {
                name: workspace.clone(),
                path: path.to_owned(),
                source,
            })
        });
        self.open_layers(directory.transpose()?, &keys)
    }

    /// Opens layers, bottom first, on top of the directory of a copy, without what a layer with an opaque root hides.
    pub(super) fn open_layers(
        &self,
        directory: Option<Detached>,
        keys: &[LayerKey],
    ) -> Result<OpenStack, WorkspaceError> {
        let lease = self.store.leases.take(keys)?;
        let mut lowers = Vec::with_capacity(keys.len() + 1);
        lowers.extend(directory.map(|dir| plain_lower("directory", dir)));
        for key in keys {
            let layer = self.store.layers.lower(key)?;
            if layer.opaque_root {
                lowers.clear();
            }
            let needs = RequiredFeatures {
                metacopy: layer.features.metacopy,
                redirect_dir: layer.features.redirect,
            };
            lowers.push(Lower { id: key.to_string(), dir: layer.tree, mapped: false, needs });
        }
        Ok(OpenStack { lowers, lease })
    }

    /// Two states for a comparison.
    pub(super) fn trees_of(&self, before: Side, after: Side) -> Result<Trees, WorkspaceError> {
        let (mut layers, hides_all) = self.differing(&before.own, &after.own)?;
        layers.extend([before.upper, after.upper].into_iter().flatten());
        let _leases = vec![before.lease, after.lease];
        Ok(Trees { before: before.tree, after: after.tree, layers, hides_all, _leases })
    }

    /// The layers in which two stacks differ, and whether one of them hides everything below it. Then they are all layers:
    /// only those below have the names of what is hidden.
    pub(super) fn differing(
        &self,
        before: &[LayerKey],
        after: &[LayerKey],
    ) -> Result<(Vec<Arc<Detached>>, bool), WorkspaceError> {
        let common = before.iter().zip(after).take_while(|(one, other)| one == other).count();
        let (layers, hides_all) = self.above(common, before, after)?;
        match hides_all {
            true => Ok((self.above(0, before, after)?.0, true)),
            false => Ok((layers, false)),
        }
    }

    /// The layers of two stacks without the lowest ones of each, and whether one of them hides everything below it.
    fn above(
        &self,
        lowest: usize,
        before: &[LayerKey],
        after: &[LayerKey],
    ) -> Result<(Vec<Arc<Detached>>, bool), WorkspaceError> {
        let (mut layers, mut hides_all) = (Vec::new(), false);
        for key in before[lowest..].iter().chain(&after[lowest..]) {
            let layer = self.store.layers.lower(key)?;
            hides_all |= layer.opaque_root;
            layers.push(layer.tree);
        }
        Ok((layers, hides_all))
    }

    /// Mounts lowers read-only and attaches them nowhere.
    pub(super) fn view(
        &self,
        lowers: Vec<Lower>,
        options: Options,
    ) -> Result<Detached, WorkspaceError> {
        let spec = Spec {
            name: NAME.to_owned(),
            stack: Stack::new(lowers)?,
            upper: None,
            owner: None,
            options,
        };
        Ok(overlay::mount(&*self.mounts, &Plan::new(spec)?.on(&self.features)?)?)
    }
}

/// A lower that is a directory outside of the store's layers.
pub(super) fn plain_lower(id: &str, dir: impl Into<Arc<Detached>>) -> Lower {
    let needs = RequiredFeatures::default();
    Lower { id: id.to_owned(), dir: dir.into(), mapped: false, needs }
}

/// An upper as a lower. It can have what the overlay wrote with these options.
pub(super) fn upper_as_lower(upper: impl Into<Arc<Detached>>, options: &Options) -> Lower {
    let Options { metacopy, redirect_dir, .. } = *options;
    let needs = RequiredFeatures { metacopy, redirect_dir };
    Lower { needs, ..plain_lower("upper", upper) }
}

impl Workspace<'_> {
    /// The state with these own layers, as a read-only tree.
    ///
    /// # Errors
    /// A layer or the directory cannot be opened.
    pub(super) fn state_view(&self, own: &[LayerKey]) -> Result<(Detached, Lease), WorkspaceError> {
        let OpenStack { lowers, lease } = self.all.open_stack(&self.name, &self.record, own)?;
        Ok((self.all.view(lowers, self.options())?, lease))
    }

    /// The present state as a tree: the mounted overlay, or a read-only one of the layers and the upper.
    ///
    /// # Errors
    /// A layer or the directory cannot be opened.
    pub(super) fn present_view(&self) -> Result<(Detached, Lease), WorkspaceError> {
        if let Some(live) = self.clone_live()? {
            return Ok((live, self.all.store.leases.take(&self.record.below)?));
        }
        let OpenStack { mut lowers, lease } =
            self.all.open_stack(&self.name, &self.record, &self.record.below)?;
        if self.has_upper() {
            let upper = self.all.mounts.open_dir(self.upper_and_work().upper())?;
            lowers.push(upper_as_lower(upper, &self.options()));
        }
        Ok((self.all.view(lowers, self.options())?, lease))
    }

    /// Two states to compare. `None` for `before`: what the workspace was made of. `None` for `after`: its present state.
    ///
    /// # Errors
    /// A layer or the directory cannot be opened.
    pub fn trees(
        &self,
        before: Option<&[LayerKey]>,
        after: Option<&[LayerKey]>,
    ) -> Result<Trees, WorkspaceError> {
        self.all.trees_of(self.side(Some(before.unwrap_or(&[])))?, self.side(after)?)
    }

    /// One of two states to compare: the one with these own layers, or the present one.
    pub(super) fn side(&self, own: Option<&[LayerKey]>) -> Result<Side, WorkspaceError> {
        if let Some(own) = own {
            let (tree, lease) = self.state_view(own)?;
            return Ok(Side { tree, own: own.to_vec(), upper: None, lease });
        }
        let upper = match self.has_upper() {
            true => Some(Arc::new(self.all.mounts.open_dir(self.upper_and_work().upper())?)),
            false => None,
        };
        let (tree, lease) = self.present_view()?;
        Ok(Side { tree, own: self.record.below.clone(), upper, lease })
    }
}
