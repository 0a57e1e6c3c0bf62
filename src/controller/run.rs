//! The reconcile loop of the leader: watches fill the caches, and each snapshot that changed is reconciled.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt as _,
    channel::mpsc::{UnboundedSender, unbounded},
};
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Controller,
    cached::{CachedVolumeSnapshot, Content, Overlay},
    caches::{Caches, SnapshotObjects},
    error::ReconcileError,
    turn::{NamespaceTurns, Turn},
};
use crate::{
    backoff,
    cluster::{
        Action, Change, NodeState, Watch,
        overlay_snapshot::OverlaySnapshot,
        snapshot_api::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    error::Class,
};

/// The most reconciles at a time. Most of them make no request. Those that make some are limited by [`NamespaceTurns`].
const CONCURRENCY: u16 = 64;
/// In this time, each snapshot is reconciled again, in [`RESYNC_PARTS`] parts. Every change is an event of a watch, so
/// this finds something to do only after a fault.
const RESYNC: Duration = Duration::from_secs(5 * 60);
/// How many parts a resync has.
const RESYNC_PARTS: u32 = 60;
/// The pause before the first retry. It doubles with each retry.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long running reconciles may take after `stop`.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// One term of a leader: its caches, and what it remembers of its reconciles.
#[derive(Debug)]
pub(super) struct Reconciler {
    pub(super) controller: Controller,
    pub(super) caches: Caches,
    turns: Arc<NamespaceTurns>,
    /// How often a snapshot was retried in a row.
    retries: Mutex<HashMap<String, u32>>,
}

impl Controller {
    /// Reconciles the cluster with its VolumeSnapshots until `stop`. Only one process should do so; two do no harm.
    pub async fn run(&self, stop: CancellationToken) {
        let (changed, names) = unbounded();
        // The turns end with this call, also if it is dropped.
        let term = stop.child_token();
        let _end = term.clone().drop_guard();
        let reconciler = Reconciler::new(self, changed.clone(), term);
        let mut watches = Watches::new(self);
        if stop.run_until_cancelled(watches.fill(&reconciler)).await.is_some() {
            let names = names.take_until(stop.clone().cancelled_owned());
            let reconciled = reconciler.reconcile_all(names);
            let watched = watches.run(&reconciler, &changed);
            let stopped = async {
                stop.cancelled().await;
                sleep(STOP_TIMEOUT).await;
            };
            // Reconciles that do not end in time are aborted, as by a crash.
            tokio::select! {
                () = reconciled => {}
                () = watched => {}
                () = self.run_diffs() => {}
                () = stopped => {}
            }
        }
        // The next leader counts them.
        self.count(&Caches::default());
    }

    /// Sets the metrics of the snapshots in these caches.
    fn count(&self, caches: &Caches) {
        self.0.metrics.snapshots(caches.phases());
        self.0.metrics.oldest_unpushed(caches.oldest_unpushed().map(|time| time.as_second()));
    }
}

impl Reconciler {
    pub(super) fn new(
        controller: &Controller,
        due: UnboundedSender<String>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            controller: controller.clone(),
            caches: Caches::default(),
            turns: NamespaceTurns::new(due, stop),
            retries: Mutex::default(),
        }
    }

    /// Reconciles the snapshots of these ids until `names` ends.
    async fn reconcile_all(&self, names: impl futures::Stream<Item = String> + Send + 'static) {
        let reconcile = |id: String, snapshot: SnapshotObjects| async move {
            self.measured(&id, &snapshot).await
        };
        let error_policy = |id: &str, error: &ReconcileError| self.error_policy(id, error);
        let absent = |id: &str| {
            self.retries.lock().remove(id);
            self.turns.release(id);
        };
        self.caches.snapshots.reconcile(names, CONCURRENCY, reconcile, error_policy, absent).await;
    }

    /// Reconciles one snapshot, and counts it.
    async fn measured(
        &self,
        id: &str,
        snapshot: &SnapshotObjects,
    ) -> Result<Action, ReconcileError> {
        let start = Instant::now();
        let result = self.reconcile(id, snapshot).await;
        let word = match &result {
            Err(ReconcileError::NoTurn) => return result,
            Ok(_) | Err(ReconcileError::Refused(_) | ReconcileError::OtherDriver) => "done",
            Err(error) if error.class() == Class::Busy => "conflict",
            Err(_) => "error",
        };
        let kind = match (&snapshot.request, &snapshot.overlay) {
            (Some(_), _) => "VolumeSnapshot",
            (None, Some(_)) => "OverlaySnapshot",
            (None, None) => "VolumeSnapshotContent",
        };
        self.controller.0.metrics.reconciled(kind, word, start.elapsed().as_secs_f64());
        if result.is_ok() {
            self.retries.lock().remove(id);
        }
        result
    }

    /// Does what is left to do about one snapshot.
    pub(super) async fn reconcile(
        &self,
        id: &str,
        snapshot: &SnapshotObjects,
    ) -> Result<Action, ReconcileError> {
        let turn = Turn::new(&self.turns, self.controller.client(), id, snapshot.namespace());
        let followed = match &snapshot.request {
            Some(request) => self.reconcile_volume_snapshot(&turn, request, snapshot).await,
            None => self.delete_orphaned_contents(&turn, snapshot).await,
        };
        if let Some(overlay) = snapshot.overlay.as_ref().filter(|known| self.is_ours(known)) {
            self.reconcile_overlay(&turn, overlay, snapshot).await?;
        }
        followed.map(|()| Action::await_change())
    }

    /// Whether an OverlaySnapshot belongs to this driver.
    pub(super) fn is_ours(&self, overlay: &Overlay) -> bool {
        overlay.driver == self.controller.0.driver
    }

    /// When to reconcile again after an error.
    fn error_policy(&self, id: &str, error: &ReconcileError) -> Action {
        match error {
            ReconcileError::NoTurn => return Action::await_change(),
            ReconcileError::OtherDriver => {
                self.retries.lock().remove(id);
                return Action::await_change();
            }
            ReconcileError::Refused(_) | ReconcileError::Removing(_) => {}
            error if error.class() == Class::Busy => {
                tracing::debug!(%error, id, "reconcile conflict: retrying");
            }
            error => tracing::warn!(%error, id, "reconcile failed: retrying"),
        }
        let mut retries = self.retries.lock();
        let tries = retries.entry(id.to_owned()).or_default();
        let pause = backoff::pause(PAUSE, PAUSE_MAX, *tries).min(PAUSE_MAX);
        *tries += 1;
        Action::requeue(pause)
    }
}

