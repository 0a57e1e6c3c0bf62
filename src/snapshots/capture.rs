//! The moment in which an upper is copied out.
//!
//! ```text
//! held ─► staged ─► copied while the pod runs ─► frozen: what changed ─► thawed ─► on disk, renamed ─► recorded
//! ```
//!
//! The volume is held until its pod goes on, so it is neither published nor unpublished meanwhile. A kill before the rename leaves
//! only staging and the note of who is frozen; one after it leaves a layer that nothing names, which is collected.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{CaptureError, Inner, SnapshotId, Snapshots, blocking, pre_copy::Copy, starts::Start};
use crate::{
    changeset::Limits,
    error::Class,
    layers::{
        Features, Reservation, ReserveError, SnapshotContents, SnapshotRecord, SnapshotSource,
    },
    sys::clone::{self, TreeClone},
    turns::Permit,
    volumes::{GuardError, Pod, VolumeGuard, VolumeId},
};

/// For how long somebody else may work on the volume before the cut is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries to get it.
const AGAIN: Duration = Duration::from_millis(50);

/// What is to be cut, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// The snapshot's name: the same again answers the same snapshot.
    pub id: SnapshotId,
    /// The volume.
    pub volume: VolumeId,
    /// Its pod; `None` for whoever may capture any. A volume of another one is not touched: its pod does not stand still for
    /// somebody else's mistake.
    pub pod: Option<Pod>,
    /// Whether its pod stands still.
    pub consistency: Consistency,
}

/// Whether a volume's pod stands still while it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It does, for no longer than `within`; where that does not do, the cut fails, or is live.
    Frozen {
        /// The longest that it may stand still.
        within: Duration,
        /// Whether the cut is live where that does not do.
        or_live: bool,
    },
    /// It does not: each file is as it was at some moment of the cut.
    Live,
}

impl Default for Consistency {
    fn default() -> Self {
        Self::Frozen { within: Duration::from_secs(5), or_live: false }
    }
}

/// What a copy is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The volume while its pod stood still, for so long.
    Still(Duration),
    /// The volume as a pod left it of which nothing runs any more.
    Ended,
    /// Each file at some moment.
    Many,
}

impl Moment {
    fn micros(self) -> Option<u64> {
        match self {
            Self::Still(time) => Some(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            Self::Ended | Self::Many => None,
        }
    }
}

impl Snapshots {
    /// Cuts a volume: keeps what its pod has written as a layer of this node, durably, under a name. The pod goes on.
    ///
    /// Dropped, it stops soon: nobody wants it any more. It stops as well when its volume is to be unpublished
    /// ([`CutError::GoneOn`]), because a pod that goes is not to wait for a copy.
    pub async fn capture(&self, request: CaptureRequest) -> Result<SnapshotRecord, CaptureError> {
        let inner = self.0.clone();
        if let Some(known) = inner.known(&request)? {
            return Ok(known);
        }
        let turn =
            inner.turns.take(&request.id).ok_or_else(|| CaptureError::Busy(request.id.clone()))?;
        // Somebody may have been done between the look and the turn.
        if let Some(known) = inner.known(&request)? {
            return Ok(known);
        }
        // Before it waits for a permit: a volume that is being pulled would keep one from others.
        let held = inner.hold(&request).await?;
        let permit = inner.permit(&held, &request).await?;
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        blocking(move || {
            let _kept = (turn, permit);
            let done = inner.capture_now(held, &request, &stop);
            inner.count(&request, &done);
            done
        })
        .await
    }
}

impl Inner {
    /// The snapshot of this name, if it is there.
    fn known(&self, request: &CaptureRequest) -> Result<Option<SnapshotRecord>, CaptureError> {
        match self.store.snapshot(&request.id) {
            Some(record)
                if record.source.volume != request.volume.as_str()
                    || (request.pod.as_ref())
                        .is_some_and(|pod| record.source.pod_uid != pod.uid.as_str()) =>
            {
                let (id, volume) = (request.id.clone(), request.volume.clone());
                Err(CaptureError::Taken { id, volume, of: record.source.volume })
            }
            known => Ok(known),
        }
    }

    async fn hold(&self, request: &CaptureRequest) -> Result<VolumeGuard, CaptureError> {
        let begun = Instant::now();
        loop {
            let (volumes, id, pod) =
                (self.volumes.clone(), request.volume.clone(), request.pod.clone());
            match blocking(move || volumes.hold(&id, pod.as_ref())).await {
                Err(GuardError::Busy(_)) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(AGAIN).await;
                }
                held => {
                    let id = request.id.clone();
                    return held.map_err(|source| CaptureError::Hold { id, source });
                }
            }
        }
    }

