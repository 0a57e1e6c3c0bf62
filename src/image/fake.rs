//! An in-memory registry for tests, on loopback: it serves images, accepts pushes, and injects faults on request.
//!
//! Other modules use it too: [`FakeRegistry::registries`] is a [`Registries`] that contacts it by plain http.

mod pushes;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, header},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Hosts, Keyring, Reference, Registries, clients::Trust, retry::RetryPolicy, secret::Secret,
};
use crate::digest::{BlobDigest, DiffId, Digest, ManifestDigest};

pub(crate) use crate::media_type::{OCI_INDEX, OCI_MANIFEST};
/// The token that [`Misdeed::NeedsToken`] requires.
pub(crate) const TOKEN: &str = "fake-token-that-must-not-be-shown";
/// The identity token that is valid for every repository with [`Scheme::Bearer`].
pub(crate) const IDENTITY: &str = "identity-that-must-not-be-shown";

/// More bytes than a client with limits accepts, and few enough not to exhaust the memory if a client has none.
const FLOOD: usize = 64 << 20;
/// The time limit of [`soon`]: far longer than anything on loopback takes, also on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A fault of the registry.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Responds with this status and these headers, and with a body that must never be shown.
    Respond(u16, Vec<(&'static str, String)>),
    /// Sends the right length with a wrong last byte.
    Flip,
    /// Sends half of the body as if it were complete.
    Half,
    /// Sends half of the body, then breaks the connection.
    Truncate,
    /// Sends the body, then [`FLOOD`] zeros, then nothing, without ending the response.
    Endless,
    /// Sends the right body with a wrong header.
    Header(&'static str, String),
    /// Responds with 401 and a bearer challenge for this realm, unless the request has [`TOKEN`]. Empty means `/token`
    /// of the registry itself.
    NeedsToken(String),
    /// Does not respond until [`FakeRegistry::release`], then responds correctly.
    Hold,
    /// Ignores the range of the request and sends everything.
    NoParts,
    /// Stores this number of bytes of the upload, then breaks the connection.
    BreakAfter(usize),
    /// Executes the request, then breaks the connection instead of responding.
    Lost,
    /// Starts an upload instead of a mount.
    NoMount,
    /// Deletes a manifest under its digest, but not under its tag.
    KeepTag,
}

/// The authentication that a repository requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// HTTP Basic with every request.
    Basic,
    /// A token from `/token`, which issues it for HTTP Basic or for [`IDENTITY`].
    Bearer,
}

/// For [`FakeRegistry::misbehave`]: every request.
pub(crate) const ALWAYS: usize = usize::MAX;

/// The digests of an image in the registry.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    pub(crate) manifest: ManifestDigest,
    pub(crate) manifest_size: usize,
    pub(crate) config: BlobDigest,
    pub(crate) layers: Vec<BlobDigest>,
    pub(crate) diff_ids: Vec<DiffId>,
}

/// One request that the registry received.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: Option<String>,
    pub(crate) headers: HeaderMap,
    /// The body; empty for a push.
    pub(crate) body: String,
}

#[derive(Debug, Default)]
struct State {
    /// Content type and bytes by `<repository>/manifests/<tag or digest>` or `blobs/<digest>`.
    content: HashMap<String, (String, Bytes)>,
    /// Part of method and path, remaining number of requests, fault.
    misdeeds: Vec<(String, usize, Fault)>,
    /// Repository, scheme, and the `Authorization` that is accepted.
    locks: Vec<(String, Scheme, String)>,
    received: Vec<ReceivedRequest>,
    uploads: HashMap<String, pushes::Upload>,
    /// Number of the last upload.
    next: u64,
    locations: pushes::Locations,
    /// The `host:port` at which uploads need no token.
    open_host: Option<String>,
    /// The `host:port` to which every manifest and blob is redirected.
    elsewhere: Option<String>,
    /// How often all tokens were expired.
    generation: u64,
}

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    state: Mutex<State>,
    gate: Semaphore,
    hung_up: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) struct FakeRegistry {
    inner: Arc<Inner>,
    _server: AbortOnDropHandle<()>,
}

