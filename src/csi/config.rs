//! The settings of the node service and of the controller service, checked when they are parsed.

use std::{
    fmt,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use crate::dns_name::{LABEL_MAX, is_subdomain};

/// What [`serve`](super::serve) needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The socket for CSI. The kubelet gets this path, so the path must be the same file for the kubelet and for the
    /// driver.
    pub endpoint: Endpoint,
    /// The kubelet's directory (its `--root-dir`). The kubelet watches `plugins_registry` in it for drivers.
    pub kubelet_dir: PathBuf,
    /// The name of the driver, as in the CSIDriver object.
    pub driver: DriverName,
    /// The name of the node, as in the Node object.
    pub node: NodeName,
    /// The version of the driver, for GetPluginInfo.
    pub version: &'static str,
    /// The address of `/healthz` and `/livez`.
    pub health: SocketAddr,
    /// The address of `/metrics`; `None` disables it.
    pub metrics: Option<SocketAddr>,
    /// The defaults for volumes.
    pub defaults: Defaults,
}

/// What [`serve_controller`](super::serve_controller) needs to know.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// The socket for CSI, for csi-snapshotter in the same pod.
    pub endpoint: Endpoint,
    /// The name of the driver, as in the CSIDriver object.
    pub driver: DriverName,
    /// The version of the driver, for GetPluginInfo.
    pub version: &'static str,
    /// The address of `/healthz` and `/livez`.
    pub health: SocketAddr,
    /// The address of `/metrics`; `None` disables it.
    pub metrics: Option<SocketAddr>,
    /// How long a call of DeleteSnapshot waits for the node of the snapshot. Shorter than the timeout of
    /// csi-snapshotter.
    pub removal_timeout: Duration,
}

/// The administrator's defaults for attributes that a pod does not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defaults {
    /// The limit for written bytes; `None` for no limit.
    pub size: Option<u64>,
    /// The limit for created files and directories; `None` for no limit.
    pub inodes: Option<u64>,
    /// Whether volumes on disk are mounted with `volatile`, so that writes are not synced.
    pub volatile: bool,
}

impl Config {
    /// The socket by which the kubelet finds the driver.
    ///
    /// The `@` in its name is needed. The kubelet's plugin watcher dials the bare path, and grpc-go makes it the
    /// authority of the request, with its slashes as `%2F`. A strict server, like this one, resets such a stream with
    /// PROTOCOL_ERROR, because RFC 3986 allows no `%` in a host name. The part before an `@` is user information, where
    /// `%` is allowed.
    pub(super) fn registration_socket(&self) -> PathBuf {
        self.kubelet_dir.join("plugins_registry").join(format!("reg@{}.sock", self.driver))
    }
}

/// An invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// The text is not an endpoint.
    #[error("{0:?} is not an endpoint: expected unix:// and an absolute path without '..'")]
    Endpoint(String),
    /// The text is not a driver name.
    #[error(
        "{0:?} is not a driver name: expected at most 63 lower-case letters, digits, '-' and '.', with a letter or \
         digit at the start and end of each part between dots"
    )]
    Driver(String),
    /// The text is not a node name.
    #[error(
        "{0:?} is not a node name: expected a name that `kubectl get nodes` shows, at most 253 lower-case letters, \
         digits, '-' and '.'"
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
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let refused = || SettingError::Endpoint(text.to_owned());
        let path = Path::new(text.strip_prefix("unix://").ok_or_else(refused)?);
        let plain =
            path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || path.file_name().is_none() {
            return Err(refused());
        }
        // Rebuilt without `//` and `/./`, because the kubelet gets this text.
        Ok(Self(path.components().collect()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// The name of a CSI driver: at most 63 characters (CSI spec, GetPluginInfo), and a DNS subdomain in lower case,
/// because it is also the name of a Kubernetes object. Safe as a part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverName(String);

impl FromStr for DriverName {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        if text.len() > LABEL_MAX || !is_subdomain(text) {
            return Err(SettingError::Driver(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a Kubernetes node: a DNS subdomain in lower case. At most 253 characters, which fits CSI's 256 bytes for
/// a node id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(String);

impl FromStr for NodeName {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        if !is_subdomain(text) {
            return Err(SettingError::Node(text.to_owned()));
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
    fn the_registration_socket_is_a_valid_authority_for_the_kubelet() {
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
        // As grpc-go's encodeAuthority writes this path: only its slashes are escaped.
        let path = config.registration_socket().display().to_string().replace('/', "%2F");
        assert!(path.parse::<Authority>().is_ok(), "{path}");
    }

    #[test]
    fn an_endpoint_is_an_absolute_unix_socket() {
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
    fn a_driver_name_is_a_dns_subdomain_of_at_most_63_characters() {
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
    fn a_node_name_has_at_most_253_characters() {
        let longest = "a".repeat(253);
        assert!(longest.parse::<NodeName>().is_ok());
        for bad in ["", "Node", &"a".repeat(254)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }
}
