//! Room on the disk: promised before a byte is written, so that what is written at once does not fill it, and never its last part.
//!
//! ```text
//! |  used  |  promised, not yet written  |  free for whoever asks  |  kept free: DiskLimits::min_free  |
//! ```
//!
//! What is written comes out of what was promised; who writes more than he asked for is promised more, in steps, until only the
//! part that is kept free is left, and a little for those who want little: what swells to fill a disk does not keep small layers of
//! others from it. Before anybody hears that there is no room, what nobody needs goes. Deliberately absent:
//! waiting for room, which may never come.

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{AddError, Store};
use crate::{
    digest::Digest,
    error::Class,
    spill::Scratch,
    sys::statfs::{self, Space},
};

/// How much room is promised at a time, for what needs more than was thought.
const STEP: u64 = 64 << 20;

/// Who has no more than this wants little.
const LITTLE: u64 = 4 << 20;

/// What the store leaves to others, in percent of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// Is always left free.
    pub min_free: u8,
    /// The most that captures may take: the layers of this node's snapshots.
    pub captures: u8,
    /// The most that those of one namespace may take.
    pub captures_each: u8,
}

/// A store that shares its disk with nobody: it may fill it.
impl Default for DiskLimits {
    fn default() -> Self {
        Self { min_free: 0, captures: 100, captures_each: 100 }
    }
}

/// Why no room is promised.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// There is none.
    #[error(
        "{dir} has no room for it: it takes at least {wanted} bytes more, and {free} are free, {promised} of them \
         promised already and {kept} to stay free; make room on that disk, or lower --disk-high-percent or --disk-min-free-percent",
        dir = dir.display()
    )]
    Full {
        /// The store.
        dir: PathBuf,
        /// Bytes that are asked for.
        wanted: u64,
        /// Bytes free.
        free: u64,
        /// Of these, bytes that others are going to write.
        promised: u64,
        /// Of these, bytes that stay free.
        kept: u64,
    },
    /// Captures have their part.
    #[error(
        "the snapshots of {whose} on this node would take {wanted} bytes, and may take {most}: delete some, or raise {setting}"
    )]
    Captures {
        /// Whose.
        whose: String,
        /// Bytes with those that are asked for.
        wanted: u64,
        /// Bytes that they may take.
        most: u64,
        /// The argument that says so.
        setting: &'static str,
    },
    /// The disk does not say how full it is.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl ReserveError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Full { .. } | Self::Captures { .. } => Class::Exhausted,
            Self::Disk(source) => Class::of_disk(source),
        }
    }

    /// The same as a failure to write, of kind [`io::ErrorKind::StorageFull`] where there is no room; see [`Self::within`].
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Disk(source) => source,
            error => io::Error::new(io::ErrorKind::StorageFull, error),
        }
    }

    /// What [`Self::into_io`] has put into a failure.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// The store's disk as the store sees it.
pub(super) struct Disk {
    query: Box<Query>,
    make_room: OnceLock<Box<FreeSpace>>,
    pub(super) limits: DiskLimits,
    promised: Mutex<Reserved>,
}

type Query = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;
type FreeSpace = dyn Fn(u64) + Send + Sync;

