//! Permits for scarce resources of a node, which namespaces get in turn.
//!
//! A free permit goes to the waiting namespace that holds the fewest permits. Among equals, the namespace that was
//! served longest ago is next. Requests of one namespace are served in their order. Some extra permits are only for
//! namespaces that hold none. So a namespace with few requests does not wait for the running work of others, and every
//! request is served at some time.
//!
//! Deliberately absent: priorities, and revoking a permit. The caller moves an operation that holds its permit for too
//! long to another pool.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A pool of permits that namespaces share.
#[derive(Debug)]
pub struct Turns {
    permits: usize,
    extra: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All permits in use.
    in_use: usize,
    /// Permits handed out since the start.
    served: u64,
    /// Namespaces that hold a permit or wait for one. Other namespaces are removed.
    namespaces: BTreeMap<String, Namespace>,
}

#[derive(Debug, Default)]
struct Namespace {
    held: usize,
    /// When the namespace was last served: the value of [`State::served`] then.
    served: u64,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// The right to run one operation. It is returned when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    turns: Arc<Turns>,
    namespace: String,
}

impl Turns {
    /// A pool of `permits` for all namespaces, and `extra` more for namespaces that hold none.
    pub fn new(permits: usize, extra: usize) -> Arc<Self> {
        Arc::new(Self { permits, extra, state: Mutex::default() })
    }

    /// Waits until it is the turn of `namespace`, and returns a permit. A caller that drops the future loses its place
    /// in the queue.
    pub async fn acquire(self: &Arc<Self>, namespace: &str) -> Permit {
        loop {
            let (turn, mine) = oneshot::channel();
            self.state
                .lock()
                .namespaces
                .entry(namespace.to_owned())
                .or_default()
                .waiting
                .push_back(turn);
            self.serve();
            // Only removing the namespace's entry drops the sender unused, and the entry stays while a request waits.
            if let Ok(permit) = mine.await {
                return permit;
            }
        }
    }

    /// A permit for `namespace`, if one is free at this moment and no request waits for it.
    pub fn try_acquire(self: &Arc<Self>, namespace: &str) -> Option<Permit> {
        let mut state = self.state.lock();
        state.drop_cancelled();
        let held = state.namespaces.get(namespace).map_or(0, |namespace| namespace.held);
        if state.next(self).is_some() || !self.has_for(&state, held) {
            return None;
        }
        state.take(namespace);
        drop(state);
        Some(Permit { turns: self.clone(), namespace: namespace.to_owned() })
    }

    /// Whether another namespace than `namespace` waits.
    pub fn others_wait(&self, namespace: &str) -> bool {
        let mut state = self.state.lock();
        state.drop_cancelled();
        state.namespaces.iter().any(|(name, other)| name != namespace && !other.waiting.is_empty())
    }

    /// How many permits are in use.
    pub fn in_use(&self) -> usize {
        self.state.lock().in_use
    }

    /// Whether a namespace that holds `held` permits may have one more.
    fn has_for(&self, state: &State, held: usize) -> bool {
        let most = self.permits + if held == 0 { self.extra } else { 0 };
        state.in_use < most
    }

    /// Hands out the free permits.
    fn serve(self: &Arc<Self>) {
        loop {
            let (permit, turn) = {
                let mut state = self.state.lock();
                state.drop_cancelled();
                let Some(namespace) = state.next(self) else { return };
                let waiting =
                    state.namespaces.get_mut(&namespace).map(|namespace| &mut namespace.waiting);
                let Some(turn) = waiting.and_then(VecDeque::pop_front) else { return };
                state.take(&namespace);
                (Permit { turns: self.clone(), namespace }, turn)
            };
            // Not while the state is locked: a permit whose receiver is gone is dropped here, which takes the lock.
            drop(turn.send(permit));
        }
    }
}

impl State {
    /// The namespace whose turn it is, if a permit is free for a waiting namespace.
    fn next(&self, turns: &Turns) -> Option<String> {
        let waits = |namespace: &Namespace| {
            !namespace.waiting.is_empty() && turns.has_for(self, namespace.held)
        };
        let waiting = self.namespaces.iter().filter(|(_, namespace)| waits(namespace));
        waiting
            .min_by_key(|(_, namespace)| (namespace.held, namespace.served))
            .map(|(name, _)| name.clone())
    }

