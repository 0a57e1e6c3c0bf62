//! Carries out the OverlayDiffs of this node: compares two states of volumes, and creates the OverlayDiffResult.
//!
//! ```text
//! OverlayDiff with this node in its status ─► turn of its namespace ─► lookup of its snapshots ─► comparison ─► result
//! ```
//!
//! A request is carried out once by a process. It ends when its object is gone. An error is a result, too: a sentence for
//! the user. The node never writes to the request, and cannot read a result.
//!
//! Deliberately absent: who may see which file names. Admission has checked the rights of the request's creator, and
//! RBAC decides who reads results.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::StreamExt as _;
use tokio::{task::AbortHandle, time::sleep};

use super::diff_result::Collected;
use crate::{
    backoff::Backoff,
    cluster::{
        Change, Client,
        overlay_diff::{OverlayDiff, OverlayDiffResultSpec},
    },
    dns_name::is_subdomain,
    error::Class,
    snapshots::{DiffRequest, NamedSnapshot, NamedVolume, Snapshots, VolumeState},
    turns::Turns,
    volumes::{Pod, SnapshotLookup},
};

/// How many requests are carried out at a time, with the lookups and pulls of their snapshots. Fewer comparisons run at
/// a time ([`Snapshots::diff`]).
const REQUESTS: usize = 8;

/// How many more are carried out for namespaces that have none under way.
const FIRST_OF_NAMESPACE: usize = 8;

/// Compares states of volumes. In tests it is a fake that returns what the test wants.
pub(super) trait Compare: Clone + Send + Sync + 'static {
    /// The differences, or why there are none as a sentence.
    fn compare(
        &self,
        request: DiffRequest,
    ) -> impl Future<Output = Result<Collected, String>> + Send;
}

impl Compare for Snapshots {
    async fn compare(&self, request: DiffRequest) -> Result<Collected, String> {
        let collected = self.diff(&request, Collected::default(), Collected::take).await;
        collected.map_err(|error| error.to_string())
    }
}

/// The parts that all requests share.
#[derive(Debug)]
pub(super) struct DiffParts<C> {
    pub(super) client: Client,
    pub(super) compare: C,
    pub(super) lookup: Arc<dyn SnapshotLookup>,
    pub(super) node: String,
    pub(super) driver: String,
    /// The pauses between tries to create a result.
    pub(super) backoff: Backoff,
}

/// The loop of a node over its OverlayDiffs.
#[derive(Debug)]
pub(super) struct DiffController<C> {
    parts: Arc<DiffParts<C>>,
    turns: Arc<Turns>,
    /// The tasks of the requests that exist, by uid. Some have ended.
    tasks: HashMap<String, AbortHandle>,
}

impl<C: Compare> DiffController<C> {
    pub(super) fn new(parts: DiffParts<C>) -> Self {
        let turns = Turns::new(REQUESTS, FIRST_OF_NAMESPACE);
        Self { parts: Arc::new(parts), turns, tasks: HashMap::new() }
    }

    /// Runs without end.
    pub(super) async fn run(mut self) {
        let of_this_node = format!("status.nodeName={}", self.parts.node);
        let mut changes =
            self.parts.client.watch_trimmed(Some(&of_this_node), OverlayDiff::trimmed);
        while let Some(change) = changes.next().await {
            match change {
                Change::All(all) => {
                    let uids: HashSet<_> = all.iter().map(OverlayDiff::uid).collect();
                    let gone = |known: &String| !uids.contains(known.as_str());
                    let gone = self.tasks.extract_if(|known, _| gone(known));
                    gone.for_each(|(_, task)| task.abort());
                    all.into_iter().for_each(|request| self.start(request));
                }
                Change::Applied(request) => self.start(request),
                Change::Gone(request) => {
                    self.tasks.remove(request.uid()).into_iter().for_each(|task| task.abort());
                }
            }
        }
    }

