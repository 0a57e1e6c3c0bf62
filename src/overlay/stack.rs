//! The layers of one volume, bottom first, as an image lists them.
//!
//! Deliberately absent: what a layer is made of; anything that can be opened as a tree will do.

use std::collections::HashSet;
use std::sync::Arc;

use super::plan::PlanError;
use crate::sys::mounts::Detached;

/// How many different layers the kernel takes (fs/overlayfs/params.c), data-only ones included.
pub const LAYER_LIMIT: usize = 500;

/// One read-only layer.
#[derive(Debug, Clone)]
pub struct Lower {
    /// Tells layers apart: two of one stack with the same id are the same layer.
    pub id: String,
    /// Its tree.
    pub dir: Arc<Detached>,
    /// Whether [`Spec::owner`](super::Spec::owner) is about its files. It is not about those that an overlay wrote, which have
    /// the owners that they were shown with.
    pub mapped: bool,
    /// What it asks of the overlay.
    pub needs: Needs,
}

/// Overlay's marks in a layer that are followed only where an option says so: without it, what has one answers EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Files with attributes of their own and the content of a layer below: `metacopy=on`.
    pub metacopy: bool,
    /// Folders and files that the layers below have under another name: `redirect_dir=on`.
    pub redirect_dir: bool,
}

/// Layers, bottom first. Only this room turns them round for the kernel, which wants the top first.
#[derive(Debug, Clone)]
pub struct Stack {
    layers: Vec<Lower>,
}

impl Stack {
    /// Takes layers bottom first. Of a layer that occurs again, only the topmost occurrence is
    /// kept: the kernel refuses repeats (ELOOP), real images have them (empty layers), and whatever
    /// a lower occurrence shows or hides, the upper one shows or hides again.
    ///
    /// Errors: more than [`LAYER_LIMIT`] different layers.
    pub fn new(layers: Vec<Lower>) -> Result<Self, PlanError> {
        let mut seen = HashSet::new();
        let mut kept: Vec<Lower> =
            layers.into_iter().rev().filter(|layer| seen.insert(layer.id.clone())).collect();
        kept.reverse();
        if kept.len() > LAYER_LIMIT {
            return Err(PlanError::TooManyLayers { count: kept.len() });
        }
        Ok(Self { layers: kept })
    }

    /// How many different layers there are.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer at all.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub(super) fn top_first(&self) -> impl Iterator<Item = &Lower> {
        self.layers.iter().rev()
    }
}
