//! Volumes that begin with what another one held when it was cut.
//!
//! ```text
//!                  not ready, no answer: asked again, as long as somebody waits
//!                        ▲    │
//!                        │    ▼
//! name in the pod's ─► looked up ─┬─► cut on this node: its layers, as they lie here ─┬─► the volume's layers;
//! namespace                       ├─► pushed: its image, pulled as any other          │   of images of the volume's own
//!                                 └─► on another node only: refused                   │   its top layers go on top
//!                                                          another owner: refused ◄───┘
//! ```
//!
//! Whoever looks a snapshot up has made sure that it is the namespace's. On the node where it was cut that is the right to all of its
//! layers, whatever they came from: the volume that it was cut of had them. Elsewhere its image is asked for like any other, with
//! the pod's credentials and the node's; that is not for the policy of images to decide, because an administrator has
//! said where snapshots are pushed.
//!
//! Over other images only what was written goes whole: a file whose attributes alone were changed, or a directory that was renamed,
//! lies in the snapshot's own images.
//!
//! Only a new volume's snapshot is looked up: one that is there is what its record says.

use std::{collections::BTreeSet, slice, time::Duration};

use tokio::time::sleep;

use super::{
    FoundSnapshot, Inner, LookupError, Owner, Progress, PublishRequest, PullError,
    authorization::Requester, blocking, puller::PulledLayers,
};
use crate::{
    digest::Digest,
    error::Class,
    layers::{LowerError, SnapshotId, SnapshotRecord},
    overlay::LAYER_LIMIT,
};

/// How long a snapshot that is not ready yet is left alone at first, and at most: each look is some questions to the cluster.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a volume does not start with what another one held.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is not to be had.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// It was never pushed, and this is not its node.
    #[error(
        "snapshot {name} lies on node {node} only: run the pod there, or have snapshots pushed (`repository` in their \
         VolumeSnapshotClass; without a cluster `ovl snapshot push`)"
    )]
    NodeOnly {
        /// The name.
        name: String,
        /// Where it lies.
        node: String,
    },
    /// It was never pushed, and some of its layers are gone.
    #[error(
        "snapshot {name} ({id}) is on this node, but not all of its layers are any more, and it was not pushed: take \
         another one"
    )]
    Lost {
        /// The name.
        name: String,
        /// Its id.
        id: SnapshotId,
    },
    /// The files that were written would be somebody else's.
    #[error(
        "snapshot {name} was taken of a volume with {}, and this volume has {}: write the same owner",
        shown(*captured_for), shown(*wanted)
    )]
    OtherOwner {
        /// The name.
        name: String,
        /// The owner in the volume that it was taken of.
        captured_for: Option<Owner>,
        /// The owner in the new volume.
        wanted: Option<Owner>,
    },
    /// A part of what was written is below it, and other images have something else there.
    #[error(
        "snapshot {name} has files whose content or place is in its own images, and over others they would be wrong: \
         start from it without `image` and `images`"
    )]
    OwnImages {
        /// The name.
        name: String,
    },
    /// One of its layers cannot be looked at.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// No kernel could mount it.
    #[error(
        "snapshot {name} and what it lies on have {count} different layers, and overlay takes at most {LAYER_LIMIT}: \
         start from images of fewer layers, or squash snapshots earlier (`squashAbove` in their VolumeSnapshotClass)"
    )]
    TooDeep {
        /// The name.
        name: String,
        /// The layers.
        count: usize,
    },
}

impl RestoreError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Lookup(e) => e.class(),
            Self::NodeOnly { .. }
            | Self::OtherOwner { .. }
            | Self::OwnImages { .. }
            | Self::TooDeep { .. } => Class::Precondition,
            Self::Lower(e) => e.class(),
            Self::Lost { .. } => Class::Corrupt,
        }
    }
}

/// An attribute as a part of a sentence.
fn shown(owner: Option<Owner>) -> String {
    match owner {
        Some(Owner { uid, gid }) => format!("owner {uid}:{gid}"),
        None => "no owner".to_owned(),
    }
}

