//! The publish request as checked values. No path, id or attribute passes this file unparsed.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::Class,
    image::{Keyring, PullPolicy},
    overlay,
    owner::Owner,
    reference::Reference,
    sys::id_chars::{IdError, id_type},
};

id_type! {
    /// A volume's ID, as the kubelet makes it (`csi-` and 64 hexadecimal digits for an inline volume). It is safe as one
    /// part of a path.
    VolumeId, "volume ID"
}

impl VolumeId {
    /// A message with the volume's name in its pod instead of this id, which means nothing to the pod's user.
    pub fn named(&self, name: &str, message: &str) -> String {
        message.replace(&format!("volume {self}"), &format!("volume {name}"))
    }
}

id_type! {
    /// A pod's uid. It is safe as one part of a path.
    PodUid, "pod uid"
}

/// The target path of a volume: an absolute path without `.` and `..`. [`Volumes`](super::Volumes) checks that it is
/// below the kubelet's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "PathBuf", try_from = "PathBuf")]
pub struct Target(PathBuf);

impl Target {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The volume's name in its pod. `None` for a target that the kubelet did not choose: its targets end in
    /// `volumes/kubernetes.io~csi/NAME/mount`.
    pub fn volume_name(&self) -> Option<&str> {
        let mut parts = self.0.iter().rev();
        let (last, name, plugin) = (parts.next()?, parts.next()?, parts.next()?);
        if last != "mount" || plugin != "kubernetes.io~csi" {
            return None;
        }
        name.to_str()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl From<Target> for PathBuf {
    fn from(target: Target) -> Self {
        target.0
    }
}

impl TryFrom<PathBuf> for Target {
    type Error = RequestError;

    fn try_from(path: PathBuf) -> Result<Self, RequestError> {
        // `components` hides `//`, `/./` and a trailing slash; comparing with the rebuilt path shows them.
        let rebuilt: PathBuf = path.components().collect();
        let plain =
            path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        let printable = path.to_str().is_some_and(|text| !text.contains(['\0', '\n']));
        if !path.is_absolute() || !plain || !printable || path.parent().is_none() {
            return Err(RequestError::Target(path));
        }
        Ok(Self(rebuilt))
    }
}

impl FromStr for Target {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        PathBuf::from(text).try_into()
    }
}

/// The pod that a volume is for, as the kubelet names it (`podInfoOnMount`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, which is the name of its directory in the kubelet's `pods`.
    pub uid: PodUid,
}

/// The spec of a volume: its content and its behaviour. Two requests for one volume must agree on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSpec {
    /// The images whose layers are the lowers, bottom first. Empty for a volume that starts empty.
    pub images: Vec<Reference>,
    /// The name of the snapshot, in the pod's namespace, that the volume starts from.
    pub snapshot: Option<String>,
    /// When images are resolved at their registries. `None` for [`PullPolicy::default_for`] each image.
    pub pull_policy: Option<PullPolicy>,
    /// What happens to the data of a volatile volume that may be torn.
    pub on_unclean: OnUnclean,
    /// The pod may only read.
    pub read_only: bool,
    /// The limits of the pod's writes.
    pub limits: Limits,
    /// The medium of the upper.
    pub medium: Medium,
    /// The mount options of the overlay.
    pub options: overlay::Options,
    /// The keys of the attributes that the pod wrote. Every other value was a default when the volume was made.
    pub written: BTreeSet<String>,
    /// The owner that the image layers' files of root get in the volume.
    pub owner: Option<Owner>,
    /// The files to copy up before the pod starts, relative to the volume, without `..`.
    pub pre_copy_up: Vec<PathBuf>,
    /// The pod's fsGroup: the group of the upper's root, which then has the set-group-id bit and group write.
    pub group: Option<u32>,
}

/// What happens to the data of a volatile volume after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnUnclean {
    /// The volume is emptied, and an Event says so.
    #[default]
    Discard,
    /// The volume is not published.
    Fail,
}

/// The medium of an upper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Medium {
    /// The disk of the store.
    #[default]
    Disk,
    /// A tmpfs of its own, of the size of the limit.
    Memory,
}

/// The limits of what a pod may write to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The most bytes.
    pub size: Option<u64>,
    /// The most files and directories.
    pub inodes: Option<u64>,
    /// The limits are the node's defaults, and the pod did not set them. If they cannot be enforced, the volume is
    /// published without them, and an Event says so.
    pub by_default: bool,
}

/// A request to publish a volume at a target.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// The id of the volume.
    pub id: VolumeId,
    /// The path to mount it on.
    pub target: Target,
    /// The pod that the volume is for.
    pub pod: Pod,
    /// The spec of the volume.
    pub spec: VolumeSpec,
    /// The pod's registry credentials, in addition to the node's own.
    pub keyring: Keyring,
    /// The time at which the caller gives up. `None` if it waits for ever.
    pub deadline: Option<Instant>,
}

impl PublishRequest {
    /// The volume's name for the pod's user: its name in the pod, or its id if the target does not have the name.
    pub(super) fn name(&self) -> &str {
        self.target.volume_name().unwrap_or(self.id.as_str())
    }
}

/// An ill-formed value in a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The text is not a volume ID.
    #[error(transparent)]
    VolumeId(#[from] IdError),
    /// The path cannot be a target.
    #[error("target path {0:?} is not an absolute path without '.' and '..'")]
    Target(PathBuf),
}

impl RequestError {
    /// The class of the error: always the caller's fault.
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_absolute_and_plain() {
        let tidy: Target = "/var/lib//kubelet/pods/u/mount/".parse().unwrap();
        assert_eq!(tidy.as_path(), Path::new("/var/lib/kubelet/pods/u/mount"));
        assert_eq!(tidy.volume_name(), None);
        for bad in ["", "/", "relative/path", "/a/../b", "..", "/a/\n"] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_message_has_the_name_of_the_volume_in_its_pod() {
        let target: Target = "/k/pods/u/volumes/kubernetes.io~csi/work/mount".parse().unwrap();
        assert_eq!(target.volume_name(), Some("work"));
        let id: VolumeId = "csi-0f".parse().unwrap();
        let message = id.named("work", "volume csi-0f: cannot mount csi-0f");
        assert_eq!(message, "volume work: cannot mount csi-0f");
    }
}
