//! The repository to which an image is pushed: which blobs it has, and how it gets others.
//!
//! Deliberately absent: packing.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use super::{Blob, Progress};
use crate::{
    digest::BlobDigest,
    image::{ImageError, Keyring, Registries},
    layers::{LayerKey, Origin, PackedBlob, ReserveError, Store},
    media_type::{self, Format},
    reference::Repository,
    snapshots::{blocking, packing::CancellableWriter},
};

/// The most origins that are tried before a layer is packed.
const MAX_SOURCES: usize = 4;
/// Bytes of one read from a source.
const BUFFER_BYTES: usize = 256 << 10;

/// A repository that gets an image.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The store whose layers are pushed.
    pub store: &'a Arc<Store>,
    /// The client.
    pub registries: &'a Registries,
    /// The repository.
    pub to: &'a Repository,
    /// The credentials.
    pub keyring: &'a Keyring,
    /// The format of the layers. A portable layer is allowed in all formats.
    pub format: Format,
    /// The namespace for which an origin counts that is recorded. `None`: for all.
    pub namespace: Option<&'a str>,
    /// Gets the progress.
    pub progress: &'a Progress,
}

/// Why a blob is not in the repository.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A request to a registry failed.
    #[error("{0}")]
    Registry(Box<ImageError>),
    /// There is no space for a blob that another registry serves.
    #[error("{0}")]
    NoSpace(#[from] ReserveError),
    /// An operation on the store's disk failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl From<ImageError> for TargetError {
    fn from(error: ImageError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl Target<'_> {
    /// A blob of a layer that the repository has or gets without packing: it has it, its registry mounts it from another
    /// repository, or another registry serves it. Also the bytes that were sent. The caller has a lease of the layer.
    ///
    /// # Errors
    /// The target does not respond or refuses the blob, or the disk is full.
    pub async fn layer(&self, key: &LayerKey) -> Result<Option<(Blob, u64)>, TargetError> {
        let sources = self.sources(key).await;
        if let Some(blob) = self.existing(&sources).await? {
            return Ok(Some((blob, 0)));
        }
        if let Some(blob) = self.mounted(&sources).await? {
            return Ok(Some((blob, 0)));
        }
        for source in sources.iter().filter(|source| !source.is_target).take(MAX_SOURCES) {
            if let Some(file) = self.fetched(key, source).await? {
                let blob = source.blob.clone();
                self.send_layer(&blob, &file).await?;
                self.record_origin(key, &blob).await;
                let size = blob.packed.size;
                return Ok(Some((blob, size)));
            }
        }
        Ok(None)
    }

    /// Sends the blob of a layer that was packed, unless the repository has it. Returns the bytes that were sent.
    ///
    /// # Errors
    /// The target does not respond or refuses the blob.
    pub async fn packed(
        &self,
        key: Option<&LayerKey>,
        blob: &Blob,
        content: &File,
    ) -> Result<u64, TargetError> {
        let has = self.has(&blob.digest).await?;
        if !has {
            self.send_layer(blob, content).await?;
        }
        if let Some(key) = key {
            self.record_origin(key, blob).await;
        }
        Ok(if has { 0 } else { blob.packed.size })
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// The target does not respond.
    pub async fn has(&self, blob: &BlobDigest) -> Result<bool, TargetError> {
        Ok(self.registries.has_blob(self.to, blob, self.keyring).await?)
    }

    /// Sends a small blob, unless the repository has it. Returns the bytes that were sent.
    ///
    /// # Errors
    /// The target does not respond or refuses the blob.
    pub async fn small(&self, bytes: &[u8]) -> Result<u64, TargetError> {
        let digest = BlobDigest::of(bytes);
        if self.has(&digest).await? {
            return Ok(0);
        }
        let (store, bytes): (_, Arc<[u8]>) = (self.store.clone(), bytes.into());
        let size = bytes.len() as u64;
        let file = blocking(move || {
            let mut file = store.staging.unnamed_file()?;
            file.write_all(&bytes)?;
            Ok::<_, io::Error>(file)
        });
        self.send(&digest, size, &file.await?, &|_| {}).await?;
        Ok(size)
    }

    /// Sends the blob of a layer.
    pub(in crate::snapshots) async fn send_layer(
        &self,
        blob: &Blob,
        content: &File,
    ) -> Result<(), TargetError> {
        let (progress, size) = (self.progress, blob.packed.size);
        self.send(&blob.digest, size, content, &|sent| progress.set_sent(sent, size)).await
    }

    /// Sends a blob. `report` is called with the number of bytes that have arrived.
    async fn send(
        &self,
        digest: &BlobDigest,
        size: u64,
        content: &File,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<(), TargetError> {
        let report = |sent| {
            tracing::debug!(to = %self.to, blob = %digest, sent, size, "sending");
            report(sent);
        };
        let registries = self.registries;
        Ok(registries.push_blob(self.to, digest, size, content, self.keyring, &report).await?)
    }

    /// The origins of the layer's bytes in a suitable format, the nearest first.
    async fn sources(&self, key: &LayerKey) -> Vec<Source> {
        let (store, key) = (self.store.clone(), *key);
        let origins = blocking(move || store.origins.of(&key)).await;
        let mut sources: Vec<_> = (origins.iter())
            .filter_map(|origin| Source::new(origin, self.format, self.to))
            .collect();
        sources.sort_by_key(|source| (!source.is_target, !source.is_near));
        sources
    }

    /// The first of the blobs that the repository has already.
    async fn existing(&self, sources: &[Source]) -> Result<Option<Blob>, TargetError> {
        let mut checked: Vec<&BlobDigest> = Vec::new();
        for Source { blob, .. } in sources {
            if checked.len() == MAX_SOURCES || checked.contains(&&blob.digest) {
                continue;
            }
            checked.push(&blob.digest);
            if self.has(&blob.digest).await? {
                return Ok(Some(blob.clone()));
            }
        }
        Ok(None)
    }

    /// The first of the blobs that the registry mounts from another of its repositories.
    async fn mounted(&self, sources: &[Source]) -> Result<Option<Blob>, TargetError> {
        let near = sources.iter().filter(|source| source.is_near && !source.is_target);
        for Source { blob, from, .. } in near.take(MAX_SOURCES) {
            let Ok(from) = from.parse::<Repository>() else { continue };
            let mounted =
                self.registries.mount_blob(self.to, &blob.digest, &from, self.keyring).await;
            match mounted {
                Ok(true) => return Ok(Some(blob.clone())),
                Ok(false) => {}
                // Not fatal: an error of the target itself shows when the layer is sent.
                Err(error) => {
                    tracing::debug!(%error, %from, "cannot mount a layer from another repository")
                }
            }
        }
        Ok(None)
    }

    /// Downloads the layer's blob from a source. `None` if the source does not serve it, or serves other bytes.
    async fn fetched(&self, key: &LayerKey, source: &Source) -> Result<Option<File>, TargetError> {
        let Source { blob, from, .. } = source;
        let Ok(from) = from.parse::<Repository>() else { return Ok(None) };
        let (store, size) = (self.store.clone(), blob.packed.size);
        let reservation = blocking(move || store.disk.reserve(size)).await?;
        let opened = self.registries.blob_in(&from, &blob.digest, size, self.keyring).await;
        let reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                tracing::info!(layer = %key, %error, "a source does not serve the layer");
                return Ok(None);
            }
        };
        let (store, layer, stop) = (self.store.clone(), *key, CancellationToken::new());
        let written = self.progress.start_fetching();
        let _stop = stop.clone().drop_guard();
        let copied = blocking(move || {
            let (mut reader, file) = (reader, store.staging.unnamed_file()?);
            let mut out = CancellableWriter::new(&file, store.root(), stop)
                .within(&reservation)
                .counting(&written);
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => out.write_all(&buffer[..count])?,
                    Err(error) => {
                        tracing::info!(%layer, %error, "a source does not serve the layer");
                        return Ok(None);
                    }
                }
            }
            drop(out);
            Ok(Some(file))
        });
        copied.await.map_err(TargetError::Disk)
    }

    /// Records that the repository has a layer's bytes, which were made or downloaded here. If the record is lost, the next
    /// push only takes longer.
    pub(in crate::snapshots) async fn record_origin(&self, key: &LayerKey, blob: &Blob) {
        let origin = Origin {
            registry: self.to.registry().to_owned(),
            repository: self.to.repository().to_owned(),
            blob: blob.digest,
            public: false,
            packed: Some(blob.packed.clone()),
            namespace: self.namespace.map(str::to_owned),
        };
        let (store, key) = (self.store.clone(), *key);
        blocking(move || {
            if let Err(error) = store.origins.add(&key, origin) {
                tracing::warn!(layer = %key, %error, "cannot record the origin of a layer; the next push takes longer");
            }
        })
        .await;
    }
}

