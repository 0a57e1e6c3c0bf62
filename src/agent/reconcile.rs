//! Reconciles one OverlaySnapshot from any state: capture, squash, push, delete.
//!
//! ```text
//!          written              captured, its record durable   squashed, pushed
//! (nothing) ────► Capturing ───────────────────────► Pushing ─────────────────► Ready
//!                    │ it cannot be captured            │ it cannot be packed    │ its layers are lost
//!                    └────────────► Failed ◄────────────┴────────────────────────┘
//!                                        a registry that has lost the image of a Ready snapshot: lost_image
//!
//! any of them, once `deleted` is set ──► Deleting ──► manifest and record deleted ──► Deleted
//! ```
//!
//! The record in the store says which steps are done, never the phase: the phase is only what was reported last. So
//! after a kill at any line, the next reconciler continues at the same step. Each step first reads the object from the
//! API server, because an object from a watch may be old.

use std::time::Instant;

use tokio::{sync::watch, time::sleep};

use super::{
    engine::{Engine, Failure},
    shared::{Shared, WatchState},
    spec::{self, Spec},
    status::{self, CAPTURED, ConditionStatus, PUSHED, READY, SQUASHED},
};
use crate::{
    cluster::overlay_snapshot::{
        OverlaySnapshot, OverlaySnapshotSpec, OverlaySnapshotStatus, Phase,
    },
    error::Class,
    layers::SnapshotRecord,
    volumes::{PodEvent, PodEventType},
};

/// How often a capture is tried that finds too little free space. With the pauses in between it takes a minute.
const FULL_TRIES: u32 = 8;

/// What the reconciler does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Waits until the object changes.
    Done,
    /// Repeats the step after a pause, which doubles each time.
    Retry,
    /// Repeats the step after the longest pause, because a user must fix the cause.
    RetryLater,
}

/// The reconcile ended because the object does not exist any more.
pub(super) struct ObjectGone;

/// The reconciler of one snapshot.
pub(super) struct Reconciler<'a, E> {
    pub(super) shared: &'a Shared<E>,
    pub(super) name: &'a str,
    pub(super) watched: &'a mut watch::Receiver<WatchState>,
    /// When the deletion of its manifest was tried first.
    pub(super) delete_since: Option<Instant>,
    /// Whether the Event that it cannot be pushed yet was emitted.
    pub(super) reported: bool,
    /// How many captures failed for too little free space.
    full_tries: u32,
    /// The generation of the object that was read last.
    generation: Option<i64>,
}

impl<'a, E: Engine> Reconciler<'a, E> {
    pub(super) fn new(
        shared: &'a Shared<E>,
        name: &'a str,
        watched: &'a mut watch::Receiver<WatchState>,
    ) -> Self {
        Self {
            shared,
            name,
            watched,
            delete_since: None,
            reported: false,
            full_tries: 0,
            generation: None,
        }
    }

    /// Runs steps until nothing is left to do.
    pub(super) async fn run(&mut self) {
        let mut backoff = self.shared.timing.backoff();
        loop {
            let was_deleting = self.watched.borrow_and_update().deleting;
            // Boxed to keep the task small, because many reconcilers can wait at a time.
            match Box::pin(self.step()).await {
                Ok(Next::Done) | Err(ObjectGone) => return,
                Ok(Next::Retry) => {}
                Ok(Next::RetryLater) => backoff.skip_to_longest(),
            }
            tokio::select! {
                () = sleep(backoff.next_pause()) => {}
                () = deleting(self.watched), if !was_deleting => backoff.reset(),
            }
        }
    }

