//! The errors of volumes: one enum for each operation. The kubelet shows each message in the pod's Events.

use std::{io, path::PathBuf, sync::Arc};

use super::{LayersError, PodUid, RecordError, Target, VolumeId};
use crate::{
    error::Class,
    layers::LowerError,
    overlay::{OverlayError, PlanError},
    reference::Reference,
    sys::mounts::MountError,
};

/// The volumes of the node cannot be opened. The process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The id of the current boot cannot be read.
    #[error("cannot read the kernel's boot id: {0}; check that /proc is mounted")]
    BootId(io::Error),
    /// The directory of the volumes cannot be listed.
    #[error("cannot list the directories of the volumes: {0}")]
    List(io::Error),
    /// The mount table cannot be read.
    #[error("cannot find out which volumes are mounted: {0}")]
    Table(MountError),
    /// The threads of the removal cannot be started.
    #[error("cannot start the threads that remove volumes: {0}")]
    Threads(io::Error),
}

/// The node cannot make volumes at this moment, because its store cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the driver's store cannot be read or written: {0}; check its disk")]
pub struct ReadyError(pub io::Error);

/// The target is outside of the kubelet's directory, where the driver must neither mount nor unmount.
#[derive(Debug, thiserror::Error)]
#[error(
    "target path {target} is not below the kubelet's directory {kubelet}; set kubeletDir of the driver's chart"
)]
pub struct OutsideKubelet {
    /// The requested target.
    pub target: Target,
    /// The kubelet's directory.
    pub kubelet: String,
}

/// A volume could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The target is not in the kubelet's directory.
    #[error(transparent)]
    Outside(#[from] OutsideKubelet),
    /// The request names another pod than the one whose directory holds the target. Only the kubelet makes that
    /// directory.
    #[error(
        "target path {target} does not belong to pod {uid}, which the request names; set podInfoOnMount: true in the \
         CSIDriver object"
    )]
    OtherPod {
        /// The requested target.
        target: Target,
        /// The uid in the request.
        uid: PodUid,
    },
    /// The image policy does not allow the image.
    #[error(
        "image {image} is not allowed in namespace {namespace}; policy.allowedImages and policy.refusedImages of the \
         driver's chart define the allowed images; if it is the image of a snapshot, use the attribute `snapshot`"
    )]
    NotAllowed {
        /// The image.
        image: Reference,
        /// The pod's namespace.
        namespace: String,
    },
    /// Its layers cannot be brought into the store.
    #[error("{0}")]
    Pull(Arc<LayersError>),
    /// The files of a volatile volume may be torn, and its `onUnclean` is `fail`.
    #[error(
        "volume {id} is volatile and its files may be incomplete, because {why}; delete the pod to get a new volume, or \
         use `onUnclean: discard`"
    )]
    Unclean {
        /// The volume.
        id: VolumeId,
        /// The cause, as a clause.
        why: &'static str,
    },
    /// The record of the volume cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The remains of the volume cannot be removed, for example because something is mounted in its directory.
    #[error(transparent)]
    Unremovable(#[from] UnpublishError),
    /// A step failed.
    #[error("volume {volume}: {cause}")]
    Failed {
        /// The volume.
        volume: VolumeId,
        /// The step, and why it failed.
        cause: PublishCause,
    },
}

/// Why a step of a publish failed.
#[derive(Debug, thiserror::Error)]
pub enum PublishCause {
    /// Another operation on the volume has not finished.
    #[error("another operation on it has not finished; try again")]
    Busy,
    /// The pull was cancelled: the volume was unpublished, or requested differently, or the task failed.
    #[error(
        "its pull was cancelled, because the volume was unpublished or another request replaced this one"
    )]
    Cancelled,
    /// The layers did not arrive before the deadline of the call. Their pull goes on.
    #[error("{progress}; the pull goes on, try again")]
    Pulling {
        /// The progress, as a part of a sentence ([`super::Progress::sentence`]).
        progress: String,
    },
    /// The volume exists, and the request differs from it.
    #[error(
        "the request differs from the existing volume in {what}; delete the pod and create it again"
    )]
    Conflict {
        /// The attribute in which the two differ.
        what: &'static str,
    },
    /// The pod sets a limit that this node cannot enforce.
    #[error(
        "this node cannot enforce `size` and `inodes` for a volume on disk: {why}; remove them, or use `medium: Memory`"
    )]
    Unenforceable {
        /// What the file system or the kernel lacks.
        why: String,
    },
    /// A layer cannot be opened.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The mount breaks a rule of overlayfs or of the driver.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The overlay cannot be made.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A mount operation failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The upper cannot be prepared.
    #[error("cannot prepare its upper directory: {0}")]
    Upper(io::Error),
    /// A file of `preCopyUp` cannot be copied up.
    #[error(
        "cannot copy up {path:?} of preCopyUp: {source}; list only regular files of the images"
    )]
    CopyUp {
        /// The file, relative to the volume.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The target directory cannot be made.
    #[error("cannot create the target directory {target}: {source}")]
    MakeTarget {
        /// The target.
        target: Target,
        /// The system's error.
        source: io::Error,
    },
}

