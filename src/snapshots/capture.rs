//! Captures a volume: copies its upper into a new layer of this node.
//!
//! ```text
//! guarded ─► staged ─► copied while the pod runs ─► frozen: changes copied ─► thawed ─► on disk, renamed ─► recorded
//! ```
//!
//! The guard of the volume is held until its pod runs again, so the volume is neither published nor unpublished in this
//! time. A kill before the rename leaves only staging and the record of the freeze. A kill after it leaves a layer that
//! no record names, which is collected.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    CaptureError, CaptureRequest, Consistency, Inner, Snapshots, blocking,
    pre_copy::{Moment, PreCopy},
    starts::Start,
};
use crate::{
    changeset::Limits,
    error::Class,
    layers::{SnapshotRecord, SnapshotSource},
    sys::clone::TreeClone,
    turns::Permit,
    volumes::{GuardError, VolumeGuard},
};

/// How long a capture waits for another operation on the volume before it fails.
const GUARD_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two attempts to get the guard.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Snapshots {
    /// Captures a volume: keeps what its pod has written as a durable layer of this node, under a name. The pod runs
    /// on.
    ///
    /// The capture stops soon after its future is dropped. It also stops when the volume is to be unpublished
    /// ([`CaptureError::Unpublishing`]), because the end of a pod must not wait for a copy.
    pub async fn capture(&self, request: CaptureRequest) -> Result<SnapshotRecord, CaptureError> {
        let inner = self.0.clone();
        if let Some(known) = inner.known(&request)? {
            return Ok(known);
        }
        let lock = inner
            .locks
            .try_lock(&request.id)
            .ok_or_else(|| CaptureError::Busy(request.id.clone()))?;
        // Another call may have ended between the lookup and the lock.
        if let Some(known) = inner.known(&request)? {
            return Ok(known);
        }
        // The guard comes before the permit: to wait for a volume that is being pulled would take a permit from other
        // captures.
        let guard = inner.guard(&request).await?;
        let permit = inner.permit(&guard, &request).await?;
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        blocking(move || {
            let _until_the_end = (lock, permit);
            let result = inner.capture_now(guard, &request, &stop);
            inner.count(&request, &result);
            result
        })
        .await
    }
}

impl Inner {
    /// The snapshot with the name of the request, if there is one already.
    fn known(&self, request: &CaptureRequest) -> Result<Option<SnapshotRecord>, CaptureError> {
        match self.store.snapshots.get(&request.id) {
            Some(record)
                if record.source.volume_id != request.volume.as_str()
                    || (request.pod.as_ref())
                        .is_some_and(|pod| record.source.pod_uid != pod.uid.as_str()) =>
            {
                let (id, volume) = (request.id.clone(), request.volume.clone());
                Err(CaptureError::Taken { id, volume, of: record.source.volume_id })
            }
            known => Ok(known),
        }
    }

    /// Takes the guard of the volume. Waits while another operation works on the volume, up to [`GUARD_TIMEOUT`].
    async fn guard(&self, request: &CaptureRequest) -> Result<VolumeGuard, CaptureError> {
        let start = Instant::now();
        loop {
            let (volumes, id, pod) =
                (self.volumes.clone(), request.volume.clone(), request.pod.clone());
            match blocking(move || volumes.guard(&id, pod.as_ref())).await {
                Err(GuardError::Busy(_)) if start.elapsed() < GUARD_TIMEOUT => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                result => {
                    let id = request.id.clone();
                    return result.map_err(|source| CaptureError::Guard { id, source });
                }
            }
        }
    }

    /// Waits for a permit to capture. Gives up when the volume is to be unpublished, so that unpublish does not wait.
    async fn permit(
        &self,
        guard: &VolumeGuard,
        request: &CaptureRequest,
    ) -> Result<Permit, CaptureError> {
        let unpublishing = async {
            while !guard.is_unpublish_requested() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            permit = self.captures.acquire(&guard.pod().namespace) => Ok(permit),
            () = unpublishing => {
                let (id, volume) = (request.id.clone(), request.volume.clone());
                Err(CaptureError::Unpublishing { id, volume })
            }
        }
    }

