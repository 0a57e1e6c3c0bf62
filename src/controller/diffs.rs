//! Assigns each OverlayDiff to the node that compares, and deletes it after some minutes.
//!
//! ```text
//! OverlayDiff ─► the node of its pod or of its snapshot, into the status ─► compared there ─► deleted after LIFETIME
//!        └─────► cannot be compared: a result with the reason
//! ```
//!
//! The choice of a node gives no right: the node looks everything up again and checks it. Kubernetes deletes a result with
//! its request, because the result has an owner reference. So the controller needs no right to read results, which have
//! the names of tenants' files.
//!
//! All leaders do no harm at once: two writes of one status are equal, or the second is the better one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    task::AbortHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Controller,
    diff_node::{AssignError, DiffRefusal, status_of},
};
use crate::{
    backoff::Backoff,
    cluster::{
        Change, ClusterError,
        overlay_diff::{OverlayDiff, OverlayDiffResultSpec},
    },
    error::Class,
    turns::Turns,
};

/// How long a request and its result exist.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// How often expired requests are deleted.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(15);
/// How many requests of a namespace may exist at a time. They use memory of the controller and of nodes.
const NAMESPACE_MAX: usize = 32;
/// How many requests are assigned at a time. Each makes some requests to the API server.
const ASSIGNMENTS: usize = 4;
/// How many more are assigned for namespaces that have none under way.
const FIRST_OF_NAMESPACE: usize = 4;
/// The first and the longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is known of a request that exists.
#[derive(Debug)]
struct Known {
    namespace: String,
    name: String,
    created: Option<Timestamp>,
    /// The task that assigns it, if it was needed.
    task: Option<AbortHandle>,
}

/// The requests that exist, by uid. Its drop ends all tasks.
#[derive(Debug)]
struct Requests {
    controller: Controller,
    turns: Arc<Turns>,
    known: HashMap<String, Known>,
    /// The number of known requests of each namespace.
    counts: HashMap<String, usize>,
}

impl Controller {
    /// Assigns and deletes OverlayDiffs, without end.
    pub(super) async fn run_diffs(&self) {
        let mut requests = Requests::new(self);
        let mut changes = self.client().watch_trimmed(None, OverlayDiff::trimmed);
        let mut expiry = interval(EXPIRY_INTERVAL);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) => requests.apply(change),
                    None => return,
                },
                _ = expiry.tick() => requests.delete_expired(Timestamp::now()).await,
            }
        }
    }
}

impl Requests {
    fn new(controller: &Controller) -> Self {
        let turns = Turns::new(ASSIGNMENTS, FIRST_OF_NAMESPACE);
        let (known, counts) = (HashMap::new(), HashMap::new());
        Self { controller: controller.clone(), turns, known, counts }
    }

    fn apply(&mut self, change: Change<OverlayDiff>) {
        match change {
            Change::All(all) => {
                let uids: HashSet<_> = all.iter().map(OverlayDiff::uid).collect();
                let gone = self.known.keys().filter(|known| !uids.contains(known.as_str()));
                let gone: Vec<_> = gone.cloned().collect();
                gone.iter().for_each(|uid| self.remove(uid));
                all.into_iter().for_each(|request| self.add(request));
            }
            Change::Applied(request) => self.add(request),
            Change::Gone(request) => self.remove(request.uid()),
        }
    }

    fn remove(&mut self, uid: &str) {
        let Some(Known { namespace, task, .. }) = self.known.remove(uid) else { return };
        task.into_iter().for_each(|task| task.abort());
        if let Some(count) = self.counts.get_mut(&namespace) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&namespace);
            }
        }
    }

    /// Starts the assignment of a request that has none yet.
    fn add(&mut self, request: OverlayDiff) {
        let uid = request.uid().to_owned();
        if self.known.contains_key(&uid) {
            return;
        }
        let metadata = &request.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let name = metadata.name.clone().unwrap_or_default();
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let is_assigned = request.status.as_ref().is_some_and(|s| s.node_name.is_some());
        let is_ours = request.spec.driver == self.controller.0.driver;
        let count = self.counts.entry(namespace.clone()).or_default();
        let is_excess = *count >= NAMESPACE_MAX;
        *count += 1;
        let task = (is_ours && !is_assigned).then(|| {
            let (controller, turns) = (self.controller.clone(), self.turns.clone());
            let task = tokio::spawn(async move {
                let namespace = request.metadata.namespace.as_deref().unwrap_or_default();
                let _turn = turns.acquire(namespace).await;
                controller.assign(&request, is_excess).await;
            });
            task.abort_handle()
        });
        self.known.insert(uid, Known { namespace, name, created, task });
    }

    /// Deletes the requests that are older than [`LIFETIME`], of any driver: an administrator may have removed it.
    async fn delete_expired(&self, now: Timestamp) {
        let is_old = |known: &Known| {
            let age = known.created.map(|created| now.duration_since(created));
            age.is_none_or(|age| age > LIFETIME.try_into().unwrap_or_default())
        };
        for (uid, Known { namespace, name, .. }) in self.known.iter().filter(|(_, k)| is_old(k)) {
            let client = self.controller.client();
            if let Err(error) = client.delete::<OverlayDiff>(Some(namespace), name, uid).await {
                tracing::warn!(%error, namespace, name, "cannot delete an expired OverlayDiff");
            }
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.known.values().filter_map(|known| known.task.as_ref()).for_each(AbortHandle::abort);
    }
}

impl Controller {
    /// Assigns a request to a node, or creates a result that says why it cannot be carried out. Retries while the API
    /// server does not respond.
    async fn assign(&self, request: &OverlayDiff, is_excess: bool) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        while let Err(error) = self.try_assign(request, is_excess).await {
            let (name, namespace) = (&request.metadata.name, &request.metadata.namespace);
            tracing::warn!(%error, ?namespace, ?name, "cannot assign an OverlayDiff yet");
            sleep(backoff.next_pause()).await;
        }
    }

    async fn try_assign(&self, request: &OverlayDiff, is_excess: bool) -> Result<(), ClusterError> {
        let metadata = &request.metadata;
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let name = name.unwrap_or_default();
        let status = match is_excess {
            true => Err(DiffRefusal::TooMany(NAMESPACE_MAX).into()),
            false => status_of(self.client(), request).await,
        };
        match status {
            Ok(status) => {
                let changes = json!({ "metadata": { "uid": metadata.uid }, "status": status });
                tracing::info!(namespace, name, node = status.node_name, "OverlayDiff assigned");
                let changed = self.client().patch_status::<OverlayDiff>(namespace, name, &changes);
                done(changed.await.map(drop))
            }
            Err(AssignError::Refused(refusal)) => {
                let (driver, why) = (&self.0.driver, refusal.to_string());
                let result = request.result(OverlayDiffResultSpec::failed(driver, None, &why));
                done(self.client().create(&result).await.map(drop))
            }
            Err(AssignError::Cluster(error)) => Err(error),
        }
    }
}

/// Ignores errors after which the same request fails again: the OverlayDiff is gone, or has a result already.
fn done(result: Result<(), ClusterError>) -> Result<(), ClusterError> {
    match result {
        Err(error) if error.class() == Class::Conflict => Ok(()),
        result => result,
    }
}

#[cfg(test)]
#[path = "diffs_tests.rs"]
mod tests;
