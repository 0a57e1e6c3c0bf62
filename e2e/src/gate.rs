//! Gates before a registry: HTTP doors on the bridge of the nodes' network that let requests
//! through to the registry behind, slowly, or only for those with a password, and count them.
//!
//! ```text
//! node ── http ── gate (a thread here) ── http ── registry's port on loopback
//! ```
//!
//! An image is in the registry once and has a name by every gate; to the driver each gate is a
//! registry of its own. Each has a door, by which a case says when what comes to a standstill.
//! Deliberately absent: connections that stay. One request, one answer, and it is closed.

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

use crate::engine::{Engine, NETWORK};
use crate::http::{self, Head, body, say};

/// Who may pass, where not everybody may.
pub const USER: &str = "reader";
/// With what.
pub const PASSWORD: &str = "open-sesame";

/// What a token for these is, where tokens are asked for.
const TOKEN: &str = "a-token-of-the-harness";

/// How often a slow body moves on.
const STEP: Duration = Duration::from_millis(100);

/// How a gate treats who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// User and password with every request.
    Basic,
    /// A token, to be had for user and password.
    Bearer,
    /// Everybody passes; each blob's body at this many bytes a second.
    Slow(u64),
    /// Everybody passes, when the door is open.
    Open,
}

/// How a gate's door is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Open.
    Open,
    /// Whoever brings something of a blob stands before it until it is open or shut.
    Held,
    /// As if nobody were there: connections end without an answer.
    Shut,
}

/// A door, and how many stand before it.
#[derive(Debug)]
struct Doorway {
    state: Mutex<(Door, usize)>,
    moved: Condvar,
}

/// A gate that is open for as long as the harness runs.
#[derive(Clone)]
pub struct Gate {
    /// Host and port as the nodes reach it.
    pub host: String,
    passed: Arc<Mutex<BTreeMap<String, Passed>>>,
    door: Arc<Doorway>,
}

/// What passed of one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// How often it was asked for and given.
    pub times: usize,
    /// How long the last of them took.
    pub took: Duration,
}

/// All gates before one registry.
pub struct Gates {
    /// With a password.
    pub basic: Gate,
    /// With tokens.
    pub bearer: Gate,
    /// Slow enough that a pull of [`SLOW_LAYER`] outlasts the kubelet's patience.
    pub slow: Gate,
    /// For everybody, with a door that one case moves.
    pub door: Gate,
}

/// Bytes a second through the slow gate, for each blob.
const SLOW: u64 = 8_000;

/// Bytes of a layer that takes two and a half minutes through the slow gate; the kubelet waits two
/// (csiTimeout in Kubernetes' pkg/volume/csi).
pub const SLOW_LAYER: usize = 1_200_000;

impl Gates {
    /// Opens all of them before a registry.
    ///
    /// # Errors
    /// The nodes' network has no bridge with an address here, or no port is free.
    pub fn open(engine: &Engine, registry: SocketAddr) -> Result<Self> {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        let bridge = engine.docker(["network", "inspect", "--format", format, NETWORK]).output()?;
        let bridge = bridge.parse::<Ipv4Addr>();
        let bridge = IpAddr::from(bridge.context("the address of the nodes' bridge")?);
        let open = |manners| Gate::open(bridge, registry, manners);
        Ok(Self {
            basic: open(Manners::Basic)?,
            bearer: open(Manners::Bearer)?,
            slow: open(Manners::Slow(SLOW))?,
            door: open(Manners::Open)?,
        })
    }

    /// Each of them.
    pub fn all(&self) -> [&Gate; 4] {
        [&self.basic, &self.bearer, &self.slow, &self.door]
    }
}

