//! The node's own addresses and the cluster's own networks, where no registry is contacted unless the hosts directory
//! names it.
//!
//! Deliberately absent: a node that does not serve because its API server does not respond. Pods must be able to start and end.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::ClusterError,
    error::Class,
    image::{Network, Registries},
    sys::host,
};

/// Timeouts and intervals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How long the start of a node waits for the networks at most.
    pub(super) start: Duration,
    /// The pause before the next request while the start waits.
    pub(super) soon: Duration,
    /// The pause before the next request after a failure.
    pub(super) again: Duration,
    /// The pause after a success. A cluster can get more networks.
    pub(super) kept: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { start: seconds(10), soon: seconds(1), again: seconds(30), kept: seconds(600) }
    }
}

/// How often the node's own addresses are read.
const OWN_PAUSE: Duration = Duration::from_secs(60);

/// Makes `registries` refuse the node's own addresses.
pub(super) fn refuse_own_addresses(registries: &Registries) {
    match host::addresses() {
        Ok(addresses) => registries.refuse_own_addresses(addresses),
        Err(error) => {
            tracing::warn!(%error, "cannot read the node's own addresses; pods can pull from new ones");
        }
    }
}

/// Repeats [`refuse_own_addresses`], because a node can get more addresses.
pub(super) async fn keep_refusing_own_addresses(registries: Arc<Registries>) {
    loop {
        sleep(OWN_PAUSE).await;
        refuse_own_addresses(&registries);
    }
}

/// Reads the networks repeatedly, and calls `refuse` with them and `given`. `known` is cancelled after the first success, or when the
/// API server refuses to let this node read them.
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
                tracing::debug!(%error, "reading the cluster's networks is retried");
                pace.soon
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the networks of the cluster's Services; until they can be read, pods can pull from addresses of the Services");
                known.cancel();
                pace.again
            }
        };
        sleep(wait).await;
    }
}

/// Waits until the networks are `known`, at most [`Pace::start`].
pub(super) async fn wait(known: &CancellationToken, pace: Pace) {
    if timeout(pace.start, known.cancelled()).await.is_err() {
        tracing::warn!(
            seconds = pace.start.as_secs(),
            "the API server does not respond, so the node serves without the networks of the cluster's Services; until \
             they can be read, pods can pull from addresses of the Services"
        );
        // From here on failures are logged, and retried less often.
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

    /// A start whose API server fails `fails` times in the way of `how`, and then returns the networks. Returns the count of
    /// requests and the refused networks when the node begins to serve.
    async fn start(
        fails: usize,
        how: fn() -> ClusterError,
        start: Duration,
    ) -> (usize, Vec<String>) {
        let (requests, refused) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let read = || async {
            match requests.fetch_add(1, SeqCst) < fails {
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
        (requests.load(SeqCst), refused)
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
    async fn a_node_serves_when_the_api_server_is_down_or_refuses() {
        let (requests, refused) = start(usize::MAX, slow, Duration::from_millis(50)).await;
        assert!(requests > 0 && refused.is_empty());
        // A refusal is not retried during the start.
        assert_eq!(start(usize::MAX, forbidden, LONG).await, (1, Vec::new()));
    }
}
