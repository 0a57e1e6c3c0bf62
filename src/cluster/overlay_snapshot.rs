//! OverlaySnapshot: what the controller wants cut, and what its node says of it.

use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nothing of a spec ever changes but `deleted`: what a node was told to cut is what it cuts.
const IMMUTABLE: &str = "self.driver == oldSelf.driver && self.nodeName == oldSelf.nodeName \
    && self.volumeHandle == oldSelf.volumeHandle && self.source == oldSelf.source \
    && has(self.volumeSnapshot) == has(oldSelf.volumeSnapshot) \
    && (!has(self.volumeSnapshot) || self.volumeSnapshot == oldSelf.volumeSnapshot) \
    && has(self.repository) == has(oldSelf.repository) \
    && (!has(self.repository) || self.repository == oldSelf.repository) \
    && self.format == oldSelf.format && self.compression == oldSelf.compression \
    && self.consistency == oldSelf.consistency \
    && self.freezeTimeoutMillis == oldSelf.freezeTimeoutMillis \
    && self.orLive == oldSelf.orLive && self.squashAbove == oldSelf.squashAbove \
    && has(self.pushSecretName) == has(oldSelf.pushSecretName) \
    && (!has(self.pushSecretName) || self.pushSecretName == oldSelf.pushSecretName)";

/// The longest sentence that a status takes, in characters.
pub(super) const MESSAGE_MAX: usize = 4096;

/// A snapshot of one pod's volume, asked for by the controller and carried out on the pod's node.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "ovl.csi.dev",
    version = "v1alpha1",
    kind = "OverlaySnapshot",
    plural = "overlaysnapshots",
    shortname = "ovlsnap",
    doc = "A snapshot of one pod's volume: the controller asks for it, the node of the pod carries it out.",
    status = "OverlaySnapshotStatus",
    selectable = ".spec.nodeName",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.source.namespace"}"#,
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.source.pod"}"#,
    printcolumn = r#"{"name":"Volume","type":"string","jsonPath":".spec.source.volume"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".status.image","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new(IMMUTABLE).message("a spec does not change, except that deleted becomes true"))]
#[x_kube(validation = Rule::new("!oldSelf.deleted || self.deleted").message("what is being removed cannot be kept any more"))]
#[serde(rename_all = "camelCase")]
pub struct OverlaySnapshotSpec {
    /// The driver that is to carry it out.
    #[schemars(length(min = 1, max = 63))]
    pub driver: String,
    /// The node that has the volume.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// The volume's CSI handle.
    #[schemars(length(min = 1, max = 128))]
    pub volume_handle: String,
    /// Of what it is.
    pub source: SnapshotOf,
    /// The VolumeSnapshot that it is for; none where the CSI call asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot: Option<ObjectId>,
    /// Where it is to be pushed, `registry/repository`; none: it stays on its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub repository: Option<String>,
    /// What its layer in the registry looks like.
    #[serde(default)]
    pub format: LayerFormat,
    /// How its layer in the registry is packed.
    #[serde(default)]
    pub compression: LayerCompression,
    /// Whether the pod stands still while the volume is cut.
    #[serde(default)]
    pub consistency: Consistency,
    /// For how long it may stand still, in milliseconds.
    #[schemars(with = "i32", range(min = 1, max = 60_000))]
    pub freeze_timeout_millis: u32,
    /// Whether a volume that cannot be cut in that time is cut live.
    #[serde(default)]
    pub or_live: bool,
    /// Past how many layers above the images' they become one.
    #[schemars(with = "i32", range(min = 1, max = 250))]
    pub squash_above: u32,
    /// The Secret, in the driver's own namespace, with the registry's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub push_secret_name: Option<String>,
    /// It is to be removed from its node and from the registry.
    #[serde(default)]
    pub deleted: bool,
}

/// A pod's volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotOf {
    /// The pod's namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The pod's name.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The pod's uid.
    #[schemars(length(max = 128))]
    pub pod_uid: String,
    /// The volume's name in the pod.
    #[schemars(length(max = 63))]
    pub volume: String,
}

/// One object of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectId {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its uid.
    #[schemars(length(max = 128))]
    pub uid: String,
}

