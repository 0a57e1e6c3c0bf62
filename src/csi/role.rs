//! The service behind the sockets: the volumes of a node, or the snapshots of a cluster.

use std::{net::SocketAddr, path::PathBuf};

use super::config::{Config, ControllerConfig, DriverName, Endpoint};
use crate::{controller::Controller, volumes::Volumes};

/// The two roles of the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// The volumes of one node. The caller is the kubelet.
    Node(Box<Config>, Volumes),
    /// The snapshots of the cluster. The caller is csi-snapshotter, in the same pod.
    Controller(Box<ControllerConfig>, Controller),
}

impl Role {
    pub(super) fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Node(config, _) => &config.endpoint,
            Self::Controller(config, _) => &config.endpoint,
        }
    }

    pub(super) fn driver(&self) -> &DriverName {
        match self {
            Self::Node(config, _) => &config.driver,
            Self::Controller(config, _) => &config.driver,
        }
    }

    pub(super) fn version(&self) -> &'static str {
        match self {
            Self::Node(config, _) => config.version,
            Self::Controller(config, _) => config.version,
        }
    }

    pub(super) fn health(&self) -> SocketAddr {
        match self {
            Self::Node(config, _) => config.health,
            Self::Controller(config, _) => config.health,
        }
    }

    pub(super) fn metrics(&self) -> Option<SocketAddr> {
        match self {
            Self::Node(config, _) => config.metrics,
            Self::Controller(config, _) => config.metrics,
        }
    }

    /// The socket for the registration with the kubelet; only a node has one.
    pub(super) fn registration_socket(&self) -> Option<PathBuf> {
        match self {
            Self::Node(config, _) => Some(config.registration_socket()),
            Self::Controller(..) => None,
        }
    }

    /// Checks that calls can be served. The error is the reason as a message.
    pub(super) async fn ready(&self) -> Result<(), String> {
        match self {
            Self::Node(_, volumes) => volumes.ready().await.map_err(|e| e.to_string()),
            Self::Controller(_, controller) => controller.ready().await.map_err(|e| e.to_string()),
        }
    }
}
