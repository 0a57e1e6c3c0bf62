//! Layers of this node as tars, one at a time.

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
    changeset::{self, Compression, Format, Limits, PackError, Packed, Packing},
    digest::Digest,
    error::Class,
    layers::{AddError, LowerError, Reservation, ReserveError},
    volumes::{Owner, ViewError},
};

/// What is packed: the topmost layers of a stack, as one.
#[derive(Debug, Clone)]
pub(super) struct PackJob {
    /// For which namespace.
    pub(super) namespace: String,
    /// Keys, bottom first, up to the topmost layer that is packed.
    pub(super) stack: Vec<Digest>,
    /// How many of them, at the top, are packed.
    pub(super) own: usize,
    /// Whom root's files appear to belong to, if these layers are of a volume with an owner.
    pub(super) owner: Option<(u32, u32)>,
    /// How.
    pub(super) format: Format,
    /// How.
    pub(super) compression: Compression,
    /// Counts the bytes that are packed.
    pub(super) written: Arc<AtomicU64>,
}

/// Why layers could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackingError {
    /// One of them cannot be opened.
    #[error("{0}")]
    Lower(#[from] LowerError),
    /// They cannot be looked at together.
    #[error("{0}")]
    View(#[from] ViewError),
    /// There is no room for the packed layer.
    #[error("{0}")]
    NoSpace(AddError),
    /// Reading or writing failed.
    #[error("{0}")]
    Pack(#[from] PackError),
    /// The store's disk said no.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl PackingError {
    /// What it means to whoever asked.
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
    /// Packs layers into a file that goes when it is closed. Dropped before that, it stops soon. The caller has a lease of them.
    pub(super) async fn pack(&self, job: PackJob) -> Result<(File, Packed), PackingError> {
        let turn = self.0.packing.acquire(&job.namespace).await;
        let packed = job.stack.len() - job.own;
        let room = self.reserve_space(&job.stack[packed..]).await?;
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let inner = self.0.clone();
        blocking(move || {
            let packed = pack(&inner, &job, room, stop);
            drop(turn);
            packed
        })
        .await
    }

    /// Room for what these layers take now, of which a portable layer may need more.
    async fn reserve_space(&self, layers: &[Digest]) -> Result<Reservation, PackingError> {
        let (store, layers) = (self.0.store.clone(), layers.to_vec());
        let (first, bytes) = blocking(move || {
            let bytes =
                layers.iter().map(|layer| store.bytes_of(layer)).sum::<io::Result<u64>>()?;
            Ok::<_, io::Error>((layers.last().copied(), bytes))
        })
        .await?;
        self.reserve(first.unwrap_or_else(|| Digest::of(b"")), bytes)
            .await
            .map_err(PackingError::NoSpace)
    }

    /// Promises room for `bytes` of the layer `key`.
    pub(super) async fn reserve(&self, key: Digest, bytes: u64) -> Result<Reservation, AddError> {
        let store = self.0.store.clone();
        blocking(move || store.reserve(&key, bytes)).await
    }
}

fn pack(
    inner: &Inner,
    job: &PackJob,
    room: Reservation,
    stop: CancellationToken,
) -> Result<(File, Packed), PackingError> {
    let PackJob { stack, own, owner, format, compression, written, .. } = job;
    let file = inner.store.scratch()?;
    let trees = &stack[stack.len() - own..];
    let trees = trees.iter().map(|key| inner.store.lower(key).map(|lower| lower.tree));
    let trees = trees.collect::<Result<Vec<_>, _>>()?;
    let trees: Vec<_> = trees.iter().map(AsRef::as_ref).collect();
    let shown = owner.map(|(uid, gid)| Owner { uid, gid });
    let merged = inner.volumes.view(stack, shown)?;
    let (budget, scratch) = (inner.store.budget().clone(), inner.store.spills());
    let limits = Limits { budget, scratch, ..Limits::default() };
    let packing =
        Packing { format: *format, compression: *compression, clamp: None, owner: *owner };
    let mut out =
        CancellableWriter::new(&file, inner.store.root(), stop).counting(written).within(&room);
    let packed = changeset::pack(&trees, &merged, &packing, &limits, &mut out)?;
    Ok((file, packed))
}

/// A file on the store's disk that takes nothing more once nobody wants it.
pub(super) struct CancellableWriter<'a> {
    file: &'a File,
    dir: &'a Path,
    stop: CancellationToken,
    written: u64,
    count: Option<&'a AtomicU64>,
    room: Option<&'a Reservation>,
}

impl<'a> CancellableWriter<'a> {
    /// Of a file in the store in this directory.
    pub(super) fn new(file: &'a File, dir: &'a Path, stop: CancellationToken) -> Self {
        Self { file, dir, stop, written: 0, count: None, room: None }
    }

    /// Whoever looks at `count` sees how far it is.
    pub(super) fn counting(self, count: &'a AtomicU64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// It is written within this room.
    pub(super) fn within(self, room: &'a Reservation) -> Self {
        Self { room: Some(room), ..self }
    }
}

impl Write for CancellableWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("nobody wants it any more"));
        }
        if let Some(room) = self.room {
            room.write(bytes.len() as u64).map_err(ReserveError::into_io)?;
        }
        let written = self.file.write(bytes).map_err(|error| {
            let (dir, written) = (self.dir.display(), self.written);
            let what = match Class::of_disk(&error) {
                Class::Exhausted => "; make room on that disk, or lower --disk-high-percent",
                _ => "",
            };
            let words = format!("cannot write to {dir} after {written} bytes: {error}{what}");
            io::Error::new(error.kind(), words)
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
    fn a_layer_larger_than_thought_is_promised_more_and_leaves_nothing_promised() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Arc::new(LinuxMounts)).map(Arc::new).unwrap();
        let (file, key) = (store.scratch().unwrap(), Digest::of(b"layer"));
        let room = store.reserve(&key, 10).unwrap();
        let mut out =
            CancellableWriter::new(&file, store.root(), CancellationToken::new()).within(&room);
        out.write_all(&[1; 10]).unwrap();
        assert_eq!(room.bytes(), 10);
        out.write_all(&[1; 10]).unwrap();
        assert!(room.bytes() >= 20);
        assert_eq!(file.metadata().unwrap().len(), 20);
    }
}
