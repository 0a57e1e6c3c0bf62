//! Snapshots of a node without a cluster: the calls of `ovl node-snapshot`, and the lookup of a volume's `snapshot: NAME`.
//!
//! ```text
//! capture ── engine ──> capture, squash            the same engine that carries out OverlaySnapshots
//! push    ── engine ──> push
//! delete  ── engine ──> delete the manifest, delete the record
//! a volume's `snapshot: NAME` ──> this node's store, else NAME as a tag in the node's repository
//! ```
//!
//! Deliberately absent: retries. The caller gets the error, and calls again once the cause is fixed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

pub use super::engine::Failure;
use super::{
    engine::{Engine, NodeEngine},
    pushes::Pushes,
};
use crate::{
    error::Class,
    image::{Keyring, Registries},
    layers::{SnapshotId, SnapshotRecord, Store},
    media_type::{Compression, Format},
    reference::{Reference, Repository},
    snapshots::{CaptureRequest, Progress as PushProgress, PushRequest, Pushed, Snapshots},
    volumes::{FoundSnapshot, Lookup, LookupError, SnapshotLookup},
};

/// After which time a slow push lets other pushes run.
const SLOW: Duration = Duration::from_secs(10);

/// A snapshot with more own layers than this is squashed. It is the default of a VolumeSnapshotClass.
const SQUASH_ABOVE: usize = 32;

/// The parts of [`LocalAgent`].
#[derive(Debug)]
pub struct LocalParts {
    /// The operations on snapshots.
    pub snapshots: Snapshots,
    /// The store of this node, which has the records of its snapshots.
    pub store: Arc<Store>,
    /// The node's own credentials.
    pub keyring: Keyring,
    /// The repository of a push that names none.
    pub repository: Option<Repository>,
}

/// The snapshots of a node without a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalAgent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: NodeEngine,
    keyring: Keyring,
    repository: Option<Repository>,
    pushes: Pushes,
    /// The progress of the pushes that are under way.
    pushing: Mutex<HashMap<SnapshotId, Arc<PushProgress>>>,
}

/// A snapshot, with the progress of its push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSnapshot {
    /// The record in the store.
    pub record: SnapshotRecord,
    /// The progress of its push as text. `None` while there is no push.
    pub pushing: Option<String>,
}

impl LocalAgent {
    /// The snapshots of this node.
    pub fn new(parts: LocalParts) -> Self {
        let LocalParts { snapshots, store, keyring, repository } = parts;
        Self(Arc::new(Inner {
            engine: NodeEngine { snapshots, store },
            keyring,
            repository,
            pushes: Pushes::new(SLOW),
            pushing: Mutex::default(),
        }))
    }

    /// Captures a volume. If the snapshot then has many own layers, they are squashed into one.
    ///
    /// # Errors
    /// Why the capture failed. A squash that failed is only logged: the snapshot is complete without it.
    pub async fn capture(&self, request: CaptureRequest) -> Result<LocalSnapshot, Failure> {
        let engine = &self.0.engine;
        let record = engine.capture(request).await?;
        if record.own_layers > SQUASH_ABOVE
            && record.pushed.is_none()
            && let Err(failure) = engine.squash(&record.id, None).await
        {
            tracing::warn!(snapshot = %record.id, why = failure.message, "cannot squash the snapshot");
        }
        self.find(&record.id)
    }

    /// Pushes a snapshot.
    ///
    /// # Errors
    /// The snapshot is not on this node, no repository is given, or the registry refuses the push.
    pub async fn push(
        &self,
        id: &SnapshotId,
        to: Option<Repository>,
        format: Format,
        compression: Compression,
    ) -> Result<(LocalSnapshot, Pushed), Failure> {
        let record = self.find(id)?.record;
        let Some(to) = to.or_else(|| self.0.repository.clone()) else {
            let why = format!(
                "cannot push snapshot {id}: no repository is given; name one, or start `ovl node` with --snapshot-repository"
            );
            return Err(Failure::new(Class::Invalid, why));
        };
        let request = PushRequest {
            id: id.clone(),
            volume: record.source.volume_id.clone(),
            to,
            format,
            compression,
            keyring: self.0.keyring.clone(),
        };
        let progress = Arc::new(PushProgress::default());
        self.0.pushing().insert(id.clone(), progress.clone());
        // Removed when the push ends, also by an error.
        let _entry = Entry { inner: &self.0, id };
        let push = self.0.engine.push(&request, &progress);
        let pushed = self.0.pushes.in_turn(&record.source.namespace, &progress, push).await?;
        Ok((self.find(id)?, pushed))
    }

