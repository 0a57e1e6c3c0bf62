//! Pulls through proxies: a fake one for requests by plain http, and tinyproxy for tunnels.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{
    BlobReader, Hosts, Image, ImageError, Keyring, Registries,
    clients::Trust,
    fake::{ALWAYS, FakeRegistry, Fault, soon},
    retry::RetryPolicy,
    tls, tls_tests,
};
use crate::{error::Class, http_proxy::HttpProxies};

/// The client of a node with these variables, hosts files and additional CA, and a policy that names the registries
/// `known`.
fn client(
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
    known: &[&str],
    ca: Option<&str>,
) -> Registries {
    let value = |name: &str| variables.iter().find(|(key, _)| *key == name);
    let proxies = HttpProxies::from_variables(|name| value(name).map(|(_, to)| (*to).to_owned()));
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
    }
    let known = known.iter().map(|name| (*name).to_owned());
    let mut hosts = Hosts::load(dir.path()).unwrap().with_proxies(proxies.unwrap(), known);
    if let Some(ca) = ca {
        hosts = hosts.with_extra_ca(ca.as_bytes()).unwrap();
    }
    let retry = RetryPolicy { first: Duration::from_millis(1), ..RetryPolicy::default() };
    Registries::with(hosts, retry, Trust::NoCa).unwrap()
}

async fn resolve(registries: &Registries, image: &str) -> Result<Image, ImageError> {
    soon(registries.resolve(&image.parse().unwrap(), &Keyring::default())).await
}

/// Pulls an image with one layer, and returns the layer.
async fn pull(registries: &Registries, image: &str) -> Result<Vec<u8>, ImageError> {
    let (image, keyring) = (resolve(registries, image).await?, Keyring::default());
    let mut reader: BlobReader = soon(registries.blob(&image, &image.layers[0], &keyring)).await?;
    let read = move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes).unwrap()
    };
    Ok(soon(tokio::task::spawn_blocking(read)).await.unwrap())
}

async fn refused(registries: &Registries, image: &str) -> (Class, String) {
    let error = pull(registries, image).await.expect_err("the image must be refused");
    (error.class(), error.to_string())
}

/// A proxy, and the content of every server behind it.
async fn fake_proxy() -> FakeRegistry {
    let proxy = FakeRegistry::start().await;
    proxy.push_image("a", "1", &[b"layer".to_vec()], false);
    proxy
}

const PLAIN: &[(&str, &str)] = &[("r.invalid", "server = \"http://r.invalid\"")];

#[tokio::test]
async fn requests_by_http_go_to_the_proxy_with_its_password() {
    let proxy = fake_proxy().await;
    let to = format!("http://user:p%40ss@{}", proxy.host());
    let registries = client(&[("HTTP_PROXY", &to)], PLAIN, &[], None);
    assert_eq!(pull(&registries, "r.invalid/a:1").await.unwrap(), b"layer");
    let requests = proxy.requests_to("/v2/a/");
    assert!(requests.len() >= 3, "{requests:?}");
    for request in requests {
        assert_eq!(request.headers["host"], "r.invalid");
        let expected = format!("Basic {}", STANDARD.encode("user:p@ss"));
        assert_eq!(request.headers["proxy-authorization"], expected.as_str());
        assert_eq!(request.authorization, None);
    }
}

