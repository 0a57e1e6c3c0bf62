//! Everything that the demonstration and the cases play on: a cluster, a registry with an image
//! in it, and the driver, installed from its chart.
//!
//! Deliberately absent: what is played.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, Purpose};
use crate::gate::{Gates, PASSWORD};
use crate::harness::Harness;
use crate::look::Node;
use crate::progress::seconds;
use crate::provision::Ground;
use crate::registry::{self, Registry};
use crate::render::{NAMESPACE, RELEASE};
use crate::tools::apt;
use crate::{clean, driver, images, tools};

/// The namespace that may use only some images, on a stage for the suites.
pub const GUARDED: &str = "guarded";

/// The Secret with which nodes push, on a stage for the suites.
pub const PUSH_SECRET: &str = "push-key";

/// A Secret beside it that nodes may not read.
pub const OTHER_SECRET: &str = "other-key";

/// A stage that is set.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// The registry beside it.
    pub registry: Registry,
    /// The image that volumes are made of, as the nodes call it.
    pub image: String,
    /// The image that lies above it in the demonstration.
    pub tools: String,
    /// The sources.
    pub repo: PathBuf,
    gates: Option<Gates>,
    programs: Option<Programs>,
    driver: driver::Image,
    /// The image of the registry in the cluster.
    registry_image: String,
}

/// Programs beside the cluster, for cases that look at images from outside.
pub struct Programs {
    /// umoci. (skopeo and podman are the machine's own.)
    pub umoci: PathBuf,
    /// csi-sanity.
    pub sanity: PathBuf,
    /// A folder for what they write.
    pub scratch: PathBuf,
}

/// Sets the stage, or what is missing of it.
///
/// # Errors
/// The first step that failed.
pub fn set(h: &Harness, repo: &Path, ground: &Ground, purpose: Purpose) -> Result<Stage> {
    // Compiling needs the processor, a cluster that starts mostly waits: they go side by side.
    let (program, cluster) = thread::scope(|scope| {
        let program = scope.spawn(|| driver::program(h, repo));
        let cluster = cluster::up(h, ground, purpose);
        (program.join().unwrap_or_else(|_| Err(anyhow!("compiling broke down"))), cluster)
    });
    let (program, cluster) = (program?, cluster?);
    let registry = Registry::ensure(h, ground, purpose)?;
    let (image, tools) = images::push_both(h, &cluster, &registry)?;
    images::load_shell(h, &cluster)?;
    let driver = driver::image(h, repo, &ground.engine, &program)?;
    let (gates, programs) = match purpose {
        // They end with the harness, and this cluster does not.
        Purpose::Try => (None, None),
        Purpose::Test => {
            let gates = Gates::open(&ground.engine, registry.here)?;
            (Some(gates), Some(Programs::ensure(h)?))
        }
    };
    let registry_image = registry::image(h, ground)?;
    cluster.load_images(&[&driver.name(), &registry_image])?;
    let repo = repo.to_owned();
    let stage =
        Stage { cluster, registry, image, tools, repo, gates, programs, driver, registry_image };
    stage.trust_registry()?;
    h.progress.step("installing the chart", seconds(20), |_| {
        stage.secrets()?;
        stage.install(&json!({}))
    })?;
    Ok(stage)
}

/// Takes a stage away, set or half set; the engine too if it was the harness's and nobody else
/// has a container on it.
///
/// # Errors
/// The first thing that could not be removed.
pub fn strike(h: &Harness, ground: &Ground, purpose: Purpose) -> Result<()> {
    h.progress.step("removing the cluster and its registry", seconds(5), |_| {
        registry::remove(&ground.engine, purpose)?;
        cluster::down(ground, purpose)
    })?;
    let alone = ground.engine.docker(["ps", "--all", "--quiet"]).output()?.is_empty();
    if ground.engine.ours && alone { clean::all(h) } else { Ok(()) }
}

impl Programs {
    fn ensure(h: &Harness) -> Result<Self> {
        apt::ensure(h, &["skopeo", "podman"])?;
        let umoci = tools::umoci().ensure(h)?.join("umoci");
        let sanity = tools::csi_sanity().ensure(h)?.join("csi-sanity");
        Ok(Self { umoci, sanity, scratch: h.cache.scratch("images")? })
    }
}

impl Stage {
    /// What the cases run on this machine.
    ///
    /// # Errors
    /// The stage is one for a person.
    pub fn programs(&self) -> Result<&Programs> {
        self.programs.as_ref().context("this stage has no programs")
    }

    /// The gates before the registry.
    ///
    /// # Errors
    /// The stage is one for a person.
    pub fn gates(&self) -> Result<&Gates> {
        self.gates.as_ref().context("this stage has no gates")
    }