    /// Reads the object and the record, and carries out the next step.
    async fn step(&mut self) -> Result<Next, ObjectGone> {
        let response = {
            // The semaphore is never closed.
            let _permit = self.shared.gets.acquire().await.ok();
            self.shared.client.get::<OverlaySnapshot>(None, self.name).await
        };
        let object = match response {
            Ok(Some(object)) => object,
            Ok(None) => {
                self.shared.take_image_state(self.name);
                return Ok(self.forget_orphan().await);
            }
            Err(error) => {
                tracing::warn!(snapshot = self.name, %error, "cannot read the OverlaySnapshot");
                return Ok(Next::Retry);
            }
        };
        let image_state = self.shared.take_image_state(self.name);
        let OverlaySnapshotSpec { driver, node_name, deleted, .. } = &object.spec;
        if *driver != self.shared.driver || *node_name != self.shared.node {
            return Ok(Next::Done);
        }
        self.generation = object.metadata.generation;
        let mut status = object.status.clone().unwrap_or_default();
        if *deleted {
            return self.delete(&object, &mut status).await;
        }
        match status.phase {
            Some(Phase::NotInRegistry) if image_state.is_none() => return Ok(Next::Done),
            // The reason in the message is not true any more.
            Some(Phase::Failed) if self.is_back(&object, &status) => status.message = None,
            Some(Phase::Failed | Phase::Deleting | Phase::Deleted) => return Ok(Next::Done),
            Some(
                Phase::Capturing
                | Phase::Pushing
                | Phase::Ready
                | Phase::NotInRegistry
                | Phase::Unknown,
            )
            | None => {}
        }
        let spec = match Spec::new(&object) {
            Ok(spec) => spec,
            Err(failure) => return self.failed(&mut status, CAPTURED, &failure).await,
        };
        if let Some(state) = image_state.filter(|_| is_after_push(&status))
            && let Some(next) = self.after_check(&spec, state, &mut status).await?
        {
            return Ok(next);
        }
        let record = match self.shared.engine.record(&spec.capture.id) {
            Some(record) => match self.is_of_pod(&spec, record).await {
                Ok(record) => record,
                Err(failure) => return self.failed(&mut status, CAPTURED, &failure).await,
            },
            None if is_before_capture(&status) => match self.capture(&spec, &mut status).await? {
                Ok(record) => record,
                Err(next) => return Ok(next),
            },
            // Its image is still in the registry.
            None if status.phase == Some(Phase::Ready) && status.image.is_some() => {
                return Ok(Next::Done);
            }
            None => {
                let why = format!("its layers are missing on node {}", self.shared.node);
                let failure = Failure::new(Class::Precondition, why);
                return self.failed(&mut status, CAPTURED, &failure).await;
            }
        };
        self.after_capture(&spec, record, &mut status).await
    }

    /// Whether the controller gave up a snapshot because its node was gone, but the node is back and has the snapshot.
    /// A snapshot that failed on this node has the reason `Failed` in its condition instead.
    fn is_back(&self, object: &OverlaySnapshot, status: &OverlaySnapshotStatus) -> bool {
        let failed_here = status::reason(status, READY) == Some("Failed");
        let here = |id| self.shared.engine.record(&id).is_some();
        !failed_here && spec::id(object).is_ok_and(here)
    }

