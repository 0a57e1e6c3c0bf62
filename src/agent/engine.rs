//! The operations on snapshots that the agent calls, as a trait with one implementation for the node and one for tests.
//! The fakes of the kernel and of a registry cannot make a capture or a push fail with a chosen class, or make it wait
//! for the test. So the tests of `reconcile` replace the engine.

use std::{fmt::Display, future::Future, sync::Arc};

use tokio::task::spawn_blocking;

use crate::{
    digest::ManifestDigest,
    error::Class,
    image::Keyring,
    layers::{SnapshotId, SnapshotRecord, Store},
    reference::{Reference, Repository},
    snapshots::{CaptureRequest, Progress, PushError, PushRequest, Pushed, Snapshots},
};

/// Why an operation on a snapshot failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the failure means to the caller.
    pub class: Class,
    /// The error message.
    pub message: String,
    /// Whether no change outside the snapshot can make a later try succeed.
    pub(super) permanent: bool,
}

impl Failure {
    pub(super) fn new(class: Class, message: impl Display) -> Self {
        Self { class, message: message.to_string(), permanent: false }
    }

    /// Why a push failed. Errors about the content of the layers are permanent: a name, a device, a limit that is
    /// passed.
    fn of_push(error: &PushError) -> Self {
        let permanent = match error {
            PushError::Incomplete(_) => true,
            PushError::Packing { source, .. } => {
                matches!(source.class(), Class::Precondition | Class::Invalid)
            }
            PushError::Absent(_)
            | PushError::Replaced(_)
            | PushError::Busy(_)
            | PushError::Registry { .. }
            | PushError::Disk { .. } => false,
        };
        Self { permanent, ..Self::new(error.class(), error) }
    }

    /// Whether a later try may succeed without any change by a user.
    pub(super) fn is_retryable(&self) -> bool {
        matches!(self.class, Class::Busy | Class::Unavailable | Class::Exhausted)
    }

    /// Whether a later try to push may succeed without any change by a user. Data that were corrupted in transit are
    /// sent again.
    pub(super) fn push_may_succeed_later(&self) -> bool {
        self.is_retryable() || matches!(self.class, Class::Corrupt | Class::Internal)
    }

    /// The reason of a condition.
    pub(super) fn reason(&self) -> &'static str {
        match self.class {
            Class::Invalid => "Invalid",
            Class::NotFound => "NotFound",
            Class::Conflict => "Conflict",
            Class::Precondition => "ActionRequired",
            Class::Busy => "Busy",
            Class::Unavailable => "Unavailable",
            Class::Exhausted => "NoSpace",
            Class::Denied => "AccessDenied",
            Class::Corrupt => "DataCorrupt",
            Class::Internal => "InternalError",
        }
    }

    /// Whether a condition has the reason of this failure. An earlier version wrote the name of the class.
    pub(super) fn has_reason(&self, reason: &str) -> bool {
        reason == self.reason() || reason == format!("{:?}", self.class)
    }
}

/// The operations on the snapshots of a node. In tests it is a fake that fails as the test wants.
pub(super) trait Engine: Clone + Send + Sync + 'static {
    /// The ids of all snapshots on this node.
    fn snapshot_ids(&self) -> Vec<SnapshotId>;
    /// The record of a snapshot. `None` where it is not on this node.
    fn record(&self, id: &SnapshotId) -> Option<SnapshotRecord>;
    /// Captures a volume.
    fn capture(
        &self,
        request: CaptureRequest,
    ) -> impl Future<Output = Result<SnapshotRecord, Failure>> + Send;
    /// Squashes the own layers of a snapshot into one layer.
    fn squash(
        &self,
        id: &SnapshotId,
        push: Option<&PushRequest>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Pushes a snapshot, and updates `progress` meanwhile.
    fn push(
        &self,
        request: &PushRequest,
        progress: &Progress,
    ) -> impl Future<Output = Result<Pushed, Failure>> + Send;
    /// Whether all layers of a snapshot are on this node.
    fn has_layers(&self, id: &SnapshotId) -> impl Future<Output = bool> + Send;
    /// Whether a repository has the manifest of a pushed snapshot.
    fn has_image(
        &self,
        of: &Repository,
        manifest: &ManifestDigest,
        keyring: &Keyring,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
    /// Deletes the manifest of a snapshot; false where the registry does not support deletion.
    fn delete_manifest(
        &self,
        id: &SnapshotId,
        from: &Repository,
        image: Option<&Reference>,
        keyring: &Keyring,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
    /// Deletes the record of a snapshot on this node. Garbage collection can then remove its layers.
    fn forget(&self, id: &SnapshotId) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The real engine: the snapshots in the store of this node.
#[derive(Debug, Clone)]
pub(super) struct NodeEngine {
    pub(super) snapshots: Snapshots,
    pub(super) store: Arc<Store>,
}

impl Engine for NodeEngine {
    fn snapshot_ids(&self) -> Vec<SnapshotId> {
        self.store.snapshots.all().into_iter().map(|record| record.id).collect()
    }

    fn record(&self, id: &SnapshotId) -> Option<SnapshotRecord> {
        self.store.snapshots.get(id)
    }

    async fn capture(&self, request: CaptureRequest) -> Result<SnapshotRecord, Failure> {
        self.snapshots.capture(request).await.map_err(|e| Failure::new(e.class(), e))
    }

    async fn squash(&self, id: &SnapshotId, push: Option<&PushRequest>) -> Result<(), Failure> {
        self.snapshots.squash(id, push).await.map_err(|e| Failure::new(e.class(), e))
    }

    async fn push(&self, request: &PushRequest, progress: &Progress) -> Result<Pushed, Failure> {
        self.snapshots.push(request, progress).await.map_err(|e| Failure::of_push(&e))
    }

    async fn has_layers(&self, id: &SnapshotId) -> bool {
        self.snapshots.has_layers(id).await
    }

    async fn has_image(
        &self,
        of: &Repository,
        manifest: &ManifestDigest,
        keyring: &Keyring,
    ) -> Result<bool, Failure> {
        let has = self.snapshots.has_image(of, manifest, keyring).await;
        has.map_err(|e| Failure::new(e.class(), e))
    }

    async fn delete_manifest(
        &self,
        id: &SnapshotId,
        from: &Repository,
        image: Option<&Reference>,
        keyring: &Keyring,
    ) -> Result<bool, Failure> {
        let deleted = self.snapshots.delete_manifest(id, from, image, keyring).await;
        deleted.map_err(|e| Failure::new(e.class(), e))
    }

    async fn forget(&self, id: &SnapshotId) -> Result<(), Failure> {
        let (snapshots, id) = (self.snapshots.clone(), id.clone());
        match spawn_blocking(move || snapshots.delete(&id)).await {
            Ok(deleted) => deleted.map(drop).map_err(|e| Failure::new(e.class(), e)),
            Err(panicked) => Err(Failure::new(Class::Internal, panicked)),
        }
    }
}