    /// Waits for a permit; whoever wants to unpublish the volume meanwhile need not.
    async fn permit(
        &self,
        held: &VolumeGuard,
        request: &CaptureRequest,
    ) -> Result<Permit, CaptureError> {
        let wanted = async {
            while !held.is_wanted() {
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            permit = self.captures.acquire(&held.pod().namespace) => Ok(permit),
            () = wanted => {
                let (id, volume) = (request.id.clone(), request.volume.clone());
                Err(CaptureError::GoneOn { id, volume })
            }
        }
    }

    /// Cuts a volume that is held, until `stop`. Blocks.
    pub(super) fn capture_now(
        &self,
        held: VolumeGuard,
        request: &CaptureRequest,
        stop: &CancellationToken,
    ) -> Result<SnapshotRecord, CaptureError> {
        let disk = |source| CaptureError::Disk { id: request.id.clone(), source };
        self.ensure_whole(&held, request)?;
        let start = Start::count(&self.store.starts(), &request.id).map_err(disk)?;
        let _start = start.ok_or_else(|| CaptureError::Killed(request.id.clone()))?;
        let room = self.store.reserve_capture(&held.pod().namespace, 0);
        let no_room = |source| CaptureError::NoSpace { id: request.id.clone(), source };
        let room = room.map(Arc::new).map_err(no_room)?;
        let staged = self.store.stage_snapshot(&request.id).map_err(disk)?;
        let mut stack = held.stack().to_vec();
        stack.push(staged.key());
        // Until the record names them.
        let _lease = self.store.hold(&stack);
        let (bounds, scratch) = (Limits::default().bounds(), self.store.spills());
        let (tree, aside) = (staged.tree(), staged.aside());
        let clone = TreeClone::new(held.upper(), &tree, &aside, bounds, &scratch).map_err(disk)?;
        // Made last: whoever has a share waits for nothing else.
        let clone = clone.within(self.store.budget().share(), Box::new(Within(room.clone())));
        let mut copy = Copy { inner: self, request, guard: &held, stop, clone, reservation: &room };
        let moment = copy.all()?;
        let (contents, dirty, copied) =
            (copy.clone.contents(), copy.clone.dirty(), copy.clone.copied());
        drop(copy);
        let record = SnapshotRecord {
            format: SnapshotRecord::FORMAT,
            id: request.id.clone(),
            stack,
            own: held.snapshot_layers() + 1,
            manifests: held.manifests().to_vec(),
            base: self.base(&held),
            parent: held.parent().cloned(),
            source: source_of(&held),
            owner: held.owner().map(|owner| (owner.uid, owner.gid)),
            cut: Timestamp::now(),
            entries: contents.entries,
            bytes: contents.bytes,
            frozen_micros: moment.micros(),
            ended: moment == Moment::Ended,
            torn: contents.torn,
            pushed: None,
        };
        // From here on the pod may go.
        drop(held);
        let features = Features { metacopy: contents.metacopy, redirect: contents.redirect };
        let (entries, bytes) = (contents.entries, contents.bytes);
        staged
            .commit(SnapshotContents { entries, bytes, features }, dirty)
            .and_then(|()| self.store.put_snapshot(record.clone()))
            .map_err(|source| self.full(request, copied, disk(source)))?;
        tracing::info!(
            snapshot = %record.id, volume = %request.volume, entries, bytes, ?moment, "volume cut"
        );
        Ok(record)
    }

    /// Makes sure that the upper has all that was changed: an overlay with an index has a part of it elsewhere.
    pub(super) fn ensure_whole(
        &self,
        held: &VolumeGuard,
        request: &CaptureRequest,
    ) -> Result<(), CaptureError> {
        let (id, volume) = (request.id.clone(), request.volume.clone());
        match held.half_named() {
            Ok(0) => Ok(()),
            Ok(files) => Err(CaptureError::HalfNamed { id, volume, files }),
            Err(source) => Err(CaptureError::Disk { id, source }),
        }
    }

    /// The image at the bottom of a volume, as its pod named it, or as the pod of the snapshot that it was made of did.
    fn base(&self, held: &VolumeGuard) -> Option<String> {
        let named = held.images().first().map(ToString::to_string);
        let parent = held.parent().and_then(|parent| self.store.snapshot(parent));
        named.or_else(|| parent?.for_namespace(&held.pod().namespace)?.base)
    }

    /// The sentence about a disk that filled while a volume was copied, where that is what went wrong. Layers and images that nobody
    /// needs go while what was copied still takes its room, so that the next try may find some.
    pub(super) fn full(
        &self,
        request: &CaptureRequest,
        copied: u64,
        error: CaptureError,
    ) -> CaptureError {
        if error.class() != Class::Exhausted {
            return error;
        }
        // It says itself what it did.
        let _ = self.volumes.collect();
        let dir = self.store.root().to_owned();
        CaptureError::Full { id: request.id.clone(), volume: request.volume.clone(), dir, copied }
    }

    fn count(&self, request: &CaptureRequest, done: &Result<SnapshotRecord, CaptureError>) {
        let frozen = done.as_ref().ok().and_then(|record| record.frozen_micros);
        let result = match (done, frozen, request.consistency) {
            (Err(_), ..) => "failed",
            (Ok(_), Some(_), _) => "frozen",
            (Ok(_), None, Consistency::Live) => "live",
            (Ok(_), None, Consistency::Frozen { .. }) => "not_frozen",
        };
        #[allow(clippy::cast_precision_loss, reason = "no pod stands still for years")]
        self.metrics.capture(result, frozen.map(|micros| micros as f64 / 1e6));
    }
}

/// A capture's room, as its copy sees it.
#[derive(Debug)]
struct Within(Arc<Reservation>);

impl clone::SpaceReservation for Within {
    fn copy(&self, bytes: u64) -> io::Result<()> {
        self.0.write(bytes).map_err(ReserveError::into_io)
    }

    fn share(&self, bytes: u64) -> io::Result<()> {
        self.0.share(bytes).map_err(ReserveError::into_io)
    }
}

fn source_of(held: &VolumeGuard) -> SnapshotSource {
    let pod = held.pod();
    SnapshotSource {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        pod_uid: pod.uid.as_str().to_owned(),
        volume: held.id().as_str().to_owned(),
    }
}
