//! Limits how many snapshots a node pushes at a time. Namespaces take turns, and none waits for the registry of
//! another.
//!
//! A push that is slow gives its permit back and continues without it: it waits for a registry, which a tenant may
//! control. The number of slow pushes has its own limit.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{snapshots::Progress, turns::Turns};

/// How many snapshots are pushed at a time, without the slow ones: while one is packed, another can be sent.
const FAST: usize = 2;

/// How many snapshots are pushed at a time, with the slow ones.
const ALL: usize = 8;

/// How many more are pushed for namespaces that have no push under way.
const FIRST_OF_NAMESPACE: usize = 24;

/// A push is slow if it packs, fetches and sends fewer bytes than this in the interval of [`Pushes::new`].
const SLOW_BYTES: u64 = 1 << 20;

/// The limits for the pushes of one node.
#[derive(Debug)]
pub(super) struct Pushes {
    fast: Arc<Turns>,
    all: Arc<Turns>,
    interval: Duration,
}

impl Pushes {
    /// The progress of each push is checked once in every `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        let all = Turns::new(ALL, FIRST_OF_NAMESPACE);
        Self { fast: Turns::new(FAST, 0), all, interval }
    }

    /// Runs `work` once it is the namespace's turn. As soon as `work` is slow, another push can start.
    pub(super) async fn in_turn<T>(
        &self,
        namespace: &str,
        progress: &Progress,
        work: impl Future<Output = T>,
    ) -> T {
        let _permit = self.all.acquire(namespace).await;
        let fast = self.fast.acquire(namespace).await;
        let release_when_slow = async {
            let mut before = progress.bytes_moved();
            loop {
                sleep(self.interval).await;
                let now = progress.bytes_moved();
                if now.saturating_sub(before) < SLOW_BYTES {
                    break;
                }
                before = now;
            }
            drop(fast);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            done = work => done,
            never = release_when_slow => match never {},
        }
    }
}
