//! One snapshot, carried out from whatever state it is in.
//!
//! ```text
//!          written              cut, its record durable        squashed, pushed
//! (nothing) ────► Cutting ─────────────────────────► Pushing ─────────────────► Ready
//!                    │ it cannot be cut                 │ not to be packed       │ its layers are lost
//!                    └────────────► Failed ◄────────────┴────────────────────────┘
//!
//! any of them, once `deleted` is set ──► Deleting ──► manifest removed, record forgotten ──► Deleted
//! ```
//!
//! What is done is known by the record in the store, never by the phase: the phase says what was told last. So a worker that was
//! killed at any line goes on where it was. Each one begins by reading the object from the API server, because what a watch
//! brings may be old.

use std::time::{Duration, Instant};

use tokio::{sync::watch, time::sleep};

use super::{
    engine::{Engine, Failure},
    order::{self, Order},
    run::{Seen, Shared},
    status::{self, CUT, Holds, PUSHED, READY, SQUASHED},
};
use crate::{
    cluster::overlay_snapshot::{OverlaySnapshot, OverlaySnapshotStatus, Phase},
    fault::Class,
    layers::SnapshotRecord,
    volumes::{Notice, NoticeKind},
};

/// How often a capture is tried that finds no room: with the pauses between them, a minute.
const FULL: u32 = 8;

/// What comes after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until the object changes.
    Done,
    /// The same, a little later.
    Again,
    /// The same, when somebody had time to mend something.
    Later,
}

/// What cannot go on: the object is not there any more.
pub(super) struct Gone;

/// One snapshot's worker.
pub(super) struct Worker<'a, E> {
    pub(super) shared: &'a Shared<E>,
    pub(super) name: &'a str,
    pub(super) seen: &'a mut watch::Receiver<Seen>,
    /// When its registry was first asked to remove it.
    pub(super) removing: Option<Instant>,
    /// Whether its pod was told that it cannot be pushed yet.
    pub(super) told: bool,
    /// How often there was no room for its capture.
    full: u32,
}

impl<'a, E: Engine> Worker<'a, E> {
    pub(super) fn new(
        shared: &'a Shared<E>,
        name: &'a str,
        seen: &'a mut watch::Receiver<Seen>,
    ) -> Self {
        Self { shared, name, seen, removing: None, told: false, full: 0 }
    }

    /// Works as long as there is something to do.
    pub(super) async fn run(&mut self) {
        let mut pause = self.shared.pace.first;
        loop {
            let was_leaving = self.seen.borrow_and_update().leaves;
            // Boxed, because workers that wait are many.
            match Box::pin(self.step()).await {
                Ok(Next::Done) | Err(Gone) => return,
                Ok(Next::Again) => {}
                Ok(Next::Later) => pause = self.shared.pace.longest,
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(self.shared.pace.longest),
                () = leaves(self.seen), if !was_leaving => pause = self.shared.pace.first,
            }
        }
    }

    /// Looks at the object and at the record, and does what is next.
    async fn step(&mut self) -> Result<Next, Gone> {
        let looked = {
            // Never closed.
            let _turn = self.shared.looks.acquire().await.ok();
            self.shared.client.get::<OverlaySnapshot>(None, self.name).await
        };
        let object = match looked {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(self.forget_lost().await),
            Err(error) => {
                tracing::warn!(snapshot = self.name, %error, "cannot be looked at");
                return Ok(Next::Again);
            }
        };
        let spec = &object.spec;
        if spec.driver != self.shared.driver || spec.node_name != self.shared.node {
            return Ok(Next::Done);
        }
        let mut status = object.status.clone().unwrap_or_default();
        if spec.deleted {
            return self.remove(&object, &mut status).await;
        }
        match status.phase {
            // Why it was given up holds no more.
            Some(Phase::Failed) if self.is_back(&object, &status) => status.message = None,
            Some(Phase::Failed | Phase::Deleting | Phase::Deleted) => return Ok(Next::Done),
            Some(Phase::Cutting | Phase::Pushing | Phase::Ready) | None => {}
        }
        let order = match Order::new(&object) {
            Ok(order) => order,
            Err(failure) => return self.failed(&mut status, CUT, &failure).await,
        };
        let record = match self.shared.engine.record(&order.cut.id) {
            Some(record) => match self.of_that_pod(&order, record).await {
                Ok(record) => record,
                Err(failure) => return self.failed(&mut status, CUT, &failure).await,
            },
            None if status.phase.is_none_or(|phase| phase == Phase::Cutting) => {
                match self.cut(&order, &mut status).await? {
                    Ok(record) => record,
                    Err(next) => return Ok(next),
                }
            }
            // Where it was pushed it is still.
            None if status.phase == Some(Phase::Ready) && status.image.is_some() => {
                return Ok(Next::Done);
            }
            None => {
                let why = format!("its layers are gone from node {}", self.shared.node);
                let failure = Failure::new(Class::Precondition, why);
                return self.failed(&mut status, CUT, &failure).await;
            }
        };
        self.bring_on(&order, record, &mut status).await
    }