/// An origin of a layer's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    blob: Blob,
    /// `registry/repository`.
    from: String,
    /// It is the target repository.
    is_target: bool,
    /// It is in the registry of the target.
    is_near: bool,
}

impl Source {
    /// `None` if the blob is not allowed in an image of this format. A portable layer is allowed in all formats.
    fn new(origin: &Origin, format: Format, target: &Repository) -> Option<Self> {
        let packed = origin.packed.as_ref()?;
        let (blob_format, compression) = media_type::parse_layer(&packed.media_type)?;
        if blob_format == Format::Native && format == Format::Portable {
            return None;
        }
        let media_type = media_type::of_layer(blob_format, compression).to_owned();
        let is_near = origin.registry == target.registry();
        Some(Self {
            blob: Blob { digest: origin.blob, packed: PackedBlob { media_type, ..packed.clone() } },
            from: format!("{}/{}", origin.registry, origin.repository),
            is_target: is_near && origin.repository == target.repository(),
            is_near,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::DiffId, media_type::Compression};

    fn origin(registry: &str, repository: &str, media_type: &str) -> Origin {
        let diff_id = DiffId::of(b"tar");
        let packed = PackedBlob { media_type: media_type.into(), size: 1, diff_id };
        Origin {
            registry: registry.into(),
            repository: repository.into(),
            blob: BlobDigest::of(b"blob"),
            public: false,
            packed: Some(packed),
            namespace: None,
        }
    }

    #[test]
    fn a_source_is_in_the_target_registry_or_not_and_has_a_suitable_format() {
        let target: Repository = "r.io/ws".parse().unwrap();
        let plain = media_type::of_layer(Format::Portable, Compression::Zstd);
        let native = media_type::of_layer(Format::Native, Compression::Zstd);
        let found = |registry, repository, media_type, format| {
            let source = Source::new(&origin(registry, repository, media_type), format, &target)?;
            Some((source.is_target, source.is_near))
        };
        use Format::{Native, Portable};
        assert_eq!(found("r.io", "ws", plain, Portable), Some((true, true)));
        assert_eq!(found("r.io", "base", plain, Portable), Some((false, true)));
        assert_eq!(found("q.io", "ws", plain, Native), Some((false, false)));
        assert_eq!(found("r.io", "ws", native, Native), Some((true, true)));
        assert_eq!(found("r.io", "ws", native, Portable), None, "other tools cannot read it");
        let old = Origin { packed: None, ..origin("r.io", "ws", plain) };
        assert_eq!(Source::new(&old, Portable, &target), None);
    }
}
