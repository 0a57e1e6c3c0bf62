//! The lookup of images whose layers are all in the store, by the result of the last resolution of a reference.
//!
//! Deliberately absent: who may use an image. `authorization.rs` decides that by the origins of each layer.

use std::sync::Arc;

use super::authorization::{Authorization, Given};
use crate::{
    digest::ManifestDigest,
    layers::{ImageRecord, Lease, Origin, Store},
    reference::{Reference, Repository},
};

/// An image that was resolved before, with all of its layers in the store.
pub(super) struct LocalImages {
    pub(super) image: Arc<ImageRecord>,
    /// Keeps the layers in the store.
    pub(super) lease: Lease,
    /// The origins of each layer, in the order of the image's layers.
    pub(super) origins: Vec<Arc<Vec<Origin>>>,
}

impl LocalImages {
    /// Whether the requester may use all layers of the image.
    pub(super) fn is_allowed(
        &self,
        authorization: &Authorization<'_>,
        given: &[Given<'_>],
    ) -> bool {
        self.origins.iter().all(|origins| authorization.allow(origins, given))
    }
}

/// The image that a reference meant when it was last resolved, if all of its layers are in the store. Does not check
/// who may use it. Blocks.
pub(super) fn present(store: &Arc<Store>, reference: &Reference) -> Option<LocalImages> {
    match reference.digest() {
        Some(digest) => present_as(store, reference, digest),
        None => whole(store, store.images.named(&reference.to_string())?),
    }
}

/// The image with a digest in the reference's repository, if all of its layers are in the store. Blocks.
pub(super) fn present_as(
    store: &Arc<Store>,
    reference: &Reference,
    digest: &ManifestDigest,
) -> Option<LocalImages> {
    let repository = Repository::of(reference).to_string();
    let named =
        || store.images.named(&reference.to_string()).filter(|_| reference.digest().is_some());
    whole(store, store.images.at(&repository, digest).or_else(named)?)
}

fn whole(store: &Arc<Store>, image: Arc<ImageRecord>) -> Option<LocalImages> {
    // An error is reported by the pull that follows.
    let lease = store.leases.take_if_present(&image.layers).ok()??;
    let origins = image.layers.iter().map(|layer| store.origins.of(layer)).collect();
    Some(LocalImages { image, lease, origins })
}
