//! What listens, in which order it appears, and how it ends.
//!
//! The CSI socket comes first and the registration socket last: the kubelet calls the one as soon as it sees the other.
//! On the way out the sockets go first, then the calls under way get a moment, and no volume is touched: pods go on
//! writing while the driver is replaced.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{service::Routes, transport::Server};

use super::{
    calls::Calls,
    config::{Config, ControllerConfig},
    controller::ControllerService,
    health,
    identity::IdentityService,
    node::NodeService,
    proto::{
        csi::{
            controller_server::ControllerServer, identity_server::IdentityServer,
            node_server::NodeServer,
        },
        pluginregistration::registration_server::RegistrationServer,
    },
    registration::{Refusal, RegistrationService},
    role::Role,
    scrape,
    socket::{Socket, SocketError},
};
use crate::{controller::Controller, metrics::Metrics, volumes::Volumes};

/// How long calls under way may take once we are told to stop: a publish that needs longer is cut off like by a crash,
/// which `volumes` stands at any line. The chart gives the pod some seconds more.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Why the service ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket is not to be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The address of `/healthz` is not to be had.
    #[error("cannot serve /healthz on {address}: {source}; use another --health-address")]
    Health {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The address of `/metrics` is not to be had.
    #[error("cannot serve /metrics on {address}: {source}; use another --metrics-address")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The gRPC server broke.
    #[error("gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The kubelet will not have us.
    #[error("the kubelet refused to register {driver}: {why}")]
    Refused {
        /// The driver's name.
        driver: String,
        /// The kubelet's words.
        why: String,
    },
}

/// Serves CSI, the kubelet's registration, `/healthz` and, where wanted, `/metrics` until `shutdown`, or until one of them fails.
///
/// # Errors
///
/// When a socket or address is not to be had, and when the kubelet refuses to register the driver.
pub async fn serve(
    config: Config,
    volumes: Volumes,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let role = Role::Node(Box::new(config), volumes);
    Listeners::open(&role).await?.serve(&role, &metrics, &shutdown).await
}

/// Serves CSI's controller service, `/healthz` and, where wanted, `/metrics` until `shutdown`, or until one of them fails.
///
/// # Errors
///
/// When a socket or address is not to be had.
pub async fn serve_controller(
    config: ControllerConfig,
    controller: Controller,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let role = Role::Controller(Box::new(config), controller);
    Listeners::open(&role).await?.serve(&role, &metrics, &shutdown).await
}

/// Everything that listens.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) health: TcpListener,
    pub(super) metrics: Option<TcpListener>,
    csi: Socket,
    /// For a kubelet.
    registration: Option<Socket>,
}

impl Listeners {
    /// From here on callers are heard, and wait until they are served.
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
        // Whatever ends first ends the rest.
        let stop = shutdown.child_token();
        let refusal = Refusal::new(stop.clone());
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
        let scraped = async {
            let (Some(listener), Some(address)) = (self.metrics, role.metrics()) else {
                stop.cancelled().await;
                return Ok(());
            };
            let served = scrape::serve(listener, metrics.clone(), stop.clone()).await;
            served.map_err(|source| ServeError::Metrics { address, source })
        };
        let ended = async {
            let (csi, registration, health, scraped) = tokio::join!(
                ending(&stop, csi),
                ending(&stop, registration),
                ending(&stop, health),
                ending(&stop, scraped)
            );
            tasks.close();
            tasks.wait().await;
            csi.and(registration).and(health).and(scraped)
        };
        let result = tokio::select! {
            result = ended => result,
            () = async { stop.cancelled().await; sleep(GRACE).await } => {
                tracing::warn!(calls = tasks.len(), "not waiting any longer for calls under way");
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
        Role::Controller(_, controller) => {
            let service = ControllerService { controller: controller.clone() };
            routes.add_service(ControllerServer::new(service))
        }
    }
}

fn registration_routes(role: &Role, refusal: &Refusal) -> Routes {
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

/// `part`, and the end of the others when it ends.
async fn ending(
    stop: &CancellationToken,
    part: impl Future<Output = Result<(), ServeError>>,
) -> Result<(), ServeError> {
    let result = part.await;
    stop.cancel();
    result
}
