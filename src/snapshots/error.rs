//! Errors of snapshots on their node, one enum for each operation.

use std::{io, path::PathBuf, time::Duration};

use super::SnapshotId;
use crate::{
    error::Class,
    format,
    layers::{FREE_DISK, ReserveError},
    sys::clone::CloneError,
    volumes::{GuardError, VolumeId},
};

/// Why a volume was not captured. Nothing of the capture is left, and no pod is frozen.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Another call captures this snapshot.
    #[error("snapshot {0} is already being captured; try again")]
    Busy(SnapshotId),
    /// A snapshot with this name exists and is of another volume.
    #[error(
        "snapshot {id} exists already and is of volume {of}, not of {volume}; choose another name"
    )]
    Taken {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The id of the requested volume.
        volume: VolumeId,
        /// The id of the volume of the existing snapshot.
        of: String,
    },
    /// The volume cannot be captured now.
    #[error("snapshot {id}: {source}")]
    Guard {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The cause.
        source: GuardError,
    },
    /// This process is about to end, and freezes no more pods.
    #[error(
        "snapshot {0}: the driver on this node is stopping; it captures the snapshot when it runs again"
    )]
    Stopping(SnapshotId),
    /// Another capture of the same pod takes too long.
    #[error("snapshot {id}: another capture of pod {pod} has not ended; it is tried again")]
    PodBusy {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The pod, as namespace/name.
        pod: String,
    },
    /// The volume is being unpublished, and the end of a pod does not wait for a copy.
    #[error("snapshot {id}: the copy was stopped because volume {volume} is being unpublished")]
    Unpublishing {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The id of the volume.
        volume: VolumeId,
    },
    /// Changed files of lower layers have hard links under which a copy would show the old content.
    #[error(
        "snapshot {id}: {files} changed files of volume {volume} have other names (hard links) in a layer, which a \
         snapshot would show with the old content, because only the overlay's index connects the names; run \
         `find . -links +1 -exec touch -c {{}} +` in the volume and take the snapshot again, or create the volume \
         without `index: on`"
    )]
    StaleHardLinks {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The id of the volume.
        volume: VolumeId,
        /// The number of such files.
        files: u64,
    },
    /// The caller cancelled the capture.
    #[error("snapshot {0}: the capture was cancelled")]
    Cancelled(SnapshotId),
    /// The pod cannot be frozen.
    #[error(
        "snapshot {id}: cannot freeze pod {pod}: {source}; to capture without a freeze, use a VolumeSnapshotClass with \
         `consistency: live` (`ovl node-snapshot take --live`)"
    )]
    Freeze {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The pod, as namespace/name.
        pod: String,
        /// The system's error.
        source: io::Error,
    },
    /// The pod would be frozen for longer than the request allows.
    #[error(
        "snapshot {id}: the copy was not complete after {}, so the driver thawed pod {pod} and stopped the capture; \
         allow a longer freeze (`freezeTimeout` of the VolumeSnapshotClass, `--freeze-timeout` of `ovl node-snapshot take`), \
         or a live capture after the timeout (`onFreezeTimeout: live`, `--on-freeze-timeout live`)",
        format::span(*within)
    )]
    FreezeTimeout {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The pod, as namespace/name.
        pod: String,
        /// The longest freeze that the request allows.
        within: Duration,
    },
    /// What was written to the volume cannot be read, or did not reach the disk.
    #[error("snapshot {id}: cannot copy volume {volume}: {source}")]
    Copy {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The id of the volume.
        volume: VolumeId,
        /// Which file or step failed, with the system's error.
        source: CloneError,
    },
    /// The disk or its quota was used up during the copy.
    #[error(
        "snapshot {id}: the disk or quota of {dir} was used up after {} of volume {volume} were copied; {FREE_DISK}",
        format::bytes(*copied), dir = dir.display()
    )]
    Full {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The id of the volume.
        volume: VolumeId,
        /// The directory without free space.
        dir: PathBuf,
        /// Bytes that were copied before that.
        copied: u64,
    },
    /// No space can be reserved for the copy.
    #[error("snapshot {id}: {source}")]
    NoSpace {
        /// The id of the snapshot.
        id: SnapshotId,
        /// Which limit is reached, and what to do.
        source: ReserveError,
    },
    /// The driver was killed during each attempt at this capture.
    #[error(
        "snapshot {0}: the driver on this node was killed {most} times during this capture and does not try again; \
         an administrator must find out why its container ended (out of memory: raise `resources.limits.memory`), then \
         take a new snapshot",
        most = super::starts::MAX_STARTS
    )]
    Killed(SnapshotId),
    /// An operation on the store's disk failed.
    #[error("snapshot {id}: {source}")]
    Disk {
        /// The id of the snapshot.
        id: SnapshotId,
        /// The system's error.
        source: io::Error,
    },
}

impl CaptureError {
    /// The class of the error for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy(_)
            | Self::PodBusy { .. }
            | Self::Stopping(_)
            | Self::Unpublishing { .. }
            | Self::Cancelled(_) => Class::Busy,
            Self::Taken { .. } => Class::Conflict,
            Self::Guard { source, .. } => source.class(),
            // Not retried automatically: each attempt freezes the pod.
            Self::Freeze { .. } | Self::FreezeTimeout { .. } | Self::StaleHardLinks { .. } => {
                Class::Precondition
            }
            Self::Copy {
                source: CloneError::ExceedsBound { .. } | CloneError::TooMany(_), ..
            } => Class::Precondition,
            Self::Copy { source: CloneError::Memory(source), .. } => source.class(),
            Self::Copy {
                source: CloneError::Entry { source, .. } | CloneError::Records(source),
                ..
            } => Class::of_disk(source),
            Self::NoSpace { source, .. } => source.class(),
            Self::Killed(_) => Class::Precondition,
            Self::Copy { .. } => Class::Internal,
            Self::Full { .. } => Class::Exhausted,
            Self::Disk { source, .. } => Class::of_disk(source),
        }
    }
}
