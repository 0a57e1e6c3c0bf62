//! What is asked for, as checked values: no path, id or attribute gets past this file unparsed.

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
    image::{Keyring, Reference},
    overlay::{self, Owner},
    sys::id_chars::is_name,
};

/// A volume's id, as the kubelet makes it (`csi-` and 64 hexadecimal digits for an inline volume).
/// At most 128 bytes (CSI spec, "Size Limits") of letters, digits, `.`, `_` and `-`, beginning with a letter or digit:
/// safe as one part of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VolumeId(String);

impl VolumeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> Self {
        id.0
    }
}

impl TryFrom<String> for VolumeId {
    type Error = RequestError;

    fn try_from(text: String) -> Result<Self, RequestError> {
        text.parse()
    }
}

impl FromStr for VolumeId {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        if !is_name(text) {
            return Err(RequestError::VolumeId(text.chars().take(140).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a volume is to appear: an absolute path without `.` and `..`. That it lies beneath the kubelet's directory is
/// checked by [`Volumes`](super::Volumes), which knows that directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "PathBuf", try_from = "PathBuf")]
pub struct Target(PathBuf);

impl Target {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
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

/// When an image is asked for at its registry; the kubelet's words and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// The reference is resolved at the registry for every new volume; layers that are here are not fetched again.
    Always,
    /// The registry is asked only when the image is not in the store.
    IfNotPresent,
    /// The registry is never asked.
    Never,
}

impl PullPolicy {
    /// What the kubelet does where nothing is said: `Always` for the tag `latest`, else `IfNotPresent`.
    pub fn default_for(reference: &Reference) -> Self {
        match (reference.digest(), reference.tag()) {
            (None, Some("latest") | None) => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

/// The pod a volume is for, as the kubelet tells it (`podInfoOnMount`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: the name of its directory beneath the kubelet's `pods`.
    pub uid: PodUid,
}

/// A pod's uid, checked as a part of a path by the rule of [`VolumeId`].
pub type PodUid = VolumeId;

/// What a volume is made of and how it behaves: the part of a request that two calls for one volume must agree on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSpec {
    /// The images whose layers lie below, bottom first; empty for a volume that starts empty.
    pub images: Vec<Reference>,
    /// The snapshot, of the pod's namespace, whose state it starts with.
    pub snapshot: Option<String>,
    /// When registries are asked; `None` for [`PullPolicy::default_for`] each image.
    pub pull_policy: Option<PullPolicy>,
    /// What becomes of a volatile volume's writes when nobody can say that they are whole.
    pub on_unclean: OnUnclean,
    /// The pod may only read.
    pub read_only: bool,
    /// How much may be written.
    pub limits: Limits,
    /// Where the upper lies.
    pub medium: Medium,
    /// How the overlay behaves.
    pub options: overlay::Options,
    /// The keys of the attributes that the pod wrote. Every other value here was a default when the volume was made.
    pub written: BTreeSet<String>,
    /// Who owns the image layers' files that belong to root.
    pub owner: Option<Owner>,
    /// Files copied up before the pod starts, relative to the volume, without `..`.
    pub pre_copy_up: Vec<PathBuf>,
    /// The pod's fsGroup: the group of the upper's root, which then has the set-group-id bit and group write.
    pub group: Option<u32>,
}

/// What becomes of a volatile volume's writes after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnUnclean {
    /// The volume starts empty again, and an Event says so.
    #[default]
    Discard,
    /// The volume is not published.
    Fail,
}

/// Where an upper lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Medium {
    /// In the store.
    #[default]
    Disk,
    /// On a tmpfs of its own, as large as the limit says.
    Memory,
}

/// How much may be written to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes.
    pub size: Option<u64>,
    /// Files and directories.
    pub inodes: Option<u64>,
    /// The limits are the node's default and not the pod's wish: where they cannot be enforced the volume is published
    /// without, and an Event says so.
    pub by_default: bool,
}

/// One request to make a volume appear at a target.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// Which volume.
    pub id: VolumeId,
    /// Where.
    pub target: Target,
    /// For whom.
    pub pod: Pod,
    /// What.
    pub spec: VolumeSpec,
    /// With what the images may be pulled, beside the node's own.
    pub keyring: Keyring,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
}

/// A request that names something ill-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a volume id (or pod uid).
    #[error(
        "{0:?} is not a volume id: expected 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    )]
    VolumeId(String),
    /// Not a usable target.
    #[error("target path {0:?} is not an absolute path without '.' and '..'")]
    Target(PathBuf),
}

impl RequestError {
    /// Always the caller's fault.
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_safe_part_of_a_path() {
        for good in ["csi-0123abcdef", "a", "0.x_y-z", &"a".repeat(128)] {
            assert_eq!(good.parse::<VolumeId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "-a", ".hidden", "a b", "a\n", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<VolumeId>(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_target_is_absolute_and_plain() {
        let tidy: Target = "/var/lib//kubelet/pods/u/mount/".parse().unwrap();
        assert_eq!(tidy.as_path(), Path::new("/var/lib/kubelet/pods/u/mount"));
        for bad in ["", "/", "relative/path", "/a/../b", "..", "/a/\n"] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pull_policy_defaults_to_what_the_kubelet_does() {
        let digest = format!("a/b:latest@{}", crate::digest::Digest::of(b""));
        for (reference, policy) in [
            ("a/b", PullPolicy::Always),
            ("a/b:latest", PullPolicy::Always),
            ("a/b:1", PullPolicy::IfNotPresent),
            (digest.as_str(), PullPolicy::IfNotPresent),
        ] {
            let reference: Reference = reference.parse().unwrap();
            assert_eq!(PullPolicy::default_for(&reference), policy, "{reference}");
        }
    }
}
