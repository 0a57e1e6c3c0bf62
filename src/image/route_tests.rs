//! Which servers are contacted through a proxy.

use super::*;
use crate::image::addresses::{Role, check};

/// A directory that names two servers, and a policy that names two registries.
fn hosts() -> Hosts {
    let dir = tempfile::tempdir().unwrap();
    for (name, server) in
        [("named.io", "https://named.io:5000"), ("10.96.0.7_5000_", "https://10.96.0.7:5000")]
    {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        let text = format!("server = \"{server}\"");
        std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
    }
    let variables = |name: &str| (name == "HTTPS_PROXY").then(|| "proxy.io:3128".to_owned());
    let proxies = HttpProxies::from_variables(variables).unwrap();
    let known = ["docker.io", "k.io:5000"].map(str::to_owned);
    let hosts = Hosts::load(dir.path()).unwrap().with_proxies(proxies, known);
    hosts.refused().set(vec!["10.96.0.0/12".parse().unwrap()]);
    hosts
}

#[test]
fn a_server_has_a_proxy_only_if_all_of_its_addresses_are_allowed() {
    let hosts = hosts();
    let (proxy, direct) = (Ok(true), Ok(false));
    for (to, found, expected) in [
        ("https://r.io", &["192.0.2.1", "2001:db8::1"][..], proxy),
        ("https://192.0.2.1", &["192.0.2.1"], proxy),
        ("https://r.io", &["169.254.169.254"], Err("a link-local address")),
        ("https://r.io", &["192.0.2.1", "169.254.169.254"], Err("a link-local address")),
        ("https://r.io", &["10.96.3.3"], Err("a network of the cluster")),
        ("https://r.io", &["192.0.2.1", "::ffff:127.0.0.1"], Err("a loopback address")),
        ("https://r.io", &["64:ff9b::a9fe:a9fe"], Err("a link-local address")),
        ("https://r.io", &[], Err("r.io does not resolve on this node")),
        // Named by the policy: its host counts, and not its port.
        ("https://registry-1.docker.io", &[], proxy),
        ("https://k.io", &[], proxy),
        ("https://k.io", &["169.254.169.254"], Err("a link-local address")),
        ("https://sub.k.io", &[], Err("sub.k.io does not resolve on this node")),
        ("https://docker.io.evil.io", &[], Err("does not resolve on this node")),
        // Named by the directory: a refused address is contacted, but only there.
        ("https://named.io:5000", &["192.0.2.1"], proxy),
        ("https://named.io:5000", &[], proxy),
        ("https://named.io:5000", &["10.96.0.9"], direct),
        ("https://named.io:5000", &["192.0.2.1", "10.96.0.9"], direct),
        ("https://10.96.0.7:5000", &["10.96.0.7"], direct),
        ("https://named.io", &[], proxy),
        ("https://named.io", &["10.96.0.9"], Err("a network of the cluster")),
    ] {
        let found: Vec<_> = found.iter().map(|address| address.parse().unwrap()).collect();
        let shown = may_have_proxy(&Url::parse(to).unwrap(), &found, &hosts);
        match expected {
            Ok(expected) => assert_eq!(shown, Ok(expected), "{to} {found:?}"),
            Err(words) => {
                let shown = shown.unwrap_err().to_string();
                assert!(shown.contains(words), "{to} {found:?}: {shown}");
            }
        }
    }
}

#[tokio::test]
async fn an_address_is_judged_without_a_resolver() {
    let hosts = hosts();
    let proxy = hosts.proxies().https().unwrap();
    for (to, expected) in [
        ("https://192.0.2.1:5000/v2/", Ok(Route::Proxy(proxy))),
        ("https://10.96.0.7:5000/v2/", Ok(Route::Direct)),
        ("http://192.0.2.1/v2/", Ok(Route::Direct)),
        ("https://127.0.0.1/v2/", Ok(Route::Direct)),
    ] {
        assert_eq!(Route::to(&Url::parse(to).unwrap(), &hosts).await, expected, "{to}");
    }
    // A loopback address has no proxy. Whether it is contacted at all is decided before.
    let local = Url::parse("https://127.0.0.1/v2/").unwrap();
    assert!(check(Role::Redirect, None, &local, &hosts).is_err());
}

#[tokio::test]
async fn the_client_for_proxies_resolves_their_hosts_only() {
    let variables = |name: &str| (name == "HTTP_PROXY").then(|| "localhost:3128".to_owned());
    let resolver = ProxyResolver(HttpProxies::from_variables(variables).unwrap());
    assert!(resolver.resolve("localhost".parse().unwrap()).await.is_ok());
    for other in ["localhost.localdomain", "ip6-localhost", "r.io"] {
        assert!(resolver.resolve(other.parse().unwrap()).await.is_err(), "{other}");
    }
}
