//! Networks in which no server is contacted that the hosts directory does not name.

use std::{
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::IpNet;

/// An address, or a network as CIDR has it: `10.96.0.0/12`, `192.0.2.7`, `fd00::/108`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// Text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no network: expected an IP address, or one with the length of its prefix such as 10.96.0.0/12"
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

/// The networks that are refused now. Its clones are one list.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Arc<RwLock<Vec<Network>>>);

impl Refused {
    /// From now on these, and no others.
    pub(super) fn set(&self, networks: Vec<Network>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        let networks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        networks.iter().any(|network| network.0.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_as_people_write_them() {
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
