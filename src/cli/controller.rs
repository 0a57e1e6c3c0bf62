//! `ovl controller`: what the cluster wants of snapshots, and the CSI controller service beside csi-snapshotter.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::{runtime::Runtime, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Failure,
    node::{LAST_WORDS, on_signal},
};
use crate::{
    cluster::{Client, Lease},
    controller::Controller,
    csi::{self, DriverName, Endpoint},
    metrics::Metrics,
};

/// Serve CSI's controller calls to csi-snapshotter, and make what VolumeSnapshots ask for
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    /// The socket that csi-snapshotter in the same pod calls
    #[arg(long, default_value = "unix:///run/ovl-csi/csi.sock", value_name = "unix:///PATH")]
    endpoint: Endpoint,
    /// The name of the CSIDriver object
    #[arg(long, default_value = "ovl.csi.dev", value_name = "NAME")]
    driver_name: DriverName,
    /// The namespace of this pod, where its lease is
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: String,
    /// The name of this pod: Events give it as their host, and the lease says it
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: String,
    /// Make what VolumeSnapshots ask for only while holding the lease; calls are answered always
    #[arg(long)]
    leader_elect: bool,
    /// The name of the lease; two releases in one namespace need two [default: the driver's name, with dashes, and -controller]
    #[arg(long, value_name = "NAME")]
    lease_name: Option<String>,
    /// Where /healthz is served
    #[arg(long, default_value = "0.0.0.0:9808", value_name = "IP:PORT")]
    health_address: SocketAddr,
    /// Where /metrics is served [default: nowhere]
    #[arg(long, value_name = "IP:PORT")]
    metrics_address: Option<SocketAddr>,
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(args: &ControllerArgs) -> Result<(), Failure> {
    args.usable().map_err(Failure::Unusable)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    Ok(runtime.block_on(serve(args))?)
}

impl ControllerArgs {
    fn usable(&self) -> anyhow::Result<()> {
        for (argument, name) in [("--namespace", &self.namespace), ("--pod-name", &self.pod_name)] {
            if name.is_empty() {
                bail!("{argument} is empty: give it by the downward API");
            }
        }
        Ok(())
    }

    fn config(&self) -> csi::ControllerConfig {
        csi::ControllerConfig {
            endpoint: self.endpoint.clone(),
            driver: self.driver_name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            health: self.health_address,
            metrics: self.metrics_address,
        }
    }

    fn lease(&self) -> Lease {
        let driver = self.driver_name.to_string().replace('.', "-");
        Lease {
            namespace: self.namespace.clone(),
            name: self.lease_name.clone().unwrap_or_else(|| format!("{driver}-controller")),
            identity: self.pod_name.clone(),
        }
    }
}

async fn serve(args: &ControllerArgs) -> anyhow::Result<()> {
    // Before anything that takes long, so that no signal is lost.
    let shutdown = on_signal()?;
    let config = args.config();
    tracing::info!(version = config.version, driver = %config.driver, leader_elect = args.leader_elect, "starting");
    let client = Client::in_cluster().await.context("a controller works for a cluster")?;
    let metrics = Metrics::default();
    let controller = Controller::new(
        client.clone(),
        &config.driver.to_string(),
        &args.pod_name,
        metrics.clone(),
    );
    // A service that ends takes the rest along.
    let stop = shutdown.child_token();
    let served = async {
        let served = csi::serve_controller(config, controller.clone(), metrics, stop.clone()).await;
        stop.cancel();
        served
    };
    let reconciled = async {
        let work = |leading: CancellationToken| controller.run(leading);
        match args.leader_elect {
            true => client.lead(&args.lease(), &stop, work).await,
            false => work(stop.clone()).await,
        }
    };
    let (served, ()) = tokio::join!(served, reconciled);
    let _ = timeout(LAST_WORDS, controller.flush()).await;
    served?;
    tracing::info!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: ControllerArgs,
    }

    fn args(given: &[&str]) -> ControllerArgs {
        let pod = ["ovl", "--namespace", "ns", "--pod-name", "p-0"];
        Cli::parse_from(pod.iter().chain(given)).args
    }

    #[test]
    fn two_drivers_have_two_leases() {
        assert_eq!(args(&[]).lease().name, "ovl-csi-dev-controller");
        assert_eq!(args(&["--driver-name", "b.dev"]).lease().name, "b-dev-controller");
        let named = args(&["--lease-name", "l"]).lease();
        assert_eq!(
            (named.name.as_str(), named.namespace.as_str(), named.identity.as_str()),
            ("l", "ns", "p-0")
        );
    }

    #[test]
    fn a_pod_without_a_name_is_refused() {
        let error = ControllerArgs { pod_name: String::new(), ..args(&[]) }.usable().unwrap_err();
        assert!(error.to_string().contains("--pod-name is empty"), "{error}");
    }
}
