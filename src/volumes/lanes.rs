//! How much of one kind of work for strangers goes on at a time, and whose.
//!
//! ```text
//! asked for ─► a permit in the namespace's turn ─► under way ─► slow: a permit of the slow lane, and the first goes to the next
//!                                                              └─► none is left there, and somebody waits: ended, to be tried again
//! ```
//!
//! A registry may send as slowly as it likes; it then shares its lane with others that do. Deliberately absent: the way back, for
//! what is slow now and fast a minute later ends all the sooner.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::turns::{Permit, Turns};

/// Permits for one kind of work. With the slow ones there are 32 at most, of which each may hold its part of the memory
/// ([`crate::budget`]).
const AT_ONCE: usize = 8;
const FIRSTS: usize = 8;
const SLOW: usize = 12;
const SLOW_FIRSTS: usize = 4;

/// How often it is looked at whether work is slow.
const LOOK: Duration = Duration::from_secs(1);

/// What any registry that is near answers within.
pub(super) const SOON: Duration = Duration::from_secs(2);

/// Permits for one kind of work.
#[derive(Debug)]
pub(super) struct Lanes {
    fast: Arc<Turns>,
    slow: Arc<Turns>,
    look: Duration,
}

/// A place in one of the lanes. Shared by all who do the work, so that it is free when the last of them is done.
#[derive(Debug)]
pub(super) struct Lane(Mutex<Permit>);

/// The work was slow, and ended for others who wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crowded;

impl Default for Lanes {
    fn default() -> Self {
        let (fast, slow) = (Turns::new(AT_ONCE, FIRSTS), Turns::new(SLOW, SLOW_FIRSTS));
        Self { fast, slow, look: LOOK }
    }
}

impl Lanes {
    /// A place, when it is the namespace's turn.
    pub(super) async fn enter(&self, namespace: &str) -> Arc<Lane> {
        Arc::new(Lane(Mutex::new(self.fast.acquire(namespace).await)))
    }

    /// Does `work` in `lane`, and changes the lane when `is_slow` says so; it is asked once a second.
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
                () = sleep(self.look) => {}
            }
            if !is_slow() {
                continue;
            }
            if let Some(slow) = self.slow.try_acquire(namespace) {
                *lane.0.lock().unwrap_or_else(PoisonError::into_inner) = slow;
                return Ok(work.await);
            }
            if self.fast.others_wait(namespace) {
                return Err(Crowded);
            }
        }
    }

    /// Does `work`, which is slow when it is not done soon.
    pub(super) async fn run<T>(
        &self,
        namespace: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Crowded> {
        let lane = self.enter(namespace).await;
        let begun = Instant::now();
        self.watch(namespace, &lane, work, || begun.elapsed() >= SOON).await
    }

    /// Permits held in both lanes.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
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

    fn hurried() -> Arc<Lanes> {
        Arc::new(Lanes { look: Duration::from_millis(1), ..Lanes::default() })
    }

    /// Work of `namespace` that never ends and is always slow.
    fn creep(
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
    async fn what_creeps_shares_a_lane_of_its_own_and_others_go_on() {
        let lanes = hurried();
        let creeping: Vec<_> = (0..SLOW).map(|_| creep(&lanes, "a")).collect();
        until(|| lanes.held() == (0, SLOW)).await;
        let done = lanes.run("b", async { 7 }).now_or_never();
        assert_eq!(done, Some(Ok(7)));
        creeping.iter().for_each(tokio::task::JoinHandle::abort);
        until(|| lanes.held() == (0, 0)).await;
    }

    #[tokio::test]
    async fn where_all_is_slow_who_creeps_ends_for_who_waits() {
        let lanes = hurried();
        let all = |namespace| (0..12).map(move |_| namespace);
        let names = all("a").chain(all("b")).chain(all("c"));
        let creeping: Vec<_> = names.map(|namespace| creep(&lanes, namespace)).collect();
        // Those that find no place in the slow lane end for the others that wait, until nobody does.
        timeout(LONG, lanes.run("d", async {})).await.unwrap().unwrap();
        until(|| lanes.held().1 >= SLOW).await;
        creeping.iter().for_each(tokio::task::JoinHandle::abort);
        until(|| lanes.held() == (0, 0)).await;
    }
}
