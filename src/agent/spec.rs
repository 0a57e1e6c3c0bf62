//! Parses the spec of an OverlaySnapshot into checked values.

use std::time::Duration;

use super::engine::Failure;
use crate::{
    cluster::overlay_snapshot::{
        Consistency as Wanted, LayerCompression, LayerFormat, OverlaySnapshot,
    },
    error::Class,
    image::Keyring,
    layers::SnapshotId,
    media_type::{Compression, Format},
    reference::Repository,
    snapshots::{CaptureRequest, Consistency, PushRequest},
    volumes::Pod,
};

/// The checked spec.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// The name of the VolumeSnapshot, or the id where there is none. Events use it.
    pub(super) name: String,
    /// The pod whose volume is captured.
    pub(super) source: Pod,
    /// The volume's name in the pod.
    pub(super) volume: String,
    pub(super) capture: CaptureRequest,
    pub(super) push: Option<PushTarget>,
    /// A snapshot with more own layers than this is squashed.
    pub(super) squash_above: usize,
}

/// The target of a push.
#[derive(Debug, Clone)]
pub(super) struct PushTarget {
    pub(super) to: Repository,
    pub(super) format: Format,
    pub(super) compression: Compression,
    /// The name of the Secret with the credentials.
    pub(super) secret: Option<String>,
}

impl Spec {
    /// Parses and checks a spec.
    pub(super) fn new(object: &OverlaySnapshot) -> Result<Self, Failure> {
        let (id, spec) = (id(object)?, &object.spec);
        let volume = spec.volume_handle.parse().map_err(invalid)?;
        let within = Duration::from_millis(spec.freeze_timeout_millis.into());
        let consistency = match spec.consistency {
            Wanted::Frozen => Consistency::Frozen { within, or_live: spec.or_live },
            Wanted::Live => Consistency::Live,
        };
        let source = &spec.source;
        let pod = Pod {
            namespace: source.namespace.clone(),
            name: source.pod.clone(),
            uid: source.pod_uid.parse().map_err(invalid)?,
        };
        let name = spec.volume_snapshot.as_ref().map(|object| object.name.clone());
        Ok(Self {
            name: name.unwrap_or_else(|| id.to_string()),
            volume: source.volume.clone(),
            capture: CaptureRequest { id, volume, pod: Some(pod.clone()), consistency },
            source: pod,
            push: target(object)?,
            // A snapshot has at least one own layer.
            squash_above: usize::try_from(spec.squash_above).unwrap_or(usize::MAX).max(1),
        })
    }

    /// The failure with a message for the pod's user, who knows neither the id of the snapshot nor that of the volume.
    pub(super) fn named(&self, failure: Failure) -> Failure {
        let (id, name) = (&self.capture.id, &self.name);
        let message =
            failure.message.replace(&format!("snapshot {id}"), &format!("snapshot {name}"));
        // The message is shown with the name of the snapshot.
        let message = message.strip_prefix(&format!("snapshot {name}: ")).unwrap_or(&message);
        let message = self.capture.volume.named(&self.volume, message);
        Failure { message, ..failure }
    }

    /// The same for an object whose spec may be invalid.
    pub(super) fn named_for(object: &OverlaySnapshot, failure: Failure) -> Failure {
        match Self::new(object) {
            Ok(spec) => spec.named(failure),
            Err(_) => failure,
        }
    }

    /// The request for the push, with these credentials.
    pub(super) fn push_request(&self, target: &PushTarget, keyring: Keyring) -> PushRequest {
        PushRequest {
            id: self.capture.id.clone(),
            volume: self.volume.clone(),
            to: target.to.clone(),
            format: target.format,
            compression: target.compression,
            keyring,
        }
    }
}

/// The id of the snapshot, which is the name of the object.
pub(super) fn id(object: &OverlaySnapshot) -> Result<SnapshotId, Failure> {
    object.metadata.name.as_deref().unwrap_or_default().parse().map_err(invalid)
}

