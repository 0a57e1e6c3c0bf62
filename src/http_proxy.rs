//! The proxies of HTTP requests: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, with the rules of Go's `httpproxy`, which
//! containerd and the kubelet use.
//!
//! The name of a variable in capitals has priority over the one in lower case. `NO_PROXY` is a list with commas:
//!
//! | entry | requests without a proxy |
//! |---|---|
//! | `*` | all |
//! | `10.0.0.0/8` | to addresses of that network; a host name is never resolved for this |
//! | `192.0.2.1`, `192.0.2.1:5000`, `[fd00::1]:5000` | to that address, and that port if there is one |
//! | `corp.example`, `corp.example:5000` | to that host and the hosts below it |
//! | `.corp.example`, `*.corp.example` | to the hosts below it only |
//!
//! `localhost` and loopback addresses never have a proxy. Deliberately absent: SOCKS, `ALL_PROXY`, and entries that Go
//! ignores.

use std::{env, fmt, net::IpAddr};

use ipnet::IpNet;
use url::Url;

use crate::{error::Class, registry_name};

/// The proxies of this process. The default is none. `Debug` does not show passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpProxies {
    https: Option<Url>,
    http: Option<Url>,
    direct: Vec<Direct>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    Network(IpNet),
    Address(IpAddr, Option<String>),
    /// The hosts that end with `suffix`, which begins with a dot; with `itself` also the host that is named so.
    Domain {
        suffix: String,
        itself: bool,
        port: Option<String>,
    },
}

/// A variable does not contain the URL of a proxy. The message does not contain its value, which can have a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not the URL of a proxy; write http://HOST:PORT or https://HOST:PORT (SOCKS proxies are not supported)"
)]
pub struct ProxyError(&'static str);

impl ProxyError {
    /// Always the fault of the environment.
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}

impl HttpProxies {
    /// The proxies of the environment.
    ///
    /// # Errors
    /// [`ProxyError`] for the URL of a proxy that cannot be used.
    pub fn from_env() -> Result<Self, ProxyError> {
        Self::from_variables(|name| env::var(name).ok())
    }

    /// The same with `variable` as the environment.
    ///
    /// # Errors
    /// [`ProxyError`] for the URL of a proxy that cannot be used.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let first = |name: &str| {
            let value = |name: &str| variable(name).filter(|value| !value.is_empty());
            value(name).or_else(|| value(&name.to_ascii_lowercase())).unwrap_or_default()
        };
        Ok(Self {
            https: proxy("HTTPS_PROXY", &first("HTTPS_PROXY"))?,
            http: proxy("HTTP_PROXY", &first("HTTP_PROXY"))?,
            direct: direct(&first("NO_PROXY")),
        })
    }

    /// Each proxy once: first the one for https, then the one for http.
    pub fn all(&self) -> impl Iterator<Item = &Url> {
        let http = self.http.as_ref().filter(|http| self.https.as_ref() != Some(*http));
        self.https.iter().chain(http)
    }

    /// The proxy for requests by https.
    pub fn https(&self) -> Option<&Url> {
        self.https.as_ref()
    }

    /// The proxy for requests by http.
    pub fn http(&self) -> Option<&Url> {
        self.http.as_ref()
    }

    /// The proxy for a request to `url`; `None` for a request to the server itself.
    pub fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref()?,
            "http" => self.http.as_ref()?,
            _ => return None,
        };
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default()?.to_string();
        let address = host.parse::<IpAddr>().ok();
        let is_local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let is_direct = is_local || self.direct.iter().any(|it| it.matches(host, address, &port));
        (!is_direct).then_some(proxy)
    }
}

impl fmt::Debug for HttpProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [https, http] =
            [&self.https, &self.http].map(|url| url.as_ref().map(registry_name::of_url));
        write!(f, "HttpProxies {{ https: {https:?}, http: {http:?}, direct: {:?} }}", self.direct)
    }
}

/// Parses the URL of a proxy. Without a scheme it is http. `None` for an empty text.
fn proxy(name: &'static str, text: &str) -> Result<Option<Url>, ProxyError> {
    if text.is_empty() {
        return Ok(None);
    }
    let spelled = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&spelled).map_err(|_| ProxyError(name))?;
    let is_usable = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    is_usable.then_some(Some(url)).ok_or(ProxyError(name))
}

/// Parses `NO_PROXY`.
fn direct(list: &str) -> Vec<Direct> {
    let entries = list.split(',').map(|entry| entry.trim().to_lowercase());
    entries.filter_map(|entry| Direct::parse(&entry)).collect()
}

