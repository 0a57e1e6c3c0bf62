//! What stands behind the sockets: the volumes of a node, or the snapshots of a cluster.

use std::{net::SocketAddr, path::PathBuf};

use super::config::{Config, ControllerConfig, DriverName, Endpoint};
use crate::{controller::Controller, volumes::Volumes};

/// One of the two. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// Of one node, whose kubelet is the caller.
    Node(Box<Config>, Volumes),
    /// Of the cluster; the caller is csi-snapshotter, in the same pod.
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

    /// Where a kubelet finds us: only a node's does.
    pub(super) fn registration_socket(&self) -> Option<PathBuf> {
        match self {
            Self::Node(config, _) => Some(config.registration_socket()),
            Self::Controller(..) => None,
        }
    }

    /// Whether calls can be served, and if not, why.
    pub(super) async fn ready(&self) -> Result<(), String> {
        match self {
            Self::Node(_, volumes) => volumes.ready().await.map_err(|e| e.to_string()),
            Self::Controller(_, controller) => controller.ready().await.map_err(|e| e.to_string()),
        }
    }
}
