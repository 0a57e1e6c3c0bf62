//! One of several processes leads.
//!
//! What is led here is safe to be done by two at once (each step is checked by the API server), so a leader that is cut off may end
//! its work some seconds after another has begun.

use std::time::Duration;

use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Client;

/// For how many seconds a leader that says nothing still leads.
const DURATION: u64 = 15;
/// How many seconds before that it says that it is there.
const GRACE: u64 = 10;
/// The pause after an error.
const PAUSE: Duration = Duration::from_secs(2);
/// How long giving the lease back may take, at the end.
const RELEASE: Duration = Duration::from_secs(3);

/// The Lease that says who leads.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are: no other process has this name.
    pub identity: String,
}

impl Client {
    /// Runs `work` whenever this process leads, and cancels its token when it does not any more, until `stop`; then the lease is
    /// given back, after the work has ended.
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
                tracing::warn!(%error, lease = lease.name, "cannot find out who leads: trying on");
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
        // False only when it ends before it began.
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
        tracing::info!(lease = lease.name, "leading no more");
        if stop.is_cancelled() {
            return release(&manager).await;
        }
        if result.is_ok() {
            sleep(PAUSE).await;
        }
        result
    }
}

/// So that the next one need not wait.
async fn release(manager: &LeaseManager) -> Result<(), LeaseManagerError> {
    timeout(RELEASE, manager.release()).await.unwrap_or(Ok(()))
}
