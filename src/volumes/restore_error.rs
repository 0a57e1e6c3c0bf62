//! Why a new volume gets no layers.

use super::{pull::PullError, snapshot_lookup::LookupError};
use crate::{error::Class, layers::LowerError, overlay::LAYER_LIMIT, owner::Owner};

/// The layers of a new volume could not be brought into the store.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// An image cannot be pulled.
    #[error(transparent)]
    Pull(Box<PullError>),
    /// The volume's snapshot cannot be used.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl From<PullError> for LayersError {
    fn from(error: PullError) -> Self {
        Self::Pull(Box::new(error))
    }
}

impl LayersError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Pull(e) => e.class(),
            Self::Restore(e) => e.class(),
        }
    }
}

/// Why a volume cannot start from a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The lookup failed.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The snapshot was not pushed, and is on another node.
    #[error(
        "snapshot {name} is only on node {node}; run the pod on that node, or push snapshots (set `repository` in their \
         VolumeSnapshotClass; without a cluster use `ovl node-snapshot push`)"
    )]
    NodeOnly {
        /// The name.
        name: String,
        /// The node that has it.
        node: String,
    },
    /// The snapshot was not pushed, and some of its layers are missing in the store.
    #[error(
        "snapshot {name} is only on this node, and some of its layers are missing there; take a new snapshot"
    )]
    Lost {
        /// The name.
        name: String,
    },
    /// The snapshot was pushed, and the registry does not have its image any more.
    #[error("snapshot {name}: image {image} is not in the registry any more; {advice}")]
    NotInRegistry {
        /// The name.
        name: String,
        /// The image.
        image: String,
        /// What to do, from [`FoundSnapshot::if_lost`](super::FoundSnapshot::if_lost).
        advice: String,
    },
    /// The snapshot's image cannot be pulled.
    #[error("snapshot {name}: {source}")]
    Pull {
        /// The name.
        name: String,
        /// The cause.
        source: Box<PullError>,
    },
    /// The new volume has another `owner`, so the snapshot's files would have the wrong owner.
    #[error(
        "snapshot {name} was taken of a volume with {}, and this volume has {}; {}",
        shown(*captured_for), shown(*wanted), same_owner(*captured_for)
    )]
    OtherOwner {
        /// The name.
        name: String,
        /// The owner in the volume that it was taken of.
        captured_for: Option<Owner>,
        /// The owner in the new volume.
        wanted: Option<Owner>,
    },
    /// A part of the snapshot's data is in its own images, and the volume has other images.
    #[error(
        "snapshot {name} can be used only with its own images, because it changes attributes of their files or renames \
         their directories; remove `image` and `images` from the volume"
    )]
    OwnImages {
        /// The name.
        name: String,
    },
    /// One of its layers cannot be read.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The snapshot and its images have more layers than overlayfs can mount.
    #[error(
        "snapshot {name} and its images have {count} different layers, and overlayfs allows at most {LAYER_LIMIT}; start \
         from images of fewer layers, or squash snapshots earlier (`squashAbove` in their VolumeSnapshotClass)"
    )]
    TooDeep {
        /// The name.
        name: String,
        /// The number of different layers.
        count: usize,
    },
}

impl RestoreError {
    /// The error of a pull of the snapshot's image. The user has named the snapshot and does not know the image.
    pub(super) fn of_pull(name: &str, if_lost: &str, error: PullError) -> Self {
        let name = name.to_owned();
        match error {
            PullError::Image(error) if error.is_not_found() => Self::NotInRegistry {
                name,
                image: error.image().to_string(),
                advice: if_lost.to_owned(),
            },
            error => Self::Pull { name, source: Box::new(error) },
        }
    }

    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Lookup(e) => e.class(),
            Self::NodeOnly { .. }
            | Self::OtherOwner { .. }
            | Self::OwnImages { .. }
            | Self::TooDeep { .. } => Class::Precondition,
            Self::NotInRegistry { .. } => Class::NotFound,
            Self::Pull { source, .. } => source.class(),
            Self::Lower(e) => e.class(),
            Self::Lost { .. } => Class::Corrupt,
        }
    }
}

/// How a volume gets the owner of the snapshot.
fn same_owner(captured_for: Option<Owner>) -> String {
    match captured_for {
        Some(owner) => format!("set `owner: \"{owner}\"`"),
        None => "remove `owner`".to_owned(),
    }
}

/// The attribute `owner` as a part of a sentence.
fn shown(owner: Option<Owner>) -> String {
    match owner {
        Some(owner) => format!("owner {owner}"),
        None => "no owner".to_owned(),
    }
}
