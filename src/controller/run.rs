//! The reconcile loop of the leader: watches fill the queue, and a few keys are reconciled at the same time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Controller,
    bind::name_of,
    names::{SOURCE, id_of},
    phase_metrics::Phases,
    queue::{Key, Queue},
    volume_snapshot::Action,
};
use crate::{
    cluster::{
        Change,
        overlay_snapshot::OverlaySnapshot,
        snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    },
    error::Class,
};

/// The most keys that are reconciled at the same time.
const CONCURRENCY: usize = 8;
/// How often everything is reconciled again: a node that disappears changes no object that is watched here.
const RESYNC: Duration = Duration::from_secs(5 * 60);
/// How long running work may take after `stop`.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl Controller {
    /// Reconciles the cluster with its VolumeSnapshots until `stop`. Only one process should do so; two do no harm.
    pub async fn run(&self, stop: CancellationToken) {
        let mut requests = self.client().watch::<VolumeSnapshot>(None);
        let mut contents = self.client().watch::<VolumeSnapshotContent>(None);
        let mut snapshots = self.client().watch::<OverlaySnapshot>(None);
        let mut queue = Queue::default();
        let (mut known, mut phases) = (BTreeSet::new(), Phases::default());
        let mut busy = FuturesUnordered::new();
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while busy.len() < CONCURRENCY
                && let Some(key) = queue.take(Instant::now())
            {
                busy.push(self.work(key));
            }
            let full = busy.len() >= CONCURRENCY;
            let due = queue.next().filter(|_| !full);
            let keys = tokio::select! {
                () = stop.cancelled() => break,
                Some(change) = requests.next() => self.of_requests(change, &mut known),
                Some(change) = contents.next() => self.of_contents(change, &mut known),
                Some(change) = snapshots.next() => {
                    phases.apply(&change, &self.0.driver);
                    self.0.metrics.snapshots(phases.counts());
                    self.of_snapshots(change, &mut known)
                }
                Some((key, next)) = busy.next() => {
                    // A key that is queued again may have a new object.
                    if next == Action::Gone && !queue.waits(&key) {
                        known.remove(&key);
                    }
                    queue.done(key, next == Action::Again, Instant::now());
                    Vec::new()
                }
                _ = resync.tick() => known.iter().cloned().collect(),
                () = until(due) => Vec::new(),
            };
            let now = Instant::now();
            keys.into_iter().for_each(|key| queue.add(key, now));
        }
        // The next leader counts them.
        self.0.metrics.snapshots(Phases::default().counts());
        let rest = async { while busy.next().await.is_some() {} };
        // Work that does not end in time is aborted, as by a crash.
        let _ = timeout(STOP_TIMEOUT, rest).await;
    }

    /// Reconciles one object. Returns what is left to do.
    pub(super) async fn work(&self, key: Key) -> (Key, Action) {
        let start = Instant::now();
        let (kind, result) = match &key {
            Key::Request(namespace, name) => {
                ("VolumeSnapshot", self.request(namespace, name).await)
            }
            Key::Content(name) => ("VolumeSnapshotContent", self.orphaned_content(name).await),
            Key::Snapshot(id) => ("OverlaySnapshot", self.orphaned_snapshot(id).await),
        };
        let word = match &result {
            Ok(_) => "done",
            Err(error) if error.class() == Class::Busy => "conflict",
            Err(_) => "error",
        };
        self.0.metrics.reconciled(kind, word, start.elapsed().as_secs_f64());
        let next = match result {
            Ok(next) => next,
            Err(error) => {
                match error.class() {
                    // The object was changed or deleted meanwhile.
                    Class::Busy => tracing::debug!(%error, ?key, "reconcile conflict: retrying"),
                    _ => tracing::warn!(%error, ?key, "reconcile failed: retrying"),
                }
                Action::Again
            }
        };
        (key, next)
    }

    fn of_requests(&self, change: Change<VolumeSnapshot>, known: &mut BTreeSet<Key>) -> Vec<Key> {
        if matches!(change, Change::All(_)) {
            known.retain(|key| !matches!(key, Key::Request(..)));
        }
        let gone = matches!(change, Change::Gone(_));
        let mut keys = Vec::new();
        for object in change.objects() {
            let metadata = object.metadata;
            let marked = metadata.annotations.is_some_and(|notes| notes.contains_key(SOURCE));
            let (Some(namespace), Some(name), Some(uid)) =
                (metadata.namespace, metadata.name, metadata.uid)
            else {
                continue;
            };
            let key = Key::Request(namespace, name);
            if gone {
                known.remove(&key);
                keys.push(Key::Snapshot(id_of(&uid)));
                keys.extend(object.spec.source.volume_snapshot_content_name.map(Key::Content));
            } else if marked {
                known.insert(key.clone());
                keys.push(key);
            }
        }
        keys
    }

    fn of_contents(
        &self,
        change: Change<VolumeSnapshotContent>,
        known: &mut BTreeSet<Key>,
    ) -> Vec<Key> {
        if matches!(change, Change::All(_)) {
            known.retain(|key| !matches!(key, Key::Content(_)));
        }
        let gone = matches!(change, Change::Gone(_));
        let mut keys = Vec::new();
        for object in
            change.objects().into_iter().filter(|content| content.spec.driver == self.0.driver)
        {
            let Some(name) = object.metadata.name else { continue };
            let key = Key::Content(name);
            match gone {
                true => drop(known.remove(&key)),
                false => drop(known.insert(key.clone())),
            }
            keys.push(key);
            keys.extend(object.spec.source.snapshot_handle.map(Key::Snapshot));
            let of = object.spec.volume_snapshot_ref;
            keys.extend(
                of.namespace.zip(of.name).map(|(namespace, name)| Key::Request(namespace, name)),
            );
        }
        keys
    }

    fn of_snapshots(&self, change: Change<OverlaySnapshot>, known: &mut BTreeSet<Key>) -> Vec<Key> {
        if matches!(change, Change::All(_)) {
            known.retain(|key| !matches!(key, Key::Snapshot(_)));
        }
        let gone = matches!(change, Change::Gone(_));
        let mut keys = Vec::new();
        for object in change.objects().into_iter().filter(|made| made.spec.driver == self.0.driver)
        {
            let key = Key::Snapshot(name_of(&object));
            match gone {
                true => drop(known.remove(&key)),
                false => drop(known.insert(key.clone())),
            }
            keys.push(key);
            keys.extend(object.spec.volume_snapshot.map(|of| Key::Request(of.namespace, of.name)));
        }
        keys
    }
}

