//! Concurrency limits for one kind of work, with a separate lane for slow work, fair among namespaces.
//!
//! ```text
//! request ─► permit of the fast lane, in the namespace's turn ─► work runs
//!                                                                 │ is slow
//!                                                                 ├─► the slow lane has a permit: the work moves there
//!                                                                 └─► it has none, and another namespace waits: the work
//!                                                                     is stopped, and is tried again later
//! ```
//!
//! A registry may send as slowly as it likes. Its work then shares the slow lane with the work of other slow
//! registries. Deliberately absent: the way back to the fast lane. Work that becomes fast again ends soon.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::turns::{Permit, Turns};

/// The permits of the two lanes for one kind of work. There are at most 32 in all, and the work of each may hold a
/// share of the memory ([`crate::budget`]).
const FAST: usize = 8;
const FAST_EXTRA: usize = 8;
const SLOW: usize = 12;
const SLOW_EXTRA: usize = 4;

/// How often the lane checks whether work is slow.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The time within which a near registry responds. Work that takes longer is slow.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// The two lanes for one kind of work.
#[derive(Debug)]
pub(super) struct Lanes {
    fast: Arc<Turns>,
    slow: Arc<Turns>,
    interval: Duration,
}

/// A permit of one of the lanes. All tasks of the work share it, so the permit is free when the last of them ends.
#[derive(Debug)]
pub(super) struct Lane(Mutex<Permit>);

/// The work was slow, and was stopped because another namespace waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crowded;

impl Default for Lanes {
    fn default() -> Self {
        let (fast, slow) = (Turns::new(FAST, FAST_EXTRA), Turns::new(SLOW, SLOW_EXTRA));
        Self { fast, slow, interval: CHECK_INTERVAL }
    }
}

impl Lanes {
    /// Waits for a permit of the fast lane, in the namespace's turn.
    pub(super) async fn enter(&self, namespace: &str) -> Arc<Lane> {
        Arc::new(Lane(Mutex::new(self.fast.acquire(namespace).await)))
    }

    /// Runs `work` in `lane`. Calls `is_slow` once a second, and moves slow work to the slow lane.
    pub(super) async fn watch<T>(
        &self,
        namespace: &str,
        lane: &Lane,
        work: impl Future<Output = T>,
        mut is_slow: impl FnMut() -> bool,
    ) -> Result<T, Crowded> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep(self.interval) => {}
            }
            if !is_slow() {
                continue;
            }
            if let Some(slow) = self.slow.try_acquire(namespace) {
                *lane.0.lock() = slow;
                return Ok(work.await);
            }
            if self.fast.others_wait(namespace) {
                return Err(Crowded);
            }
        }
    }

    /// Runs `work` with a permit. The work is slow after [`SLOW_AFTER`].
    pub(super) async fn run<T>(
        &self,
        namespace: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Crowded> {
        let lane = self.enter(namespace).await;
        let begun = Instant::now();
        self.watch(namespace, &lane, work, || begun.elapsed() >= SLOW_AFTER).await
    }

    /// The permits in use: of the fast lane and of the slow lane.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> (usize, usize) {
        (self.fast.in_use(), self.slow.in_use())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn checking_often() -> Arc<Lanes> {
        Arc::new(Lanes { interval: Duration::from_millis(1), ..Lanes::default() })
    }

    /// Work of `namespace` that never ends and is always slow.
    fn slow_work(
        lanes: &Arc<Lanes>,
        namespace: &'static str,
    ) -> tokio::task::JoinHandle<Result<(), Crowded>> {
        let lanes = lanes.clone();
        tokio::spawn(async move {
            let lane = lanes.enter(namespace).await;
            lanes.watch(namespace, &lane, pending(), || true).await
        })
    }

    async fn until(what: impl Fn() -> bool) {
        let reached = async {
            while !what() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, reached).await.unwrap();
    }

    #[tokio::test]
    async fn slow_work_moves_to_the_slow_lane_and_other_work_goes_on() {
        let lanes = checking_often();
        let slow: Vec<_> = (0..SLOW).map(|_| slow_work(&lanes, "a")).collect();
        until(|| lanes.in_use() == (0, SLOW)).await;
        let done = lanes.run("b", async { 7 }).now_or_never();
        assert_eq!(done, Some(Ok(7)));
        slow.iter().for_each(tokio::task::JoinHandle::abort);
        until(|| lanes.in_use() == (0, 0)).await;
    }

    #[tokio::test]
    async fn slow_work_is_stopped_if_the_slow_lane_is_full_and_another_namespace_waits() {
        let lanes = checking_often();
        let all = |namespace| (0..12).map(move |_| namespace);
        let names = all("a").chain(all("b")).chain(all("c"));
        let slow: Vec<_> = names.map(|namespace| slow_work(&lanes, namespace)).collect();
        // Work without a permit of the slow lane is stopped for the namespaces that wait, until none waits.
        timeout(LONG, lanes.run("d", async {})).await.unwrap().unwrap();
        until(|| lanes.in_use().1 >= SLOW).await;
        slow.iter().for_each(tokio::task::JoinHandle::abort);
        until(|| lanes.in_use() == (0, 0)).await;
    }
}
