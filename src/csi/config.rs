//! The settings of the two services, checked where they enter.

use std::{
    fmt,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use crate::controller::is_subdomain;

/// What [`serve`](super::serve) needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where CSI is served. The kubelet is told this path, so it has to be the same file for the kubelet as for us.
    pub endpoint: Endpoint,
    /// The kubelet's folder (its `--root-dir`), whose `plugins_registry` it watches for drivers.
    pub kubelet_dir: PathBuf,
    /// The driver's name, as in the CSIDriver object.
    pub driver: DriverName,
    /// The node's name, as in the Node object.
    pub node: NodeName,
    /// Our version, for whoever asks.
    pub version: &'static str,
    /// Where `/healthz` is served.
    pub health: SocketAddr,
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// What holds for a volume whose pod says nothing.
    pub defaults: Defaults,
}

/// What [`serve_controller`](super::serve_controller) needs to know.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Where CSI is served, to csi-snapshotter in the same pod.
    pub endpoint: Endpoint,
    /// The driver's name, as in the CSIDriver object.
    pub driver: DriverName,
    /// Our version, for whoever asks.
    pub version: &'static str,
    /// Where `/healthz` is served.
    pub health: SocketAddr,
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
}

/// What an administrator sets for volumes whose pods say nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defaults {
    /// Bytes that may be written.
    pub size: Option<u64>,
    /// Files and folders that may be made.
    pub inodes: Option<u64>,
    /// Whether writes are ever synced.
    pub volatile: bool,
}

impl Config {
    /// The socket by which the kubelet finds us.
    ///
    /// The `@` is what lets it talk to us: the kubelet's plugin watcher dials the bare path, of which grpc-go makes
    /// the request's authority, with its slashes as `%2F`. A strict server (ours is) resets such a stream with
    /// PROTOCOL_ERROR, because RFC 3986 has no `%` in a host's name; before an `@` it is a user's, and may be there.
    pub(super) fn registration_socket(&self) -> PathBuf {
        self.kubelet_dir.join("plugins_registry").join(format!("reg@{}.sock", self.driver))
    }
}

/// A setting that cannot be what it has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a socket of this machine.
    #[error("{0:?} is not an endpoint: expected unix:// and an absolute path without '..'")]
    Endpoint(String),
    /// Not a driver's name.
    #[error(
        "{0:?} is not a driver name: expected at most 63 lower-case letters, digits, '-' and '.', each part between \
         dots beginning and ending with a letter or digit"
    )]
    Driver(String),
    /// Not a node's name.
    #[error(
        "{0:?} is not a node name: expected what `kubectl get nodes` shows, at most 253 lower-case letters, digits, \
         '-' and '.'"
    )]
    Node(String),
}

/// A Unix socket, written `unix:///path/of/csi.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Endpoint(text.to_owned());
        let path = Path::new(text.strip_prefix("unix://").ok_or_else(refused)?);
        let plain =
            path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || path.file_name().is_none() {
            return Err(refused());
        }
        // Rebuilt, which leaves out `//` and `/./`: the kubelet is told this text.
        Ok(Self(path.components().collect()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// A CSI driver's name: at most 63 characters (CSI spec, GetPluginInfo), and a DNS subdomain in lower case, because it
/// names a Kubernetes object too. Safe as a part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverName(String);

impl FromStr for DriverName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > 63 || !is_subdomain(text) {
            return Err(NameError::Driver(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Kubernetes node's name: a DNS subdomain in lower case. At most 253 characters, which fits CSI's 256 bytes for a node id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(String);

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if !is_subdomain(text) {
            return Err(NameError::Node(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::uri::Authority;

    use super::*;

    #[test]
    fn the_kubelets_way_to_the_registration_socket_is_an_authority() {
        let config = Config {
            endpoint: "unix:///csi/csi.sock".parse().unwrap(),
            kubelet_dir: "/var/lib/kubelet".into(),
            driver: "ovl.csi.dev".parse().unwrap(),
            node: "node".parse().unwrap(),
            version: "0",
            health: "127.0.0.1:0".parse().unwrap(),
            metrics: None,
            defaults: Defaults::default(),
        };
        // As grpc-go's encodeAuthority writes a path: of its characters, only the slash is escaped.
        let path = config.registration_socket().display().to_string().replace('/', "%2F");
        assert!(path.parse::<Authority>().is_ok(), "{path}");
    }

    #[test]
    fn an_endpoint_is_a_socket_of_this_machine() {
        let endpoint: Endpoint = "unix:///run/ovl/csi.sock".parse().unwrap();
        assert_eq!(endpoint.path(), Path::new("/run/ovl/csi.sock"));
        assert_eq!(endpoint.to_string(), "unix:///run/ovl/csi.sock");
        assert_eq!("unix:///run//ovl/./csi.sock".parse(), Ok(endpoint));
        for bad in [
            "",
            "/run/csi.sock",
            "tcp://127.0.0.1:10000",
            "unix://run/csi.sock",
            "unix:///",
            "unix:///run/../csi.sock",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_driver_name_names_a_kubernetes_object() {
        let longest = "a".repeat(63);
        for good in ["ovl.csi.dev", "a", "0-1.b", &longest] {
            assert_eq!(good.parse::<DriverName>().unwrap().to_string(), good);
        }
        let too_long = "a".repeat(64);
        for bad in ["", ".", "a.", ".a", "a..b", "-a", "a-", "a/b", "A", "ä", "a b", &too_long] {
            assert!(bad.parse::<DriverName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_node_name_may_be_longer() {
        let longest = "a".repeat(253);
        assert!(longest.parse::<NodeName>().is_ok());
        for bad in ["", "Node", &"a".repeat(254)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }
}
