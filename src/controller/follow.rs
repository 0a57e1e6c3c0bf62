//! A VolumeSnapshot whose OverlaySnapshot is there: it has its content, and says how far it is.

use jiff::Timestamp;
use serde_json::json;

use super::{
    Controller, ControllerError,
    error::Refusal,
    mirror,
    names::{POLICY, told},
    requests::{self, Next, Request},
};
use crate::cluster::{
    NodeState,
    overlay_snapshot::{Condition, OverlaySnapshot, OverlaySnapshotStatus, Phase},
    snapshot_api::{
        SnapshotRef, VolumeSnapshotClass, VolumeSnapshotContent, VolumeSnapshotContentSource,
        VolumeSnapshotContentSpec,
    },
};

impl Controller {
    pub(super) async fn follow(
        &self,
        request: &Request,
        made: &OverlaySnapshot,
    ) -> Result<Next, ControllerError> {
        let name = match request.content() {
            Ok(name) => name,
            Err(refusal) => return self.refuse(request, refusal).await,
        };
        let content = if made.spec.deleted {
            None
        } else {
            let content = match self.client().get::<VolumeSnapshotContent>(None, name).await? {
                Some(content) => content,
                None => {
                    let class = match self.class(request).await? {
                        Ok(class) => class.filter(|class| class.driver == self.0.driver),
                        Err(refusal) => return self.refuse(request, refusal).await,
                    };
                    let content = VolumeSnapshotContent::new(name, self.content(request, class));
                    self.client().create(&content).await?
                }
            };
            if !self.is_ours(&content, request) {
                // Somebody took the name between two looks. What was begun serves nobody.
                self.mark_deleted(made).await?;
                return self.refuse(request, Refusal::NameTaken(name.to_owned())).await;
            }
            self.remember_policy(made, &content).await?;
            Some(content)
        };
        // First: what csi-snapshotter hears makes the VolumeSnapshot ready, and then all of it should be there to read.
        self.mirror(request, made).await?;
        if let (Some(content), Some(phase)) = (content, mirror::phase(made)) {
            self.nudge(phase, &content).await?;
        }
        Ok(Next::Nothing)
    }

    /// Has csi-snapshotter ask again at once whether the snapshot of a VolumeSnapshot that goes is removed.
    pub(super) async fn hasten_deletion(
        &self,
        request: &Request,
        made: Option<OverlaySnapshot>,
    ) -> Result<Next, ControllerError> {
        if let Some(made) = &made {
            self.mirror(request, made).await?;
        }
        let gone = made.is_none_or(|made| mirror::phase(&made) == Some(Phase::Deleted));
        if let Ok(name) = request.content()
            && gone
            && let Some(content) = self.client().get::<VolumeSnapshotContent>(None, name).await?
            && self.is_ours(&content, request)
        {
            self.nudge(Phase::Deleted, &content).await?;
        }
        Ok(Next::Nothing)
    }

    /// The content for a VolumeSnapshot, bound to it from the beginning. The stock controllers add their own finalizer.
    fn content(
        &self,
        request: &Request,
        class: Option<VolumeSnapshotClass>,
    ) -> VolumeSnapshotContentSpec {
        let policy = class.as_ref().map_or("Delete", |class| class.deletion_policy.as_str());
        let text = |text: &str| Some(text.to_owned());
        VolumeSnapshotContentSpec {
            driver: self.0.driver.clone(),
            deletion_policy: policy.to_owned(),
            source: VolumeSnapshotContentSource {
                snapshot_handle: text(&request.id),
                volume_handle: None,
            },
            volume_snapshot_ref: SnapshotRef {
                api_version: text("snapshot.storage.k8s.io/v1"),
                kind: text("VolumeSnapshot"),
                namespace: text(&request.of.namespace),
                name: text(&request.of.name),
                uid: text(&request.of.uid),
            },
            volume_snapshot_class_name: class.as_ref().map(requests::name_of),
        }
    }

