//! Reservations of disk space: space is reserved before a byte is written, so that concurrent writers do not fill the
//! disk.
//!
//! ```text
//! |  used  |  reserved, not yet written  |  free for new reservations  |  kept free: DiskLimits::min_free  |
//! ```
//!
//! Written bytes are taken from the writer's reservation. A reservation grows in steps when the writer needs more,
//! until only the part that is kept free is left, plus a margin for small reservations. With the margin, a layer that
//! grows until it fills the disk does not block the small layers of other pods. Before a reservation fails, garbage
//! collection runs.
//!
//! In a shared store the reservations of other processes count too: see `shared_reservations.rs`.
//!
//! Deliberately absent: waiting for space, which may never become free.

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    reserve_error::ReserveError,
    shared_reservations::{STEP, SharedReservations},
    snapshots::SnapshotRecords,
    staging::Staging,
};
use crate::{
    spill::Scratch,
    sys::{
        clone::SpaceReservation,
        statfs::{self, Space},
    },
};

/// The most bytes of a small reservation, which may use the margin above the part that is kept free.
const SMALL: u64 = 4 << 20;

/// The limits of the store's use of its disk, in percent of the disk's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// The part that is always left free.
    pub min_free: u8,
    /// The most that captures may take, that is, the snapshot layers of this node.
    pub captures: u8,
    /// The most that the captures of one namespace may take.
    pub captures_each: u8,
}

/// No limits, for a store that has its disk for itself and may fill it.
impl Default for DiskLimits {
    fn default() -> Self {
        Self { min_free: 0, captures: 100, captures_each: 100 }
    }
}

/// The space of the store's disk, with all reservations.
pub struct DiskSpace {
    root: PathBuf,
    limits: DiskLimits,
    snapshots: Arc<SnapshotRecords>,
    free_space: OnceLock<Box<FreeSpace>>,
    /// Dropped before `staging`: the name of this process is in use until then.
    reserved: Mutex<Reserved>,
    staging: Arc<Staging>,
    /// Used instead of the kernel's numbers.
    #[cfg(test)]
    fake: OnceLock<Box<FakeDisk>>,
}

type FreeSpace = dyn Fn(u64) + Send + Sync;
#[cfg(test)]
type FakeDisk = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

/// The sums of all reservations of this process, in bytes.
#[derive(Debug)]
struct Reserved {
    /// Reserved and not yet written.
    unwritten: u64,
    /// Reserved for running captures, written or not, by namespace.
    captures: HashMap<String, u64>,
    /// Those of other processes. `None` in a store that is not shared.
    shared: Option<SharedReservations>,
}

impl Reserved {
    /// Records that `bytes` were written, or are not needed any more.
    fn release(&mut self, bytes: u64) {
        self.unwritten -= bytes;
        if let Some(shared) = &mut self.shared {
            shared.reduce_to(self.unwritten);
        }
    }
}

impl fmt::Debug for DiskSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskSpace").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Disk space that is reserved for one writer until it is written or this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    disk: Arc<DiskSpace>,
    /// The namespace of the capture that is written; `None` for anything else.
    namespace: Option<String>,
    balance: Mutex<Balance>,
}

/// The numbers of one reservation, in bytes.
#[derive(Debug)]
struct Balance {
    /// Bytes that may still be written.
    unwritten: u64,
    /// Bytes that a capture may still share with its volume.
    unshared: u64,
    /// All bytes that were reserved, written or not.
    total: u64,
}

impl Reservation {
    /// The bytes that were reserved so far, written or not.
    pub fn bytes(&self) -> u64 {
        self.balance().total
    }

    /// The directory for files of collections that outgrow memory; see [`DiskSpace::scratch`].
    pub(super) fn scratch(&self) -> Scratch {
        self.disk.scratch()
    }

    /// Takes `bytes` from the reservation; the caller writes them now. If the reservation is too small, it grows first.
    /// Blocks, possibly for a garbage collection round.
    ///
    /// # Errors
    /// Not enough space is free, or the captures exceed their limit. The caller must not write the bytes then.
    pub fn write(&self, bytes: u64) -> Result<(), ReserveError> {
        let mut balance = self.balance();
        if balance.unwritten < bytes {
            let more = bytes - balance.unwritten;
            let namespace = self.namespace.as_deref();
            // A whole step, if so much is free; otherwise only the missing bytes.
            let step = more.max(STEP);
            let (before, capture) = (balance.total, namespace.map(|namespace| (namespace, step)));
            let added = match self.disk.try_reserve(step, before, capture) {
                Ok(()) => step,
                Err(_) => self.disk.reserve_or_collect(more, before, namespace).map(|()| more)?,
            };
            balance.unwritten += added;
            balance.total += added;
        }
        balance.unwritten -= bytes;
        self.disk.with_reserved(|reserved| reserved.release(bytes));
        Ok(())
    }

