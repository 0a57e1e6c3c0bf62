//! A Kubernetes cluster of two nodes, made by kind.
//!
//! Deliberately absent: anything about the driver.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::pod_network;
use super::prerequisites::{ImageSource, Prerequisites};
use super::purpose::Purpose;
use crate::machine::process::Cmd;
use crate::machine::wait::wait_for;

/// Timeout of one call of a cluster. A caller that waits longer repeats the call.
const CALL: Duration = Duration::from_secs(300);

/// How long nodes may take to be ready: several times what they need on two busy cores.
const NODES_READY: Duration = Duration::from_secs(300);

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name in kind. The context is `kind-<name>`.
    pub name: &'static str,
    /// A kubeconfig with this cluster alone.
    pub kubeconfig: PathBuf,
    /// Its nodes, which are containers of the same names. The control plane is first.
    pub nodes: Vec<String>,
    /// Its prerequisites.
    pub prerequisites: Prerequisites,
}

/// The configuration for kind: two nodes, with settings for older cgroups and for fewer rights than
/// usual.
fn kind_config(images: ImageSource) -> String {
    let mut containerd =
        String::from("[plugins.\"io.containerd.grpc.v1.cri\"]\n  restrict_oom_score_adj = true\n");
    if images == ImageSource::Built {
        // The directory for registry settings. Published nodes have it.
        containerd.push_str("[plugins.\"io.containerd.grpc.v1.cri\".registry]\n");
        containerd.push_str("  config_path = \"/etc/containerd/certs.d\"\n");
    }
    let kubelet = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "failCgroupV1": false,
    });
    json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        // kind's own network needs an image that a built node does not have.
        "networking": { "disableDefaultCNI": images == ImageSource::Built },
        "nodes": [{ "role": "control-plane" }, { "role": "worker" }],
        "containerdConfigPatches": [containerd],
        "kubeadmConfigPatches": [kubelet.to_string()],
    })
    .to_string()
}