    /// Starts the task of a request that has none yet.
    fn start(&mut self, request: OverlayDiff) {
        let uid = request.uid().to_owned();
        if request.spec.driver != self.parts.driver || self.tasks.contains_key(&uid) {
            return;
        }
        let (parts, turns) = (self.parts.clone(), self.turns.clone());
        let task = tokio::spawn(async move {
            let _turn =
                turns.acquire(request.metadata.namespace.as_deref().unwrap_or_default()).await;
            let result = parts.result(&request).await;
            parts.report(&request, result).await;
        });
        self.tasks.insert(uid, task.abort_handle());
    }
}

impl<C> Drop for DiffController<C> {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

impl<C: Compare> DiffParts<C> {
    async fn result(&self, request: &OverlayDiff) -> OverlayDiffResultSpec {
        let collected = match self.checked(request).await {
            Ok(request) => self.compare.compare(request).await,
            Err(error) => Err(error),
        };
        let (driver, node) = (&self.driver, &self.node);
        match collected {
            Ok(collected) => collected.result(driver, node),
            Err(error) => OverlayDiffResultSpec::failed(driver, Some(node), &error),
        }
    }

    /// Looks up what a request names.
    async fn checked(&self, request: &OverlayDiff) -> Result<DiffRequest, String> {
        let (spec, status) = (&request.spec, request.status.clone().unwrap_or_default());
        let namespace = request.metadata.namespace.clone().unwrap_or_default();
        let base = match &spec.base_volume_snapshot_name {
            Some(name) => Some(self.snapshot(&namespace, name).await?),
            None => None,
        };
        let state = match (&spec.volume_snapshot_name, &spec.pod) {
            (Some(name), None) => VolumeState::Snapshot(self.snapshot(&namespace, name).await?),
            (None, Some(pod)) => {
                let (uid, id) = (status.pod_uid.unwrap_or_default(), status.volume_handle);
                let invalid =
                    |error| format!("the status of the OverlayDiff cannot be used: {error}");
                VolumeState::Mounted(NamedVolume {
                    name: pod.volume.clone(),
                    id: id.unwrap_or_default().parse().map_err(invalid)?,
                    pod: Pod {
                        namespace: namespace.clone(),
                        name: pod.name.clone(),
                        uid: uid.parse().map_err(invalid)?,
                    },
                })
            }
            _ => return Err("set either volumeSnapshotName or pod".to_owned()),
        };
        Ok(DiffRequest { namespace, base, state })
    }

    async fn snapshot(&self, namespace: &str, name: &str) -> Result<NamedSnapshot, String> {
        if !is_subdomain(name) {
            // It must not become a part of a request path.
            return Err(format!("{name:?} is not a valid name of a VolumeSnapshot"));
        }
        let found = self.lookup.find(namespace, name).await.map_err(|error| error.to_string())?;
        Ok(NamedSnapshot { name: name.to_owned(), found })
    }

    /// Creates the result. Retries while the API server does not respond. The end of the request ends this too.
    async fn report(&self, request: &OverlayDiff, result: OverlayDiffResultSpec) {
        let (name, namespace) = (&request.metadata.name, &request.metadata.namespace);
        let (name, namespace) = (name.as_deref(), namespace.as_deref());
        tracing::info!(
            name,
            namespace,
            error = result.error,
            added = result.added,
            changed = result.changed,
            removed = result.removed,
            "volumes compared"
        );
        let (result, mut backoff) = (request.result(result), self.backoff);
        loop {
            match self.client.create(&result).await {
                Ok(_) => return,
                // An earlier process of this node has created it.
                Err(error) if error.class() == Class::Conflict => return,
                Err(error) if error.class() == Class::Unavailable => {
                    tracing::warn!(name, namespace, %error, "cannot create the result yet");
                }
                Err(error) => {
                    tracing::error!(name, namespace, %error, "cannot create the result");
                    return;
                }
            }
            sleep(backoff.next_pause()).await;
        }
    }
}

#[cfg(test)]
#[path = "diffs_tests.rs"]
mod tests;
