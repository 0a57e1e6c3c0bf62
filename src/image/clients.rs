//! The HTTP clients. Each TLS setting of the hosts directory has its own.
//!
//! No client follows a redirect, and only [`Clients::proxied`] uses a proxy, so `addresses` and `route` decide about every
//! connection.

use std::{net::IpAddr, time::Duration};

use reqwest::{Client, ClientBuilder, Proxy, Url, redirect};

use super::{
    addresses::{Resolver, address},
    error::{self, Problem},
    hosts::Hosts,
    route::{ProxyResolver, Route},
    tls::TlsSettings,
};
use crate::{error::Class, http_proxy::HttpProxies};

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Largest number of idle connections per server.
const IDLE_MAX: usize = 8;

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for registries cannot be set up: {}", Problem::root_cause(.0))]
pub struct SetUpError(reqwest::Error);

impl SetUpError {
    /// Whether TLS is the cause, for example a missing CA certificate.
    pub(super) fn is_tls(&self) -> bool {
        error::find::<rustls::Error>(&self.0).is_some()
    }

    /// Always [`Class::Internal`].
    pub fn class(&self) -> Class {
        Class::Internal
    }
}

/// The CAs that are trusted without a hosts file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trust {
    /// The system's CAs: the files of `SSL_CERT_FILE` and `SSL_CERT_DIR`, otherwise the usual files beneath /etc/ssl.
    /// They are read once, when the client is set up.
    System,
    /// No CA: every https connection fails. Reads no file.
    NoCa,
}

/// The clients for one TLS setting.
#[derive(Debug)]
pub(super) struct Clients {
    /// For servers that the hosts directory names: all addresses are allowed.
    configured: Client,
    /// For all other servers: the policy refuses addresses.
    strict: Client,
    /// For requests to proxies. `None` without a proxy.
    proxied: Option<Client>,
    skip_verify: bool,
}

impl Clients {
    pub(super) fn new(
        settings: &TlsSettings,
        hosts: &Hosts,
        trust: Trust,
    ) -> Result<Self, SetUpError> {
        let build = || {
            let client = || settings.apply(client(trust));
            let strict = client()?.dns_resolver(Resolver(hosts.refused().clone())).build()?;
            let proxied = proxied(client()?, hosts.proxies())?;
            let skip_verify = settings.skip_verify;
            Ok(Self { configured: client()?.build()?, strict, proxied, skip_verify })
        };
        build().map_err(SetUpError)
    }

    /// The client for a request to `url` by this route.
    pub(super) fn of(
        &self,
        url: &Url,
        route: Route<'_>,
        hosts: &Hosts,
    ) -> Result<&Client, Problem> {
        match route {
            Route::Direct if hosts.names(url) => Ok(&self.configured),
            Route::Direct => Ok(&self.strict),
            Route::Proxy(proxy) if proxy.scheme() == "https" && self.skip_verify => {
                Err(Problem::Unsupported(
                    "skip_verify cannot be used through an https proxy, because the proxy's certificate would not be \
                     verified either; give the server's CA instead (ca in its hosts.toml), or name the server in \
                     NO_PROXY",
                ))
            }
            // reqwest takes the brackets for a part of the name that the certificate must have.
            Route::Proxy(_) if url.scheme() == "https" && is_ipv6(url) => {
                Err(Problem::Unsupported(
                    "a server with an IPv6 address as its name cannot be contacted by https through a proxy; use a \
                     host name, or name the address in NO_PROXY",
                ))
            }
            Route::Proxy(_) => self.proxied.as_ref().ok_or(NO_CLIENT),
        }
    }
}

/// The problem of a server whose TLS setting or route has no client.
pub(super) const NO_CLIENT: Problem =
    Problem::Unsupported("the driver has no HTTP client for the server");

fn is_ipv6(url: &Url) -> bool {
    matches!(address(url), Some(IpAddr::V6(_)))
}

fn client(trust: Trust) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("ovl-csi/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(IDLE_MAX)
        .connect_timeout(CONNECT_TIME);
    match trust {
        Trust::System => builder,
        Trust::NoCa => builder.tls_certs_only([]),
    }
}

fn proxied(
    mut builder: ClientBuilder,
    proxies: &HttpProxies,
) -> Result<Option<Client>, reqwest::Error> {
    if proxies.all().next().is_none() {
        return Ok(None);
    }
    builder = builder.dns_resolver(ProxyResolver(proxies.clone()));
    if let Some(url) = proxies.https() {
        builder = builder.proxy(Proxy::https(url.clone())?);
    }
    if let Some(url) = proxies.http() {
        builder = builder.proxy(Proxy::http(url.clone())?);
    }
    builder.build().map(Some)
}
