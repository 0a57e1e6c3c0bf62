//! A snapshot becomes an image in a registry.
//!
//! ```text
//! for each layer, bottom first: the repository has it ─► nothing
//!                               its registry has it   ─► mounted
//!                               another one has it    ─► streamed through a file, by digest
//!                               nobody gives it       ─► packed from the store
//! then the config, then the manifest, whose tag is the snapshot's id; then the record says where it is
//! ```
//!
//! What was pushed is written down layer by layer, so that a push that is done again, and the next snapshot's, send only what
//! is new.

mod config;
mod layer;
mod manifest;
mod progress;

use std::{collections::HashMap, io, sync::Arc, time::Instant};

use self::config::Known;
pub(super) use self::manifest::Blob;
pub use self::progress::Progress;
use tokio::task::JoinError;

use super::{PackingError, SnapshotId, Snapshots, Turn, blocking};
use crate::{
    changeset::{Compression, Format},
    digest::Digest,
    error::Class,
    image::{ImageError, Keyring, Reference, Repository},
    layers::{Lease, SnapshotRecord},
};

/// What is to be pushed, and whereto.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Which snapshot of this node.
    pub id: SnapshotId,
    /// The name of its volume in the pod.
    pub volume: String,
    /// Whereto.
    pub to: Repository,
    /// What its layer looks like there.
    pub format: Format,
    /// What is around its tar.
    pub compression: Compression,
    /// With what.
    pub keyring: Keyring,
}

/// A snapshot in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// `registry/repository@digest`.
    pub image: String,
    /// Bytes that had to be sent.
    pub sent: u64,
    /// Bytes of the layers above the images'.
    pub own_bytes: u64,
}

/// Why a snapshot was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It is not on this node, or became another meanwhile.
    #[error("snapshot {0} is not on this node")]
    Absent(SnapshotId),
    /// Its record is being changed.
    #[error("snapshot {0} is being worked on")]
    Busy(SnapshotId),
    /// One of its layers is gone.
    #[error("snapshot {0} lacks layers in the store; make another one")]
    Incomplete(SnapshotId),
    /// A registry did not take it.
    #[error("snapshot {id} is not pushed: {source}")]
    Registry {
        /// Which snapshot.
        id: SnapshotId,
        /// What the registry did.
        source: Box<ImageError>,
    },
    /// A layer of it could not be packed.
    #[error("snapshot {id} is not pushed: layer {layer} cannot be packed: {source}")]
    Packing {
        /// Which snapshot.
        id: SnapshotId,
        /// The layer's key.
        layer: Digest,
        /// Why.
        source: Box<PackingError>,
    },
    /// This node's disk said no.
    #[error("snapshot {id}: {source}")]
    Disk {
        /// Which snapshot.
        id: SnapshotId,
        /// The system's words.
        source: io::Error,
    },
}

impl PushError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent(_) => Class::NotFound,
            Self::Busy(_) => Class::Busy,
            Self::Incomplete(_) => Class::Precondition,
            Self::Registry { source, .. } => source.class(),
            Self::Packing { source, .. } => source.class(),
            Self::Disk { source, .. } => Class::of_disk(source),
        }
    }
}

/// One push under way.
struct Push<'a> {
    snapshots: &'a Snapshots,
    request: &'a PushRequest,
    record: &'a SnapshotRecord,
    progress: &'a Progress,
    /// Bytes so far.
    sent: u64,
}

impl Snapshots {
    /// Pushes a snapshot; the same again sends what the registry lacks. Dropped before it is done, it leaves the registry with
    /// layers that no manifest names. `progress` is told how far it is.
    pub async fn push(
        &self,
        request: &PushRequest,
        progress: &Progress,
    ) -> Result<Pushed, PushError> {
        let began = Instant::now();
        let (record, _lease) = self.kept(&request.id).await?;
        let mut push = Push { snapshots: self, request, record: &record, progress, sent: 0 };
        // Nothing is packed for a registry that does not answer, or not to us.
        push.has(&Digest::of(b"")).await?;
        let layers = push.layers().await?;
        let pushed = push.image(&layers).await?;
        self.0.metrics.pushed(pushed.sent, began.elapsed().as_secs_f64());
        tracing::info!(snapshot = %record.id, image = pushed.image, sent = pushed.sent, "pushed");
        Ok(pushed)
    }

