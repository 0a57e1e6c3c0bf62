//! Pods with an overlay volume: written down, started, asked, deleted, each in a namespace that
//! is its scene's own.
//!
//! Deliberately absent: sleeping. Everything waits for what it needs to see.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, wait_for};
use crate::images::SHELL;
use crate::look::{Mount, Node};
use crate::progress::seconds;
use crate::stage::Stage;

/// How long a pod may take to start or to go: several times what it does on two busy cores.
pub const PATIENCE: Duration = seconds(120);

/// The driver's name in a pod.
const DRIVER: &str = "ovl.csi.dev";

/// The volume's name in a pod.
const VOLUME: &str = "work";

/// What a pod runs that only has to be there.
const IDLE: &str = "sleep infinity";

/// A pod with one volume at /work.
pub struct Pod {
    manifest: Value,
    name: String,
}

impl Pod {
    /// One that waits, with a volume of these attributes.
    pub fn new(name: &str, attributes: Value) -> Self {
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": {
                // A shell as the first process takes no signal; 0 would mean without the kubelet.
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

    /// With one setting of its spec more, or another one: `/spec/hostUsers`.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(parent) = self.manifest.pointer_mut(parent) {
            parent[key] = value;
        }
        self
    }

    /// Running this shell text.
    #[must_use]
    pub fn runs(self, text: &str) -> Self {
        self.with("/spec/containers/0/command", json!(["sh", "-c", text]))
    }

    /// On this node, whatever it is tainted with.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.with("/spec/nodeName", json!(node))
    }

    /// With a Secret for the volume's images.
    #[must_use]
    pub fn secret(self, name: &str) -> Self {
        self.with("/spec/volumes/0/csi/nodePublishSecretRef", json!({ "name": name }))
    }

    /// Its manifest.
    pub fn manifest(&self) -> String {
        self.manifest.to_string()
    }

    /// What a pod with this volume is in a ReplicaSet's template.
    pub fn spec(self) -> Value {
        let mut spec = self.manifest["spec"].clone();
        spec["restartPolicy"] = json!("Always");
        spec
    }
}

/// The id that the kubelet gives a pod's inline volume (makeVolumeHandle in Kubernetes' csi_plugin).
pub fn volume_id(pod_uid: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{pod_uid}{VOLUME}"))))
}

/// A namespace on a stage, and what happens in it.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// The namespace.
    pub namespace: &'a str,
}

