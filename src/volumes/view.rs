//! Layers as an overlay sees them.

use super::{Inner, Owner, Volumes};
use crate::{
    digest::Digest,
    error::Class,
    layers::LowerError,
    overlay::{self, Lower, Options, OverlayError, Plan, PlanError, RequiredFeatures, Spec, Stack},
    sys::mounts::Detached,
};

/// What the kernel's log calls a view: it is in no mount table.
const NAME: &str = "ovl-csi-view";

/// Why layers cannot be looked at together.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// A layer cannot be opened.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// Together they break a rule.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Overlay would not have it.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

impl ViewError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Lower(e) => e.class(),
            Self::Plan(e) => e.class(),
            Self::Overlay(e) => e.class(),
        }
    }
}

impl Volumes {
    /// What a pod would see of these layers, bottom first, read-only and attached nowhere. The caller has a lease of them. Blocks.
    pub fn view(&self, stack: &[Digest], owner: Option<Owner>) -> Result<Detached, ViewError> {
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
    /// The layers of a stack, open, bottom first; none that another one hides whole.
    pub(super) fn open_layers(&self, stack: &[Digest]) -> Result<Vec<Lower>, LowerError> {
        let mut lowers = Vec::with_capacity(stack.len());
        for layer in stack {
            let lower = self.store.lower(layer)?;
            if lower.opaque_root {
                lowers.clear();
            }
            lowers.push(Lower {
                id: layer.to_string(),
                dir: lower.tree,
                // What an overlay wrote has the owners that it was shown with.
                mapped: !lower.is_snapshot,
                needs: RequiredFeatures {
                    metacopy: lower.features.metacopy,
                    redirect_dir: lower.features.redirect,
                },
            });
        }
        Ok(lowers)
    }
}
