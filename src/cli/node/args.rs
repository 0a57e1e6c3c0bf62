//! The arguments of `ovl node`, and the checks that are made before anything is started.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgAction, Args, ValueEnum, value_parser};
use serde::Deserialize;

use crate::{
    cli::values::{dir, duration, required_check},
    csi::{self, DriverName, Endpoint, NodeName},
    http_proxy::HttpProxies,
    image::{Hosts, Keyring, Network, Registries},
    layers::{self, DiskLimits},
    quantity::Quantity,
    reference::Repository,
    registry_name,
    telemetry::Collector,
    volumes::{ImagePolicy, Settings},
};

/// Serve CSI on this node and register with its kubelet
///
/// Requests to registries use the proxies in HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as containerd does
#[derive(Debug, Args)]
pub(in crate::cli) struct NodeArgs {
    /// The name of this node, as in `kubectl get nodes`
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(super) node_name: NodeName,
    /// The name of the CSIDriver object
    #[arg(long, default_value = "ovl.csi.dev", value_name = "NAME")]
    driver_name: DriverName,
    /// The socket of the driver; the kubelet must see it at the same path
    /// [default: unix://KUBELET_DIR/plugins/DRIVER_NAME/csi.sock]
    #[arg(long, value_name = "unix:///PATH")]
    endpoint: Option<Endpoint>,
    /// The directory of the store of layers and volumes; each driver needs its own. The chart sets it to
    /// storeDir/DRIVER_NAME [default: /var/lib/ovl-csi/DRIVER_NAME]
    #[arg(long, value_name = "DIR", value_parser = dir)]
    root: Option<PathBuf>,
    /// The kubelet's --root-dir
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR", value_parser = dir)]
    kubelet_dir: PathBuf,
    /// Mirrors, CAs and plain http of registries, as for containerd: `DIR/HOST[:PORT]/hosts.toml`
    #[arg(long, value_name = "DIR", value_parser = dir)]
    hosts_dir: Option<PathBuf>,
    /// CA certificates (PEM) that are trusted for every registry and proxy, in addition to the system's and to those in
    /// --hosts-dir (chart: extraCA)
    #[arg(long, value_name = "FILE")]
    extra_ca_file: Option<PathBuf>,
    /// The address of /healthz and /livez
    #[arg(long, default_value = "127.0.0.1:9808", value_name = "IP:PORT")]
    health_address: SocketAddr,
    /// The address of /metrics [default: not served]
    #[arg(long, value_name = "IP:PORT")]
    metrics_address: Option<SocketAddr>,
    /// Run without an API server: pods get no Events, and snapshots are taken with `ovl node-snapshot` on this node
    #[arg(long)]
    pub(super) no_cluster: bool,
    /// Whether this node emits Events on pods
    #[arg(long, default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(super) events: bool,
    /// Without a cluster: the socket for `ovl node-snapshot` [default: ovl.sock in the directory of the driver's socket]
    #[arg(long, value_name = "unix:///PATH", requires = "no_cluster")]
    local_endpoint: Option<Endpoint>,
    /// Without a cluster: the repository, as registry/repository, to which snapshots are pushed. Snapshots that other
    /// nodes pushed are searched there too
    #[arg(long, value_name = "REPOSITORY", requires = "no_cluster")]
    pub(super) snapshot_repository: Option<Repository>,
    /// Whether this node supports snapshots
    #[arg(long, default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(super) snapshots: bool,
    /// The driver's own namespace, which has the Secrets for pushing snapshots
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
    /// Credentials for all pods, as in a Secret of type kubernetes.io/dockerconfigjson
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// The images that pods can use: a TOML file with the list refusedImages and the table `[allowedImages]`
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
    /// A network in which only registries of --hosts-dir are contacted, such as 10.0.0.0/16; can be repeated (chart:
    /// policy.refusedNetworks). This is always so for the networks of the cluster's Services and for the API server
    #[arg(long = "refused-network", value_name = "CIDR")]
    pub(super) refused_networks: Vec<Network>,
    /// The size limit of volumes whose pods set none, such as 10Gi [default: no limit]
    #[arg(long, value_name = "QUANTITY")]
    default_size: Option<Quantity>,
    /// The limit of files and directories of volumes whose pods set none [default: no limit]
    #[arg(long, value_name = "N")]
    default_inodes: Option<Quantity>,
    /// Whether volumes are volatile if their pods do not set it
    #[arg(long, default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    default_volatile: bool,
    /// The high watermark: above this use of the store's disk, unused images are removed (chart: disk.highPercent)
    #[arg(long, default_value = "85", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=99))]
    disk_high_percent: u8,
    /// The low watermark: unused images are removed until the use of the store's disk is below it (chart:
    /// disk.lowPercent)
    #[arg(long, default_value = "75", value_name = "PERCENT", value_parser = value_parser!(u8).range(0..=98))]
    disk_low_percent: u8,
    /// The percentage of the store's disk that pulls and captures leave free (chart: disk.minFreePercent)
    #[arg(long, default_value = "5", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=50))]
    disk_min_free_percent: u8,
    /// The maximum percentage of the store's disk for all snapshots of this node (chart: disk.snapshotsPercent)
    #[arg(long, default_value = "50", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
    snapshots_disk_percent: u8,
    /// The maximum percentage of the store's disk for the snapshots of one namespace (chart:
    /// disk.namespaceSnapshotsPercent)
    #[arg(long, default_value = "25", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
    snapshots_namespace_disk_percent: u8,
    /// How long a credential is trusted after a registry accepted it; 0s: each publish checks it with the registry
    /// (chart: credentials.trustFor)
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    trust_credentials_for: Duration,
    /// Start even if this check of `ovl check` fails; can be repeated (chart: ignoredChecks)
    #[arg(long = "ignore-check", value_name = "NAME", value_parser = required_check)]
    pub(super) ignored_checks: Vec<String>,
    /// How new layers are stored; auto is erofs where the kernel has it (chart: layerStorage)
    #[arg(long, default_value = "auto", value_name = "STORAGE")]
    layer_storage: LayerStorage,
    /// The OTLP/gRPC collector of traces, http://HOST:PORT [default: no traces]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(super) otlp_endpoint: Option<Collector>,
}

