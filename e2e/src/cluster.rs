//! A two-node Kubernetes cluster: up, reached, waited for.
//!
//! Deliberately absent: anything about the driver. What runs on the cluster is its caller's.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::engine::RUN_DIR;
use crate::harness::Harness;
use crate::network;
use crate::process::Cmd;
use crate::progress::seconds;
use crate::provision::{Ground, Images};
use crate::snapshotter;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(500);

/// The longest that one question to a cluster may take; what waits longer asks again.
const CALL: Duration = Duration::from_secs(300);

/// How long nodes may take to be ready; several times what they need on two busy cores.
const NODES_READY: Duration = Duration::from_secs(300);

/// What a cluster is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A person's look around: left up, its kubeconfig in the usual place, context `kind-ovl`.
    Try,
    /// The suites: made anew, its kubeconfig in a folder of the harness.
    Test,
}

impl Purpose {
    /// The cluster's name, as kind knows it.
    pub fn cluster(self) -> &'static str {
        match self {
            Self::Try => "ovl",
            Self::Test => "ovl-test",
        }
    }
}

/// A cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name, as kind knows it; the context is `kind-<name>`.
    pub name: &'static str,
    /// A kubeconfig with this cluster alone.
    pub kubeconfig: PathBuf,
    /// Its nodes, which are containers of the same names; the control plane is first.
    pub nodes: Vec<String>,
    /// What it stands on.
    pub ground: Ground,
}

/// Makes the cluster, or finds it up (for [`Purpose::Try`]; a test's is always new): every node
/// Ready and CoreDNS running.
///
/// # Errors
/// The step that failed, with the end of its log.
pub fn up(h: &Harness, ground: &Ground, purpose: Purpose) -> Result<Cluster> {
    let name = purpose.cluster();
    let kubeconfig = Path::new(RUN_DIR).join(format!("{name}.kubeconfig"));
    let mut cluster = Cluster { name, kubeconfig, nodes: Vec::new(), ground: ground.clone() };
    if purpose == Purpose::Try && cluster.is_there() {
        h.progress.say(&format!("  cluster {name} is up already"));
        return Ok(cluster);
    }
    down(ground, purpose)?;
    ground.engine.ensure_network()?;
    let what = format!("creating cluster {name} with two nodes");
    h.progress.step(&what, seconds(25), |log| cluster.create(purpose, log))?;
    h.progress.step("waiting for its nodes and CoreDNS", seconds(5), |_| cluster.settle())?;
    let what = "giving it Kubernetes' kinds and controller of snapshots";
    h.progress.step(what, seconds(3), |_| snapshotter::install(h, &cluster))?;
    Ok(cluster)
}

/// Takes one cluster away; fine if there is none.
///
/// # Errors
/// kind failed.
pub fn down(ground: &Ground, purpose: Purpose) -> Result<()> {
    let kind = ground.engine.aim(Cmd::new(&ground.kind));
    kind.args(["delete", "cluster", "--name", purpose.cluster()]).output().map(drop)
}

/// What kind is to make: two nodes, and settings that make them run on older control groups and
/// with fewer rights than usual.
fn kind_config(images: Images) -> String {
    let mut containerd =
        String::from("[plugins.\"io.containerd.grpc.v1.cri\"]\n  restrict_oom_score_adj = true\n");
    if images == Images::Built {
        // Where a registry can be told about; published nodes have it.
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
        // kind's own network comes as an image, which a built node does not have.
        "networking": { "disableDefaultCNI": images == Images::Built },
        "nodes": [{ "role": "control-plane" }, { "role": "worker" }],
        "containerdConfigPatches": [containerd],
        "kubeadmConfigPatches": [kubelet.to_string()],
    })
    .to_string()
}

