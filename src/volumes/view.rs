//! Views: read-only mounts of a stack of layers without a volume (containerd's word). `snapshots` packs layers through
//! a view, because it shows them as a pod would see them.
//!
//! The layers of a volume are opened here too.

use super::{Volumes, state::Inner};
use crate::{
    error::Class,
    layers::{LayerKey, LowerError},
    overlay::{self, Lower, Options, OverlayError, Plan, PlanError, RequiredFeatures, Spec, Stack},
    owner::Owner,
    sys::mounts::Detached,
};

/// The source of a view's mount, which appears only in the kernel's log: a view is in no mount table.
const NAME: &str = "ovl-csi-view";

/// Why a view of layers cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// A layer cannot be opened.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The stack breaks a rule of overlayfs or of the driver.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The overlay cannot be made.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

impl ViewError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Lower(e) => e.class(),
            Self::Plan(e) => e.class(),
            Self::Overlay(e) => e.class(),
        }
    }
}

impl Volumes {
    /// Mounts these layers, bottom first, read-only and without a target, as a pod would see them. The caller must
    /// hold a lease of the layers. Blocks.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn view(&self, stack: &[LayerKey], owner: Option<Owner>) -> Result<Detached, ViewError> {
        let inner = &self.0;
        let plan = Plan::new(Spec {
            name: NAME.to_owned(),
            stack: Stack::new(inner.open_layers(stack)?)?,
            upper: None,
            owner,
            options: Options::default(),
        })?;
        Ok(overlay::mount(&*inner.mounts, &plan.on(&inner.features)?)?)
    }
}

impl Inner {
    /// Opens the layers of a stack, bottom first, without those that a layer with an opaque root hides completely.
    pub(super) fn open_layers(&self, stack: &[LayerKey]) -> Result<Vec<Lower>, LowerError> {
        let mut lowers = Vec::with_capacity(stack.len());
        for key in stack {
            let layer = self.store.layers.lower(key)?;
            if layer.opaque_root {
                lowers.clear();
            }
            lowers.push(Lower {
                id: key.to_string(),
                dir: layer.tree,
                // A snapshot layer already has the owners that the volume showed.
                mapped: !layer.is_snapshot,
                needs: RequiredFeatures {
                    metacopy: layer.features.metacopy,
                    redirect_dir: layer.features.redirect,
                },
            });
        }
        Ok(lowers)
    }
}