/// The target of the push. `None` for a snapshot that stays on its node.
pub(super) fn target(object: &OverlaySnapshot) -> Result<Option<PushTarget>, Failure> {
    let spec = &object.spec;
    let Some(repository) = &spec.repository else { return Ok(None) };
    let format = match spec.format {
        LayerFormat::Portable => Format::Portable,
        LayerFormat::Native => Format::Native,
    };
    let compression = match spec.compression {
        LayerCompression::Zstd => Compression::Zstd,
        LayerCompression::Gzip => Compression::Gzip,
        LayerCompression::None => Compression::None,
    };
    let to = repository.parse().map_err(invalid)?;
    Ok(Some(PushTarget { to, format, compression, secret: spec.push_secret_name.clone() }))
}

fn invalid(why: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Invalid, why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::fuzzing;

    #[test]
    fn a_message_names_the_snapshot_and_the_volume_as_the_user_knows_them() {
        let spec = json!({
            "driver": "ovl.csi.dev", "nodeName": "n", "volumeHandle": "csi-0f",
            "source": { "namespace": "ci", "pod": "p", "podUid": "u", "volume": "ws" },
            "volumeSnapshot": { "namespace": "ci", "name": "ws-1", "uid": "vs" },
            "freezeTimeoutMillis": 1, "squashAbove": 1,
        });
        let object = OverlaySnapshot::new("snap-vs", serde_json::from_value(spec).unwrap());
        for (message, named) in [
            (
                "snapshot snap-vs: there is no volume csi-0f on this node",
                "there is no volume ws on this node",
            ),
            (
                "snapshot snap-vs is already being captured",
                "snapshot ws-1 is already being captured",
            ),
            ("cannot push snapshot snap-vs: no space", "cannot push snapshot ws-1: no space"),
        ] {
            let failure = Spec::named_for(&object, Failure::new(Class::Busy, message));
            assert_eq!(failure.message, named);
        }
    }

    /// The controller and the node have one grammar: what a class gets through the controller does not fail on a node.
    #[test]
    fn the_node_pushes_to_each_repository_that_the_controller_accepts_in_a_class() {
        let long = |length| format!("r.io/{}", "a".repeat(length));
        for (text, is_good) in [
            ("r.io/a", true),
            ("R.io:5000/a/b__c", true),
            ("docker.io/a", true),
            ("localhost/a", true),
            ("10.0.0.1:5000/a", true),
            ("[0:0::1]:5000/a", true),
            (&long(250), true),
            (&long(251), false),
            ("127.1/a", false),
            ("0x7f.0.0.1/a", false),
            ("2130706433:80/a", false),
            ("r.io:05000/a", false),
            ("r.io:0/a", false),
            ("r.io:70000/a", false),
            ("r..io/a", false),
            ("r_x.io/a", false),
            ("[::1/a", false),
            ("https://r.io/a", false),
            ("u@r.io/a", false),
            ("r.io/", false),
            ("r.io/A", false),
            ("r.io/a..b", false),
            ("r.io/a:tag", false),
        ] {
            let on_the_node = |repository: &str| {
                let spec = json!({
                    "driver": "ovl.csi.dev", "nodeName": "n", "volumeHandle": "csi-1",
                    "source": { "namespace": "ci", "pod": "p", "podUid": "u", "volume": "ws" },
                    "repository": repository, "freezeTimeoutMillis": 1, "squashAbove": 1,
                });
                let object = OverlaySnapshot::new("snap-1", serde_json::from_value(spec).unwrap());
                target(&object).map(|target| target.unwrap().to.to_string()).ok()
            };
            let in_a_class = fuzzing::repository(text);
            assert_eq!(in_a_class.is_some(), is_good, "{text}");
            assert_eq!(on_the_node(text), in_a_class, "{text}");
            if let Some(filled) = in_a_class {
                assert_eq!(on_the_node(&filled), Some(filled));
            }
        }
    }
}