impl<'a> Scene<'a> {
    /// The cluster.
    pub fn cluster(&self) -> &'a Cluster {
        &self.stage.cluster
    }

    /// Runs `kubectl` in the namespace and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error quotes what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster().kubectl(&[&["--namespace", self.namespace], args].concat())
    }

    /// Runs `kubectl … -o json` in the namespace and returns the object.
    ///
    /// # Errors
    /// It failed or printed no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.cluster().kubectl_json(&[&["--namespace", self.namespace], args].concat())
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// kubectl or the API refused it.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let kubectl = self.cluster().kubectl_cmd().args(["--namespace", self.namespace]);
        kubectl.args(["apply", "-f", "-"]).stdin(manifest).output().map(drop)
    }

    /// Makes a pod, and does not wait for it; returns its UID.
    ///
    /// # Errors
    /// The API refused it.
    pub fn make(&self, pod: &Pod) -> Result<String> {
        self.apply(&pod.manifest())?;
        self.uid(&pod.name)
    }

    /// Makes a pod and waits until it is Ready; returns its UID.
    ///
    /// # Errors
    /// The API refused it, or it is not Ready in time.
    pub fn start(&self, pod: &Pod) -> Result<String> {
        self.apply(&pod.manifest())?;
        self.ready(&pod.name)
    }

    /// A pod's UID.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn uid(&self, pod: &str) -> Result<String> {
        let pod = self.json(&["get", "pod", pod])?;
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
        uid.map(str::to_owned).context("it has no uid")
    }

    /// Waits until a pod is Ready and returns its UID.
    ///
    /// # Errors
    /// It is not in time; the error has what the pod waits for.
    pub fn ready(&self, name: &str) -> Result<String> {
        self.ready_within(name, PATIENCE)
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// As [`Scene::ready`].
    pub fn ready_within(&self, name: &str, patience: Duration) -> Result<String> {
        wait_for(&format!("pod {name} to be ready"), patience, || {
            let pod = self.json(&["get", "pod", name])?;
            ensure!(is_ready(&pod), "it is {}; {}", pod["status"]["phase"], self.warnings(name)?);
            let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
            Ok(Some(uid.context("it has no uid")?.to_owned()))
        })
    }

    /// What a pod was told, as `kubectl describe` shows it: a line an Event, with its reason.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub fn events(&self, pod: &str, also: &str) -> Result<Vec<String>> {
        let selector = format!("involvedObject.name={pod}{also}");
        let events = self.json(&["get", "events", "--field-selector", &selector])?;
        let events = events.get("items").and_then(Value::as_array).into_iter().flatten();
        let words = |event: &Value| {
            let word = |key| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{}: {}", word("reason"), word("message"))
        };
        Ok(events.map(words).collect())
    }

    /// What a pod was warned of, in one line.
    ///
    /// # Errors
    /// As [`Scene::events`].
    pub fn warnings(&self, pod: &str) -> Result<String> {
        let told = self.events(pod, ",type=Warning")?;
        Ok(if told.is_empty() { "no warnings".into() } else { told.join("; ") })
    }

    /// Waits until a pod is told something with each of these words in it, one of several where
    /// they are separated by `|`, whatever their case.
    ///
    /// # Errors
    /// It is not in time; the error quotes what it was told.
    pub fn told(&self, pod: &str, words: &[&str]) -> Result<()> {
        self.told_within(pod, words, PATIENCE)
    }

    /// The same, within this time.
    ///
    /// # Errors
    /// As there.
    pub fn told_within(&self, pod: &str, words: &[&str], limit: Duration) -> Result<()> {
        let says = |event: &String| {
            let event = event.to_lowercase();
            let said = |word: &str| event.contains(&word.to_lowercase());
            words.iter().all(|word| word.split('|').any(said))
        };
        wait_for(&format!("pod {pod} to be told {words:?}"), limit, || {
            let events = self.events(pod, "")?;
            ensure!(events.iter().any(says), "it was told {events:?}");
            Ok(Some(()))
        })
    }

    /// Runs a shell command in a pod and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error quotes what it said.
    pub fn shell(&self, pod: &str, command: &str) -> Result<String> {
        self.kubectl(&["exec", pod, "--", "sh", "-c", command])
    }

    /// Waits until a command succeeds in a pod.
    ///
    /// # Errors
    /// It does not in time.
    pub fn until_true(&self, pod: &str, command: &str) -> Result<()> {
        wait_for(&format!("`{command}` to hold in {pod}"), PATIENCE, || {
            self.shell(pod, command).map(Some)
        })
        .map(drop)
    }

    /// Checks what commands say in a pod, all in one go; each has to say exactly that.
    ///
    /// # Errors
    /// The first that says something else.
    pub fn facts(&self, pod: &str, facts: &[(&str, &str)]) -> Result<()> {
        const END: &str = "--end of a fact--";
        let commands = facts.iter().map(|(command, _)| format!("({command}) 2>&1; echo {END}\n"));
        let said = self.shell(pod, &commands.collect::<String>())?;
        let mut said = said.split(END).map(str::trim);
        for (command, want) in facts {
            let said = said.next().unwrap_or_default();
            ensure!(said == *want, "`{command}` in pod {pod} says `{said}`, not `{want}`");
        }
        Ok(())
    }

    /// The node that a pod runs on.
    ///
    /// # Errors
    /// There is no such pod, or it is on no node yet.
    pub fn node(&self, pod: &str) -> Result<Node<'a>> {
        let pod = self.json(&["get", "pod", pod])?;
        let name = pod.pointer("/spec/nodeName").and_then(Value::as_str);
        Ok(Node::named(self.stage, name.context("the pod is on no node yet")?))
    }

    /// The one mount of a pod's volume.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn mount(&self, pod: &str) -> Result<Mount> {
        self.node(pod)?.volume_mount(&self.uid(pod)?)
    }

    /// Deletes a pod and waits until the API server has forgotten it, which is after the kubelet
    /// has seen its volumes unmounted; fine if there is none.
    ///
    /// # Errors
    /// It is still there when the time is up.
    pub fn delete(&self, name: &str) -> Result<()> {
        let time = format!("{}s", PATIENCE.as_secs());
        let delete = ["delete", "pod", name, "--ignore-not-found", "--wait", "--timeout", &time];
        self.kubectl(&delete).map(drop)
    }

    /// Makes a Secret with a dockerconfigjson, or changes it.
    ///
    /// # Errors
    /// The API refused it.
    pub fn docker_secret(&self, name: &str, config: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name },
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": config },
        });
        self.apply(&secret.to_string())
    }
}

/// Whether a pod's Ready condition holds.
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