#[tokio::test]
async fn a_loopback_address_and_a_server_in_no_proxy_have_no_proxy() {
    let registry = fake_proxy().await;
    let file = format!("server = \"http://{}\"", registry.host());
    let dead = [("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "r.invalid")];
    let registries = client(&dead, &[("a.io", &file)], &[], None);
    assert_eq!(pull(&registries, "a.io/a:1").await.unwrap(), b"layer");
    // It does not resolve: it is not the proxy that fails.
    let (class, shown) = refused(&client(&dead, PLAIN, &[], None), "r.invalid/a:1").await;
    assert!(!shown.contains("proxy"), "{shown}");
    assert_eq!(class, Class::Unavailable);
}

#[tokio::test]
async fn redirects_and_realms_are_judged_before_the_proxy_gets_them() {
    for (to, words) in [
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        ("trap.invalid", "trap.invalid does not resolve on this node"),
    ] {
        for realm in [false, true] {
            let proxy = fake_proxy().await;
            match realm {
                true => {
                    let realm = format!("http://{to}/token");
                    proxy.inject("GET /v2/", ALWAYS, Fault::NeedsToken(realm));
                }
                false => proxy.redirect_to(to),
            }
            let to = format!("http://{}", proxy.host());
            let registries = client(&[("HTTP_PROXY", &to)], PLAIN, &[], None);
            let (class, shown) = refused(&registries, "r.invalid/a:1").await;
            assert!(shown.contains(words), "{shown}");
            assert_eq!(class, Class::Denied, "{shown}");
            let all = proxy.requests_to("");
            assert!(all.iter().all(|request| request.headers["host"] == "r.invalid"), "{all:?}");
        }
    }
}

#[tokio::test]
async fn the_error_names_the_proxy_that_fails() {
    let proxy = fake_proxy().await;
    proxy.inject("GET /v2/", ALWAYS, Fault::Respond(407, vec![]));
    let (host, secure) = (proxy.host(), format!("https://{}", proxy.host()));
    let (host, secure) = (host.as_str(), secure.as_str());
    for (variable, proxy, image, words) in [
        ("HTTP_PROXY", "127.0.0.1:1", "r.invalid/a:1", "the proxy 127.0.0.1:1 cannot be reached"),
        ("HTTPS_PROXY", "127.0.0.1:1", "s.invalid/a:1", "the proxy 127.0.0.1:1 cannot be reached"),
        ("HTTP_PROXY", "u:hunter2@127.0.0.1:1", "r.invalid/a:1", "the proxy 127.0.0.1:1 cannot"),
        ("HTTP_PROXY", host, "r.invalid/a:1", "requires a user name and password"),
        ("HTTPS_PROXY", host, "s.invalid/a:1", "cannot be reached through the proxy 127.0.0.1:"),
        ("HTTP_PROXY", secure, "r.invalid/a:1", "does not speak TLS; write http:// in its URL"),
        ("HTTPS_PROXY", secure, "s.invalid/a:1", "does not speak TLS; write http:// in its URL"),
        ("HTTPS_PROXY", host, "[2001:db8::1]:5000/a:1", "an IPv6 address as its name"),
    ] {
        let registries = client(&[(variable, proxy)], PLAIN, &["s.invalid"], None);
        let (_, shown) = refused(&registries, image).await;
        assert!(shown.contains(words), "{variable}={proxy} {image}: {shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn skip_verify_of_a_server_is_not_extended_to_an_https_proxy() {
    let files = [("r.invalid", "skip_verify = true")];
    let registries = client(&[("HTTPS_PROXY", "https://127.0.0.1:1")], &files, &[], None);
    let (class, shown) = refused(&registries, "r.invalid/a:1").await;
    assert!(shown.contains("skip_verify cannot be used through an https proxy"), "{shown}");
    assert_eq!(class, Class::Precondition);
}

/// Set in the test's own second process, which has a network of its own.
const INSIDE: &str = "OVL_TEST_IN_OWN_NETWORK";
const NAME: &str =
    "image::proxy_tests::privileged_a_real_proxy_gets_only_servers_that_the_policy_allows";

/// Names as this node resolves them. Nothing listens at 192.0.2.7, so what succeeds went through the proxy.
const HERE: &str = "127.0.0.1 localhost\n192.0.2.7 good.test\n169.254.169.254 meta.test\n\
                    192.0.2.7 mixed.test\n10.96.0.1 mixed.test\n";
/// Names as the proxy resolves them.
const THERE: &str = "127.0.0.1 localhost\n192.0.2.8 good.test hidden.test direct.test\n\
                     169.254.169.254 meta.test trap.test\n192.0.2.8 mixed.test\n";

#[test]
#[ignore = "needs root, tinyproxy and ip"]
fn privileged_a_real_proxy_gets_only_servers_that_the_policy_allows() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let program = std::env::current_exe().unwrap();
    let mut again = Command::new("unshare");
    again.args(["--net", "--mount", "--"]).arg(program).env(INSIDE, "1");
    let done = again.args(["--exact", NAME, "--ignored", "--nocapture"]).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let shown = format!("{text}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && text.contains("1 passed"), "{shown}");
}

fn run(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

/// In a network with one interface, which has allowed and refused addresses.
fn inside() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, text) in [("here", HERE), ("there", THERE), ("resolv", "nameserver 127.0.0.1\n")] {
        fs::write(path(name), text).unwrap();
    }
    run("ip link set lo up");
    for address in ["192.0.2.7", "192.0.2.8", "169.254.169.254", "10.96.0.1"] {
        run(&format!("ip address add {address}/32 dev lo"));
    }
    run(&format!("mount --bind {} /etc/hosts", path("here").display()));
    run(&format!("mount --bind {} /etc/resolv.conf", path("resolv").display()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(checks(dir.path()));
}

/// A service that must not be reached, which counts the connections to it.
fn trap(at: &str) -> Arc<AtomicUsize> {
    let (listener, count) = (TcpListener::bind(at).unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            counted.fetch_add(1, SeqCst);
            drop(client);
        }
    });
    count
}

/// tinyproxy with its own /etc/hosts. Its drop ends it.
struct Tinyproxy(Child);

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Tinyproxy {
    fn start(dir: &Path, port: u16, more: &str) -> Self {
        let config: PathBuf = dir.join(format!("tinyproxy-{port}.conf"));
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 20\nMaxClients 50\nLogLevel Error\n{more}\n"
        );
        fs::write(&config, text).unwrap();
        let command = format!(
            "mount --bind {} /etc/hosts && exec tinyproxy -d -c {}",
            dir.join("there").display(),
            config.display()
        );
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "--", "sh", "-c", &command]).stdout(Stdio::null());
        let proxy = Self(shell.spawn().unwrap());
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "tinyproxy does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        proxy
    }
}