    /// The node that pods come to by themselves: the other one is tainted.
    pub fn worker(&self) -> Node<'_> {
        let name = self.cluster.nodes.last().map(String::as_str);
        Node::named(self, name.unwrap_or_default())
    }

    /// Installs the chart with this image and these registries, or changes what is installed, and
    /// waits for the driver's pods. `more` goes over the stage's own values.
    ///
    /// # Errors
    /// helm refused it, or the pods are not ready in time.
    pub fn install(&self, more: &Value) -> Result<()> {
        let (mut values, more) = (self.values(), more.as_object().into_iter().flatten());
        more.for_each(|(key, value)| values[key] = value.clone());
        let helm = self.cluster.helm_cmd().dir(&self.repo).args(["upgrade", "--install"]);
        helm.args([RELEASE, "charts/ovl-csi", "--namespace", NAMESPACE, "--values", "-"])
            .stdin(values.to_string())
            .output()?;
        for set in ["daemonset/{}-node", "deployment/{}-controller", "deployment/{}-registry"] {
            let set = set.replace("{}", RELEASE);
            let wait = ["rollout", "status", &set, "--namespace", NAMESPACE, "--timeout", "180s"];
            self.cluster.kubectl(&wait)?;
        }
        Ok(())
    }

    /// Has the nodes' own runtime reach the registry as the driver does: a pushed snapshot is an
    /// image, which pods may run.
    fn trust_registry(&self) -> Result<()> {
        let host = &self.registry.host;
        let folder = format!("/etc/containerd/certs.d/{host}");
        let write = format!("mkdir -p '{folder}' && cat > '{folder}/hosts.toml'");
        for node in &self.cluster.nodes {
            let exec = ["exec", "--interactive", node, "sh", "-c", &write];
            let exec = self.cluster.ground.engine.docker(exec);
            exec.stdin(self.registry.hosts_toml()).output()?;
        }
        Ok(())
    }

    /// Two Secrets beside the driver: one with which its nodes push, and one that is not theirs.
    fn secrets(&self) -> Result<()> {
        let Some(gates) = &self.gates else { return Ok(()) };
        for name in [PUSH_SECRET, OTHER_SECRET] {
            let secret = json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": { "name": name, "namespace": NAMESPACE },
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": { ".dockerconfigjson": gates.basic.docker_config(PASSWORD) },
            });
            let kubectl = self.cluster.kubectl_cmd().args(["apply", "-f", "-"]);
            kubectl.stdin(secret.to_string()).output()?;
        }
        Ok(())
    }

    /// `helm test`: the chart's own look at itself.
    ///
    /// # Errors
    /// It failed.
    pub fn test(&self) -> Result<()> {
        let helm = self.cluster.helm_cmd().args(["test", RELEASE, "--namespace", NAMESPACE]);
        helm.output().map(drop)
    }

    /// Takes the release away.
    ///
    /// # Errors
    /// helm could not.
    pub fn uninstall(&self) -> Result<()> {
        let helm = self.cluster.helm_cmd();
        helm.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]).output().map(drop)
    }

    fn values(&self) -> Value {
        let mut registries = json!({ &self.registry.host: self.registry.hosts_toml() });
        for gate in self.gates.iter().flat_map(Gates::all) {
            registries[&gate.host] = json!(gate.hosts_toml());
        }
        let mut values = json!({
            // It was loaded into the nodes; no registry has it.
            "image": {
                "repository": self.driver.repository,
                "tag": self.driver.tag,
                "pullPolicy": "Never",
            },
            "registries": registries,
            "test": { "image": images::SHELL },
            "snapshots": {
                // One on each node: what ends one of them leaves the other.
                "controller": { "tolerations": [{ "operator": "Exists" }] },
                "classes": {},
            },
            "registry": {
                "enabled": true,
                "image": image(&self.registry_image),
                // The first node, which no case disturbs.
                "nodeSelector": { "node-role.kubernetes.io/control-plane": "" },
                "tolerations": [{ "operator": "Exists" }],
            },
            // Both nodes at once: nobody but the cases is disturbed.
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } },
        });
        if let Some(gates) = &self.gates {
            values["snapshots"]["classes"] = classes(&self.registry, gates);
            values["snapshots"]["pushSecrets"] = json!([PUSH_SECRET]);
            let allowed = format!("{}/allowed/*", self.registry.host);
            values["policy"] = json!({
                "allowedImages": { "default": ["*"], "namespaces": { GUARDED: [allowed] } },
            });
        }
        values
    }
}

/// The classes of snapshots, beside the chart's own.
fn classes(registry: &Registry, gates: &Gates) -> Value {
    let to = |host: &str| format!("{host}/snapshots/{{namespace}}/{{pod}}/{{volume}}");
    let here = to(&registry.host);
    // As long as a class may say: no case is about a disk that is busy with the others.
    let class = |mut parameters: Value| {
        parameters["freezeTimeout"] = json!("1m");
        json!({ "parameters": parameters })
    };
    let mut retained = class(json!({ "repository": here }));
    retained["deletionPolicy"] = json!("Retain");
    json!({
        // On its node alone.
        "local": class(json!({})),
        "pushed": class(json!({ "repository": here })),
        "gzip": class(json!({ "repository": here, "compression": "gzip" })),
        "native": class(json!({ "repository": here, "format": "native" })),
        "retained": retained,
        "squashed": class(json!({ "repository": here, "squashAbove": "4" })),
        "locked": class(json!({ "repository": to(&gates.basic.host), "pushSecretName": PUSH_SECRET })),
        "door": class(json!({ "repository": to(&gates.door.host) })),
    })
}

/// An image's name as the chart takes it.
fn image(name: &str) -> Value {
    let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    json!({ "repository": repository, "tag": tag, "pullPolicy": "Never" })
}
