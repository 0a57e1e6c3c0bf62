//! HTTP proxies in front of a registry, on the bridge of the nodes' network. They are slow, or
//! require a password, and they count requests.
//!
//! ```text
//! node ── http ── proxy (a thread here) ── http ── registry's port on loopback
//! ```
//!
//! An image is in the registry once, and has a name through every proxy. For the driver each proxy
//! is a separate registry. A case can hold or refuse the requests of a proxy. Deliberately absent:
//! persistent connections. A connection ends after one request and response.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::engine::{Engine, NETWORK};
use crate::oci::http::{self, Head, body, respond};

/// The user of the proxies that require one.
pub const USER: &str = "reader";
/// Its password.
pub const PASSWORD: &str = "open-sesame";

/// The token of the proxy that requires one.
const TOKEN: &str = "a-token-of-the-harness";

/// Time between two parts of a slow body.
const STEP: Duration = Duration::from_millis(100);

/// How a proxy authenticates and paces requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// User and password with every request.
    Basic,
    /// A token, which user and password get.
    Bearer,
    /// No authentication. Each blob's body has this many bytes a second.
    Slow(u64),
    /// No authentication.
    Open,
}

/// The state of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyState {
    /// Requests pass.
    Open,
    /// Requests that upload blob data wait for another state.
    Held,
    /// As if the registry were down: connections end without a response.
    Refusing,
}

/// The state, and how many requests it holds.
#[derive(Debug)]
struct StateSwitch {
    state: Mutex<(ProxyState, usize)>,
    changed: Condvar,
}

/// A proxy that runs as long as the harness.
#[derive(Clone)]
pub struct RegistryProxy {
    /// Host and port for the nodes.
    pub host: String,
    passed: Arc<Mutex<BTreeMap<String, BlobStats>>>,
    state: Arc<StateSwitch>,
}

/// The downloads of one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobStats {
    /// The number of downloads.
    pub times: usize,
    /// The duration of the last download.
    pub took: Duration,
}

/// All proxies in front of one registry.
pub struct Proxies {
    /// With a password.
    pub basic: RegistryProxy,
    /// With tokens.
    pub bearer: RegistryProxy,
    /// So slow that a pull of [`SLOW_LAYER`] takes longer than the kubelet waits.
    pub slow: RegistryProxy,
    /// Without authentication. A case changes its state.
    pub controlled: RegistryProxy,
}

/// Bytes a second through the slow proxy, for each blob.
const SLOW: u64 = 8_000;

/// The size of a layer that takes two and a half minutes through the slow proxy. The kubelet waits
/// two minutes (csiTimeout in Kubernetes' pkg/volume/csi).
pub const SLOW_LAYER: usize = 1_200_000;

impl Proxies {
    /// Starts all of them in front of a registry.
    ///
    /// # Errors
    /// The bridge of the nodes' network has no address here, or no port is free.
    pub fn open(engine: &Engine, registry: SocketAddr) -> Result<Self> {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        let bridge = engine.docker(["network", "inspect", "--format", format, NETWORK]).output()?;
        let bridge = bridge.parse::<Ipv4Addr>();
        let bridge = IpAddr::from(bridge.context("the address of the nodes' bridge")?);
        let open = |auth| RegistryProxy::open(bridge, registry, auth);
        Ok(Self {
            basic: open(AuthMode::Basic)?,
            bearer: open(AuthMode::Bearer)?,
            slow: open(AuthMode::Slow(SLOW))?,
            controlled: open(AuthMode::Open)?,
        })
    }

    /// Each of them.
    pub fn all(&self) -> [&RegistryProxy; 4] {
        [&self.basic, &self.bearer, &self.slow, &self.controlled]
    }
}

