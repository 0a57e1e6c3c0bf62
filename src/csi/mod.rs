//! gRPC request → our types → one call → class → code; and how the kubelet comes to know us.
//!
//! ```text
//! kubelet ── <kubelet dir>/plugins_registry/reg@<driver>.sock ── registration    "who are you, where is your socket?"
//!         └─ the endpoint ── calls ── identity
//!                                  └─ node ── request ── volumes ── status
//! csi-snapshotter ── the endpoint ── calls ── identity
//!                                          └─ controller ── snapshots of the cluster ── status
//! `ovl snapshot` ── a socket of a node without a cluster ── calls ── local ── agent
//! probes  ── http /healthz ── health ── role
//! scrapers ── http /metrics ── scrape
//! ```
//!
//! A request becomes a checked value in `request` before anything else happens; `calls` lets every call run to its
//! end, counts it, and writes one line about it; `status` is the only place that knows which code a failure is.
//!
//! May use: agent, changeset, controller, snapshots, volumes
//!
//! Deliberately absent: the controller service's calls about volumes (inline volumes need none), and every decision about a
//! volume or a snapshot. A handler here is a parse, a call and a table.

mod calls;
mod config;
mod controller;
mod guests;
mod health;
mod identity;
mod local;
mod node;
mod quantity;
mod registration;
mod request;
mod role;
mod scrape;
mod server;
mod socket;
mod status;
#[cfg(test)]
mod tests;

pub use config::{Config, ControllerConfig, Defaults, DriverName, Endpoint, NameError, NodeName};
pub(crate) use local::LocalClient;
pub use local::LocalSocket;
pub(crate) use proto::local::{CaptureVolumeRequest, PushSnapshotRequest, Snapshot};
pub use quantity::{Quantity, QuantityError};
pub use server::{ServeError, serve, serve_controller};
pub use socket::SocketError;

/// What build.rs makes of `proto/`.
mod proto {
    /// CSI 1.13.0, the part that is served here.
    pub(super) mod csi {
        tonic::include_proto!("csi.v1");
    }
    /// What a node without a cluster is asked.
    pub(crate) mod local {
        tonic::include_proto!("ovl.v1");
    }
    /// The kubelet's plugin registration v1.
    pub(super) mod pluginregistration {
        tonic::include_proto!("pluginregistration");
    }
}
