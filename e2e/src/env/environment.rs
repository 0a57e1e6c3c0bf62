//! A test environment: a cluster, a registry with an image, and the driver, installed from its
//! chart.
//!
//! Deliberately absent: the tests.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::chart::{NAMESPACE, RELEASE};
use super::node::Node;
use super::{driver_image, images};
use crate::cluster::kind::Cluster;
use crate::cluster::prerequisites::Prerequisites;
use crate::cluster::purpose::Purpose;
use crate::cluster::registry::{self, Registry};
use crate::cluster::registry_proxy::{PASSWORD, Proxies};
use crate::cluster::{cleanup, lifecycle};
use crate::driver;
use crate::machine::harness::Harness;
use crate::machine::progress::seconds;
use crate::toolchain::prometheus::Prometheus;
use crate::toolchain::{apt, programs};

/// The namespace that may use only some images, in an environment for the suites.
pub const GUARDED: &str = "guarded";

/// The Secret with which nodes push, in an environment for the suites.
pub const PUSH_SECRET: &str = "push-key";

/// Another Secret in the same namespace, which nodes may not read.
pub const OTHER_SECRET: &str = "other-key";

/// The name and the storage class of the volume of the chart's registry, and its directory on the
/// first node.
const REGISTRY_CLASS: &str = "ovl-registry";
const REGISTRY_DIR: &str = "/var/lib/ovl-registry";

/// An environment that is set up.
pub struct Environment {
    /// The cluster.
    pub cluster: Cluster,
    /// The registry beside it.
    pub registry: Registry,
    /// The image of volumes, as the nodes call it.
    pub image: String,
    /// The image above it in the tour.
    pub tools: String,
    /// The sources.
    pub repo: PathBuf,
    /// The driver's program, which has the commands of the kubectl plugin too.
    pub program: PathBuf,
    proxies: Option<Proxies>,
    programs: Option<Programs>,
    driver: driver_image::Image,
    /// The image of the chart's registry.
    registry_image: String,
}

/// Programs of this machine, for cases that check images from outside the cluster.
pub struct Programs {
    /// umoci. (skopeo, podman and tinyproxy are packages of the machine.)
    pub umoci: PathBuf,
    /// csi-sanity.
    pub sanity: PathBuf,
    /// Prometheus.
    pub prometheus: Prometheus,
    /// A directory for their output.
    pub scratch: PathBuf,
}

/// Sets up the environment, or what is missing of it.
///
/// # Errors
/// The first step that failed.
pub fn set_up(
    h: &Harness,
    repo: &Path,
    prerequisites: &Prerequisites,
    purpose: Purpose,
) -> Result<Environment> {
    // At the same time: a build uses the processor, and a starting cluster mostly waits.
    let (program, cluster) = thread::scope(|scope| {
        let program = scope.spawn(|| driver::program(h, repo));
        let cluster = lifecycle::up(h, prerequisites, purpose);
        (program.join().unwrap_or_else(|_| Err(anyhow!("the build panicked"))), cluster)
    });
    let (program, cluster) = (program?, cluster?);
    let registry = Registry::ensure(h, prerequisites, purpose)?;
    let (image, tools) = images::push_both(h, &cluster, &registry)?;
    images::load_shell(h, &cluster)?;
    let driver = driver_image::build(h, repo, &prerequisites.engine, &program)?;
    let (proxies, programs) = match purpose {
        // They end with the harness, and this cluster does not.
        Purpose::Try => (None, None),
        Purpose::Test => {
            let proxies = Proxies::open(&prerequisites.engine, registry.here)?;
            (Some(proxies), Some(Programs::ensure(h)?))
        }
    };
    let registry_image = registry::image(h, prerequisites)?;
    cluster.load_images(&[&driver.name(), &registry_image])?;
    let repo = repo.to_owned();
    let env = Environment {
        cluster,
        registry,
        image,
        tools,
        repo,
        program,
        proxies,
        programs,
        driver,
        registry_image,
    };
    env.trust_registry()?;
    h.progress.step("installing the chart", seconds(20), |_| {
        env.secrets()?;
        env.registry_volume()?;
        env.install(&json!({}))
    })?;
    Ok(env)
}