impl FakeRegistry {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(address: &str) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let inner = Arc::new(Inner {
            address: listener.local_addr().unwrap(),
            state: Mutex::default(),
            gate: Semaphore::new(0),
            hung_up: Arc::default(),
        });
        let server = serve(listener, &inner);
        Self { inner, _server: server }
    }

    /// `127.0.0.1:port`, the registry part of a reference.
    pub(crate) fn host(&self) -> String {
        self.inner.address.to_string()
    }

    pub(crate) fn reference(&self, repository: &str, tag: &str) -> Reference {
        format!("{}/{repository}:{tag}", self.host()).parse().unwrap()
    }

    /// A client that contacts this registry by plain http and retries within milliseconds.
    pub(crate) fn registries(&self) -> Registries {
        registries(&[(&self.host(), &format!("server = \"http://{}\"", self.host()))])
    }

    /// Adds an image of plain tars, bottom first, under a tag.
    pub(crate) fn push_image(
        &self,
        repository: &str,
        tag: &str,
        layers: &[Vec<u8>],
        gzip: bool,
    ) -> Pushed {
        let diff_ids: Vec<_> = layers.iter().map(|tar| DiffId::of(tar)).collect();
        let blobs: Vec<_> =
            layers.iter().map(|tar| if gzip { gzipped(tar) } else { tar.clone() }).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let suffix = if gzip { "+gzip" } else { "" };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": blobs.iter().map(|blob| descriptor(&media_type, blob)).collect::<Vec<_>>(),
        });
        let config = self.put_blob(config);
        let layers = blobs.into_iter().map(|blob| self.put_blob(blob)).collect();
        let manifest = manifest.to_string();
        let manifest_size = manifest.len();
        let manifest = self.put_manifest(repository, tag, &manifest, OCI_MANIFEST);
        Pushed { manifest, manifest_size, config, layers, diff_ids }
    }

    pub(crate) fn put_blob(&self, bytes: Vec<u8>) -> BlobDigest {
        let digest = BlobDigest::of(&bytes);
        let entry = ("application/octet-stream".to_owned(), bytes.into());
        self.inner.state.lock().unwrap().content.insert(format!("blobs/{digest}"), entry);
        digest
    }

    /// Adds a blob, or a manifest `<repository>/manifests/<digest>`, under any name.
    pub(crate) fn put_as(&self, name: &str, bytes: Vec<u8>, content_type: &str) {
        let entry = (content_type.to_owned(), bytes.into());
        self.inner.state.lock().unwrap().content.insert(name.to_owned(), entry);
    }

    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        text: &str,
        content_type: &str,
    ) -> ManifestDigest {
        let digest = ManifestDigest::of(text.as_bytes());
        let entry = (content_type.to_owned(), Bytes::from(text.to_owned()));
        let content = &mut self.inner.state.lock().unwrap().content;
        content.insert(format!("{repository}/manifests/{tag}"), entry.clone());
        content.insert(format!("{repository}/manifests/{digest}"), entry);
        digest
    }

    /// The text of a manifest.
    pub(crate) fn text(&self, repository: &str, manifest: &ManifestDigest) -> String {
        let state = self.inner.state.lock().unwrap();
        let (_, bytes) = &state.content[&format!("{repository}/manifests/{manifest}")];
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// From now on `repository` requires `user` with `password`. Users from earlier calls stay valid.
    pub(crate) fn protect(&self, repository: &str, scheme: Scheme, user: &str, password: &str) {
        let secret = Secret::Password { username: user.into(), password: password.into() };
        let accepted = secret.basic().unwrap().to_str().unwrap().to_owned();
        self.inner.state.lock().unwrap().locks.push((repository.to_owned(), scheme, accepted));
    }

    /// A keyring with one password for this registry.
    pub(crate) fn keyring(&self, user: &str, password: &str) -> Keyring {
        keyring(&json!({ self.host(): { "username": user, "password": password } }))
    }

    /// Injects a fault into the next `times` requests whose method and path, as in `GET /v2/`, contain `part`. Several
    /// faults for the same requests happen in the order of the calls.
    pub(crate) fn inject(&self, part: impl ToString, times: usize, misdeed: Fault) {
        self.inner.state.lock().unwrap().misdeeds.push((part.to_string(), times, misdeed));
    }

    /// From now on every permitted request for content is redirected to `host`.
    pub(crate) fn redirect_to(&self, host: &str) {
        self.inner.state.lock().unwrap().elsewhere = Some(host.to_owned());
    }

    /// The number of requests by path.
    pub(crate) fn requests(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in &self.inner.state.lock().unwrap().received {
            *counts.entry(request.path.clone()).or_default() += 1;
        }
        counts
    }

    /// Every request whose path contains `part`.
    pub(crate) fn requests_to(&self, part: &str) -> Vec<ReceivedRequest> {
        let state = self.inner.state.lock().unwrap();
        state.received.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }

    /// Lets one [`Misdeed::Hold`] go on.
    pub(crate) fn release(&self) {
        self.inner.gate.add_permits(1);
    }

    /// Waits until a client has closed an [`Misdeed::Endless`] response.
    pub(crate) async fn hung_up(&self) {
        soon(self.inner.hung_up.notified()).await;
    }
}

