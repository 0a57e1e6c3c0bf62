//! The CRDs OverlayDiff, a request for the differences between two states of volumes, and OverlayDiffResult, the response.
//!
//! They are two kinds, because all nodes use one account, which reads the requests of all namespaces. A node can create
//! a result and cannot read one. So a compromised node does not see which files pods in other nodes have.
//!
//! Deliberately absent: a result without an end. Both objects are gone after minutes, and a result has a bounded size.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::overlay_snapshot::MESSAGE_MAX;

/// The most differences in a result.
pub const CHANGES_MAX: usize = 1000;
/// The most bytes of all differences in a result, as JSON.
pub const CHANGES_BYTES_MAX: usize = 256 << 10;

/// A request for the differences between two states of volumes of its namespace: two VolumeSnapshots, or a pod's volume
/// and the state from which it started. The response is the OverlayDiffResult of the same name.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "ovl.csi.dev",
    version = "v1alpha1",
    kind = "OverlayDiff",
    plural = "overlaydiffs",
    shortname = "ovldiff",
    namespaced,
    doc = "A request for the differences between two states of volumes of its namespace. The response is the OverlayDiffResult of the same name. Both are deleted after 10 minutes.",
    status = "OverlayDiffStatus",
    selectable = ".status.nodeName",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Snapshot","type":"string","jsonPath":".spec.volumeSnapshotName"}"#,
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.pod.name"}"#,
    printcolumn = r#"{"name":"Volume","type":"string","jsonPath":".spec.pod.volume"}"#,
    printcolumn = r#"{"name":"Base","type":"string","jsonPath":".spec.baseVolumeSnapshotName"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.nodeName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec is immutable: create another OverlayDiff"))]
#[x_kube(validation = Rule::new("has(self.volumeSnapshotName) != has(self.pod)").message("set either volumeSnapshotName or pod"))]
#[serde(rename_all = "camelCase")]
pub struct OverlayDiffSpec {
    /// The name of the driver of the volumes.
    #[schemars(length(min = 1, max = 63))]
    pub driver: String,
    /// The VolumeSnapshot whose changes are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub volume_snapshot_name: Option<String>,
    /// The volume of a running pod whose changes are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodVolumeRef>,
    /// The VolumeSnapshot to compare with. Absent: the state from which the volume started, which is another snapshot or
    /// its images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub base_volume_snapshot_name: Option<String>,
}

/// A volume of a pod of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodVolumeRef {
    /// The name of the pod.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The name of the volume in the pod.
    #[schemars(length(min = 1, max = 63))]
    pub volume: String,
}

/// Which node compares. The controller of the driver writes it. It has no differences.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverlayDiffStatus {
    /// The name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node_name: Option<String>,
    /// The uid of the pod, if a pod is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub pod_uid: Option<String>,
    /// The CSI handle of the pod's volume, if a pod is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub volume_handle: Option<String>,
}