impl RegistryProxy {
    fn open(at: IpAddr, registry: SocketAddr, auth: AuthMode) -> Result<Self> {
        let listener = TcpListener::bind((at, 0)).with_context(|| format!("listening on {at}"))?;
        let host = listener.local_addr().context("a proxy's own address")?.to_string();
        let state =
            StateSwitch { state: Mutex::new((ProxyState::Open, 0)), changed: Condvar::new() };
        let proxy = Self { host, passed: Arc::default(), state: Arc::new(state) };
        let server = proxy.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that disconnects early is no error here.
                thread::spawn(move || server.serve(stream, registry, auth).unwrap_or_default());
            }
        });
        Ok(proxy)
    }

    /// The content of the driver's hosts.toml for it.
    pub fn hosts_toml(&self) -> String {
        format!("server = \"http://{}\"\n", self.host)
    }

    /// The name of an image through this proxy.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// A dockerconfigjson with this password for it.
    pub fn docker_config(&self, password: &str) -> String {
        let auth = BASE64_STANDARD.encode(format!("{USER}:{password}"));
        json!({ "auths": { &self.host: { "auth": auth } } }).to_string()
    }

    /// Changes its state.
    pub fn set_state(&self, state: ProxyState) {
        self.state.state.lock().unwrap_or_else(PoisonError::into_inner).0 = state;
        self.state.changed.notify_all();
    }

    /// The number of requests that it holds.
    pub fn held_requests(&self) -> usize {
        self.state.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// The downloads of a blob.
    pub fn blob_stats(&self, digest: &str) -> BlobStats {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.get(digest).copied().unwrap_or_default()
    }

    fn serve(&self, stream: TcpStream, registry: SocketAddr, auth: AuthMode) -> Result<()> {
        stream.set_nodelay(true).context("a connection's setting")?;
        let mut reader = BufReader::new(stream.try_clone().context("sharing a connection")?);
        let mut stream = stream;
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        let [method, path, ..] = head.start_line.as_slice() else {
            return respond(&mut stream, "400 Bad Request", "", "");
        };
        // The start of an upload has no data, unless the data comes with it.
        let begins = method == "POST" && !path.contains("digest=");
        let brings = matches!(method.as_str(), "PATCH" | "POST" | "PUT");
        let brings = brings && !begins && path.contains("/blobs/");
        self.wait_while_held(brings)?;
        let shown = head.field("authorization").unwrap_or_default();
        let password =
            shown == format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
        if auth == AuthMode::Bearer && path.starts_with("/token") {
            let token = json!({ "token": TOKEN, "expires_in": 300 }).to_string();
            return match password {
                true => {
                    respond(&mut stream, "200 OK", "Content-Type: application/json\r\n", &token)
                }
                false => respond(&mut stream, "401 Unauthorized", "", "{}"),
            };
        }
        let (may, challenge) = match auth {
            AuthMode::Slow(_) | AuthMode::Open => (true, String::new()),
            AuthMode::Basic => (password, String::from("Basic realm=\"proxy\"")),
            AuthMode::Bearer => (
                shown == format!("Bearer {TOKEN}"),
                format!("Bearer realm=\"http://{}/token\",service=\"proxy\"", self.host),
            ),
        };
        if !may {
            let challenge = format!("WWW-Authenticate: {challenge}\r\n");
            return respond(&mut stream, "401 Unauthorized", &challenge, "{\"errors\":[]}");
        }
        let body = body(&head, &mut reader)?;
        self.pass(&head, &body, stream, registry, auth)
    }

    /// Waits while the proxy holds requests, for a request that uploads blob data.
    fn wait_while_held(&self, brings: bool) -> Result<()> {
        let mut state = self.state.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        while brings && state.0 == ProxyState::Held {
            state = self.state.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.1 -= 1;
        ensure!(state.0 != ProxyState::Refusing, "the proxy refuses connections");
        Ok(())
    }

    /// Forwards one request, and returns its response.
    fn pass(
        &self,
        head: &Head,
        body: &[u8],
        mut to: TcpStream,
        registry: SocketAddr,
        auth: AuthMode,
    ) -> Result<()> {
        let (method, path) = (&head.start_line[0], &head.start_line[1]);
        let own = |name: &str| NOT_FORWARDED.contains(&name.to_ascii_lowercase().as_str());
        let fields = head.fields.iter().filter(|(name, _)| !own(name));
        let fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let since = Instant::now();
        let mut response = http::send(registry, method, path, &fields, body)?;
        let mut text = format!(
            "HTTP/1.1 {}\r\nConnection: close\r\n",
            response.head.start_line[1..].join(" ")
        );
        for (name, value) in &response.head.fields {
            if name.eq_ignore_ascii_case("location") {
                // The registry uses the host name of the request.
                let value = value.replace(&format!("//{registry}/"), &format!("//{}/", self.host));
                text.push_str(&format!("{name}: {value}\r\n"));
            } else if !name.eq_ignore_ascii_case("connection") {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        to.write_all(format!("{text}\r\n").as_bytes()).context("writing a response")?;
        let blob = path.rsplit_once("/blobs/").map(|(_, digest)| digest);
        let blob = blob.filter(|_| method == "GET" && response.status < 300);
        if let Some(digest) = blob {
            self.count(digest, |passed| passed.times += 1);
        }
        match (auth, blob) {
            (AuthMode::Slow(rate), Some(_)) => copy_slowly(&mut response.body, &mut to, rate),
            _ => io::copy(&mut response.body, &mut to).map(drop),
        }
        .context("handing a body on")?;
        if let Some(digest) = blob {
            self.count(digest, |passed| passed.took = since.elapsed());
        }
        Ok(())
    }

    fn count(&self, digest: &str, change: impl FnOnce(&mut BlobStats)) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        change(passed.entry(digest.to_owned()).or_default());
    }
}

/// Header fields that are not forwarded.
const NOT_FORWARDED: &[&str] = &[
    "host",
    "authorization",
    "connection",
    "content-length",
    "transfer-encoding",
    "accept-encoding",
    "expect",
];

/// Copies in small steps, at this many bytes a second.
fn copy_slowly(from: &mut impl Read, to: &mut impl Write, rate: u64) -> io::Result<()> {
    let mut step = Vec::new();
    let steps = u64::try_from(STEP.as_millis()).unwrap_or(1);
    loop {
        step.clear();
        if from.by_ref().take((rate * steps / 1000).max(1)).read_to_end(&mut step)? == 0 {
            return Ok(());
        }
        to.write_all(&step)?;
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A registry that responds to every request with its path.
    fn registry() -> Result<SocketAddr> {
        let listener = TcpListener::bind((HERE, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream.try_clone()?);
                let head = Head::read(&mut reader)?.unwrap_or_default();
                respond(&mut stream, "200 OK", "", &head.start_line[1])?;
            }
            Ok::<_, anyhow::Error>(())
        });
        Ok(address)
    }

    fn get(proxy: &RegistryProxy, path: &str, fields: &[(&str, &str)]) -> Result<(u16, String)> {
        let response = http::send(proxy.host.parse()?, "GET", path, fields, &[])?;
        Ok((response.status, String::from_utf8(response.bytes()?)?))
    }

    #[test]
    fn a_password_is_required_and_a_blob_is_counted() -> Result<()> {
        let proxy = RegistryProxy::open(HERE, registry()?, AuthMode::Basic)?;
        let blob = "/v2/r/blobs/sha256:1";
        assert_eq!(get(&proxy, blob, &[])?.0, 401);
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
        assert_eq!(get(&proxy, blob, &[("Authorization", &basic)])?, (200, blob.to_owned()));
        assert_eq!(proxy.blob_stats("sha256:1").times, 1);
        Ok(())
    }

    #[test]
    fn a_token_is_issued_for_the_password() -> Result<()> {
        let proxy = RegistryProxy::open(HERE, registry()?, AuthMode::Bearer)?;
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
        assert_eq!(get(&proxy, "/v2/", &[("Authorization", &basic)])?.0, 401);
        assert_eq!(get(&proxy, "/token?service=proxy", &[])?.0, 401);
        let (status, token) = get(&proxy, "/token?service=proxy", &[("Authorization", &basic)])?;
        assert!(status == 200 && token.contains(TOKEN), "{status} {token}");
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(get(&proxy, "/v2/", &[("Authorization", &bearer)])?, (200, "/v2/".to_owned()));
        Ok(())
    }

    #[test]
    fn a_held_blob_passes_when_the_proxy_opens() -> Result<()> {
        let proxy = RegistryProxy::open(HERE, registry()?, AuthMode::Open)?;
        proxy.set_state(ProxyState::Held);
        assert_eq!(get(&proxy, "/v2/r/blobs/uploads/1", &[])?.0, 200);
        let to = proxy.host.parse()?;
        let brings =
            thread::spawn(move || http::send(to, "PUT", "/v2/r/blobs/uploads/1", &[], b"x"));
        while proxy.held_requests() == 0 {
            thread::yield_now();
        }
        proxy.set_state(ProxyState::Open);
        let response = brings.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        assert_eq!(response.status, 200);
        proxy.set_state(ProxyState::Refusing);
        assert!(get(&proxy, "/v2/", &[]).is_err());
        Ok(())
    }

    #[test]
    fn a_slow_body_is_slow() -> Result<()> {
        let since = Instant::now();
        let mut out = Vec::new();
        copy_slowly(&mut [7; 40].as_slice(), &mut out, 200)?;
        assert!(out == [7; 40] && since.elapsed() >= STEP * 2);
        Ok(())
    }
}
