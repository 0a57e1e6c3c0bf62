//! What `ovl node` is told, and what can be found wrong with it before anything is begun.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgAction, Args, ValueEnum, value_parser};
use serde::Deserialize;

use crate::{
    csi::{self, DriverName, Endpoint, NodeName, Quantity},
    image::{Hosts, Network, Registries, Repository},
    layers::{DiskLimits, Form},
    telemetry::Collector,
    units,
    volumes::{ImagePolicy, Keyring, Settings},
};

/// Serve CSI on this node and register with its kubelet
#[derive(Debug, Args)]
pub(in crate::cli) struct NodeArgs {
    /// This node, as `kubectl get nodes` calls it
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(super) node_name: NodeName,
    /// The name of the CSIDriver object
    #[arg(long, default_value = "ovl.csi.dev", value_name = "NAME")]
    driver_name: DriverName,
    /// The socket of the driver; the kubelet has to see it at the same path
    /// [default: unix://KUBELET_DIR/plugins/DRIVER_NAME/csi.sock]
    #[arg(long, value_name = "unix:///PATH")]
    endpoint: Option<Endpoint>,
    /// The store of layers and volumes, one a driver [default: /var/lib/ovl-csi/DRIVER_NAME]
    #[arg(long, value_name = "DIR", value_parser = folder)]
    root: Option<PathBuf>,
    /// The kubelet's --root-dir
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR", value_parser = folder)]
    kubelet_dir: PathBuf,
    /// Registries' mirrors and plain http, as containerd has them: DIR/HOST[:PORT]/hosts.toml
    #[arg(long, value_name = "DIR", value_parser = folder)]
    hosts_dir: Option<PathBuf>,
    /// Where /healthz is served
    #[arg(long, default_value = "127.0.0.1:9808", value_name = "IP:PORT")]
    health_address: SocketAddr,
    /// Where /metrics is served [default: nowhere]
    #[arg(long, value_name = "IP:PORT")]
    metrics_address: Option<SocketAddr>,
    /// Do without an API server: pods get no Events, and `ovl snapshot` on this node asks for snapshots
    #[arg(long)]
    pub(super) no_cluster: bool,
    /// Without a cluster: where `ovl snapshot` is served [default: ovl.sock beside the driver's socket]
    #[arg(long, value_name = "unix:///PATH", requires = "no_cluster")]
    local_endpoint: Option<Endpoint>,
    /// Without a cluster: registry/repository where snapshots are pushed, and found that other nodes have pushed
    #[arg(long, value_name = "REPOSITORY", requires = "no_cluster")]
    pub(super) snapshot_repository: Option<Repository>,
    /// Whether snapshots of this node's volumes are made, and volumes are made of snapshots
    #[arg(long, default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(super) snapshots: bool,
    /// The driver's own namespace, where the Secrets are with which snapshots are pushed
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
    /// Credentials for every pod, as in a Secret of type kubernetes.io/dockerconfigjson
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Which images pods may use: a TOML file with the list refusedImages and the table [allowedImages]
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
    /// A network in which no registry is contacted that --hosts-dir does not name, such as 10.0.0.0/16; may be given again. The
    /// cluster's Services and its API server are such by themselves
    #[arg(long = "refused-network", value_name = "CIDR")]
    pub(super) refused_networks: Vec<Network>,
    /// How much a volume may take where its pod does not say, such as 10Gi [default: no limit]
    #[arg(long, value_name = "QUANTITY")]
    default_size: Option<Quantity>,
    /// How many files and folders a volume may have where its pod does not say [default: no limit]
    #[arg(long, value_name = "N")]
    default_inodes: Option<Quantity>,
    /// Whether volumes are volatile where their pods do not say
    #[arg(long, default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    default_volatile: bool,
    /// How full the store's disk may get before layers that nobody uses go
    #[arg(long, default_value = "85", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=99))]
    disk_high_percent: u8,
    /// How full the store's disk may be when no more layers have to go
    #[arg(long, default_value = "75", value_name = "PERCENT", value_parser = value_parser!(u8).range(0..=98))]
    disk_low_percent: u8,
    /// How much of the store's disk stays free whatever is pulled or captured
    #[arg(long, default_value = "5", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=50))]
    disk_min_free_percent: u8,
    /// How much of the store's disk the snapshots of this node may take
    #[arg(long, default_value = "50", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
    snapshots_disk_percent: u8,
    /// How much of it those of one namespace may take
    #[arg(long, default_value = "25", value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
    snapshots_namespace_disk_percent: u8,
    /// How long a credential that a registry accepted is good without asking again; 0s: always ask
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    trust_credentials_for: Duration,
    /// A check of `ovl check` whose no is wrong here; may be given again
    #[arg(long = "override", value_name = "NAME", value_parser = crate::cli::check::required_check)]
    pub(super) overridden: Vec<String>,
    /// How new layers are kept: auto is erofs where the kernel has it
    #[arg(long, default_value = "auto", value_name = "FORM")]
    layer_form: LayerForm,
    /// Where traces go: http://HOST:PORT of an OTLP/gRPC collector [default: nowhere]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(super) otlp_endpoint: Option<Collector>,
}

