//! The error of a pull. The kubelet shows its message in the pod's Events.

use std::{io, time::Duration};

use crate::{
    budget::OverBudget,
    error::Class,
    format,
    image::ImageError,
    layers::{AddError, ImagesError},
    overlay::LAYER_LIMIT,
    reference::Reference,
};

/// The layers of an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The pull policy is `Never`, and the image is absent, or the pod may not use it. The message does not say which:
    /// a pod must not learn what other pods have pulled.
    #[error(
        "image {0} is not available to this pod on this node, and pullPolicy is Never; use IfNotPresent, and a pull secret \
         if the image is private"
    )]
    NotPresent(Reference),
    /// A recent pull found that the image is bad. It is not pulled again to find the same.
    #[error(
        "image {reference}: {why} (failed {} ago; tried again in {})",
        format::span(*since), format::span(*rest)
    )]
    Known {
        /// The requested image.
        reference: Reference,
        /// The message of the earlier error.
        why: String,
        /// The time since that error.
        since: Duration,
        /// The time until the image is pulled again.
        rest: Duration,
        /// The class of that error.
        class: Class,
    },
    /// The registry is slow, and the pull was stopped in favour of another namespace's pull.
    #[error(
        "image {0}: its registry is slow, so its pull was stopped in favour of pulls of other namespaces; it is retried"
    )]
    Crowded(Reference),
    /// There is no memory for the image's documents.
    #[error("image {reference}: cannot keep its manifest and configuration in memory: {why}")]
    Memory {
        /// The requested image.
        reference: Reference,
        /// Whether a later try can succeed.
        why: OverBudget,
    },
    /// The image has more layers than overlayfs can mount.
    #[error(
        "image {reference} has {count} different layers, and overlayfs allows at most {LAYER_LIMIT}; squash some of them"
    )]
    TooManyLayers {
        /// The image.
        reference: Reference,
        /// The number of its different layers.
        count: usize,
    },
    /// The image cannot be resolved or its blobs cannot be opened.
    #[error("{}{}", .0, where_to_give_credentials(.0))]
    Image(#[from] ImageError),
    /// A layer cannot be added to the store.
    #[error("image {reference}: {source}")]
    Add {
        /// The image of the layer.
        reference: Reference,
        /// The error of the store.
        source: AddError,
    },
    /// The record of the image cannot be written.
    #[error(transparent)]
    Record(#[from] ImagesError),
    /// The layers cannot be kept from garbage collection.
    #[error("cannot take a lease of the layers: {0}")]
    Lease(io::Error),
}

impl PullError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::NotPresent(_) => Class::NotFound,
            Self::Known { class, .. } => *class,
            Self::Crowded(_) => Class::Unavailable,
            Self::Memory { why, .. } => why.class(),
            Self::TooManyLayers { .. } => Class::Precondition,
            Self::Image(e) => e.class(),
            Self::Add { source, .. } => source.class(),
            Self::Record(e) => e.class(),
            Self::Lease(e) => Class::of_disk(e),
        }
    }
}

/// The field of a pod with the credentials of a pull.
fn where_to_give_credentials(error: &ImageError) -> &'static str {
    if error.needs_credentials() { " (nodePublishSecretRef of the volume)" } else { "" }
}
