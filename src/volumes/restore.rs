//! Restore: volumes that start from a snapshot of another volume.
//!
//! ```text
//!                  not ready, no response: tried again while a call waits
//!                        ▲    │
//!                        │    ▼
//! name in the pod's ─► looked up ─┬─► all layers in the store of the node of the capture ─┬─► the volume's layers
//! namespace                       ├─► otherwise, if it was pushed: its image, pulled      │
//!                                 └─► otherwise: refused                                  └─► another `owner`: refused
//! ```
//!
//! If the volume names images too, the snapshot's own layers are put on the layers of these images.
//!
//! The lookup makes sure that the snapshot belongs to the namespace. On the node of the capture that authorizes the
//! use of all of its layers, independent of their origins, because the captured volume had them. On other nodes its
//! image is pulled like any other, with the pod's credentials and the node's. The image policy does not apply,
//! because an administrator has decided where snapshots are pushed.
//!
//! Over other images only a snapshot can be used that is complete in its own layers. The content of a file of which
//! only the attributes were changed, and the entries of a renamed directory, are in the snapshot's own images.
//!
//! The snapshot is looked up only for a new volume. An existing volume has the layers in its record.

use std::{collections::BTreeSet, slice, time::Duration};

use tokio::time::sleep;

use super::{
    FoundSnapshot, Progress, PublishRequest,
    pull::Requester,
    restore_error::{LayersError, RestoreError},
    state::Inner,
    volume_layers::VolumeLayers,
};
use crate::{
    backoff::Backoff,
    error::Class,
    image::PullPolicy,
    layers::{LayerKey, LowerError, SnapshotId, SnapshotRecord},
    overlay::LAYER_LIMIT,
    owner::Owner,
    sys::blocking::blocking,
};

/// The first and the longest pause between two lookups of a snapshot that is not ready. Each lookup costs some
/// requests to the cluster.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A snapshot of this node: the owner of its volume, and its layers if the store has all of them.
pub(super) type LocalSnapshot = (Option<Owner>, Option<VolumeLayers>);

impl Inner {
    /// Pulls all layers of a new volume, and keeps them in the store.
    pub(super) async fn pull_layers(
        &self,
        request: &PublishRequest,
        progress: &Progress,
    ) -> Result<VolumeLayers, LayersError> {
        let (spec, keyring) = (&request.spec, self.keyring(request));
        let requester = Requester { namespace: &request.pod.namespace, keyring: &keyring };
        let pull = |images| self.puller.pull(images, spec.pull_policy, requester, progress);
        let Some(name) = &spec.snapshot else { return Ok(pull(&spec.images).await?.into()) };

        let found = self.find(&request.pod.namespace, name, progress).await?;
        let local = self.local_snapshot(&found.id).await;
        let captured_for = local.as_ref().map_or(found.owner, |(owner, _)| *owner);
        same_owner(name, captured_for, spec.owner)?;
        let policy = spec.pull_policy;
        let layers = self.layers_of(name, &found, local, policy, requester, progress);
        let (mut pulled, name) = (layers.await?, name.clone());
        if !spec.images.is_empty() {
            let above = pulled.stack.split_off(pulled.stack.len() - pulled.snapshot_layers);
            if self.needs_layers_below(&above).await.map_err(RestoreError::from)? {
                return Err(RestoreError::OwnImages { name }.into());
            }
            let images = pull(&spec.images).await?;
            pulled.stack = images.stack.into_iter().chain(above).collect();
            pulled.manifests = images.manifests;
            // Taken while both earlier leases are still held.
            pulled.lease = self.puller.hold(&pulled.stack).await?;
        }
        let count = pulled.stack.iter().collect::<BTreeSet<_>>().len();
        if count > LAYER_LIMIT {
            return Err(RestoreError::TooDeep { name, count }.into());
        }
        Ok(pulled)
    }

    /// The layers of a snapshot: those of `local`, if it was captured on this node, or else those of its image.
    pub(super) async fn layers_of(
        &self,
        name: &str,
        found: &FoundSnapshot,
        local: Option<LocalSnapshot>,
        policy: Option<PullPolicy>,
        requester: Requester<'_>,
        progress: &Progress,
    ) -> Result<VolumeLayers, LayersError> {
        let FoundSnapshot { id, node, image, if_lost, snapshot_layers, .. } = found;
        let (name, id) = (name.to_owned(), id.clone());
        match (local, image) {
            (Some((_, Some(layers))), _) => Ok(layers),
            (_, Some(image)) => {
                let images = slice::from_ref(image);
                let pulled = self.puller.pull(images, policy, requester, progress);
                let pulled = Box::pin(pulled).await;
                let pulled =
                    pulled.map_err(|error| RestoreError::of_pull(&name, if_lost, error))?;
                let snapshot_layers = (*snapshot_layers).min(pulled.stack.len());
                Ok(VolumeLayers { snapshot_layers, snapshot: Some(id), ..pulled.into() })
            }
            (Some(_), None) => Err(RestoreError::Lost { name }.into()),
            (None, None) => Err(RestoreError::NodeOnly { name, node: node.clone() }.into()),
        }
    }

    /// Looks up a snapshot until it is ready or can never be. The progress shows what the call waits for.
    async fn find(
        &self,
        namespace: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<FoundSnapshot, RestoreError> {
        progress.awaits(Some(format!("looking up snapshot {name}")));
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.snapshots.find(namespace, name).await {
                Err(error) if error.class() == Class::Unavailable => {
                    progress.awaits(Some(error.to_string()));
                }
                found => {
                    progress.awaits(None);
                    return Ok(found?);
                }
            }
            sleep(backoff.next_pause()).await;
        }
    }

    /// Whether one of these layers takes content or directories from the layers below (metacopy, redirects).
    async fn needs_layers_below(&self, layers: &[LayerKey]) -> Result<bool, LowerError> {
        let (store, layers) = (self.store.clone(), layers.to_vec());
        blocking(move || {
            for layer in &layers {
                let features = store.layers.features(layer)?;
                if features.metacopy || features.redirect {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// A snapshot that was captured on this node: the owner of its volume, and its layers with a lease if the store
    /// has all.
    pub(super) async fn local_snapshot(&self, id: &SnapshotId) -> Option<LocalSnapshot> {
        let (store, id) = (self.store.clone(), id.clone());
        blocking(move || {
            let SnapshotRecord { id, stack, own_layers: own, manifests, owner, .. } =
                store.snapshots.get(&id)?;
            let lease = store.leases.take_if_present(&stack).unwrap_or_else(|error| {
                tracing::error!(snapshot = %id, %error, "cannot take a lease of a snapshot's layers");
                None
            });
            let snapshot_layers = own.min(stack.len());
            let pulled = lease.map(|lease| VolumeLayers {
                stack,
                snapshot_layers,
                manifests,
                snapshot: Some(id),
                lease,
            });
            Some((owner, pulled))
        })
        .await
    }
}

/// Refuses another owner. Snapshot layers have the owners that the volume showed, so under another `owner` they would
/// be wrong.
fn same_owner(
    name: &str,
    captured_for: Option<Owner>,
    wanted: Option<Owner>,
) -> Result<(), RestoreError> {
    match captured_for == wanted {
        true => Ok(()),
        false => Err(RestoreError::OtherOwner { name: name.to_owned(), captured_for, wanted }),
    }
}
