//! The record of one volume: what it is made of and where it is mounted, written before the kernel is asked for anything.
//!
//! The kernel cannot be asked later: layers given by descriptor show in mountinfo as `lowerdir+=/`, and overlay's own
//! `volatile` marker does not survive a power cut.
//!
//! ```text
//! volumes/<id>/                with the record, replaced whole: as `records.rs` says, an attribute of this directory, or record.json;
//!                              there from before the first overlay until after the last byte
//! volumes/<id>/upper/ work/    overlay's writable pair; `upper.new` until it looks like the volume's root
//! volumes/<id>/memory/         or a tmpfs with the pair in it: attached, so that it outlives the process
//! ```
//!
//! A directory without a record is half made: no pod sees anything of it and nobody was promised it. A volume goes by one
//! rename of its directory into staging, so there is none that is half removed.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Pod, PublishRequest, Target, VolumeId, VolumeSpec, puller::PulledLayers};
use crate::{digest::Digest, error::Class, layers::SnapshotId};

/// The format this version writes; a record of a later one is refused, never guessed at.
const FORMAT: u32 = 1;

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
    pub(super) fn new(request: &PublishRequest, pulled: &PulledLayers, boot_id: String) -> Self {
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
        "volume {id}: {path} is not a record this version can read ({why}); delete the pod, then remove the directory \
         if nothing is mounted from it",
        path = path.display()
    )]
    Unreadable {
        /// The volume.
        id: VolumeId,
        /// The file, or the directory whose attribute it is.
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

impl Record {
    /// Reads the text of the volume's record, which is at `place`.
    pub(super) fn parse(bytes: &[u8], id: &VolumeId, place: &Path) -> Result<Self, RecordError> {
        let value: serde_json::Result<Value> = serde_json::from_slice(bytes);
        let format = value.as_ref().ok().and_then(|value| value.get("format")?.as_u64());
        let unreadable = |why: String| RecordError::Unreadable {
            id: id.clone(),
            path: place.to_owned(),
            why,
            is_later: format.is_some_and(|format| format > FORMAT.into()),
        };
        let record: Self = value
            .map(with_options)
            .and_then(serde_json::from_value)
            .map_err(|e| unreadable(e.to_string()))?;
        if record.format != FORMAT {
            return Err(unreadable(format!("its format is {}, known is {FORMAT}", record.format)));
        }
        if record.id != *id {
            return Err(unreadable(format!("it says it is volume {}", record.id)));
        }
        Ok(record)
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

#[cfg(test)]
impl Record {
    /// One with something in each of its parts.
    pub(super) fn sample(id: VolumeId) -> Self {
        let spec = VolumeSpec {
            medium: super::Medium::Memory,
            group: Some(7),
            pre_copy_up: vec!["var/lib/db".into()],
            ..VolumeSpec::default()
        };
        Self {
            format: FORMAT,
            id,
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
        }
    }
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
        let id = "a".parse().unwrap();
        let record = Record::parse(OLD.as_bytes(), &id, Path::new("/a")).unwrap();
        let mut spec = VolumeSpec {
            images: vec!["registry.example/base:1".parse().unwrap()],
            pull_policy: Some(super::super::PullPolicy::Never),
            ..VolumeSpec::default()
        };
        (spec.options.volatile, spec.options.xino) = (true, crate::overlay::Xino::Off);
        assert_eq!((record.spec, record.project), (spec, None));
        assert_eq!((record.own, record.manifests, record.snapshot), (0, Vec::new(), None));
    }
}
