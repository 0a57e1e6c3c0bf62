//! The storage of the volumes' records: an xattr of the volume's directory, or a file.
//!
//! A record is written before the volume is mounted, without a wait for the disk. After a crash it is needed only if
//! data survive that the pod has synced. So the record is metadata of the volume's directory. `sys::durable` documents
//! on which file systems such metadata reach the disk in time. On other file systems the record is a file, and is
//! synced.
//!
//! | file system | the record | the crashes that it survives |
//! |---|---|---|
//! | ext4, xfs | an xattr, no sync | every crash after the pod has synced a file in the volume |
//! | btrfs | an xattr; a sync if a transaction ended meanwhile | the same |
//! | others | a file, synced before the overlay is made | every crash |
//!
//! An earlier crash leaves no directory, or a half-made directory without a record. The pod loses no synced data, and
//! its volume is made again. A file that an earlier version wrote stays a file.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{
    Medium, VolumeId,
    lock::VolumeLock,
    record::{Record, RecordError},
};
use crate::{
    overlay::UpperAndWork,
    sys::durable::{
        self, at,
        xattr_text::{self, Journal},
    },
};

/// The name of the file, if the record is a file.
const FILE: &str = "record.json";

/// The name of the xattr, if the record is one.
const XATTR: &str = "record";

/// The records of all volumes, in one directory.
#[derive(Debug, Clone)]
pub(super) struct Records {
    root: PathBuf,
    journal: Journal,
}

impl Records {
    pub(super) fn new(root: PathBuf) -> Self {
        let journal = Journal::of(&root);
        Self { root, journal }
    }

