//! Fuzz target of every request with fields that the driver serves.

#![allow(clippy::unwrap_used)] // a target fails by panicking

use std::collections::{BTreeMap, HashMap};

use super::{
    config::Defaults,
    controller, local,
    proto::{
        csi::{
            CreateSnapshotRequest, DeleteSnapshotRequest, GetSnapshotRequest, ListSnapshotsRequest,
            NodePublishVolumeRequest, ValidateVolumeCapabilitiesRequest, VolumeCapability,
            volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
        },
        local::{CaptureVolumeRequest, PushSnapshotRequest},
    },
    request,
};
use crate::{
    controller::fuzzing::parameters,
    reference::Repository,
    volumes::{Target, VolumeSpec},
};

/// The first byte chooses the request, and the others are its message. `a` and `k` are the attributes of a volume and the
/// parameters of a class, a line `KEY=VALUE` for each, in requests that are otherwise valid.
pub fn csi_request(data: &[u8]) -> bool {
    let Some((kind, data)) = data.split_first() else { return false };
    match kind {
        b'p' => decoded(data, publish),
        b'u' => decoded(data, |request| {
            request::unpublish(&request).is_ok_and(|(_, target)| check_target(&target))
        }),
        b's' => decoded(data, |request| {
            request::stats(&request).is_ok_and(|(_, target)| check_target(&target))
        }),
        b'v' => decoded(data, |request: ValidateVolumeCapabilitiesRequest| {
            text(request.volume_id) && request.volume_capabilities.iter().all(controller::is_ours)
        }),
        b'c' => decoded(data, |request: CreateSnapshotRequest| {
            text(request.name)
                && text(request.source_volume_id)
                && parameters(&request.parameters.into_iter().collect())
        }),
        b'd' => decoded(data, |request: DeleteSnapshotRequest| text(request.snapshot_id)),
        b'g' => decoded(data, |request: GetSnapshotRequest| text(request.snapshot_id)),
        b'l' => decoded(data, |request: ListSnapshotsRequest| text(request.snapshot_id)),
        b'C' => decoded(data, |request: CaptureVolumeRequest| local::capture(&request).is_ok()),
        b'P' => decoded(data, |request: PushSnapshotRequest| {
            request.repository.parse::<Repository>().is_ok()
        }),
        b'a' => pairs(data).is_some_and(|pairs| publish(with_attributes(pairs))),
        b'k' => pairs(data).is_some_and(|pairs| parameters(&pairs)),
        _ => false,
    }
}

fn decoded<M: prost::Message + Default>(data: &[u8], check: impl FnOnce(M) -> bool) -> bool {
    M::decode(data).is_ok_and(check)
}

fn pairs(data: &[u8]) -> Option<BTreeMap<String, String>> {
    let lines = str::from_utf8(data).ok()?.lines();
    let pairs = lines.filter_map(|line| line.split_once('='));
    Some(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// What is accepted means the same each time, and a record of it is read back as the same volume.
fn publish(request: NodePublishVolumeRequest) -> bool {
    let parse = || request::publish(request.clone(), &Defaults::default(), None);
    match parse() {
        Ok(parsed) => {
            check_target(&parsed.target);
            let again = parse().unwrap();
            assert_eq!(
                (&again.id, &again.pod, &again.spec),
                (&parsed.id, &parsed.pod, &parsed.spec)
            );
            let record = serde_json::to_vec(&parsed.spec).unwrap();
            assert_eq!(serde_json::from_slice::<VolumeSpec>(&record).unwrap(), parsed.spec);
            assert!(parsed.spec.pre_copy_up.iter().all(|path| path.is_relative()));
            true
        }
        // A message goes into the log and into an Event.
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 4096, "{} bytes: {message}", message.len());
            assert!(!message.contains(char::is_control), "{message:?}");
            false
        }
    }
}

fn check_target(target: &Target) -> bool {
    let path = target.as_path();
    assert!(path.is_absolute() && path.components().all(|c| c.as_os_str() != ".."), "{path:?}");
    true
}

fn text(text: String) -> bool {
    let text = controller::text("field", text);
    text.is_ok_and(|text| (1..=128).contains(&text.len()))
}

/// The request of a kubelet for a pod with these `volumeAttributes`.
fn with_attributes(attributes: BTreeMap<String, String>) -> NodePublishVolumeRequest {
    let mut context: HashMap<_, _> = attributes.into_iter().collect();
    for (key, value) in
        [("ephemeral", "true"), ("pod.namespace", "ci"), ("pod.name", "job"), ("pod.uid", "u-1")]
    {
        context.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
    }
    let mount_flags = context.remove("mountFlags").into_iter().collect();
    NodePublishVolumeRequest {
        volume_id: "csi-0123".into(),
        target_path: "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/ws/mount".into(),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume {
                mount_flags,
                ..MountVolume::default()
            })),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        }),
        readonly: false,
        secrets: HashMap::new(),
        volume_context: context,
    }
}