/// How new layers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LayerForm {
    /// erofs where the kernel has it, else dir
    Auto,
    /// One EROFS image a layer
    Erofs,
    /// A folder tree a layer
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

/// A path that other paths are compared with.
pub(in crate::cli) fn folder(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        return Err("expected an absolute path without '..'".to_owned());
    }
    Ok(path.components().collect())
}

/// As people write it: `1h`, `90m`, `0s`.
fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "expected a duration such as 1h or 90m, or 0s".to_owned())
}

/// The node's own credentials.
fn keyring(path: Option<&Path>) -> anyhow::Result<Keyring> {
    let Some(path) = path else { return Ok(Keyring::default()) };
    let named = || format!("--credentials-file {}", path.display());
    Keyring::from_docker_config(&fs::read(path).with_context(named)?).with_context(named)
}

/// Which images pods may use; without a file, all.
fn policy(path: Option<&Path>) -> anyhow::Result<ImagePolicy> {
    let Some(path) = path else { return Ok(ImagePolicy::default()) };
    let named = || format!("--policy-file {}", path.display());
    let text = fs::read_to_string(path).with_context(named)?;
    let Policy { allowed_images, refused_images } = toml::from_str(&text).with_context(named)?;
    allowed_images.refusing(&refused_images).with_context(named)
}

impl NodeArgs {
    /// What would otherwise fail later, with a worse sentence.
    pub(super) fn usable(&self) -> anyhow::Result<()> {
        let myself =
            fs::metadata("/proc/self").context("cannot read /proc/self: is /proc mounted?")?;
        if myself.uid() != 0 {
            bail!(
                "ovl node mounts file systems and so has to run as root, but runs as user {}; in Kubernetes, in a \
                 privileged container",
                myself.uid()
            );
        }
        if !self.kubelet_dir.is_dir() {
            bail!(
                "--kubelet-dir {} is not a folder here: give the kubelet's --root-dir, and mount it at that same path",
                self.kubelet_dir.display()
            );
        }
        Ok(())
    }

    /// The folder of the store.
    pub(super) fn root(&self) -> PathBuf {
        let default = || Path::new("/var/lib/ovl-csi").join(self.driver_name.to_string());
        self.root.clone().unwrap_or_else(default)
    }

    /// Where images come from.
    pub(super) fn registries(&self) -> anyhow::Result<Registries> {
        let hosts = match &self.hosts_dir {
            Some(dir) => Hosts::load(dir).context("--hosts-dir")?,
            None => Hosts::default(),
        };
        let registries = Registries::new(hosts).map_err(|e| anyhow!(e))?;
        registries.refuse(self.refused_networks.clone());
        Ok(registries)
    }

    /// How new layers are kept; `None` for what the kernel takes.
    pub(super) fn form(&self) -> Option<Form> {
        match self.layer_form {
            LayerForm::Auto => None,
            LayerForm::Erofs => Some(Form::Erofs),
            LayerForm::Dir => Some(Form::Dir),
        }
    }