/// Removes an environment, complete or not. Also removes the engine if the harness started it and
/// no other container is on it.
///
/// # Errors
/// The first thing that could not be removed.
pub fn teardown(h: &Harness, prerequisites: &Prerequisites, purpose: Purpose) -> Result<()> {
    h.progress.step("removing the cluster and its registry", seconds(5), |_| {
        registry::remove(&prerequisites.engine, purpose)?;
        lifecycle::down(prerequisites, purpose)
    })?;
    let alone = prerequisites.engine.docker(["ps", "--all", "--quiet"]).output()?.is_empty();
    if prerequisites.engine.ours && alone { cleanup::all(h) } else { Ok(()) }
}

impl Programs {
    fn ensure(h: &Harness) -> Result<Self> {
        apt::ensure(h, &["skopeo", "podman", "tinyproxy-bin"])?;
        let umoci = programs::umoci().ensure(h)?.join("umoci");
        let sanity = programs::csi_sanity().ensure(h)?.join("csi-sanity");
        let prometheus = Prometheus::ensure(h)?;
        Ok(Self { umoci, sanity, prometheus, scratch: h.cache.scratch("images")? })
    }
}

impl Environment {
    /// The programs that the cases run on this machine.
    ///
    /// # Errors
    /// The environment is one for a user (`try`).
    pub fn programs(&self) -> Result<&Programs> {
        self.programs.as_ref().context("this environment has no programs")
    }

    /// The proxies in front of the registry.
    ///
    /// # Errors
    /// The environment is one for a user (`try`).
    pub fn proxies(&self) -> Result<&Proxies> {
        self.proxies.as_ref().context("this environment has no proxies")
    }

    /// The name of the driver's image, which the nodes have.
    pub fn driver_image(&self) -> String {
        self.driver.name()
    }

    /// The node on which pods are scheduled. The other node is tainted.
    pub fn worker(&self) -> Node<'_> {
        let name = self.cluster.nodes.last().map(String::as_str);
        Node::new(&self.cluster, name.unwrap_or_default())
    }

    /// Installs or upgrades the chart with this image and these registries, and waits for the
    /// driver's pods. `more` overrides values of the environment, map by map as helm does.
    ///
    /// # Errors
    /// helm failed, or the pods are not ready in time.
    pub fn install(&self, more: &Value) -> Result<()> {
        let mut values = self.values();
        merge(&mut values, more);
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

    /// Configures the nodes' own runtime for the registry: pods run pushed snapshots as images.
    fn trust_registry(&self) -> Result<()> {
        let host = &self.registry.host;
        let dir = format!("/etc/containerd/certs.d/{host}");
        let write = format!("mkdir -p '{dir}' && cat > '{dir}/hosts.toml'");
        for node in &self.cluster.nodes {
            let exec = ["exec", "--interactive", node, "sh", "-c", &write];
            let exec = self.cluster.prerequisites.engine.docker(exec);
            exec.stdin(self.registry.hosts_toml()).output()?;
        }
        Ok(())
    }

    /// Creates two Secrets in the driver's namespace: one with which its nodes push, and one that
    /// they may not read.
    fn secrets(&self) -> Result<()> {
        let Some(proxies) = &self.proxies else { return Ok(()) };
        for name in [PUSH_SECRET, OTHER_SECRET] {
            let secret = json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": { "name": name, "namespace": NAMESPACE },
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": { ".dockerconfigjson": proxies.basic.docker_config(PASSWORD) },
            });
            let kubectl = self.cluster.kubectl_cmd().args(["apply", "-f", "-"]);
            kubectl.stdin(secret.to_string()).output()?;
        }
        Ok(())
    }

    /// Runs `helm test`.
    ///
    /// # Errors
    /// It failed.
    pub fn test(&self) -> Result<()> {
        let helm = self.cluster.helm_cmd().args(["test", RELEASE, "--namespace", NAMESPACE]);
        helm.output().map(drop)
    }

    /// Uninstalls the release.
    ///
    /// # Errors
    /// helm failed.
    pub fn uninstall(&self) -> Result<()> {
        let helm = self.cluster.helm_cmd();
        helm.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]).output().map(drop)
    }

    /// The values of the chart's registry.
    pub fn registry_values(&self) -> Value {
        json!({
            "enabled": true,
            "image": image(&self.registry_image),
            // The first node, which no case disturbs.
            "nodeSelector": { "node-role.kubernetes.io/control-plane": "" },
            "tolerations": [{ "operator": "Exists" }],
            "storage": { "className": REGISTRY_CLASS },
        })
    }

    /// Makes a volume on the first node for the images of the chart's registry. A cluster may have
    /// no provisioner.
    fn registry_volume(&self) -> Result<()> {
        let node = self.cluster.nodes.first().context("the cluster has no node")?;
        let make = format!("mkdir -p {REGISTRY_DIR} && chown 65532:65532 {REGISTRY_DIR}");
        self.cluster.on_node(node, &["sh", "-c", &make])?;
        let here = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] });
        let volume = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": { "name": REGISTRY_CLASS },
            "spec": {
                "capacity": { "storage": "20Gi" },
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": REGISTRY_CLASS,
                "persistentVolumeReclaimPolicy": "Retain",
                "local": { "path": REGISTRY_DIR },
                "nodeAffinity": {
                    "required": { "nodeSelectorTerms": [{ "matchExpressions": [here] }] },
                },
            },
        });
        let kubectl = self.cluster.kubectl_cmd().args(["apply", "-f", "-"]);
        kubectl.stdin(volume.to_string()).output().map(drop)
    }

    fn values(&self) -> Value {
        let mut registries = json!({ &self.registry.host: self.registry.hosts_toml() });
        for proxy in self.proxies.iter().flat_map(Proxies::all) {
            registries[&proxy.host] = json!(proxy.hosts_toml());
        }
        let mut values = json!({
            // It was loaded into the nodes. No registry has it.
            "image": {
                "repository": self.driver.repository,
                "tag": self.driver.tag,
                "pullPolicy": "Never",
            },
            "registries": registries,
            "test": { "image": images::SHELL, "volumeImage": self.image },
            "snapshots": {
                // One on each node: the other survives the end of one.
                "controller": { "tolerations": [{ "operator": "Exists" }] },
                "classes": {},
            },
            "registry": self.registry_values(),
            // Both nodes at once: only the cases are affected.
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } },
        });
        if let Some(proxies) = &self.proxies {
            values["metrics"] = json!({ "enabled": true, "dashboard": { "enabled": true } });
            values["snapshots"]["classes"] = classes(&self.registry, proxies);
            values["snapshots"]["pushSecrets"] = json!([PUSH_SECRET]);
            let allowed = format!("{}/allowed/*", self.registry.host);
            values["policy"] = json!({
                "allowedImages": { "default": ["*"], "namespaces": { GUARDED: [allowed] } },
            });
        }
        values
    }
}