/// The storage of new layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LayerStorage {
    /// erofs where the kernel has it, else dir
    Auto,
    /// One EROFS image per layer
    Erofs,
    /// One directory tree per layer
    Dir,
}

/// The file of `--policy-file`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    #[serde(default)]
    allowed_images: ImagePolicy,
    #[serde(default)]
    refused_images: Vec<String>,
}

/// Reads the node's own credentials.
fn keyring(path: Option<&Path>) -> anyhow::Result<Keyring> {
    let Some(path) = path else { return Ok(Keyring::default()) };
    let argument = || format!("--credentials-file {}", path.display());
    Keyring::from_docker_config(&fs::read(path).with_context(argument)?).with_context(argument)
}

/// Reads which images pods can use. Without a file they can use all.
fn policy(path: Option<&Path>) -> anyhow::Result<ImagePolicy> {
    let Some(path) = path else { return Ok(ImagePolicy::default()) };
    let argument = || format!("--policy-file {}", path.display());
    let text = fs::read_to_string(path).with_context(argument)?;
    let Policy { allowed_images, refused_images } = toml::from_str(&text).with_context(argument)?;
    allowed_images.refusing(&refused_images).with_context(argument)
}

impl NodeArgs {
    /// Checks conditions that would fail later with a less clear error.
    pub(super) fn usable(&self) -> anyhow::Result<()> {
        let process =
            fs::metadata("/proc/self").context("cannot read /proc/self: is /proc mounted?")?;
        if process.uid() != 0 {
            bail!(
                "ovl node mounts file systems, so it must run as root, but it runs as user {}; in Kubernetes, run it in a \
                 privileged container",
                process.uid()
            );
        }
        if !self.kubelet_dir.is_dir() {
            bail!(
                "--kubelet-dir {} is not a directory: give the kubelet's --root-dir, and mount it at that same path",
                self.kubelet_dir.display()
            );
        }
        Ok(())
    }

