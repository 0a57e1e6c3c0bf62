//! Whom a pull or push may contact.
//!
//! A pod's author chooses the image, and a registry's answers choose further addresses (redirects, token
//! realms, places for uploads); a privileged process must not be led by either to the node's own services or to
//! a cloud's metadata.
//! Every hop is judged here before a connection is made: addresses in URLs by [`check`], names by [`Resolver`]
//! at the moment they become addresses, so that a name cannot be checked as one address and used as another.
//!
//! Only what somebody wrote into the hosts folder, with scheme and port, is beyond suspicion. The networks of the cluster's own
//! Services and the addresses of its API server are refused as well (`networks`). Deliberately absent: other private networks
//! (10.0.0.0/8 and the like) are not refused, an organisation's own registry lives there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::{error::server, hosts::Hosts, networks::Refused};

/// What sends a pull to a URL.
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

impl Refusal {
    /// The same about `url`, of which a resolver sees the name alone.
    pub(super) fn of(self, url: Option<&Url>) -> Self {
        match (self, url) {
            (Self::Address { kind, .. }, Some(url)) => Self::Address { host: server(url), kind },
            (other, _) => other,
        }
    }
}

impl Role {
    fn words(self) -> &'static str {
        match self {
            Self::Registry => "the registry",
            Self::Redirect => "a redirect",
            Self::Realm => "the token realm",
            Self::Upload => "the place for the upload",
        }
    }
}

/// A host that is not contacted, and why. Never more of a URL than its host: queries hold signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// From https to http, or a scheme that is neither.
    #[error("{role} leads to {host} by {scheme}, which is not protected; only https is followed")]
    Scheme {
        /// What leads there.
        role: &'static str,
        /// Where.
        host: String,
        /// By what.
        scheme: String,
    },
    /// An address of the node itself, of its link, of a cloud's metadata, or of the cluster's own.
    #[error(
        "{host} is {kind}; it is contacted only if the node's registry hosts folder has a hosts.toml with its URL, in the \
         chart's values: registries: {{\"{host}\": 'server = \"https://{host}\"'}}"
    )]
    Address {
        /// The host as written, with its port where that is known.
        host: String,
        /// `a loopback address` and the like.
        kind: &'static str,
    },
    /// A URL with a user name or password.
    #[error(
        "{role} leads to {host} with a user name or password in its URL; such URLs are not followed"
    )]
    Credentials {
        /// What leads there.
        role: &'static str,
        /// Where.
        host: String,
    },
    /// A secret on its way over plain http.
    #[error(
        "the token realm leads to {host} by http, by which no secret is sent unless the node's registry hosts \
         folder has a hosts.toml with its URL"
    )]
    Plain {
        /// Where.
        host: String,
    },
}

/// Whether a secret may be sent to the realm `to`, which [`check`] has passed.
///
/// # Errors
/// The [`Refusal`] to show.
pub(super) fn check_secret(to: &Url, hosts: &Hosts) -> Result<(), Refusal> {
    if to.scheme() == "https" || hosts.names(to) {
        return Ok(());
    }
    Err(Refusal::Plain { host: to.host_str().unwrap_or_default().to_owned() })
}

/// Whether `to` may be contacted, coming from `from` (the URL that sent us; `None` for the registry itself).
///
/// # Errors
/// The [`Refusal`] to show; nothing has been connected.
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
        return Err(Refusal::Scheme { role: role.words(), host: host(), scheme });
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err(Refusal::Credentials { role: role.words(), host: host() });
    }
    match address(to).and_then(|address| special(address, hosts.refused())) {
        Some(kind) if !hosts.names(to) => Err(Refusal::Address { host: server(to), kind }),
        _ => Ok(()),
    }
}

/// The address that a URL spells out; a name is the resolver's.
fn address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What kind of address, if it is one that nobody's registry should need, in any of the forms that it may be meant in.
fn special(address: IpAddr, refused: &Refused) -> Option<&'static str> {
    const CLUSTER: &str = "of a network that the cluster keeps for itself (its Services, its API server, or policy.refusedNetworks)";
    let of_cluster = |address: IpAddr| refused.has(address).then_some(CLUSTER);
    meant(address).into_iter().find_map(|address| kind(address).or_else(|| of_cluster(address)))
}

/// The fixed ones are the metadata services of clouds that do not use a link-local address.
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

/// The address itself, and the IPv4 addresses to which a translator or a tunnel on the way may turn it: mapped (RFC 4291,
/// 2.5.5.2), translated (`::ffff:0:0:0/96`, RFC 2765), NAT64's well-known prefix (RFC 6052), NAT64's local prefix
/// (`64:ff9b:1::/48`, RFC 8215) with each length of prefix in it that RFC 6052 (2.2) knows, and 6to4 (RFC 3056). How long
/// the local prefix is only its network knows, so every place where the address may stand is looked at.
fn meant(address: IpAddr) -> Vec<IpAddr> {
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
            // Octet 8 is skipped, whatever the length. What begins with 0 stands at the wrong place: nothing is translated
            // to 0.0.0.0/8.
            let places = [[12, 13, 14, 15], [6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12]];
            let stands = |place: &[usize; 4]| octets[place[0]] != 0;
            places.into_iter().filter(stands).map(at).collect()
        }
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        _ => Vec::new(),
    };
    // A mapped address is an IPv4 address to the kernel, and none beside it.
    let itself = matches!(address.to_canonical(), IpAddr::V6(_)).then_some(address);
    itself.into_iter().chain(inside).collect()
}

/// Names to addresses, without the special ones. For every server that the hosts folder does not name.
#[derive(Debug, Clone)]
pub(super) struct Resolver(pub(super) Refused);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let refused = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let admitted = admit(name.as_str(), found, &refused)?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// The addresses that may be used. Some refused are left out; all of them refused is a [`Refusal`].
fn admit(
    name: &str,
    found: Vec<SocketAddr>,
    refused: &Refused,
) -> Result<Vec<SocketAddr>, Refusal> {
    let kind = |address: &SocketAddr| special(address.ip(), refused);
    let bad = found.iter().find_map(kind);
    let good: Vec<_> = found.into_iter().filter(|address| kind(address).is_none()).collect();
    match bad {
        Some(kind) if good.is_empty() => Err(Refusal::Address { host: name.to_owned(), kind }),
        _ => Ok(good),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