impl Inner {
    /// Brings everything here that a new volume is made of, and keeps it.
    pub(super) async fn bring(
        &self,
        request: &PublishRequest,
        progress: &Progress,
    ) -> Result<PulledLayers, PullError> {
        let (spec, keyring) = (&request.spec, self.keyring(request));
        let asker = Requester { namespace: &request.pod.namespace, keyring: &keyring };
        let pull = |images| self.pulls.stack(images, spec.pull_policy, asker, progress);
        let Some(name) = &spec.snapshot else { return pull(&spec.images).await };

        let found = self.find(&request.pod.namespace, name, progress).await?;
        let FoundSnapshot { id, node, image, own, owner } = &found;
        let here = self.here(id).await;
        same_owner(name, here.as_ref().map_or(*owner, |(owner, _)| *owner), spec.owner)?;
        let (name, id) = (name.clone(), id.clone());
        let mut pulled = match (here, image) {
            (Some((_, Some(pulled))), _) => pulled,
            (_, Some(image)) => {
                let pulled = pull(slice::from_ref(image)).await?;
                let own = (*own).min(pulled.stack.len());
                PulledLayers { own, snapshot: Some(id), ..pulled }
            }
            (Some(_), None) => return Err(RestoreError::Lost { name, id }.into()),
            (None, None) => return Err(RestoreError::NodeOnly { name, node: node.clone() }.into()),
        };
        if !spec.images.is_empty() {
            let own = pulled.stack.split_off(pulled.stack.len() - pulled.own);
            if self.lean(&own).await.map_err(RestoreError::from)? {
                return Err(RestoreError::OwnImages { name }.into());
            }
            let images = pull(&spec.images).await?;
            pulled.stack = images.stack.into_iter().chain(own).collect();
            pulled.manifests = images.manifests;
            // While both of the old ones are held still.
            pulled.lease = self.pulls.hold(&pulled.stack).await;
        }
        let count = pulled.stack.iter().collect::<BTreeSet<_>>().len();
        if count > LAYER_LIMIT {
            return Err(RestoreError::TooDeep { name, count }.into());
        }
        Ok(pulled)
    }

    /// Looks a snapshot up until it is ready, or never will be. Whoever waits is told what for.
    async fn find(
        &self,
        namespace: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<FoundSnapshot, RestoreError> {
        progress.awaits(Some(format!("looking snapshot {name} up")));
        let mut pause = FIRST_PAUSE;
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
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether some of these layers take content or directories from what is below them.
    async fn lean(&self, layers: &[Digest]) -> Result<bool, LowerError> {
        let (store, layers) = (self.store.clone(), layers.to_vec());
        blocking(move || {
            for layer in &layers {
                let features = store.features(layer)?;
                if features.metacopy || features.redirect {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// A snapshot that was cut on this node: the owner in its volume, and its layers, kept, if all of them are here.
    async fn here(&self, id: &SnapshotId) -> Option<(Option<Owner>, Option<PulledLayers>)> {
        let (store, id) = (self.store.clone(), id.clone());
        blocking(move || {
            let SnapshotRecord { id, stack, own, manifests, owner, .. } = store.snapshot(&id)?;
            let lease = store.lease(&stack);
            let own = own.min(stack.len());
            let pulled = lease.map(|lease| PulledLayers {
                stack,
                own,
                manifests,
                snapshot: Some(id),
                lease,
            });
            Some((owner.map(|(uid, gid)| Owner { uid, gid }), pulled))
        })
        .await
    }
}

/// What was written has the owners that it was shown with, so under another owner it would be somebody else's.
fn same_owner(name: &str, cut: Option<Owner>, wanted: Option<Owner>) -> Result<(), RestoreError> {
    match cut == wanted {
        true => Ok(()),
        false => Err(RestoreError::OtherOwner { name: name.to_owned(), captured_for: cut, wanted }),
    }
}
