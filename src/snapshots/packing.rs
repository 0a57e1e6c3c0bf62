//! Layers of this node as tars, one at a time.

use std::{
    fs::File,
    io::{self, ErrorKind, Seek as _, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Inner, Snapshots, blocking};
use crate::{
    changeset::{self, Compression, Format, PackError, Packed, Packing},
    digest::Digest,
    fault::Class,
    layers::{AddError, LowerError, Room},
    volumes::{Owner, ViewError},
};

/// Packs one layer at a time on this node: each takes all cores, and memory for them.
#[derive(Debug)]
pub(super) struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// What is packed: the topmost layers of a stack, as one.
#[derive(Debug, Clone)]
pub(super) struct Job {
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
    Room(AddError),
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
            Self::Room(source) => source.class(),
            Self::Pack(source) => source.class(),
            Self::Disk(source) => Class::of_disk(source),
        }
    }
}

impl Snapshots {
    /// Packs layers into a file that goes when it is closed. Dropped before that, it stops soon. The caller has a lease of them.
    pub(super) async fn pack(&self, job: Job) -> Result<(File, Packed), PackingError> {
        // Never closed.
        let turn = self.0.packing.0.clone().acquire_owned().await.ok();
        let packed = job.stack.len() - job.own;
        let room = self.room(&job.stack[packed..]).await?;
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

    /// Room for what these layers take now, of which a portable layer may need more; where there is none, what is not needed goes first.
    async fn room(&self, layers: &[Digest]) -> Result<Room, PackingError> {
        let (store, layers) = (self.0.store.clone(), layers.to_vec());
        let (first, bytes) = blocking(move || {
            let bytes =
                layers.iter().map(|layer| store.bytes_of(layer)).sum::<io::Result<u64>>()?;
            Ok::<_, io::Error>((layers.last().copied(), bytes))
        })
        .await?;
        self.reserve(first.unwrap_or_else(|| Digest::of(b"")), bytes)
            .await
            .map_err(PackingError::Room)
    }

    /// Promises room for `bytes` of the layer `key`; where there is none, what is not needed goes first.
    pub(super) async fn reserve(&self, key: Digest, bytes: u64) -> Result<Room, AddError> {
        let inner = self.0.clone();
        blocking(move || reserve(&inner, &key, bytes)).await
    }
}

fn reserve(inner: &Inner, key: &Digest, bytes: u64) -> Result<Room, AddError> {
    match inner.store.reserve(key, bytes) {
        Err(error @ AddError::Full { promised, .. }) => {
            tracing::warn!(%error, "making room");
            // It has said itself what went wrong, and the next line finds out.
            let _ = inner.volumes.make_room(bytes.saturating_add(promised));
            inner.store.reserve(key, bytes)
        }
        reserved => reserved,
    }
}

fn pack(
    inner: &Inner,
    job: &Job,
    room: Room,
    stop: CancellationToken,
) -> Result<(File, Packed), PackingError> {
    let Job { stack, own, owner, format, compression, written } = job;
    let file = inner.store.scratch()?;
    let trees = &stack[stack.len() - own..];
    let trees = trees.iter().map(|key| inner.store.lower(key).map(|lower| lower.tree));
    let trees = trees.collect::<Result<Vec<_>, _>>()?;
    let trees: Vec<_> = trees.iter().map(AsRef::as_ref).collect();
    let shown = owner.map(|(uid, gid)| Owner { uid, gid });
    let merged = inner.volumes.view(stack, shown)?;
    let key = stack.last().copied().unwrap_or_else(|| Digest::of(b""));
    let pack = |compression, room, most| {
        let packing = Packing { format: *format, compression, clamp: None, owner: *owner };
        let mut out = Stoppable::new(&file, inner.store.root(), stop.clone())
            .counting(written)
            .up_to(most)
            .growing(room, |bytes| reserve(inner, &key, bytes));
        changeset::pack(&trees, &merged, &packing, &mut out)
    };
    // A plain tar has the holes of sparse files as bytes.
    let plain = room.bytes().saturating_mul(2).max(STEP);
    let packed = match pack(*compression, room, u64::MAX) {
        // Others would take it for a bomb. As a plain tar it is large, and can be had.
        Err(PackError::Ratio(ratio)) => {
            tracing::info!(layer = %key, ratio, "it shrinks too much, and is packed as a plain tar");
            (&file).rewind()?;
            file.set_len(0)?;
            let room = reserve(inner, &key, 0).map_err(PackingError::Room)?;
            match pack(Compression::None, room, plain) {
                Err(PackError::Output(error)) if error.kind() == ErrorKind::FileTooLarge => {
                    Err(PackError::Ratio(ratio))
                }
                packed => packed,
            }
        }
        packed => packed,
    }?;
    Ok((file, packed))
}

/// How much room is promised at a time, for what needs more than was thought.
const STEP: u64 = 64 << 20;

/// A file on the store's disk that takes nothing more once nobody wants it.
pub(super) struct Stoppable<'a> {
    file: &'a File,
    folder: &'a Path,
    stop: CancellationToken,
    written: u64,
    most: u64,
    count: Option<&'a AtomicU64>,
    growth: Option<Growth<'a>>,
}

