//! Creates the VolumeSnapshotContent of a VolumeSnapshot that has an OverlaySnapshot, and passes the progress on.

use jiff::Timestamp;
use serde_json::json;

use super::{
    Controller, ControllerError,
    error::Refusal,
    names::{POLICY, annotation_keys},
    status_annotations,
    volume_snapshot::{self, Action, Request},
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
    /// Creates the content if it is missing, and copies the progress to the VolumeSnapshot and to the content.
    pub(super) async fn follow(
        &self,
        request: &Request,
        made: &OverlaySnapshot,
    ) -> Result<Action, ControllerError> {
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
                // Another snapshot took the name in the meantime, so this OverlaySnapshot cannot be used.
                self.mark_deleted(made).await?;
                return self.refuse(request, Refusal::NameTaken(name.to_owned())).await;
            }
            self.remember_policy(made, &content).await?;
            Some(content)
        };
        // This comes first: csi-snapshotter makes the VolumeSnapshot ready, and by then all annotations should be
        // there.
        self.mirror(request, made).await?;
        if let (Some(content), Some(phase)) = (content, status_annotations::phase(made)) {
            self.requeue_content(phase, &content).await?;
        }
        Ok(Action::Nothing)
    }

    /// Requeues the content of a VolumeSnapshot that is being deleted once its snapshot is removed, so that
    /// csi-snapshotter checks the removal at once.
    pub(super) async fn touch(
        &self,
        request: &Request,
        made: Option<OverlaySnapshot>,
    ) -> Result<Action, ControllerError> {
        if let Some(made) = &made {
            self.mirror(request, made).await?;
        }
        let gone = made.is_none_or(|made| status_annotations::phase(&made) == Some(Phase::Deleted));
        if let Ok(name) = request.content()
            && gone
            && let Some(content) = self.client().get::<VolumeSnapshotContent>(None, name).await?
            && self.is_ours(&content, request)
        {
            self.requeue_content(Phase::Deleted, &content).await?;
        }
        Ok(Action::Nothing)
    }

    /// The content for a VolumeSnapshot, bound to it from the start. The stock controllers add their own finalizer.
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
            volume_snapshot_class_name: class.as_ref().map(volume_snapshot::name_of),
        }
    }

    /// Whether a content is the one that this driver created for a VolumeSnapshot.
    pub(super) fn is_ours(&self, content: &VolumeSnapshotContent, request: &Request) -> bool {
        let VolumeSnapshotContentSpec { driver, source, volume_snapshot_ref: of, .. } =
            &content.spec;
        *driver == self.0.driver
            && source.snapshot_handle.as_deref() == Some(&request.id)
            && of.namespace.as_deref() == Some(&request.of.namespace)
            && of.name.as_deref() == Some(&request.of.name)
            && of.uid.as_deref() == Some(&request.of.uid)
    }

    /// Copies the deletion policy of the content to the OverlaySnapshot. A user may change the policy on the content,
    /// and it cannot be read any more once the content is gone.
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

    /// Writes the phase into an annotation of the content. csi-snapshotter queries the snapshot when its content
    /// changes; otherwise it queries with pauses that grow to minutes.
    async fn requeue_content(
        &self,
        phase: Phase,
        content: &VolumeSnapshotContent,
    ) -> Result<(), ControllerError> {
        let known = content
            .metadata
            .annotations
            .as_ref()
            .and_then(|notes| notes.get(annotation_keys::PHASE));
        if known.map(String::as_str) != Some(phase.word()) {
            let notes = json!({annotation_keys::PHASE: phase.word()});
            let changes = json!({"metadata": {"uid": content.metadata.uid, "annotations": notes}});
            let name = content.metadata.name.as_deref().unwrap_or_default();
            self.client().patch::<VolumeSnapshotContent>(None, name, &changes).await?;
        }
        Ok(())
    }

    /// Marks a snapshot as failed if its node is gone for good and no other copy exists. If the node comes back after
    /// all with the captured layers, it reports the snapshot again.
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
            Some(Phase::Ready) => format!("the snapshot was only on node {node}, which is gone"),
            Some(Phase::Pushing) => {
                format!("node {node} is gone, and it had not pushed the snapshot completely")
            }
            _ => format!("node {node} is gone, and it had not captured the volume"),
        };
        let conditions = without_node(&status, &message);
        // The resource version protects a status that the node writes at the same time.
        let changes = json!({
            "metadata": {"uid": made.metadata.uid, "resourceVersion": made.metadata.resource_version},
            "status": {"phase": Phase::Failed, "message": message, "conditions": conditions},
        });
        self.client().patch_status::<OverlaySnapshot>(None, &name_of(made), &changes).await?;
        Ok(())
    }
}

/// The conditions with `Ready` set to `False` for the reason `NodeGone`.
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
