//! What a cluster orders, for a node without a cluster: somebody on the node asks for it, one thing at a time, and waits.
//!
//! ```text
//! capture ── engine ──> capture, squash            the same engine that carries OverlaySnapshots out
//! push    ── engine ──> push
//! delete  ── engine ──> remove the manifest, forget
//! a volume's `snapshot: NAME` ──> this node's store, else NAME as a tag in the node's repository
//! ```
//!
//! Deliberately absent: trying again. Whoever asks is told why it failed, and asks again when that is mended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use super::engine::Failure;
use super::{
    engine::{Engine, Node},
    pushes::Pushes,
};
use crate::{
    changeset::{Compression, Format},
    fault::Class,
    image::{Keyring, Reference, Registries, Repository},
    layers::{SnapshotId, SnapshotRecord, Store},
    snapshots::{CutRequest, Progress, PushRequest, Pushed, Snapshots},
    volumes::{FoundSnapshot, Lookup, LookupError, SnapshotLookup},
};

/// After which time a push that hardly moves keeps no others waiting.
const SLOW: Duration = Duration::from_secs(10);

/// Past how many layers of its own a snapshot gets one instead: as a VolumeSnapshotClass that does not say.
const SQUASH_ABOVE: usize = 32;

/// What a node's snapshots are made with where nobody but people on the node asks for them.
#[derive(Debug)]
pub struct LocalParts {
    /// What carries them out.
    pub snapshots: Snapshots,
    /// Where they are kept.
    pub store: Arc<Store>,
    /// The node's own credentials.
    pub keyring: Keyring,
    /// Where they are pushed if nobody says otherwise.
    pub repository: Option<Repository>,
}

/// The snapshots of a node without a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Local(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Node,
    keyring: Keyring,
    repository: Option<Repository>,
    pushes: Pushes,
    /// Those on their way.
    pushing: Mutex<HashMap<SnapshotId, Arc<Progress>>>,
}

/// A snapshot, and how far its push is while there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What the store knows of it.
    pub record: SnapshotRecord,
    /// How far its push is.
    pub pushing: Option<String>,
}

impl Local {
    /// Those of this node.
    pub fn new(parts: LocalParts) -> Self {
        let LocalParts { snapshots, store, keyring, repository } = parts;
        Self(Arc::new(Inner {
            engine: Node { snapshots, store },
            keyring,
            repository,
            pushes: Pushes::new(SLOW),
            pushing: Mutex::default(),
        }))
    }

    /// Captures a volume; one that has many layers of its own by now gets one instead of them.
    ///
    /// # Errors
    /// Why it was not captured. That it was not squashed is in the log alone: the snapshot is as good.
    pub async fn capture(&self, request: CutRequest) -> Result<Told, Failure> {
        let engine = &self.0.engine;
        let record = engine.cut(request).await?;
        if record.own > SQUASH_ABOVE
            && record.pushed.is_none()
            && let Err(failure) = engine.squash(&record.id, None).await
        {
            tracing::warn!(snapshot = %record.id, why = failure.message, "not squashed");
        }
        self.told(&record.id)
    }

    /// Pushes a snapshot.
    ///
    /// # Errors
    /// It is not here, nobody says where it goes, or its registry does not take it.
    pub async fn push(
        &self,
        id: &SnapshotId,
        to: Option<Repository>,
        format: Format,
        compression: Compression,
    ) -> Result<(Told, Pushed), Failure> {
        let record = self.told(id)?.record;
        let Some(to) = to.or_else(|| self.0.repository.clone()) else {
            let why = format!(
                "nobody says where snapshot {id} is to be pushed: name a repository, or start `ovl node` with \
                 --snapshot-repository"
            );
            return Err(Failure::new(Class::Invalid, why));
        };
        let request = PushRequest {
            id: id.clone(),
            volume: record.source.volume.clone(),
            to,
            format,
            compression,
            keyring: self.0.keyring.clone(),
        };
        let progress = Arc::new(Progress::default());
        self.0.pushing().insert(id.clone(), progress.clone());
        // Gone whatever becomes of the push.
        let _entry = Entry { inner: &self.0, id };
        let push = self.0.engine.push(&request, &progress);
        let pushed = self.0.pushes.in_turn(&record.source.namespace, &progress, push).await?;
        Ok((self.told(id)?, pushed))
    }

