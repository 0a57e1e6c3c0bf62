//! Leader election by a Lease.
//!
//! The elected work is safe if two processes do it at once, because the API server checks each step. So a leader that
//! is cut off may end its work some seconds after another one has started.

use std::time::Duration;

use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Client;

/// The duration of the Lease, in seconds: a leader that does not renew it stops leading after that.
const DURATION: u64 = 15;
/// How many seconds before the end of the Lease the leader renews it.
const GRACE: u64 = 10;
/// The pause after an error.
const PAUSE: Duration = Duration::from_secs(2);
/// Timeout for releasing the Lease at the end.
const RELEASE: Duration = Duration::from_secs(3);

/// The Lease object of an election, and this process as a candidate.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The name of this candidate. It must be unique among the processes of the election.
    pub identity: String,
}

impl Client {
    /// Takes part in the election until `stop`. While this process leads, it runs `work`. It cancels the token of
    /// `work` when this process no longer leads. On `stop`, it waits for the end of `work` and then releases the Lease.
    pub async fn lead<W>(
        &self,
        lease: &Lease,
        stop: &CancellationToken,
        work: impl Fn(CancellationToken) -> W,
    ) where
        W: Future<Output = ()>,
    {
        while !stop.is_cancelled() {
            if let Err(error) = self.try_to_lead(lease, stop, &work).await {
                tracing::warn!(%error, lease = lease.name, "leader election failed: retrying");
                let _ = timeout(PAUSE, stop.cancelled()).await;
            }
        }
    }

    async fn try_to_lead<W>(
        &self,
        lease: &Lease,
        stop: &CancellationToken,
        work: &impl Fn(CancellationToken) -> W,
    ) -> Result<(), LeaseManagerError>
    where
        W: Future<Output = ()>,
    {
        let manager = LeaseManagerBuilder::new(self.kube(), &lease.name)
            .with_namespace(&lease.namespace)
            .with_identity(&lease.identity)
            .with_field_manager(&lease.identity)
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build();
        let Some(manager) = stop.run_until_cancelled(manager).await.transpose()? else {
            return Ok(());
        };
        // `false` only if leading ended before it was seen to start.
        while stop
            .run_until_cancelled(manager.changed())
            .await
            .transpose()?
            .is_some_and(|leads| !leads)
        {}
        if stop.is_cancelled() {
            return release(&manager).await;
        }
        tracing::info!(lease = lease.name, identity = lease.identity, "leading");
        let lost = stop.child_token();
        let watched = async {
            let changed = lost.run_until_cancelled(manager.changed()).await;
            lost.cancel();
            changed.transpose().map(drop)
        };
        let worked = async {
            work(lost.clone()).await;
            lost.cancel();
        };
        let (result, ()) = tokio::join!(watched, worked);
        tracing::info!(lease = lease.name, "no longer leading");
        if stop.is_cancelled() {
            return release(&manager).await;
        }
        if result.is_ok() {
            sleep(PAUSE).await;
        }
        result
    }
}

/// Releases the Lease, so that the next leader need not wait for its end.
async fn release(manager: &LeaseManager) -> Result<(), LeaseManagerError> {
    timeout(RELEASE, manager.release()).await.unwrap_or(Ok(()))
}
