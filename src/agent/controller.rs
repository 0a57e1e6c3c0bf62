//! The controller loop of a node: watches the OverlaySnapshots of this node and runs one reconciler for each that
//! changed, never two.
//!
//! The loop of the cluster's controller is on kube's `applier`. This one is not: a capture or a push takes minutes,
//! must end as soon as its snapshot is deleted, and waits for its turn beside all others. So each snapshot has a task.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{
    checks,
    diffs::{DiffController, DiffParts},
    engine::{Engine, NodeEngine},
    lookup::SnapshotsByName,
    reconcile::Reconciler,
    shared::{Shared, Timing, WatchState},
};
use crate::{
    cluster::{Change, Client, overlay_snapshot::OverlaySnapshot},
    image::Keyring,
    layers::Store,
    snapshots::Snapshots,
    volumes::EventRecorder,
};

/// The first retry comes soon, because a user waits for it. The longest pause is long, because a registry may be down
/// for long.
const TIMING: Timing = Timing {
    first_pause: Duration::from_millis(500),
    longest_pause: Duration::from_secs(60),
    delete_timeout: Duration::from_secs(15 * 60),
    progress_interval: Duration::from_secs(5),
    slow_interval: Duration::from_secs(10),
    check_interval: Duration::from_secs(60 * 60),
};

/// The parts of an [`Agent`].
#[derive(Debug)]
pub struct Parts {
    /// The client of the API server.
    pub client: Client,
    /// The name of this node.
    pub node: String,
    /// The driver's name. OverlaySnapshots of other drivers are ignored.
    pub driver: String,
    /// The driver's own namespace, which has the push Secrets.
    pub namespace: String,
    /// The node's own credentials, which come after those of a Secret.
    pub keyring: Keyring,
    /// The operations on snapshots.
    pub snapshots: Snapshots,
    /// The store of this node, which has the records of its snapshots.
    pub store: Arc<Store>,
    /// The recorder of Events on pods.
    pub events: Arc<dyn EventRecorder>,
}

/// Carries out the OverlaySnapshots and the OverlayDiffs of this node.
#[derive(Debug)]
pub struct Agent {
    snapshots: NodeController<NodeEngine>,
    diffs: DiffController<Snapshots>,
}

impl Agent {
    /// An agent that does not run yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { client, node, driver, namespace, keyring, snapshots, store, events } = parts;
        let diffs = DiffController::new(DiffParts {
            client: client.clone(),
            compare: snapshots.clone(),
            lookup: Arc::new(SnapshotsByName::new(client.clone(), &driver, &node)),
            node: node.clone(),
            driver: driver.clone(),
            backoff: TIMING.backoff(),
        });
        let engine = NodeEngine { snapshots, store };
        let shared = Shared::new(client, engine, events, TIMING);
        let shared = Shared { node, driver, namespace, keyring, ..shared };
        Self { snapshots: NodeController::new(shared), diffs }
    }

    /// Runs without end. Errors are logged, and written to the status of their snapshot or to the result of their
    /// comparison.
    pub async fn run(self) {
        tokio::join!(self.snapshots.run(), self.diffs.run());
    }
}

/// The running reconcilers. A snapshot has an entry as long as its reconciler runs.
#[derive(Debug)]
pub(super) struct NodeController<E> {
    pub(super) shared: Arc<Shared<E>>,
    reconcilers: Arc<Mutex<Reconcilers>>,
}

type Reconcilers = HashMap<String, watch::Sender<WatchState>>;

impl<E: Engine> NodeController<E> {
    pub(super) fn new(shared: Shared<E>) -> Self {
        Self { shared: Arc::new(shared), reconcilers: Arc::default() }
    }

    pub(super) async fn run(self) {
        let checks = checks::run(&self.shared, |name| self.notify_check(name));
        tokio::select! {
            () = self.follow() => {}
            never = checks => match never {},
        }
    }

    /// Passes each change of an OverlaySnapshot to its reconciler.
    async fn follow(&self) {
        let of_this_node = format!("spec.nodeName={}", self.shared.node);
        let mut changes = self.shared.client.watch::<OverlaySnapshot>(Some(&of_this_node));
        while let Some(change) = changes.next().await {
            match change {
                Change::All(all) => self.notify_all(&all),
                Change::Applied(object) => self.notify(name(&object), object.spec.deleted),
                Change::Gone(object) => self.notify(name(&object), true),
            }
        }
    }

    /// Takes the complete list of objects. Every other snapshot on this node is an orphan.
    fn notify_all(&self, all: &[OverlaySnapshot]) {
        let names: HashSet<_> = all.iter().map(name).collect();
        all.iter().for_each(|object| self.notify(name(object), object.spec.deleted));
        let ids = self.shared.engine.snapshot_ids();
        let orphans = ids.iter().map(|id| id.as_str()).filter(|id| !names.contains(id));
        orphans.for_each(|id| self.notify(id, true));
    }

    /// Passes a change to the snapshot's reconciler, or starts one.
    pub(super) fn notify(&self, name: &str, deleting: bool) {
        self.change(name, |state| state.deleting = deleting);
    }

    /// Lets the snapshot's reconciler act on the result of a check of its image.
    fn notify_check(&self, name: &str) {
        self.change(name, |_| {});
    }

    /// Changes the state that the snapshot's reconciler sees, and runs it.
    fn change(&self, name: &str, change: impl FnOnce(&mut WatchState)) {
        let mut reconcilers = lock(&self.reconcilers);
        if let Some(reconciler) = reconcilers.get(name) {
            reconciler.send_modify(change);
            return;
        }
        let mut state = WatchState::default();
        change(&mut state);
        let (sender, mut watched) = watch::channel(state);
        reconcilers.insert(name.to_owned(), sender);
        let (shared, all, name) = (self.shared.clone(), self.reconcilers.clone(), name.to_owned());
        tokio::spawn(async move {
            // If the reconciler panics, the next change starts another one.
            let _entry = Entry { all: all.clone(), name: name.clone() };
            loop {
                Reconciler::new(&shared, &name, &mut watched).run().await;
                let mut all = lock(&all);
                // Under the lock, so no change can be lost between this check and the end.
                if !watched.has_changed().unwrap_or(false) {
                    all.remove(&name);
                    return;
                }
            }
        });
    }

    /// How many reconcilers run.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        lock(&self.reconcilers).len()
    }
}

/// The entry of a reconciler. Its drop removes it if the reconciler panicked.
struct Entry {
    all: Arc<Mutex<Reconcilers>>,
    name: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.all).remove(&self.name);
        }
    }
}

fn lock(reconcilers: &Mutex<Reconcilers>) -> MutexGuard<'_, Reconcilers> {
    reconcilers.lock()
}

fn name(object: &OverlaySnapshot) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}
