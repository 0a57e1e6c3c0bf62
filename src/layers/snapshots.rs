//! Snapshots: names for stacks whose top was cut out of a volume.
//!
//! ```text
//! <root>/snapshots/<id>.json     replaced whole; written after its layers, removed before them
//! ```

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Store;
use crate::{
    digest::Digest,
    sys::{
        durable::{self, at},
        id_chars::is_name,
    },
};

/// The format this version writes; a record of a later one is refused, never guessed at.
const FORMAT: u32 = 1;

/// A snapshot's id, which is also its CSI handle: 1 to 128 bytes of letters, digits, `.`, `_` and `-`, beginning with a letter or
/// digit, so that it is safe as one part of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SnapshotId(String);

/// Not a snapshot's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a snapshot's id: expected 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
)]
pub struct SnapshotIdError(String);

impl SnapshotId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = SnapshotIdError;

    fn try_from(text: String) -> Result<Self, SnapshotIdError> {
        text.parse()
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        match is_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(SnapshotIdError(text.chars().take(140).collect())),
        }
    }
}

/// One snapshot of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Of the record itself.
    pub format: u32,
    /// Its name.
    pub id: SnapshotId,
    /// The keys of its layers, bottom first.
    pub stack: Vec<Digest>,
    /// How many of these, at the top, lie above the images that its volume was made of.
    pub own: usize,
    /// The images whose configs its own image goes on from, in the order of the stack: keys of [`ImageRecord`](super::ImageRecord)s.
    pub manifests: Vec<Digest>,
    /// The image at the bottom, as the volume's pod named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The snapshot that its volume was made of, if of one.
    pub parent: Option<SnapshotId>,
    /// Of what it was cut.
    pub source: SnapshotSource,
    /// Whom root's files of the images belonged to in the volume, as (uid, gid).
    pub owner: Option<(u32, u32)>,
    /// When it was cut.
    pub cut: Timestamp,
    /// Entries of the newest layer.
    pub entries: u64,
    /// Bytes of the newest layer's files.
    pub bytes: u64,
    /// For how long the volume's pods stood still, in microseconds; `None` where they did not.
    pub frozen_micros: Option<u64>,
    /// Whether that was because its pod had ended, so that nobody wrote any more.
    #[serde(default)]
    pub ended: bool,
    /// How many files changed each time that they were copied, so that their bytes are of more than one moment.
    #[serde(default)]
    pub torn: u64,
    /// Where it was pushed, `registry/repository@digest`.
    pub pushed: Option<String>,
}

/// What a snapshot was cut of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSource {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The volume's CSI handle.
    pub volume: String,
}

impl SnapshotRecord {
    /// The format of a new record.
    pub const FORMAT: u32 = FORMAT;

    /// The same where it is of this namespace: to others nothing is said of where another one's images and snapshots are.
    #[must_use]
    pub fn for_namespace(self, namespace: &str) -> Option<Self> {
        (self.source.namespace == namespace).then_some(self)
    }
}

/// All records, in memory as on disk.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    known: Mutex<BTreeMap<SnapshotId, SnapshotRecord>>,
    /// Held by the one who writes, so that readers never wait for the disk: two who write one record would leave memory and disk
    /// apart.
    writer: Mutex<()>,
    /// Records that could not be read at the start: while one of them is there, nobody knows which layers it needs.
    unreadable: Vec<PathBuf>,
}

impl Snapshots {
    pub(super) fn load(dir: PathBuf) -> io::Result<Self> {
        durable::sweep(&dir)?;
        let (mut known, mut unreadable) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&dir).map_err(at("list", &dir))? {
            let path = entry.map_err(at("list", &dir))?.path();
            match read(&path) {
                Ok(record) => drop(known.insert(record.id.clone(), record)),
                Err(why) => {
                    tracing::error!(path = %path.display(), why, "not a snapshot's record");
                    unreadable.push(path);
                }
            }
        }
        Ok(Self { dir, known: Mutex::new(known), writer: Mutex::default(), unreadable })
    }

    /// The first record that nobody can read. Whoever removes it has decided that nothing needs its layers.
    pub(super) fn unreadable(&self) -> Option<&Path> {
        let is_there = |path: &&PathBuf| match fs::symlink_metadata(path) {
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(_) => true,
        };
        self.unreadable.iter().find(is_there).map(PathBuf::as_path)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, SnapshotRecord>> {
        // Changed by whole entries only, so it is whole after any panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<SnapshotRecord, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let record: SnapshotRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if record.format != FORMAT {
        return Err(format!("its format is {}, known is {FORMAT}", record.format));
    }
    match path.file_name() {
        Some(name) if name == file_name(&record.id).as_str() => Ok(record),
        _ => Err(format!("it is about {}", record.id)),
    }
}

fn file_name(id: &SnapshotId) -> String {
    format!("{id}.json")
}

/// Bytes of layers that were cut out of volumes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Captured {
    /// Of one namespace.
    pub(super) own: u64,
    /// Of all.
    pub(super) all: u64,
}

impl Store {
    /// What the snapshots of this node have captured.
    pub(super) fn captured(&self, namespace: &str) -> Captured {
        let mut captured = Captured::default();
        for one in self.snapshots.known().values() {
            captured.all += one.bytes;
            if one.source.namespace == namespace {
                captured.own += one.bytes;
            }
        }
        captured
    }

    /// The snapshot of this name, if it is on this node.
    pub fn snapshot(&self, id: &SnapshotId) -> Option<SnapshotRecord> {
        self.snapshots.known().get(id).cloned()
    }

    /// All snapshots of this node, by name.
    pub fn snapshots(&self) -> Vec<SnapshotRecord> {
        self.snapshots.known().values().cloned().collect()
    }

    /// Keeps a record, durably, in the place of the one of its name. The caller has a lease of its layers, which are here.
    pub fn put_snapshot(&self, record: SnapshotRecord) -> io::Result<()> {
        let path = self.snapshots.dir.join(file_name(&record.id));
        let _writer = self.snapshots.writer();
        durable::write_atomic(&path, &serde_json::to_vec_pretty(&record)?)?;
        self.snapshots.known().insert(record.id.clone(), record);
        Ok(())
    }

    /// Forgets a snapshot; its layers go when nothing else needs them. Answers whether it was here.
    pub fn drop_snapshot(&self, id: &SnapshotId) -> io::Result<bool> {
        let _writer = self.snapshots.writer();
        if !self.snapshots.known().contains_key(id) {
            return Ok(false);
        }
        durable::remove_file(&self.snapshots.dir.join(file_name(id)))?;
        self.snapshots.known().remove(id);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_safe_part_of_a_path() {
        for good in ["snap-0b6f", "a", &"a".repeat(128)] {
            assert_eq!(good.parse::<SnapshotId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "-a", ".a", "a b", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_unreadable_record_is_in_the_way_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["a.json", "b.json"].map(|name| dir.path().join(name));
        fs::write(&first, "{").unwrap();
        fs::write(&second, "").unwrap();
        let snapshots = Snapshots::load(dir.path().to_owned()).unwrap();
        for _ in 0..2 {
            let found = snapshots.unreadable().unwrap();
            assert!(found == first || found == second, "{}", found.display());
            fs::remove_file(found).unwrap();
        }
        assert_eq!(snapshots.unreadable(), None);
    }
}