/// Sleeps until `due`, or for ever if it is `None`.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{cluster::fake::FakeApi, metrics::Metrics};

    fn made(name: &str) -> OverlaySnapshot {
        serde_json::from_value(json!({
            "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlaySnapshot", "metadata": {"name": name},
            "spec": {"driver": "d", "nodeName": "n-1", "volumeHandle": "csi-1", "freezeTimeoutMillis": 1, "squashAbove": 1,
                     "source": {"namespace": "ci", "pod": "p", "podUid": "u", "volume": "ws"}},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn objects_deleted_between_watches_are_forgotten() {
        let controller =
            Controller::new(FakeApi::default().client(), "d", None, Metrics::default());
        let others = [Key::Request("ci".into(), "ws-1".into()), Key::Content("a".into())];
        let mut known = BTreeSet::from(others.clone());
        controller.of_snapshots(Change::All(vec![made("a"), made("b")]), &mut known);
        assert_eq!(known.len(), 4);
        controller.of_snapshots(Change::Applied(made("c")), &mut known);
        let keys = controller.of_snapshots(Change::All(vec![made("b")]), &mut known);
        assert_eq!(keys, [Key::Snapshot("b".into())]);
        let mut left = BTreeSet::from(others.clone());
        left.insert(Key::Snapshot("b".into()));
        assert_eq!(known, left);
        controller.of_requests(Change::All(Vec::new()), &mut known);
        controller.of_contents(Change::All(Vec::new()), &mut known);
        assert_eq!(known, BTreeSet::from([Key::Snapshot("b".into())]));
        // An object that is not found is forgotten as well.
        for key in others.into_iter().chain(known) {
            assert_eq!(controller.work(key.clone()).await, (key, Action::Gone));
        }
    }
}