/// Bytes that were promised.
#[derive(Debug, Default)]
struct Reserved {
    /// And not yet written.
    open: u64,
    /// To captures that go on, written or not, by namespace.
    captures: HashMap<String, u64>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            query: Box::new(statfs::of),
            make_room: OnceLock::new(),
            limits: DiskLimits::default(),
            promised: Mutex::default(),
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Disk {
    fn promised<T>(&self, f: impl FnOnce(&mut Reserved) -> T) -> T {
        // Numbers are whole after any panic.
        f(&mut self.promised.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Room for what somebody writes, kept from others until it is written or this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    store: Arc<Store>,
    /// Whose capture is written, if one is.
    namespace: Option<String>,
    promise: Mutex<Promise>,
}

#[derive(Debug)]
struct Promise {
    /// Bytes that may still be written.
    open: u64,
    /// Bytes that a capture may still share with its volume.
    shared: u64,
    /// All bytes that were promised.
    all: u64,
}

impl Reservation {
    /// Bytes that were promised so far, written or not.
    pub fn bytes(&self) -> u64 {
        self.promise().all
    }

    /// Where collections that outgrow memory go on while this is written; see [`Store::spills`].
    pub(super) fn spills(&self) -> Scratch {
        self.store.spills()
    }

    /// `bytes` are going to be written now. Where they are more than was promised, more is promised first. Blocks, and may take as
    /// long as a round of collection.
    ///
    /// # Errors
    /// No room: nothing was written yet of these bytes, and nothing should be.
    pub fn write(&self, bytes: u64) -> Result<(), ReserveError> {
        let mut promise = self.promise();
        if promise.open < bytes {
            let more = bytes - promise.open;
            let namespace = self.namespace.as_deref();
            // A step, where it is there for the asking; else no more than there is need.
            let step = more.max(STEP);
            let (before, capture) = (promise.all, namespace.map(|namespace| (namespace, step)));
            let got = match self.store.promise(step, before, capture) {
                Ok(()) => step,
                Err(_) => self.store.promise_or_collect(more, before, namespace).map(|()| more)?,
            };
            promise.open += got;
            promise.all += got;
        }
        promise.open -= bytes;
        self.store.disk.promised(|all| all.open -= bytes);
        Ok(())
    }

    /// `bytes` of a capture are shared with its volume: they take no room, and count as the namespace's.
    ///
    /// # Errors
    /// The namespace, or all, would have more than their part.
    pub fn share(&self, bytes: u64) -> Result<(), ReserveError> {
        let mut promise = self.promise();
        let Some(namespace) = self.namespace.as_deref() else { return Ok(()) };
        if promise.shared < bytes {
            let more = bytes - promise.shared;
            let step = more.max(STEP);
            let got = match self.store.promise(0, 0, Some((namespace, step))) {
                Ok(()) => step,
                Err(_) => self.store.promise(0, 0, Some((namespace, more))).map(|()| more)?,
            };
            promise.shared += got;
            promise.all += got;
        }
        promise.shared -= bytes;
        Ok(())
    }

    /// What was written and shared until now takes `bytes` and no more, because the rest was replaced and is gone.
    pub fn settle(&self, bytes: u64) {
        let mut promise = self.promise();
        let kept = promise.open.saturating_add(promise.shared).saturating_add(bytes);
        let gone = promise.all.saturating_sub(kept);
        promise.all -= gone;
        let Some(namespace) = &self.namespace else { return };
        self.store.disk.promised(|promised| {
            if let Some(all) = promised.captures.get_mut(namespace) {
                *all -= gone;
            }
        });
    }

    fn promise(&self) -> std::sync::MutexGuard<'_, Promise> {
        self.promise.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Promise { open, all, .. } = *self.promise();
        self.store.disk.promised(|promised| {
            promised.open -= open;
            let Some(namespace) = &self.namespace else { return };
            if let Some(bytes) = promised.captures.get_mut(namespace) {
                *bytes -= all;
            }
            promised.captures.retain(|_, bytes| *bytes > 0);
        });
    }
}

impl Store {
    /// Promises room for a layer of at least `bytes`; what nobody needs goes first. Blocks, also for a round of collection.
    pub fn reserve(
        self: &Arc<Self>,
        diff_id: &Digest,
        bytes: u64,
    ) -> Result<Reservation, AddError> {
        let failed = |source| AddError::NoSpace { diff_id: *diff_id, source };
        self.reservation(bytes, None).map_err(failed)
    }

    /// Promises room for a capture of about `bytes` on behalf of `namespace`, within what captures may take of the disk. The room
    /// is held until the snapshot's record says how large it became. Blocks, also for a round of collection.
    pub fn reserve_capture(
        self: &Arc<Self>,
        namespace: &str,
        bytes: u64,
    ) -> Result<Reservation, ReserveError> {
        self.reservation(bytes, Some(namespace))
    }

    fn reservation(
        self: &Arc<Self>,
        bytes: u64,
        namespace: Option<&str>,
    ) -> Result<Reservation, ReserveError> {
        self.promise_or_collect(bytes, 0, namespace)?;
        let promise = Mutex::new(Promise { open: bytes, shared: 0, all: bytes });
        Ok(Reservation { store: self.clone(), namespace: namespace.map(str::to_owned), promise })
    }

    /// Where collections that outgrow memory go on: files on the store's disk, for which room is promised as they grow.
    pub fn spills(self: &Arc<Self>) -> Scratch {
        let promise = Mutex::new(Promise { open: 0, shared: 0, all: 0 });
        let room = Reservation { store: self.clone(), namespace: None, promise };
        let grow = move |bytes| room.write(bytes).map_err(ReserveError::into_io);
        Scratch::new(self.root.join("staging")).with_limit(grow)
    }

    /// What makes room when there is none: it is told how many bytes should be free. Set once; it does not keep the store.
    pub fn when_full(&self, make_room: impl Fn(u64) + Send + Sync + 'static) {
        // A second one would have been told by the first.
        drop(self.disk.make_room.set(Box::new(make_room)));
    }

    fn promise_or_collect(
        &self,
        bytes: u64,
        before: u64,
        namespace: Option<&str>,
    ) -> Result<(), ReserveError> {
        let capture = namespace.map(|namespace| (namespace, bytes));
        match (self.promise(bytes, before, capture), self.disk.make_room.get()) {
            (Err(error @ ReserveError::Full { promised, kept, .. }), Some(make_room)) => {
                tracing::warn!(%error, "making room");
                make_room(bytes.saturating_add(promised).saturating_add(kept));
                self.promise(bytes, before, capture)
            }
            (promised, _) => promised,
        }
    }

    /// Promises `bytes` of what is free now to who was promised so many `before`; and so many of what a namespace's captures may
    /// take.
    fn promise(
        &self,
        bytes: u64,
        before: u64,
        capture: Option<(&str, u64)>,
    ) -> Result<(), ReserveError> {
        let held = capture.map(|(namespace, _)| self.captured(namespace));
        self.disk.promised(|promised| {
            let space = self.space()?;
            let part = |percent: u8| space.total / 100 * u64::from(percent);
            let limits = self.disk.limits;
            if let (Some((namespace, bytes)), Some(held)) = (capture, held) {
                let own = promised.captures.get(namespace).copied().unwrap_or_default();
                let all: u64 = promised.captures.values().sum();
                let of = |whose: String, wanted, percent, setting| {
                    let most = part(percent);
                    let error = ReserveError::Captures { whose, wanted, most, setting };
                    if wanted > most { Err(error) } else { Ok(()) }
                };
                let each = "--snapshots-namespace-disk-percent";
                let whose = format!("namespace {namespace}");
                of(whose, held.own + own + bytes, limits.captures_each, each)?;
                let whose = "all namespaces".to_owned();
                of(whose, held.all + all + bytes, limits.captures, "--snapshots-disk-percent")?;
            }
            let kept = part(limits.min_free);
            let kept = if before + bytes > LITTLE { kept / 4 * 5 } else { kept };
            let (free, open) = (space.available, promised.open);
            if free.saturating_sub(open).saturating_sub(kept) < bytes {
                let dir = self.root.clone();
                return Err(ReserveError::Full { dir, wanted: bytes, free, promised: open, kept });
            }
            promised.open += bytes;
            if let Some((namespace, bytes)) = capture {
                *promised.captures.entry(namespace.to_owned()).or_default() += bytes;
            }
            Ok(())
        })
    }

    /// The room of the store's file system.
    pub(super) fn space(&self) -> io::Result<Space> {
        (self.disk.query)(&self.root)
    }

    /// The same store, which leaves so much of its disk to others.
    #[must_use]
    pub fn leaving(mut self, limits: DiskLimits) -> Self {
        self.disk.limits = limits;
        self
    }

    /// Makes the store believe in another disk.
    #[cfg(test)]
    pub(crate) fn set_disk(
        &mut self,
        disk: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static,
    ) {
        self.disk.query = Box::new(disk);
    }
}

#[cfg(test)]
#[path = "reservation_tests.rs"]
mod tests;
