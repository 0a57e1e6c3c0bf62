//! Squashes the own layers of a snapshot into one layer.
//!
//! The snapshot shows the same files before and after its record names the new layer. A volume that starts from the
//! snapshot during the squash uses either the old layers or the new one. The old layers are collected when nothing else
//! needs them.

use std::{
    fs::File,
    io::{Seek as _, SeekFrom},
    sync::Arc,
};

use super::{
    PackingError, PushError, PushRequest, SnapshotId, Snapshots, blocking, packing::PackJob,
    push::Blob,
};
use crate::{
    changeset::Packed,
    error::Class,
    layers::{AddError, LayerKey, NewLayer, Origin},
    media_type::{Compression, Format},
};

/// Why a snapshot was not squashed. The snapshot is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum SquashError {
    /// Its record cannot be read or changed, or its layers are missing.
    #[error("{0}")]
    Snapshot(#[from] PushError),
    /// Its layers could not be packed.
    #[error("cannot squash snapshot {id}: {source}")]
    Packing {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The cause.
        source: PackingError,
    },
    /// The new layer could not be added to the store.
    #[error("cannot squash snapshot {id}: {source}")]
    Add {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The cause.
        source: AddError,
    },
}

impl SquashError {
    /// The class of the error for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Snapshot(source) => source.class(),
            Self::Packing { source, .. } => source.class(),
            Self::Add { source, .. } => source.class(),
        }
    }
}

impl Snapshots {
    /// Squashes all layers that a snapshot has above its images into one. With `push`, the packed layer is also sent to
    /// the repository to which the snapshot will be pushed. An error of that upload is only logged.
    pub async fn squash(
        &self,
        id: &SnapshotId,
        push: Option<&PushRequest>,
    ) -> Result<(), SquashError> {
        let (record, _lease) = self.leased_record(id).await?;
        if record.own_layers < 2 {
            return Ok(());
        }
        let below = record.stack.len().saturating_sub(record.own_layers);
        let compression = push.map_or(Compression::Zstd, |push| push.compression);
        let job = PackJob {
            namespace: record.source.namespace.clone(),
            stack: record.stack.clone(),
            own_layers: record.own_layers,
            owner: record.owner,
            // The same form as a layer of an image: with the owners mapped back, and readable by other tools.
            format: Format::Portable,
            compression,
            written: Arc::default(),
        };
        let packed = self.pack(job).await;
        let (file, packed) = packed.map_err(|source| failed(id, source))?;
        let layer = LayerKey::alone(&packed.diff_id, Format::Portable);
        let _lease_of_new = {
            let store = self.0.store.clone();
            blocking(move || store.leases.take(&[layer])).await
        }
        .map_err(|source| PushError::Disk { id: id.clone(), source })?;
        let file = self.add_to_store(id, file, &packed).await?;
        if let Some(push) = push {
            let blob = Blob::packed(&packed, Format::Portable);
            self.push_squashed(push, &record.source.namespace, &layer, &blob, &file).await;
        }
        let old = record.stack;
        let squashed: Vec<_> = old[..below].iter().copied().chain([layer]).collect();
        let (own, layers) = (record.own_layers, squashed.len());
        self.change(self.lock(id)?, move |now| {
            let is_same = now.stack == old;
            (now.stack, now.own_layers) = (squashed, 1);
            is_same
        })
        .await?;
        tracing::info!(snapshot = %id, own, layers, "squashed");
        Ok(())
    }

    /// Adds the packed layer to the store. Returns its file.
    async fn add_to_store(
        &self,
        id: &SnapshotId,
        file: File,
        packed: &Packed,
    ) -> Result<File, SquashError> {
        let add = |source| SquashError::Add { id: id.clone(), source };
        let diff_id = packed.diff_id;
        let reserved = self.reserve(packed.size).await;
        let reservation = reserved.map_err(|source| add(AddError::NoSpace { diff_id, source }))?;
        let new = NewLayer {
            diff_id,
            format: Format::Portable,
            // The layer was made here: no registry has it yet.
            origin: Origin {
                registry: String::new(),
                repository: String::new(),
                blob: packed.digest,
                public: false,
                packed: None,
                namespace: None,
            },
        };
        let store = self.0.store.clone();
        blocking(move || {
            let rewound = (&file).seek(SeekFrom::Start(0));
            rewound.map_err(|source| AddError::Disk { diff_id, source })?;
            store.layers.add(&new, reservation, &file)?;
            Ok(file)
        })
        .await
        .map_err(add)
    }
}

fn failed(id: &SnapshotId, source: PackingError) -> SquashError {
    SquashError::Packing { id: id.clone(), source }
}
