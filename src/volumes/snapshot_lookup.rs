//! How snapshots are found.
//!
//! Deliberately absent: what of the cluster stands for a snapshot; whoever implements [`SnapshotLookup`] knows.

use std::{fmt, future::Future, pin::Pin};

use super::{Owner, Reference};
use crate::{error::Class, layers::SnapshotId};

/// Finds snapshots by the names that pods know them by.
pub trait SnapshotLookup: Send + Sync + fmt::Debug {
    /// The snapshot of this name in this namespace: in a cluster the one that its VolumeSnapshot stands for.
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a>;
}

/// What [`SnapshotLookup::find`] answers.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<FoundSnapshot, LookupError>> + Send + 'a>>;

/// A snapshot that a pod may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// Its name on the node where it was cut.
    pub id: SnapshotId,
    /// That node.
    pub node: String,
    /// Where it was pushed, by digest.
    pub image: Option<Reference>,
    /// How many of its layers lie above those of its images.
    pub own: usize,
    /// Whom root's files of its images belonged to.
    pub owner: Option<Owner>,
}

/// Why a pod does not get a snapshot. The sentences say "snapshot": a node without a cluster has no VolumeSnapshots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is none of that name.
    #[error("there is no snapshot {name} in namespace {namespace}")]
    Absent {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// It is being made.
    #[error("snapshot {name} is not ready yet: {why}")]
    NotReady {
        /// The name.
        name: String,
        /// How far it is.
        why: String,
    },
    /// It will never be ready.
    #[error("snapshot {name} failed: {why}; make another one")]
    Failed {
        /// The name.
        name: String,
        /// What went wrong.
        why: String,
    },
    /// It is somebody else's, or not bound both ways.
    #[error("snapshot {name} cannot be used: {why}")]
    Denied {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// The cluster did not answer.
    #[error("cannot look snapshot {name} up: {why}")]
    Unavailable {
        /// The name.
        name: String,
        /// The cluster's words.
        why: String,
    },
}

impl LookupError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent { .. } => Class::NotFound,
            Self::NotReady { .. } | Self::Unavailable { .. } => Class::Unavailable,
            Self::Failed { .. } => Class::Precondition,
            Self::Denied { .. } => Class::Denied,
        }
    }
}

/// Knows no snapshots: a node without a cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSnapshots;

impl SnapshotLookup for NoSnapshots {
    fn find<'a>(&'a self, _: &'a str, name: &'a str) -> Lookup<'a> {
        let why =
            "this node has no snapshots: it runs without a cluster, or with --snapshots=false"
                .to_owned();
        let name = name.to_owned();
        Box::pin(async move { Err(LookupError::Denied { name, why }) })
    }
}
