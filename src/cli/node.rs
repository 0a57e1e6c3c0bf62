//! `ovl node`: the engine of one node behind its CSI socket.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::{
    csi::{self, DriverName, Endpoint, NodeName},
    image::{Hosts, Registries},
    layers::Store,
    sys::{
        limits,
        mounts::{LinuxMounts, Mounts},
    },
    volumes::{GRACE, Volumes},
};

/// How long work that blocks may take after the last answer; what is not done then is left as by a crash.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Serve CSI on this node and register with its kubelet
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// This node, as `kubectl get nodes` calls it
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: NodeName,
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
}

/// A path that other paths are compared with.
fn folder(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        return Err("expected an absolute path without '..'".to_owned());
    }
    Ok(path.components().collect())
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(args: NodeArgs) -> Result<(), Failure> {
    usable(&args).map_err(Failure::Unusable)?;
    let registries = registries(args.hosts_dir.as_deref()).map_err(Failure::Unusable)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let served = runtime.block_on(serve(args, registries));
    runtime.shutdown_timeout(LAST_WORK);
    Ok(served?)
}

/// What would otherwise fail later, with a worse sentence.
fn usable(args: &NodeArgs) -> anyhow::Result<()> {
    let myself = fs::metadata("/proc/self").context("cannot read /proc/self: is /proc mounted?")?;
    if myself.uid() != 0 {
        bail!(
            "ovl node mounts file systems and so has to run as root, but runs as user {}; in Kubernetes, in a \
             privileged container",
            myself.uid()
        );
    }
    if !args.kubelet_dir.is_dir() {
        bail!(
            "--kubelet-dir {} is not a folder here: give the kubelet's --root-dir, and mount it at that same path",
            args.kubelet_dir.display()
        );
    }
    Ok(())
}

fn registries(hosts_dir: Option<&Path>) -> anyhow::Result<Registries> {
    let hosts = match hosts_dir {
        Some(dir) => Hosts::load(dir).context("--hosts-dir")?,
        None => Hosts::default(),
    };
    Registries::new(hosts).map_err(|e| anyhow!(e))
}

async fn serve(args: NodeArgs, registries: Registries) -> anyhow::Result<()> {
    // Before anything that takes long, so that no signal is lost.
    let shutdown = on_signal()?;
    let config = config(&args)?;
    let root =
        args.root.unwrap_or_else(|| Path::new("/var/lib/ovl-csi").join(config.driver.to_string()));
    tracing::info!(version = config.version, driver = %config.driver, root = %root.display(), "starting");

    if let Err(error) = limits::raise_open_files() {
        tracing::warn!(%error, "cannot have more open files; each layer in use needs one");
    }
    let mounts: Arc<dyn Mounts> = Arc::new(LinuxMounts);
    let store = Arc::new(Store::open(&root, mounts.clone())?);
    let volumes = Volumes::open(store, registries, mounts, &config.kubelet_dir)?;
    volumes.recover(GRACE)?;
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(recover_forever(volumes.clone())));
    csi::serve(config, volumes, shutdown).await?;
    tracing::info!("stopped; volumes stay mounted");
    Ok(())
}

/// Removes the volumes of pods that went without a word.
async fn recover_forever(volumes: Volumes) {
    loop {
        sleep(GRACE).await;
        let volumes = volumes.clone();
        match spawn_blocking(move || volumes.recover(GRACE)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot look for volumes without a pod"),
            Err(error) => tracing::error!(%error, "looking for volumes without a pod broke"),
        }
    }
}

fn config(args: &NodeArgs) -> anyhow::Result<csi::Config> {
    let endpoint = match &args.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => {
            let plugins = args.kubelet_dir.join("plugins");
            format!("unix://{}/{}/csi.sock", plugins.display(), args.driver_name).parse()?
        }
    };
    Ok(csi::Config {
        endpoint,
        kubelet_dir: args.kubelet_dir.clone(),
        driver: args.driver_name.clone(),
        node: args.node_name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        health: args.health_address,
    })
}

/// Cancelled by the first SIGTERM (Kubernetes) or SIGINT (a person).
fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "stopping");
        told.cancel();
    });
    Ok(token)
}
