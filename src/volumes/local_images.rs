//! Images that are on this node whole, by what a reference meant when it was last resolved.
//!
//! Deliberately absent: who may have one; `rights.rs` says that of each layer's origins.

use std::sync::Arc;

use super::{
    Reference,
    authorization::{Authorization, Given},
};
use crate::{
    digest::Digest,
    image::Repository,
    layers::{ImageRecord, Lease, Origin, Store},
};

/// An image that was resolved before, all of whose layers are here.
pub(super) struct LocalImages {
    pub(super) image: Arc<ImageRecord>,
    /// Keeps them.
    pub(super) lease: Lease,
    /// Where each has come from.
    pub(super) origins: Vec<Arc<Vec<Origin>>>,
}

impl LocalImages {
    /// Whether who asks may have all of it.
    pub(super) fn is_allowed(&self, rights: &Authorization<'_>, given: &[Given<'_>]) -> bool {
        self.origins.iter().all(|origins| rights.allow(origins, given))
    }
}

/// What a reference meant when it was last resolved, if all of it is here, whoever may have it. Blocks.
pub(super) fn present(store: &Arc<Store>, reference: &Reference) -> Option<LocalImages> {
    match reference.digest() {
        Some(digest) => present_as(store, reference, digest),
        None => whole(store, store.image(&reference.to_string())?),
    }
}

/// The image that a digest means in the reference's repository, if all of it is here. Blocks.
pub(super) fn present_as(
    store: &Arc<Store>,
    reference: &Reference,
    digest: &Digest,
) -> Option<LocalImages> {
    let place = Repository::of(reference).to_string();
    let named = || store.image(&reference.to_string()).filter(|_| reference.digest().is_some());
    whole(store, store.image_at(&place, digest).or_else(named)?)
}

fn whole(store: &Arc<Store>, image: Arc<ImageRecord>) -> Option<LocalImages> {
    let lease = store.lease(&image.layers)?;
    let origins = image.layers.iter().map(|layer| store.origins(layer)).collect();
    Some(LocalImages { image, lease, origins })
}
