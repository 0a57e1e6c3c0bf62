//! Which addresses are contacted, and which servers receive a secret.

use super::*;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// A hosts directory that names `http://127.0.0.1:5000`.
fn hosts() -> Hosts {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("r.io");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), "server = \"http://127.0.0.1:5000\"").unwrap();
    Hosts::load(dir.path()).unwrap()
}

#[test]
fn special_addresses_and_downgrades_are_refused_unless_configured() {
    let (none, http, https) = (None, Some("http://127.0.0.1:5000/v2/"), Some("https://r.io/v2/"));
    for (role, from, to, words) in [
        (Role::Registry, none, "https://r.io", ""),
        (Role::Registry, none, "http://127.0.0.1:5000/v2/", ""),
        (Role::Registry, none, "https://10.0.0.1", ""),
        (Role::Registry, none, "https://127.0.0.1:5000", "a loopback address"),
        (Role::Registry, none, "https://[::1]", "a loopback address"),
        (Role::Registry, none, "https://0.0.0.0", "a loopback address"),
        (Role::Registry, none, "https://[::]", "a loopback address"),
        (Role::Registry, none, "https://2130706433", "a loopback address"),
        (Role::Registry, none, "https://169.254.169.254", "a link-local address"),
        (Role::Registry, none, "https://[fe80::1]", "a link-local address"),
        (Role::Redirect, https, "https://cdn.io/x?sig=1", ""),
        (Role::Redirect, https, "http://cdn.io/x", "by http, which is not encrypted"),
        (Role::Redirect, https, "http://r.io/x", "by http, which is not encrypted"),
        (Role::Redirect, https, "http://127.0.0.1:5000/x", "by http"),
        (Role::Redirect, https, "ftp://r.io/x", "by ftp"),
        (Role::Redirect, https, "file:///etc/shadow", "by file"),
        (Role::Redirect, https, "https://u:secret@cdn.io/", "cdn.io with a user name"),
        (Role::Redirect, http, "http://10.0.0.1/x", ""),
        (Role::Redirect, http, "http://127.0.0.1:5000/y", ""),
        (Role::Redirect, http, "http://127.0.0.1:10250/pods", "a loopback address"),
        (Role::Redirect, http, "http://169.254.169.254/latest", "a link-local address"),
        (Role::Redirect, http, "http://[::ffff:169.254.169.254]/", "a link-local address"),
        (Role::Redirect, http, "http://[64:ff9b::a9fe:a9fe]/", "a link-local address"),
        (Role::Redirect, http, "http://[::ffff:0:169.254.169.254]/", "a link-local address"),
        (Role::Redirect, http, "http://[2002:a9fe:a9fe::1]/", "a link-local address"),
        (Role::Redirect, http, "http://[2002:7f00:1::]/", "a loopback address"),
        (Role::Redirect, http, "http://[2002:c000:201::1]/", ""),
        (Role::Redirect, http, "http://[64:ff9b:1:a9fe:a9:fe00::]/", "a link-local address"),
        (Role::Redirect, http, "http://[64:ff9b:1:aa:a9:fea9:fe00:0]/", "a link-local address"),
        (Role::Redirect, http, "http://[64:ff9b:1:0:a9:fea9:fe00:0]/", "a link-local address"),
        (Role::Redirect, http, "http://[64:ff9b:1:aabb:a9:fea9:fe00:0]/", "a link-local address"),
        (Role::Redirect, http, "http://[64:ff9b:1::127.0.0.1]/", "a loopback address"),
        (Role::Redirect, http, "http://[64:ff9b::192.0.2.1]/", ""),
        (Role::Redirect, http, "http://[64:ff9b:1::192.0.2.1]/", ""),
        (Role::Redirect, http, "http://[64:ff9b:1:c000:2:100::]/", ""),
        (Role::Redirect, http, "http://[fd20:ce::254]/", "metadata"),
        (Role::Redirect, http, "http://100.100.100.200/", "metadata"),
        (Role::Redirect, http, "http://[fd00:ec2::254]/", "metadata"),
        (Role::Redirect, http, "http://224.0.0.1/", "a multicast address"),
        (Role::Realm, https, "https://auth.io/token", ""),
        (Role::Realm, https, "http://auth.io/token", "the token realm leads to auth.io by http"),
        (Role::Realm, http, "http://10.0.0.1/token", ""),
        (Role::Realm, http, "http://127.0.0.1:5000/token", ""),
        (Role::Realm, http, "http://169.254.169.254/token", "a link-local address"),
    ] {
        let from = from.map(url);
        let shown = match check(role, from.as_ref(), &url(to), &hosts()) {
            Ok(()) => String::new(),
            Err(refusal) => refusal.to_string(),
        };
        assert_eq!(shown.is_empty(), words.is_empty(), "{role:?} {to}: {shown}");
        assert!(shown.contains(words), "{role:?} {to}: {shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}

#[test]
fn a_secret_is_sent_by_plain_http_only_where_configured() {
    for (to, allowed) in [
        ("https://auth.io/token", true),
        ("http://127.0.0.1:5000/token", true),
        ("http://127.0.0.1:5001/token", false),
        ("http://10.0.0.1/token", false),
    ] {
        assert_eq!(check_secret(&url(to), &hosts()).is_ok(), allowed, "{to}");
    }
}

#[test]
fn a_name_resolves_only_to_allowed_addresses() {
    let metadata: SocketAddr = "169.254.169.254:0".parse().unwrap();
    let public: SocketAddr = "192.0.2.1:0".parse().unwrap();
    let none = RefusedNetworks::default();
    assert!(allowed("rebound.example", vec![metadata], &none).is_err());
    assert_eq!(allowed("rebound.example", vec![metadata, public], &none), Ok(vec![public]));
    assert_eq!(allowed("nowhere.example", vec![], &none), Ok(vec![]));
}

#[test]
fn the_clusters_own_networks_are_contacted_only_where_a_file_names_the_server() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("10.96.0.7_5000_")).unwrap();
    let file = dir.path().join("10.96.0.7_5000_/hosts.toml");
    std::fs::write(file, "server = \"https://10.96.0.7:5000\"").unwrap();
    let hosts = Hosts::load(dir.path()).unwrap();
    let networks = ["10.96.0.0/12", "192.0.2.9", "fd00:1::/108"];
    let check = |to: &str| check(Role::Registry, None, &url(to), &hosts);
    assert_eq!(check("https://10.97.1.1/v2/"), Ok(()), "before the networks are known");
    hosts.refused().set(networks.map(|network| network.parse().unwrap()).to_vec());
    for (to, expected) in [
        ("https://10.96.0.7:5000/v2/", true),
        ("https://10.96.0.7/v2/", false),
        ("https://10.111.255.255:5000/v2/", false),
        ("https://10.112.0.1/v2/", true),
        ("https://192.0.2.9:6443/v2/", false),
        ("https://192.0.2.10/v2/", true),
        ("https://[fd00:1::5]/v2/", false),
        ("https://[::ffff:10.96.0.1]/v2/", false),
        ("https://[64:ff9b::10.96.0.1]/v2/", false),
    ] {
        assert_eq!(check(to).is_ok(), expected, "{to}");
    }
    hosts.refused().set_own(["10.96.0.7", "198.51.100.2"].map(|own| own.parse().unwrap()).to_vec());
    assert_eq!(check("https://10.96.0.7:5000/v2/"), Ok(()), "a file names the server");
    for to in ["https://198.51.100.2:10250/", "https://[::ffff:198.51.100.2]/"] {
        assert!(check(to).unwrap_err().to_string().contains("an address of this node"), "{to}");
    }
    let shown = check("https://10.96.3.3:5000/v2/").unwrap_err().to_string();
    let line = r#"registries: {"10.96.3.3:5000": 'server = "https://10.96.3.3:5000"'}"#;
    assert!(shown.contains("a network of the cluster") && shown.ends_with(line), "{shown}");
    let service: SocketAddr = "10.96.3.3:0".parse().unwrap();
    let named = allowed("registry.ci.svc", vec![service], hosts.refused()).unwrap_err();
    let shown = named.of(Some(&url("https://registry.ci.svc:5000/v2/"))).to_string();
    assert!(
        shown.contains(r#"{"registry.ci.svc:5000": 'server = "https://registry.ci"#),
        "{shown}"
    );
}
