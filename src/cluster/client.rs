//! The connection to the API server.

use std::time::Duration;

use kube::Config;
use tokio::time::timeout;

use super::ClusterError;

/// Timeout for connecting.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of one request, unless the user sets another one. A watch has no timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the API server, as this pod's ServiceAccount or as the user of a kubeconfig. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    kube: kube::Client,
    timeout: Duration,
    dry_run: bool,
}

impl Client {
    /// The client for the cluster in which this process is a pod. It connects with the first request. It reads the
    /// account's token and the cluster's CA again when they change. Async, because the client spawns a task and so
    /// needs a runtime.
    ///
    /// # Errors
    /// [`ClusterError::Outside`] where no ServiceAccount is mounted, [`ClusterError::SetUp`] if the mounted one cannot
    /// be used.
    pub async fn in_cluster() -> Result<Self, ClusterError> {
        let mut config = Config::incluster().map_err(|e| ClusterError::Outside(Box::new(e)))?;
        config.connect_timeout = Some(CONNECT);
        // The caller decides when to retry.
        config.default_retry = false;
        kube::Client::try_from(config).map(Self::of).map_err(|e| ClusterError::SetUp(Box::new(e)))
    }

    /// Wraps a client that the caller has built.
    pub(super) fn of(client: kube::Client) -> Self {
        Self { kube: client, timeout: REQUEST_TIMEOUT, dry_run: false }
    }

    /// The same client with another timeout of its requests.
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same client, whose changes the API server checks and does not store (`dryRun=All`).
    pub fn dry_run(&self) -> Self {
        Self { dry_run: true, ..self.clone() }
    }

    /// Whether the API server must not store changes.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    pub(super) fn kube(&self) -> kube::Client {
        self.kube.clone()
    }

    /// Awaits one request until its timeout. `what` says in an error what was requested.
    pub(super) async fn bound<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ClusterError> {
        match timeout(self.timeout, request).await {
            Ok(result) => result.map_err(|e| ClusterError::of(what, e)),
            Err(_) => Err(ClusterError::Slow { what, within: self.timeout }),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}
