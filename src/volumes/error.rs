//! The errors of volumes: one enum for each operation. The kubelet shows each message in the pod's Events.

use std::{io, path::PathBuf, sync::Arc};

use super::{LayersError, PodUid, RecordError, Target, VolumeId};
use crate::{
    error::Class,
    image::Reference,
    layers::LowerError,
    overlay::{OverlayError, PlanError},
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

/// A volume could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another operation on this volume has not finished.
    #[error("volume {0}: another operation on it has not finished; try again")]
    Busy(VolumeId),
    /// The pull was cancelled: the volume was unpublished, or requested differently, or the task failed.
    #[error(
        "volume {0}: its pull was cancelled, because the volume was unpublished or another request replaced this one"
    )]
    CalledOff(VolumeId),
    /// The target is outside of the kubelet's directory, where the driver must not mount.
    #[error(
        "target path {target} is not below the kubelet's directory {kubelet}; set kubeletDir of the driver's chart"
    )]
    Outside {
        /// The requested target.
        target: Target,
        /// The kubelet's directory.
        kubelet: String,
    },
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
    /// The volume exists, and the request differs from it.
    #[error(
        "volume {id} already exists with another value of {what}; delete the pod to create the volume again"
    )]
    Conflict {
        /// The volume.
        id: VolumeId,
        /// The attribute in which the two differ.
        what: &'static str,
    },
    /// The policy of images does not allow the image.
    #[error(
        "image {image} is not allowed in namespace {namespace}; policy.allowedImages and policy.refusedImages of the \
         driver's chart define the allowed images; to start from a snapshot, use the attribute `snapshot`"
    )]
    NotAllowed {
        /// The image.
        image: Reference,
        /// The pod's namespace.
        namespace: String,
    },
    /// An attribute that only matters for writes, on a read-only volume.
    #[error("volume {id}: {what} has no meaning for a read-only volume; remove that attribute")]
    ReadOnly {
        /// The volume.
        id: VolumeId,
        /// The attribute.
        what: &'static str,
    },
    /// The pod sets a limit that this node cannot enforce.
    #[error(
        "volume {id}: this node cannot enforce size and inodes for a volume on disk: {why}; remove them, or use \
         medium: Memory"
    )]
    Unenforceable {
        /// The volume.
        id: VolumeId,
        /// What the file system or the kernel lacks.
        why: String,
    },
    /// The images did not arrive before the deadline of the call. Their pull goes on.
    #[error("volume {id}: {progress}; the pull goes on, try again")]
    Pulling {
        /// The volume.
        id: VolumeId,
        /// The progress, as a part of a sentence ([`super::Progress::sentence`]).
        progress: String,
    },
    /// The pull failed.
    #[error("{0}")]
    Pull(Arc<LayersError>),
    /// The files of a volatile volume may be torn, and its `onUnclean` is `fail`.
    #[error(
        "volume {id} is volatile and its files may be torn, because {why}; delete the pod to get a new volume, or use \
         onUnclean: discard"
    )]
    Unclean {
        /// The volume.
        id: VolumeId,
        /// The cause, as a clause.
        why: &'static str,
    },
    /// A file of `preCopyUp` cannot be copied up.
    #[error(
        "volume {id}: cannot copy up {path:?} of preCopyUp: {source}; list only regular files of the images"
    )]
    CopyUp {
        /// The volume.
        id: VolumeId,
        /// The file, relative to the volume.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The record of the volume cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A layer cannot be opened.
    #[error("volume {id}: {source}")]
    Lower {
        /// The volume.
        id: VolumeId,
        /// The error of the store.
        source: LowerError,
    },
    /// The mount breaks a rule of overlayfs or of the driver.
    #[error("volume {id}: {source}")]
    Plan {
        /// The volume.
        id: VolumeId,
        /// The rule.
        source: PlanError,
    },
    /// The overlay cannot be made.
    #[error("volume {id}: {source}")]
    Overlay {
        /// The volume.
        id: VolumeId,
        /// The error of the overlay.
        source: OverlayError,
    },
    /// A mount operation failed.
    #[error("volume {id}: {source}")]
    Mount {
        /// The volume.
        id: VolumeId,
        /// The kernel's error.
        source: MountError,
    },
    /// The upper cannot be prepared.
    #[error("volume {id}: cannot prepare its upper directory: {source}")]
    Upper {
        /// The volume.
        id: VolumeId,
        /// The system's error.
        source: io::Error,
    },
    /// The remains of the volume cannot be removed, for example because something is mounted in its directory.
    #[error(transparent)]
    Unremovable(#[from] UnpublishError),
    /// The target directory cannot be made.
    #[error("volume {id}: cannot create the target directory {target}: {source}")]
    MakeTarget {
        /// The volume.
        id: VolumeId,
        /// The target.
        target: Target,
        /// The system's error.
        source: io::Error,
    },
}

impl PublishError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy(_) | Self::CalledOff(_) => Class::Busy,
            Self::Outside { .. } | Self::OtherPod { .. } | Self::ReadOnly { .. } => Class::Invalid,
            Self::NotAllowed { .. } => Class::Denied,
            Self::Unenforceable { .. } | Self::Unclean { .. } => Class::Precondition,
            Self::Pulling { .. } => Class::Unavailable,
            Self::CopyUp { source, .. } => match source.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::InvalidInput => Class::Invalid,
                _ => Class::of_disk(source),
            },
            Self::Unremovable(e) => e.class(),
            Self::Conflict { .. } => Class::Conflict,
            Self::Pull(e) => e.class(),
            Self::Record(e) => e.class(),
            Self::Lower { source, .. } => source.class(),
            Self::Plan { source, .. } => source.class(),
            Self::Overlay { source, .. } => source.class(),
            Self::Mount { source, .. } => source.class(),
            Self::Upper { source, .. } => Class::of_disk(source),
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
    /// Another operation on this volume has not finished.
    #[error("volume {0}: another operation on it has not finished; try again")]
    Busy(VolumeId),
    /// The target is outside of the kubelet's directory, where the driver must not unmount.
    #[error(
        "target path {target} is not below the kubelet's directory {kubelet}; set kubeletDir of the driver's chart"
    )]
    Outside {
        /// The requested target.
        target: Target,
        /// The kubelet's directory.
        kubelet: String,
    },
    /// The volume cannot be unmounted, or the mount table cannot be read.
    #[error("volume {id}: {source}")]
    Mount {
        /// The volume.
        id: VolumeId,
        /// The kernel's error.
        source: MountError,
    },
    /// The target is still mounted after several unmounts.
    #[error(
        "volume {id}: {target} is still mounted after several unmounts; try again, and find out what mounts there"
    )]
    StillMounted {
        /// The volume.
        id: VolumeId,
        /// The target.
        target: Target,
    },
    /// The target is not an empty directory. The driver does not delete what others put into it.
    #[error(
        "volume {id}: cannot remove the target directory {target}: {source}; the driver removes only an empty directory"
    )]
    RemoveTarget {
        /// The volume.
        id: VolumeId,
        /// The target.
        target: Target,
        /// The system's error.
        source: io::Error,
    },
    /// Another file system than this volume is mounted at the target.
    #[error("volume {id}: the mount at {target} is {found}, not this volume; unmount it by hand")]
    Foreign {
        /// The volume.
        id: VolumeId,
        /// The target.
        target: Target,
        /// The type of the mounted file system, and its source in parentheses.
        found: String,
    },
    /// The volume is still mounted, or a file system is mounted in its directory.
    #[error("volume {id}: cannot remove the volume while {at} is mounted; unmount {at}")]
    InUse {
        /// The volume.
        id: VolumeId,
        /// The mount point.
        at: String,
    },
    /// The record of the volume cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The directory of the volume cannot be moved into staging.
    #[error("volume {id}: cannot remove its directory: {source}")]
    Discard {
        /// The volume.
        id: VolumeId,
        /// The system's error.
        source: io::Error,
    },
}

impl UnpublishError {
    /// The class of the error.
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
