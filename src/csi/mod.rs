//! The gRPC and HTTP servers of the driver: CSI, the kubelet's plugin registration, local snapshots, probes and
//! metrics.
//!
//! ```text
//! kubelet ── <kubelet dir>/plugins_registry/reg@<driver>.sock ── registration    the driver's name and endpoint
//!         └─ the endpoint ── middleware ── identity
//!                                       └─ node ── request ── volumes ── status
//! csi-snapshotter ── the endpoint ── middleware ── identity
//!                                               └─ controller ── snapshots of the cluster ── status
//! `ovl node-snapshot` ── a socket of a node without a cluster ── middleware ── local ── agent
//! probes ── http /healthz, /livez ── health ── role
//! scrapers ── http /metrics ── metrics_http
//! ```
//!
//! `request` turns a request of the node service into a checked value before anything else happens; `controller` and
//! `local` check their own requests. `middleware` runs every call to its
//! end, counts it and logs one line about it. `status` is the only module that knows the gRPC code of an error class.
//!
//! May use: agent, controller, image, overlay, snapshots, volumes
//!
//! Deliberately absent: the calls that create, attach or publish volumes (inline volumes need none; of the calls about
//! volumes the controller serves only ValidateVolumeCapabilities), and every decision about a volume or a snapshot. A
//! handler parses a request, makes one call and looks up a code.

mod config;
mod connections;
mod controller;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod health;
mod identity;
mod local;
mod metrics_http;
mod middleware;
mod node;
mod registration;
mod request;
mod role;
mod server;
mod socket;
mod status;
#[cfg(test)]
mod tests;

pub use config::{
    Config, ControllerConfig, Defaults, DriverName, Endpoint, NodeName, SettingError,
};
pub(crate) use local::LocalClient;
pub use local::LocalSocket;
pub(crate) use proto::local::{CaptureVolumeRequest, PushSnapshotRequest, Snapshot};
pub(crate) use request::policy_yaml;
pub use server::{ServeError, serve, serve_controller};
pub use socket::SocketError;

/// The code that build.rs generates from `proto/`.
mod proto {
    /// CSI 1.13.0, only the services that are served here.
    pub(super) mod csi {
        tonic::include_proto!("csi.v1");
    }
    /// The snapshot API of a node without a cluster.
    pub(crate) mod local {
        tonic::include_proto!("ovl.v1");
    }
    /// The kubelet's plugin registration v1.
    pub(super) mod pluginregistration {
        tonic::include_proto!("pluginregistration");
    }
}