    fn take(&mut self, namespace: &str) {
        self.in_use += 1;
        self.served += 1;
        let entry = self.namespaces.entry(namespace.to_owned()).or_default();
        entry.held += 1;
        entry.served = self.served;
    }

    /// Drops the queued requests whose callers gave up, and the namespaces that hold nothing and wait for nothing.
    fn drop_cancelled(&mut self) {
        self.namespaces.retain(|_, namespace| {
            namespace.waiting.retain(|turn| !turn.is_closed());
            namespace.held > 0 || !namespace.waiting.is_empty()
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.turns.state.lock();
            state.in_use -= 1;
            if let Some(namespace) = state.namespaces.get_mut(&self.namespace) {
                namespace.held -= 1;
            }
        }
        self.turns.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;

    type Waiting = BoxFuture<'static, Permit>;

    fn waits(turns: &Arc<Turns>, namespace: &'static str) -> Waiting {
        let turns = turns.clone();
        async move { turns.acquire(namespace).await }.boxed()
    }

    fn served(waiting: &mut Waiting) -> Option<Permit> {
        waiting.now_or_never()
    }

    /// Polls the request once, which puts it in the queue.
    fn queued(turns: &Arc<Turns>, namespace: &'static str) -> Waiting {
        let mut waiting = waits(turns, namespace);
        assert!(served(&mut waiting).is_none(), "{namespace} should wait");
        waiting
    }

    #[test]
    fn a_namespace_with_few_requests_is_served_before_one_with_many() {
        let turns = Turns::new(2, 0);
        let mut held: Vec<_> = (0..2).map(|_| served(&mut waits(&turns, "a")).unwrap()).collect();
        let (mut a1, mut a2, mut b) =
            (queued(&turns, "a"), queued(&turns, "a"), queued(&turns, "b"));
        assert!(turns.others_wait("a") && turns.others_wait("b"));
        held.pop();
        assert!(served(&mut a1).is_none(), "a waits for b");
        let b = served(&mut b).unwrap();
        assert!(!turns.others_wait("a"));
        held.pop();
        held.push(served(&mut a1).unwrap());
        assert!(served(&mut a2).is_none());
        drop(b);
        held.push(served(&mut a2).unwrap());
        assert_eq!(turns.in_use(), 2);
        drop(held);
        assert_eq!(turns.in_use(), 0);
    }

    #[test]
    fn namespaces_that_hold_equally_many_are_served_in_turn() {
        let turns = Turns::new(1, 0);
        let first = served(&mut waits(&turns, "a")).unwrap();
        let mut waiting: Vec<_> = ["a", "b", "c", "a", "b", "c"].map(|o| queued(&turns, o)).into();
        drop(first);
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let at = waiting.iter_mut().position(|waiting| {
                served(waiting).map(|permit| order.push(permit.namespace.clone())).is_some()
            });
            drop(waiting.remove(at.unwrap()));
        }
        assert_eq!(order, ["b", "c", "a", "b", "c", "a"]);
    }

    #[test]
    fn a_namespace_without_a_permit_does_not_wait_for_the_work_of_others() {
        let turns = Turns::new(2, 1);
        let mut held: Vec<_> = (0..2).map(|_| served(&mut waits(&turns, "a")).unwrap()).collect();
        let mut a = queued(&turns, "a");
        held.push(served(&mut waits(&turns, "b")).unwrap());
        assert!(turns.try_acquire("c").is_none(), "no extra permit is left");
        held.pop();
        assert!(served(&mut a).is_none() && turns.try_acquire("a").is_none());
        drop(turns.try_acquire("c").unwrap());
        held.pop();
        held.push(served(&mut a).unwrap());
        assert_eq!(turns.in_use(), 2);
    }

    #[test]
    fn a_request_that_was_dropped_takes_no_turn() {
        let turns = Turns::new(1, 0);
        let first = served(&mut waits(&turns, "a")).unwrap();
        let (gone, mut b) = (queued(&turns, "b"), queued(&turns, "b"));
        drop((gone, first));
        drop(served(&mut b).unwrap());
        // A permit that was sent to a receiver that never looked.
        let first = turns.try_acquire("a").unwrap();
        let given = queued(&turns, "b");
        drop(first);
        drop(given);
        assert_eq!(turns.in_use(), 0);
        assert_eq!(turns.try_acquire("c").unwrap().turns.state.lock().namespaces.len(), 1);
    }
}
