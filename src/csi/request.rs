//! Every request becomes a checked value here, before any lock, guard or file.
//!
//! What a pod's author writes is taken by allow-list: a key or a value that this version does not know is refused with a
//! sentence that names it, because an attribute that is ignored is a promise broken in silence.

use std::collections::{BTreeMap, HashMap};

use super::proto::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};
use crate::{
    fault::Class,
    volumes::{
        Pod, PublishRequest, PullPolicy, Reference, RequestError, Target, VolumeId, VolumeSpec,
    },
};

/// Keys that the kubelet adds to the volume context, over anything the pod's author wrote there.
const KUBELET: &str = "csi.storage.k8s.io/";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";

/// Attributes that are planned and not built: told apart from a mistyped key.
const LATER: [&str; 13] = [
    "index",
    "inodes",
    "medium",
    "metacopy",
    "mountOptions",
    "nfsExport",
    "onUnclean",
    "owner",
    "preCopyUp",
    "redirectDir",
    "size",
    "snapshot",
    "xino",
];

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("{0} is missing from the request")]
    Missing(&'static str),
    #[error(transparent)]
    IllFormed(#[from] RequestError),
    #[error(
        "a block device is asked for; this driver mounts folders only: use volumeMode: Filesystem"
    )]
    Block,
    #[error("fsType {0:?} is not served: leave it out, or write overlay")]
    FsType(String),
    #[error("mount option {0:?} is not accepted: this version takes no mount options")]
    MountFlag(String),
    #[error(
        "access mode {0} is not served, because a volume is on one node only: use ReadWriteOnce or ReadWriteOncePod"
    )]
    AccessMode(&'static str),
    #[error(
        "the volume is not inline: this version serves only volumes written in the pod itself (volumes: - csi: \
         {{driver: ...}}) under a CSIDriver object with podInfoOnMount: true"
    )]
    NotInline,
    #[error(
        "{0} is missing from the request: the CSIDriver object has to say podInfoOnMount: true"
    )]
    NoPodInfo(&'static str),
    #[error("nodePublishSecretRef is not supported yet by this version: leave it out")]
    Secrets,
    #[error("csi.storage.k8s.io/pod.uid is {0:?}, which is no pod's uid")]
    PodUid(String),
    #[error(
        "unknown attribute {0:?} in volumeAttributes: accepted are image, images, pullPolicy and volatile"
    )]
    UnknownAttribute(String),
    #[error("volumeAttributes: {0} is not supported yet by this version: leave it out")]
    Later(&'static str),
    #[error("volumeAttributes: {key} is {value:?}: accepted are {accepted}")]
    Value { key: &'static str, value: String, accepted: &'static str },
    #[error("volumeAttributes: {key}: {why}")]
    Reference { key: &'static str, why: String },
    #[error(
        "volumeAttributes: image and images are both given: write one of them (images takes several, bottom first)"
    )]
    ImageAndImages,
}

impl BadRequest {
    pub(super) fn class(&self) -> Class {
        match self {
            Self::IllFormed(e) => e.class(),
            _ => Class::Invalid,
        }
    }
}

/// What NodePublishVolume asks for.
pub(super) fn publish(request: NodePublishVolumeRequest) -> Result<PublishRequest, BadRequest> {
    let id = volume_id(&request.volume_id)?;
    let target = target(&request.target_path)?;
    let capability = request.volume_capability.ok_or(BadRequest::Missing("volume_capability"))?;
    let read_only = capability_is_read_only(capability)? || request.readonly;
    if !request.secrets.is_empty() {
        return Err(BadRequest::Secrets);
    }
    let context = request.volume_context;
    let pod = pod(&context)?;
    let spec = spec(context, read_only)?;
    Ok(PublishRequest { id, target, pod, spec })
}

/// What NodeUnpublishVolume asks for.
pub(super) fn unpublish(
    request: &NodeUnpublishVolumeRequest,
) -> Result<(VolumeId, Target), BadRequest> {
    Ok((volume_id(&request.volume_id)?, target(&request.target_path)?))
}

/// The pod as the kubelet names it, for a line in the log: unchecked, and there also when the request is refused.
pub(super) fn pod_name(context: &HashMap<String, String>) -> Option<(&str, &str)> {
    Some((context.get(POD_NAMESPACE)?, context.get(POD_NAME)?))
}

fn volume_id(text: &str) -> Result<VolumeId, BadRequest> {
    if text.is_empty() {
        return Err(BadRequest::Missing("volume_id"));
    }
    Ok(text.parse()?)
}

fn target(text: &str) -> Result<Target, BadRequest> {
    if text.is_empty() {
        return Err(BadRequest::Missing("target_path"));
    }
    Ok(text.parse()?)
}