/// What a layer looks like in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayerFormat {
    /// Plain OCI.
    #[default]
    Portable,
    /// With overlay's marks.
    Native,
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayerCompression {
    /// zstd.
    #[default]
    Zstd,
    /// gzip.
    Gzip,
    /// A plain tar.
    None,
}

/// Whether the pod stands still while its volume is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// It does: the snapshot is a state that the volume was in.
    #[default]
    Frozen,
    /// It does not: each file is as it was at some moment of the cut.
    Live,
}

/// What the node says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverlaySnapshotStatus {
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The same as conditions: `Cut`, `Pushed`, `Squashed`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// What went wrong, or what goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// When it was cut, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cut_time: Option<String>,
    /// For how long the pod stood still, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_micros: Option<i64>,
    /// Entries of the newest layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<i64>,
    /// Bytes of the newest layer's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Layers of the whole stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<i64>,
    /// Layers above the images', which a volume that names images of its own gets on top of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_layers: Option<i64>,
    /// Whom root's files belonged to in the volume, `UID:GID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub owner: Option<String>,
    /// The snapshot that the volume was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub parent: Option<String>,
    /// Where it was pushed, `registry/repository@digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// Bytes that the registry has of it beside the images'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_bytes: Option<i64>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It is being cut.
    Cutting,
    /// It is cut, and can be restored on its node; it is being pushed.
    Pushing,
    /// It is where it is to be.
    Ready,
    /// It will not be; the message says why.
    Failed,
    /// It is being removed.
    Deleting,
    /// It is gone from the node, and from the registry where that allows it.
    Deleted,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Cutting, Self::Pushing, Self::Ready, Self::Failed, Self::Deleting, Self::Deleted];

    /// As the object has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cutting => "Cutting",
            Self::Pushing => "Pushing",
            Self::Ready => "Ready",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
            Self::Deleted => "Deleted",
        }
    }
}

/// One side of a state (Kubernetes API conventions, "Typical status properties").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[schemars(length(max = 64))]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(length(max = 16))]
    pub status: String,
    /// One word in CamelCase.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// The sentence.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When `status` last changed, RFC 3339.
    #[schemars(length(max = 64))]
    pub last_transition_time: String,
}

/// The CustomResourceDefinition, as the chart ships it.
///
/// # Errors
/// The serializer's, which a schema never raises.
pub fn crd_yaml() -> Result<String, String> {
    let crd = serde_saphyr::to_string(&OverlaySnapshot::crd()).map_err(|e| e.to_string())?;
    Ok(format!("# Written by `ovl crd`, and compared with it by a test.\n{crd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_ships_this_type() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ovl-csi/files/overlaysnapshots.yaml");
        let shipped = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            shipped == crd_yaml().unwrap(),
            "{path} is not what the type says: ovl crd > {path}"
        );
    }

    #[test]
    fn every_text_is_bounded_and_the_spec_does_not_change() {
        let crd = serde_json::to_value(OverlaySnapshot::crd()).unwrap();
        let version = &crd["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"]["properties"];
        let mut unbounded = Vec::new();
        texts("", schema, &mut unbounded);
        assert_eq!(unbounded, Vec::<String>::new());
        let rules = &schema["spec"]["x-kubernetes-validations"];
        assert_eq!(rules.as_array().map(Vec::len), Some(2), "{rules}");
        // Each field but `deleted` is compared.
        for field in schema["spec"]["properties"].as_object().unwrap().keys() {
            let compared = format!("self.{field} == oldSelf.{field}");
            assert_eq!(IMMUTABLE.contains(&compared), field != "deleted", "{field}");
        }
        assert_eq!(version["selectableFields"][0]["jsonPath"], ".spec.nodeName");
        assert!(version["subresources"]["status"].is_object());
    }

    /// The paths of texts that may have any length.
    fn texts(path: &str, schema: &serde_json::Value, unbounded: &mut Vec<String>) {
        let serde_json::Value::Object(fields) = schema else { return };
        let is = |key: &str| fields.contains_key(key);
        if fields.get("type") == Some(&"string".into()) && !is("maxLength") && !is("enum") {
            unbounded.push(path.to_owned());
        }
        for (name, field) in fields {
            texts(&format!("{path}/{name}"), field, unbounded);
        }
    }
}
