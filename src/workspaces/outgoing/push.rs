//! Pushes an image to a registry.
//!
//! A layer whose blob some registry has keeps this blob, and with it its diff ID ([`Target::layer`]). The others are packed.

use std::fs::File;

use super::{Sent, error::OutgoingError, source::OutgoingImage};
use crate::{
    digest::BlobDigest,
    error::Explained,
    image::{Keyring, Registries},
    media_type::{Compression, Format, OCI_MANIFEST},
    reference::{Reference, Repository},
    snapshots::{Blob, Progress, Target, TargetError},
    workspaces::WorkspaceError,
};

impl OutgoingImage<'_> {
    /// Pushes the image under a tag. A repeated push sends what the registry lacks. Packs on this thread. `report` gets what
    /// is being done.
    ///
    /// # Errors
    /// The registry does not respond or refuses the image, the disk is full, or a layer cannot be read.
    pub async fn push(
        &self,
        to: &Reference,
        (registries, keyring): (&Registries, &Keyring),
        compression: Compression,
        report: &mut dyn FnMut(&str),
    ) -> Result<Sent, WorkspaceError> {
        let (Some(tag), None) = (to.tag(), to.digest()) else {
            let why = Explained::because(
                "an image is pushed under a tag, and its digest follows from its content",
            );
            let why = why.fix("write registry/repository:tag");
            return Err(OutgoingError::Source { text: to.to_string(), why }.into());
        };
        let (repository, progress) = (Repository::of(to), Progress::default());
        let target = Target {
            store: &self.all.store,
            registries,
            to: &repository,
            keyring,
            format: Format::Portable,
            namespace: None,
            progress: &progress,
        };
        // Fails early if the registry does not respond, or refuses the credentials: nothing is packed then.
        target.has(&BlobDigest::of(b"")).await.map_err(failed)?;
        let (mut layers, mut bytes) = (Vec::new(), 0);
        for number in 0..self.layers() {
            report(&format!("layer {} of {}", number + 1, self.layers()));
            let (layer, sent) = self.push_layer(number, &target, compression).await?;
            layers.push(layer);
            bytes += sent;
        }
        let config = self.config(&layers);
        bytes += target.small(&config).await.map_err(failed)?;
        let manifest = self.manifest(&config, &layers);
        bytes += manifest.len() as u64;
        let pushed = registries.push_manifest(&repository, tag, OCI_MANIFEST, &manifest, keyring);
        Ok(Sent {
            digest: pushed.await.map_err(|error| failed(error.into()))?,
            layers: layers.len(),
            new_diff_ids: self.new_diff_ids(&layers)?,
            bytes,
        })
    }

    /// Pushes one layer. Returns its blob, and the bytes that were sent.
    async fn push_layer(
        &self,
        number: usize,
        target: &Target<'_>,
        compression: Compression,
    ) -> Result<(Blob, u64), WorkspaceError> {
        let key = self.key(number);
        if let Some(key) = key
            && let Some(found) = target.layer(key).await.map_err(failed)?
        {
            return Ok(found);
        }
        let store = &self.all.store;
        let packed_bytes = key.map_or(Ok(0), |key| store.layers.bytes(key))?;
        let _reservation = store.disk.reserve(packed_bytes)?;
        let file: File = store.staging.unnamed_file()?;
        let cannot_write = OutgoingError::packing(store.root());
        let packed = self.pack(number, compression, &mut &file, cannot_write)?;
        let blob = Blob::packed(&packed, Format::Portable);
        let sent = target.packed(key, &blob, &file).await.map_err(failed)?;
        Ok((blob, sent))
    }
}

fn failed(error: TargetError) -> WorkspaceError {
    match error {
        TargetError::NoSpace(error) => error.into(),
        TargetError::Disk(error) => error.into(),
        error => OutgoingError::Push(Box::new(error)).into(),
    }
}