fn serve(listener: tokio::net::TcpListener, inner: &Arc<Inner>) -> AbortOnDropHandle<()> {
    let state = Arc::clone(inner);
    let app = axum::Router::new().fallback(move |request: Request| {
        let state = Arc::clone(&state);
        async move { state.respond(request).await }
    });
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    AbortOnDropHandle::new(server)
}

/// Waits for `done`, and fails the test if it takes longer than [`SOON`].
pub(crate) async fn soon<T>(done: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, done).await.expect("the future must finish within the limit")
}

/// A keyring of these `auths`.
pub(crate) fn keyring(auths: &serde_json::Value) -> Keyring {
    let config = json!({ "auths": auths }).to_string();
    Keyring::from_docker_config(config.as_bytes()).unwrap()
}

/// A client whose hosts directory has these (directory, text of `hosts.toml`), and whose retries take milliseconds.
pub(crate) fn registries(files: &[(&str, &str)]) -> Registries {
    with_retry(files, RetryPolicy { first: Duration::from_millis(1), ..RetryPolicy::default() })
}

/// Such a client with another retry policy.
pub(super) fn with_retry(files: &[(&str, &str)], retry: RetryPolicy) -> Registries {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
    }
    let hosts = Hosts::load(dir.path()).unwrap();
    Registries::with(hosts, retry, Trust::NoCa).unwrap()
}

pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

