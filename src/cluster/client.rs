//! The way to the API server.

use std::time::Duration;

use kube::Config;
use tokio::time::timeout;

use super::ClusterError;

/// How long a connection may take to come about.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long one request may take. A watch has no such end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The API server, as this pod's ServiceAccount. Cheap to clone.
#[derive(Clone)]
pub struct Client(kube::Client);

impl Client {
    /// The cluster that this process is a pod of. Connects with the first request; the account's token and the
    /// cluster's CA are read again when they change. Async because the client has a task of its own, for which there has to be a
    /// runtime.
    ///
    /// # Errors
    /// [`ClusterError::Outside`] where no ServiceAccount is mounted, [`ClusterError::SetUp`] if what is mounted cannot be used.
    pub async fn in_cluster() -> Result<Self, ClusterError> {
        let mut config = Config::incluster().map_err(|e| ClusterError::Outside(Box::new(e)))?;
        config.connect_timeout = Some(CONNECT);
        // Whoever asks knows how patient to be.
        config.default_retry = false;
        kube::Client::try_from(config).map(Self).map_err(|e| ClusterError::SetUp(Box::new(e)))
    }

    /// One that is made elsewhere.
    pub(super) fn of(client: kube::Client) -> Self {
        Self(client)
    }

    pub(super) fn kube(&self) -> kube::Client {
        self.0.clone()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// The answer to one request, with the words for what was asked.
pub(super) async fn bound<T>(
    what: &'static str,
    asked: impl Future<Output = kube::Result<T>>,
) -> Result<T, ClusterError> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|e| ClusterError::of(what, e)),
        Err(_) => Err(ClusterError::Slow { what, within: PATIENCE }),
    }
}
