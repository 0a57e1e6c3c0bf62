//! Everything that the demonstration and the cases play on: a cluster, a registry with an image
//! in it, and the driver, installed from its chart.
//!
//! Deliberately absent: what is played.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Result, anyhow};
use serde_json::json;

use crate::cluster::{self, Cluster, Purpose};
use crate::harness::Harness;
use crate::progress::seconds;
use crate::provision::Ground;
use crate::registry::{self, Registry};
use crate::render::{NAMESPACE, RELEASE};
use crate::{clean, driver, images};

/// A stage that is set.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// The registry beside it.
    pub registry: Registry,
    /// The image that volumes are made of, as the nodes call it.
    pub image: String,
    /// The sources.
    pub repo: PathBuf,
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
    let image = images::push_demo(h, &cluster, &registry)?;
    images::load_shell(h, &cluster)?;
    let driver = driver::image(h, repo, &ground.engine, &program)?;
    let stage = Stage { cluster, registry, image, repo: repo.to_owned() };
    h.progress.step("installing the chart", seconds(15), |_| stage.install(&driver))?;
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
    /// Installs the chart with this image and this registry, and waits for the driver's pods.
    fn install(&self, driver: &driver::Image) -> Result<()> {
        self.cluster.load_image(&driver.name())?;
        let values = json!({
            // It was loaded into the nodes; no registry has it.
            "image": { "repository": driver.repository, "tag": driver.tag, "pullPolicy": "Never" },
            "registries": { &self.registry.host: self.registry.hosts_toml() },
        });
        let helm = self.cluster.helm_cmd().dir(&self.repo).args(["upgrade", "--install"]);
        helm.args([RELEASE, "charts/ovl-csi", "--namespace", NAMESPACE, "--values", "-"])
            .stdin(values.to_string())
            .output()?;
        let set = format!("daemonset/{RELEASE}-node");
        let wait = ["rollout", "status", &set, "--namespace", NAMESPACE, "--timeout", "180s"];
        self.cluster.kubectl(&wait).map(drop)
    }
}