/// Room that is promised while a file is written.
struct Growth<'a> {
    room: Option<Room>,
    /// Bytes of the file up to which it is.
    until: u64,
    more: Box<More<'a>>,
}

type More<'a> = dyn Fn(u64) -> Result<Room, AddError> + Send + 'a;

impl<'a> Stoppable<'a> {
    /// Of a file in the store in this folder.
    pub(super) fn new(file: &'a File, folder: &'a Path, stop: CancellationToken) -> Self {
        Self { file, folder, stop, written: 0, most: u64::MAX, count: None, growth: None }
    }

    /// Whoever looks at `count` sees how far it is.
    fn counting(self, count: &'a AtomicU64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// It takes no more than so many bytes ([`ErrorKind::FileTooLarge`]).
    fn up_to(self, most: u64) -> Self {
        Self { most, ..self }
    }

    /// It may get larger than its room, and asks for `more` then, in steps.
    pub(super) fn growing(
        self,
        room: Room,
        more: impl Fn(u64) -> Result<Room, AddError> + Send + 'a,
    ) -> Self {
        let growth = Growth { until: room.bytes(), room: Some(room), more: Box::new(more) };
        Self { growth: Some(growth), ..self }
    }

    /// Sees to room for some more bytes.
    fn grow(&mut self, len: u64) -> io::Result<()> {
        let Some(growth) = &mut self.growth else { return Ok(()) };
        if self.written + len <= growth.until {
            return Ok(());
        }
        // What was written takes its own room.
        growth.room = None;
        let step = len.max(STEP);
        let room = (growth.more)(step).map_err(|error| match error.class() {
            Class::Exhausted => io::Error::new(io::ErrorKind::StorageFull, error),
            _ => io::Error::other(error),
        })?;
        growth.room = Some(room);
        growth.until = self.written + step;
        Ok(())
    }
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("nobody wants it any more"));
        }
        if self.written + bytes.len() as u64 > self.most {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.grow(bytes.len() as u64)?;
        let written = self.file.write(bytes).map_err(|error| {
            let (folder, written) = (self.folder.display(), self.written);
            let what = match Class::of_disk(&error) {
                Class::Exhausted => "; make room on that disk, or lower --disk-high-percent",
                _ => "",
            };
            let words = format!("cannot write to {folder} after {written} bytes: {error}{what}");
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
    fn a_layer_larger_than_thought_asks_for_room_in_steps() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Arc::new(LinuxMounts)).map(Arc::new).unwrap();
        let file = store.scratch().unwrap();
        let (key, asked) = (Digest::of(b"layer"), AtomicU64::new(0));
        let room = store.reserve(&key, 10).unwrap();
        let more = |bytes| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => store.reserve(&key, bytes),
            _ => store.reserve(&key, u64::MAX),
        };
        let mut out =
            Stoppable::new(&file, store.root(), CancellationToken::new()).growing(room, more);
        let asks = |written: io::Result<()>| {
            written.unwrap();
            asked.load(Ordering::Relaxed)
        };
        assert_eq!(asks(out.write_all(&[1; 10])), 0);
        assert_eq!(asks(out.write_all(&[1; 1 << 20])), 1);
        let rest = vec![1; STEP as usize - (1 << 20)];
        assert_eq!(asks(out.write_all(&rest)), 1);
        let error = out.write_all(&[1]).unwrap_err();
        assert_eq!(Class::of_disk(&error), Class::Exhausted, "{error}");
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
        assert_eq!(file.metadata().unwrap().len(), 10 + STEP);
        drop(out);
        // Nothing stays promised, and the file goes with its descriptor.
        drop(store.reserve(&key, 10).unwrap());
    }
}
