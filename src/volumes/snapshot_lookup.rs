//! The lookup of snapshots by name: in the cluster, or without a cluster on this node.
//!
//! Deliberately absent: the Kubernetes objects of a snapshot. Only the implementation of [`SnapshotLookup`] knows them.

use std::{fmt, future::Future, pin::Pin};

use crate::{error::Class, layers::SnapshotId, owner::Owner, reference::Reference};

/// Finds snapshots by the names that pods use.
pub trait SnapshotLookup: Send + Sync + fmt::Debug {
    /// Finds the snapshot of this name in this namespace. In a cluster it is the name of a VolumeSnapshot.
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a>;
}

/// The future that [`SnapshotLookup::find`] returns.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<FoundSnapshot, LookupError>> + Send + 'a>>;

/// A snapshot that the pod may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// Its id on the node where it was captured.
    pub id: SnapshotId,
    /// The node where it was captured.
    pub node: String,
    /// The image to which it was pushed, by digest. `None` if it was not pushed.
    pub image: Option<Reference>,
    /// What to do if the registry does not have the image any more, as the end of a sentence.
    pub if_lost: String,
    /// How many of its layers, at the top, are not layers of its images.
    pub snapshot_layers: usize,
    /// The attribute `owner` of its volume.
    pub owner: Option<Owner>,
}

/// Why a pod cannot use a snapshot. The messages say "snapshot", because a node without a cluster has no
/// VolumeSnapshots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no snapshot of that name.
    #[error("there is no snapshot {name} in namespace {namespace}")]
    Absent {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// The snapshot is being made.
    #[error("snapshot {name} is not ready yet: {why}")]
    NotReady {
        /// The name.
        name: String,
        /// Its progress.
        why: String,
    },
    /// The snapshot failed. It becomes ready only if its node was gone and comes back.
    #[error("snapshot {name} failed: {why}; take a new snapshot")]
    Failed {
        /// The name.
        name: String,
        /// The cause.
        why: String,
    },
    /// The snapshot belongs to another namespace, or its objects do not refer to each other.
    #[error("snapshot {name} cannot be used: {why}")]
    Denied {
        /// The name.
        name: String,
        /// The reason.
        why: String,
    },
    /// The cluster did not respond.
    #[error("cannot look up snapshot {name}: {why}")]
    Unavailable {
        /// The name.
        name: String,
        /// The cluster's error.
        why: String,
    },
}

impl LookupError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent { .. } => Class::NotFound,
            Self::NotReady { .. } | Self::Unavailable { .. } => Class::Unavailable,
            Self::Failed { .. } => Class::Precondition,
            Self::Denied { .. } => Class::Denied,
        }
    }
}

/// Finds no snapshots: for a node whose snapshots are off.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSnapshots;

impl SnapshotLookup for NoSnapshots {
    fn find<'a>(&'a self, _: &'a str, name: &'a str) -> Lookup<'a> {
        let why =
            "snapshots are off on this node; an administrator can turn them on (snapshots.enabled of the driver's chart)"
                .to_owned();
        let name = name.to_owned();
        Box::pin(async move { Err(LookupError::Denied { name, why }) })
    }
}
