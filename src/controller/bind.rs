//! Creates the VolumeSnapshotContent of a VolumeSnapshot that has an OverlaySnapshot, and passes the progress on.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::{
    Controller,
    cached::{CachedVolumeSnapshot, Content, Overlay},
    caches::SnapshotObjects,
    error::{ReconcileError, Refusal},
    names::POLICY,
    run::Reconciler,
    turn::Turn,
    volume_snapshot::{self, is_taken},
};
use crate::cluster::{
    Client, ClusterError, NodeState, annotation_keys,
    overlay_snapshot::{Condition, OverlaySnapshot, OverlaySnapshotStatus, Phase},
    snapshot_api::{
        SnapshotRef, VolumeSnapshotClass, VolumeSnapshotContent, VolumeSnapshotContentSource,
        VolumeSnapshotContentSpec,
    },
};

impl Reconciler {
    /// Creates the content if it is missing, and copies the progress to the VolumeSnapshot and to the content.
    pub(super) async fn follow(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        overlay: &Overlay,
        snapshot: &SnapshotObjects,
    ) -> Result<(), ReconcileError> {
        let content = match overlay.is_deleted {
            true => None,
            false => {
                let content = self.ensure_content(turn, request, overlay).await?;
                self.remember_policy(turn, overlay, &content).await?;
                Some(content)
            }
        };
        // This comes before `requeue_content`: csi-snapshotter then makes the VolumeSnapshot ready, and all annotations
        // should be there.
        self.mirror(turn, request, overlay, snapshot).await?;
        match (content, overlay.status.phase) {
            // Before the capture, csi-snapshotter would find nothing new.
            (None, _) | (_, None | Some(Phase::Capturing | Phase::Unknown)) => Ok(()),
            (Some(content), Some(phase)) => self.requeue_content(turn, phase, &content).await,
        }
    }

    /// The content of a VolumeSnapshot. Creates it if it does not exist.
    async fn ensure_content(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        overlay: &Overlay,
    ) -> Result<Arc<Content>, ReconcileError> {
        let name = request.content_name()?;
        if let Some(content) = self.caches.content(name).filter(|known| known.is_of(request)) {
            return Ok(content);
        }
        let driver = &self.controller.0.driver;
        let class = self.class(turn, request).await?.filter(|class| class.driver == *driver);
        let new = VolumeSnapshotContent::new(name, self.content_spec(request, class));
        let client = turn.client()?;
        let content = match client.create(&new).await {
            Err(error) if is_taken(&error) => client.get(None, name).await?.ok_or(error)?,
            created => created?,
        };
        let content = Content::of(content, driver);
        if !content.is_of(request) {
            // Another snapshot took the name in the meantime, so this OverlaySnapshot cannot be used.
            self.controller.mark_deleted(overlay).await?;
            return Err(Refusal::NameTaken(name.to_owned()).into());
        }
        Ok(Arc::new(content))
    }

    /// The content for a VolumeSnapshot, bound to it from the start. The stock controllers add their own finalizer.
    fn content_spec(
        &self,
        request: &CachedVolumeSnapshot,
        class: Option<VolumeSnapshotClass>,
    ) -> VolumeSnapshotContentSpec {
        let policy = class.as_ref().map_or("Delete", |class| class.deletion_policy.as_str());
        let text = |text: &str| Some(text.to_owned());
        VolumeSnapshotContentSpec {
            driver: self.controller.0.driver.clone(),
            deletion_policy: policy.to_owned(),
            source: VolumeSnapshotContentSource {
                snapshot_handle: Some(request.id()),
                volume_handle: None,
            },
            volume_snapshot_ref: SnapshotRef {
                api_version: text("snapshot.storage.k8s.io/v1"),
                kind: text("VolumeSnapshot"),
                namespace: text(&request.reference.namespace),
                name: text(&request.reference.name),
                uid: text(&request.reference.uid),
            },
            volume_snapshot_class_name: class.as_ref().map(volume_snapshot::name_of),
        }
    }

    /// Copies the deletion policy of the content to the OverlaySnapshot. A user may change the policy on the content,
    /// and it cannot be read any more once the content is gone.
    async fn remember_policy(
        &self,
        turn: &Turn<'_>,
        overlay: &Overlay,
        content: &Content,
    ) -> Result<(), ReconcileError> {
        if overlay.retained.unwrap_or_default() != content.retains {
            let policy = if content.retains { "Retain" } else { "Delete" };
            let changes =
                json!({"metadata": {"uid": overlay.uid, "annotations": {POLICY: policy}}});
            turn.client()?.patch::<OverlaySnapshot>(None, &overlay.name, &changes).await?;
        }
        Ok(())
    }