/// The response to the OverlayDiff of the same name.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ovl.csi.dev",
    version = "v1alpha1",
    kind = "OverlayDiffResult",
    plural = "overlaydiffresults",
    shortname = "ovldiffresult",
    namespaced,
    doc = "The response to the OverlayDiff of the same name, with which it is deleted.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Added","type":"integer","jsonPath":".spec.added"}"#,
    printcolumn = r#"{"name":"Changed","type":"integer","jsonPath":".spec.changed"}"#,
    printcolumn = r#"{"name":"Removed","type":"integer","jsonPath":".spec.removed"}"#,
    printcolumn = r#"{"name":"Error","type":"string","jsonPath":".spec.error"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct OverlayDiffResultSpec {
    /// The name of the driver of the volumes.
    #[schemars(length(min = 1, max = 63))]
    pub driver: String,
    /// The node that compared. Absent if no node did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node_name: Option<String>,
    /// Why there are no differences: a sentence. Absent if the comparison was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub error: Option<String>,
    /// The first differences, at most 1,000 and at most 256 KiB. A directory comes before what is in it, and the names
    /// in a directory come in byte order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub changes: Vec<DiffEntry>,
    /// The number of added paths, also of those that are not in `changes`.
    #[serde(default)]
    pub added: i64,
    /// The number of changed paths, also of those that are not in `changes`.
    #[serde(default)]
    pub changed: i64,
    /// The number of removed paths, also of those that are not in `changes`. A removed directory is one path.
    #[serde(default)]
    pub removed: i64,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiffEntry {
    /// The path from the root of the volume, without a leading slash; `.` for the root. If it is not plain text, it is
    /// quoted, with escapes.
    #[schemars(length(max = 262_144))]
    pub path: String,
    /// What has happened to the path.
    pub change: DiffChange,
    /// The type of the file; of a removed one, the type that it had.
    pub r#type: DiffFileType,
    /// The size of a regular file in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// What differs in a changed file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub properties: Vec<DiffProperty>,
}

/// What has happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiffChange {
    /// The path is new.
    Added,
    /// The path was there before, and differs.
    Changed,
    /// The path is gone.
    Removed,
}

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiffFileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A property of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiffProperty {
    /// The type of the file.
    Type,
    /// The size.
    Size,
    /// The content.
    Content,
    /// The target of a symbolic link.
    Target,
    /// The numbers of a device.
    Device,
    /// The permissions.
    Mode,
    /// The user or the group.
    Owner,
    /// Extended attributes, or ACLs.
    Xattrs,
}

impl DiffProperty {
    /// The value in the object, which serde writes too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Xattrs => "xattrs",
        }
    }
}

impl OverlayDiffResultSpec {
    /// A result without differences, because of this error.
    pub fn failed(driver: &str, node: Option<&str>, error: &str) -> Self {
        Self {
            driver: driver.to_owned(),
            node_name: node.map(str::to_owned),
            error: Some(super::recorder::truncated(error, MESSAGE_MAX).to_owned()),
            changes: Vec::new(),
            added: 0,
            changed: 0,
            removed: 0,
        }
    }

    /// The number of differences that are not in `changes`.
    pub fn omitted(&self) -> i64 {
        let listed = i64::try_from(self.changes.len()).unwrap_or(i64::MAX);
        (self.added + self.changed + self.removed - listed).max(0)
    }
}

impl OverlayDiff {
    /// The request without annotations, labels and other metadata, which users can make large. For a watch, which keeps
    /// objects in memory.
    pub fn trimmed(mut self) -> Self {
        let ObjectMeta { name, namespace, uid, creation_timestamp, .. } = self.metadata;
        self.metadata =
            ObjectMeta { name, namespace, uid, creation_timestamp, ..ObjectMeta::default() };
        self
    }

    /// The uid, which an object has once it is stored.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The result, which Kubernetes deletes with this object.
    pub fn result(&self, spec: OverlayDiffResultSpec) -> OverlayDiffResult {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let mut result = OverlayDiffResult::new(name, spec);
        result.metadata.namespace = self.metadata.namespace.clone();
        result.metadata.owner_references =
            kube::Resource::owner_ref(self, &()).map(|owner| vec![owner]);
        result
    }
}

/// The CustomResourceDefinition of OverlayDiffs in YAML.
///
/// # Errors
/// The error of the serializer, which a schema never causes.
pub fn crd_yaml() -> Result<String, String> {
    super::overlay_snapshot::yaml_of(&OverlayDiff::crd())
}

/// The CustomResourceDefinition of OverlayDiffResults in YAML.
///
/// # Errors
/// The error of the serializer, which a schema never causes.
pub fn result_crd_yaml() -> Result<String, String> {
    super::overlay_snapshot::yaml_of(&OverlayDiffResult::crd())
}

#[cfg(test)]
#[path = "overlay_diff_tests.rs"]
mod tests;
