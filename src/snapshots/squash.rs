//! A snapshot with many layers of its own gets one instead of them.
//!
//! Until its record names the new layer, and after that, the snapshot shows the same; whoever restores it meanwhile has the old
//! layers or the new one. The old ones go when nothing else needs them.

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
    changeset::{Compression, Format, Packed},
    error::Class,
    layers::{AddError, NewLayer, Origin},
};

/// Why a snapshot was not squashed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SquashError {
    /// Its record or its layers.
    #[error("{0}")]
    Snapshot(#[from] PushError),
    /// Its layers could not be packed.
    #[error("snapshot {id} is not squashed: {source}")]
    Packing {
        /// Which snapshot.
        id: SnapshotId,
        /// Why.
        source: PackingError,
    },
    /// The new layer could not be kept.
    #[error("snapshot {id} is not squashed: {source}")]
    Add {
        /// Which snapshot.
        id: SnapshotId,
        /// Why.
        source: AddError,
    },
}

impl SquashError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Snapshot(source) => source.class(),
            Self::Packing { source, .. } => source.class(),
            Self::Add { source, .. } => source.class(),
        }
    }
}

impl Snapshots {
    /// Makes one layer of all that a snapshot has above its images. With `push`, the layer is brought where the snapshot is
    /// going to be pushed while it is at hand; that this fails does not matter here.
    pub async fn squash(
        &self,
        id: &SnapshotId,
        push: Option<&PushRequest>,
    ) -> Result<(), SquashError> {
        let (record, _lease) = self.kept(id).await?;
        if record.own < 2 {
            return Ok(());
        }
        let below = record.stack.len().saturating_sub(record.own);
        let compression = push.map_or(Compression::Zstd, |push| push.compression);
        let job = PackJob {
            namespace: record.source.namespace.clone(),
            stack: record.stack.clone(),
            own: record.own,
            owner: record.owner,
            // As an image's layer, so that it is one: with owners turned back, and to be read by anybody.
            format: Format::Portable,
            compression,
            written: Arc::default(),
        };
        let packed = self.pack(job).await;
        let (file, packed) = packed.map_err(|source| failed(id, source))?;
        let layer = packed.diff_id;
        let _new = {
            let store = self.0.store.clone();
            blocking(move || store.hold(&[layer])).await
        };
        let file = self.keep(id, file, &packed).await?;
        if let Some(push) = push {
            let blob = Blob::packed(&packed, Format::Portable);
            self.bring(push, &record.source.namespace, &layer, &blob, &file).await;
        }
        let old = record.stack;
        let squashed: Vec<_> = old[..below].iter().copied().chain([layer]).collect();
        let (own, layers) = (record.own, squashed.len());
        self.change(self.turn(id)?, move |now| {
            let same = now.stack == old;
            (now.stack, now.own) = (squashed, 1);
            same
        })
        .await?;
        tracing::info!(snapshot = %id, own, layers, "squashed");
        Ok(())
    }

    /// Adds the packed layer to the store; gives its file back.
    async fn keep(
        &self,
        id: &SnapshotId,
        file: File,
        packed: &Packed,
    ) -> Result<File, SquashError> {
        let add = |source| SquashError::Add { id: id.clone(), source };
        let room = self.reserve(packed.diff_id, packed.size).await.map_err(add)?;
        let new = NewLayer {
            diff_id: packed.diff_id,
            format: Format::Portable,
            // Made here: no registry is known to give it to anybody.
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
            rewound.map_err(|source| AddError::Disk { diff_id: new.diff_id, source })?;
            store.add(&new, room, &file)?;
            Ok(file)
        })
        .await
        .map_err(add)
    }
}

fn failed(id: &SnapshotId, source: PackingError) -> SquashError {
    SquashError::Packing { id: id.clone(), source }
}
