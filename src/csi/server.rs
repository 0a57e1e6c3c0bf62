//! Opens all listeners in the right order, serves on them, and shuts them down.
//!
//! The CSI socket comes first and the registration socket last, because the kubelet calls the CSI socket as soon as it
//! sees the registration socket. On shutdown, the sockets are removed first, and then the running calls may finish for
//! a short time. No volume is touched: pods continue to write while the driver is replaced.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{service::Routes, transport::Server};

use super::{
    config::{Config, ControllerConfig},
    controller::ControllerService,
    health,
    identity::IdentityService,
    metrics_http,
    middleware::Calls,
    node::NodeService,
    proto::{
        csi::{
            controller_server::ControllerServer, identity_server::IdentityServer,
            node_server::NodeServer,
        },
        pluginregistration::registration_server::RegistrationServer,
    },
    registration::{KubeletRefusal, RegistrationService},
    role::Role,
    socket::{Socket, SocketError},
};
use crate::{controller::Controller, metrics::Metrics, volumes::Volumes};

/// How long running calls may take after the shutdown signal. A publish that takes longer is cut off as by a crash,
/// which `volumes` handles at any line. The chart gives the pod some seconds more.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// The error that ended the service or prevented its start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The address of `/healthz` cannot be bound, or its server failed.
    #[error("cannot serve /healthz on {address}: {source}; use another --health-address")]
    Health {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The address of `/metrics` cannot be bound, or its server failed.
    #[error("cannot serve /metrics on {address}: {source}; use another --metrics-address")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The kubelet refused to register the driver.
    #[error("the kubelet refused to register {driver}: {why}")]
    Refused {
        /// The name of the driver.
        driver: String,
        /// The error message of the kubelet.
        why: String,
    },
}

/// Serves the CSI node service, the kubelet's registration, `/healthz` and, if configured, `/metrics`, until `shutdown`
/// or until one of them fails.
///
/// # Errors
/// A socket or address cannot be opened, a server fails, or the kubelet refuses to register the driver.
pub async fn serve(
    config: Config,
    volumes: Volumes,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let role = Role::Node(Box::new(config), volumes);
    Listeners::open(&role).await?.serve(&role, &metrics, &shutdown).await
}

/// Serves the CSI controller service, `/healthz` and, if configured, `/metrics`, until `shutdown` or until one of them
/// fails.
///
/// # Errors
/// A socket or address cannot be opened, or a server fails.
pub async fn serve_controller(
    config: ControllerConfig,
    controller: Controller,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let role = Role::Controller(Box::new(config), controller);
    Listeners::open(&role).await?.serve(&role, &metrics, &shutdown).await
}

/// All listeners of the process.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) health: TcpListener,
    pub(super) metrics: Option<TcpListener>,
    csi: Socket,
    /// The socket for the kubelet's plugin registration; only on a node.
    registration: Option<Socket>,
}

impl Listeners {
    /// Opens all listeners. Callers can connect from here on, and wait until they are served.
    pub(super) async fn open(role: &Role) -> Result<Self, ServeError> {
        let address = role.health();
        let health = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Health { address, source })?;
        let metrics = match role.metrics() {
            None => None,
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| ServeError::Metrics { address, source })?,
            ),
        };
        let csi = Socket::claim(role.endpoint().path()).await?;
        let registration = match role.registration_socket() {
            Some(path) => Some(Socket::claim(&path).await?),
            None => None,
        };
        Ok(Self { health, metrics, csi, registration })
    }

    /// Serves until `shutdown`.
    pub(super) async fn serve(
        self,
        role: &Role,
        metrics: &Metrics,
        shutdown: &CancellationToken,
    ) -> Result<(), ServeError> {
        tracing::info!(endpoint = %role.endpoint(), health = %role.health(), "serving");
        // The first server that ends stops the others.
        let stop = shutdown.child_token();
        let refusal = KubeletRefusal::new(stop.clone());
        let tasks = TaskTracker::new();
        let calls = |routes| Calls::new(routes, tasks.clone(), metrics.clone());
        let csi = grpc(calls(csi_routes(role)), self.csi, &stop);
        let registration = async {
            let Some(socket) = self.registration else {
                stop.cancelled().await;
                return Ok(());
            };
            grpc(calls(registration_routes(role, &refusal)), socket, &stop).await
        };
        let health = async {
            let served = health::serve(self.health, role.clone(), stop.clone()).await;
            served.map_err(|source| ServeError::Health { address: role.health(), source })
        };
        let metrics_http = async {
            let (Some(listener), Some(address)) = (self.metrics, role.metrics()) else {
                stop.cancelled().await;
                return Ok(());
            };
            let served = metrics_http::serve(listener, metrics.clone(), stop.clone()).await;
            served.map_err(|source| ServeError::Metrics { address, source })
        };
        let ended = async {
            let (csi, registration, health, metrics_http) = tokio::join!(
                ending(&stop, csi),
                ending(&stop, registration),
                ending(&stop, health),
                ending(&stop, metrics_http)
            );
            tasks.close();
            tasks.wait().await;
            csi.and(registration).and(health).and(metrics_http)
        };
        let result = tokio::select! {
            result = ended => result,
            () = async { stop.cancelled().await; sleep(SHUTDOWN_GRACE).await } => {
                tracing::warn!(calls = tasks.len(), "shutting down although calls are still running");
                Ok(())
            }
        };
        match refusal.why() {
            Some(why) => {
                Err(ServeError::Refused { driver: role.driver().to_string(), why: why.to_owned() })
            }
            None => result,
        }
    }
}

fn csi_routes(role: &Role) -> Routes {
    let identity = IdentityService { role: role.clone() };
    let routes = Routes::new(IdentityServer::new(identity));
    match role {
        Role::Node(config, volumes) => routes.add_service(NodeServer::new(NodeService {
            volumes: volumes.clone(),
            node: config.node.clone(),
            defaults: config.defaults,
        })),
        Role::Controller(config, controller) => {
            let removal_timeout = config.removal_timeout;
            let service = ControllerService { controller: controller.clone(), removal_timeout };
            routes.add_service(ControllerServer::new(service))
        }
    }
}

fn registration_routes(role: &Role, refusal: &KubeletRefusal) -> Routes {
    Routes::new(RegistrationServer::new(RegistrationService {
        driver: role.driver().clone(),
        endpoint: role.endpoint().clone(),
        refusal: refusal.clone(),
    }))
}

pub(super) async fn grpc(
    calls: Calls<Routes>,
    socket: Socket,
    stop: &CancellationToken,
) -> Result<(), ServeError> {
    let stopped = stop.clone().cancelled_owned();
    Ok(Server::builder().serve_with_incoming_shutdown(calls, socket.incoming(), stopped).await?)
}

/// Runs `part`, and cancels `stop` when it ends.
async fn ending(
    stop: &CancellationToken,
    part: impl Future<Output = Result<(), ServeError>>,
) -> Result<(), ServeError> {
    let result = part.await;
    stop.cancel();
    result
}