    /// Deletes a snapshot from its registry and from this node. False where the registry does not support deletion:
    /// then the manifest stays there.
    ///
    /// # Errors
    /// The snapshot is not on this node, or its registry does not respond. In both cases nothing is deleted on this
    /// node.
    pub async fn delete(&self, id: &SnapshotId) -> Result<bool, Failure> {
        let record = self.find(id)?.record;
        let image = record.pushed.as_deref().and_then(|image| image.parse::<Reference>().ok());
        let deleted = match image {
            None => true,
            Some(image) => {
                let from = Repository::of(&image);
                let engine = &self.0.engine;
                engine.delete_manifest(id, &from, Some(&image), &self.0.keyring).await?
            }
        };
        self.0.engine.forget(id).await?;
        Ok(deleted)
    }

    /// All snapshots of this node, by name.
    pub fn list(&self) -> Vec<LocalSnapshot> {
        self.0.engine.snapshot_ids().iter().filter_map(|id| self.find(id).ok()).collect()
    }

    fn find(&self, id: &SnapshotId) -> Result<LocalSnapshot, Failure> {
        let missing =
            || Failure::new(Class::NotFound, format!("there is no snapshot {id} on this node"));
        let record = self.0.engine.record(id).ok_or_else(missing)?;
        let pushing = self.0.pushing().get(id).cloned();
        Ok(LocalSnapshot { record, pushing: pushing.and_then(|progress| progress.sentence()) })
    }
}

impl Inner {
    fn pushing(&self) -> MutexGuard<'_, HashMap<SnapshotId, Arc<PushProgress>>> {
        self.pushing.lock()
    }
}

/// The entry of a push in `pushing`. Its drop removes it.
struct Entry<'a> {
    inner: &'a Inner,
    id: &'a SnapshotId,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.inner.pushing().remove(self.id);
    }
}

/// Finds snapshots without a cluster: in the node's store, else in its repository, which has each pushed snapshot under
/// its name as the tag.
#[derive(Debug)]
pub struct LocalLookup {
    /// The store of this node, which has the records of its snapshots.
    pub store: Arc<Store>,
    /// The client of the registries.
    pub registries: Arc<Registries>,
    /// The node's own credentials.
    pub keyring: Keyring,
    /// The name of this node.
    pub node: String,
    /// The repository to which other nodes push their snapshots. `None`: only this node's snapshots are found.
    pub repository: Option<Repository>,
}

/// What to do if a registry has lost an image. Nothing checks the images of a node without a cluster.
const IF_LOST: &str =
    "push it again on its node (`ovl node-snapshot push`), or take a new snapshot";

impl SnapshotLookup for LocalLookup {
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a> {
        Box::pin(self.look(namespace, name))
    }
}

impl LocalLookup {
    async fn look(&self, namespace: &str, name: &str) -> Result<FoundSnapshot, LookupError> {
        let denied = |why: String| LookupError::Denied { name: name.to_owned(), why };
        let id = name.parse::<SnapshotId>().map_err(|error| denied(error.to_string()))?;
        let other_namespace = || denied("it belongs to a pod in another namespace".to_owned());
        let Some(record) = self.store.snapshots.get(&id) else {
            let found = self.pushed(namespace, id, name).await?;
            return found.ok_or_else(other_namespace);
        };
        if record.source.namespace != namespace {
            return Err(other_namespace());
        }
        Ok(FoundSnapshot {
            id,
            node: self.node.clone(),
            image: record.pushed.and_then(|image| image.parse().ok()),
            if_lost: IF_LOST.to_owned(),
            snapshot_layers: record.own_layers,
            owner: record.owner,
        })
    }

    /// A snapshot that another node has pushed. `None` where it belongs to another namespace.
    async fn pushed(
        &self,
        namespace: &str,
        id: SnapshotId,
        name: &str,
    ) -> Result<Option<FoundSnapshot>, LookupError> {
        let absent =
            || LookupError::Absent { namespace: namespace.to_owned(), name: name.to_owned() };
        let Some(repository) = &self.repository else { return Err(absent()) };
        let tagged = format!("{repository}:{id}").parse::<Reference>().map_err(|_| absent())?;
        let response = self.registries.annotations(&tagged, &self.keyring).await;
        let (digest, annotations) = response.map_err(|error| match error.class() {
            Class::NotFound => absent(),
            _ => LookupError::Unavailable { name: name.to_owned(), why: error.to_string() },
        })?;
        let annotation =
            |key: &str| annotations.get(&format!("dev.csi.ovl.{key}")).map(String::as_str);
        if annotation("namespace") != Some(namespace) {
            return Ok(None);
        }
        let unreadable = || LookupError::Failed {
            name: name.to_owned(),
            why: format!("the annotations of {tagged} cannot be read"),
        };
        let snapshot_layers =
            annotation("own-layers").and_then(|count| count.parse().ok()).ok_or_else(unreadable)?;
        let owner = annotation("owner").map(|text| text.parse().map_err(|_| unreadable()));
        Ok(Some(FoundSnapshot {
            id,
            node: String::new(),
            image: Some(repository.at(&digest)),
            if_lost: IF_LOST.to_owned(),
            snapshot_layers,
            owner: owner.transpose()?,
        }))
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
