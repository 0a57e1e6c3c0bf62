//! Everything that the demonstration and the cases play on: a cluster, a registry with an image
//! in it, and the driver, installed from its chart.
//!
//! Deliberately absent: what is played.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, Purpose};
use crate::gate::Gates;
use crate::harness::Harness;
use crate::look::Node;
use crate::progress::seconds;
use crate::provision::Ground;
use crate::registry::{self, Registry};
use crate::render::{NAMESPACE, RELEASE};
use crate::{clean, driver, images};

/// The namespace that may use only some images, on a stage for the suites.
pub const GUARDED: &str = "guarded";

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
    driver: driver::Image,
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
    let gates = match purpose {
        // They end with the harness, and this cluster does not.
        Purpose::Try => None,
        Purpose::Test => Some(Gates::open(&ground.engine, registry.here)?),
    };
    cluster.load_image(&driver.name())?;
    let stage = Stage { cluster, registry, image, tools, repo: repo.to_owned(), gates, driver };
    h.progress.step("installing the chart", seconds(15), |_| stage.install(&json!({})))?;
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

impl Stage {
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
        let set = format!("daemonset/{RELEASE}-node");
        let wait = ["rollout", "status", &set, "--namespace", NAMESPACE, "--timeout", "180s"];
        self.cluster.kubectl(&wait).map(drop)
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
            // Both nodes at once: nobody but the cases is disturbed.
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } },
        });
        if self.gates.is_some() {
            let allowed = format!("{}/allowed/*", self.registry.host);
            values["policy"] = json!({
                "allowedImages": { "default": ["*"], "namespaces": { GUARDED: [allowed] } },
            });
        }
        values
    }
}