    /// Where snapshots are asked for without a cluster.
    pub(super) fn local_endpoint(&self, driver: &Endpoint) -> anyhow::Result<Endpoint> {
        match &self.local_endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => {
                let socket = driver.path().with_file_name("ovl.sock");
                Ok(format!("unix://{}", socket.display()).parse()?)
            }
        }
    }

    /// What the store leaves to others of its disk.
    pub(super) fn disk(&self) -> anyhow::Result<DiskLimits> {
        let (high, min_free) = (self.disk_high_percent, self.disk_min_free_percent);
        if min_free > 100 - high {
            bail!(
                "--disk-min-free-percent {min_free} leaves less than --disk-high-percent {high} to be used"
            );
        }
        let captures = self.snapshots_disk_percent;
        let captures_each = self.snapshots_namespace_disk_percent;
        Ok(DiskLimits { min_free, captures, captures_each })
    }

    /// How volumes are made.
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

    /// What the service needs.
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
mod tests {
    use std::io::Write as _;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: NodeArgs,
    }

    fn args(given: &[&str]) -> NodeArgs {
        Cli::parse_from(["ovl", "--node-name", "n"].iter().chain(given)).args
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn what_is_not_said_is_what_the_documentation_says() {
        let args = args(&[]);
        let (config, settings) = (args.config().unwrap(), args.settings().unwrap());
        assert_eq!(
            config.endpoint.to_string(),
            "unix:///var/lib/kubelet/plugins/ovl.csi.dev/csi.sock"
        );
        assert_eq!((config.metrics, config.defaults), (None, csi::Defaults::default()));
        assert_eq!(args.root(), Path::new("/var/lib/ovl-csi/ovl.csi.dev"));
        assert_eq!((settings.disk_high, settings.disk_low), (85, 75));
        assert_eq!(
            args.disk().unwrap(),
            DiskLimits { min_free: 5, captures: 50, captures_each: 25 }
        );
        assert_eq!(settings.trust_for, Duration::from_secs(3600));
        assert!(settings.policy.allows("any", &"r.io/a".parse().unwrap()));
    }

    #[test]
    fn what_is_said_arrives() {
        let policy = file(
            "refusedImages = ['r.io/b*']\n[allowedImages]\ndefault = []\n[allowedImages.namespaces]\nci = ['r.io/*']",
        );
        let args = args(&[
            "--default-size=10Gi",
            "--default-inodes=100k",
            "--default-volatile=true",
            "--metrics-address=0.0.0.0:9809",
            "--disk-high-percent=90",
            "--disk-low-percent=50",
            "--trust-credentials-for=0s",
            "--policy-file",
            policy.path().to_str().unwrap(),
        ]);
        let (config, settings) = (args.config().unwrap(), args.settings().unwrap());
        let defaults =
            csi::Defaults { size: Some(10 << 30), inodes: Some(100_000), volatile: true };
        assert_eq!(config.defaults, defaults);
        assert_eq!(config.metrics.unwrap().port(), 9809);
        assert_eq!((settings.disk_high, settings.disk_low), (90, 50));
        assert_eq!(settings.trust_for, Duration::ZERO);
        let image = "r.io/a:1".parse().unwrap();
        assert!(settings.policy.allows("ci", &image) && !settings.policy.allows("any", &image));
        assert!(!settings.policy.allows("ci", &"r.io/b:1".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (policy, typed) = (file("[allowedImages]\ndefault = ['a[']"), file("[allowedimages]"));
        let (policy, typed) = (policy.path().to_str().unwrap(), typed.path().to_str().unwrap());
        for (given, sentence) in [
            (["--disk-low-percent", "85"], "--disk-low-percent 85 is not below"),
            (["--policy-file", policy], "\"a[\" is not a pattern"),
            (["--policy-file", typed], "unknown field `allowedimages`"),
            (["--policy-file", "/nowhere"], "--policy-file /nowhere: No such file"),
            (["--credentials-file", typed], ": not a usable .dockerconfigjson"),
            (["--credentials-file", "/nowhere"], "--credentials-file /nowhere: No such file"),
        ] {
            let error = format!("{:#}", args(&given).settings().unwrap_err());
            assert!(error.contains(sentence), "{sentence:?} is not in {error:?}");
        }
    }
}
