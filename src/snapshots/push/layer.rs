//! One layer's way into the target.

use std::{
    fs::File,
    io::{Read as _, Write as _},
};

use tokio_util::sync::CancellationToken;

use super::{Blob, Push, PushError, PushRequest};
use crate::{
    changeset::{self, Compression, Format},
    digest::Digest,
    image::Repository,
    layers::{Origin, Packed},
    snapshots::{
        PackingError, Snapshots, blocking,
        packing::{CancellableWriter, PackJob},
    },
};

/// How many places a layer is sought at before it is packed.
const SOURCES: usize = 4;
/// How much is read at once from a source.
const PIECE: usize = 256 << 10;

impl Push<'_> {
    /// Brings one layer there; answers what it is there.
    pub(super) async fn layer(&mut self, depth: usize) -> Result<Blob, PushError> {
        let key = self.record.stack[depth];
        let sources = self.sources(&key).await;
        if let Some(blob) = self.there(&sources).await? {
            return Ok(blob);
        }
        if let Some(blob) = self.mounted(&sources).await? {
            return Ok(blob);
        }
        for source in sources.iter().filter(|source| !source.is_target).take(SOURCES) {
            if let Some(file) = self.fetched(&key, source).await? {
                let blob = source.blob.clone();
                self.send_layer(&blob, &file).await?;
                self.delivered(&key, &blob).await;
                return Ok(blob);
            }
        }
        self.packed(depth).await
    }

    /// Where the layer's bytes are, in a form that will do.
    async fn sources(&self, key: &Digest) -> Vec<Source> {
        let (store, key) = (self.snapshots.0.store.clone(), *key);
        let origins = blocking(move || store.origins(&key)).await;
        let target = &self.request.to;
        let mut sources: Vec<_> = (origins.iter())
            .filter_map(|origin| Source::new(origin, self.request.format, target))
            .collect();
        sources.sort_by_key(|source| (!source.is_target, !source.is_near));
        sources
    }

    /// The first of the blobs that the repository has.
    async fn there(&self, sources: &[Source]) -> Result<Option<Blob>, PushError> {
        let mut asked: Vec<&Digest> = Vec::new();
        for Source { blob, .. } in sources {
            if asked.len() == SOURCES || asked.contains(&&blob.digest) {
                continue;
            }
            asked.push(&blob.digest);
            if self.has(&blob.digest).await? {
                return Ok(Some(blob.clone()));
            }
        }
        Ok(None)
    }

    /// The first of the blobs that the registry takes over from another repository of its own.
    async fn mounted(&self, sources: &[Source]) -> Result<Option<Blob>, PushError> {
        let near = sources.iter().filter(|source| source.is_near && !source.is_target);
        for Source { blob, from, .. } in near.take(SOURCES) {
            let Ok(from) = from.parse::<Repository>() else { continue };
            let (registries, request) = (&self.snapshots.0.registries, self.request);
            let mounted =
                registries.mount_blob(&request.to, &blob.digest, &from, &request.keyring).await;
            match mounted {
                Ok(true) => return Ok(Some(blob.clone())),
                Ok(false) => {}
                // Only a detour: whether the target works is seen by what is sent to it.
                Err(error) => tracing::debug!(%error, %from, "not mounted"),
            }
        }
        Ok(None)
    }

    /// The layer's blob from where it came from; nothing where it is not given, or is not what it was.
    async fn fetched(&self, key: &Digest, source: &Source) -> Result<Option<File>, PushError> {
        let Source { blob, from, .. } = source;
        let Ok(from) = from.parse::<Repository>() else { return Ok(None) };
        let snapshots = self.snapshots;
        let room = snapshots.reserve(*key, blob.packed.size).await;
        let room = room.map_err(|source| self.unpacked(key, PackingError::NoSpace(source)))?;
        let (registries, keyring) = (&snapshots.0.registries, &self.request.keyring);
        let opened = registries.blob_in(&from, &blob.digest, blob.packed.size, keyring).await;
        let reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                tracing::info!(layer = %key, %error, "a source does not give its layer");
                return Ok(None);
            }
        };
        let (store, layer, stop) = (snapshots.0.store.clone(), *key, CancellationToken::new());
        let written = self.progress.fetches();
        let _stop = stop.clone().drop_guard();
        let copied = blocking(move || {
            let (mut reader, file) = (reader, store.scratch()?);
            let mut out =
                CancellableWriter::new(&file, store.root(), stop).within(&room).counting(&written);
            let mut piece = vec![0; PIECE];
            loop {
                match reader.read(&mut piece) {
                    Ok(0) => break,
                    Ok(count) => out.write_all(&piece[..count])?,
                    Err(error) => {
                        tracing::info!(%layer, %error, "a source does not give its layer");
                        return Ok(None);
                    }
                }
            }
            drop(out);
            Ok(Some(file))
        });
        copied.await.map_err(|source| self.disk(source))
    }

    /// Packs the layer from the store, and sends it unless another push of this layer was quicker.
    async fn packed(&mut self, depth: usize) -> Result<Blob, PushError> {
        let (key, request) = (self.record.stack[depth], self.request);
        let lower = {
            let store = self.snapshots.0.store.clone();
            blocking(move || store.lower(&key)).await
        };
        let lower = lower.map_err(|source| self.unpacked(&key, source.into()))?;
        // A layer that came as a tar is packed as it came: its owners were never turned.
        let owner = self.record.owner.filter(|_| lower.is_snapshot);
        drop(lower);
        let stack = self.record.stack[..=depth].to_vec();
        let (format, compression) = (request.format, request.compression);
        let written = self.progress.packs();
        let namespace = self.record.source.namespace.clone();
        let job = PackJob { namespace, stack, own: 1, owner, format, compression, written };
        let (file, packed) = match self.snapshots.pack(job).await {
            Ok(packed) => packed,
            Err(source) => return Err(self.unpacked(&key, source)),
        };
        let blob = Blob::packed(&packed, format);
        if !self.has(&blob.digest).await? {
            self.send_layer(&blob, &file).await?;
        }
        self.delivered(&key, &blob).await;
        Ok(blob)
    }

    async fn send_layer(&mut self, blob: &Blob, content: &File) -> Result<(), PushError> {
        let (progress, size) = (self.progress, blob.packed.size);
        self.send(&blob.digest, size, content, &|there| progress.sends(there, size)).await
    }

    /// Writes down that the repository has these bytes for the layer. Only of what was made or brought here is that known.
    async fn delivered(&self, key: &Digest, blob: &Blob) {
        let namespace = &self.record.source.namespace;
        self.snapshots.delivered(&self.request.to, namespace, key, blob).await;
    }

    fn unpacked(&self, key: &Digest, source: PackingError) -> PushError {
        PushError::Packing { id: self.record.id.clone(), layer: *key, source: Box::new(source) }
    }
}