    /// Counts `bytes` that a capture shares with its volume. They take no space on the disk, but count as the
    /// namespace's.
    ///
    /// # Errors
    /// The captures of the namespace, or of all namespaces, would exceed their limit.
    pub fn share(&self, bytes: u64) -> Result<(), ReserveError> {
        let mut balance = self.balance();
        let Some(namespace) = self.namespace.as_deref() else { return Ok(()) };
        if balance.unshared < bytes {
            let more = bytes - balance.unshared;
            let step = more.max(STEP);
            let added = match self.disk.try_reserve(0, 0, Some((namespace, step))) {
                Ok(()) => step,
                Err(_) => self.disk.try_reserve(0, 0, Some((namespace, more))).map(|()| more)?,
            };
            balance.unshared += added;
            balance.total += added;
        }
        balance.unshared -= bytes;
        Ok(())
    }

    /// Records that the bytes that were written and shared so far take only `bytes`, because the others were replaced
    /// and removed.
    pub fn reduce_to(&self, bytes: u64) {
        let mut balance = self.balance();
        let kept = balance.unwritten.saturating_add(balance.unshared).saturating_add(bytes);
        let released = balance.total.saturating_sub(kept);
        balance.total -= released;
        let Some(namespace) = &self.namespace else { return };
        self.disk.with_reserved(|reserved| {
            if let Some(all) = reserved.captures.get_mut(namespace) {
                *all -= released;
            }
        });
    }

    fn balance(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Balance { unwritten, total, .. } = *self.balance();
        self.disk.with_reserved(|reserved| {
            reserved.release(unwritten);
            let Some(namespace) = &self.namespace else { return };
            if let Some(bytes) = reserved.captures.get_mut(namespace) {
                *bytes -= total;
            }
            reserved.captures.retain(|_, bytes| *bytes > 0);
        });
    }
}

/// A copy of a tree takes its space from the reservation.
impl SpaceReservation for Arc<Reservation> {
    fn copy(&self, bytes: u64) -> io::Result<()> {
        self.write(bytes).map_err(ReserveError::into_io)
    }

    fn share(&self, bytes: u64) -> io::Result<()> {
        Reservation::share(self, bytes).map_err(ReserveError::into_io)
    }
}

impl DiskSpace {
    /// The space of the disk of the store at `root`, without a reservation. `shared` for a shared store.
    pub(super) fn new(
        root: PathBuf,
        limits: DiskLimits,
        snapshots: Arc<SnapshotRecords>,
        staging: Arc<Staging>,
        shared: Option<SharedReservations>,
    ) -> Self {
        let reserved = Reserved { unwritten: 0, captures: HashMap::new(), shared };
        Self {
            root,
            limits,
            snapshots,
            staging,
            free_space: OnceLock::new(),
            reserved: Mutex::new(reserved),
            #[cfg(test)]
            fake: OnceLock::new(),
        }
    }