    /// Whether a snapshot that failed was only given up by others because its node was gone, and is here with it again. What
    /// failed here says so in its condition.
    fn is_back(&self, object: &OverlaySnapshot, status: &OverlaySnapshotStatus) -> bool {
        let failed_here = status::reason(status, READY) == Some("Failed");
        let here = |id| self.shared.engine.record(&id).is_some();
        !failed_here && order::id(object).is_ok_and(here)
    }

    /// Cuts the volume; what comes next where it is not cut.
    async fn cut(
        &mut self,
        order: &Order,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Result<SnapshotRecord, Next>, Gone> {
        let waits = status::reason(status, CUT).is_some_and(|reason| reason != "Cutting");
        if !waits {
            let before = status.clone();
            status::say(status, CUT, Holds::No, "Cutting", "");
            status::goes_on(status, Phase::Cutting, "");
            self.report(&before, status).await?;
        }
        let before = status.clone();
        let cut = tokio::select! {
            cut = self.shared.engine.cut(order.cut.clone()) => cut,
            // Dropped, the copy ends soon.
            () = leaves(self.seen) => return Ok(Err(Next::Again)),
        };
        let cut = cut.map_err(|failure| self.counted(failure));
        match cut {
            Ok(record) => {
                let message = format!(
                    "snapshot {} of volume {}: {}",
                    order.name,
                    order.volume,
                    status::sentence(&record)
                );
                self.tell(order, NoticeKind::Normal, "Snapshotted", message);
                Ok(Ok(record))
            }
            Err(failure) if failure.heals() => {
                tracing::info!(snapshot = self.name, why = failure.message, "cannot be cut yet");
                status::has_to_wait(status, CUT, &failure);
                self.report(&before, status).await?;
                Ok(Err(Next::Again))
            }
            Err(failure) => {
                self.tell_failed(order, &failure);
                self.failed(status, CUT, &failure).await.map(Err)
            }
        }
    }

    /// What failed for want of room heals a few times, and then no more: each try costs the disk that has none.
    fn counted(&mut self, failure: Failure) -> Failure {
        if failure.class != Class::Exhausted {
            return failure;
        }
        self.full += 1;
        if self.full < FULL {
            return failure;
        }
        let why = format!("{}; given up after {FULL} tries", failure.message);
        Failure::new(Class::Precondition, why)
    }

    /// Whoever asked for it named the pod; the volume's own record knew it. Of a snapshot that is here already the engine is not
    /// asked, and nobody gets to keep another pod's.
    async fn of_that_pod(
        &self,
        order: &Order,
        record: SnapshotRecord,
    ) -> Result<SnapshotRecord, Failure> {
        let (source, pod) = (&record.source, &order.source);
        let is = (source.namespace.as_str(), source.pod_uid.as_str());
        if is == (pod.namespace.as_str(), pod.uid.as_str()) {
            return Ok(record);
        }
        self.shared.engine.forget(&record.id).await?;
        let why = format!(
            "volume {} is of another pod than {}/{}",
            order.cut.volume, pod.namespace, pod.name
        );
        Err(Failure::new(Class::Denied, why))
    }

    /// What comes after the cut: squash, push, ready.
    async fn bring_on(
        &mut self,
        order: &Order,
        record: SnapshotRecord,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Next, Gone> {
        let before = status.clone();
        status::describe(status, &record);
        let deep = record.own > order.squash_above && record.pushed.is_none();
        let tried = status::reason(status, SQUASHED).is_some_and(|reason| reason != "Squashing");
        let is_pushed = record.pushed.is_some() && status.pushed_bytes.is_some();
        let pushing = order.push.as_ref().filter(|_| !is_pushed);
        match pushing {
            Some(_) => status::goes_on(status, Phase::Pushing, "it can be restored on its node"),
            None => status::ready(status, &self.shared.node),
        }
        if deep && !tried {
            let why = format!("{} layers of its own become one", record.own);
            status::say(status, SQUASHED, Holds::No, "Squashing", why);
        }
        if let Some(waits) = waits(&before).filter(|_| pushing.is_some()) {
            // Said until there is something else to say.
            status.message = Some(waits);
        } else if pushing.is_some() {
            status::say(status, PUSHED, Holds::No, "Pushing", "");
        }
        self.report(&before, status).await?;

        if deep && !tried && !self.squash(order, pushing, record, status).await? {
            return Ok(Next::Again);
        }
        match pushing {
            Some(target) => self.push(order, target, status).await,
            None => Ok(Next::Done),
        }
    }

    pub(super) async fn failed(
        &mut self,
        status: &mut OverlaySnapshotStatus,
        doing: &str,
        failure: &Failure,
    ) -> Result<Next, Gone> {
        tracing::warn!(snapshot = self.name, why = failure.message, "failed");
        let before = status.clone();
        status::failed(status, doing, failure);
        self.report(&before, status).await?;
        Ok(Next::Done)
    }

    pub(super) fn tell_failed(&self, order: &Order, failure: &Failure) {
        let (name, volume, why) = (&order.name, &order.volume, &failure.message);
        let message = format!("snapshot {name} of volume {volume}: {why}");
        self.tell(order, NoticeKind::Warning, "SnapshotFailed", message);
    }

    pub(super) fn tell(
        &self,
        order: &Order,
        kind: NoticeKind,
        reason: &'static str,
        message: String,
    ) {
        tracing::info!(snapshot = self.name, reason, message);
        self.shared.notices.tell(&order.source, Notice { kind, reason, message });
    }

    /// Writes the status where it changed, until the API server has it.
    pub(super) async fn report(
        &self,
        before: &OverlaySnapshotStatus,
        status: &OverlaySnapshotStatus,
    ) -> Result<(), Gone> {
        if before == status {
            return Ok(());
        }
        let mut pause = self.shared.pace.first;
        loop {
            match self.shared.client.report(self.name, status).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => return Err(Gone),
                Err(error) => {
                    tracing::warn!(snapshot = self.name, %error, "what became of it is not told yet");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.shared.pace.longest);
        }
    }
}

/// What a push waits for, if it does: why the last try failed.
fn waits(status: &OverlaySnapshotStatus) -> Option<String> {
    let pushed = status::condition(status, PUSHED)?;
    (pushed.reason != "Pushing").then(|| pushed.message.clone())
}

/// Waits until the snapshot is to be removed, or is gone.
pub(super) async fn leaves(seen: &mut watch::Receiver<Seen>) {
    if seen.wait_for(|seen| seen.leaves).await.is_err() {
        // Nobody tells any more.
        std::future::pending::<()>().await;
    }
}

/// How patient workers are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The first pause between two tries; doubled after each, up to the longest.
    pub(super) first: Duration,
    pub(super) longest: Duration,
    /// For how long a registry is asked to remove a manifest.
    pub(super) patience: Duration,
    /// After which time it is told how far a push is; the next times take longer.
    pub(super) news: Duration,
    /// A push that hardly moves in this time keeps no others waiting.
    pub(super) slow: Duration,
}
