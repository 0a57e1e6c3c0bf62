//! The record of a volume: its spec, its layers and its targets, written before the volume is mounted.
//!
//! This cannot be read from the kernel later: mountinfo shows layers given by descriptor as `lowerdir+=/`, and
//! overlayfs' own `volatile` marker does not survive a power cut.
//!
//! ```text
//! volumes/<id>/                with the record, replaced atomically: an xattr of this directory, or record.json (`records.rs`);
//!                              exists from before the first overlay until after the last unmount
//! volumes/<id>/upper/ work/    overlayfs' writable pair; `upper.new` until it has the attributes of the volume's root
//! volumes/<id>/memory/         or a tmpfs with the pair in it; mounted here, so that it outlives the process
//! ```
//!
//! A directory without a record is half made. No pod has seen it, and no call has succeeded for it. A volume is
//! removed by one rename of its directory into staging, so no volume is half removed.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Pod, PublishRequest, Target, VolumeId, VolumeSpec, volume_layers::VolumeLayers};
use crate::{
    digest::ManifestDigest,
    error::Class,
    layers::{LayerKey, SnapshotId},
};

/// The format that this version writes. A record of a later format is refused and never guessed at.
const FORMAT: u32 = 1;

/// The record of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// The id of the volume.
    pub(super) id: VolumeId,
    /// The spec of the request that made it.
    pub(super) spec: VolumeSpec,
    /// The pod that the volume is for.
    pub(super) pod: Pod,
    /// The keys of its layers, bottom first, to which images and snapshot were resolved when the volume was made.
    pub(super) stack: Vec<LayerKey>,
    /// How many of these, at the top, are layers of snapshots and not of images.
    #[serde(default, rename = "own")]
    pub(super) snapshot_layers: usize,
    /// The digests of the images' manifests, in the order of the stack. A snapshot's image is built on these.
    #[serde(default)]
    pub(super) manifests: Vec<ManifestDigest>,
    /// The snapshot that the volume started from, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<SnapshotId>,
    /// The id of the boot in which it was last mounted. A volatile upper of another boot cannot be trusted.
    pub(super) boot_id: String,
    /// Where it is mounted or about to be mounted.
    pub(super) targets: Vec<Target>,
    /// When it was made.
    pub(super) created: Timestamp,
    /// The project of its quota, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<u32>,
}

impl Record {
    /// The record of a new volume.
    pub(super) fn new(request: &PublishRequest, layers: &VolumeLayers, boot_id: String) -> Self {
        Self {
            format: FORMAT,
            id: request.id.clone(),
            spec: request.spec.clone(),
            pod: request.pod.clone(),
            stack: layers.stack.clone(),
            snapshot_layers: layers.snapshot_layers,
            manifests: layers.manifests.clone(),
            snapshot: layers.snapshot.clone(),
            boot_id,
            targets: Vec::new(),
            created: Timestamp::now(),
            project: None,
        }
    }

    /// The volume's name for the pod's user: its name in the pod, or its id if no target has the name.
    pub(super) fn name(&self) -> &str {
        self.targets.iter().find_map(Target::volume_name).unwrap_or(self.id.as_str())
    }
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system returned an error.
    #[error("volume {id}: cannot read or write its record: {source}")]
    Disk {
        /// The volume.
        id: VolumeId,
        /// The system's error.
        source: io::Error,
    },
    /// The record exists, but this version cannot read it.
    #[error(
        "volume {id}: this version cannot read the record {path}: {why}; delete the pod, and the driver removes the \
         volume",
        path = path.display()
    )]
    Unreadable {
        /// The volume.
        id: VolumeId,
        /// The file, or the directory with the xattr.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// Whether a later version wrote the record.
        is_later: bool,
    },
}

impl RecordError {
    /// The class of the error. A full disk passes; the other errors need an administrator.
    pub fn class(&self) -> Class {
        match self {
            Self::Disk { source, .. } => Class::of_disk(source),
            Self::Unreadable { .. } => Class::Corrupt,
        }
    }
}

impl Record {
    /// Parses the record of the volume, which was read from `place`.
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
            return Err(unreadable(format!(
                "its format is {}, and this version reads format {FORMAT}",
                record.format
            )));
        }
        if record.id != *id {
            return Err(unreadable(format!("it is the record of volume {}", record.id)));
        }
        Ok(record)
    }
}

/// Converts a record of the first version, which had only the option `volatile`. The options that it lacks keep the
/// values of that version, independent of today's defaults.
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
    /// A record with a value in each of its fields.
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
            stack: vec![LayerKey::of(b"image"), LayerKey::of(b"snapshot layer")],
            snapshot_layers: 1,
            manifests: vec![ManifestDigest::of(b"manifest")],
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

    /// A record of version 0.1. Drivers are upgraded while pods run.
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
            pull_policy: Some(crate::image::PullPolicy::Never),
            ..VolumeSpec::default()
        };
        (spec.options.volatile, spec.options.xino) = (true, crate::overlay::Xino::Off);
        assert_eq!((record.spec, record.project), (spec, None));
        assert_eq!(
            (record.snapshot_layers, record.manifests, record.snapshot),
            (0, Vec::new(), None)
        );
    }
}
