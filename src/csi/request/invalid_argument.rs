//! The errors of invalid requests, with messages for the author of the pod.

use crate::{
    error::Class, image::KeyringError, overlay::PlanError, quantity::QuantityError,
    volumes::RequestError,
};

/// A request that is refused before the driver does anything.
#[derive(Debug, thiserror::Error)]
pub(in crate::csi) enum BadRequest {
    #[error("{0} is missing from the request")]
    Missing(&'static str),
    #[error(transparent)]
    IllFormed(#[from] RequestError),
    #[error(
        "a block device is requested, but this driver mounts directories only: use volumeMode: Filesystem"
    )]
    Block,
    #[error("no volume is published at {0:?}")]
    Nowhere(String),
    #[error("fsType {0:?} is not supported: remove it, or set it to overlay")]
    FsType(String),
    #[error("mount option {0:?} is unknown: expected {OPTIONS}, or context= from the kubelet")]
    MountFlag(String),
    #[error("mount option {0} is not allowed: volumes are always nosuid and nodev")]
    AlwaysOff(&'static str),
    #[error(
        "mount option context= is not an SELinux label such as system_u:object_r:container_file_t:s0:c1,c2"
    )]
    Context,
    #[error(
        "access mode {0} is not supported, because a volume is on one node only: use ReadWriteOnce or ReadWriteOncePod"
    )]
    AccessMode(&'static str),
    #[error("fsGroup is {0:?}, which is not a group ID: set the pod's fsGroup to a number")]
    Group(String),
    #[error(
        "the volume is not inline: this version supports only volumes in the pod spec (volumes: - csi: \
         {{driver: ...}}) with a CSIDriver object that has podInfoOnMount: true"
    )]
    NotInline,
    #[error("{0} is missing from the request: set podInfoOnMount: true in the CSIDriver object")]
    NoPodInfo(&'static str),
    #[error("csi.storage.k8s.io/pod.uid is {0:?}, which is not a valid pod uid")]
    PodUid(String),
    #[error(
        "the Secret of nodePublishSecretRef has the key {0:?}: expected a Secret of type kubernetes.io/dockerconfigjson, \
         with the key .dockerconfigjson only (kubectl create secret docker-registry creates one)"
    )]
    SecretKey(String),
    #[error("the Secret of nodePublishSecretRef: {key}: {source}")]
    Secret { key: &'static str, source: KeyringError },
    #[error("volumeAttributes have {0} bytes, and at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    #[error("unknown attribute {key:?} in volumeAttributes: expected {expected}")]
    UnknownAttribute { key: String, expected: String },
    #[error("volumeAttributes: {key} is {value:?}: expected {expected}")]
    Value { key: &'static str, value: String, expected: String },
    #[error("volumeAttributes: {key} is {value:?}: {source}")]
    Quantity { key: &'static str, value: String, source: QuantityError },
    #[error("volumeAttributes: {key}: {why}")]
    Reference { key: &'static str, why: String },
    #[error(
        "volumeAttributes: image and images are both set: set only one of them (images takes several, bottom first)"
    )]
    ImageAndImages,
    #[error(
        "volumeAttributes: preCopyUp has {0:?}: use paths relative to the volume, separated by spaces, without '.' \
         and '..'"
    )]
    PreCopyUp(String),
    #[error("volumeAttributes: images has {0} references, and at most {MAX_IMAGES} are allowed")]
    ImageCount(usize),
    #[error("volumeAttributes: preCopyUp has {0} paths, and at most {MAX_PATHS} are allowed")]
    PreCopyUpCount(usize),
    #[error(
        "volumeAttributes: {0} is for writable volumes, and this volume is read-only: remove {0} or make the volume \
         writable"
    )]
    ReadOnly(&'static str),
    #[error("volumeAttributes: {0}")]
    Conflict(&'static str),
    #[error("volumeAttributes: {0}")]
    Options(PlanError),
}

impl From<PlanError> for BadRequest {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::NeedsUpper { option } => Self::ReadOnly(option),
            error => Self::Options(error),
        }
    }
}

/// The mount options that a pod may set in mountOptions.
pub(super) const OPTIONS: &str = "noexec, nodev, nosuid or noatime";

/// The most bytes of all attributes of a volume, keys and values. Far more than any use needs, and a limit for the
/// volume's records, which contain them.
pub(super) const MAX_BYTES: usize = 64 << 10;

/// The most paths in preCopyUp: each path costs a copy before the pod starts.
pub(super) const MAX_PATHS: usize = 100;

/// The most images of a volume: each one costs a request to its registry.
pub(super) const MAX_IMAGES: usize = 32;

impl BadRequest {
    pub(in crate::csi) fn class(&self) -> Class {
        match self {
            Self::IllFormed(e) => e.class(),
            Self::Nowhere(_) => Class::NotFound,
            Self::Secret { source, .. } => source.class(),
            _ => Class::Invalid,
        }
    }
}

/// A text of the pod's author, shortened for a message: an Event holds 1,024 bytes.
pub(super) fn shown(text: &str) -> String {
    truncated(text, 100)
}

/// At most `most` characters of a text, and `...` after them if there are more.
pub(super) fn truncated(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
