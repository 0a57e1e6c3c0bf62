//! Whose turn it is to push: namespaces in turn, and nobody waits for another one's registry.
//!
//! One that hardly moves gives its permit to others and goes on without: it waits for a registry, which may be its namespace's
//! own. How many of these there are has a bound of its own.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{snapshots::Progress, turns::Turns};

/// How many snapshots are pushed at a time: while one is packed, another can be sent.
const AT_ONCE: usize = 2;

/// How many there are at a time with those that hardly move; and so many more of namespaces that have none.
const ALL: usize = 8;
const FIRSTS: usize = 24;

/// What moves less than so many bytes in [`Pushes::new`]'s time hardly moves.
const SLOW: u64 = 1 << 20;

/// The pushes of one node.
#[derive(Debug)]
pub(super) struct Pushes {
    quick: Arc<Turns>,
    all: Arc<Turns>,
    slow: Duration,
}

impl Pushes {
    /// How far each has come is looked at once in `slow`.
    pub(super) fn new(slow: Duration) -> Self {
        Self { quick: Turns::new(AT_ONCE, 0), all: Turns::new(ALL, FIRSTS), slow }
    }

    /// Works once it is the namespace's turn. While it hardly moves another one works too.
    pub(super) async fn in_turn<T>(
        &self,
        namespace: &str,
        progress: &Progress,
        work: impl Future<Output = T>,
    ) -> T {
        let _one = self.all.acquire(namespace).await;
        let quick = self.quick.acquire(namespace).await;
        let slow = async {
            let mut before = progress.moved();
            loop {
                sleep(self.slow).await;
                let now = progress.moved();
                if now.saturating_sub(before) < SLOW {
                    break;
                }
                before = now;
            }
            drop(quick);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            done = work => done,
            never = slow => match never {},
        }
    }
}
