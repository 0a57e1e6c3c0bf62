//! Pushes a snapshot to a registry, as an image.
//!
//! ```text
//! for each layer, bottom first: the repository has it   ─► nothing
//!                               its registry has it     ─► mounted from another repository
//!                               another registry has it ─► streamed through a file, by digest
//!                               no registry serves it   ─► packed from the store
//! then the config, then the manifest, whose tag is the snapshot's id; then the record has the image's reference
//! ```
//!
//! The origin of each pushed layer is recorded, so a repeated push, and the push of the next snapshot, send only new
//! layers.

mod layer;
mod manifest;
mod progress;
mod target;

use std::{collections::HashMap, io, time::Instant};

pub use self::manifest::Blob;
pub use self::progress::Progress;
pub use self::target::{Target, TargetError};
use tokio::task::JoinError;

use super::{PackingError, SnapshotId, SnapshotLock, Snapshots, blocking};
use crate::{
    digest::{BlobDigest, ManifestDigest},
    error::Class,
    image::{ImageError, Keyring, NewConfig},
    layers::{LayerKey, Lease, SnapshotRecord},
    media_type::{Compression, Format, OCI_MANIFEST},
    reference::{Reference, Repository},
};

/// Which snapshot to push, and to which repository.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The snapshot on this node.
    pub id: SnapshotId,
    /// The name of its volume in the pod's spec. On a node without a cluster it is not known: the volume's CSI id.
    pub volume: String,
    /// The target repository.
    pub to: Repository,
    /// The format of the layers that are packed for the push.
    pub format: Format,
    /// The compression of their tars.
    pub compression: Compression,
    /// The credentials for the registries.
    pub keyring: Keyring,
}

/// The result of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The image, as `registry/repository@digest`.
    pub image: String,
    /// Bytes that this push sent.
    pub sent: u64,
    /// Bytes of the snapshot's own layers, above those of the images.
    pub own_bytes: u64,
}

/// Why a snapshot was not pushed, or not deleted.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It is not on this node.
    #[error("snapshot {0} is not on this node")]
    Absent(SnapshotId),
    /// Its layers were replaced during the push or the squash.
    #[error("the layers of snapshot {0} were replaced by another operation; try again")]
    Replaced(SnapshotId),
    /// Another operation has locked the snapshot.
    #[error("snapshot {0} is in use by another operation; try again")]
    Busy(SnapshotId),
    /// One of its layers is missing in the store.
    #[error(
        "snapshot {0} has layers that are missing in the store of this node; take a new snapshot"
    )]
    Incomplete(SnapshotId),
    /// A request to a registry failed.
    #[error("snapshot {id}: the request to the registry failed: {source}")]
    Registry {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The cause.
        source: Box<ImageError>,
    },
    /// A layer of it could not be packed.
    #[error("cannot push snapshot {id}: cannot pack layer {layer}: {source}")]
    Packing {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The layer's key.
        layer: LayerKey,
        /// The cause.
        source: Box<PackingError>,
    },
    /// An operation on this node's disk failed.
    #[error("snapshot {id}: {source}")]
    Disk {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The system's error.
        source: io::Error,
    },
}

impl PushError {
    /// The class of the error for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent(_) => Class::NotFound,
            Self::Busy(_) | Self::Replaced(_) => Class::Busy,
            Self::Incomplete(_) => Class::Precondition,
            Self::Registry { source, .. } => source.class(),
            Self::Packing { source, .. } => source.class(),
            Self::Disk { source, .. } => Class::of_disk(source),
        }
    }
}

/// One push in progress.
struct Push<'a> {
    snapshots: &'a Snapshots,
    request: &'a PushRequest,
    record: &'a SnapshotRecord,
    progress: &'a Progress,
    /// Bytes that were sent so far.
    sent: u64,
}

impl Snapshots {
    /// Pushes a snapshot. A repeated push sends only what the registry lacks. If this future is dropped early, the
    /// registry keeps layers that no manifest names. `progress` is updated during the push.
    pub async fn push(
        &self,
        request: &PushRequest,
        progress: &Progress,
    ) -> Result<Pushed, PushError> {
        let start = Instant::now();
        let (record, _lease) = self.leased_record(&request.id).await?;
        let mut push = Push { snapshots: self, request, record: &record, progress, sent: 0 };
        // Fails early if the registry does not respond, or refuses the credentials: nothing is packed then.
        push.target().has(&BlobDigest::of(b"")).await.map_err(|error| push.error(error))?;
        let layers = push.layers().await?;
        let pushed = push.image(&layers).await?;
        self.0.metrics.pushed(pushed.sent, start.elapsed().as_secs_f64());
        tracing::info!(snapshot = %record.id, image = pushed.image, sent = pushed.sent, "pushed");
        Ok(pushed)
    }