    /// Writes the phase into an annotation of the content. csi-snapshotter queries the snapshot when its content
    /// changes; otherwise it queries with pauses that grow to minutes.
    async fn requeue_content(
        &self,
        turn: &Turn<'_>,
        phase: Phase,
        content: &Content,
    ) -> Result<(), ReconcileError> {
        if content.phase.as_deref() != Some(phase.word()) {
            write_phase(turn.client()?, phase, content).await?;
        }
        Ok(())
    }

    /// Marks a snapshot as failed if its node is gone for good and no other copy exists. If the node comes back after
    /// all with the captured layers, it reports the snapshot again.
    pub(super) async fn fail_without_node(
        &self,
        turn: &Turn<'_>,
        overlay: &Overlay,
    ) -> Result<(), ReconcileError> {
        let node = &overlay.node;
        if !overlay.needs_node() || self.caches.node(node) != NodeState::Gone {
            return Ok(());
        }
        let client = turn.client()?;
        if client.node(node).await? != NodeState::Gone {
            return Ok(());
        }
        let Some(object) = client.get::<OverlaySnapshot>(None, &overlay.name).await? else {
            return Ok(());
        };
        let (metadata, status) = (object.metadata.clone(), object.status.clone());
        if !Overlay::from(object).needs_node() {
            return Ok(());
        }
        let status = status.unwrap_or_default();
        let message = match status.phase {
            Some(Phase::Ready) => format!("the snapshot was only on node {node}, which is gone"),
            Some(Phase::Pushing) => {
                format!("node {node} is gone, and it had not pushed the snapshot completely")
            }
            _ => format!("node {node} is gone, and it had not captured the volume"),
        };
        let conditions = without_node(&status, metadata.generation, &message);
        // The resource version protects a status that the node writes at the same time.
        let changes = json!({
            "metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version},
            "status": {"phase": Phase::Failed, "message": message, "conditions": conditions},
        });
        client.patch_status::<OverlaySnapshot>(None, &overlay.name, &changes).await?;
        Ok(())
    }
}

impl Controller {
    /// Requeues the content of a snapshot that its node has removed, so that csi-snapshotter checks the removal at
    /// once.
    ///
    /// This comes before the object of the snapshot is deleted, and so before any call DeleteSnapshot succeeds.
    /// csi-snapshotter then replaces the status of the content, and emits a warning if the content changes meanwhile.
    pub(super) async fn requeue_removed(&self, overlay: &Overlay) -> Result<(), ClusterError> {
        let client = self.client();
        // An earlier version did not write the name down.
        let Some(name) = &overlay.content else { return Ok(()) };
        let Some(content) = client.get::<VolumeSnapshotContent>(None, name).await? else {
            return Ok(());
        };
        let content = Content::of(content, &self.0.driver);
        let is_its = content.has_our_driver && content.handle.as_ref() == Some(&overlay.name);
        match is_its && content.phase.as_deref() != Some(Phase::Deleted.word()) {
            true => write_phase(client, Phase::Deleted, &content).await,
            false => Ok(()),
        }
    }
}

/// Writes the phase into an annotation of a content.
async fn write_phase(client: &Client, phase: Phase, content: &Content) -> Result<(), ClusterError> {
    let annotations = json!({annotation_keys::PHASE: phase.word()});
    let changes = json!({"metadata": {"uid": content.uid, "annotations": annotations}});
    client.patch::<VolumeSnapshotContent>(None, &content.name, &changes).await.map(drop)
}

/// The conditions with `Ready` set to `False` for the reason `NodeGone`.
fn without_node(
    status: &OverlaySnapshotStatus,
    generation: Option<i64>,
    why: &str,
) -> Vec<Condition> {
    let is_ready = |condition: &Condition| condition.r#type == "Ready";
    let mut conditions = status.conditions.clone();
    let known = conditions.iter().position(is_ready).map(|at| conditions.remove(at));
    let since = known.filter(|known| known.status == "False");
    let now = Timestamp::now();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    conditions.push(Condition {
        r#type: "Ready".to_owned(),
        status: "False".to_owned(),
        observed_generation: generation,
        reason: "NodeGone".to_owned(),
        message: why.to_owned(),
        last_transition_time: since
            .map_or_else(|| now.to_string(), |known| known.last_transition_time),
    });
    conditions
}