impl Snapshots {
    /// Brings a layer that is at hand where its snapshot is going to be pushed. Should that fail, the push does it.
    pub(in crate::snapshots) async fn bring(
        &self,
        request: &PushRequest,
        namespace: &str,
        key: &Digest,
        blob: &Blob,
        content: &File,
    ) {
        let PushRequest { id, to, keyring, .. } = request;
        let size = blob.packed.size;
        let sent =
            self.0.registries.push_blob(to, &blob.digest, size, content, keyring, &|_| {}).await;
        match sent {
            Ok(()) => self.delivered(to, namespace, key, blob).await,
            Err(error) => {
                tracing::info!(snapshot = %id, %error, "the squashed layer is not sent yet")
            }
        }
    }

    /// Writes down that the repository was given a layer's bytes. That it is lost costs the next push its time.
    /// Only the namespace of the snapshot may have the layer for it.
    async fn delivered(&self, to: &Repository, namespace: &str, key: &Digest, blob: &Blob) {
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
            if let Err(error) = store.add_origin(&key, origin) {
                tracing::warn!(layer = %key, %error, "where it was pushed is not written down");
            }
        })
        .await;
    }
}

/// Where a layer's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    blob: Blob,
    /// `registry/repository`.
    from: String,
    /// It is where the layer is to go.
    is_target: bool,
    /// It is in the same registry.
    is_near: bool,
}