/// Puts values on others, map by map.
fn merge(values: &mut Value, more: &Value) {
    match (values, more) {
        (Value::Object(values), Value::Object(more)) => {
            for (key, more) in more {
                merge(values.entry(key).or_insert(Value::Null), more);
            }
        }
        (values, more) => *values = more.clone(),
    }
}

/// The classes of snapshots, in addition to the chart's own.
fn classes(registry: &Registry, proxies: &Proxies) -> Value {
    let to = |host: &str| format!("{host}/snapshots/{{namespace}}/{{pod}}/{{volume}}");
    let here = to(&registry.host);
    // The longest allowed time: no case tests a disk that is busy with other cases.
    let class = |mut parameters: Value| {
        parameters["freezeTimeout"] = json!("1m");
        json!({ "parameters": parameters })
    };
    let mut retained = class(json!({ "repository": here }));
    retained["deletionPolicy"] = json!("Retain");
    json!({
        // Only on its node.
        "local": class(json!({})),
        "pushed": class(json!({ "repository": here })),
        "gzip": class(json!({ "repository": here, "compression": "gzip" })),
        "native": class(json!({ "repository": here, "format": "native" })),
        "retained": retained,
        "squashed": class(json!({ "repository": here, "squashAbove": "4" })),
        "locked": class(json!({ "repository": to(&proxies.basic.host), "pushSecretName": PUSH_SECRET })),
        "controlled": class(json!({ "repository": to(&proxies.controlled.host) })),
    })
}

/// The name of an image as a value of the chart.
fn image(name: &str) -> Value {
    let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    json!({ "repository": repository, "tag": tag, "pullPolicy": "Never" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_overridden_map_by_map() {
        let mut values = json!({ "a": { "b": 1, "c": { "d": 2 } }, "e": [1] });
        merge(&mut values, &json!({ "a": { "b": 3, "f": {} }, "e": [], "g": "h" }));
        let expected = json!({ "a": { "b": 3, "c": { "d": 2 }, "f": {} }, "e": [], "g": "h" });
        assert_eq!(values, expected);
    }
}
