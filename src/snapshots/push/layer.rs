//! Pushes one layer: finds it in the target, mounts it, streams it from another registry, or packs it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
};

use tokio_util::sync::CancellationToken;

use super::{Blob, Push, PushError, PushRequest};
use crate::{
    digest::BlobDigest,
    layers::{LayerKey, Origin, PackedBlob},
    media_type::{self, Format},
    reference::Repository,
    snapshots::{
        PackingError, Snapshots, blocking,
        packing::{CancellableWriter, PackJob},
    },
};

/// The most origins that are tried before a layer is packed.
const MAX_SOURCES: usize = 4;
/// Bytes of one read from a source.
const BUFFER_BYTES: usize = 256 << 10;

impl Push<'_> {
    /// Pushes one layer. Returns its blob in the repository.
    pub(super) async fn layer(&mut self, depth: usize) -> Result<Blob, PushError> {
        let key = self.record.stack[depth];
        let sources = self.sources(&key).await;
        if let Some(blob) = self.existing(&sources).await? {
            return Ok(blob);
        }
        if let Some(blob) = self.mounted(&sources).await? {
            return Ok(blob);
        }
        for source in sources.iter().filter(|source| !source.is_target).take(MAX_SOURCES) {
            if let Some(file) = self.fetched(&key, source).await? {
                let blob = source.blob.clone();
                self.send_layer(&blob, &file).await?;
                self.record_origin(&key, &blob).await;
                return Ok(blob);
            }
        }
        self.packed(depth).await
    }

    /// The origins of the layer's bytes in a suitable format, the nearest first.
    async fn sources(&self, key: &LayerKey) -> Vec<Source> {
        let (store, key) = (self.snapshots.0.store.clone(), *key);
        let origins = blocking(move || store.origins.of(&key)).await;
        let target = &self.request.to;
        let mut sources: Vec<_> = (origins.iter())
            .filter_map(|origin| Source::new(origin, self.request.format, target))
            .collect();
        sources.sort_by_key(|source| (!source.is_target, !source.is_near));
        sources
    }

    /// The first of the blobs that the repository has already.
    async fn existing(&self, sources: &[Source]) -> Result<Option<Blob>, PushError> {
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
    async fn mounted(&self, sources: &[Source]) -> Result<Option<Blob>, PushError> {
        let near = sources.iter().filter(|source| source.is_near && !source.is_target);
        for Source { blob, from, .. } in near.take(MAX_SOURCES) {
            let Ok(from) = from.parse::<Repository>() else { continue };
            let (registries, request) = (&self.snapshots.0.registries, self.request);
            let mounted =
                registries.mount_blob(&request.to, &blob.digest, &from, &request.keyring).await;
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
    async fn fetched(&self, key: &LayerKey, source: &Source) -> Result<Option<File>, PushError> {
        let Source { blob, from, .. } = source;
        let Ok(from) = from.parse::<Repository>() else { return Ok(None) };
        let snapshots = self.snapshots;
        let reservation = snapshots.reserve(blob.packed.size).await;
        let reservation =
            reservation.map_err(|source| self.packing_error(key, PackingError::NoSpace(source)))?;
        let (registries, keyring) = (&snapshots.0.registries, &self.request.keyring);
        let opened = registries.blob_in(&from, &blob.digest, blob.packed.size, keyring).await;
        let reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                tracing::info!(layer = %key, %error, "a source does not serve the layer");
                return Ok(None);
            }
        };
        let (store, layer, stop) = (snapshots.0.store.clone(), *key, CancellationToken::new());
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
        copied.await.map_err(|source| self.disk(source))
    }

    /// Packs the layer from the store. Sends it unless another push has sent the same layer in the meantime.
    async fn packed(&mut self, depth: usize) -> Result<Blob, PushError> {
        let (key, request) = (self.record.stack[depth], self.request);
        let lower = {
            let store = self.snapshots.0.store.clone();
            blocking(move || store.layers.lower(&key)).await
        };
        let lower = lower.map_err(|source| self.packing_error(&key, source.into()))?;
        // A layer that came as a tar is packed with the owners that it has: they were never mapped.
        let owner = self.record.owner.filter(|_| lower.is_snapshot);
        drop(lower);
        let stack = self.record.stack[..=depth].to_vec();
        let (format, compression) = (request.format, request.compression);
        let written = self.progress.start_packing();
        let namespace = self.record.source.namespace.clone();
        let job = PackJob { namespace, stack, own_layers: 1, owner, format, compression, written };
        let (file, packed) = match self.snapshots.pack(job).await {
            Ok(packed) => packed,
            Err(source) => return Err(self.packing_error(&key, source)),
        };
        let blob = Blob::packed(&packed, format);
        if !self.has(&blob.digest).await? {
            self.send_layer(&blob, &file).await?;
        }
        self.record_origin(&key, &blob).await;
        Ok(blob)
    }

    async fn send_layer(&mut self, blob: &Blob, content: &File) -> Result<(), PushError> {
        let (progress, size) = (self.progress, blob.packed.size);
        self.send(&blob.digest, size, content, &|sent| progress.set_sent(sent, size)).await
    }

    /// Records that the repository has these bytes for the layer. It is called only for bytes that were made or
    /// downloaded here.
    async fn record_origin(&self, key: &LayerKey, blob: &Blob) {
        let namespace = &self.record.source.namespace;
        self.snapshots.record_origin(&self.request.to, namespace, key, blob).await;
    }

    fn packing_error(&self, key: &LayerKey, source: PackingError) -> PushError {
        PushError::Packing { id: self.record.id.clone(), layer: *key, source: Box::new(source) }
    }
}

impl Snapshots {
    /// Sends a squashed layer to the repository to which its snapshot will be pushed. After an error the push sends it.
    pub(in crate::snapshots) async fn push_squashed(
        &self,
        request: &PushRequest,
        namespace: &str,
        key: &LayerKey,
        blob: &Blob,
        content: &File,
    ) {
        let PushRequest { id, to, keyring, .. } = request;
        let size = blob.packed.size;
        let sent =
            self.0.registries.push_blob(to, &blob.digest, size, content, keyring, &|_| {}).await;
        match sent {
            Ok(()) => self.record_origin(to, namespace, key, blob).await,
            Err(error) => {
                tracing::info!(snapshot = %id, %error, "cannot send the squashed layer; the push sends it")
            }
        }
    }

    /// Records that the repository has a layer's bytes. If the record is lost, the next push only takes longer.
    /// The origin gives access to the layer only for the namespace of the snapshot.
    async fn record_origin(&self, to: &Repository, namespace: &str, key: &LayerKey, blob: &Blob) {
        let origin = Origin {
            registry: to.registry().to_owned(),
            repository: to.repository().to_owned(),
            blob: blob.digest,
            public: false,
            packed: Some(blob.packed.clone()),
            namespace: Some(namespace.to_owned()),
        };
        let (store, key) = (self.0.store.clone(), *key);
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
