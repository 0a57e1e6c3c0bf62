//! The record of one volume: what it is made of and where it is mounted, written before the kernel is asked for anything.
//!
//! The kernel cannot be asked later: layers given by descriptor show in mountinfo as `lowerdir+=/`, and overlay's own
//! `volatile` marker does not survive a power cut.
//!
//! ```text
//! volumes/<id>/record.json     replaced whole; there from before the first mount until after the last byte
//! volumes/<id>/upper/ work/    overlay's writable pair
//! ```
//!
//! A folder without `record.json` is half made: nothing is mounted from it and nobody was promised it. A volume goes by one
//! rename of its folder into staging, so there is none that is half removed.

use std::{fs, io, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Pod, Target, VolumeId, VolumeSpec, lock::VolumeLock};
use crate::{
    digest::Digest,
    fault::Class,
    sys::durable::{self, at},
};

/// The format this version writes; a record of a later one is refused, never guessed at.
const FORMAT: u32 = 1;

const RECORD: &str = "record.json";

/// What is known of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// The volume.
    pub(super) id: VolumeId,
    /// As it was asked for.
    pub(super) spec: VolumeSpec,
    /// For whom.
    pub(super) pod: Pod,
    /// The diff ids of its layers, bottom first: what the images meant when the volume was made.
    pub(super) stack: Vec<Digest>,
    /// The boot in which it was last mounted: what a volatile upper of another boot is worth nothing without.
    pub(super) boot_id: String,
    /// Where it is mounted, or about to be.
    pub(super) targets: Vec<Target>,
    /// When it was made.
    pub(super) created: Timestamp,
}

impl Record {
    /// The record of a volume made now.
    pub(super) fn new(
        id: VolumeId,
        spec: VolumeSpec,
        pod: Pod,
        stack: Vec<Digest>,
        boot_id: String,
    ) -> Self {
        let (targets, created) = (Vec::new(), Timestamp::now());
        Self { format: FORMAT, id, spec, pod, stack, boot_id, targets, created }
    }
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The disk said no.
    #[error("volume {id}: {source}")]
    Disk {
        /// The volume.
        id: VolumeId,
        /// The system's words.
        source: io::Error,
    },
    /// The record is there and is not one of ours.
    #[error(
        "volume {id}: {path} is not a record this version can read ({why}); delete the pod, then remove the folder \
         if nothing is mounted from it",
        path = path.display()
    )]
    Unreadable {
        /// The volume.
        id: VolumeId,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl RecordError {
    /// Full disks are the caller's to wait for; the rest is the node's.
    pub fn class(&self) -> Class {
        match self {
            Self::Disk { source, .. } => Class::of_disk(source),
            Self::Unreadable { .. } => Class::Corrupt,
        }
    }
}

/// The folder of all volumes.
#[derive(Debug, Clone)]
pub(super) struct Records {
    root: PathBuf,
}

impl Records {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder of one volume.
    pub(super) fn folder(&self, id: &VolumeId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Overlay's upper of one volume.
    pub(super) fn upper(&self, id: &VolumeId) -> PathBuf {
        self.folder(id).join("upper")
    }

    /// Overlay's work folder of one volume.
    pub(super) fn work(&self, id: &VolumeId) -> PathBuf {
        self.folder(id).join("work")
    }

    /// The record of `id`; `None` where there is none.
    pub(super) fn read(&self, id: &VolumeId) -> Result<Option<Record>, RecordError> {
        let path = self.folder(id).join(RECORD);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() != io::ErrorKind::IsADirectory => {
                return Err(disk(id)(at("read", &path)(e)));
            }
            Err(_) => Vec::new(),
        };
        let unreadable =
            |why: String| RecordError::Unreadable { id: id.clone(), path: path.clone(), why };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if record.format != FORMAT {
            return Err(unreadable(format!("its format is {}, known is {FORMAT}", record.format)));
        }
        if record.id != *id {
            return Err(unreadable(format!("it says it is volume {}", record.id)));
        }
        Ok(Some(record))
    }

    /// Makes the folders of a volume that has none: empty upper and work.
    pub(super) fn make(&self, lock: &VolumeLock) -> Result<(), RecordError> {
        let id = lock.id();
        for path in [self.folder(id), self.upper(id), self.work(id)] {
            durable::create_dir(&path, 0o700).map_err(disk(id))?;
        }
        Ok(())
    }

    /// Throws away what was written to the volume: a new, empty upper and work.
    pub(super) fn empty(&self, lock: &VolumeLock) -> Result<(), RecordError> {
        let id = lock.id();
        for path in [self.upper(id), self.work(id)] {
            durable::remove_tree(&path).map_err(disk(id))?;
            durable::create_dir(&path, 0o700).map_err(disk(id))?;
        }
        Ok(())
    }

    /// Replaces the record.
    pub(super) fn write(&self, lock: &VolumeLock, record: &Record) -> Result<(), RecordError> {
        let path = self.folder(lock.id()).join(RECORD);
        let written = serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|bytes| durable::write_atomic(&path, &bytes));
        written.map_err(disk(lock.id()))
    }

    /// The ids of all folders here. A name that is no id was not made by us and is left alone.
    pub(super) fn list(&self) -> io::Result<Vec<VolumeId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            match name.to_str().and_then(|name| name.parse().ok()) {
                Some(id) => ids.push(id),
                None => tracing::warn!(?name, "not a volume: left alone"),
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

fn disk(id: &VolumeId) -> impl FnOnce(io::Error) -> RecordError {
    let id = id.clone();
    move |source| RecordError::Disk { id, source }
}
