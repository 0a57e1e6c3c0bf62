//! The record of one volume: what it is made of and where it is mounted, written before the kernel is asked for anything.
//!
//! The kernel cannot be asked later: layers given by descriptor show in mountinfo as `lowerdir+=/`, and overlay's own
//! `volatile` marker does not survive a power cut.
//!
//! ```text
//! volumes/<id>/record.json     replaced whole; there from before the first overlay until after the last byte
//! volumes/<id>/upper/ work/    overlay's writable pair; `upper.new` until it looks like the volume's root
//! volumes/<id>/memory/         or a tmpfs with the pair in it: attached, so that it outlives the process
//! ```
//!
//! A folder without `record.json` is half made: no pod sees anything of it and nobody was promised it. A volume goes by one
//! rename of its folder into staging, so there is none that is half removed.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Medium, Pod, PublishRequest, Target, VolumeId, VolumeSpec, lock::VolumeLock, pull::Pulled,
};
use crate::{
    digest::Digest,
    fault::Class,
    layers::SnapshotId,
    overlay::Upper,
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
    /// The keys of its layers, bottom first: what images and snapshot meant when the volume was made.
    pub(super) stack: Vec<Digest>,
    /// How many of these, at the top, snapshots have put above the images.
    #[serde(default)]
    pub(super) own: usize,
    /// The manifests of the images, in the order of the stack: of these a snapshot's image goes on.
    #[serde(default)]
    pub(super) manifests: Vec<Digest>,
    /// The snapshot that it was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<SnapshotId>,
    /// The boot in which it was last mounted: what a volatile upper of another boot is worth nothing without.
    pub(super) boot_id: String,
    /// Where it is mounted, or about to be.
    pub(super) targets: Vec<Target>,
    /// When it was made.
    pub(super) created: Timestamp,
    /// The project whose quota limits it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<u32>,
}