impl Gate {
    fn open(at: IpAddr, registry: SocketAddr, manners: Manners) -> Result<Self> {
        let listener = TcpListener::bind((at, 0)).with_context(|| format!("listening on {at}"))?;
        let host = listener.local_addr().context("a gate's own address")?.to_string();
        let door = Doorway { state: Mutex::new((Door::Open, 0)), moved: Condvar::new() };
        let gate = Self { host, passed: Arc::default(), door: Arc::new(door) };
        let keeper = gate.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let keeper = keeper.clone();
                // A client that goes away in the middle is its own business.
                thread::spawn(move || keeper.serve(stream, registry, manners).unwrap_or_default());
            }
        });
        Ok(gate)
    }

    /// What the driver's hosts.toml for it has to say.
    pub fn hosts_toml(&self) -> String {
        format!("server = \"http://{}\"\n", self.host)
    }

    /// An image's name by this gate.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// A dockerconfigjson that opens it, or does not.
    pub fn docker_config(&self, password: &str) -> String {
        let auth = BASE64_STANDARD.encode(format!("{USER}:{password}"));
        json!({ "auths": { &self.host: { "auth": auth } } }).to_string()
    }

    /// Moves its door.
    pub fn set(&self, door: Door) {
        self.door.state.lock().unwrap_or_else(PoisonError::into_inner).0 = door;
        self.door.moved.notify_all();
    }

    /// How many stand before its door.
    pub fn waiting(&self) -> usize {
        self.door.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// What passed of a blob.
    pub fn passed(&self, digest: &str) -> Passed {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.get(digest).copied().unwrap_or_default()
    }

    fn serve(&self, stream: TcpStream, registry: SocketAddr, manners: Manners) -> Result<()> {
        stream.set_nodelay(true).context("a connection's setting")?;
        let mut reader = BufReader::new(stream.try_clone().context("sharing a connection")?);
        let mut stream = stream;
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        let [method, path, ..] = head.words.as_slice() else {
            return say(&mut stream, "400 Bad Request", "", "");
        };
        // An upload begins without any of it, unless it comes all at once.
        let begins = method == "POST" && !path.contains("digest=");
        let brings = matches!(method.as_str(), "PATCH" | "POST" | "PUT");
        let brings = brings && !begins && path.contains("/blobs/");
        self.through_the_door(brings)?;
        let shown = head.field("authorization").unwrap_or_default();
        let password =
            shown == format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
        if manners == Manners::Bearer && path.starts_with("/token") {
            let token = json!({ "token": TOKEN, "expires_in": 300 }).to_string();
            return match password {
                true => say(&mut stream, "200 OK", "Content-Type: application/json\r\n", &token),
                false => say(&mut stream, "401 Unauthorized", "", "{}"),
            };
        }
        let (may, challenge) = match manners {
            Manners::Slow(_) | Manners::Open => (true, String::new()),
            Manners::Basic => (password, String::from("Basic realm=\"gate\"")),
            Manners::Bearer => (
                shown == format!("Bearer {TOKEN}"),
                format!("Bearer realm=\"http://{}/token\",service=\"gate\"", self.host),
            ),
        };
        if !may {
            let challenge = format!("WWW-Authenticate: {challenge}\r\n");
            return say(&mut stream, "401 Unauthorized", &challenge, "{\"errors\":[]}");
        }
        let body = body(&head, &mut reader)?;
        self.pass(&head, &body, stream, registry, manners)
    }

    /// Waits where the door is held, for those who bring something of a blob.
    fn through_the_door(&self, brings: bool) -> Result<()> {
        let mut state = self.door.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        while brings && state.0 == Door::Held {
            state = self.door.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.1 -= 1;
        ensure!(state.0 != Door::Shut, "the door is shut");
        Ok(())
    }

    /// Hands one request on, and its answer back.
    fn pass(
        &self,
        head: &Head,
        body: &[u8],
        mut to: TcpStream,
        registry: SocketAddr,
        manners: Manners,
    ) -> Result<()> {
        let (method, path) = (&head.words[0], &head.words[1]);
        let own = |name: &str| OWN.contains(&name.to_ascii_lowercase().as_str());
        let fields = head.fields.iter().filter(|(name, _)| !own(name));
        let fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let since = Instant::now();
        let mut answer = http::send(registry, method, path, &fields, body)?;
        let mut text =
            format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.head.words[1..].join(" "));
        for (name, value) in &answer.head.fields {
            if name.eq_ignore_ascii_case("location") {
                // The registry names itself as it was asked.
                let value = value.replace(&format!("//{registry}/"), &format!("//{}/", self.host));
                text.push_str(&format!("{name}: {value}\r\n"));
            } else if !name.eq_ignore_ascii_case("connection") {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        to.write_all(format!("{text}\r\n").as_bytes()).context("answering")?;
        let blob = path.rsplit_once("/blobs/").map(|(_, digest)| digest);
        let blob = blob.filter(|_| method == "GET" && answer.status < 300);
        if let Some(digest) = blob {
            self.count(digest, |passed| passed.times += 1);
        }
        match (manners, blob) {
            (Manners::Slow(rate), Some(_)) => slowly(&mut answer.body, &mut to, rate),
            _ => io::copy(&mut answer.body, &mut to).map(drop),
        }
        .context("handing a body on")?;
        if let Some(digest) = blob {
            self.count(digest, |passed| passed.took = since.elapsed());
        }
        Ok(())
    }

    fn count(&self, digest: &str, change: impl FnOnce(&mut Passed)) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        change(passed.entry(digest.to_owned()).or_default());
    }
}

/// Fields of a request that are between its two ends.
const OWN: &[&str] = &[
    "host",
    "authorization",
    "connection",
    "content-length",
    "transfer-encoding",
    "accept-encoding",
    "expect",
];

/// Copies in small steps, so many bytes a second.
fn slowly(from: &mut impl Read, to: &mut impl Write, rate: u64) -> io::Result<()> {
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

    /// A registry that answers every request with its path.
    fn registry() -> Result<SocketAddr> {
        let listener = TcpListener::bind((HERE, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream.try_clone()?);
                let head = Head::read(&mut reader)?.unwrap_or_default();
                say(&mut stream, "200 OK", "", &head.words[1])?;
            }
            Ok::<_, anyhow::Error>(())
        });
        Ok(address)
    }

    fn ask(gate: &Gate, path: &str, fields: &[(&str, &str)]) -> Result<(u16, String)> {
        let answer = http::send(gate.host.parse()?, "GET", path, fields, &[])?;
        Ok((answer.status, String::from_utf8(answer.bytes()?)?))
    }

    #[test]
    fn a_password_opens_and_a_blob_is_counted() -> Result<()> {
        let gate = Gate::open(HERE, registry()?, Manners::Basic)?;
        let blob = "/v2/r/blobs/sha256:1";
        assert_eq!(ask(&gate, blob, &[])?.0, 401);
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
        assert_eq!(ask(&gate, blob, &[("Authorization", &basic)])?, (200, blob.to_owned()));
        assert_eq!(gate.passed("sha256:1").times, 1);
        Ok(())
    }

    #[test]
    fn a_token_is_given_for_the_password_and_opens() -> Result<()> {
        let gate = Gate::open(HERE, registry()?, Manners::Bearer)?;
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
        assert_eq!(ask(&gate, "/v2/", &[("Authorization", &basic)])?.0, 401);
        assert_eq!(ask(&gate, "/token?service=gate", &[])?.0, 401);
        let (status, token) = ask(&gate, "/token?service=gate", &[("Authorization", &basic)])?;
        assert!(status == 200 && token.contains(TOKEN), "{status} {token}");
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(ask(&gate, "/v2/", &[("Authorization", &bearer)])?, (200, "/v2/".to_owned()));
        Ok(())
    }

    #[test]
    fn a_held_door_lets_a_blob_through_when_it_opens() -> Result<()> {
        let gate = Gate::open(HERE, registry()?, Manners::Open)?;
        gate.set(Door::Held);
        assert_eq!(ask(&gate, "/v2/r/blobs/uploads/1", &[])?.0, 200);
        let to = gate.host.parse()?;
        let brings =
            thread::spawn(move || http::send(to, "PUT", "/v2/r/blobs/uploads/1", &[], b"x"));
        while gate.waiting() == 0 {
            thread::yield_now();
        }
        gate.set(Door::Open);
        let answer = brings.join().map_err(|_| anyhow::anyhow!("it broke down"))??;
        assert_eq!(answer.status, 200);
        gate.set(Door::Shut);
        assert!(ask(&gate, "/v2/", &[]).is_err());
        Ok(())
    }

    #[test]
    fn a_slow_body_takes_its_time() -> Result<()> {
        let since = Instant::now();
        let mut out = Vec::new();
        slowly(&mut [7; 40].as_slice(), &mut out, 200)?;
        assert!(out == [7; 40] && since.elapsed() >= STEP * 2);
        Ok(())
    }
}