impl Source {
    /// Nothing where what lies there cannot be in an image of this format. What is portable can be in all.
    fn new(origin: &Origin, format: Format, target: &Repository) -> Option<Self> {
        let packed = origin.packed.as_ref()?;
        let (is, compression) = form(&packed.media_type)?;
        if is == Format::Native && format == Format::Portable {
            return None;
        }
        let media_type = changeset::media_type(is, compression).to_owned();
        let is_near = origin.registry == target.registry();
        Some(Self {
            blob: Blob { digest: origin.blob, packed: Packed { media_type, ..packed.clone() } },
            from: format!("{}/{}", origin.registry, origin.repository),
            is_target: is_near && origin.repository == target.repository(),
            is_near,
        })
    }
}

/// What a layer of this media type is. Docker's names, and those of layers that were not to be distributed, mean the same bytes
/// as OCI's, which alone may stand in an OCI manifest.
fn form(media_type: &str) -> Option<(Format, Compression)> {
    let compressions = [Compression::None, Compression::Gzip, Compression::Zstd];
    let forms = [Format::Portable, Format::Native].into_iter();
    let mut forms = forms.flat_map(|format| compressions.map(|compression| (format, compression)));
    if let Some(known) = forms.find(|(f, c)| changeset::media_type(*f, *c) == media_type) {
        return Some(known);
    }
    let names = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let rest = names.into_iter().find_map(|name| media_type.strip_prefix(name))?;
    let compression = match rest {
        "" => Compression::None,
        "+gzip" | ".gzip" => Compression::Gzip,
        "+zstd" | ".zstd" => Compression::Zstd,
        _ => return None,
    };
    Some((Format::Portable, compression))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(registry: &str, repository: &str, media_type: &str) -> Origin {
        let diff_id = Digest::of(b"tar");
        let packed = Packed { media_type: media_type.into(), size: 1, diff_id };
        Origin {
            registry: registry.into(),
            repository: repository.into(),
            blob: Digest::of(b"blob"),
            public: false,
            packed: Some(packed),
            namespace: None,
        }
    }

    #[test]
    fn the_names_of_layers_become_ocis() {
        let oci = "application/vnd.oci.image.layer.v1.tar";
        for (name, is) in [
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", "+gzip"),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar", ""),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "+zstd"),
            ("application/vnd.oci.image.layer.v1.tar+zstd", "+zstd"),
        ] {
            let (format, compression) = form(name).unwrap();
            assert_eq!(changeset::media_type(format, compression), format!("{oci}{is}"), "{name}");
        }
        for other in ["", "application/json", "application/vnd.docker.image.rootfs.diff.tar.xz"] {
            assert_eq!(form(other), None, "{other}");
        }
    }

    #[test]
    fn a_source_is_near_or_far_and_of_a_form_that_will_do() {
        let target: Repository = "r.io/ws".parse().unwrap();
        let plain = changeset::media_type(Format::Portable, Compression::Zstd);
        let native = changeset::media_type(Format::Native, Compression::Zstd);
        let known = |registry, repository, media_type, format| {
            let source = Source::new(&origin(registry, repository, media_type), format, &target)?;
            Some((source.is_target, source.is_near))
        };
        use Format::{Native, Portable};
        assert_eq!(known("r.io", "ws", plain, Portable), Some((true, true)));
        assert_eq!(known("r.io", "base", plain, Portable), Some((false, true)));
        assert_eq!(known("q.io", "ws", plain, Native), Some((false, false)));
        assert_eq!(known("r.io", "ws", native, Native), Some((true, true)));
        assert_eq!(known("r.io", "ws", native, Portable), None, "others could not read it");
        let old = Origin { packed: None, ..origin("r.io", "ws", plain) };
        assert_eq!(Source::new(&old, Portable, &target), None);
    }
}
