//! `ovl controller`: reconciles VolumeSnapshots, and serves the CSI controller service to csi-snapshotter.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args};
use tokio::{runtime::Runtime, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    failure::Failure,
    node::{EVENT_FLUSH_TIMEOUT, on_signal},
};
use crate::{
    cluster::{Client, Events, Lease},
    controller::Controller,
    csi::{self, DriverName, Endpoint},
    metrics::Metrics,
};

/// How long DeleteSnapshot waits for a node. csi-snapshotter gives up after its `--timeout`, 60 s in the chart.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(25);

/// Reconcile VolumeSnapshots, and serve CSI's controller calls to csi-snapshotter
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    /// The socket that csi-snapshotter in the same pod calls
    #[arg(long, default_value = "unix:///run/ovl-csi/csi.sock", value_name = "unix:///PATH")]
    endpoint: Endpoint,
    /// The name of the CSIDriver object
    #[arg(long, default_value = "ovl.csi.dev", value_name = "NAME")]
    driver_name: DriverName,
    /// The namespace of this pod, and of its lease
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: String,
    /// The name of this pod, which is the host of its Events and the holder of the lease
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: String,
    /// Reconcile VolumeSnapshots only while holding the lease; CSI calls are always served
    #[arg(long)]
    leader_elect: bool,
    /// The name of the lease [default: from the driver's name, such as ovl-csi-dev-controller]
    #[arg(long, value_name = "NAME")]
    lease_name: Option<String>,
    /// Whether the controller emits Events on VolumeSnapshots
    #[arg(long, default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    events: bool,
    /// The address of /healthz and /livez
    #[arg(long, default_value = "0.0.0.0:9808", value_name = "IP:PORT")]
    health_address: SocketAddr,
    /// The address of /metrics [default: not served]
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
                bail!("{argument} is empty: set it with the downward API");
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
            removal_timeout: REMOVAL_TIMEOUT,
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
    // Before everything that takes long, so no signal is lost.
    let shutdown = on_signal()?;
    let config = args.config();
    tracing::info!(version = config.version, driver = %config.driver, leader_elect = args.leader_elect, "starting");
    let client = Client::in_cluster().await.context("the controller needs a cluster")?;
    let metrics = Metrics::of_controller();
    let driver = config.driver.to_string();
    let events = args.events.then(|| Events::start(client.clone(), &args.pod_name, &driver));
    let controller = Controller::new(client.clone(), &driver, events, metrics.clone());
    // When the service ends, the controller loop must end too.
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
    let _ = timeout(EVENT_FLUSH_TIMEOUT, controller.flush()).await;
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
    fn each_driver_has_its_own_lease() {
        assert_eq!(args(&[]).lease().name, "ovl-csi-dev-controller");
        assert_eq!(args(&["--driver-name", "b.dev"]).lease().name, "b-dev-controller");
        let named = args(&["--lease-name", "l"]).lease();
        assert_eq!(
            (named.name.as_str(), named.namespace.as_str(), named.identity.as_str()),
            ("l", "ns", "p-0")
        );
    }

    #[test]
    fn an_empty_pod_name_is_refused() {
        let error = ControllerArgs { pod_name: String::new(), ..args(&[]) }.usable().unwrap_err();
        assert!(error.to_string().contains("--pod-name is empty"), "{error}");
    }
}
