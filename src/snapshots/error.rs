//! What can go wrong with a snapshot on its node, an enum for each operation.

use std::{io, path::PathBuf, time::Duration};

use super::SnapshotId;
use crate::{
    error::Class,
    layers::ReserveError,
    sys::clone::CloneError,
    volumes::{GuardError, VolumeId},
};

/// Why a volume was not cut. Nothing of it is left, and no pod stands still.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Another call cuts it.
    #[error("snapshot {0} is being made")]
    Busy(SnapshotId),
    /// The name is another volume's.
    #[error(
        "snapshot {id} is there already and is of volume {of}, not of {volume}; choose another name"
    )]
    Taken {
        /// The snapshot.
        id: SnapshotId,
        /// The volume that was asked for.
        volume: VolumeId,
        /// The volume that it is of.
        of: String,
    },
    /// The volume cannot be cut now.
    #[error("snapshot {id}: {source}")]
    Hold {
        /// The snapshot.
        id: SnapshotId,
        /// Why.
        source: GuardError,
    },
    /// This process is about to end, and stops nobody any more.
    #[error("snapshot {0}: the driver on this node is stopping, and makes it once it runs again")]
    Stopping(SnapshotId),
    /// Its volume is to be unpublished, and a pod that goes does not wait for a copy.
    #[error("snapshot {id}: its copy was given up because volume {volume} is being unpublished")]
    GoneOn {
        /// The snapshot.
        id: SnapshotId,
        /// The volume.
        volume: VolumeId,
    },
    /// Files of its layers have names that a copy would show as they were before.
    #[error(
        "snapshot {id}: volume {volume} has `index: on`, and {files} of the files with several names that it changed have names which \
         lead to the change by that index alone; name them once (`find . -links +1 -exec touch -c {{}} +` in the volume) and ask \
         again, or do without `index`"
    )]
    HalfNamed {
        /// The snapshot.
        id: SnapshotId,
        /// The volume.
        volume: VolumeId,
        /// How many files.
        files: u64,
    },
    /// Whoever asked for it wants it no more.
    #[error("snapshot {0} is not wanted any more")]
    Unwanted(SnapshotId),
    /// The pod cannot be made to stand still.
    #[error(
        "snapshot {id}: pod {pod} cannot be made to stand still: {source}; \
         a VolumeSnapshotClass with `consistency: live` does without, and so does `ovl snapshot take --live`"
    )]
    Freeze {
        /// The snapshot.
        id: SnapshotId,
        /// The pod, as namespace/name.
        pod: String,
        /// The system's words.
        source: io::Error,
    },
    /// The pod would have had to stand still for longer than it may.
    #[error(
        "snapshot {id}: pod {pod} would have had to stand still for more than {within:?}, and goes on; give it longer \
         (`freezeTimeout` of the VolumeSnapshotClass, `--within` of `ovl snapshot take`), or let it be captured live then \
         (`onFreezeTimeout: live`, `--or-live`)"
    )]
    Late {
        /// The snapshot.
        id: SnapshotId,
        /// The pod, as namespace/name.
        pod: String,
        /// For how long it may.
        within: Duration,
    },
    /// What was written to the volume cannot be read, or did not reach the disk.
    #[error("snapshot {id}: volume {volume} cannot be copied: {source}")]
    Copy {
        /// The snapshot.
        id: SnapshotId,
        /// The volume.
        volume: VolumeId,
        /// What, and the system's words.
        source: CloneError,
    },
    /// The room was used up.
    #[error(
        "snapshot {id}: the disk or quota of {dir} was used up when {copied} bytes of volume {volume} were copied; make room \
         on that disk, or lower --disk-high-percent",
        dir = dir.display()
    )]
    Full {
        /// The snapshot.
        id: SnapshotId,
        /// The volume.
        volume: VolumeId,
        /// Where there is no room.
        dir: PathBuf,
        /// Bytes that were copied until then.
        copied: u64,
    },
    /// Captures have all the room that they may have.
    #[error("snapshot {id}: {source}")]
    NoSpace {
        /// The snapshot.
        id: SnapshotId,
        /// Whose room, and what to do.
        source: ReserveError,
    },
    /// The driver was killed each time while it was made.
    #[error(
        "snapshot {0}: the driver on this node was killed {most} times while it made this snapshot, and does not try again: look at \
         why its container ended (out of memory: raise `resources.limits.memory`), then ask for a new snapshot",
        most = super::starts::MOST
    )]
    Killed(SnapshotId),
    /// The store's disk said no.
    #[error("snapshot {id}: {source}")]
    Disk {
        /// The snapshot.
        id: SnapshotId,
        /// The system's words.
        source: io::Error,
    },
}

impl CaptureError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy(_) | Self::Stopping(_) | Self::GoneOn { .. } | Self::Unwanted(_) => {
                Class::Busy
            }
            Self::Taken { .. } => Class::Conflict,
            Self::Hold { source, .. } => source.class(),
            // Not asked again by itself: each try makes the pod stand still.
            Self::Freeze { .. } | Self::Late { .. } | Self::HalfNamed { .. } => Class::Precondition,
            Self::Copy { source: CloneError::Beyond { .. } | CloneError::TooMany(_), .. } => {
                Class::Precondition
            }
            Self::Copy { source: CloneError::Memory(source), .. } => source.class(),
            Self::Copy {
                source: CloneError::Entry { source, .. } | CloneError::Notes(source),
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

/// Why a snapshot was not forgotten.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// It is being made.
    #[error("snapshot {0} is being worked on")]
    Busy(SnapshotId),
    /// The store's disk said no.
    #[error("snapshot {id}: {source}")]
    Disk {
        /// The snapshot.
        id: SnapshotId,
        /// The system's words.
        source: io::Error,
    },
}

impl DeleteError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy(_) => Class::Busy,
            Self::Disk { source, .. } => Class::of_disk(source),
        }
    }
}
