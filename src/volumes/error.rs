//! What can go wrong, an enum for each operation; each message is the sentence a pod's Event shows.

use std::io;

use super::{RecordError, Reference, Target, VolumeId};
use crate::{
    fault::Class,
    image::ImageError,
    layers::{AddError, ImagesError, LowerError},
    overlay::{LAYER_LIMIT, OverlayError, PlanError},
    sys::mounts::MountError,
};

/// The volumes cannot be opened; the process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel did not say which boot this is.
    #[error("cannot read the boot id: {0}; is /proc mounted?")]
    BootId(io::Error),
    /// The folder of the volumes cannot be listed.
    #[error("cannot list the volumes: {0}")]
    List(io::Error),
}

/// The node cannot make volumes at this moment.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be read and written: {0}")]
pub struct ReadyError(pub io::Error);

/// The layers of an image could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Policy says not to ask, and it is not here.
    #[error(
        "image {0} is not on this node and pullPolicy is Never; use IfNotPresent, or pull it here first"
    )]
    NotPresent(Reference),
    /// No kernel could mount it.
    #[error(
        "image {reference} has {count} different layers, and overlay takes at most {LAYER_LIMIT}; squash some of them"
    )]
    TooManyLayers {
        /// The image.
        reference: Reference,
        /// Its layers.
        count: usize,
    },
    /// The registry's side.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store's side.
    #[error("image {reference}: {source}")]
    Add {
        /// The image it was for.
        reference: Reference,
        /// What went wrong.
        source: AddError,
    },
    /// The image's record.
    #[error(transparent)]
    Record(#[from] ImagesError),
}

impl PullError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::NotPresent(_) => Class::NotFound,
            Self::TooManyLayers { .. } => Class::Precondition,
            Self::Image(e) => e.class(),
            Self::Add { source, .. } => source.class(),
            Self::Record(e) => e.class(),
        }
    }
}

/// A volume could not be made to appear.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another call on this volume has not returned.
    #[error("volume {0}: an operation on it is under way; it goes on, ask again")]
    Busy(VolumeId),
    /// It was unpublished before it was there.
    #[error("volume {0}: unpublished while it was being made")]
    CalledOff(VolumeId),
    /// The target is somewhere we must not mount.
    #[error("target path {target} is not beneath the kubelet's folder {kubelet}")]
    Outside {
        /// As asked.
        target: Target,
        /// The folder.
        kubelet: String,
    },
    /// The same volume, asked for differently.
    #[error("volume {id} exists already with other {what}; delete the pod to make it anew")]
    Conflict {
        /// The volume.
        id: VolumeId,
        /// In which arguments the two differ.
        what: &'static str,
    },
    /// The images did not arrive.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A layer cannot be opened.
    #[error("volume {id}: {source}")]
    Lower {
        /// The volume.
        id: VolumeId,
        /// What went wrong.
        source: LowerError,
    },
    /// The mount breaks a rule.
    #[error("volume {id}: {source}")]
    Plan {
        /// The volume.
        id: VolumeId,
        /// Which rule.
        source: PlanError,
    },
    /// Overlay would not have it.
    #[error("volume {id}: {source}")]
    Overlay {
        /// The volume.
        id: VolumeId,
        /// What went wrong.
        source: OverlayError,
    },
    /// The kernel would not have it.
    #[error("volume {id}: {source}")]
    Mount {
        /// The volume.
        id: VolumeId,
        /// The kernel's words.
        source: MountError,
    },
    /// The upper cannot be made ready.
    #[error("volume {id}: cannot make its upper ready: {source}")]
    Upper {
        /// The volume.
        id: VolumeId,
        /// The system's words.
        source: io::Error,
    },
    /// The volume is mounted from, and its record does not say so.
    #[error(transparent)]
    Unremovable(#[from] UnpublishError),
    /// The folder to mount on.
    #[error("volume {id}: cannot make the target {target}: {source}")]
    MakeTarget {
        /// The volume.
        id: VolumeId,
        /// Where.
        target: Target,
        /// The system's words.
        source: io::Error,
    },
}

impl PublishError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy(_) | Self::CalledOff(_) => Class::Busy,
            Self::Outside { .. } => Class::Invalid,
            Self::Unremovable(e) => e.class(),
            Self::Conflict { .. } => Class::Conflict,
            Self::Pull(e) => e.class(),
            Self::Record(e) => e.class(),
            Self::Lower { source, .. } => source.class(),
            Self::Plan { source, .. } => source.class(),
            Self::Overlay { source, .. } => source.class(),
            Self::Mount { source, .. } => source.class(),
            Self::Upper { source, .. } => Class::of_disk(source),
            // But for a full disk it is the path that is wrong: a parent missing, a symlink, something in the way.
            Self::MakeTarget { source, .. } => match Class::of_disk(source) {
                Class::Exhausted => Class::Exhausted,
                _ => Class::Precondition,
            },
        }
    }
}

/// A volume could not be made to go away.
#[derive(Debug, thiserror::Error)]
pub enum UnpublishError {
    /// Another call on this volume has not returned.
    #[error("volume {0}: an operation on it is under way; ask again")]
    Busy(VolumeId),
    /// The target is somewhere we must not unmount.
    #[error("target path {target} is not beneath the kubelet's folder {kubelet}")]
    Outside {
        /// As asked.
        target: Target,
        /// The folder.
        kubelet: String,
    },
    /// The kernel would not let go.
    #[error("volume {id}: {source}")]
    Mount {
        /// The volume.
        id: VolumeId,
        /// The kernel's words.
        source: MountError,
    },
    /// Unmounted, and yet mounted.
    #[error("volume {id}: {target} is still mounted after it was unmounted; ask again")]
    StillMounted {
        /// The volume.
        id: VolumeId,
        /// Where.
        target: Target,
    },
    /// The target is not an empty folder; whatever is in it is not ours to delete.
    #[error(
        "volume {id}: cannot remove the target {target}: {source}; only an empty folder is removed"
    )]
    RemoveTarget {
        /// The volume.
        id: VolumeId,
        /// Where.
        target: Target,
        /// The system's words.
        source: io::Error,
    },
    /// Something that is not this volume is mounted at the target.
    #[error(
        "volume {id}: {found} is mounted at {target}, and is not this volume; unmount it by hand"
    )]
    Foreign {
        /// The volume.
        id: VolumeId,
        /// Where.
        target: Target,
        /// Type and source of what is mounted.
        found: String,
    },
    /// The volume is still mounted, or something is mounted within its folder.
    #[error("volume {id}: cannot remove it while something is mounted at {at}; unmount that")]
    InUse {
        /// The volume.
        id: VolumeId,
        /// Where it is mounted.
        at: String,
    },
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The bytes.
    #[error("volume {id}: cannot remove it: {source}")]
    Discard {
        /// The volume.
        id: VolumeId,
        /// The system's words.
        source: io::Error,
    },
}

impl UnpublishError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy(_) | Self::StillMounted { .. } => Class::Busy,
            Self::Outside { .. } => Class::Invalid,
            Self::Mount { source, .. } => source.class(),
            Self::RemoveTarget { .. } | Self::Foreign { .. } | Self::InUse { .. } => {
                Class::Precondition
            }
            Self::Record(e) => e.class(),
            Self::Discard { source, .. } => Class::of_disk(source),
        }
    }
}
