//! The manifests of pods with an overlay volume.
//!
//! Deliberately absent: calls of the API server.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::images::SHELL;
use crate::machine::progress::seconds;

/// How long a pod may take to start or to end: several times what it needs on two busy cores.
pub const POD_TIMEOUT: Duration = seconds(120);

/// The driver's name in a pod.
pub const DRIVER: &str = "ovl.csi.dev";

/// The volume's name in a pod.
const VOLUME: &str = "work";

/// The command of a pod that only has to run.
const IDLE: &str = "sleep infinity";

/// A pod with one volume at /work.
pub struct Pod {
    manifest: Value,
    /// Its name.
    pub name: String,
}

impl Pod {
    /// A pod that sleeps, with a volume of these attributes.
    pub fn new(name: &str, attributes: Value) -> Self {
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": {
                // A shell as the first process ignores signals. 0 would delete the pod without the
                // kubelet.
                "terminationGracePeriodSeconds": 1,
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "shell",
                    "image": SHELL,
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", IDLE],
                    "volumeMounts": [{ "name": VOLUME, "mountPath": "/work" }],
                }],
                "volumes": [{
                    "name": VOLUME,
                    "csi": { "driver": DRIVER, "volumeAttributes": attributes },
                }],
            },
        });
        Self { manifest, name: name.to_owned() }
    }

    /// Adds or replaces a setting: `/spec/hostUsers`.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(parent) = self.manifest.pointer_mut(parent) {
            parent[key] = value;
        }
        self
    }

    /// Runs this shell command.
    #[must_use]
    pub fn runs(self, text: &str) -> Self {
        self.with("/spec/containers/0/command", json!(["sh", "-c", text]))
    }

    /// Puts it on this node, whatever its taints.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.with("/spec/nodeName", json!(node))
    }

    /// Adds a Secret for the volume's images.
    #[must_use]
    pub fn secret(self, name: &str) -> Self {
        self.with("/spec/volumes/0/csi/nodePublishSecretRef", json!({ "name": name }))
    }

    /// Its manifest.
    pub fn manifest(&self) -> String {
        self.manifest.to_string()
    }

    /// The spec of this pod in the template of a ReplicaSet.
    pub fn spec(self) -> Value {
        let mut spec = self.manifest["spec"].clone();
        spec["restartPolicy"] = json!("Always");
        spec
    }
}

/// The ID that the kubelet gives a pod's inline volume (makeVolumeHandle in Kubernetes'
/// csi_plugin).
pub fn volume_id(pod_uid: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{pod_uid}{VOLUME}"))))
}

/// Whether the Ready condition of a pod is true.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_ready_by_its_condition() {
        let pod = |status| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert!(is_ready(&pod("True")) && !is_ready(&pod("False")) && !is_ready(&json!({})));
    }

    #[test]
    fn a_manifest_carries_the_attributes_and_what_was_added() {
        let attributes = json!({ "image": "r/a:1", "volatile": "true" });
        let pod = Pod::new("p", attributes.clone()).secret("key").on("n");
        let manifest: Value = serde_json::from_str(&pod.manifest()).unwrap_or_default();
        let csi = &manifest["spec"]["volumes"][0]["csi"];
        assert_eq!(csi["volumeAttributes"], attributes);
        assert_eq!(csi["nodePublishSecretRef"]["name"], "key");
        assert_eq!(manifest["spec"]["nodeName"], "n");
    }
}