impl Cluster {
    /// `kubectl` aimed at this cluster.
    pub fn kubectl_cmd(&self) -> Cmd {
        let kubectl = Cmd::new(&self.ground.kubectl).limit(CALL);
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

    /// `helm` aimed at this cluster.
    pub fn helm_cmd(&self) -> Cmd {
        Cmd::new(&self.ground.helm).limit(CALL).arg("--kubeconfig").arg(&self.kubeconfig)
    }

    /// Runs a command on a node, as root, and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error quotes what it said.
    pub fn on_node(&self, node: &str, args: &[&str]) -> Result<String> {
        self.ground.engine.docker(["exec", node]).args(args).limit(CALL).output()
    }

    /// Gives every node images that the engine holds.
    ///
    /// # Errors
    /// The engine has no such image, or a node refused it.
    pub fn load_images(&self, images: &[&str]) -> Result<()> {
        let load = self.kind().args(["load", "docker-image"]).args(images);
        load.args(["--name", self.name]).output().map(drop)
    }

    /// Kills a node as a power cut would, as far as a container can be: nothing in it is told.
    ///
    /// # Errors
    /// The engine could not.
    pub fn kill_node(&self, node: &str) -> Result<()> {
        self.ground.engine.docker(["kill", node]).output().map(drop)
    }

    /// Starts a killed node again and waits until it is Ready.
    ///
    /// # Errors
    /// The engine could not, or the node is not Ready in time.
    pub fn start_node(&self, node: &str) -> Result<()> {
        self.ground.engine.docker(["start", node]).output()?;
        if self.ground.images == Images::Built {
            // Its routes are gone with it.
            self.connect_pods()?;
        }
        wait_for(&format!("{node} to be ready again"), NODES_READY, || self.ready())
    }

    fn kind(&self) -> Cmd {
        self.ground.engine.aim(Cmd::new(&self.ground.kind))
    }

    /// Whether a cluster of this name, made of this node image, runs and is ready; fills in its
    /// nodes.
    fn is_there(&mut self) -> bool {
        let image = &self.ground.node_image;
        let made_of = |node: &String| {
            let inspect = ["inspect", "--format", "{{.Config.Image}} {{.State.Running}}", node];
            let said = self.ground.engine.docker(inspect).output();
            said.is_ok_and(|said| said == format!("{image} true"))
        };
        let Ok(nodes) = self.find_nodes() else { return false };
        if nodes.len() != 2 || !nodes.iter().all(made_of) || self.write_kubeconfig().is_err() {
            return false;
        }
        self.nodes = nodes;
        self.ready().is_ok_and(|ready| ready.is_some())
    }

    fn create(&mut self, purpose: Purpose, log: &Path) -> Result<()> {
        let config = kind_config(self.ground.images);
        let create = self.kind().args(["create", "cluster", "--name", self.name, "--config", "-"]);
        let create = create.args(["--image", &self.ground.node_image]).stdin(config).log(log);
        match purpose {
            // Where kubectl looks by itself.
            Purpose::Try => create.run()?,
            Purpose::Test => create.arg("--kubeconfig").arg(&self.kubeconfig).run()?,
        }
        self.write_kubeconfig()?;
        self.nodes = self.find_nodes()?;
        if self.ground.images == Images::Built {
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

    /// Gives the pods of built nodes their network.
    fn connect_pods(&self) -> Result<()> {
        let nodes = wait_for("the nodes' pod addresses", NODES_READY, || {
            network::nodes(&self.kubectl_json(&["get", "nodes"])?).map(Some)
        })?;
        for node in &nodes {
            for route in network::routes(node, &nodes) {
                self.on_node(&node.name, &route)?;
            }
            let write = ["exec", "--interactive", &node.name, "cp", "/dev/stdin", network::CONFIG];
            self.ground.engine.docker(write).stdin(network::conflist(node)).output()?;
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
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

/// Looks at a condition again and again until it answers with something.
///
/// An error of the condition counts as "not yet": an API server restarts, an object is not there.
///
/// # Errors
/// The time is up; the error says what was waited for and what the last look said.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::from("not so yet"),
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() >= limit {
            bail!("waited {} s for {what}; last look: {last}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_node_brings_no_network_of_its_own() -> Result<()> {
        let config = |images| serde_json::from_str::<Value>(&kind_config(images));
        assert_eq!(config(Images::Built)?["networking"]["disableDefaultCNI"], true);
        assert_eq!(config(Images::Pulled)?["networking"]["disableDefaultCNI"], false);
        assert_eq!(config(Images::Built)?["nodes"].as_array().map(Vec::len), Some(2));
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

    #[test]
    fn a_wait_that_fails_quotes_the_last_look() {
        let waited = wait_for::<()>("rain", Duration::ZERO, || bail!("blue sky"));
        let words = waited.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(words.contains("rain") && words.contains("blue sky"), "{words}");
    }
}