/// Whether a use that we can serve is for reading only.
fn capability_is_read_only(capability: VolumeCapability) -> Result<bool, BadRequest> {
    let MountVolume { fs_type, mount_flags } = match capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => return Err(BadRequest::Block),
        None => return Err(BadRequest::Missing("volume_capability.mount")),
    };
    if !matches!(fs_type.as_str(), "" | "overlay") {
        return Err(BadRequest::FsType(shown(&fs_type)));
    }
    if let Some(flag) = mount_flags.first() {
        // What follows the name may be a secret (CSI spec, MountVolume.mount_flags).
        let name = flag.split('=').next().unwrap_or_default();
        return Err(BadRequest::MountFlag(shown(name)));
    }
    let AccessMode { mode } =
        capability.access_mode.ok_or(BadRequest::Missing("volume_capability.access_mode"))?;
    match Mode::try_from(mode) {
        Ok(Mode::SingleNodeWriter | Mode::SingleNodeSingleWriter | Mode::SingleNodeMultiWriter) => {
            Ok(false)
        }
        Ok(Mode::SingleNodeReaderOnly) => Ok(true),
        Ok(
            mode @ (Mode::MultiNodeReaderOnly
            | Mode::MultiNodeSingleWriter
            | Mode::MultiNodeMultiWriter),
        ) => Err(BadRequest::AccessMode(mode.as_str_name())),
        Ok(Mode::Unknown) | Err(_) => Err(BadRequest::AccessMode("UNKNOWN")),
    }
}

fn pod(context: &HashMap<String, String>) -> Result<Pod, BadRequest> {
    // Without it every volume is refused the same way, so this comes before what the author wrote.
    if context.get(EPHEMERAL).map(String::as_str) != Some("true") {
        return Err(BadRequest::NotInline);
    }
    let told = |key: &'static str| match context.get(key) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(BadRequest::NoPodInfo(key)),
    };
    let uid = told(POD_UID)?;
    Ok(Pod {
        namespace: told(POD_NAMESPACE)?.clone(),
        name: told(POD_NAME)?.clone(),
        uid: uid.parse().map_err(|_| BadRequest::PodUid(shown(uid)))?,
    })
}

/// What the pod's author asks for; the table of keys is in the README.
fn spec(context: HashMap<String, String>, read_only: bool) -> Result<VolumeSpec, BadRequest> {
    // Sorted, so that of two wrong keys the same one is always named.
    let mut attributes: BTreeMap<String, String> =
        context.into_iter().filter(|(key, _)| !key.starts_with(KUBELET)).collect();
    let spec = VolumeSpec {
        images: images(attributes.remove("image"), attributes.remove("images"))?,
        pull_policy: attributes.remove("pullPolicy").map(pull_policy).transpose()?,
        volatile: attributes.remove("volatile").map(volatile).transpose()?.unwrap_or(false),
        read_only,
    };
    match attributes.into_keys().next() {
        None => Ok(spec),
        Some(key) => match LATER.iter().find(|later| **later == key) {
            Some(later) => Err(BadRequest::Later(later)),
            None => Err(BadRequest::UnknownAttribute(shown(&key))),
        },
    }
}

/// Bottom first. Neither key is an empty stack; a key without a reference is a mistake, for instance of a template.
fn images(image: Option<String>, images: Option<String>) -> Result<Vec<Reference>, BadRequest> {
    let (key, written): (_, Vec<&str>) = match (&image, &images) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => return Err(BadRequest::ImageAndImages),
        (Some(one), None) => ("image", vec![one.as_str()]),
        (None, Some(several)) => ("images", several.split_whitespace().collect()),
    };
    if written.iter().all(|reference| reference.is_empty()) {
        let accepted = "an image reference, or for images several, split by spaces, bottom first";
        return Err(BadRequest::Value { key, value: String::new(), accepted });
    }
    let parse = |reference: &str| {
        reference
            .parse::<Reference>()
            .map_err(|e| BadRequest::Reference { key, why: e.to_string() })
    };
    written.into_iter().map(parse).collect()
}

fn pull_policy(value: String) -> Result<PullPolicy, BadRequest> {
    match value.as_str() {
        "Always" => Ok(PullPolicy::Always),
        "IfNotPresent" => Ok(PullPolicy::IfNotPresent),
        "Never" => Ok(PullPolicy::Never),
        _ => Err(BadRequest::Value {
            key: "pullPolicy",
            value: shown(&value),
            accepted: "Always, IfNotPresent and Never",
        }),
    }
}

fn volatile(value: String) -> Result<bool, BadRequest> {
    match value.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(BadRequest::Value {
            key: "volatile",
            value: shown(&value),
            accepted: "\"true\" and \"false\"",
        }),
    }
}

/// As much of a pod author's text as a sentence can bear: an Event holds 1,024 bytes.
fn shown(text: &str) -> String {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests;
