//! Packs layers of this node as tars, one at a time.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use super::{Inner, Snapshots, blocking};
use crate::{
    changeset::{self, Limits, PackError, PackOptions, Packed},
    error::Class,
    format,
    layers::{FREE_DISK, LayerKey, LowerError, Reservation, ReserveError},
    media_type::{Compression, Format},
    owner::Owner,
    volumes::ViewError,
};

/// A job for the packer: packs the topmost layers of a stack as one layer.
#[derive(Debug, Clone)]
pub(super) struct PackJob {
    /// The namespace of the job. Namespaces take turns.
    pub(super) namespace: String,
    /// Keys of layers, bottom first, up to the topmost layer that is packed.
    pub(super) stack: Vec<LayerKey>,
    /// How many layers, counted from the top, are packed.
    pub(super) own_layers: usize,
    /// The owner that root's files appear to have, if these layers are of a volume with an owner.
    pub(super) owner: Option<Owner>,
    /// The format of the packed layer.
    pub(super) format: Format,
    /// The compression of the packed layer.
    pub(super) compression: Compression,
    /// Counts the packed bytes.
    pub(super) written: Arc<AtomicU64>,
}

/// Why layers could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackingError {
    /// One of them cannot be opened.
    #[error("{0}")]
    Lower(#[from] LowerError),
    /// They cannot be mounted as one view.
    #[error("{0}")]
    View(#[from] ViewError),
    /// No space can be reserved for the packed layer.
    #[error("{0}")]
    NoSpace(ReserveError),
    /// Reading or writing failed.
    #[error("{0}")]
    Pack(#[from] PackError),
    /// An operation on the store's disk failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl PackingError {
    /// The class of the error for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Lower(source) => source.class(),
            Self::View(source) => source.class(),
            Self::NoSpace(source) => source.class(),
            Self::Pack(source) => source.class(),
            Self::Disk(source) => Class::of_disk(source),
        }
    }
}

impl Snapshots {
    /// Packs layers into an unnamed file, which the kernel deletes when it is closed. The work stops soon after this
    /// future is dropped. The caller must have a lease of the layers.
    pub(super) async fn pack(&self, job: PackJob) -> Result<(File, Packed), PackingError> {
        let turn = self.0.packing.acquire(&job.namespace).await;
        let below = job.stack.len() - job.own_layers;
        let reservation = self.reserve_space(&job.stack[below..]).await?;
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let inner = self.0.clone();
        blocking(move || {
            let packed = pack(&inner, &job, reservation, stop);
            drop(turn);
            packed
        })
        .await
    }

    /// Reserves as many bytes as these layers use now. A portable layer may need more; the reservation grows then.
    async fn reserve_space(&self, layers: &[LayerKey]) -> Result<Reservation, PackingError> {
        let (store, layers) = (self.0.store.clone(), layers.to_vec());
        blocking(move || {
            let sizes = layers.iter().map(|layer| store.layers.bytes(layer));
            let bytes = sizes.sum::<io::Result<u64>>()?;
            store.disk.reserve(bytes).map_err(PackingError::NoSpace)
        })
        .await
    }

    /// Reserves `bytes` on the store's disk.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<Reservation, ReserveError> {
        let store = self.0.store.clone();
        blocking(move || store.disk.reserve(bytes)).await
    }
}

fn pack(
    inner: &Inner,
    job: &PackJob,
    reservation: Reservation,
    stop: CancellationToken,
) -> Result<(File, Packed), PackingError> {
    let PackJob { stack, own_layers: own, owner, format, compression, written, .. } = job;
    let file = inner.store.staging.unnamed_file()?;
    let trees = &stack[stack.len() - own..];
    let lowers = trees.iter().map(|key| inner.store.layers.lower(key));
    let lowers = lowers.collect::<Result<Vec<_>, _>>()?;
    let trees: Vec<_> = lowers.iter().map(|lower| lower.tree.as_ref()).collect();
    let merged = inner.volumes.view(stack, *owner)?;
    let (budget, scratch) = (inner.store.budget.clone(), inner.store.disk.scratch());
    let limits = Limits { budget, scratch, ..Limits::default() };
    let packing = PackOptions {
        format: *format,
        compression: *compression,
        clamp: None,
        owner: *owner,
        hides_below: lowers.iter().any(|lower| lower.opaque_root),
    };
    let mut out = CancellableWriter::new(&file, inner.store.root(), stop)
        .counting(written)
        .within(&reservation);
    let packed = changeset::pack(&trees, &merged, &packing, &limits, &mut out)?;
    Ok((file, packed))
}

/// A writer into a file on the store's disk. Once it is cancelled, each write fails.
pub(super) struct CancellableWriter<'a> {
    file: &'a File,
    dir: &'a Path,
    stop: CancellationToken,
    written: u64,
    count: Option<&'a AtomicU64>,
    reservation: Option<&'a Reservation>,
}

impl<'a> CancellableWriter<'a> {
    /// A writer into `file`, which is in the store in the directory `dir`.
    pub(super) fn new(file: &'a File, dir: &'a Path, stop: CancellationToken) -> Self {
        Self { file, dir, stop, written: 0, count: None, reservation: None }
    }

    /// Keeps the number of written bytes in `count`.
    pub(super) fn counting(self, count: &'a AtomicU64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// Takes the space of all writes from `reservation`.
    pub(super) fn within(self, reservation: &'a Reservation) -> Self {
        Self { reservation: Some(reservation), ..self }
    }
}

impl Write for CancellableWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the operation was cancelled"));
        }
        if let Some(reservation) = self.reservation {
            reservation.write(bytes.len() as u64).map_err(ReserveError::into_io)?;
        }
        let written = self.file.write(bytes).map_err(|error| {
            let (dir, written) = (self.dir.display(), self.written);
            let fix = match Class::of_disk(&error) {
                Class::Exhausted => format!("; {FREE_DISK}"),
                _ => String::new(),
            };
            let written = format::bytes(written);
            let message = format!("cannot write to {dir} after {written}: {error}{fix}");
            io::Error::new(error.kind(), message)
        })?;
        self.written += written as u64;
        if let Some(count) = self.count {
            count.store(self.written, Ordering::Relaxed);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layers::Store, sys::mounts::LinuxMounts};

    #[test]
    fn a_reservation_grows_with_a_layer_that_is_larger_than_estimated() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Arc::new(LinuxMounts)).map(Arc::new).unwrap();
        let file = store.staging.unnamed_file().unwrap();
        let reservation = store.disk.reserve(10).unwrap();
        let stop = CancellationToken::new();
        let mut out = CancellableWriter::new(&file, store.root(), stop).within(&reservation);
        out.write_all(&[1; 10]).unwrap();
        assert_eq!(reservation.bytes(), 10);
        out.write_all(&[1; 10]).unwrap();
        assert!(reservation.bytes() >= 20);
        assert_eq!(file.metadata().unwrap().len(), 20);
    }
}
