//! Pushes one layer: as the target finds it, or packed.

use std::fs::File;

use super::{Blob, Push, PushError, PushRequest, Target, TargetError};
use crate::{
    layers::LayerKey,
    snapshots::{PackingError, Progress, Snapshots, blocking, packing::PackJob},
};

impl Push<'_> {
    /// Pushes one layer. Returns its blob in the repository.
    pub(super) async fn layer(&mut self, depth: usize) -> Result<Blob, PushError> {
        let key = self.record.stack[depth];
        let found = self.target().layer(&key).await;
        match found.map_err(|error| self.layer_error(&key, error))? {
            Some((blob, sent)) => {
                self.sent += sent;
                Ok(blob)
            }
            None => self.packed(depth).await,
        }
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
        let sent = self.target().packed(Some(&key), &blob, &file).await;
        self.sent += sent.map_err(|error| self.layer_error(&key, error))?;
        Ok(blob)
    }

    fn layer_error(&self, key: &LayerKey, error: TargetError) -> PushError {
        match error {
            TargetError::NoSpace(source) => self.packing_error(key, PackingError::NoSpace(source)),
            error => self.error(error),
        }
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
        let target = Target {
            store: &self.0.store,
            registries: &self.0.registries,
            to: &request.to,
            keyring: &request.keyring,
            format: request.format,
            namespace: Some(namespace),
            progress: &Progress::default(),
        };
        match target.send_layer(blob, content).await {
            Ok(()) => target.record_origin(key, blob).await,
            Err(error) => {
                tracing::info!(snapshot = %request.id, %error, "cannot send the squashed layer; the push sends it")
            }
        }
    }
}
