//! A worker for each snapshot that changed, and never two for one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use tokio::sync::{Semaphore, watch};

use super::{
    engine::{Engine, Node},
    pushes::Pushes,
    worker::{Pace, Worker},
};
use crate::{
    cluster::{Change, Client, overlay_snapshot::OverlaySnapshot},
    image::Keyring,
    layers::Store,
    snapshots::Snapshots,
    volumes::Notices,
};

/// How many objects are looked at at a time: a watch that begins tells of all of them at once.
const LOOKS: usize = 8;
/// A user waits for the first try; a registry may be away for long.
const PACE: Pace = Pace {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(60),
    patience: Duration::from_secs(15 * 60),
    news: Duration::from_secs(5),
    slow: Duration::from_secs(10),
};

/// What snapshots are carried out with.
#[derive(Debug)]
pub struct Parts {
    /// The API server.
    pub client: Client,
    /// This node.
    pub node: String,
    /// The driver whose snapshots these are.
    pub driver: String,
    /// The driver's own namespace, in which push Secrets are.
    pub namespace: String,
    /// The node's own credentials, which come after a Secret's.
    pub keyring: Keyring,
    /// What carries them out.
    pub snapshots: Snapshots,
    /// Where they are kept.
    pub store: Arc<Store>,
    /// Where pods' owners are told things.
    pub notices: Arc<dyn Notices>,
}

/// Carries out the OverlaySnapshots of this node.
#[derive(Debug)]
pub struct Agent(Running<Node>);

impl Agent {
    /// One that has not begun.
    pub fn new(parts: Parts) -> Self {
        let Parts { client, node, driver, namespace, keyring, snapshots, store, notices } = parts;
        let engine = Node { snapshots, store };
        let shared = Shared::new(client, engine, notices, PACE);
        Self(Running::new(Shared { node, driver, namespace, keyring, ..shared }))
    }

    /// Works without end. What goes wrong is said in the log and in the status of the snapshot that it is about.
    pub async fn run(self) {
        self.0.run().await;
    }
}

/// What all workers share.
#[derive(Debug)]
pub(super) struct Shared<E> {
    pub(super) client: Client,
    pub(super) engine: E,
    pub(super) node: String,
    pub(super) driver: String,
    pub(super) namespace: String,
    pub(super) keyring: Keyring,
    pub(super) notices: Arc<dyn Notices>,
    pub(super) pushes: Pushes,
    pub(super) looks: Semaphore,
    pub(super) pace: Pace,
}

impl<E> Shared<E> {
    pub(super) fn new(client: Client, engine: E, notices: Arc<dyn Notices>, pace: Pace) -> Self {
        Self {
            client,
            engine,
            notices,
            pace,
            node: String::new(),
            driver: String::new(),
            namespace: String::new(),
            keyring: Keyring::default(),
            pushes: Pushes::new(pace.slow),
            looks: Semaphore::new(LOOKS),
        }
    }
}

/// What a watch has told of a snapshot that is being worked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// It is to be removed, or is gone.
    pub(super) leaves: bool,
}

/// The workers. An entry is there as long as its worker is.
#[derive(Debug)]
pub(super) struct Running<E> {
    pub(super) shared: Arc<Shared<E>>,
    workers: Arc<Mutex<Workers>>,
}

type Workers = HashMap<String, watch::Sender<Seen>>;

impl<E: Engine> Running<E> {
    pub(super) fn new(shared: Shared<E>) -> Self {
        Self { shared: Arc::new(shared), workers: Arc::default() }
    }

    pub(super) async fn run(self) {
        let mine = format!("spec.nodeName={}", self.shared.node);
        let mut changes = self.shared.client.watch::<OverlaySnapshot>(Some(&mine));
        while let Some(change) = changes.next().await {
            match change {
                Change::All(all) => self.all(&all),
                Change::Applied(object) => self.see(name(&object), object.spec.deleted),
                Change::Gone(object) => self.see(name(&object), true),
            }
        }
    }

    /// These are all there are: what else is here was left behind.
    fn all(&self, all: &[OverlaySnapshot]) {
        let names: HashSet<_> = all.iter().map(name).collect();
        all.iter().for_each(|object| self.see(name(object), object.spec.deleted));
        let here = self.shared.engine.here();
        let left = here.iter().map(|id| id.as_str()).filter(|id| !names.contains(id));
        left.for_each(|id| self.see(id, true));
    }

    /// Tells the snapshot's worker, or starts one.
    pub(super) fn see(&self, name: &str, leaves: bool) {
        let mut workers = lock(&self.workers);
        if let Some(worker) = workers.get(name) {
            worker.send_modify(|seen| seen.leaves = leaves);
            return;
        }
        let (sender, mut seen) = watch::channel(Seen { leaves });
        workers.insert(name.to_owned(), sender);
        let (shared, all, name) = (self.shared.clone(), self.workers.clone(), name.to_owned());
        tokio::spawn(async move {
            // Should it break, the next change starts another one.
            let _entry = Entry { all: all.clone(), name: name.clone() };
            loop {
                Worker::new(&shared, &name, &mut seen).run().await;
                let mut all = lock(&all);
                // Nobody can tell it anything between this look and its end.
                if !seen.has_changed().unwrap_or(false) {
                    all.remove(&name);
                    return;
                }
            }
        });
    }

    /// How many are being worked at.
    #[cfg(test)]
    pub(super) fn at_work(&self) -> usize {
        lock(&self.workers).len()
    }
}

/// A worker's entry, gone with it.
struct Entry {
    all: Arc<Mutex<Workers>>,
    name: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.all).remove(&self.name);
        }
    }
}

fn lock(workers: &Mutex<Workers>) -> MutexGuard<'_, Workers> {
    // Changed by whole entries only, so it is whole after any panic.
    workers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(object: &OverlaySnapshot) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}
