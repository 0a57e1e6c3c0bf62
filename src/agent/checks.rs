//! Checks that the registries still have the pushed images of this node's snapshots, after the start and then once an
//! hour.
//!
//! ```text
//! OverlaySnapshots of this node ── spread over the round ──> turn of the namespace ──> HEAD of the manifest
//!     missing, of a snapshot that is not being pushed ──┐
//!     there, of a snapshot in the phase NotInRegistry ──┴──> result ──> reconciler of the snapshot (lost_image)
//!     no response, or access denied ──> checked again in the next round
//! ```
//!
//! A check needs the credentials of a push, and only nodes have them. The registry gets one request for each image in
//! an hour, at a moment that differs from image to image. A namespace has one check at a time. The check also takes a
//! turn of the pushes, so checks do not delay them, and a registry that does not respond delays no other namespace.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{
    engine::{Engine, Failure},
    shared::{ImageState, Shared},
    spec::{self, PushTarget},
};
use crate::{
    backoff,
    cluster::{
        ClusterError,
        overlay_snapshot::{OverlaySnapshot, Phase},
    },
    digest::ManifestDigest,
    error::Class,
    image::Keyring,
    reference::Reference,
    snapshots::Progress,
    turns::Turns,
};

/// How many checks run at a time. Each is of another namespace.
const MAX_CHECKS: usize = 8;

/// The first round has one check in this time, so that a node with few snapshots finds what it lost while it was away
/// soon.
const FIRST_ROUND_GAP: Duration = Duration::from_secs(1);

/// How long a registry may take to respond to a check, with retries.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// A snapshot with the image that its status names.
#[derive(Debug)]
struct PushedImage {
    snapshot: String,
    namespace: String,
    target: PushTarget,
    digest: ManifestDigest,
    /// The last check has found that it is missing, and the node could not push it.
    is_known_missing: bool,
}

/// The credentials of one round, by the name of their Secret.
type Keyrings = HashMap<Option<String>, Keyring>;

/// Checks without end. `notify` is called with the name of each snapshot for which [`Shared`] has a new result.
pub(super) async fn run<E: Engine>(
    shared: &Shared<E>,
    notify: impl Fn(&str) + Send + Sync,
) -> Infallible {
    let interval = shared.timing.check_interval;
    // A registry on this node may be starting too.
    let start = interval / 120;
    sleep(backoff::pause(start, start, 0)).await;
    let checks = Checks { shared, turns: Turns::new(0, MAX_CHECKS), notify };
    let mut retries = shared.timing.backoff();
    let mut is_first = true;
    loop {
        let start = Instant::now();
        let images = match checks.pushed_images().await {
            Ok(images) => images,
            Err(error) => {
                tracing::warn!(%error, "cannot list the snapshots of this node, to check their images in the registry");
                sleep(retries.next_pause()).await;
                continue;
            }
        };
        retries.reset();
        let span = match std::mem::take(&mut is_first) {
            true => first_span(images.len(), interval),
            false => interval,
        };
        checks.round(images, start, span).await;
        sleep_until(start + span).await;
    }
}

/// The time over which the checks of the first round are spread.
fn first_span(images: usize, interval: Duration) -> Duration {
    FIRST_ROUND_GAP.saturating_mul(u32::try_from(images).unwrap_or(u32::MAX)).min(interval)
}

struct Checks<'a, E, F> {
    shared: &'a Shared<E>,
    turns: Arc<Turns>,
    notify: F,
}