impl Direct {
    /// Parses an entry in lower case. `None` for one without a host.
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        if let (true, Ok(network)) = (entry.contains('/'), entry.parse()) {
            return Some(Self::Network(network));
        }
        let (host, port) = match entry.rsplit_once(':') {
            // An IPv6 address without a port has colons too.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.to_owned()).filter(|port| !port.is_empty()))
            }
            _ => (entry, None),
        };
        let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = inside.unwrap_or(host).parse() {
            return Some(Self::Address(address, port));
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let name = host.strip_prefix('.').unwrap_or(host);
        let suffix = format!(".{name}");
        (!name.is_empty()).then_some(Self::Domain { suffix, itself: name == host, port })
    }

    fn matches(&self, host: &str, address: Option<IpAddr>, at: &str) -> bool {
        let is_port = |port: &Option<String>| port.as_deref().is_none_or(|port| port == at);
        match (self, address) {
            (Self::All, _) => true,
            (Self::Network(network), Some(address)) => network.contains(&address.to_canonical()),
            (Self::Address(own, port), Some(address)) => {
                own.to_canonical() == address.to_canonical() && is_port(port)
            }
            (Self::Domain { suffix, itself, port }, None) => {
                let is_host = host.ends_with(suffix.as_str()) || *itself && host == &suffix[1..];
                is_host && is_port(port)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<HttpProxies, ProxyError> {
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name);
        HttpProxies::from_variables(|name| value(name).map(|(_, value)| (*value).to_owned()))
    }

    /// Whether a request goes to the server itself with this `NO_PROXY`.
    fn is_direct(list: &str, url: &str) -> bool {
        let proxies = of(&[("HTTPS_PROXY", "p:1"), ("HTTP_PROXY", "p:1"), ("NO_PROXY", list)]);
        proxies.unwrap().of(&Url::parse(url).unwrap()).is_none()
    }

    #[test]
    fn each_scheme_has_its_proxy_and_capitals_have_priority() {
        let both = of(&[
            ("HTTPS_PROXY", "https://secure.example:3129"),
            ("https_proxy", "http://ignored.example"),
            ("HTTP_PROXY", ""),
            ("http_proxy", "user:pass@plain.example:3128"),
            ("ALL_PROXY", "http://ignored.example"),
        ]);
        let both = both.unwrap();
        let server = |url: &str| both.of(&Url::parse(url).unwrap()).map(registry_name::of_url);
        assert_eq!(server("https://r.io/v2/").as_deref(), Some("secure.example:3129"));
        assert_eq!(server("http://r.io/v2/").as_deref(), Some("plain.example:3128"));
        assert_eq!(server("ftp://r.io/v2/"), None);
        assert!(!format!("{both:?}").contains("pass"), "{both:?}");
        assert_eq!(both.all().count(), 2);
        let one = of(&[("HTTPS_PROXY", "p:1"), ("https_proxy", "p:2")]).unwrap();
        assert_eq!(one.all().map(registry_name::of_url).collect::<Vec<_>>(), ["p:1"]);
        assert_eq!(one.of(&Url::parse("http://r.io").unwrap()), None);
        assert_eq!(of(&[]).unwrap(), HttpProxies::default());
    }

    #[test]
    fn the_error_of_an_unusable_proxy_names_the_variable_and_not_its_value() {
        for value in ["socks5://p:1080", "http://", "ftp://p", "http://u:hunter2@p:99999", "a b"] {
            let error = of(&[("http_proxy", value)]).unwrap_err().to_string();
            assert!(error.starts_with("HTTP_PROXY is not the URL of a proxy"), "{value}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn no_proxy_has_the_rules_of_go() {
        for (list, url, expected) in [
            ("", "https://r.io", false),
            ("", "https://localhost:5000", true),
            ("", "http://127.0.0.9:5000", true),
            ("", "http://[::1]:5000", true),
            ("", "http://a.localhost", false),
            ("*", "https://r.io", true),
            ("x.io, *", "https://192.0.2.1", true),
            ("r.io", "https://r.io", true),
            ("R.IO", "https://r.io:5000", true),
            ("r.io", "https://a.r.io", true),
            ("r.io", "https://bar.io", false),
            (".r.io", "https://r.io", false),
            (".r.io", "https://a.b.r.io", true),
            ("*.r.io", "https://a.r.io", true),
            ("*.r.io", "https://r.io", false),
            ("*r.io", "https://r.io", false),
            ("r.io:443", "https://r.io", true),
            ("r.io:443", "http://r.io", false),
            ("r.io:80", "http://r.io", true),
            ("r.io:5000", "https://a.r.io:5000", true),
            (".r.io:5000", "https://a.r.io", false),
            ("r.io:", "https://r.io:9", true),
            (" a.io ,\tr.io ", "https://r.io", true),
            (",:80,.,", "https://r.io", false),
            ("10.0.0.0/8", "https://10.1.2.3:5000", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("10.0.0.0/8", "https://[::ffff:10.1.2.3]", true),
            ("10.1.2.3/8", "https://10.9.9.9", true),
            ("fd00::/8", "https://[fd12::1]:5000", true),
            ("0.0.0.0/0", "https://r.io", false),
            ("192.0.2.1", "https://192.0.2.1:5000", true),
            ("192.0.2.1:5000", "https://192.0.2.1:5000", true),
            ("192.0.2.1:5000", "https://192.0.2.1", false),
            ("fd00::1", "https://[fd00::1]:5000", true),
            ("[fd00::1]:5000", "https://[fd00::1]:5000", true),
            ("[fd00::1]:5000", "https://[fd00::1]", false),
            (".2.1", "https://192.0.2.1", false),
        ] {
            assert_eq!(is_direct(list, url), expected, "{list:?} {url}");
        }
    }
}
