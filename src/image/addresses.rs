//! Decides which addresses a pull or push may contact.
//!
//! The author of a pod chooses the image, and the responses of a registry choose further addresses (redirects, token
//! realms, upload locations). Neither may lead this privileged process to the node's own services or to a cloud's
//! metadata service. Every hop is checked before the connection: addresses in URLs by [`check`], host names by
//! [`Resolver`] at the moment of their resolution. So a name cannot resolve to one address for the check and to another
//! for the connection. Names that a proxy resolves are checked by `route`.
//!
//! Only servers in the hosts directory, with their scheme and port, are exempt. The node's own addresses, the networks
//! of the cluster's own Services and the addresses of its API server are refused too (`networks`). A service that
//! listens on all addresses is otherwise reachable at the node's address in its network, and firewalls of nodes do not
//! filter what a node sends to itself. Deliberately absent: a refusal of
//! other private networks (10.0.0.0/8 and the like), because an organisation's own registry is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::{hosts::Hosts, networks::RefusedNetworks, refusal::Refusal};
use crate::registry_name;

/// The source of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The reference, or a hosts file.
    Registry,
    /// A `Location` of the registry.
    Redirect,
    /// A `WWW-Authenticate` of the registry.
    Realm,
    /// The `Location` of an upload.
    Upload,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Registry => "the registry",
            Self::Redirect => "a redirect",
            Self::Realm => "the token realm",
            Self::Upload => "the upload location",
        }
    }
}

/// Checks that a secret may be sent to the realm `to`, which [`check`] has allowed.
///
/// # Errors
/// The [`Refusal`] to report.
pub(super) fn check_secret(to: &Url, hosts: &Hosts) -> Result<(), Refusal> {
    if to.scheme() == "https" || hosts.names(to) {
        return Ok(());
    }
    Err(Refusal::Plain { host: to.host_str().unwrap_or_default().to_owned() })
}

/// Checks that `to` may be contacted. `from` is the URL whose response led to it; `None` for the registry itself.
///
/// # Errors
/// The [`Refusal`] to report; no connection has been made.
pub(super) fn check(
    role: Role,
    from: Option<&Url>,
    to: &Url,
    hosts: &Hosts,
) -> Result<(), Refusal> {
    let host = || to.host_str().unwrap_or_default().to_owned();
    let downgrade = to.scheme() == "http" && from.is_some_and(|from| from.scheme() != "http");
    if downgrade || !matches!(to.scheme(), "http" | "https") {
        let scheme = to.scheme().to_owned();
        return Err(Refusal::Scheme { role: role.name(), host: host(), scheme });
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err(Refusal::Credentials { role: role.name(), host: host() });
    }
    match address(to).and_then(|address| refused_kind(address, hosts.refused())) {
        Some(kind) if !hosts.names(to) => {
            Err(Refusal::Address { host: registry_name::of_url(to), kind })
        }
        _ => Ok(()),
    }
}

/// The IP address in a URL; `None` for a host name, which the resolver checks.
pub(super) fn address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The kind of an address that is refused; `None` for an allowed one. Checks the IPv4 addresses inside an IPv6 address
/// too.
pub(super) fn refused_kind(address: IpAddr, refused: &RefusedNetworks) -> Option<&'static str> {
    let mut all = with_embedded(address).into_iter();
    all.find_map(|address| kind(address).or_else(|| refused.kind(address)))
}

/// The kind of an address that is refused in every cluster. `METADATA` has the metadata services of clouds that do not
/// use a link-local address.
fn kind(address: IpAddr) -> Option<&'static str> {
    const METADATA: [IpAddr; 5] = [
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    ];
    let (link_local, this_host) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[0] == 0),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_unspecified()),
    };
    match address {
        _ if METADATA.contains(&address) => Some("a cloud's metadata address"),
        _ if address.is_loopback() || this_host => Some("a loopback address"),
        _ if link_local => Some("a link-local address"),
        _ if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) => {
            Some("a multicast address")
        }
        _ => None,
    }
}

/// The address itself, and the IPv4 addresses to which the kernel, a translator or a tunnel may turn it: mapped (RFC
/// 4291, 2.5.5.2), translated (`::ffff:0:0:0/96`, RFC 2765), NAT64's well-known prefix (RFC 6052), NAT64's local prefix
/// (`64:ff9b:1::/48`, RFC 8215) with each prefix length in it that RFC 6052 (2.2) allows, and 6to4 (RFC 3056). Only the
/// network knows the length of its local prefix, so every position of the IPv4 address is checked.
fn with_embedded(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else { return vec![address] };
    let octets = v6.octets();
    let at = |places: [usize; 4]| IpAddr::V4(Ipv4Addr::from(places.map(|place| octets[place])));
    let last = at([12, 13, 14, 15]);
    let inside = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            vec![last]
        }
        [0x64, 0xff9b, 1, ..] => {
            // Octet 8 is skipped for every prefix length. An address that starts with 0 is at the wrong position:
            // nothing is translated to 0.0.0.0/8.
            let places = [[12, 13, 14, 15], [6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12]];
            let is_possible = |place: &[usize; 4]| octets[place[0]] != 0;
            places.into_iter().filter(is_possible).map(at).collect()
        }
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        _ => Vec::new(),
    };
    // The kernel treats a mapped address as the IPv4 address only.
    let itself = matches!(address.to_canonical(), IpAddr::V6(_)).then_some(address);
    itself.into_iter().chain(inside).collect()
}

/// Resolves host names, without the refused addresses. Used for every server that the hosts directory does not name.
#[derive(Debug, Clone)]
pub(super) struct Resolver(pub(super) RefusedNetworks);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let refused = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = allowed(name.as_str(), found, &refused)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Removes the refused addresses.
///
/// # Errors
/// A [`Refusal`] if all addresses are refused.
fn allowed(
    name: &str,
    found: Vec<SocketAddr>,
    refused: &RefusedNetworks,
) -> Result<Vec<SocketAddr>, Refusal> {
    let kind = |address: &SocketAddr| refused_kind(address.ip(), refused);
    let bad = found.iter().find_map(kind);
    let good: Vec<_> = found.into_iter().filter(|address| kind(address).is_none()).collect();
    match bad {
        Some(kind) if good.is_empty() => Err(Refusal::Address { host: name.to_owned(), kind }),
        _ => Ok(good),
    }
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
