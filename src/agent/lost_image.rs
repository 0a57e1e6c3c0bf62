//! What becomes of a snapshot whose image the registry has lost: it is pushed again if its layers are on this node.
//!
//! ```text
//!        missing, and all layers are here
//! Ready ──────────────────────────────────► Pushing ──► Ready
//!   │ ▲                                        │ it cannot be packed
//!   │ └────────── the image is back ────────┐  ▼
//!   └─────────────────────────────────────► NotInRegistry ── missing, and all layers are here ──► Pushing
//!        missing, and layers are not here
//! ```
//!
//! Deliberately absent: the record of the snapshot. It keeps the image, which is also the image of the next push if the
//! registry has the same layers. The condition `Pushed` says that the push is to be repeated.

use super::{
    engine::Engine,
    reconcile::{Next, ObjectGone, Reconciler},
    shared::ImageState,
    spec::Spec,
    status::{self, ConditionStatus, PUSHED},
};
use crate::cluster::overlay_snapshot::{NOT_IN_REGISTRY, OverlaySnapshotStatus, Phase};

impl<E: Engine> Reconciler<'_, E> {
    /// Acts on the result of a check. Returns what to do next, or `None` if the snapshot is to be pushed again.
    pub(super) async fn after_check(
        &self,
        spec: &Spec,
        state: ImageState,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Option<Next>, ObjectGone> {
        match state {
            ImageState::Missing => {}
            ImageState::Present if status.phase == Some(Phase::NotInRegistry) => {
                let before = status.clone();
                let message = "the registry has the image again";
                tracing::info!(snapshot = self.name, message);
                status::set_condition(status, PUSHED, ConditionStatus::Yes, "Pushed", message);
                status::ready(status, &self.shared.node);
                self.report(&before, status).await?;
                return Ok(Some(Next::Done));
            }
            ImageState::Present => return Ok(Some(Next::Done)),
        }
        if !self.shared.engine.has_layers(&spec.capture.id).await {
            let why = format!("node {} does not have all its layers", self.shared.node);
            return self.not_in_registry(&why, status).await.map(Some);
        }
        let image = status.image.clone().unwrap_or_default();
        tracing::warn!(snapshot = self.name, image, "the image is not in the registry any more");
        let message = format!("image {image} is not in the registry any more; it is pushed again");
        status::set_condition(status, PUSHED, ConditionStatus::No, NOT_IN_REGISTRY, message);
        Ok(None)
    }

    /// Reports that the registry does not have the image, and why this node cannot push it again.
    pub(super) async fn not_in_registry(
        &self,
        why: &str,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Next, ObjectGone> {
        let before = status.clone();
        let image = status.image.clone().unwrap_or_default();
        let message = format!(
            "image {image} is not in the registry any more, and it cannot be pushed again: {why}; put the image back \
             into the registry, or take a new snapshot"
        );
        tracing::warn!(snapshot = self.name, why = message, "not in the registry");
        status::not_in_registry(status, &message);
        self.report(&before, status).await?;
        Ok(Next::Done)
    }
}