    /// The directory of one volume.
    pub(super) fn dir(&self, id: &VolumeId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// The mount point of the tmpfs of a volume in memory.
    pub(super) fn memory(&self, id: &VolumeId) -> PathBuf {
        self.dir(id).join("memory")
    }

    /// The directory that holds the upper and the work directory.
    pub(super) fn upper_parent(&self, id: &VolumeId, medium: Medium) -> PathBuf {
        match medium {
            Medium::Disk => self.dir(id),
            Medium::Memory => self.memory(id),
        }
    }

    /// The upper and the work directory of one volume.
    pub(super) fn upper_and_work(&self, id: &VolumeId, medium: Medium) -> UpperAndWork {
        let home = self.upper_parent(id, medium);
        UpperAndWork::new(home.join("upper"), home.join("work"))
    }

    /// Reads the record of `id`. `None` if there is none.
    pub(super) fn read(&self, id: &VolumeId) -> Result<Option<Record>, RecordError> {
        let dir = self.dir(id);
        let file = dir.join(FILE);
        let disk = |source| RecordError::Disk { id: id.clone(), source };
        let found = match fs::read(&file) {
            Ok(bytes) => Some((bytes, file)),
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => Some((Vec::new(), file)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(disk(at("read", &file)(e)));
            }
            Err(_) => match xattr_text::get(&dir, XATTR) {
                Ok(found) => found.map(|bytes| (bytes, dir)),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => Some((Vec::new(), dir)),
                Err(e) => return Err(disk(e)),
            },
        };
        found.map(|(bytes, place)| Record::parse(&bytes, id, &place)).transpose()
    }

    /// Whether the volume's directory exists, with or without a record. `true` also if that cannot be found out.
    pub(super) fn has_dir(&self, id: &VolumeId) -> bool {
        let there = fs::symlink_metadata(self.dir(id));
        !there.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }

    /// Makes the directory of a new volume.
    pub(super) fn make(&self, lock: &VolumeLock) -> Result<(), RecordError> {
        let dir = self.dir(lock.id());
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(at("make the directory", &dir))
            .map_err(|source| RecordError::Disk { id: lock.id().clone(), source })
    }

    /// Replaces the record.
    pub(super) fn write(&self, lock: &VolumeLock, record: &Record) -> Result<(), RecordError> {
        let dir = self.dir(lock.id());
        let file = dir.join(FILE);
        let written = serde_json::to_vec(record).map_err(io::Error::from).and_then(|bytes| {
            if self.journal == Journal::Unknown || fs::symlink_metadata(&file).is_ok() {
                durable::write_atomic(&file, &bytes)?;
                // Last, and cheap: the sync of the record has already committed the new directory to the journal.
                return durable::sync_dir(&self.root);
            }
            xattr_text::put(&dir, XATTR, &bytes)
        });
        written.map_err(|source| RecordError::Disk { id: lock.id().clone(), source })
    }

    /// Makes sure that the record and all else in the volume's directory reach the disk no later than the data that
    /// the pod is going to sync. `newest` is the path that was made last.
    pub(super) fn sync_if_needed(
        &self,
        lock: &VolumeLock,
        newest: &Path,
    ) -> Result<(), RecordError> {
        let synced = self.journal.sync_if_needed(&self.dir(lock.id()), newest);
        synced.map_err(|source| RecordError::Disk { id: lock.id().clone(), source })
    }

    /// The ids of all volumes with a directory. A name that is not an id was not made by the driver and is skipped.
    pub(super) fn list(&self) -> io::Result<Vec<VolumeId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            match name.to_str().and_then(|name| name.parse().ok()) {
                Some(id) => ids.push(id),
                None => tracing::warn!(?name, "not the directory of a volume; skipped"),
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Changes of existing records by tests, for both kinds of storage.
#[cfg(test)]
impl Records {
    /// Changes the text of the record.
    pub(super) fn change(&self, id: &VolumeId, change: impl FnOnce(String) -> String) {
        let (dir, file) = (self.dir(id), self.dir(id).join(FILE));
        match fs::read_to_string(&file) {
            Ok(text) => fs::write(&file, change(text)).unwrap(),
            Err(_) => {
                let text = xattr_text::get(&dir, XATTR).unwrap().expect("a record");
                let text = change(String::from_utf8(text).unwrap());
                xattr_text::put(&dir, XATTR, text.as_bytes()).unwrap();
            }
        }
    }

    /// Moves the record into a file, as an earlier version wrote it. Returns whether it was an xattr.
    pub(super) fn keep_as_file(&self, id: &VolumeId) -> bool {
        let (dir, file) = (self.dir(id), self.dir(id).join(FILE));
        let Some(text) = xattr_text::get(&dir, XATTR).unwrap() else { return false };
        xattr_text::remove(&dir, XATTR);
        fs::write(file, text).unwrap();
        true
    }

    /// Removes the record.
    pub(super) fn lose(&self, id: &VolumeId) {
        let file = self.dir(id).join(FILE);
        if fs::remove_file(file).is_err() {
            xattr_text::remove(&self.dir(id), XATTR);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::{super::lock::Locks, *};

    #[test]
    fn a_record_is_read_back_from_an_xattr_and_from_a_file() {
        let dir = TempDir::new().unwrap();
        for journal in [Journal::of(dir.path()), Journal::Unknown] {
            let records = Records { root: dir.path().to_owned(), journal };
            let lock =
                Locks::default().try_lock(&format!("a-{journal:?}").parse().unwrap()).unwrap();
            let mut record = Record::sample(lock.id().clone());
            records.make(&lock).unwrap();
            assert_eq!(records.read(lock.id()).unwrap(), None);
            // The record of a deep stack does not fit into one xattr.
            for layers in [2, 500, 1] {
                record.stack = vec![crate::layers::LayerKey::of(b"layer"); layers];
                record.created = Timestamp::now();
                records.write(&lock, &record).unwrap();
                assert_eq!(records.read(lock.id()).unwrap().as_ref(), Some(&record));
            }
            let is_file = records.dir(lock.id()).join(FILE).exists();
            assert_eq!(is_file, journal == Journal::Unknown);
        }
    }

    /// Drivers are upgraded while pods run.
    #[test]
    fn a_file_that_an_earlier_version_wrote_stays_the_record() {
        let dir = TempDir::new().unwrap();
        let records = Records::new(dir.path().to_owned());
        let lock = Locks::default().try_lock(&"a".parse().unwrap()).unwrap();
        let mut record = Record::sample(lock.id().clone());
        records.make(&lock).unwrap();
        let file = records.dir(lock.id()).join(FILE);
        fs::write(&file, serde_json::to_vec_pretty(&record).unwrap()).unwrap();
        assert_eq!(records.read(lock.id()).unwrap().as_ref(), Some(&record));
        record.snapshot_layers = 1;
        records.write(&lock, &record).unwrap();
        assert_eq!(records.read(lock.id()).unwrap().as_ref(), Some(&record));
        let kept: Record = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(kept, record);
    }
}
