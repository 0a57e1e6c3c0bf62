//! Networks and addresses that are never contacted, except for servers that the hosts directory names.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use parking_lot::RwLock;

/// An address or a network in CIDR notation: `10.96.0.0/12`, `192.0.2.7`, `fd00::/108`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// The text is not an address and not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a network; write an IP address, or a network with its prefix length such as 10.96.0.0/12"
)]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self).map_err(|_| NetworkError(text.chars().take(100).collect()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The networks and addresses that are refused now. All clones share the lists.
#[derive(Debug, Clone, Default)]
pub(super) struct RefusedNetworks(Arc<RwLock<Lists>>);

#[derive(Debug, Default)]
struct Lists {
    networks: Vec<Network>,
    /// The node's own addresses.
    own: Vec<IpAddr>,
}

impl RefusedNetworks {
    /// Replaces the networks.
    pub(super) fn set(&self, networks: Vec<Network>) {
        self.0.write().networks = networks;
    }

    /// Replaces the node's own addresses.
    pub(super) fn set_own(&self, addresses: Vec<IpAddr>) {
        self.0.write().own = addresses;
    }

    /// Why an address is refused, as a part of a message. `None` if it is not.
    pub(super) fn kind(&self, address: IpAddr) -> Option<&'static str> {
        let lists = self.0.read();
        if lists.own.contains(&address) {
            return Some("an address of this node");
        }
        let refused = lists.networks.iter().any(|network| network.0.contains(&address));
        refused.then_some(
            "in a network of the cluster (its Services, its API server, or policy.refusedNetworks)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed_from_addresses_and_cidr_notation() {
        for (text, shown) in [
            ("10.96.0.0/12", "10.96.0.0/12"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("fd00::/108", "fd00::/108"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
        for text in ["", "10.96.0.0/33", "10.96/12", "r.io", "10.0.0.1:5000"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
