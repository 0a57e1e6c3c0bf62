//! Parses every request of the node service into a checked value, before the driver takes a lock or touches a file.
//!
//! The attributes of a pod are checked against an allow-list. An unknown key or value is refused with a message that
//! names it: to ignore an attribute would silently break what it promises.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tonic::metadata::MetadataMap;

use super::{
    config::Defaults,
    proto::csi::{
        NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
        VolumeCapability,
        volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
    },
};
use crate::{
    image::Keyring,
    overlay::Options,
    volumes::{Pod, PublishRequest, RequestError, Target, VolumeId},
};
pub(crate) use admission::policy_yaml;
pub(super) use invalid_argument::BadRequest;
use invalid_argument::shown;

mod admission;
mod attributes;
mod invalid_argument;

const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";

/// Parses a NodePublishVolume request.
pub(super) fn publish(
    request: NodePublishVolumeRequest,
    defaults: &Defaults,
    deadline: Option<Instant>,
) -> Result<PublishRequest, BadRequest> {
    let id = volume_id(&request.volume_id)?;
    let target = target(&request.target_path)?;
    let capability = request.volume_capability.ok_or(BadRequest::Missing("volume_capability"))?;
    let mut mount = mount(capability)?;
    mount.read_only |= request.readonly;
    let context = request.volume_context;
    let pod = pod(&context)?;
    let spec = attributes::spec(context, mount, defaults)?;
    let keyring = keyring(request.secrets)?;
    Ok(PublishRequest { id, target, pod, spec, keyring, deadline })
}

/// Parses a NodeUnpublishVolume request.
pub(super) fn unpublish(
    request: &NodeUnpublishVolumeRequest,
) -> Result<(VolumeId, Target), BadRequest> {
    Ok((volume_id(&request.volume_id)?, target(&request.target_path)?))
}

/// Parses a NodeGetVolumeStats request.
pub(super) fn stats(request: &NodeGetVolumeStatsRequest) -> Result<(VolumeId, Target), BadRequest> {
    if request.volume_path.is_empty() {
        return Err(BadRequest::Missing("volume_path"));
    }
    let id = volume_id(&request.volume_id)?;
    // No volume can be at an invalid path, so it is not found (CSI spec, NodeGetVolumeStats: NOT_FOUND).
    let nowhere = || BadRequest::Nowhere(shown(&request.volume_path));
    Ok((id, request.volume_path.parse().map_err(|_| nowhere())?))
}

/// The namespace and name of the pod in the volume context, for the log. They are not checked, and available also when
/// the request is refused.
pub(super) fn pod_name(context: &HashMap<String, String>) -> Option<(&str, &str)> {
    Some((context.get(POD_NAMESPACE)?, context.get(POD_NAME)?))
}

/// The deadline of the caller, from the header `grpc-timeout` (gRPC over HTTP/2: at most eight digits and a unit). An
/// invalid header is ignored.
pub(super) fn deadline(headers: &MetadataMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

/// The credentials in the Secret of `nodePublishSecretRef`. No message quotes a value.
fn keyring(secrets: HashMap<String, String>) -> Result<Keyring, BadRequest> {
    let mut keyring = Keyring::default();
    let mut secrets: Vec<_> = secrets.into_iter().collect();
    secrets.sort_unstable();
    for (name, value) in secrets {
        let (key, read) = match name.as_str() {
            ".dockerconfigjson" => {
                (".dockerconfigjson", Keyring::from_docker_config(value.as_bytes()))
            }
            ".dockercfg" => (".dockercfg", Keyring::from_dockercfg(value.as_bytes())),
            _ => return Err(BadRequest::SecretKey(shown(&name))),
        };
        keyring = keyring.and(&read.map_err(|source| BadRequest::Secret { key, source })?);
    }
    Ok(keyring)
}

fn volume_id(text: &str) -> Result<VolumeId, BadRequest> {
    if text.is_empty() {
        return Err(BadRequest::Missing("volume_id"));
    }
    Ok(text.parse().map_err(RequestError::from)?)
}

fn target(text: &str) -> Result<Target, BadRequest> {
    if text.is_empty() {
        return Err(BadRequest::Missing("target_path"));
    }
    Ok(text.parse()?)
}

/// The mount settings that come from the kubelet and not from the volume attributes.
fn mount(capability: VolumeCapability) -> Result<attributes::Mount, BadRequest> {
    let MountVolume { fs_type, mount_flags, volume_mount_group } = match capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => return Err(BadRequest::Block),
        None => return Err(BadRequest::Missing("volume_capability.mount")),
    };
    if !matches!(fs_type.as_str(), "" | "overlay") {
        return Err(BadRequest::FsType(shown(&fs_type)));
    }
    Ok(attributes::Mount {
        options: flags(&mount_flags)?,
        read_only: is_read_only(capability.access_mode)?,
        group: group(&volume_mount_group)?,
    })
}

fn flags(flags: &[String]) -> Result<Options, BadRequest> {
    let mut options = Options::default();
    for flag in flags {
        if let Some(context) = flag.strip_prefix("context=") {
            options.context = Some(label(context).ok_or(BadRequest::Context)?);
        } else if !attributes::set(&mut options, flag)? {
            // The value of an option may be a secret (CSI spec, MountVolume.mount_flags).
            let name = flag.split('=').next().unwrap_or_default();
            return Err(BadRequest::MountFlag(shown(name)));
        }
    }
    Ok(options)
}

/// An SELinux label, with or without the quotes that the kubelet adds. At most 255 bytes: fsconfig accepts no longer
/// string.
fn label(text: &str) -> Option<String> {
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"_.:,-".contains(&b);
    let parts = text.split(':').take(3).filter(|part| !part.is_empty()).count();
    (parts == 3 && text.len() <= 255 && text.bytes().all(inside)).then(|| text.to_owned())
}

fn group(text: &str) -> Result<Option<u32>, BadRequest> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        // The kernel uses the largest number for "not set".
        Ok(group) if digits && group != u32::MAX => Ok(Some(group)),
        _ => Err(BadRequest::Group(shown(text))),
    }
}

/// Whether a supported access mode is read-only.
fn is_read_only(mode: Option<AccessMode>) -> Result<bool, BadRequest> {
    let AccessMode { mode } = mode.ok_or(BadRequest::Missing("volume_capability.access_mode"))?;
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
    // This check comes before the author's attributes: if the CSIDriver object is wrong, all volumes fail with the same
    // message.
    if context.get(EPHEMERAL).map(String::as_str) != Some("true") {
        return Err(BadRequest::NotInline);
    }
    let required = |key: &'static str| match context.get(key) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(BadRequest::NoPodInfo(key)),
    };
    let uid = required(POD_UID)?;
    Ok(Pod {
        namespace: required(POD_NAMESPACE)?.clone(),
        name: required(POD_NAME)?.clone(),
        uid: uid.parse().map_err(|_| BadRequest::PodUid(shown(uid)))?,
    })
}

#[cfg(test)]
mod tests;