impl Cluster {
    /// `kubectl` for this cluster.
    pub fn kubectl_cmd(&self) -> Cmd {
        let kubectl = Cmd::new(&self.prerequisites.kubectl).limit(CALL);
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig)
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error quotes what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_cmd().args(args).output()
    }

    /// Runs `kubectl … -o json` and returns the object.
    ///
    /// # Errors
    /// It failed or printed no JSON.
    pub fn kubectl_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl_cmd().args(args).args(["-o", "json"]).output()?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {} -o json", args.join(" ")))
    }

    /// `helm` for this cluster.
    pub fn helm_cmd(&self) -> Cmd {
        Cmd::new(&self.prerequisites.helm).limit(CALL).arg("--kubeconfig").arg(&self.kubeconfig)
    }

    /// Runs a command on a node, as root, and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error quotes what it said.
    pub fn on_node(&self, node: &str, args: &[&str]) -> Result<String> {
        self.prerequisites.engine.docker(["exec", node]).args(args).limit(CALL).output()
    }

    /// Loads images of the engine into every node.
    ///
    /// # Errors
    /// The engine has no such image, or a node refused it.
    pub fn load_images(&self, images: &[&str]) -> Result<()> {
        let load = self.kind().args(["load", "docker-image"]).args(images);
        load.args(["--name", self.name]).output().map(drop)
    }

    /// Kills a node without a shutdown, as far as a container allows it.
    ///
    /// # Errors
    /// The engine failed.
    pub fn kill_node(&self, node: &str) -> Result<()> {
        self.prerequisites.engine.docker(["kill", node]).output().map(drop)
    }

    /// Starts a killed node again and waits until it is Ready.
    ///
    /// # Errors
    /// The engine failed, or the node is not Ready in time.
    pub fn start_node(&self, node: &str) -> Result<()> {
        self.prerequisites.engine.docker(["start", node]).output()?;
        if self.prerequisites.images == ImageSource::Built {
            // Its routes are gone with it.
            self.connect_pods()?;
        }
        wait_for(&format!("{node} to be ready again"), NODES_READY, || self.ready())
    }

    fn kind(&self) -> Cmd {
        self.prerequisites.engine.aim(Cmd::new(&self.prerequisites.kind))
    }

    /// Whether a cluster of this name with this node image runs and is ready. Fills in its nodes.
    pub(super) fn is_running(&mut self) -> bool {
        let image = &self.prerequisites.node_image;
        let made_of = |node: &String| {
            let inspect = ["inspect", "--format", "{{.Config.Image}} {{.State.Running}}", node];
            let output = self.prerequisites.engine.docker(inspect).output();
            output.is_ok_and(|output| output == format!("{image} true"))
        };
        let Ok(nodes) = self.find_nodes() else { return false };
        if nodes.len() != 2 || !nodes.iter().all(made_of) || self.write_kubeconfig().is_err() {
            return false;
        }
        self.nodes = nodes;
        self.ready().is_ok_and(|ready| ready.is_some())
    }

    /// Creates the cluster with kind.
    ///
    /// # Errors
    /// kind failed, or the pods cannot be connected.
    pub(super) fn create(&mut self, purpose: Purpose, log: &Path) -> Result<()> {
        let config = kind_config(self.prerequisites.images);
        let create = self.kind().args(["create", "cluster", "--name", self.name, "--config", "-"]);
        let create =
            create.args(["--image", &self.prerequisites.node_image]).stdin(config).log(log);
        match purpose {
            // At kubectl's default path.
            Purpose::Try => create.run()?,
            Purpose::Test => create.arg("--kubeconfig").arg(&self.kubeconfig).run()?,
        }
        self.write_kubeconfig()?;
        self.nodes = self.find_nodes()?;
        if self.prerequisites.images == ImageSource::Built {
            self.connect_pods()?;
        }
        Ok(())
    }

    fn find_nodes(&self) -> Result<Vec<String>> {
        let list = self.kind().args(["get", "nodes", "--name", self.name]).output()?;
        let mut nodes: Vec<String> = list.lines().map(str::to_owned).collect();
        nodes.retain(|node| node.starts_with(self.name));
        nodes.sort();
        Ok(nodes)
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let config = self.kind().args(["get", "kubeconfig", "--name", self.name]).output()?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&self.kubeconfig)
            .and_then(|mut file| file.write_all(config.as_bytes()))
            .with_context(|| format!("writing {}", self.kubeconfig.display()))
    }

    /// Connects the pods of built nodes.
    fn connect_pods(&self) -> Result<()> {
        let nodes = wait_for("the nodes' pod addresses", NODES_READY, || {
            pod_network::nodes(&self.kubectl_json(&["get", "nodes"])?).map(Some)
        })?;
        for node in &nodes {
            for route in pod_network::routes(node, &nodes) {
                self.on_node(&node.name, &route)?;
            }
            let write =
                ["exec", "--interactive", &node.name, "cp", "/dev/stdin", pod_network::CONFIG];
            self.prerequisites.engine.docker(write).stdin(pod_network::conflist(node)).output()?;
        }
        Ok(())
    }

    /// Waits until every node is Ready and CoreDNS is available.
    ///
    /// # Errors
    /// They are not in time.
    pub(super) fn wait_until_ready(&self) -> Result<()> {
        wait_for("the nodes and CoreDNS to be ready", NODES_READY, || self.ready())
    }

    /// Whether every node is Ready and CoreDNS is available.
    fn ready(&self) -> Result<Option<()>> {
        let nodes = self.kubectl_json(&["get", "nodes"])?;
        if let Some(waiting) = first_unready(&nodes) {
            bail!("node {waiting} is not Ready");
        }
        let dns =
            self.kubectl_json(&["get", "deployment", "coredns", "--namespace", "kube-system"])?;
        let count = |pointer| dns.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
        let (want, have) = (count("/spec/replicas"), count("/status/availableReplicas"));
        ensure!(want > 0 && have >= want, "{have} of {want} CoreDNS pods are available");
        Ok(Some(()))
    }
}

/// The first node of a list that is not Ready.
fn first_unready(list: &Value) -> Option<String> {
    let nodes = list.get("items").and_then(Value::as_array).into_iter().flatten();
    let ready = |node: &Value| {
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let name =
        |node: &Value| node.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
    nodes.filter(|node| !ready(node)).map(|node| name(node).unwrap_or_default()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_node_brings_no_network_of_its_own() -> Result<()> {
        let config = |images| serde_json::from_str::<Value>(&kind_config(images));
        assert_eq!(config(ImageSource::Built)?["networking"]["disableDefaultCNI"], true);
        assert_eq!(config(ImageSource::Pulled)?["networking"]["disableDefaultCNI"], false);
        assert_eq!(config(ImageSource::Built)?["nodes"].as_array().map(Vec::len), Some(2));
        Ok(())
    }

    #[test]
    fn the_node_that_is_not_ready_is_named() {
        let node = |name: &str, status: &str| {
            let conditions = json!([{ "type": "Ready", "status": status }]);
            json!({ "metadata": { "name": name }, "status": { "conditions": conditions } })
        };
        let list = json!({ "items": [node("a", "True"), node("b", "False")] });
        assert_eq!(first_unready(&list).as_deref(), Some("b"));
        assert_eq!(first_unready(&json!({ "items": [node("a", "True")] })), None);
    }
}