impl PublishError {
    /// Makes the error of a failed step of this volume.
    pub(super) fn of<C: Into<PublishCause>>(volume: &VolumeId) -> impl FnOnce(C) -> Self {
        move |cause| Self::Failed { volume: volume.clone(), cause: cause.into() }
    }

    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Outside(_) | Self::OtherPod { .. } => Class::Invalid,
            Self::NotAllowed { .. } => Class::Denied,
            Self::Unclean { .. } => Class::Precondition,
            Self::Pull(e) => e.class(),
            Self::Record(e) => e.class(),
            Self::Unremovable(e) => e.class(),
            Self::Failed { cause, .. } => cause.class(),
        }
    }
}

impl PublishCause {
    fn class(&self) -> Class {
        match self {
            Self::Busy | Self::Cancelled => Class::Busy,
            Self::Conflict { .. } => Class::Conflict,
            Self::Pulling { .. } => Class::Unavailable,
            Self::Unenforceable { .. } => Class::Precondition,
            Self::Lower(e) => e.class(),
            Self::Plan(e) => e.class(),
            Self::Overlay(e) => e.class(),
            Self::Mount(e) => e.class(),
            Self::Upper(e) => Class::of_disk(e),
            Self::CopyUp { source, .. } => match source.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::InvalidInput => Class::Invalid,
                _ => Class::of_disk(source),
            },
            // Unless the disk is full, the path is wrong: a parent is missing, or a symlink or a file is in the way.
            Self::MakeTarget { source, .. } => match Class::of_disk(source) {
                Class::Exhausted => Class::Exhausted,
                _ => Class::Precondition,
            },
        }
    }
}

/// A volume could not be unpublished or removed.
#[derive(Debug, thiserror::Error)]
pub enum UnpublishError {
    /// The target is not in the kubelet's directory.
    #[error(transparent)]
    Outside(#[from] OutsideKubelet),
    /// The record of the volume cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A step failed.
    #[error("volume {volume}: {cause}")]
    Failed {
        /// The volume.
        volume: VolumeId,
        /// The step, and why it failed.
        cause: UnpublishCause,
    },
}

/// Why a step of an unpublish or of a removal failed.
#[derive(Debug, thiserror::Error)]
pub enum UnpublishCause {
    /// Another operation on the volume has not finished.
    #[error("another operation on it has not finished; try again")]
    Busy,
    /// The volume cannot be unmounted, or the mount table cannot be read.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The target is still mounted after several unmounts.
    #[error(
        "{target} is still mounted after several unmounts, because another process mounts file systems there; an \
         administrator must stop that process"
    )]
    StillMounted {
        /// The target.
        target: Target,
    },
    /// The target is not an empty directory. The driver does not delete what others put into it.
    #[error(
        "cannot remove the target directory {target}: {source}; the driver removes only an empty directory"
    )]
    RemoveTarget {
        /// The target.
        target: Target,
        /// The system's error.
        source: io::Error,
    },
    /// Another file system than this volume is mounted at the target.
    #[error("the mount at {target} is {found}, not this volume; an administrator must unmount it")]
    Foreign {
        /// The target.
        target: Target,
        /// The type of the mounted file system, and its source in parentheses.
        found: String,
    },
    /// The volume is still mounted, or a file system is mounted in its directory.
    #[error("cannot remove the volume while {at} is mounted; an administrator must unmount {at}")]
    InUse {
        /// The mount point.
        at: String,
    },
    /// The directory of the volume cannot be moved into staging.
    #[error("cannot remove its directory: {0}")]
    Discard(io::Error),
}

impl UnpublishError {
    /// Makes the error of a failed step of this volume.
    pub(super) fn of<C: Into<UnpublishCause>>(volume: &VolumeId) -> impl FnOnce(C) -> Self {
        move |cause| Self::Failed { volume: volume.clone(), cause: cause.into() }
    }

    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Outside(_) => Class::Invalid,
            Self::Record(e) => e.class(),
            Self::Failed { cause, .. } => match cause {
                UnpublishCause::Busy | UnpublishCause::StillMounted { .. } => Class::Busy,
                UnpublishCause::Mount(e) => e.class(),
                UnpublishCause::RemoveTarget { .. }
                | UnpublishCause::Foreign { .. }
                | UnpublishCause::InUse { .. } => Class::Precondition,
                UnpublishCause::Discard(e) => Class::of_disk(e),
            },
        }
    }
}