    /// Deletes the manifest of a snapshot from its repository: `image`, or the manifest with the snapshot's tag.
    /// Returns false if the registry does not support deletes. A missing manifest counts as deleted. During a push of
    /// the manifest this returns [`PushError::Busy`].
    pub async fn delete_manifest(
        &self,
        id: &SnapshotId,
        from: &Repository,
        image: Option<&Reference>,
        keyring: &Keyring,
    ) -> Result<bool, PushError> {
        let _lock = self.lock(id)?;
        let registries = &self.0.registries;
        let failed = |source| PushError::Registry { id: id.clone(), source: Box::new(source) };
        let digest = match image.and_then(Reference::digest) {
            Some(digest) => *digest,
            // A push may have ended before it recorded the image.
            None => {
                let Ok(tagged) = format!("{from}:{id}").parse::<Reference>() else {
                    return Ok(true);
                };
                match self.tagged(&tagged, keyring).await.map_err(failed)? {
                    Some(digest) => digest,
                    None => return Ok(true),
                }
            }
        };
        let deleted = match registries.delete_manifest(from, &digest, keyring).await {
            Err(error) if error.class() == Class::NotFound => true,
            result => result.map_err(failed)?,
        };
        let Ok(tagged) = format!("{from}:{id}").parse::<Reference>() else { return Ok(deleted) };
        // Some registries delete only the digest and keep the tag.
        if !deleted || self.tagged(&tagged, keyring).await.map_err(failed)? != Some(digest) {
            return Ok(deleted);
        }
        registries.delete_tag(from, id.as_str(), keyring).await.map_err(failed)
    }

    /// Deletes the record of a snapshot. Its layers are collected when nothing else needs them. Returns whether there
    /// was a record. Blocks.
    pub fn delete(&self, id: &SnapshotId) -> Result<bool, PushError> {
        let _lock = self.lock(id)?;
        let removed = self.0.store.snapshots.remove(id);
        removed.map_err(|source| PushError::Disk { id: id.clone(), source })
    }

