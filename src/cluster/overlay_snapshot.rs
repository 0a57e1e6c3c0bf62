//! The OverlaySnapshot CRD: the controller writes the spec of a snapshot, and the node reports in the status.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// The rule that only `deleted` may change in a spec: a node captures exactly what it was first requested to capture.
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

/// The longest message in a status, in characters.
pub(super) const MESSAGE_MAX: usize = 4096;

/// A snapshot of one pod's volume. The controller requests it, and the node of the pod captures and pushes it.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "ovl.csi.dev",
    version = "v1alpha1",
    kind = "OverlaySnapshot",
    plural = "overlaysnapshots",
    shortname = "ovlsnap",
    category = "ovl",
    doc = "A snapshot of one pod's volume. The controller requests it, and the node of the pod captures and pushes it.",
    status = "OverlaySnapshotStatus",
    selectable = ".spec.nodeName",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.source.namespace"}"#,
    printcolumn = r#"{"name":"VolumeSnapshot","type":"string","jsonPath":".spec.volumeSnapshot.name"}"#,
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.source.pod"}"#,
    printcolumn = r#"{"name":"Volume","type":"string","jsonPath":".spec.source.volume"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Bytes","type":"integer","jsonPath":".status.bytes"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".status.image","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new(IMMUTABLE).message("spec is immutable, except that deleted may become true"))]
#[x_kube(validation = Rule::new("!oldSelf.deleted || self.deleted").message("deleted cannot become false again"))]
#[serde(rename_all = "camelCase")]
pub struct OverlaySnapshotSpec {
    /// The name of the driver that captures the volume.
    #[schemars(length(min = 1, max = 63))]
    pub driver: String,
    /// The name of the node that has the volume.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// The CSI handle of the volume.
    #[schemars(length(min = 1, max = 128))]
    pub volume_handle: String,
    /// The volume to capture.
    pub source: SnapshotSource,
    /// The VolumeSnapshot that requested it. Absent if the CSI call CreateSnapshot requested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot: Option<ObjectId>,
    /// The repository to push to, `registry/repository`. Absent: the snapshot stays on its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub repository: Option<String>,
    /// The format of the layers that are packed for the push.
    #[serde(default)]
    pub format: LayerFormat,
    /// The compression of the layers that are packed for the push.
    #[serde(default)]
    pub compression: LayerCompression,
    /// Whether the pod is frozen during the capture.
    #[serde(default)]
    pub consistency: Consistency,
    /// The longest time for which the pod may be frozen, in milliseconds.
    #[schemars(with = "i32", range(min = 1, max = 60_000))]
    pub freeze_timeout_millis: u32,
    /// Whether the volume is captured live if the pod cannot be frozen, or not within `freezeTimeoutMillis`.
    #[serde(default)]
    pub or_live: bool,
    /// The largest number of snapshot layers above the layers of the images. If there are more, they are merged into one.
    #[schemars(with = "i32", range(min = 1, max = 250))]
    pub squash_above: u32,
    /// The name of the Secret with the registry credentials, in the namespace of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub push_secret_name: Option<String>,
    /// Requests the deletion from the node and from the registry. It cannot become false again.
    #[serde(default)]
    pub deleted: bool,
}

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSource {
    /// The namespace of the pod.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The name of the pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The uid of the pod.
    #[schemars(length(max = 128))]
    pub pod_uid: String,
    /// The name of the volume in the pod.
    #[schemars(length(max = 63))]
    pub volume: String,
}

/// A reference to a namespaced object.
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

/// The format of a layer in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayerFormat {
    /// A plain OCI layer.
    #[default]
    Portable,
    /// A layer with the xattrs of overlayfs.
    Native,
}

/// The compression of a layer in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayerCompression {
    /// zstd.
    #[default]
    Zstd,
    /// gzip.
    Gzip,
    /// Uncompressed tar.
    None,
}

/// Whether the pod is frozen during the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The pod is frozen: the snapshot is a state that the volume was in.
    #[default]
    Frozen,
    /// The pod runs: each file is as it was at some moment of the capture.
    Live,
}

/// The state of the snapshot. Its node writes it. The controller writes it only if that node is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverlaySnapshotStatus {
    /// The step that the snapshot has reached. Absent before its node has seen it. `Capturing`: the volume is being copied.
    /// `Pushing`: captured, pods on its node can start from it. `Ready`: complete. `NotInRegistry`: the registry has lost its
    /// image, and the node cannot push it again. `Failed`: see `message`. `Deleting`: the node deletes it. `Deleted`: the
    /// node has deleted it. `Cutting`: earlier versions wrote this for `Capturing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "phase_schema")]
    pub phase: Option<Phase>,
    /// The result of each step: `Captured`, `Squashed`, `Pushed`, and `Ready` for the whole.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "conditions_of_all_versions"
    )]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// The error of the last try, or the progress of a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// The time of the capture, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub capture_time: Option<String>,
    /// Deprecated: the name of `captureTime` in an earlier version. This version reads it and does not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cut_time: Option<String>,
    /// How long the pod was frozen, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_micros: Option<i64>,
    /// The number of entries in the newest layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<i64>,
    /// The bytes of the files in the newest layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// The number of layers in the whole stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<i64>,
    /// The number of layers above the layers of the images. A volume that names its own images gets these layers on top
    /// of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_layers: Option<i64>,
    /// The volume's attribute `owner`, `UID:GID`: the user to whom root's files of the images belong in the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub owner: Option<String>,
    /// The OverlaySnapshot of the snapshot from which the volume started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub parent: Option<String>,
    /// The pushed image, `registry/repository@digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The size of the snapshot's own layers in the registry, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_bytes: Option<i64>,
}

