//! What snapshots are carried out by.

use std::{fmt::Display, future::Future, sync::Arc};

use tokio::task::spawn_blocking;

use crate::{
    fault::Class,
    image::{Keyring, Reference, Repository},
    layers::{SnapshotId, SnapshotRecord, Store},
    snapshots::{CutRequest, Progress, PushError, PushRequest, Pushed, Snapshots},
};

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it means to whoever asked.
    pub class: Class,
    /// The sentence.
    pub message: String,
    /// Whether nothing that anybody could change mends it.
    pub(super) lasts: bool,
}

impl Failure {
    pub(super) fn new(class: Class, message: impl Display) -> Self {
        Self { class, message: message.to_string(), lasts: false }
    }

    /// Why a push failed. What is in the layers stays in them: a name, a device, a limit that is passed.
    fn of_push(error: &PushError) -> Self {
        let lasts = match error {
            PushError::Incomplete(_) => true,
            PushError::Packing { source, .. } => {
                matches!(source.class(), Class::Precondition | Class::Invalid)
            }
            PushError::Absent(_)
            | PushError::Busy(_)
            | PushError::Registry { .. }
            | PushError::Disk { .. } => false,
        };
        Self { lasts, ..Self::new(error.class(), error) }
    }

    /// Whether the same may succeed later, with nobody changing anything.
    pub(super) fn heals(&self) -> bool {
        matches!(self.class, Class::Busy | Class::Unavailable | Class::Exhausted)
    }

    /// Whether a registry may take it later: bytes that were spoilt on the way go again.
    pub(super) fn heals_for_registry(&self) -> bool {
        self.heals() || matches!(self.class, Class::Corrupt | Class::Internal)
    }

    /// The class as a condition's reason.
    pub(super) fn reason(&self) -> &'static str {
        match self.class {
            Class::Invalid => "Invalid",
            Class::NotFound => "NotFound",
            Class::Conflict => "Conflict",
            Class::Precondition => "Precondition",
            Class::Busy => "Busy",
            Class::Unavailable => "Unavailable",
            Class::Exhausted => "Exhausted",
            Class::Denied => "Denied",
            Class::Corrupt => "Corrupt",
            Class::Internal => "Internal",
        }
    }
}

/// A node's snapshots, as far as the agent uses them; in its tests, a node that fails as it is told.
pub(super) trait Engine: Clone + Send + Sync + 'static {
    /// The names of all that are here.
    fn here(&self) -> Vec<SnapshotId>;
    /// One of them.
    fn record(&self, id: &SnapshotId) -> Option<SnapshotRecord>;
    /// Cuts a volume.
    fn cut(
        &self,
        request: CutRequest,
    ) -> impl Future<Output = Result<SnapshotRecord, Failure>> + Send;
    /// Makes one layer of a snapshot's own.
    fn squash(
        &self,
        id: &SnapshotId,
        push: Option<&PushRequest>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Pushes a snapshot, and says how far it is.
    fn push(
        &self,
        request: &PushRequest,
        progress: &Progress,
    ) -> impl Future<Output = Result<Pushed, Failure>> + Send;
    /// Removes a snapshot's manifest; false where the registry deletes nothing.
    fn unpush(
        &self,
        id: &SnapshotId,
        from: &Repository,
        image: Option<&Reference>,
        keyring: &Keyring,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
    /// Forgets a snapshot.
    fn forget(&self, id: &SnapshotId) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The snapshots of this node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) snapshots: Snapshots,
    pub(super) store: Arc<Store>,
}

impl Engine for Node {
    fn here(&self) -> Vec<SnapshotId> {
        self.store.snapshots().into_iter().map(|record| record.id).collect()
    }

    fn record(&self, id: &SnapshotId) -> Option<SnapshotRecord> {
        self.store.snapshot(id)
    }

    async fn cut(&self, request: CutRequest) -> Result<SnapshotRecord, Failure> {
        self.snapshots.cut(request).await.map_err(|e| Failure::new(e.class(), e))
    }

    async fn squash(&self, id: &SnapshotId, push: Option<&PushRequest>) -> Result<(), Failure> {
        self.snapshots.squash(id, push).await.map_err(|e| Failure::new(e.class(), e))
    }

    async fn push(&self, request: &PushRequest, progress: &Progress) -> Result<Pushed, Failure> {
        self.snapshots.push(request, progress).await.map_err(|e| Failure::of_push(&e))
    }

    async fn unpush(
        &self,
        id: &SnapshotId,
        from: &Repository,
        image: Option<&Reference>,
        keyring: &Keyring,
    ) -> Result<bool, Failure> {
        let gone = self.snapshots.unpush(id, from, image, keyring).await;
        gone.map_err(|e| Failure::new(e.class(), e))
    }

    async fn forget(&self, id: &SnapshotId) -> Result<(), Failure> {
        let (snapshots, id) = (self.snapshots.clone(), id.clone());
        match spawn_blocking(move || snapshots.forget(&id)).await {
            Ok(forgotten) => forgotten.map(drop).map_err(|e| Failure::new(e.class(), e)),
            Err(broken) => Err(Failure::new(Class::Internal, broken)),
        }
    }
}
