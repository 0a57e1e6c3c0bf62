//! Permits for what is scarce on a node, handed out to namespaces in turn.
//!
//! A permit that comes free goes to the owner among those who wait that holds the fewest, and among equals to the one who was
//! served longest ago; one owner's own requests are served in their order. Some permits more are only for owners who hold
//! none: so whoever asks for little does not wait for the end of what others have begun, and nobody is passed over for ever.
//!
//! Deliberately absent: priorities, and taking a permit back. Who holds one for too long is moved elsewhere by its caller.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Some permits, shared by owners (a namespace each).
#[derive(Debug)]
pub struct Turns {
    permits: usize,
    firsts: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All permits that are held.
    held: usize,
    /// Permits that were ever handed out.
    served: u64,
    /// Who holds or waits. An owner who does neither is forgotten.
    owners: BTreeMap<String, Owner>,
}

#[derive(Debug, Default)]
struct Owner {
    held: usize,
    /// When it was last served, counted in permits.
    served: u64,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// The right to go on, given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    turns: Arc<Turns>,
    owner: String,
}

impl Turns {
    /// So many `permits` for all, and `firsts` more for owners who hold none.
    pub fn new(permits: usize, firsts: usize) -> Arc<Self> {
        Arc::new(Self { permits, firsts, state: Mutex::default() })
    }

    /// A permit for `owner`, when it is its turn. Dropped before that, it gives its place up.
    pub async fn acquire(self: &Arc<Self>, owner: &str) -> Permit {
        loop {
            let (turn, mine) = oneshot::channel();
            self.lock().owners.entry(owner.to_owned()).or_default().waiting.push_back(turn);
            self.serve();
            // The sender goes unused only with the entry of an owner, which stays while somebody waits.
            if let Ok(permit) = mine.await {
                return permit;
            }
        }
    }

    /// A permit for `owner` if there is one at this moment for which nobody waits.
    pub fn try_acquire(self: &Arc<Self>, owner: &str) -> Option<Permit> {
        let mut state = self.lock();
        state.forget_the_gone();
        let held = state.owners.get(owner).map_or(0, |owner| owner.held);
        if state.next(self).is_some() || !self.has_for(&state, held) {
            return None;
        }
        state.take(owner);
        drop(state);
        Some(Permit { turns: self.clone(), owner: owner.to_owned() })
    }

    /// Whether anybody but `owner` waits.
    pub fn others_wait(&self, owner: &str) -> bool {
        let mut state = self.lock();
        state.forget_the_gone();
        state.owners.iter().any(|(name, other)| name != owner && !other.waiting.is_empty())
    }

    /// How many permits are held.
    pub fn held(&self) -> usize {
        self.lock().held
    }

    /// Whether an owner of `held` permits may have one more.
    fn has_for(&self, state: &State, held: usize) -> bool {
        let most = self.permits + if held == 0 { self.firsts } else { 0 };
        state.held < most
    }

    /// Hands out what is free.
    fn serve(self: &Arc<Self>) {
        loop {
            let (permit, turn) = {
                let mut state = self.lock();
                state.forget_the_gone();
                let Some(owner) = state.next(self) else { return };
                let waiting = state.owners.get_mut(&owner).map(|owner| &mut owner.waiting);
                let Some(turn) = waiting.and_then(VecDeque::pop_front) else { return };
                state.take(&owner);
                (Permit { turns: self.clone(), owner }, turn)
            };
            // Not while locked: one for which nobody waits any more comes back at once.
            drop(turn.send(permit));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whose turn it is, if there is a permit for anybody who waits.
    fn next(&self, turns: &Turns) -> Option<String> {
        let waits = |owner: &Owner| !owner.waiting.is_empty() && turns.has_for(self, owner.held);
        let waiting = self.owners.iter().filter(|(_, owner)| waits(owner));
        waiting.min_by_key(|(_, owner)| (owner.held, owner.served)).map(|(name, _)| name.clone())
    }

    fn take(&mut self, owner: &str) {
        self.held += 1;
        self.served += 1;
        let entry = self.owners.entry(owner.to_owned()).or_default();
        entry.held += 1;
        entry.served = self.served;
    }

    /// Drops the places of those who gave up, and the owners who want nothing.
    fn forget_the_gone(&mut self) {
        self.owners.retain(|_, owner| {
            owner.waiting.retain(|turn| !turn.is_closed());
            owner.held > 0 || !owner.waiting.is_empty()
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.turns.lock();
            state.held -= 1;
            if let Some(owner) = state.owners.get_mut(&self.owner) {
                owner.held -= 1;
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

    fn waits(turns: &Arc<Turns>, owner: &'static str) -> Waiting {
        let turns = turns.clone();
        async move { turns.acquire(owner).await }.boxed()
    }

    fn served(waiting: &mut Waiting) -> Option<Permit> {
        waiting.now_or_never()
    }

    /// Polled once: who waits has its place then.
    fn asked(turns: &Arc<Turns>, owner: &'static str) -> Waiting {
        let mut waiting = waits(turns, owner);
        assert!(served(&mut waiting).is_none(), "{owner} should wait");
        waiting
    }

    #[test]
    fn a_namespace_that_asks_for_little_is_served_before_one_that_asks_for_much() {
        let turns = Turns::new(2, 0);
        let mut held: Vec<_> = (0..2).map(|_| served(&mut waits(&turns, "a")).unwrap()).collect();
        let (mut a1, mut a2, mut b) = (asked(&turns, "a"), asked(&turns, "a"), asked(&turns, "b"));
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
        assert_eq!(turns.held(), 2);
        drop(held);
        assert_eq!(turns.held(), 0);
    }

    #[test]
    fn namespaces_that_hold_equally_many_are_served_in_turn() {
        let turns = Turns::new(1, 0);
        let first = served(&mut waits(&turns, "a")).unwrap();
        let mut waiting: Vec<_> = ["a", "b", "c", "a", "b", "c"].map(|o| asked(&turns, o)).into();
        drop(first);
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let at = waiting.iter_mut().position(|waiting| {
                served(waiting).map(|permit| order.push(permit.owner.clone())).is_some()
            });
            drop(waiting.remove(at.unwrap()));
        }
        assert_eq!(order, ["b", "c", "a", "b", "c", "a"]);
    }

    #[test]
    fn who_holds_nothing_does_not_wait_for_what_others_have_begun() {
        let turns = Turns::new(2, 1);
        let mut held: Vec<_> = (0..2).map(|_| served(&mut waits(&turns, "a")).unwrap()).collect();
        let mut a = asked(&turns, "a");
        held.push(served(&mut waits(&turns, "b")).unwrap());
        assert!(turns.try_acquire("c").is_none(), "no first is left");
        held.pop();
        assert!(served(&mut a).is_none() && turns.try_acquire("a").is_none());
        drop(turns.try_acquire("c").unwrap());
        held.pop();
        held.push(served(&mut a).unwrap());
        assert_eq!(turns.held(), 2);
    }

    #[test]
    fn who_gave_up_takes_no_turn() {
        let turns = Turns::new(1, 0);
        let first = served(&mut waits(&turns, "a")).unwrap();
        let (gone, mut b) = (asked(&turns, "b"), asked(&turns, "b"));
        drop((gone, first));
        drop(served(&mut b).unwrap());
        // One that was given and not looked at.
        let first = turns.try_acquire("a").unwrap();
        let given = asked(&turns, "b");
        drop(first);
        drop(given);
        assert_eq!(turns.held(), 0);
        assert_eq!(turns.try_acquire("c").unwrap().turns.lock().owners.len(), 1);
    }
}
