//! What can go wrong, an enum for each operation; each message is the sentence a pod's Event shows.

use std::{io, path::PathBuf, sync::Arc};

use super::{PodUid, RecordError, Reference, RestoreError, Target, VolumeId};
use crate::{
    budget::OverBudget,
    error::Class,
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
    /// The directory of the volumes cannot be listed.
    #[error("cannot list the volumes: {0}")]
    List(io::Error),
    /// The kernel did not say what is mounted.
    #[error("cannot tell which volumes are mounted: {0}")]
    Table(MountError),
    /// There are too many threads.
    #[error("cannot start the threads that remove volumes: {0}")]
    Threads(io::Error),
}

/// The node cannot make volumes at this moment.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be read and written: {0}")]
pub struct ReadyError(pub io::Error);

/// The layers of an image could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Policy says not to ask, and it is not here for this pod: which of the two is nobody's business.
    #[error(
        "image {0} is not on this node for this pod, and pullPolicy is Never; use IfNotPresent, with a secret that may pull \
         it if it is private"
    )]
    NotPresent(Reference),
    /// What was found a moment ago is not fetched to be found again.
    #[error(
        "image {reference}: {why} (seen {seconds} s ago, and not tried again before {again} s)"
    )]
    Known {
        /// What was asked for.
        reference: Reference,
        /// What was found.
        why: String,
        /// How long ago.
        seconds: u64,
        /// For how long it is remembered, in seconds.
        again: u64,
        /// What it meant.
        class: Class,
    },
    /// Its registry is slow, and gives way to others.
    #[error(
        "image {0}: its registry is slow, many others on this node are slow too, and somebody waits: tried again later"
    )]
    Crowded(Reference),
    /// Memory that other pulls hold.
    #[error("image {reference}: what it consists of is not kept: {why}")]
    Memory {
        /// What was asked for.
        reference: Reference,
        /// Whether that passes.
        why: OverBudget,
    },
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
    /// The snapshot is not to be had.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl PullError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::NotPresent(_) => Class::NotFound,
            Self::Known { class, .. } => *class,
            Self::Crowded(_) => Class::Unavailable,
            Self::Memory { why, .. } => why.class(),
            Self::TooManyLayers { .. } => Class::Precondition,
            Self::Image(e) => e.class(),
            Self::Add { source, .. } => source.class(),
            Self::Record(e) => e.class(),
            Self::Restore(e) => e.class(),
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
    #[error("target path {target} is not beneath the kubelet's directory {kubelet}")]
    Outside {
        /// As asked.
        target: Target,
        /// The directory.
        kubelet: String,
    },
    /// The request names another pod than the one whose directory the target is in: nobody but the kubelet makes that directory.
    #[error(
        "target path {target} is not of pod {uid}, which the request names: the CSIDriver object has to say podInfoOnMount: true"
    )]
    OtherPod {
        /// As asked.
        target: Target,
        /// As asked.
        uid: PodUid,
    },
    /// The same volume, asked for differently.
    #[error("volume {id} exists already with other {what}; delete the pod to make it anew")]
    Conflict {
        /// The volume.
        id: VolumeId,
        /// In which arguments the two differ.
        what: &'static str,
    },
    /// Policy has not got the image.
    #[error(
        "image {image} is not allowed in namespace {namespace}: the driver's policy (policy.allowedImages, \
         policy.refusedImages of its chart) says which are; a snapshot is named in the attribute `snapshot`"
    )]
    NotAllowed {
        /// The image.
        image: Reference,
        /// The pod's namespace.
        namespace: String,
    },
    /// An attribute that is about writes, and there are none.
    #[error("volume {id}: {what} has no meaning for a read-only volume: leave it out")]
    ReadOnly {
        /// The volume.
        id: VolumeId,
        /// The attribute.
        what: &'static str,
    },
    /// The pod's own limit is one that nobody here would hold it to.
    #[error(
        "volume {id}: size and inodes cannot be enforced for a volume on this node's disk: {why}; leave them out, or use \
         medium: Memory"
    )]
    Unenforceable {
        /// The volume.
        id: VolumeId,
        /// What the file system lacks.
        why: String,
    },
    /// The images do not arrive in time; their pull goes on.
    #[error("volume {id}: {progress}; the pull goes on, ask again")]
    Pulling {
        /// The volume.
        id: VolumeId,
        /// How far it is.
        progress: String,
    },
    /// The images did not arrive.
    #[error("{0}")]
    Pull(Arc<PullError>),
    /// A volatile volume may be torn, and its owner would rather have none.
    #[error(
        "volume {id} is volatile and may be torn, because {why}; delete the pod to start anew, or use onUnclean: discard"
    )]
    Unclean {
        /// The volume.
        id: VolumeId,
        /// What happened.
        why: &'static str,
    },
    /// A file cannot be copied up.
    #[error(
        "volume {id}: preCopyUp: cannot copy up {path:?}: {source}; list regular files of the images"
    )]
    CopyUp {
        /// The volume.
        id: VolumeId,
        /// The file, relative to the volume.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
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
    /// The directory to mount on.
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
    #[error("target path {target} is not beneath the kubelet's directory {kubelet}")]
    Outside {
        /// As asked.
        target: Target,
        /// The directory.
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
    /// The target is not an empty directory; whatever is in it is not ours to delete.
    #[error(
        "volume {id}: cannot remove the target {target}: {source}; only an empty directory is removed"
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
    /// The volume is still mounted, or something is mounted within its directory.
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
