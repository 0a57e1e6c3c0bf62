//! Where the records of volumes are kept.
//!
//! A record is written before the kernel is asked for anything, and waits for no disk. It has to be there after a crash only if
//! something else is that the pod was promised, which is what the pod has synced: so it is metadata of the volume's directory,
//! and `sys::durable` says on which file systems that brings it to the disk in time. On others it is a file, and is synced.
//!
//! | file system | the record | which crash it survives |
//! |---|---|---|
//! | ext4, xfs | attribute, no sync | every one after the pod has synced a file in the volume |
//! | btrfs | attribute; a sync where a transaction ended meanwhile | the same |
//! | others | a file, synced before the overlay is made | every one |
//!
//! A crash before that leaves a directory without a record, which is half made, or none at all: the pod has lost nothing that it
//! was promised, and its volume is made anew. A file that an earlier version wrote stays a file.

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
    overlay::Upper,
    sys::durable::{
        self, at,
        note::{self, Journal},
    },
};

/// The file, where it is one.
const FILE: &str = "record.json";

/// The text's name, where it is an attribute.
const NOTE: &str = "record";

/// The directory of all volumes.
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

    /// Where the tmpfs of a volume in memory is attached.
    pub(super) fn memory(&self, id: &VolumeId) -> PathBuf {
        self.dir(id).join("memory")
    }

    /// The directory that holds overlay's writable pair.
    pub(super) fn home(&self, id: &VolumeId, medium: Medium) -> PathBuf {
        match medium {
            Medium::Disk => self.dir(id),
            Medium::Memory => self.memory(id),
        }
    }

    /// Overlay's writable pair of one volume.
    pub(super) fn pair(&self, id: &VolumeId, medium: Medium) -> Upper {
        let home = self.home(id, medium);
        Upper::new(home.join("upper"), home.join("work"))
    }

    /// The record of `id`; `None` where there is none.
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
            Err(_) => match note::get(&dir, NOTE) {
                Ok(found) => found.map(|bytes| (bytes, dir)),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => Some((Vec::new(), dir)),
                Err(e) => return Err(disk(e)),
            },
        };
        found.map(|(bytes, place)| Record::parse(&bytes, id, &place)).transpose()
    }

    /// Whether anything of the volume is here, a record or not. In doubt it is.
    pub(super) fn has_dir(&self, id: &VolumeId) -> bool {
        let there = fs::symlink_metadata(self.dir(id));
        !there.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }

    /// Makes the directory of a volume that has none.
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
                // Last, and cheap: the sync of the record took along on its journal that the directory was made.
                return durable::sync_dir(&self.root);
            }
            note::put(&dir, NOTE, &bytes)
        });
        written.map_err(|source| RecordError::Disk { id: lock.id().clone(), source })
    }

    /// Makes sure that the record, and what else is in the volume's directory, reaches the disk no later than what the pod is going
    /// to sync. `newest` is what was made last.
    pub(super) fn settle(&self, lock: &VolumeLock, newest: &Path) -> Result<(), RecordError> {
        let settled = self.journal.settle(&self.dir(lock.id()), newest);
        settled.map_err(|source| RecordError::Disk { id: lock.id().clone(), source })
    }

    /// The ids of all directories here. A name that is no id was not made by us and is left alone.
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

/// What tests do to a record that is there, however it is kept.
#[cfg(test)]
impl Records {
    /// Changes its text.
    pub(super) fn change(&self, id: &VolumeId, change: impl FnOnce(String) -> String) {
        let (dir, file) = (self.dir(id), self.dir(id).join(FILE));
        match fs::read_to_string(&file) {
            Ok(text) => fs::write(&file, change(text)).unwrap(),
            Err(_) => {
                let text = note::get(&dir, NOTE).unwrap().expect("a record");
                let text = change(String::from_utf8(text).unwrap());
                note::put(&dir, NOTE, text.as_bytes()).unwrap();
            }
        }
    }

    /// Keeps it as an earlier version did, in a file; whether it was an attribute.
    pub(super) fn keep_as_file(&self, id: &VolumeId) -> bool {
        let (dir, file) = (self.dir(id), self.dir(id).join(FILE));
        let Some(text) = note::get(&dir, NOTE).unwrap() else { return false };
        note::remove(&dir, NOTE);
        fs::write(file, text).unwrap();
        true
    }

    /// Loses it.
    pub(super) fn lose(&self, id: &VolumeId) {
        let file = self.dir(id).join(FILE);
        if fs::remove_file(file).is_err() {
            note::remove(&self.dir(id), NOTE);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::{super::lock::Locks, *};

    #[test]
    fn what_is_written_is_read_whether_attribute_or_file() {
        let dir = TempDir::new().unwrap();
        for journal in [Journal::of(dir.path()), Journal::Unknown] {
            let records = Records { root: dir.path().to_owned(), journal };
            let lock =
                Locks::default().try_lock(&format!("a-{journal:?}").parse().unwrap()).unwrap();
            let mut record = Record::sample(lock.id().clone());
            records.make(&lock).unwrap();
            assert_eq!(records.read(lock.id()).unwrap(), None);
            // A deep stack takes more than an attribute has room for.
            for layers in [2, 500, 1] {
                record.stack = vec![crate::digest::Digest::of(b"layer"); layers];
                record.created = Timestamp::now();
                records.write(&lock, &record).unwrap();
                assert_eq!(records.read(lock.id()).unwrap().as_ref(), Some(&record));
            }
            let is_file = records.dir(lock.id()).join(FILE).exists();
            assert_eq!(is_file, journal == Journal::Unknown);
        }
    }

    /// A driver is upgraded while pods run.
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
        record.own = 1;
        records.write(&lock, &record).unwrap();
        assert_eq!(records.read(lock.id()).unwrap().as_ref(), Some(&record));
        let kept: Record = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(kept, record);
    }
}