    /// Removes a snapshot from its registry and from here; false where the registry deletes nothing, so that the manifest stays.
    ///
    /// # Errors
    /// It is not here, or its registry does not answer; then it is still here.
    pub async fn delete(&self, id: &SnapshotId) -> Result<bool, Failure> {
        let record = self.told(id)?.record;
        let image = record.pushed.as_deref().and_then(|image| image.parse::<Reference>().ok());
        let gone = match image {
            None => true,
            Some(image) => {
                let from = Repository::of(&image);
                self.0.engine.unpush(id, &from, Some(&image), &self.0.keyring).await?
            }
        };
        self.0.engine.forget(id).await?;
        Ok(gone)
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Told> {
        self.0.engine.here().iter().filter_map(|id| self.told(id).ok()).collect()
    }

    fn told(&self, id: &SnapshotId) -> Result<Told, Failure> {
        let missing =
            || Failure::new(Class::NotFound, format!("there is no snapshot {id} on this node"));
        let record = self.0.engine.record(id).ok_or_else(missing)?;
        let pushing = self.0.pushing().get(id).cloned();
        Ok(Told { record, pushing: pushing.and_then(|progress| progress.sentence()) })
    }
}

impl Inner {
    fn pushing(&self) -> MutexGuard<'_, HashMap<SnapshotId, Arc<Progress>>> {
        // Changed by whole entries only, so it is whole after any panic.
        self.pushing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A push's entry, gone with it.
struct Entry<'a> {
    inner: &'a Inner,
    id: &'a SnapshotId,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.inner.pushing().remove(self.id);
    }
}

/// Finds snapshots without a cluster: in the node's store, else in its repository, where a push has left each under its name.
#[derive(Debug)]
pub struct LocalLookup {
    /// Where this node's snapshots are kept.
    pub store: Arc<Store>,
    /// Where images come from.
    pub registries: Arc<Registries>,
    /// The node's own credentials.
    pub keyring: Keyring,
    /// What this node is called.
    pub node: String,
    /// Where other nodes push theirs.
    pub repository: Option<Repository>,
}

impl SnapshotLookup for LocalLookup {
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a> {
        Box::pin(self.look(namespace, name))
    }
}

impl LocalLookup {
    async fn look(&self, namespace: &str, name: &str) -> Result<FoundSnapshot, LookupError> {
        let denied = |why: String| LookupError::Denied { name: name.to_owned(), why };
        let id = name.parse::<SnapshotId>().map_err(|error| denied(error.to_string()))?;
        let elsewhere = || denied("it is of a pod in another namespace".to_owned());
        let Some(record) = self.store.snapshot(&id) else {
            let found = self.pushed(namespace, id, name).await?;
            return found.ok_or_else(elsewhere);
        };
        if record.source.namespace != namespace {
            return Err(elsewhere());
        }
        Ok(FoundSnapshot {
            id,
            node: self.node.clone(),
            image: record.pushed.and_then(|image| image.parse().ok()),
            own: record.own,
            owner: record.owner.map(|(uid, gid)| crate::volumes::Owner { uid, gid }),
        })
    }

    /// A snapshot that another node has pushed; `None` where that was another namespace's.
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
        let asked = self.registries.annotations(&tagged, &self.keyring).await;
        let (digest, notes) = asked.map_err(|error| match error.class() {
            Class::NotFound => absent(),
            _ => LookupError::Unavailable { name: name.to_owned(), why: error.to_string() },
        })?;
        let note = |key: &str| notes.get(&format!("dev.csi.ovl.{key}")).map(String::as_str);
        if note("namespace") != Some(namespace) {
            return Ok(None);
        }
        let unreadable = || LookupError::Failed {
            name: name.to_owned(),
            why: format!("the annotations of {tagged} cannot be read"),
        };
        let own = note("own-layers").and_then(|own| own.parse().ok()).ok_or_else(unreadable)?;
        let owner = note("owner").map(|text| text.parse().map_err(|_| unreadable()));
        Ok(Some(FoundSnapshot {
            id,
            node: String::new(),
            image: Some(repository.at(&digest)),
            own,
            owner: owner.transpose()?,
        }))
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