    /// The directory of the store.
    pub(super) fn root(&self) -> PathBuf {
        let default = || Path::new("/var/lib/ovl-csi").join(self.driver_name.to_string());
        self.root.clone().unwrap_or_else(default)
    }

    /// The client of the registries, with the proxies of the environment.
    pub(super) fn registries(&self) -> anyhow::Result<Registries> {
        let mut hosts = match &self.hosts_dir {
            Some(dir) => Hosts::load(dir).context("--hosts-dir")?,
            None => Hosts::default(),
        };
        if let Some(path) = &self.extra_ca_file {
            let argument = || format!("--extra-ca-file {}", path.display());
            let pem = fs::read(path).with_context(argument)?;
            hosts = hosts.with_extra_ca(&pem).with_context(argument)?;
        }
        let (proxies, policy) = (HttpProxies::from_env()?, policy(self.policy_file.as_deref())?);
        for proxy in proxies.all() {
            let proxy = registry_name::of_url(proxy);
            tracing::info!(%proxy, "requests to registries use a proxy");
        }
        hosts = hosts.with_proxies(proxies, policy.registries().map(str::to_owned));
        let registries = Registries::new(hosts).map_err(|e| anyhow!(e))?;
        registries.refuse_networks(self.refused_networks.clone());
        Ok(registries)
    }

    /// The storage of new layers. `None`: EROFS where the kernel has it.
    pub(super) fn storage(&self) -> Option<layers::LayerStorage> {
        match self.layer_storage {
            LayerStorage::Auto => None,
            LayerStorage::Erofs => Some(layers::LayerStorage::Erofs),
            LayerStorage::Dir => Some(layers::LayerStorage::Dir),
        }
    }

    /// The socket of `ovl node-snapshot`.
    pub(super) fn local_endpoint(&self, driver: &Endpoint) -> anyhow::Result<Endpoint> {
        match &self.local_endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => {
                let socket = driver.path().with_file_name("ovl.sock");
                Ok(format!("unix://{}", socket.display()).parse()?)
            }
        }
    }

    /// The limits of the store on its disk.
    pub(super) fn disk(&self) -> anyhow::Result<DiskLimits> {
        let (high, min_free) = (self.disk_high_percent, self.disk_min_free_percent);
        if min_free > 100 - high {
            bail!(
                "--disk-min-free-percent {min_free} and --disk-high-percent {high} are more than 100 together"
            );
        }
        let captures = self.snapshots_disk_percent;
        let captures_each = self.snapshots_namespace_disk_percent;
        Ok(DiskLimits { min_free, captures, captures_each })
    }

    /// The settings of volumes.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let (high, low) = (self.disk_high_percent, self.disk_low_percent);
        if low >= high {
            bail!("--disk-low-percent {low} is not below --disk-high-percent {high}");
        }
        Ok(Settings {
            kubelet: self.kubelet_dir.clone(),
            keyring: keyring(self.credentials_file.as_deref())?,
            trust_for: self.trust_credentials_for,
            policy: policy(self.policy_file.as_deref())?,
            disk_high: high,
            disk_low: low,
        })
    }

    /// The configuration of the CSI services.
    pub(super) fn config(&self) -> anyhow::Result<csi::Config> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => {
                let plugins = self.kubelet_dir.join("plugins");
                format!("unix://{}/{}/csi.sock", plugins.display(), self.driver_name).parse()?
            }
        };
        Ok(csi::Config {
            endpoint,
            kubelet_dir: self.kubelet_dir.clone(),
            driver: self.driver_name.clone(),
            node: self.node_name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            health: self.health_address,
            metrics: self.metrics_address,
            defaults: csi::Defaults {
                size: self.default_size.map(Quantity::get),
                inodes: self.default_inodes.map(Quantity::get),
                volatile: self.default_volatile,
            },
        })
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