    /// Whether a content is the one that was made for a VolumeSnapshot.
    pub(super) fn is_ours(&self, content: &VolumeSnapshotContent, request: &Request) -> bool {
        let VolumeSnapshotContentSpec { driver, source, volume_snapshot_ref: of, .. } =
            &content.spec;
        *driver == self.0.driver
            && source.snapshot_handle.as_deref() == Some(&request.id)
            && of.namespace.as_deref() == Some(&request.of.namespace)
            && of.name.as_deref() == Some(&request.of.name)
            && of.uid.as_deref() == Some(&request.of.uid)
    }

    /// The policy may be changed on the content, and when the content is gone it is too late to look.
    async fn remember_policy(
        &self,
        made: &OverlaySnapshot,
        content: &VolumeSnapshotContent,
    ) -> Result<(), ControllerError> {
        let policy = &content.spec.deletion_policy;
        let known = made.metadata.annotations.as_ref().and_then(|notes| notes.get(POLICY));
        if known != Some(policy) {
            let changes =
                json!({"metadata": {"uid": made.metadata.uid, "annotations": {POLICY: policy}}});
            self.client().patch::<OverlaySnapshot>(None, &name_of(made), &changes).await?;
        }
        Ok(())
    }

    /// Has csi-snapshotter ask at once how far the snapshot is: it asks when a content changes, and else with pauses that grow to
    /// minutes.
    async fn nudge(
        &self,
        phase: Phase,
        content: &VolumeSnapshotContent,
    ) -> Result<(), ControllerError> {
        let known = content.metadata.annotations.as_ref().and_then(|notes| notes.get(told::PHASE));
        if known.map(String::as_str) != Some(phase.word()) {
            let notes = json!({told::PHASE: phase.word()});
            let changes = json!({"metadata": {"uid": content.metadata.uid, "annotations": notes}});
            let name = content.metadata.name.as_deref().unwrap_or_default();
            self.client().patch::<VolumeSnapshotContent>(None, name, &changes).await?;
        }
        Ok(())
    }

    /// Fails a snapshot whose node is gone for good and has taken it along. Should it come back after all with what it had cut, it says so.
    pub(super) async fn fail_without_node(
        &self,
        made: &OverlaySnapshot,
    ) -> Result<(), ControllerError> {
        let status = made.status.clone().unwrap_or_default();
        let kept_elsewhere = status.phase == Some(Phase::Ready) && status.image.is_some();
        if made.spec.deleted || kept_elsewhere || status.phase == Some(Phase::Failed) {
            return Ok(());
        }
        if self.client().node(&made.spec.node_name).await? != NodeState::Gone {
            return Ok(());
        }
        let node = &made.spec.node_name;
        let message = match status.phase {
            Some(Phase::Ready) => format!("node {node}, which alone had the snapshot, is gone"),
            Some(Phase::Pushing) => {
                format!("node {node} is gone, and had not pushed all of the snapshot")
            }
            _ => format!("node {node} is gone, and had not cut the volume"),
        };
        let conditions = without_node(&status, &message);
        // Nothing that the node says at this moment is written over.
        let changes = json!({
            "metadata": {"uid": made.metadata.uid, "resourceVersion": made.metadata.resource_version},
            "status": {"phase": Phase::Failed, "message": message, "conditions": conditions},
        });
        self.client().patch_status::<OverlaySnapshot>(None, &name_of(made), &changes).await?;
        Ok(())
    }
}

/// The conditions, with the one that says that the snapshot is not Ready.
fn without_node(status: &OverlaySnapshotStatus, why: &str) -> Vec<Condition> {
    let is_ready = |condition: &Condition| condition.r#type == "Ready";
    let mut conditions = status.conditions.clone();
    let known = conditions.iter().position(is_ready).map(|at| conditions.remove(at));
    let since = known.filter(|known| known.status == "False");
    let now = Timestamp::now();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    conditions.push(Condition {
        r#type: "Ready".to_owned(),
        status: "False".to_owned(),
        reason: "NodeGone".to_owned(),
        message: why.to_owned(),
        last_transition_time: since
            .map_or_else(|| now.to_string(), |known| known.last_transition_time),
    });
    conditions
}

pub(super) fn name_of(made: &OverlaySnapshot) -> String {
    made.metadata.name.clone().unwrap_or_default()
}
