//! The turns of namespaces: a limited number of reconciles make requests at a time, and a namespace with many snapshots
//! does not delay another one.
//!
//! ```text
//!              first request            its turn                    end of the reconcile
//!  reconcile ────────────────> NoTurn ──────────> reconcile again ─────────────────────> the next one's turn
//!                  │ a permit is free             with its permit
//!                  └────────────────> goes on
//! ```
//!
//! A reconcile that has to wait ends, and is called again when its turn comes. It does not wait where it is, because
//! kube polls every running reconcile at each event, and takes waiting ones in no order.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use futures::channel::mpsc::UnboundedSender;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::error::ReconcileError;
use crate::{
    cluster::Client,
    turns::{Permit, Turns},
};

/// How many reconciles make requests at a time. More of them do not make a busy API server faster: each request waits
/// for the others, and so does that of a namespace with one snapshot. With 16 and 8 it waited twice as long
/// (`cargo xtask bench controller`: a content beside 2,500 others).
const PERMITS: usize = 6;
/// How many more there may be for namespaces that have none: they do not wait for the requests of others.
const EXTRA: usize = 3;

/// Who makes requests, and who waits for a turn.
#[derive(Debug)]
pub(super) struct NamespaceTurns {
    turns: Arc<Turns>,
    state: Mutex<State>,
    /// Gets the id of a snapshot when its turn comes.
    due: UnboundedSender<String>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// The ids of the snapshots that wait.
    waiting: HashSet<String>,
    /// The permits of those whose turn it is, until their reconcile takes them.
    granted: HashMap<String, Permit>,
}

impl NamespaceTurns {
    /// Sends an id to `due` when its turn comes, until `stop`.
    pub(super) fn new(due: UnboundedSender<String>, stop: CancellationToken) -> Arc<Self> {
        let turns = Turns::new(PERMITS, EXTRA);
        Arc::new(Self { turns, state: Mutex::default(), due, stop })
    }

    /// The permit for the reconcile of a snapshot. `None`: its turn has not come, and it is reconciled again then.
    fn take(self: &Arc<Self>, id: &str, namespace: &str) -> Option<Permit> {
        let mut state = self.state.lock();
        if let Some(permit) = state.granted.remove(id) {
            return Some(permit);
        }
        if state.waiting.contains(id) {
            return None;
        }
        if let Some(permit) = self.turns.try_acquire(namespace) {
            return Some(permit);
        }
        state.waiting.insert(id.to_owned());
        drop(state);
        let (turns, id, namespace) = (self.clone(), id.to_owned(), namespace.to_owned());
        tokio::spawn(async move {
            let stop = turns.stop.clone();
            let permit = stop.run_until_cancelled(turns.turns.acquire(&namespace)).await;
            let mut state = turns.state.lock();
            state.waiting.remove(&id);
            if let Some(permit) = permit {
                state.granted.insert(id.clone(), permit);
                // An error: the reconciles have ended.
                let _ = turns.due.unbounded_send(id);
            }
        });
        None
    }

    /// Gives up the turn of a snapshot that is not reconciled, or needs no requests any more.
    pub(super) fn release(&self, id: &str) {
        let permit = self.state.lock().granted.remove(id);
        drop(permit);
    }
}

/// The turn of one reconcile. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Arc<NamespaceTurns>,
    client: &'a Client,
    id: &'a str,
    namespace: &'a str,
    /// Empty before the first request; `None` where the turn has not come.
    permit: OnceLock<Option<Permit>>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        turns: &'a Arc<NamespaceTurns>,
        client: &'a Client,
        id: &'a str,
        namespace: &'a str,
    ) -> Self {
        Self { turns, client, id, namespace, permit: OnceLock::new() }
    }

    /// The client, for a request of this reconcile.
    ///
    /// # Errors
    /// [`ReconcileError::NoTurn`]: the reconcile must end, and is called again.
    pub(super) fn client(&self) -> Result<&'a Client, ReconcileError> {
        let permit = self.permit.get_or_init(|| self.turns.take(self.id, self.namespace));
        permit.as_ref().map(|_| self.client).ok_or(ReconcileError::NoTurn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // A reconcile that made no request may have had its turn.
        if self.permit.get().is_none() {
            self.turns.release(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{StreamExt as _, channel::mpsc::unbounded};

    use super::*;
    use crate::cluster::fake::FakeApi;

    #[tokio::test]
    async fn a_namespace_with_many_snapshots_does_not_delay_another() {
        let (due, mut dues) = unbounded();
        let (client, stop) = (FakeApi::default().client(), CancellationToken::new());
        let turns = NamespaceTurns::new(due, stop.clone());
        let ids: Vec<_> = (0..100).map(|n| format!("a-{n}")).collect();
        let many: Vec<_> = ids.iter().map(|id| Turn::new(&turns, &client, id, "a")).collect();
        let served = many.iter().filter(|turn| turn.client().is_ok()).count();
        assert_eq!(served, PERMITS);
        let other = Turn::new(&turns, &client, "b-0", "b");
        assert!(other.client().is_ok(), "the other namespace waits");
        // No error is lost, and no turn: each waiting one is called once, in the order of its first request.
        drop(many);
        for id in &ids[PERMITS..] {
            let next = tokio::time::timeout(Duration::from_secs(30), dues.next()).await;
            assert_eq!(next.unwrap().as_ref(), Some(id));
            assert!(Turn::new(&turns, &client, id, "a").client().is_ok());
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn a_turn_that_is_not_needed_any_more_is_given_up() {
        let (due, mut dues) = unbounded();
        let (client, stop) = (FakeApi::default().client(), CancellationToken::new());
        let turns = NamespaceTurns::new(due, stop.clone());
        let ids: Vec<_> = (0..PERMITS + 2).map(|n| format!("a-{n}")).collect();
        let mut held: Vec<_> = ids.iter().map(|id| Turn::new(&turns, &client, id, "a")).collect();
        assert_eq!(held.iter().filter(|turn| turn.client().is_err()).count(), 2);
        held.remove(0);
        assert_eq!(dues.next().await.as_deref(), Some(&*ids[PERMITS]));
        // Its reconcile finds nothing to do.
        drop(Turn::new(&turns, &client, &ids[PERMITS], "a"));
        assert_eq!(dues.next().await.as_deref(), Some(&*ids[PERMITS + 1]));
        // The object of this one is gone, so it is not reconciled.
        turns.release(&ids[PERMITS + 1]);
        assert!(Turn::new(&turns, &client, "a-new", "a").client().is_ok());
        stop.cancel();
    }
}
