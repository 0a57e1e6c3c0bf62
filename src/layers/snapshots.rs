//! Snapshot records: named layer stacks, whose top layers were captured from a volume.
//!
//! ```text
//! <root>/snapshots/<id>.json     replaced whole; written after the snapshot's layers, removed before them
//! ```
//!
//! In memory as on disk. In a shared store they are read again for each call, because other processes write them too.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::{
    access::{Access, DirGuard, DirLock},
    error::CollectError,
    key::LayerKey,
    snapshot_id::SnapshotId,
};
use crate::{
    digest::ManifestDigest,
    owner::{self, Owner},
    sys::durable::{self, at},
};

/// The format of the records that this version writes. Format 1 had the field `cut` instead of `captured_at`, and is read
/// too. A record of another format is refused.
const FORMAT: u32 = 2;
const READ_FORMATS: RangeInclusive<u32> = 1..=FORMAT;

/// One snapshot of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The format of the record: [`SnapshotRecord::FORMAT`].
    pub format: u32,
    /// The snapshot's ID.
    pub id: SnapshotId,
    /// The keys of its layers, bottom first.
    pub stack: Vec<LayerKey>,
    /// The number of layers, at the top of `stack`, that lie above the images of its volume.
    #[serde(rename = "own")]
    pub own_layers: usize,
    /// The images on whose configs the snapshot's image is based, in the order of the stack: manifest digests of
    /// [`ImageRecord`](super::ImageRecord)s.
    pub manifests: Vec<ManifestDigest>,
    /// The reference of the bottom image, as the volume's pod named it, or as recorded in the snapshot from which the
    /// volume was created. `None` if neither is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The snapshot from which its volume was created, if any.
    pub parent: Option<SnapshotId>,
    /// The captured volume and its pod.
    pub source: SnapshotSource,
    /// The owner that the volume gave to the images' files that belong to root; `None` if they kept their
    /// owner.
    #[serde(default, with = "owner::pair")]
    pub owner: Option<Owner>,
    /// The time of the capture.
    #[serde(alias = "cut")]
    pub captured_at: Timestamp,
    /// The number of entries of the newest layer.
    pub entries: u64,
    /// The bytes of the newest layer's files.
    pub bytes: u64,
    /// The time for which the volume's pods were frozen, in microseconds; `None` if they were not.
    pub frozen_micros: Option<u64>,
    /// Whether no pod was frozen because the volume's pod had ended, so no process wrote to the volume.
    #[serde(default)]
    pub ended: bool,
    /// The number of files that changed during each attempt to copy them, so that their bytes are from more than one
    /// moment.
    #[serde(default)]
    pub torn: u64,
    /// The pushed image, `registry/repository@digest`; `None` if it was not pushed.
    pub pushed: Option<String>,
}

/// The pod and the volume that a snapshot was captured from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSource {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The volume's CSI id.
    #[serde(rename = "volume")]
    pub volume_id: String,
}

impl SnapshotRecord {
    /// The format of a new record.
    pub const FORMAT: u32 = FORMAT;

    /// The record, if its snapshot belongs to `namespace`. Other namespaces must not learn where its images and
    /// snapshots are.
    #[must_use]
    pub fn for_namespace(self, namespace: &str) -> Option<Self> {
        (self.source.namespace == namespace).then_some(self)
    }
}

/// The records of all snapshots of this node.
#[derive(Debug)]
pub struct SnapshotRecords {
    dir: PathBuf,
    access: Access,
    known: Mutex<Known>,
    /// Held by a writer, so that readers never wait for the disk, and so that two writers of one record cannot leave
    /// different versions in memory and on disk. In a shared store also held by readers, because a list of a directory
    /// may lack a record that is replaced meanwhile.
    writer: DirLock,
}

/// What is in the directory.
#[derive(Debug, Default)]
struct Known {
    records: BTreeMap<SnapshotId, SnapshotRecord>,
    /// Records that could not be read. While one of them exists, it is unknown which layers it needs.
    unreadable: Vec<PathBuf>,
}

impl Known {
    fn read(dir: &Path) -> io::Result<Self> {
        let mut known = Self::default();
        for entry in fs::read_dir(dir).map_err(at("list", dir))? {
            let path = entry.map_err(at("list", dir))?.path();
            match read(&path) {
                Ok(record) => drop(known.records.insert(record.id.clone(), record)),
                Err(why) => {
                    tracing::error!(
                        path = %path.display(),
                        why,
                        "cannot read a snapshot record: no garbage collection until it is removed"
                    );
                    known.unreadable.push(path);
                }
            }
        }
        Ok(known)
    }

    /// The first unreadable record that still exists. By removing the file, an administrator decides that its layers
    /// are not needed.
    fn unreadable(&self) -> Option<&Path> {
        let exists = |path: &&PathBuf| match fs::symlink_metadata(path) {
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(_) => true,
        };
        self.unreadable.iter().find(exists).map(PathBuf::as_path)
    }
}

impl SnapshotRecords {
    pub(super) fn load(dir: PathBuf, access: Access) -> io::Result<Self> {
        let writer = access.dir_lock(&dir);
        let guard = writer.lock()?;
        durable::remove_temp_files(&dir)?;
        let known = if access.is_shared() { Known::default() } else { Known::read(&dir)? };
        drop(guard);
        let known = Mutex::new(known);
        Ok(Self { dir, access, known, writer })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    fn writer(&self) -> io::Result<DirGuard<'_>> {
        self.writer.lock()
    }

    /// Reads the records again if other processes may have changed them.
    fn refresh(&self) -> io::Result<()> {
        // Otherwise a reader would wait for the disk.
        if self.access.is_shared() { self.read_again(&self.writer()?) } else { Ok(()) }
    }