/// The status line of tinyproxy's response to a request for a tunnel.
fn tunnel(port: u16, to: &str) -> String {
    let mut proxy = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(proxy, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
    let mut response = String::new();
    proxy.read_to_string(&mut response).unwrap();
    response.lines().next().unwrap_or_default().to_owned()
}

async fn checks(dir: &Path) {
    let registry = FakeRegistry::start_at("192.0.2.8:80").await;
    registry.push_image("a", "1", &[b"layer".to_vec()], false);
    let names = ["good.test", "hidden.test", "mixed.test", "direct.test", "meta.test", "trap.test"];
    let made = rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    tls::provider();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    tls_tests::serve("192.0.2.8:443", config, "192.0.2.8:80".to_owned());
    let traps = ["169.254.169.254:443", "169.254.169.254:80", "10.96.0.1:443"].map(trap);
    let reached = || traps.iter().map(|trap| trap.load(SeqCst)).sum::<usize>();
    let _open = Tinyproxy::start(dir, 3128, "");
    let _locked = Tinyproxy::start(dir, 3129, "BasicAuth user pass");

    // The proxy itself can reach all of them.
    for to in ["169.254.169.254:443", "meta.test:443", "trap.test:443", "10.96.0.1:443"] {
        assert!(tunnel(3128, to).contains(" 200 "), "{to}");
    }
    let before = reached();
    assert_eq!(before, 4);

    let ca = made.cert.pem();
    let through = |proxy: &str, known: &[&str], files: &[(&str, &str)]| {
        let no_proxy = ("NO_PROXY", "direct.test,10.0.0.0/8");
        let variables = [("HTTPS_PROXY", proxy), ("HTTP_PROXY", proxy), no_proxy];
        let registries = client(&variables, files, known, Some(&ca));
        registries.refuse_networks(vec!["10.96.0.0/12".parse().unwrap()]);
        registries
    };
    let open = through("127.0.0.1:3128", &[], &[]);
    let none = client(&[], &[], &[], Some(&ca));
    assert_eq!(refused(&none, "good.test/a:1").await.0, Class::Unavailable, "nothing listens");
    assert_eq!(pull(&open, "good.test/a:1").await.unwrap(), b"layer");
    let plain = through("127.0.0.1:3128", &[], &[("good.test", "server = \"http://good.test\"")]);
    assert_eq!(pull(&plain, "good.test/a:1").await.unwrap(), b"layer");
    let requests = registry.requests_to("/v2/a/");
    let is_via = |has: bool| requests.iter().any(|it| it.headers.contains_key("via") == has);
    assert!(is_via(true) && is_via(false), "tinyproxy adds a header to requests by http only");
    let named = through("127.0.0.1:3128", &["hidden.test:5000"], &[]);
    assert_eq!(pull(&named, "hidden.test/a:1").await.unwrap(), b"layer");

    for (image, words) in [
        ("169.254.169.254/a:1", "169.254.169.254 is a link-local address"),
        ("meta.test/a:1", "meta.test is a link-local address"),
        ("mixed.test/a:1", "mixed.test is in a network of the cluster"),
        ("10.96.0.1/a:1", "10.96.0.1 is in a network of the cluster"),
        ("trap.test/a:1", "trap.test does not resolve on this node"),
        ("hidden.test/a:1", "hidden.test does not resolve on this node"),
    ] {
        let (class, shown) = refused(&open, image).await;
        assert!(shown.contains(words), "{image}: {shown}");
        assert_eq!(class, Class::Denied, "{image}: {shown}");
    }
    for to in ["169.254.169.254", "meta.test", "mixed.test", "trap.test"] {
        for fault in [
            Fault::Respond(307, vec![("location", format!("https://{to}/v2/x"))]),
            Fault::NeedsToken(format!("https://{to}/token")),
        ] {
            registry.inject("GET /v2/a/manifests", 1, fault);
            let (class, shown) = refused(&open, "good.test/a:1").await;
            assert!(shown.contains(&format!("{to} ")), "{shown}");
            assert_eq!(class, Class::Denied, "{shown}");
        }
    }
    assert_eq!(reached(), before, "a refused server was reached through the proxy");

    let (class, shown) = refused(&open, "direct.test/a:1").await;
    assert!(class == Class::Unavailable && !shown.contains("proxy"), "{shown}");
    let (class, shown) = refused(&open, "good.test:563/a:1").await;
    assert!(shown.contains("cannot be reached through the proxy 127.0.0.1:3128"), "{shown}");
    assert_eq!(class, Class::Unavailable);
    for files in [&[][..], &[("good.test", "server = \"http://good.test\"")]] {
        let registries = through("127.0.0.1:3129", &[], files);
        let (class, shown) = refused(&registries, "good.test/a:1").await;
        assert!(shown.contains("the proxy 127.0.0.1:3129 requires a user name"), "{shown}");
        assert_eq!(class, Class::Precondition);
    }
    // tinyproxy's status for a wrong password is 401, which a server could send too.
    let wrong = through("http://user:hunter2@127.0.0.1:3129", &[], &[]);
    let (_, shown) = refused(&wrong, "good.test/a:1").await;
    assert!(shown.contains("through the proxy 127.0.0.1:3129"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let locked = through("http://user:pass@127.0.0.1:3129", &[], &[]);
    assert_eq!(pull(&locked, "good.test/a:1").await.unwrap(), b"layer");
}
