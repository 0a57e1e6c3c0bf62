//! Decides for each request whether it goes to the server itself or to a proxy.
//!
//! A proxy resolves names in our place, and it can reach addresses that are refused here. So a request goes to a proxy
//! only after the server has passed the rules of `addresses`:
//!
//! | server | a hosts file names its scheme, host and port | otherwise |
//! |---|---|---|
//! | a refused address | contacted itself | refused, by [`addresses::check`](super::addresses::check) |
//! | a name with a refused address among its addresses | contacted itself | refused |
//! | a name that does not resolve on this node | proxy | proxy if the policy of images or the hosts directory names the host, else refused |
//! | every other | proxy | proxy |
//!
//! A server that has no proxy is checked when the connection is made ([`Resolver`](super::addresses::Resolver)).
//! Deliberately absent: a defence against a name that means another address for the proxy than for this node. Only the
//! proxy can refuse that.

use std::{error::Error, net::IpAddr, time::Duration};

use reqwest::{
    Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::{net::lookup_host, time::timeout};

use super::{
    addresses::{address, refused_kind},
    error::{Problem, find},
    hosts::Hosts,
    proxy_fault::ProxyFault,
    refusal::Refusal,
};
use crate::{http_proxy::HttpProxies, registry_name};

/// The longest time for the addresses of a name. A name that takes longer does not resolve.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// The way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// To the server itself.
    Direct,
    /// To this proxy.
    Proxy(&'a Url),
}

impl<'a> Route<'a> {
    /// Finds the route of a request to `url`, which [`addresses::check`](super::addresses::check) has allowed.
    ///
    /// # Errors
    /// The server must not be contacted through its proxy.
    pub(super) async fn to(url: &Url, hosts: &'a Hosts) -> Result<Self, Refusal> {
        let Some(proxy) = hosts.proxies().of(url) else { return Ok(Self::Direct) };
        let found = match address(url) {
            Some(address) => vec![address],
            None => resolve(url.host_str().unwrap_or_default()).await,
        };
        let proxied = may_have_proxy(url, &found, hosts)?;
        Ok(if proxied { Self::Proxy(proxy) } else { Self::Direct })
    }

    /// Classifies the HTTP client's error about the request to `url`.
    pub(super) fn problem(self, url: &Url, error: reqwest::Error) -> Problem {
        match self {
            Self::Direct => Problem::of_request(error),
            Self::Proxy(proxy) => match fault(url, &error) {
                Some(fault) => problem(proxy, fault, Problem::root_cause(&error)),
                None => Problem::of_request(error),
            },
        }
    }

    /// Checks that the response is one of the server, not one of a proxy that requires a password.
    pub(super) fn check(self, response: &Response) -> Result<(), Problem> {
        match self {
            Self::Proxy(proxy)
                if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED =>
            {
                Err(problem(proxy, ProxyFault::Password, "HTTP 407".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the request to `url` goes to its proxy, by the addresses that were `found` for its host; none if the name does
/// not resolve.
fn may_have_proxy(url: &Url, found: &[IpAddr], hosts: &Hosts) -> Result<bool, Refusal> {
    let host = url.host_str().unwrap_or_default();
    let refused = found.iter().find_map(|address| refused_kind(*address, hosts.refused()));
    match refused {
        Some(_) if hosts.names(url) => Ok(false),
        Some(kind) => Err(Refusal::Address { host: registry_name::of_url(url), kind }),
        None if found.is_empty() && !hosts.knows(host) => {
            Err(Refusal::Unresolved { host: host.to_owned() })
        }
        None => Ok(true),
    }
}

/// The addresses of a name; none if it does not resolve in time.
async fn resolve(host: &str) -> Vec<IpAddr> {
    match timeout(LOOKUP_TIME, lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        _ => Vec::new(),
    }
}

fn problem(proxy: &Url, fault: ProxyFault, why: String) -> Problem {
    Problem::Proxy { proxy: registry_name::of_url(proxy), fault, why }
}

/// What is wrong with the proxy; `None` if the error is about the server or the connection to it.
fn fault(url: &Url, error: &reqwest::Error) -> Option<ProxyFault> {
    let unreachable = || match find::<rustls::Error>(error) {
        Some(rustls::Error::InvalidMessage(_)) => ProxyFault::NoTls,
        Some(_) => ProxyFault::Certificate,
        None => ProxyFault::Unreachable,
    };
    match tunnel(error).as_deref() {
        Some("proxy authorization required") => Some(ProxyFault::Password),
        Some("failed to create underlying connection") => Some(unreachable()),
        Some(_) => Some(ProxyFault::NoConnection),
        // A request by plain http has no tunnel: every connection is one to the proxy.
        None if error.is_connect() && url.scheme() == "http" => Some(unreachable()),
        // The proxy did not connect to the server in time.
        None if error.is_connect() && error.is_timeout() => Some(ProxyFault::NoConnection),
        None => None,
    }
}

/// The text of an error of the tunnel through a proxy. The HTTP library has no public type for these errors. A text that is
/// unknown here counts as [`ProxyFault::NoConnection`], which is true for each of them.
fn tunnel(error: &(dyn Error + 'static)) -> Option<String> {
    let text = error.to_string();
    let found = text.strip_prefix("tunnel error: ").map(str::to_owned);
    found.or_else(|| error.source().and_then(tunnel))
}

/// Resolves the hosts of the proxies and no other names. If the HTTP library ignored a proxy, it would connect to a server
/// that was checked only for the proxy.
#[derive(Debug, Clone)]
pub(super) struct ProxyResolver(pub(super) HttpProxies);

impl Resolve for ProxyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_proxy = self.0.all().any(|proxy| proxy.host_str() == Some(name.as_str()));
        Box::pin(async move {
            if !is_proxy {
                return Err("it is not the host of a proxy".into());
            }
            let found: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