    /// Reserves space for a layer of at least `bytes`, after a garbage collection round if necessary. Blocks.
    ///
    /// # Errors
    /// Not enough space is free.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, ReserveError> {
        self.reservation(bytes, None)
    }

    /// Reserves space for a capture of about `bytes` for `namespace`, within the limits for captures, after a garbage
    /// collection round if necessary. The caller keeps the reservation until the snapshot's record says how large it
    /// became. Blocks.
    ///
    /// # Errors
    /// Not enough space is free, or the captures would exceed their limit.
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
        self.reserve_or_collect(bytes, 0, namespace)?;
        let balance = Mutex::new(Balance { unwritten: bytes, unshared: 0, total: bytes });
        Ok(Reservation { disk: self.clone(), namespace: namespace.map(str::to_owned), balance })
    }

    /// The directory for files of collections that outgrow memory. Space on the store's disk is reserved as they grow.
    pub fn scratch(self: &Arc<Self>) -> Scratch {
        let balance = Mutex::new(Balance { unwritten: 0, unshared: 0, total: 0 });
        let reservation = Reservation { disk: self.clone(), namespace: None, balance };
        let grow = move |bytes| reservation.write(bytes).map_err(ReserveError::into_io);
        self.staging.scratch().with_limit(grow)
    }

    /// Sets the function that frees space when a reservation fails. Its argument is the number of bytes that should be
    /// free. Only the first call has an effect. The function must not own the store.
    pub fn on_full(&self, free_space: impl Fn(u64) + Send + Sync + 'static) {
        drop(self.free_space.set(Box::new(free_space)));
    }

    fn reserve_or_collect(
        &self,
        bytes: u64,
        before: u64,
        namespace: Option<&str>,
    ) -> Result<(), ReserveError> {
        let capture = namespace.map(|namespace| (namespace, bytes));
        match (self.try_reserve(bytes, before, capture), self.free_space.get()) {
            (Err(error @ ReserveError::Full { reserved, kept, .. }), Some(free_space)) => {
                tracing::warn!(%error, "garbage collection runs to free space");
                free_space(bytes.saturating_add(reserved).saturating_add(kept));
                self.try_reserve(bytes, before, capture)
            }
            (result, _) => result,
        }
    }

    /// Reserves `bytes` of the space that is free now, for a writer that has reserved `before` bytes already. With
    /// `capture` (namespace and bytes), also counts these bytes towards the limits of captures.
    fn try_reserve(
        &self,
        bytes: u64,
        before: u64,
        capture: Option<(&str, u64)>,
    ) -> Result<(), ReserveError> {
        let captured = capture.map(|(namespace, _)| self.snapshots.captured(namespace));
        self.with_reserved(|reserved| {
            // Before the free space is read: other processes reserve nothing until this one shows what it has.
            let turn = reserved.shared.as_ref().map(SharedReservations::turn).transpose()?;
            let others = turn.as_ref().map_or(0, |turn| turn.others);
            let space = self.space()?;
            let part = |percent: u8| space.total / 100 * u64::from(percent);
            let limits = self.limits;
            if let (Some((namespace, bytes)), Some(captured)) = (capture, captured) {
                let own = reserved.captures.get(namespace).copied().unwrap_or_default();
                let all: u64 = reserved.captures.values().sum();
                let check = |whose: String, wanted, percent, setting| {
                    let most = part(percent);
                    let error = ReserveError::Captures { whose, wanted, most, setting };
                    if wanted > most { Err(error) } else { Ok(()) }
                };
                let each = "disk.namespaceSnapshotsPercent";
                let whose = format!("namespace {namespace}");
                check(whose, captured.own + own + bytes, limits.captures_each, each)?;
                let whose = "all namespaces".to_owned();
                let setting = "disk.snapshotsPercent";
                check(whose, captured.all + all + bytes, limits.captures, setting)?;
            }
            let kept = part(limits.min_free);
            let kept = if before + bytes > SMALL { kept / 4 * 5 } else { kept };
            let (free, unwritten) = (space.available, reserved.unwritten.saturating_add(others));
            if free.saturating_sub(unwritten).saturating_sub(kept) < bytes {
                let dir = self.root.clone();
                let (wanted, reserved) = (bytes, unwritten);
                return Err(ReserveError::Full { dir, wanted, free, reserved, kept });
            }
            if let (Some(shared), Some(turn)) = (&mut reserved.shared, &turn) {
                shared.show(reserved.unwritten + bytes, turn)?;
            }
            reserved.unwritten += bytes;
            if let Some((namespace, bytes)) = capture {
                *reserved.captures.entry(namespace.to_owned()).or_default() += bytes;
            }
            Ok(())
        })
    }

    /// The space of the store's file system.
    ///
    /// # Errors
    /// `statfs(2)` failed.
    pub fn space(&self) -> io::Result<Space> {
        #[cfg(test)]
        if let Some(fake) = self.fake.get() {
            return fake(&self.root);
        }
        statfs::of(&self.root)
    }

    /// The root directory of the store.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn with_reserved<T>(&self, f: impl FnOnce(&mut Reserved) -> T) -> T {
        f(&mut self.reserved.lock())
    }

    /// Sets the numbers of the disk.
    #[cfg(test)]
    pub(crate) fn set_fake(
        &self,
        disk: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static,
    ) {
        assert!(self.fake.set(Box::new(disk)).is_ok(), "they are set once");
    }
}

#[cfg(test)]
#[path = "reservation_tests.rs"]
mod tests;