    /// Captures the volume. Returns the record, or what to do next where the capture failed.
    async fn capture(
        &mut self,
        spec: &Spec,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Result<SnapshotRecord, Next>, ObjectGone> {
        let failed_before =
            status::reason(status, CAPTURED).is_some_and(|reason| reason != "Capturing");
        if !failed_before {
            let before = status.clone();
            status::set_condition(status, CAPTURED, ConditionStatus::No, "Capturing", "");
            status::set_progress(status, Phase::Capturing, "");
            self.report(&before, status).await?;
        }
        let before = status.clone();
        let captured = tokio::select! {
            captured = self.shared.engine.capture(spec.capture.clone()) => captured,
            // The future is dropped, which ends the copy soon.
            () = deleting(self.watched) => return Ok(Err(Next::Retry)),
        };
        let captured = captured.map_err(|failure| self.limit_full_tries(spec.named(failure)));
        match captured {
            Ok(record) => {
                let message = format!(
                    "captured snapshot {} of volume {}: {}",
                    spec.name,
                    spec.volume,
                    status::summary(&record)
                );
                self.record_event(spec, PodEventType::Normal, "SnapshotCaptured", message);
                Ok(Ok(record))
            }
            Err(failure) if failure.is_retryable() => {
                tracing::info!(
                    snapshot = self.name,
                    why = failure.message,
                    "cannot capture the volume yet"
                );
                status::set_waiting(status, CAPTURED, &failure);
                self.report(&before, status).await?;
                Ok(Err(Next::Retry))
            }
            Err(failure) => {
                self.report_failure(spec, &failure);
                self.failed(status, CAPTURED, &failure).await.map(Err)
            }
        }
    }

    /// Makes a failure for too little free space final after [`FULL_TRIES`] tries, because each try writes to the full
    /// disk.
    fn limit_full_tries(&mut self, failure: Failure) -> Failure {
        if failure.class != Class::Exhausted {
            return failure;
        }
        self.full_tries += 1;
        if self.full_tries < FULL_TRIES {
            return failure;
        }
        let why = format!("{}; given up after {FULL_TRIES} tries", failure.message);
        Failure::new(Class::Precondition, why)
    }

    /// Checks that an existing snapshot belongs to the pod in the spec, and deletes its record if not. For a new
    /// capture the engine compares the pod with the volume's record. For an existing snapshot no capture is made, so it
    /// is checked here: no spec may keep the snapshot of another pod.
    async fn is_of_pod(
        &self,
        spec: &Spec,
        record: SnapshotRecord,
    ) -> Result<SnapshotRecord, Failure> {
        let (source, pod) = (&record.source, &spec.source);
        let recorded = (source.namespace.as_str(), source.pod_uid.as_str());
        if recorded == (pod.namespace.as_str(), pod.uid.as_str()) {
            return Ok(record);
        }
        self.shared.engine.forget(&record.id).await?;
        let why = format!(
            "volume {} belongs to another pod than {}/{}",
            spec.volume, pod.namespace, pod.name
        );
        Err(Failure::new(Class::Denied, why))
    }

    /// Carries out the steps after the capture: squash, push, ready.
    async fn after_capture(
        &mut self,
        spec: &Spec,
        record: SnapshotRecord,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Next, ObjectGone> {
        let before = status.clone();
        status::describe(status, &record);
        let deep = record.own_layers > spec.squash_above && record.pushed.is_none();
        let tried = status::reason(status, SQUASHED).is_some_and(|reason| reason != "Squashing");
        let is_pushed = record.pushed.is_some()
            && status.pushed_bytes.is_some()
            && !status::is_false(status, PUSHED);
        let pushing = spec.push.as_ref().filter(|_| !is_pushed);
        match pushing {
            Some(_) => {
                status::set_progress(status, Phase::Pushing, "pods on its node can start from it")
            }
            None => status::ready(status, &self.shared.node),
        }
        if deep && !tried {
            let message =
                format!("{} snapshot layers are being squashed into one", record.own_layers);
            status::set_condition(status, SQUASHED, ConditionStatus::No, "Squashing", message);
        }
        if let Some(why) = last_push_failure(&before).filter(|_| pushing.is_some()) {
            // The message of the last try stays until this try has progress or a result.
            status.message = Some(why);
        } else if pushing.is_some() {
            status::set_condition(status, PUSHED, ConditionStatus::No, "Pushing", "");
        }
        self.report(&before, status).await?;

        if deep && !tried && !self.squash(spec, pushing, record, status).await? {
            return Ok(Next::Retry);
        }
        match pushing {
            Some(target) => self.push(spec, target, status).await,
            None => Ok(Next::Done),
        }
    }

    pub(super) async fn failed(
        &mut self,
        status: &mut OverlaySnapshotStatus,
        r#type: &str,
        failure: &Failure,
    ) -> Result<Next, ObjectGone> {
        tracing::warn!(snapshot = self.name, why = failure.message, "failed");
        let before = status.clone();
        status::failed(status, r#type, failure);
        self.report(&before, status).await?;
        Ok(Next::Done)
    }

    pub(super) fn report_failure(&self, spec: &Spec, failure: &Failure) {
        let (name, volume, why) = (&spec.name, &spec.volume, &failure.message);
        let message = format!("snapshot {name} of volume {volume} failed: {why}");
        self.record_event(spec, PodEventType::Warning, "SnapshotFailed", message);
    }

    pub(super) fn record_event(
        &self,
        spec: &Spec,
        kind: PodEventType,
        reason: &'static str,
        message: String,
    ) {
        tracing::info!(snapshot = self.name, reason, message);
        self.shared.events.record(&spec.source, PodEvent { kind, reason, message });
    }

    /// Writes a changed status, and retries until the API server has it.
    pub(super) async fn report(
        &self,
        before: &OverlaySnapshotStatus,
        status: &OverlaySnapshotStatus,
    ) -> Result<(), ObjectGone> {
        if before == status {
            return Ok(());
        }
        let mut backoff = self.shared.timing.backoff();
        loop {
            match self.shared.client.report(self.name, self.generation, status).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => return Err(ObjectGone),
                Err(error) => {
                    tracing::warn!(snapshot = self.name, %error, "cannot write the status yet");
                }
            }
            sleep(backoff.next_pause()).await;
        }
    }
}

/// Whether the volume was never captured, as far as the status says. A later version of this node may have written a
/// phase that this version does not know.
fn is_before_capture(status: &OverlaySnapshotStatus) -> bool {
    match status.phase {
        None | Some(Phase::Capturing) => true,
        Some(Phase::Unknown) => !status::is_true(status, CAPTURED),
        Some(_) => false,
    }
}

/// Whether the status says that the snapshot was pushed completely.
fn is_after_push(status: &OverlaySnapshotStatus) -> bool {
    matches!(status.phase, Some(Phase::Ready | Phase::NotInRegistry)) && status.image.is_some()
}

/// Why the last try to push failed, or why the snapshot is pushed again.
fn last_push_failure(status: &OverlaySnapshotStatus) -> Option<String> {
    let pushed = status::condition(status, PUSHED)?;
    (pushed.status != "True" && pushed.reason != "Pushing").then(|| pushed.message.clone())
}

/// Waits until the snapshot is to be deleted, or its object is gone.
pub(super) async fn deleting(watched: &mut watch::Receiver<WatchState>) {
    if watched.wait_for(|state| state.deleting).await.is_err() {
        // The sender is dropped: no more changes come.
        std::future::pending::<()>().await;
    }
}
