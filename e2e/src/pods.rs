//! Pods with an overlay volume: written down, started, asked, deleted.
//!
//! Deliberately absent: sleeping. Everything waits for what it needs to see.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, wait_for};
use crate::images::SHELL;
use crate::progress::seconds;

/// How long a pod may take to start or to go: several times what it does on two busy cores.
pub const PATIENCE: Duration = seconds(120);

/// The driver's name in a pod.
const DRIVER: &str = "ovl.csi.dev";

/// A pod with one volume at /work.
pub struct Pod<'a> {
    /// Its name.
    pub name: &'a str,
    /// The volume's attributes.
    pub attributes: Value,
    /// What its container runs, as shell text.
    pub runs: &'a str,
}

impl Pod<'_> {
    /// Its manifest.
    pub fn manifest(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": self.name },
            "spec": {
                // A shell as the first process takes no signal; 0 would mean without the kubelet.
                "terminationGracePeriodSeconds": 1,
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "shell",
                    "image": SHELL,
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", self.runs],
                    "volumeMounts": [{ "name": "work", "mountPath": "/work" }],
                }],
                "volumes": [{
                    "name": "work",
                    "csi": { "driver": DRIVER, "volumeAttributes": self.attributes },
                }],
            },
        })
        .to_string()
    }
}

/// Waits until a pod is Ready and returns its UID.
///
/// # Errors
/// It is not in time; the error has what the pod waits for.
pub fn ready(cluster: &Cluster, name: &str) -> Result<String> {
    wait_for(&format!("pod {name} to be ready"), PATIENCE, || {
        let pod = cluster.kubectl_json(&["get", "pod", name])?;
        ensure!(is_ready(&pod), "it is {}; {}", pod["status"]["phase"], warnings(cluster, name)?);
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str).context("it has no uid")?;
        Ok(Some(uid.to_owned()))
    })
}

/// What a pod was warned of: the messages of its Events, as `kubectl describe` shows them.
///
/// # Errors
/// The API server cannot be asked.
pub fn warnings(cluster: &Cluster, name: &str) -> Result<String> {
    let selector = format!("involvedObject.name={name},type=Warning");
    let events = cluster.kubectl_json(&["get", "events", "--field-selector", &selector])?;
    let events = events.get("items").and_then(Value::as_array).into_iter().flatten();
    let words = |event: &Value| {
        let word = |key| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        format!("{}: {}", word("reason"), word("message"))
    };
    let told: Vec<String> = events.map(words).collect();
    Ok(if told.is_empty() { "no warnings".into() } else { told.join("; ") })
}

/// Whether a pod's Ready condition holds.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Runs a shell command in a pod and returns what it printed.
///
/// # Errors
/// It failed; the error quotes what it said.
pub fn shell(cluster: &Cluster, pod: &str, command: &str) -> Result<String> {
    cluster.kubectl(&["exec", pod, "--", "sh", "-c", command])
}

/// Deletes a pod and waits until the API server has forgotten it, which is after the kubelet has
/// seen its volumes unmounted; fine if there is none.
///
/// # Errors
/// It is still there when the time is up.
pub fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    let time = format!("{}s", PATIENCE.as_secs());
    let delete = ["delete", "pod", name, "--ignore-not-found", "--wait", "--timeout", &time];
    cluster.kubectl(&delete).map(drop)
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
    fn a_manifest_carries_the_attributes() {
        let attributes = json!({ "image": "r/a:1", "volatile": "true" });
        let pod = Pod { name: "p", attributes: attributes.clone(), runs: "true" };
        let manifest: Value = serde_json::from_str(&pod.manifest()).unwrap_or_default();
        assert_eq!(manifest["spec"]["volumes"][0]["csi"]["volumeAttributes"], attributes);
    }
}
