//! The names of registries: `host[:port]`, each in one canonical form.
//!
//! Deliberately absent: the registry of a reference that names none (`reference`), and the servers to which the requests
//! for a registry go (`image`).

use std::net::Ipv6Addr;

use url::{Host, Url};

/// Docker Hub in references.
pub const DOCKER_HUB: &str = "docker.io";

/// Other names of Docker Hub: `docker login` writes the first, and the second is the server itself.
pub const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Checks a registry's `host[:port]` and returns its canonical form: lower-case, and one name for Docker Hub. `None` for
/// text that is not a host name, an IPv4 address or an IPv6 address in brackets, with a port of 1 to 65535 if any.
pub fn canonical(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (host, port) = split_port(&lower);
    let host = canonical_host(host)?;
    let port_is_good = port.is_none_or(|port| {
        !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !is_registry(&lower) || !port_is_good {
        return None;
    }
    if is_docker_hub(&host, port) {
        return Some(DOCKER_HUB.to_owned());
    }
    Some(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
}

/// Whether the first part of a reference is a registry and not a directory of the default one. Docker's rule: a registry
/// has a dot or a colon, or is `localhost`.
pub fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

/// `host[:port]` of a URL. The default port of its scheme is left out.
pub fn of_url(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Splits a server into its host and, if there is one, its port.
pub fn split_port(server: &str) -> (&str, Option<&str>) {
    match server.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (server, None),
    }
}

/// Whether it is Docker Hub, by any of its names. 443 is the port of https.
fn is_docker_hub(host: &str, port: Option<&str>) -> bool {
    (host == DOCKER_HUB || DOCKER_HUB_ALIASES.contains(&host)) && matches!(port, None | Some("443"))
}

/// The host as a URL parser writes it. A name must be one that the parser does not change: it reads `127.1` and
/// `0x7f.0.0.1` as addresses, and a name must not mean one host here and another in a request. An IPv6 address has
/// several spellings (RFC 5952); the parser's one is kept.
fn canonical_host(host: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = inside.is_some_and(|inside| inside.parse::<Ipv6Addr>().is_ok());
    let parsed = Host::parse(host).ok()?.to_string();
    let is_valid = is_address || host.split('.').all(is_label) && parsed == host;
    is_valid.then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_request_would_understand_differently_is_refused() {
        for text in [
            "127.1",
            "0x7f.0.0.1",
            "2130706433:80",
            "r.io:05000",
            "r.io:0",
            "r.io:+1",
            "r.io:65536",
            "r.io:",
            "a..b",
            "r_x.io",
            "[fe80::1%25eth0]",
            "[::1",
            "xn--a.io",
            "user@r.io",
            "r.io/a",
            "plain",
            "",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }
}
