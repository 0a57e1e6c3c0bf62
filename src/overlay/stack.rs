//! The layers of one volume, bottom first, as an image lists them.
//!
//! Deliberately absent: the format of a layer. Any directory tree that can be opened is a layer.

use std::collections::HashSet;
use std::sync::Arc;

use super::error::{LAYER_LIMIT, PlanError};
use crate::sys::mounts::Detached;

/// One read-only layer.
#[derive(Debug, Clone)]
pub struct Lower {
    /// Identifies the layer. Two layers of one stack with the same id are the same layer.
    pub id: String,
    /// The opened tree of the layer.
    pub dir: Arc<Detached>,
    /// Whether [`Spec::owner`](super::Spec::owner) applies to the layer's files. It does not apply to layers that an
    /// overlay wrote: their files were copied up with the apparent owners.
    pub mapped: bool,
    /// The mount options that the layer needs.
    pub needs: RequiredFeatures,
}

/// The mount options that a layer needs, because it has xattrs of overlay which are followed only with them. Without
/// the option the kernel returns EPERM for a file that has such an xattr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequiredFeatures {
    /// `metacopy=on`: the layer has files with their own attributes and the content of a layer below.
    pub metacopy: bool,
    /// `redirect_dir=on`: the layer has directories or files that the layers below have under another name.
    pub redirect_dir: bool,
}

/// Layers, bottom first. Only this module reverses them for the kernel, which takes the top first.
#[derive(Debug, Clone)]
pub struct Stack {
    layers: Vec<Lower>,
}

impl Stack {
    /// Takes layers bottom first. Of a layer that occurs several times, only the topmost occurrence is kept. The kernel
    /// refuses repeats (ELOOP), but real images have them (empty layers). The result is the same: the topmost
    /// occurrence shows and hides everything that a lower one shows and hides.
    ///
    /// # Errors
    /// There are more than [`LAYER_LIMIT`] different layers.
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

    /// The number of different layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether the stack has no layer.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub(super) fn top_first(&self) -> impl Iterator<Item = &Lower> {
        self.layers.iter().rev()
    }
}