    /// Removes a snapshot's manifest from its repository: `image`, or what has its tag there. Answers false where the registry
    /// deletes nothing. One that is not there is fine; one that is on its way is waited for ([`PushError::Busy`]).
    pub async fn delete_manifest(
        &self,
        id: &SnapshotId,
        from: &Repository,
        image: Option<&Reference>,
        keyring: &Keyring,
    ) -> Result<bool, PushError> {
        let _turn = self.turn(id)?;
        let registries = &self.0.registries;
        let failed = |source| PushError::Registry { id: id.clone(), source: Box::new(source) };
        let digest = match image.and_then(Reference::digest) {
            Some(digest) => *digest,
            // A push that did not come to say where it is.
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
        let gone = match registries.delete_manifest(from, &digest, keyring).await {
            Err(error) if error.class() == Class::NotFound => true,
            done => done.map_err(failed)?,
        };
        let Ok(tagged) = format!("{from}:{id}").parse::<Reference>() else { return Ok(gone) };
        // There are registries that forget the digest alone.
        if !gone || self.tagged(&tagged, keyring).await.map_err(failed)? != Some(digest) {
            return Ok(gone);
        }
        registries.delete_tag(from, id.as_str(), keyring).await.map_err(failed)
    }

    /// What a tag means now, if anything.
    async fn tagged(
        &self,
        tagged: &Reference,
        keyring: &Keyring,
    ) -> Result<Option<Digest>, ImageError> {
        let registries = &self.0.registries;
        let meant = match registries.digest_of(tagged, keyring).await {
            Ok(Some((digest, _))) => Ok(digest),
            Ok(None) => {
                registries.resolve(tagged, keyring).await.map(|it| it.index.unwrap_or(it.digest))
            }
            Err(error) => Err(error),
        };
        match meant {
            Ok(digest) => Ok(Some(digest)),
            Err(error) if error.class() == Class::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A snapshot's record, and what keeps its layers.
    pub(super) async fn kept(&self, id: &SnapshotId) -> Result<(SnapshotRecord, Lease), PushError> {
        let (store, id) = (self.0.store.clone(), id.clone());
        blocking(move || {
            let record = store.snapshot(&id).ok_or_else(|| PushError::Absent(id.clone()))?;
            let lease = store.lease(&record.stack).ok_or(PushError::Incomplete(id))?;
            Ok((record, lease))
        })
        .await
    }

    /// The right to change a snapshot, which one has at a time.
    pub(super) fn turn(&self, id: &SnapshotId) -> Result<Turn, PushError> {
        self.0.turns.take(id).ok_or_else(|| PushError::Busy(id.clone()))
    }

    /// Pushes the manifest that makes layers a snapshot's image, and writes down where that is.
    async fn put_manifest(
        self,
        turn: Turn,
        to: Repository,
        keyring: Keyring,
        manifest: Vec<u8>,
        stack: Vec<Digest>,
    ) -> Result<String, PushError> {
        let id = turn.id.clone();
        let digest = self
            .0
            .registries
            .push_manifest(&to, id.as_str(), manifest::MEDIA_TYPE, &manifest, &keyring)
            .await
            .map_err(|source| PushError::Registry { id, source: Box::new(source) })?;
        let image = to.at(&digest).to_string();
        let pushed = image.clone();
        self.change(turn, move |now| {
            now.pushed = Some(pushed);
            now.stack == stack
        })
        .await?;
        Ok(image)
    }

    /// Changes the record as it is now, durably; the change answers false where it does not apply any more.
    pub(super) async fn change(
        &self,
        turn: Turn,
        change: impl FnOnce(&mut SnapshotRecord) -> bool + Send + 'static,
    ) -> Result<(), PushError> {
        let inner = self.0.clone();
        blocking(move || {
            let id = turn.id.clone();
            let absent = || PushError::Absent(id.clone());
            let mut record = inner.store.snapshot(&id).ok_or_else(absent)?;
            if !change(&mut record) {
                return Err(absent());
            }
            let disk = |source| PushError::Disk { id: id.clone(), source };
            inner.store.put_snapshot(record).map_err(disk)
        })
        .await
    }
}

impl Push<'_> {
    /// Brings every layer there, bottom first.
    async fn layers(&mut self) -> Result<Vec<Blob>, PushError> {
        let (mut there, mut layers) = (HashMap::<Digest, Blob>::new(), Vec::new());
        let stack = &self.record.stack;
        for (depth, key) in stack.iter().enumerate() {
            self.progress.layer(depth + 1, stack.len());
            let blob = match there.get(key) {
                Some(blob) => blob.clone(),
                None => self.layer(depth).await?,
            };
            there.insert(*key, blob.clone());
            layers.push(blob);
        }
        Ok(layers)
    }

    /// Brings config and manifest there, and writes down where they are.
    async fn image(&mut self, layers: &[Blob]) -> Result<Pushed, PushError> {
        let Self { snapshots, request, record, .. } = *self;
        let inner = &snapshots.0;
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.packed.diff_id).collect();
        let (store, manifests) = (inner.store.clone(), record.manifests.clone());
        let configs: Vec<_> = blocking(move || {
            manifests.iter().filter_map(|manifest| store.image_config(manifest)).collect()
        })
        .await;
        let source = &record.source;
        let config = config::config(&Known {
            images: &configs,
            diff_ids: &diff_ids,
            own: record.own,
            captured_at: record.cut,
            source: &format!("{}/{}/{}", source.namespace, source.pod, request.volume),
        });
        self.document(&config).await?;

        let parent = record.parent.as_ref().and_then(|parent| inner.store.snapshot(parent));
        let parent = parent.and_then(|parent| parent.for_namespace(&source.namespace)?.pushed);
        let annotations = manifest::annotations(record, &request.volume, parent);
        let manifest = manifest::manifest(&config, layers, &annotations);
        self.sent += manifest.len() as u64;
        // To its end, also when nobody waits any more: a manifest that comes after its snapshot was removed would stay for ever.
        let turn = snapshots.turn(&request.id)?;
        let (snapshots, to, keyring) =
            (snapshots.clone(), request.to.clone(), request.keyring.clone());
        let named =
            tokio::spawn(snapshots.put_manifest(turn, to, keyring, manifest, record.stack.clone()));
        let image = match named.await.map_err(JoinError::try_into_panic) {
            Ok(image) => image?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(Err(_)) => std::future::pending().await,
        };
        let own = layers.iter().rev().take(record.own);
        Ok(Pushed { image, sent: self.sent, own_bytes: own.map(|blob| blob.packed.size).sum() })
    }

    fn refused(&self, source: ImageError) -> PushError {
        PushError::Registry { id: self.record.id.clone(), source: Box::new(source) }
    }

    fn disk(&self, source: io::Error) -> PushError {
        PushError::Disk { id: self.record.id.clone(), source }
    }

    /// Whether the repository has a blob.
    async fn has(&self, blob: &Digest) -> Result<bool, PushError> {
        let PushRequest { to, keyring, .. } = self.request;
        let has = self.snapshots.0.registries.has_blob(to, blob, keyring).await;
        has.map_err(|source| self.refused(source))
    }

    /// Brings a small blob there.
    async fn document(&mut self, bytes: &[u8]) -> Result<(), PushError> {
        let digest = Digest::of(bytes);
        if self.has(&digest).await? {
            return Ok(());
        }
        let (store, bytes): (_, Arc<[u8]>) = (self.snapshots.0.store.clone(), bytes.into());
        let size = bytes.len() as u64;
        let file = blocking(move || {
            let mut file = store.scratch()?;
            io::Write::write_all(&mut file, &bytes)?;
            Ok(file)
        })
        .await
        .map_err(|source| self.disk(source))?;
        self.send(&digest, size, &file, &|_| {}).await
    }

    /// Sends a blob; `told` is called with the bytes that are there.
    async fn send(
        &mut self,
        digest: &Digest,
        size: u64,
        content: &std::fs::File,
        told: &(dyn Fn(u64) + Sync),
    ) -> Result<(), PushError> {
        let PushRequest { id, to, keyring, .. } = self.request;
        let told = |there| {
            tracing::debug!(snapshot = %id, blob = %digest, there, size, "sending");
            told(there);
        };
        let registries = &self.snapshots.0.registries;
        let sent = registries.push_blob(to, digest, size, content, keyring, &told).await;
        sent.map_err(|source| self.refused(source))?;
        self.sent += size;
        Ok(())
    }
}