    /// The digest to which a tag refers now. `None` if there is no such tag.
    async fn tagged(
        &self,
        tagged: &Reference,
        keyring: &Keyring,
    ) -> Result<Option<ManifestDigest>, ImageError> {
        let registries = &self.0.registries;
        let digest = match registries.digest_of(tagged, keyring).await {
            Ok(Some((digest, _))) => Ok(digest),
            Ok(None) => {
                registries.resolve(tagged, keyring).await.map(|it| it.index.unwrap_or(it.digest))
            }
            Err(error) => Err(error),
        };
        match digest {
            Ok(digest) => Ok(Some(digest)),
            Err(error) if error.class() == Class::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record of a snapshot, and a lease of its layers.
    pub(super) async fn leased_record(
        &self,
        id: &SnapshotId,
    ) -> Result<(SnapshotRecord, Lease), PushError> {
        let (store, id) = (self.0.store.clone(), id.clone());
        blocking(move || {
            let record = store.snapshots.get(&id).ok_or_else(|| PushError::Absent(id.clone()))?;
            let lease = store.leases.take_if_present(&record.stack);
            let lease = lease.map_err(|source| PushError::Disk { id: id.clone(), source })?;
            let lease = lease.ok_or(PushError::Incomplete(id))?;
            Ok((record, lease))
        })
        .await
    }

    /// Locks a snapshot. One operation at a time has the lock.
    pub(super) fn lock(&self, id: &SnapshotId) -> Result<SnapshotLock, PushError> {
        self.0.locks.try_lock(id).ok_or_else(|| PushError::Busy(id.clone()))
    }

    /// Pushes the manifest of a snapshot's image, and records the image.
    async fn put_manifest(
        self,
        lock: SnapshotLock,
        to: Repository,
        keyring: Keyring,
        manifest: Vec<u8>,
        stack: Vec<LayerKey>,
    ) -> Result<String, PushError> {
        let id = lock.id.clone();
        let digest = self
            .0
            .registries
            .push_manifest(&to, id.as_str(), OCI_MANIFEST, &manifest, &keyring)
            .await
            .map_err(|source| PushError::Registry { id, source: Box::new(source) })?;
        let image = to.at(&digest).to_string();
        let pushed = image.clone();
        self.change(lock, move |now| {
            now.pushed = Some(pushed);
            now.stack == stack
        })
        .await?;
        Ok(image)
    }

    /// Changes the present record, durably. `change` returns false if it does not apply any more; that is
    /// [`PushError::Replaced`].
    pub(super) async fn change(
        &self,
        lock: SnapshotLock,
        change: impl FnOnce(&mut SnapshotRecord) -> bool + Send + 'static,
    ) -> Result<(), PushError> {
        let inner = self.0.clone();
        blocking(move || {
            let id = lock.id.clone();
            let absent = || PushError::Absent(id.clone());
            let mut record = inner.store.snapshots.get(&id).ok_or_else(absent)?;
            if !change(&mut record) {
                return Err(PushError::Replaced(id));
            }
            let disk = |source| PushError::Disk { id: id.clone(), source };
            inner.store.snapshots.put(record).map_err(disk)
        })
        .await
    }
}

impl Push<'_> {
    /// Pushes every layer, bottom first.
    async fn layers(&mut self) -> Result<Vec<Blob>, PushError> {
        let (mut pushed, mut layers) = (HashMap::<LayerKey, Blob>::new(), Vec::new());
        let stack = &self.record.stack;
        for (depth, key) in stack.iter().enumerate() {
            self.progress.layer(depth + 1, stack.len());
            let blob = match pushed.get(key) {
                Some(blob) => blob.clone(),
                None => self.layer(depth).await?,
            };
            pushed.insert(*key, blob.clone());
            layers.push(blob);
        }
        Ok(layers)
    }

    /// Pushes config and manifest, and records the image.
    async fn image(&mut self, layers: &[Blob]) -> Result<Pushed, PushError> {
        let Self { snapshots, request, record, .. } = *self;
        let inner = &snapshots.0;
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.packed.diff_id).collect();
        let (store, manifests) = (inner.store.clone(), record.manifests.clone());
        let configs: Vec<_> = blocking(move || {
            manifests.iter().filter_map(|manifest| store.images.config(manifest)).collect()
        })
        .await;
        let source = &record.source;
        let config = NewConfig {
            images: &configs,
            diff_ids: &diff_ids,
            own_layers: record.own_layers,
            created: Some(record.captured_at),
            maker: "ovl-csi snapshot",
            source: &format!("{}/{}/{}", source.namespace, source.pod, request.volume),
        }
        .bytes();
        let sent = self.target().small(&config).await;
        self.sent += sent.map_err(|error| self.error(error))?;

        let parent = record.parent.as_ref().and_then(|parent| inner.store.snapshots.get(parent));
        let parent = parent.and_then(|parent| parent.for_namespace(&source.namespace)?.pushed);
        let annotations = manifest::annotations(record, &request.volume, parent);
        let manifest = manifest::manifest(&config, layers, &annotations);
        self.sent += manifest.len() as u64;
        // It runs to its end, also when this future is dropped: a manifest that arrives after its snapshot was deleted
        // would stay for ever.
        let lock = snapshots.lock(&request.id)?;
        let (snapshots, to, keyring) =
            (snapshots.clone(), request.to.clone(), request.keyring.clone());
        let task =
            tokio::spawn(snapshots.put_manifest(lock, to, keyring, manifest, record.stack.clone()));
        let image = match task.await.map_err(JoinError::try_into_panic) {
            Ok(image) => image?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The task was cancelled, because the process ends.
            Err(Err(_)) => std::future::pending().await,
        };
        let own = layers.iter().rev().take(record.own_layers);
        Ok(Pushed { image, sent: self.sent, own_bytes: own.map(|blob| blob.packed.size).sum() })
    }

    fn target(&self) -> Target<'_> {
        let PushRequest { to, keyring, format, .. } = self.request;
        let inner = &self.snapshots.0;
        Target {
            store: &inner.store,
            registries: &inner.registries,
            to,
            keyring,
            format: *format,
            namespace: Some(&self.record.source.namespace),
            progress: self.progress,
        }
    }

    fn error(&self, error: TargetError) -> PushError {
        let id = self.record.id.clone();
        match error {
            TargetError::Registry(source) => PushError::Registry { id, source },
            TargetError::NoSpace(source) => PushError::Disk { id, source: source.into_io() },
            TargetError::Disk(source) => PushError::Disk { id, source },
        }
    }
}