impl OverlaySnapshotStatus {
    /// The time of the capture, also where an earlier version wrote it.
    pub fn captured_at(&self) -> Option<&str> {
        self.capture_time.as_deref().or(self.cut_time.as_deref())
    }
}

/// The progress of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// The volume is being captured. An earlier version wrote `Cutting`.
    #[serde(alias = "Cutting")]
    Capturing,
    /// The volume is captured. Volumes on its node can start from the snapshot. The push is under way.
    Pushing,
    /// The snapshot is complete, and pushed if a repository is set.
    Ready,
    /// The registry does not have the pushed image any more, and its node cannot push it again. The node checks again
    /// from time to time.
    NotInRegistry,
    /// The snapshot failed. The message says why. If its node was gone and comes back, it continues.
    Failed,
    /// The snapshot is being removed.
    Deleting,
    /// The snapshot is removed from the node, and from the registry if the registry allows it.
    Deleted,
    /// A phase that only a later version knows: its node reports already while this version still runs elsewhere. The
    /// snapshot counts as in progress. No version writes it.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// All phases of this version, in the order of a snapshot's life.
    pub const ALL: [Self; 7] = [
        Self::Capturing,
        Self::Pushing,
        Self::Ready,
        Self::NotInRegistry,
        Self::Failed,
        Self::Deleting,
        Self::Deleted,
    ];

    /// The value in the object, which serde writes too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Capturing => "Capturing",
            Self::Pushing => "Pushing",
            Self::Ready => "Ready",
            Self::NotInRegistry => NOT_IN_REGISTRY,
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
            Self::Deleted => "Deleted",
            Self::Unknown => "Unknown",
        }
    }
}

/// The schema of the phase. The API server also accepts the word that a node of an earlier version writes.
fn phase_schema(_: &mut SchemaGenerator) -> Schema {
    let words = Phase::ALL.map(Phase::word).into_iter().chain(["Cutting"]);
    json_schema!({"type": "string", "enum": words.collect::<Vec<_>>(), "nullable": true})
}

/// The phase and the reason of the conditions of a snapshot whose image the registry has lost.
pub const NOT_IN_REGISTRY: &str = "NotInRegistry";

/// The type and the true reason of the condition of the capture.
pub const CAPTURED: &str = "Captured";

/// Reads conditions, and gives those of an earlier version the words of this one: `Cut` becomes [`CAPTURED`]. If a status
/// has both types, the one of this version stays.
fn conditions_of_all_versions<'de, D>(from: D) -> Result<Vec<Condition>, D::Error>
where
    D: Deserializer<'de>,
{
    let mut conditions = Vec::<Condition>::deserialize(from)?;
    if conditions.iter().any(|condition| condition.r#type == CAPTURED) {
        conditions.retain(|condition| condition.r#type != "Cut");
    }
    for condition in &mut conditions {
        for word in [&mut condition.r#type, &mut condition.reason] {
            match word.as_str() {
                "Cut" => CAPTURED.clone_into(word),
                "Cutting" => Phase::Capturing.word().clone_into(word),
                _ => {}
            }
        }
    }
    Ok(conditions)
}

/// A condition, as `metav1.Condition` (Kubernetes API conventions, "Typical status properties").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The type of the condition.
    #[schemars(length(min = 1, max = 64))]
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(schema_with = "condition_status_schema")]
    pub status: String,
    /// The `metadata.generation` of the object for which the condition was set. Absent where an earlier version set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// The reason, one word in CamelCase.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    )]
    pub reason: String,
    /// The reason as a sentence for people.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// The time at which `status` last changed, RFC 3339.
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub last_transition_time: String,
}

fn condition_status_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["True", "False", "Unknown"]})
}

/// The CustomResourceDefinition in YAML, as the chart ships it.
///
/// # Errors
/// The error of the serializer, which a schema never causes.
pub fn crd_yaml() -> Result<String, String> {
    yaml_of(&OverlaySnapshot::crd())
}

/// A CustomResourceDefinition in YAML, as the chart ships it.
pub(super) fn yaml_of(crd: &CustomResourceDefinition) -> Result<String, String> {
    let crd = serde_saphyr::to_string(crd).map_err(|e| e.to_string())?;
    Ok(format!("# Written by `ovl crd`, and compared with it by a test.\n{crd}"))
}

#[cfg(test)]
#[path = "overlay_snapshot_tests.rs"]
mod tests;