impl Inner {
    async fn respond(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
        let path = uri.path();
        let authorization = headers.get(header::AUTHORIZATION);
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        let known = authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
        let from = headers.get(header::RANGE).map(|range| -> usize {
            let range = range.to_str().unwrap();
            range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
        });
        let query = uri.query().unwrap_or_default().to_owned();
        let push = pushes::is_push(&method, path);
        let (text, body) = match push {
            false => {
                (String::from_utf8(pushes::read_all(body).await.to_vec()).unwrap(), Body::empty())
            }
            true => (String::new(), body),
        };
        let (method, path) = (method.to_string(), path.to_owned());
        let request = ReceivedRequest { method, path, query, authorization, headers, body: text };
        self.state.lock().unwrap().received.push(request.clone());
        if push {
            return self.take(&request, &uri, body).await;
        }
        let path = uri.path();
        if let Some(refused) = self.locked(&request) {
            return refused;
        }
        let elsewhere = self.state.lock().unwrap().elsewhere.clone();
        if let Some(host) = elsewhere.filter(|_| path.starts_with("/v2/")) {
            let place = ("location", format!("http://{host}{path}"));
            return with_headers(307, "text/plain", SECRET.into(), &[place]);
        }
        let misdeed = self.misdeed(&request);
        if matches!(misdeed, Some(Fault::Hold)) {
            self.gate.acquire().await.unwrap().forget();
        }
        let (mut status, content_type, mut bytes) = self.found(path);
        let whole = matches!(misdeed, Some(Fault::NoParts));
        let mut headers = Vec::new();
        if status == 200 && path.contains("/manifests/") {
            headers.push(("docker-content-digest", Digest::of(&bytes).to_string()));
        }
        if let Some(from) = from.filter(|from| status == 200 && !whole && *from < bytes.len()) {
            let (last, all) = (bytes.len() - 1, bytes.len());
            headers.push(("content-range", format!("bytes {from}-{last}/{all}")));
            (status, bytes) = (206, bytes.slice(from..));
        }
        match misdeed {
            Some(Fault::NeedsToken(realm)) if !known => {
                let own = format!("http://{}/token", self.address);
                let realm = if realm.is_empty() { own } else { realm };
                let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
                let headers = [("www-authenticate", challenge)];
                with_headers(401, "text/plain", SECRET.into(), &headers)
            }
            Some(Fault::Respond(status, headers)) => {
                with_headers(status, "text/plain", SECRET.into(), &headers)
            }
            Some(Fault::Header(name, value)) => {
                headers.push((name, value));
                with_headers(status, &content_type, bytes.into(), &headers)
            }
            Some(Fault::Truncate) => {
                headers.push(("content-length", bytes.len().to_string()));
                let half = bytes.slice(..bytes.len() / 2);
                let broken = stream::once(async {
                    // The server sends the first half while the stream is not ready.
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("injected fault"))
                });
                let pieces = stream::iter([Ok(half)]).chain(broken);
                with_headers(status, &content_type, Body::from_stream(pieces), &headers)
            }
            misdeed => with_headers(status, &content_type, self.body(misdeed, bytes), &headers),
        }
    }

    /// The response to a request without permission, and every response of the token service.
    fn locked(&self, request: &ReceivedRequest) -> Option<Response> {
        let url =
            reqwest::Url::parse(&format!("http://x/?{}&{}", request.query, request.body)).unwrap();
        let field = |name: &str| {
            let pair = url.query_pairs().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let state = self.state.lock().unwrap();
        let of = |repository: &str| {
            let lock = |(name, ..): &&(String, Scheme, String)| name == repository;
            state.locks.iter().filter(lock).cloned().collect::<Vec<_>>()
        };
        let login = request.authorization.as_deref();
        let refused = |challenge: String| {
            with_headers(401, "text/plain", SECRET.into(), &[("www-authenticate", challenge)])
        };
        if request.path == "/token" {
            let scopes = url.query_pairs().filter(|(key, _)| key == "scope");
            let scopes: Vec<_> = scopes
                .flat_map(|(_, scopes)| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .collect();
            let accepted = |scope: &String| {
                let locks = of(scope.split(':').nth(1).unwrap_or_default());
                let identity = field("refresh_token") == IDENTITY;
                locks.is_empty()
                    || identity
                    || locks.iter().any(|lock| login == Some(lock.2.as_str()))
            };
            let locked =
                |scope: &String| !of(scope.split(':').nth(1).unwrap_or_default()).is_empty();
            if !scopes.iter().any(locked) {
                return None;
            }
            let given: Vec<_> = scopes.into_iter().filter(accepted).collect();
            return Some(match given.iter().any(locked) {
                true => pushes::token_response(&given, state.generation),
                false => refused("Basic".to_owned()),
            });
        }
        let inner = request.path.strip_prefix("/v2/")?;
        let end = inner.find("/manifests/").or(inner.find("/blobs/"))?;
        let locks = of(&inner[..end]);
        let (repository, scheme, _) = locks.first()?;
        if pushes::is_open(&state, &request.headers) {
            return None;
        }
        let action = pushes::action(&request.method);
        let bearer = |login| pushes::lets(login, repository, action, state.generation);
        match scheme {
            Scheme::Basic if locks.iter().any(|lock| login == Some(lock.2.as_str())) => None,
            Scheme::Basic => Some(refused("Basic realm=\"fake\"".to_owned())),
            Scheme::Bearer if login.is_some_and(bearer) => None,
            Scheme::Bearer => {
                let realm = format!("http://{}/token", self.address);
                Some(refused(format!("Bearer realm=\"{realm}\",service=\"fake\"")))
            }
        }
    }

    /// Whether this `Authorization` allows `action` in a repository with [`Scheme::Bearer`], or the repository is
    /// public.
    fn granted(&self, repository: &str, action: &str, login: Option<&str>) -> bool {
        let state = self.state.lock().unwrap();
        let locked = state.locks.iter().any(|(name, ..)| name == repository);
        let lets = |login| pushes::lets(login, repository, action, state.generation);
        !locked || login.is_some_and(lets)
    }

    fn misdeed(&self, request: &ReceivedRequest) -> Option<Fault> {
        let line = format!("{} {}", request.method, request.path);
        let misdeeds = &mut self.state.lock().unwrap().misdeeds;
        let due = misdeeds.iter_mut().find(|(part, times, _)| *times > 0 && line.contains(part));
        due.map(|(_, times, misdeed)| {
            *times -= usize::from(*times != ALWAYS);
            misdeed.clone()
        })
    }

    fn found(&self, path: &str) -> (u16, String, Bytes) {
        let name = path.strip_prefix("/v2/").unwrap_or(path);
        if path == "/token" {
            let token = json!({ "token": TOKEN }).to_string();
            return (200, "application/json".to_owned(), token.into());
        }
        let state = self.state.lock().unwrap();
        let found = match name.split_once("/blobs/").or(name.split_once("blobs/")) {
            Some((repository, blob)) => state.of(repository, blob),
            None => state.content.get(name).cloned(),
        };
        match found {
            Some((content_type, bytes)) => (200, content_type, bytes),
            None => (404, "text/plain".to_owned(), SECRET.into()),
        }
    }

    fn body(&self, misdeed: Option<Fault>, bytes: Bytes) -> Body {
        match misdeed {
            Some(Fault::Flip) => {
                let mut other = bytes.to_vec();
                *other.last_mut().unwrap() ^= 1;
                other.into()
            }
            Some(Fault::Half) => bytes.slice(..bytes.len() / 2).into(),
            Some(Fault::Endless) => {
                let guard = HangUp(Arc::clone(&self.hung_up));
                let zeros = Bytes::from_static(&[0; 65536]);
                let flood = stream::repeat(zeros.clone()).take(FLOOD / zeros.len());
                let pieces = stream::iter([bytes]).chain(flood).chain(stream::pending());
                Body::from_stream(pieces.map(move |piece| {
                    let _ = &guard;
                    Ok::<_, Infallible>(piece)
                }))
            }
            _ => bytes.into(),
        }
    }
}

/// The body of every response without content.
const SECRET: &str = "body-that-must-not-be-shown";

fn with_headers(
    status: u16,
    content_type: &str,
    body: Body,
    headers: &[(&str, String)],
) -> Response {
    let mut response = Response::builder().status(status).body(body).unwrap();
    let content_type = (header::CONTENT_TYPE.as_str(), content_type.to_owned());
    for (name, value) in [content_type].iter().chain(headers) {
        let name = HeaderName::try_from(*name).unwrap();
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

struct HangUp(Arc<Notify>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