impl<E: Engine, F: Fn(&str) + Send + Sync> Checks<'_, E, F> {
    /// The snapshots of this node that say that they are pushed, and those whose image was missing.
    async fn pushed_images(&self) -> Result<Vec<PushedImage>, ClusterError> {
        let of_this_node = format!("spec.nodeName={}", self.shared.node);
        let all = self.shared.client.list_selected::<OverlaySnapshot>(&of_this_node).await?;
        let ours = all.iter().filter(|object| object.spec.driver == self.shared.driver);
        Ok(ours.filter_map(pushed_image).collect())
    }

    /// Checks each image once, at its own moment of `span`.
    async fn round(&self, images: Vec<PushedImage>, start: Instant, span: Duration) {
        let keyrings = self.keyrings(&images).await;
        let count = u32::try_from(images.len()).unwrap_or(u32::MAX);
        let mut checks: FuturesUnordered<_> = (0..)
            .zip(&images)
            .map(|(at, image): (u32, _)| {
                let keyrings = &keyrings;
                async move {
                    sleep_until(start + span / count * at).await;
                    // Boxed here, so that a check takes memory for its request only when it runs.
                    Box::pin(self.check(image, keyrings)).await;
                }
            })
            .collect();
        let all = async { while checks.next().await.is_some() {} };
        if timeout_at(start + span + CHECK_TIMEOUT, all).await.is_err() {
            tracing::info!(
                "not all pushed images could be checked, because registries do not respond"
            );
        }
    }

    /// The credentials for these images. Those of a Secret that cannot be read are left out.
    async fn keyrings(&self, images: &[PushedImage]) -> Keyrings {
        let mut keyrings = Keyrings::new();
        for PushedImage { target, .. } in images {
            if keyrings.contains_key(&target.secret) {
                continue;
            }
            match self.shared.keyring(target).await {
                Ok(keyring) => drop(keyrings.insert(target.secret.clone(), keyring)),
                Err(failure) => {
                    tracing::info!(why = failure.message, "cannot check pushed images");
                }
            }
        }
        keyrings
    }

    /// Checks one image, and passes on what its reconciler must know.
    async fn check(&self, image: &PushedImage, keyrings: &Keyrings) {
        let PushedImage { snapshot, namespace, target, digest, is_known_missing } = image;
        let Some(keyring) = keyrings.get(&target.secret) else { return };
        let _turn = self.turns.acquire(namespace).await;
        let progress = Progress::default();
        let has = self.shared.pushes.in_turn(namespace, &progress, async {
            match self.has_image(target, digest, keyring).await {
                // The Secret may have changed since the round began, and a registry can respond like this to
                // credentials that are not valid any more.
                Ok(false) => {
                    let keyring = self.shared.keyring(target).await?;
                    self.has_image(target, digest, &keyring).await
                }
                response => response,
            }
        });
        let state = match has.await {
            Ok(true) if *is_known_missing => ImageState::Present,
            Ok(true) => return,
            Ok(false) => ImageState::Missing,
            Err(failure) => {
                tracing::info!(snapshot, why = failure.message, "cannot check the pushed image");
                return;
            }
        };
        self.shared.set_image_state(snapshot, state);
        (self.notify)(snapshot);
    }

    async fn has_image(
        &self,
        target: &PushTarget,
        digest: &ManifestDigest,
        keyring: &Keyring,
    ) -> Result<bool, Failure> {
        let response = self.shared.engine.has_image(&target.to, digest, keyring);
        timeout(CHECK_TIMEOUT, response).await.unwrap_or_else(|_| {
            let why = format!("the registry of {} does not respond", target.to);
            Err(Failure::new(Class::Unavailable, why))
        })
    }
}

fn pushed_image(object: &OverlaySnapshot) -> Option<PushedImage> {
    let status = object.status.as_ref()?;
    let is_known_missing = match status.phase? {
        Phase::Ready => false,
        Phase::NotInRegistry => true,
        Phase::Capturing
        | Phase::Pushing
        | Phase::Failed
        | Phase::Deleting
        | Phase::Deleted
        | Phase::Unknown => return None,
    };
    if object.spec.deleted {
        return None;
    }
    Some(PushedImage {
        snapshot: object.metadata.name.clone()?,
        namespace: object.spec.source.namespace.clone(),
        target: spec::target(object).ok()??,
        digest: *status.image.as_ref()?.parse::<Reference>().ok()?.digest()?,
        is_known_missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_is_short_for_few_images_and_never_longer_than_the_others() {
        let hour = Duration::from_secs(3600);
        for (images, seconds) in [(0, 0), (4, 4), (3600, 3600), (100_000, 3600)] {
            assert_eq!(first_span(images, hour), Duration::from_secs(seconds), "{images}");
        }
    }
}