    /// [`Self::refresh`] for a caller that has the lock, and acts on what was read.
    fn read_again(&self, _writer: &DirGuard<'_>) -> io::Result<()> {
        if self.access.is_shared() {
            let known = Known::read(&self.dir)?;
            *self.known() = known;
        }
        Ok(())
    }

    /// [`Self::refresh`] for callers that cannot do better than to use what was read before.
    fn refresh_or_log(&self) {
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "cannot read the snapshot records again: changes of other processes are not seen");
        }
    }

    /// All records, for garbage collection.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(super) fn roots(&self) -> Result<Vec<SnapshotRecord>, CollectError> {
        self.refresh()?;
        let known = self.known();
        match known.unreadable() {
            None => Ok(known.records.values().cloned().collect()),
            Some(path) => {
                let why =
                    format!("this version cannot read the snapshot record {}", path.display());
                Err(CollectError::IncompleteRoots(why))
            }
        }
    }
}

/// Reads a record. Its file must be named after its id.
pub(super) fn read(path: &Path) -> Result<SnapshotRecord, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let mut record: SnapshotRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if !READ_FORMATS.contains(&record.format) {
        let format = record.format;
        return Err(format!("its format is {format}, this version reads formats 1 to {FORMAT}"));
    }
    // The next write has the fields of this version.
    record.format = FORMAT;
    match path.file_name() {
        Some(name) if name == file_name(&record.id).as_str() => Ok(record),
        _ => Err(format!("its name differs: it is the record of {}", record.id)),
    }
}

fn file_name(id: &SnapshotId) -> String {
    format!("{id}.json")
}

/// Bytes of snapshot layers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Captured {
    /// The bytes of one namespace.
    pub(super) own: u64,
    /// The bytes of all namespaces.
    pub(super) all: u64,
}

impl SnapshotRecords {
    /// The bytes that the snapshots of this node have captured, in total and for `namespace`.
    pub(super) fn captured(&self, namespace: &str) -> Captured {
        self.refresh_or_log();
        let mut captured = Captured::default();
        for one in self.known().records.values() {
            captured.all += one.bytes;
            if one.source.namespace == namespace {
                captured.own += one.bytes;
            }
        }
        captured
    }

    /// The record of the snapshot `id`, if it is on this node.
    pub fn get(&self, id: &SnapshotId) -> Option<SnapshotRecord> {
        self.refresh_or_log();
        self.known().records.get(id).cloned()
    }

    /// The records of all snapshots of this node, sorted by ID.
    pub fn all(&self) -> Vec<SnapshotRecord> {
        self.refresh_or_log();
        self.known().records.values().cloned().collect()
    }

    /// Writes a record, durably, and replaces the one with the same ID. Its layers are in the store, and the caller has
    /// a lease of them. A caller that changes a record keeps others from changing it since it read it.
    pub fn put(&self, record: SnapshotRecord) -> io::Result<()> {
        let path = self.dir.join(file_name(&record.id));
        let _writer = self.writer()?;
        self.access.replace(&path, &serde_json::to_vec_pretty(&record)?)?;
        self.known().records.insert(record.id.clone(), record);
        Ok(())
    }

    /// Removes a snapshot's record. Garbage collection removes its layers when nothing else needs them. Returns whether
    /// there was a record.
    pub fn remove(&self, id: &SnapshotId) -> io::Result<bool> {
        let writer = self.writer()?;
        self.read_again(&writer)?;
        if !self.known().records.contains_key(id) {
            return Ok(false);
        }
        durable::remove_file(&self.dir.join(file_name(id)))?;
        self.known().records.remove(id);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_format_1_is_read_and_written_in_the_format_of_this_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snap-1.json");
        let former = |format: u32| {
            format!(
                r#"{{
  "format": {format},
  "id": "snap-1",
  "stack": [],
  "own": 1,
  "manifests": [],
  "parent": null,
  "source": {{ "namespace": "ci", "pod": "build", "pod_uid": "u-1", "volume": "csi-0123" }},
  "owner": [1000, 100],
  "cut": "2026-11-21T10:00:00Z",
  "entries": 1000,
  "bytes": 1000000000,
  "frozen_micros": 12345,
  "pushed": null
}}"#
            )
        };
        fs::write(&path, former(1)).unwrap();
        let snapshots = SnapshotRecords::load(dir.path().to_owned(), Access::Alone).unwrap();
        assert_eq!(snapshots.known().unreadable(), None);
        let record = snapshots.known().records[&"snap-1".parse().unwrap()].clone();
        assert_eq!(record.captured_at.to_string(), "2026-11-21T10:00:00Z");
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!((&written["format"], written.get("cut")), (&FORMAT.into(), None));
        fs::write(&path, written.to_string()).unwrap();
        assert_eq!(read(&path), Ok(record));
        fs::write(&path, former(FORMAT + 1)).unwrap();
        assert!(read(&path).unwrap_err().contains("its format is 3"));
    }

    #[test]
    fn an_unreadable_record_is_reported_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["a.json", "b.json"].map(|name| dir.path().join(name));
        fs::write(&first, "{").unwrap();
        fs::write(&second, "").unwrap();
        let snapshots = SnapshotRecords::load(dir.path().to_owned(), Access::Alone).unwrap();
        for _ in 0..2 {
            let error = snapshots.roots().unwrap_err().to_string();
            let found = snapshots.known().unreadable().unwrap().to_owned();
            assert!(error.contains(found.to_str().unwrap()), "{error}");
            assert!(found == first || found == second, "{}", found.display());
            fs::remove_file(found).unwrap();
        }
        assert_eq!(snapshots.known().unreadable(), None);
    }
}
