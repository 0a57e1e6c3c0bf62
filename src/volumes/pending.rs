//! Publishes that wait for their layers, and how they are called off.
//!
//! A pull may take an hour; nobody holds the volume's lock meanwhile, so that its pod can go at any time. What then takes
//! the lock to make the volume has to know that it is not wanted any more, or it would mount for a pod that is gone.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{VolumeId, lock::VolumeLock};

/// Everybody who waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending(Arc<Mutex<Vec<(VolumeId, CancellationToken)>>>);

/// One who waits; it is forgotten when dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    pending: Pending,
    token: CancellationToken,
}

impl Pending {
    /// Begins to wait.
    pub(super) fn wait(&self, lock: &VolumeLock) -> Waiting {
        let token = CancellationToken::new();
        self.all(|all| all.push((lock.id().clone(), token.clone())));
        Waiting { pending: self.clone(), token }
    }

    /// Calls off everybody who waits for the volume.
    pub(super) fn call_off(&self, lock: &VolumeLock) {
        self.all(|all| {
            for (_, token) in all.iter().filter(|(id, _)| id == lock.id()) {
                token.cancel();
            }
        });
    }

    fn all<T>(&self, f: impl FnOnce(&mut Vec<(VolumeId, CancellationToken)>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Waiting {
    /// Returns when the volume is not wanted any more.
    pub(super) async fn called_off(&self) {
        self.token.cancelled().await;
    }

    /// Whether that is so already. The answer holds while the volume's lock is held.
    pub(super) fn is_called_off(&self, _: &VolumeLock) -> bool {
        self.token.is_cancelled()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A token is equal to no other, but cancelling it tells which it is: nobody waits on it any more.
        self.token.cancel();
        self.pending.all(|all| all.retain(|(_, token)| !token.is_cancelled()));
    }
}
