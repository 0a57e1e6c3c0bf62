//! Why two states of volumes cannot be compared. The messages are for the user of a namespace.

use std::io;

use super::diff_request::{DIFF_TIMEOUT, NamedVolume, VolumeState};
use crate::{
    changeset::CompareError,
    error::Class,
    format,
    layers::LowerError,
    volumes::{GuardError, LayersError, MountedVolumeError, RestoreError, ViewError},
};

/// Why two states of volumes were not compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The layers of a snapshot cannot be brought to this node.
    #[error(transparent)]
    Layers(LayersError),
    /// A snapshot is in no registry, and the comparison runs on another node.
    #[error(
        "snapshot {name} is only on node {node}, and the other state that it is compared with is not there; compare pushed \
        snapshots (set `repository` in their VolumeSnapshotClass)"
    )]
    Apart {
        /// The name of the snapshot.
        name: String,
        /// The node that has it.
        node: String,
    },
    /// The state from which the volume of a snapshot started is only known on its own node.
    #[error(
        "the record of snapshot {name}, which says what its volume started from, is not on this node; name the snapshot to \
        compare it with"
    )]
    NoStart {
        /// The name of the snapshot.
        name: String,
    },
    /// The layer of a snapshot has also what its parent had changed, and the parent is not on this node any more.
    #[error(
        "the layers of snapshot {name} and of the snapshots before it were squashed into one (`squashAbove` in its \
        VolumeSnapshotClass), and its node does not have the snapshot that its volume started from; name the snapshot to \
        compare it with"
    )]
    Squashed {
        /// The name of the snapshot.
        name: String,
    },
    /// The volume cannot be read.
    #[error(transparent)]
    Volume(MountedVolumeError),
    /// A message about a volume, with the volume's name in its pod instead of its id.
    #[error("{message}")]
    Named {
        /// The class of the error.
        class: Class,
        /// The message.
        message: String,
    },
    /// The volume was unpublished meanwhile.
    #[error("the volume was unmounted while it was compared, because its pod has ended")]
    Unpublished,
    /// A layer cannot be opened.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The layers cannot be mounted.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A layer cannot be read.
    #[error("cannot read a layer: {0}")]
    Disk(#[from] io::Error),
    /// The comparison failed.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// The comparison took too long.
    #[error(
        "the comparison took longer than {}, because there are too many files or too many bytes to compare",
        format::span(DIFF_TIMEOUT)
    )]
    TooLong,
}

impl DiffError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Layers(e) => e.class(),
            Self::Apart { .. } | Self::NoStart { .. } | Self::Squashed { .. } | Self::TooLong => {
                Class::Precondition
            }
            Self::Volume(e) => e.class(),
            Self::Named { class, .. } => *class,
            Self::Unpublished => Class::NotFound,
            Self::Lower(e) => e.class(),
            Self::View(e) => e.class(),
            Self::Disk(e) => Class::of_disk(e),
            Self::Compare(e) => e.class(),
        }
    }

    /// The error for a snapshot without layers.
    pub(super) fn layers(name: &str, error: LayersError) -> Self {
        match error {
            LayersError::Restore(RestoreError::NodeOnly { node, .. }) => {
                Self::Apart { name: name.to_owned(), node }
            }
            error => Self::Layers(error),
        }
    }

    /// The error for the user of a pod, who does not know the id of its volume.
    pub(super) fn of(self, state: &VolumeState) -> Self {
        let VolumeState::Mounted(NamedVolume { name, id, pod }) = state else { return self };
        let class = self.class();
        let message = match &self {
            Self::Volume(
                MountedVolumeError::NotMounted(_)
                | MountedVolumeError::Guard(GuardError::Absent(_)),
            ) => {
                format!(
                    "volume {name} of pod {} is not mounted: the pod has ended, or has not started",
                    pod.name
                )
            }
            Self::Volume(MountedVolumeError::Guard(GuardError::Lost { why, .. })) => format!(
                "volume {name} of pod {} cannot be compared: its data may be incomplete, because {why}; start the pod again",
                pod.name
            ),
            Self::Unpublished => format!("volume {name} of pod {}: {self}", pod.name),
            error => id.named(name, &error.to_string()),
        };
        Self::Named { class, message }
    }
}
