//! The cluster's own networks, in which no registry is contacted unless the hosts directory names it.
//!
//! Deliberately absent: a node that does not serve because its API server does not answer. Volumes of its pods have to come and go.

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{cluster::ClusterError, fault::Class, image::Network};

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The most that the start of a node waits for them.
    pub(super) start: Duration,
    /// When they are asked for again while it waits.
    pub(super) soon: Duration,
    /// When they are asked for again after a failure.
    pub(super) again: Duration,
    /// For how long they are taken to be the same: a cluster can get more of them.
    pub(super) kept: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { start: seconds(10), soon: seconds(1), again: seconds(30), kept: seconds(600) }
    }
}

/// Reads the networks now and then, and calls `refuse` with them and `given`. `known` is cancelled when they were read the first
/// time, or when the API server said that this node may not read them.
pub(super) async fn keep<F>(
    read: impl Fn() -> F,
    given: Vec<Network>,
    refuse: impl Fn(Vec<Network>),
    known: CancellationToken,
    pace: Pace,
) where
    F: Future<Output = Result<Vec<String>, ClusterError>>,
{
    loop {
        let wait = match read().await {
            Ok(own) => {
                let own = own.iter().filter_map(|text| text.parse().ok());
                refuse(own.chain(given.iter().copied()).collect());
                known.cancel();
                pace.kept
            }
            Err(error) if error.class() == Class::Unavailable && !known.is_cancelled() => {
                tracing::debug!(%error, "the cluster's networks are asked for again");
                pace.soon
            }
            Err(error) => {
                tracing::warn!(%error, "pods may name registries at addresses of the cluster's Services until these are known");
                known.cancel();
                pace.again
            }
        };
        sleep(wait).await;
    }
}

/// Waits until they are `known`, but no longer than a start may.
pub(super) async fn wait(known: &CancellationToken, pace: Pace) {
    if timeout(pace.start, known.cancelled()).await.is_err() {
        tracing::warn!(
            seconds = pace.start.as_secs(),
            "the API server does not say the cluster's networks: serving without, and asking on; until then pods may name \
             registries at addresses of the cluster's Services"
        );
        // From here on failures are told, and not so often.
        known.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// A start whose API server fails so, so many times, and then says the networks; returns how often it was asked, and what is
    /// refused, when the node goes on.
    async fn start(
        fails: usize,
        how: fn() -> ClusterError,
        start: Duration,
    ) -> (usize, Vec<String>) {
        let (asked, refused) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let read = || async {
            match asked.fetch_add(1, SeqCst) < fails {
                true => Err(how()),
                false => Ok(vec!["10.96.0.0/12".to_owned(), "no network".to_owned()]),
            }
        };
        let refuse = |networks: Vec<Network>| {
            *refused.lock().unwrap() = networks.iter().map(ToString::to_string).collect();
        };
        let pace = Pace { start, soon: Duration::from_millis(1), again: LONG, kept: LONG };
        let (known, given) = (CancellationToken::new(), vec!["192.0.2.1".parse().unwrap()]);
        tokio::select! {
            () = wait(&known, pace) => {}
            () = keep(read, given, refuse, known.clone(), pace) => {}
        }
        let refused = refused.lock().unwrap().clone();
        (asked.load(SeqCst), refused)
    }

    fn slow() -> ClusterError {
        ClusterError::Slow { what: "list ServiceCIDRs", within: LONG }
    }

    fn forbidden() -> ClusterError {
        let (what, reason) = ("list ServiceCIDRs", "Forbidden".to_owned());
        ClusterError::Refused { what, code: 403, reason, message: String::new() }
    }

    #[tokio::test]
    async fn a_node_serves_when_the_clusters_own_networks_are_refused() {
        let both = ["10.96.0.0/12", "192.0.2.1/32"].map(ToOwned::to_owned);
        assert_eq!(start(0, slow, LONG).await, (1, both.to_vec()));
        assert_eq!(start(3, slow, LONG).await, (4, both.to_vec()));
    }

    #[tokio::test]
    async fn a_node_serves_without_an_api_server_that_does_not_answer_or_refuses() {
        let (asked, refused) = start(usize::MAX, slow, Duration::from_millis(50)).await;
        assert!(asked > 0 && refused.is_empty());
        // It is no use to ask again at once.
        assert_eq!(start(usize::MAX, forbidden, LONG).await, (1, Vec::new()));
    }
}