impl Record {
    /// The record of a volume made now.
    pub(super) fn new(request: &PublishRequest, pulled: &Pulled, boot_id: String) -> Self {
        Self {
            format: FORMAT,
            id: request.id.clone(),
            spec: request.spec.clone(),
            pod: request.pod.clone(),
            stack: pulled.stack.clone(),
            own: pulled.own,
            manifests: pulled.manifests.clone(),
            snapshot: pulled.snapshot.clone(),
            boot_id,
            targets: Vec::new(),
            created: Timestamp::now(),
            project: None,
        }
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
        /// Whether a later version wrote it, and can read it.
        is_later: bool,
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

    /// Where the tmpfs of a volume in memory is attached.
    pub(super) fn memory(&self, id: &VolumeId) -> PathBuf {
        self.folder(id).join("memory")
    }

    /// The folder that holds overlay's writable pair.
    pub(super) fn home(&self, id: &VolumeId, medium: Medium) -> PathBuf {
        match medium {
            Medium::Disk => self.folder(id),
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
        let path = self.folder(id).join(RECORD);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() != io::ErrorKind::IsADirectory => {
                return Err(disk(id)(at("read", &path)(e)));
            }
            Err(_) => Vec::new(),
        };
        let value: serde_json::Result<Value> = serde_json::from_slice(&bytes);
        let format = value.as_ref().ok().and_then(|value| value.get("format")?.as_u64());
        let unreadable = |why: String| RecordError::Unreadable {
            id: id.clone(),
            path: path.clone(),
            why,
            is_later: format.is_some_and(|format| format > FORMAT.into()),
        };
        let record: Record = value
            .map(with_options)
            .and_then(serde_json::from_value)
            .map_err(|e| unreadable(e.to_string()))?;
        if record.format != FORMAT {
            return Err(unreadable(format!("its format is {}, known is {FORMAT}", record.format)));
        }
        if record.id != *id {
            return Err(unreadable(format!("it says it is volume {}", record.id)));
        }
        Ok(Some(record))
    }

    /// Whether anything of the volume is here, a record or not. In doubt it is.
    pub(super) fn has_folder(&self, id: &VolumeId) -> bool {
        let there = fs::symlink_metadata(self.folder(id));
        !there.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }

    /// Makes the folder of a volume that has none. It is on the disk when its first record is.
    pub(super) fn make(&self, lock: &VolumeLock) -> Result<(), RecordError> {
        let folder = self.folder(lock.id());
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(at("make the folder", &folder)).map_err(disk(lock.id()))
    }

    /// Replaces the record. When this returns, it, what lies beside it and the name of the volume's folder are on the disk.
    pub(super) fn write(&self, lock: &VolumeLock, record: &Record) -> Result<(), RecordError> {
        let path = self.folder(lock.id()).join(RECORD);
        let written = serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|bytes| durable::write_atomic(&path, &bytes))
            // Last, and cheap: the sync of the record took along on its journal that the folder was made.
            .and_then(|()| durable::sync_dir(&self.root));
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

/// A record of the first version had one option, beside the images; what else it lacks is as it was then, whatever is the
/// default by now.
fn with_options(mut record: Value) -> Value {
    if let Some(spec) = record.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(volatile) = spec.remove("volatile")
    {
        spec.insert("options".to_owned(), json!({ "volatile": volatile, "xino": "Off" }));
    }
    record
}

fn disk(id: &VolumeId) -> impl FnOnce(io::Error) -> RecordError {
    let id = id.clone();
    move |source| RecordError::Disk { id, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 0.1 wrote it: a driver is upgraded while pods run.
    const OLD: &str = r#"{
      "format": 1,
      "id": "a",
      "spec": {
        "images": ["registry.example/base:1"], "pull_policy": "Never", "volatile": true, "read_only": false
      },
      "pod": { "namespace": "default", "name": "one", "uid": "pod-1" },
      "stack": [],
      "boot_id": "a boot",
      "targets": ["/var/lib/kubelet/pods/pod-1/mount"],
      "created": "2026-11-01T10:00:00Z"
    }"#;

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let (records, id) = (Records::new(folder.path().to_owned()), "a".parse().unwrap());
        fs::create_dir(records.folder(&id)).unwrap();
        fs::write(records.folder(&id).join(RECORD), OLD).unwrap();
        let record = records.read(&id).unwrap().unwrap();
        let mut spec = VolumeSpec {
            images: vec!["registry.example/base:1".parse().unwrap()],
            pull_policy: Some(super::super::PullPolicy::Never),
            ..VolumeSpec::default()
        };
        (spec.options.volatile, spec.options.xino) = (true, crate::overlay::Xino::Off);
        assert_eq!((record.spec, record.project), (spec, None));
        assert_eq!((record.own, record.manifests, record.snapshot), (0, Vec::new(), None));
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let (records, locks) =
            (Records::new(folder.path().to_owned()), super::super::lock::Locks::default());
        let lock = locks.try_lock(&"a".parse().unwrap()).unwrap();
        let spec = VolumeSpec {
            medium: Medium::Memory,
            group: Some(7),
            pre_copy_up: vec!["var/lib/db".into()],
            ..VolumeSpec::default()
        };
        let record = Record {
            format: FORMAT,
            id: lock.id().clone(),
            spec: VolumeSpec { snapshot: Some("ws-1".to_owned()), ..spec },
            pod: Pod { namespace: "n".into(), name: "p".into(), uid: "u".parse().unwrap() },
            stack: vec![Digest::of(b"image"), Digest::of(b"cut")],
            own: 1,
            manifests: vec![Digest::of(b"manifest")],
            snapshot: Some("snap-1".parse().unwrap()),
            boot_id: "boot".to_owned(),
            targets: Vec::new(),
            created: Timestamp::now(),
            project: Some(0x4f56_0001),
        };
        records.make(&lock).unwrap();
        records.write(&lock, &record).unwrap();
        assert_eq!(records.read(lock.id()).unwrap().unwrap(), record);
    }
}