/// The watches that fill the caches.
struct Watches {
    volume_snapshots: Watch<Option<CachedVolumeSnapshot>>,
    contents: Watch<Content>,
    overlays: Watch<Overlay>,
    classes: Watch<VolumeSnapshotClass>,
    nodes: Watch<(String, NodeState)>,
}

/// A change of one of the watches.
enum Watched {
    VolumeSnapshots(Change<Option<CachedVolumeSnapshot>>),
    Contents(Change<Content>),
    Overlays(Change<Overlay>),
    Classes(Change<VolumeSnapshotClass>),
    Nodes(Change<(String, NodeState)>),
}

impl Watches {
    fn new(controller: &Controller) -> Self {
        let client = controller.client();
        let driver = controller.0.driver.clone();
        Self {
            volume_snapshots: client
                .watch_trimmed::<VolumeSnapshot, _>(None, CachedVolumeSnapshot::of),
            contents: client.watch_trimmed::<VolumeSnapshotContent, _>(None, move |content| {
                Content::of(content, &driver)
            }),
            overlays: client.watch_trimmed::<OverlaySnapshot, _>(None, Overlay::from),
            classes: client.watch(None),
            nodes: client.watch_nodes(),
        }
    }

    async fn next(&mut self) -> Option<Watched> {
        // No watch ever ends.
        Some(tokio::select! {
            change = self.volume_snapshots.next() => Watched::VolumeSnapshots(change?),
            change = self.contents.next() => Watched::Contents(change?),
            change = self.overlays.next() => Watched::Overlays(change?),
            change = self.classes.next() => Watched::Classes(change?),
            change = self.nodes.next() => Watched::Nodes(change?),
        })
    }

    /// Applies changes until each cache has all objects.
    async fn fill(&mut self, reconciler: &Reconciler) {
        let mut missing = [true; 5];
        while missing.contains(&true) {
            let Some(change) = self.next().await else { return };
            missing[change.number()] = false;
            change.apply(reconciler);
        }
    }

    /// Applies changes, and sends the ids of all snapshots to reconcile.
    async fn run(&mut self, reconciler: &Reconciler, changed: &UnboundedSender<String>) {
        let all = || reconciler.caches.snapshots.names(|_| true);
        // An error: the reconciles have ended.
        let send = |ids: &mut dyn Iterator<Item = String>| {
            ids.for_each(|id| drop(changed.unbounded_send(id)));
        };
        send(&mut all().into_iter());
        let mut resync = interval(RESYNC / RESYNC_PARTS);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut parts = Resync::default();
        loop {
            tokio::select! {
                change = self.next() => match change {
                    Some(change) => send(&mut change.apply(reconciler).into_iter()),
                    None => return,
                },
                _ = resync.tick() => send(&mut parts.next(all).into_iter()),
            }
        }
    }
}

/// The snapshots that are left of a resync.
#[derive(Debug, Default)]
struct Resync {
    rest: Vec<String>,
    /// How many are reconciled in each part.
    part: usize,
}

impl Resync {
    /// The ids of the next part. Begins with all of them again after the last part.
    fn next(&mut self, all: impl FnOnce() -> Vec<String>) -> Vec<String> {
        if self.rest.is_empty() {
            self.rest = all();
            self.part = self.rest.len().div_ceil(RESYNC_PARTS as usize);
        }
        self.rest.split_off(self.rest.len().saturating_sub(self.part))
    }
}

impl Watched {
    fn number(&self) -> usize {
        match self {
            Self::VolumeSnapshots(_) => 0,
            Self::Contents(_) => 1,
            Self::Overlays(_) => 2,
            Self::Classes(_) => 3,
            Self::Nodes(_) => 4,
        }
    }

    /// Applies it to the caches. Returns the ids of the snapshots to reconcile.
    fn apply(self, reconciler: &Reconciler) -> std::collections::BTreeSet<String> {
        let Reconciler { caches, controller, .. } = reconciler;
        match self {
            Self::VolumeSnapshots(change) => caches.apply_volume_snapshots(change),
            Self::Contents(change) => caches.apply_contents(change),
            Self::Overlays(change) => {
                let changed = caches.apply_overlays(change, &controller.0.driver);
                controller.count(caches);
                changed
            }
            Self::Classes(change) => {
                caches.apply_classes(change);
                Default::default()
            }
            Self::Nodes(change) => caches.apply_nodes(change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resync_reaches_each_snapshot_once_in_small_parts() {
        let all = || (0..130).map(|n| n.to_string()).collect::<Vec<_>>();
        let mut resync = Resync::default();
        for _ in 0..2 {
            let mut seen = Vec::new();
            for _ in 0..44 {
                let part = resync.next(all);
                assert!(part.len() <= 3);
                seen.extend(part);
            }
            seen.sort_by_key(|name| name.parse::<u32>().unwrap());
            assert_eq!(seen, all());
        }
        assert!(Resync::default().next(Vec::new).is_empty());
    }
}