    /// Captures the volume of `guard`, until `stop` is cancelled. Blocks.
    pub(super) fn capture_now(
        &self,
        guard: VolumeGuard,
        request: &CaptureRequest,
        stop: &CancellationToken,
    ) -> Result<SnapshotRecord, CaptureError> {
        let disk = |source| CaptureError::Disk { id: request.id.clone(), source };
        self.ensure_complete(&guard, request)?;
        let start = Start::count(&self.store.starts(), &request.id).map_err(disk)?;
        let _start = start.ok_or_else(|| CaptureError::Killed(request.id.clone()))?;
        let reservation = self.store.disk.reserve_capture(&guard.pod().namespace, 0);
        let no_space = |source| CaptureError::NoSpace { id: request.id.clone(), source };
        let reservation = reservation.map(Arc::new).map_err(no_space)?;
        let staged = self.store.layers.stage_snapshot(&request.id).map_err(disk)?;
        let mut stack = guard.stack().to_vec();
        stack.push(staged.key());
        // The lease keeps the layers until the record names them.
        let _lease = self.store.leases.take(&stack).map_err(disk)?;
        let (bounds, scratch) = (Limits::default().bounds(), self.store.disk.scratch());
        let (tree, aside) = (staged.tree(), staged.aside());
        let clone = TreeClone::new(guard.upper(), &tree, &aside, bounds, &scratch).map_err(disk)?;
        // The memory share comes last: an operation that has a share must wait for nothing else.
        let space = Box::new(reservation.clone());
        let clone = clone.with_budget(self.store.budget.share(), space);
        let mut copy =
            PreCopy { inner: self, request, guard: &guard, stop, clone, reservation: &reservation };
        let moment = copy.run()?;
        let (contents, dirty, copied) =
            (copy.clone.contents(), copy.clone.dirty(), copy.clone.copied());
        drop(copy);
        let record = SnapshotRecord {
            format: SnapshotRecord::FORMAT,
            id: request.id.clone(),
            stack,
            own_layers: guard.snapshot_layers() + 1,
            manifests: guard.manifests().to_vec(),
            base: self.base(&guard),
            parent: guard.parent().cloned(),
            source: source_of(&guard),
            owner: guard.owner(),
            captured_at: Timestamp::now(),
            entries: contents.entries,
            bytes: contents.bytes,
            frozen_micros: moment.micros(),
            ended: moment == Moment::Ended,
            torn: contents.torn,
            pushed: None,
        };
        // From here on the volume may be unpublished.
        drop(guard);
        let (entries, bytes) = (contents.entries, contents.bytes);
        staged
            .commit(contents.into(), dirty)
            .and_then(|()| self.store.snapshots.put(record.clone()))
            .map_err(|source| self.or_full(request, copied, disk(source)))?;
        tracing::info!(
            snapshot = %record.id, volume = %request.volume, entries, bytes, ?moment, "volume captured"
        );
        Ok(record)
    }

    /// Checks that the upper has all changes of the pod. In an overlay with `index: on`, the hard links of a changed
    /// file lead to the change through the index, which a copy of the upper does not have.
    pub(super) fn ensure_complete(
        &self,
        guard: &VolumeGuard,
        request: &CaptureRequest,
    ) -> Result<(), CaptureError> {
        let (id, volume) = (request.id.clone(), request.volume.clone());
        match guard.partly_named_files() {
            Ok(0) => Ok(()),
            Ok(files) => Err(CaptureError::StaleHardLinks { id, volume, files }),
            Err(source) => Err(CaptureError::Disk { id, source }),
        }
    }

    /// The reference of the image at the bottom of a volume, as its pod gave it. For a volume that started from
    /// a snapshot, the reference in the record of that snapshot.
    fn base(&self, guard: &VolumeGuard) -> Option<String> {
        let image = guard.images().first().map(ToString::to_string);
        let parent = guard.parent().and_then(|parent| self.store.snapshots.get(parent));
        image.or_else(|| parent?.for_namespace(&guard.pod().namespace)?.base)
    }

    /// Replaces `error` with [`CaptureError::Full`] if its cause is a full disk. It also collects layers and images
    /// while the copied bytes still use their space, so the next attempt can find free space.
    pub(super) fn or_full(
        &self,
        request: &CaptureRequest,
        copied: u64,
        error: CaptureError,
    ) -> CaptureError {
        if error.class() != Class::Exhausted {
            return error;
        }
        // The collection logs its own result.
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
        #[allow(clippy::cast_precision_loss, reason = "no pod is frozen for years")]
        self.metrics.capture(result, frozen.map(|micros| micros as f64 / 1e6));
    }
}

fn source_of(guard: &VolumeGuard) -> SnapshotSource {
    let pod = guard.pod();
    SnapshotSource {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        pod_uid: pod.uid.as_str().to_owned(),
        volume_id: guard.id().as_str().to_owned(),
    }
}
