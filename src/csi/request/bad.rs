//! Why a request is not carried out: sentences for the person who wrote the pod.

use crate::{
    csi::quantity::QuantityError,
    fault::Class,
    volumes::{KeyringError, RequestError},
};

/// A request that is refused before anything is begun.
#[derive(Debug, thiserror::Error)]
pub(in crate::csi) enum BadRequest {
    #[error("{0} is missing from the request")]
    Missing(&'static str),
    #[error(transparent)]
    IllFormed(#[from] RequestError),
    #[error(
        "a block device is asked for; this driver mounts folders only: use volumeMode: Filesystem"
    )]
    Block,
    #[error("no volume is published at {0:?}")]
    Nowhere(String),
    #[error("fsType {0:?} is not served: leave it out, or write overlay")]
    FsType(String),
    #[error(
        "mount option {0:?} is not accepted: accepted are {OPTIONS}, and context= from the kubelet"
    )]
    MountFlag(String),
    #[error("mount option {0} is not given to volumes: they are always nosuid and nodev")]
    Lifted(&'static str),
    #[error(
        "mount option context= is no SELinux label such as system_u:object_r:container_file_t:s0:c1,c2"
    )]
    Context,
    #[error(
        "access mode {0} is not served, because a volume is on one node only: use ReadWriteOnce or ReadWriteOncePod"
    )]
    AccessMode(&'static str),
    #[error(
        "volume_mount_group is {0:?}, which is no group's number: set the pod's fsGroup to one"
    )]
    Group(String),
    #[error(
        "the volume is not inline: this version serves only volumes written in the pod itself (volumes: - csi: \
         {{driver: ...}}) under a CSIDriver object with podInfoOnMount: true"
    )]
    NotInline,
    #[error(
        "{0} is missing from the request: the CSIDriver object has to say podInfoOnMount: true"
    )]
    NoPodInfo(&'static str),
    #[error("csi.storage.k8s.io/pod.uid is {0:?}, which is no pod's uid")]
    PodUid(String),
    #[error(
        "the Secret of nodePublishSecretRef has the key {0:?}: expected a Secret of type kubernetes.io/dockerconfigjson, \
         with the key .dockerconfigjson alone (kubectl create secret docker-registry makes one)"
    )]
    SecretKey(String),
    #[error("the Secret of nodePublishSecretRef: {key}: {source}")]
    Secret { key: &'static str, source: KeyringError },
    #[error("volumeAttributes have {0} bytes, and at most {MOST_BYTES} are taken")]
    TooLong(usize),
    #[error("unknown attribute {key:?} in volumeAttributes: accepted are {accepted}")]
    UnknownAttribute { key: String, accepted: String },
    #[error("volumeAttributes: {key} is {value:?}: accepted are {accepted}")]
    Value { key: &'static str, value: String, accepted: String },
    #[error("volumeAttributes: {key} is {value:?}: {source}")]
    Quantity { key: &'static str, value: String, source: QuantityError },
    #[error("volumeAttributes: {key}: {why}")]
    Reference { key: &'static str, why: String },
    #[error(
        "volumeAttributes: image and images are both given: write one of them (images takes several, bottom first)"
    )]
    ImageAndImages,
    #[error(
        "volumeAttributes: preCopyUp has {0:?}: write paths relative to the volume, split by spaces, without '.' and '..'"
    )]
    PreCopyUp(String),
    #[error("volumeAttributes: images has {0} references, and at most {MOST_IMAGES} are taken")]
    ImageCount(usize),
    #[error("volumeAttributes: preCopyUp has {0} paths, and at most {MOST_PATHS} are taken")]
    PreCopyUpCount(usize),
    #[error(
        "volumeAttributes: {0} is for a volume that is written to, and this one is read-only: leave out one of the two"
    )]
    ReadOnly(&'static str),
    #[error("volumeAttributes: {0}")]
    Conflict(&'static str),
}

/// What a pod may say in mountOptions.
pub(super) const OPTIONS: &str = "noexec, nodev, nosuid and noatime";

/// Bytes of all keys and values of one pod's author: far above use, and what is written into every record.
pub(super) const MOST_BYTES: usize = 64 << 10;

/// Each path costs a copy before the pod starts.
pub(super) const MOST_PATHS: usize = 100;

/// The most images of a volume: each is asked for at its registry.
pub(super) const MOST_IMAGES: usize = 32;

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

/// As much of a pod author's text as a sentence can bear: an Event holds 1,024 bytes.
pub(super) fn shown(text: &str) -> String {
    cut(text, 100)
}

/// At most so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
