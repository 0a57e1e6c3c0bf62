//! The part of the fake registry for pushes: uploads, mounts, manifests, deletes.

use axum::{
    body::Body,
    http::{HeaderMap, Uri, header},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::{FakeRegistry, Fault, Inner, ReceivedRequest, SECRET, State, serve, with_headers};
use crate::digest::{BlobDigest, Digest};

/// An upload in progress.
#[derive(Debug)]
pub(super) struct Upload {
    repository: String,
    bytes: Vec<u8>,
}

/// The form of the `Location` header.
#[derive(Debug, Default)]
pub(super) enum Locations {
    /// A path.
    #[default]
    Relative,
    /// A URL of this server, or of another `host:port`.
    At(String),
}

impl FakeRegistry {
    /// From now on a `Location` is an absolute URL.
    pub(crate) fn locate_absolutely(&self) {
        self.locate_at(&self.host());
    }

    /// From now on a `Location` leads to `host`.
    pub(crate) fn locate_at(&self, host: &str) {
        self.inner.state.lock().unwrap().locations = Locations::At(host.to_owned());
    }

    /// From now on uploads continue at another port, which requires no token. Returns its `host:port`. The registry
    /// listens there until the handle is dropped.
    pub(crate) async fn uploads_elsewhere(&self) -> (String, AbortOnDropHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        self.locate_at(&host);
        self.inner.state.lock().unwrap().open_host = Some(host.clone());
        (host, serve(listener, &self.inner))
    }

    /// Expires every issued token.
    pub(crate) fn expire_tokens(&self) {
        self.inner.state.lock().unwrap().generation += 1;
    }

    /// Removes every upload in progress.
    pub(crate) fn forget_uploads(&self) {
        self.inner.state.lock().unwrap().uploads.clear();
    }

    /// The number of uploads in progress.
    pub(crate) fn uploads(&self) -> usize {
        self.inner.state.lock().unwrap().uploads.len()
    }

    /// A blob that was pushed to, or mounted into, this repository.
    pub(crate) fn blob(&self, repository: &str, digest: &BlobDigest) -> Option<Bytes> {
        let state = self.inner.state.lock().unwrap();
        state.content.get(&format!("{repository}/blobs/{digest}")).map(|(_, bytes)| bytes.clone())
    }

    /// The content type and text of a manifest, by tag or digest.
    pub(crate) fn manifest(&self, repository: &str, name: &str) -> Option<(String, Bytes)> {
        let state = self.inner.state.lock().unwrap();
        state.content.get(&format!("{repository}/manifests/{name}")).cloned()
    }

    /// The methods of all requests whose path contains `part`, in order.
    pub(crate) fn methods(&self, part: &str) -> Vec<String> {
        self.requests_to(part).into_iter().map(|request| request.method).collect()
    }
}

/// Status and headers of a response.
struct Reply(u16, Vec<(&'static str, String)>);

impl Inner {
    /// Handles a push request.
    pub(super) async fn take(&self, request: &ReceivedRequest, uri: &Uri, body: Body) -> Response {
        if let Some(refused) = self.locked(request) {
            read_all(body).await;
            return refused;
        }
        let misdeed = self.misdeed(request);
        let bytes = match misdeed {
            Some(Fault::BreakAfter(bytes)) => {
                let taken = start(body, bytes).await;
                self.state.lock().unwrap().keep(uri.path(), &taken);
                return broken();
            }
            _ => read_all(body).await,
        };
        match &misdeed {
            Some(Fault::Hold) => self.gate.acquire().await.unwrap().forget(),
            Some(Fault::Respond(status, headers)) => {
                return with_headers(*status, "text/plain", SECRET.into(), headers);
            }
            _ => {}
        }
        let may_mount = !matches!(misdeed, Some(Fault::NoMount));
        let tags = matches!(misdeed, Some(Fault::KeepTag)).then(|| self.tags(uri.path()));
        let Reply(status, mut headers) = self.taken(request, uri, &bytes, may_mount);
        self.state.lock().unwrap().content.extend(tags.into_iter().flatten());
        match misdeed {
            Some(Fault::Lost) => return broken(),
            Some(Fault::Header(name, value)) => headers.push((name, value)),
            _ => {}
        }
        with_headers(status, "text/plain", Body::empty(), &headers)
    }

    /// The other entries with the same manifest as this path.
    fn tags(&self, path: &str) -> Vec<(String, (String, Bytes))> {
        let state = self.state.lock().unwrap();
        let name = path.strip_prefix("/v2/").unwrap();
        let Some((_, manifest)) = state.content.get(name) else { return Vec::new() };
        let same =
            state.content.iter().filter(|(key, (_, bytes))| *key != name && bytes == manifest);
        same.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    fn taken(&self, request: &ReceivedRequest, uri: &Uri, bytes: &Bytes, may_mount: bool) -> Reply {
        let path = uri.path().strip_prefix("/v2/").unwrap();
        let url = Url::parse(&format!("http://x/?{}", request.query)).unwrap();
        let field = |name: &str| {
            let pair = url.query_pairs().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.into_owned())
        };
        let may_mount = may_mount
            && field("from")
                .is_some_and(|from| self.granted(&from, "pull", request.authorization.as_deref()));
        let state = &mut *self.state.lock().unwrap();
        if let Some((repository, name)) = path.split_once("/manifests/") {
            return match request.method.as_str() {
                "PUT" => state.put_manifest(repository, name, &request.headers, bytes),
                "DELETE" => state.delete_manifest(repository, name),
                _ => Reply(405, Vec::new()),
            };
        }
        let (repository, id) = path.split_once("/blobs/uploads/").unwrap();
        if (request.method.as_str(), id) == ("POST", "") {
            if let (Some(blob), Some(from)) = (field("mount"), field("from"))
                && let Some(content) = state.of(&from, &blob).filter(|_| may_mount)
            {
                state.content.insert(format!("{repository}/blobs/{blob}"), content);
                return Reply(201, vec![("location", format!("/v2/{repository}/blobs/{blob}"))]);
            }
            state.next += 1;
            let upload = Upload { repository: repository.to_owned(), bytes: Vec::new() };
            let id = state.next.to_string();
            state.uploads.insert(id.clone(), upload);
            return state.progress(202, &id);
        }
        let Some(upload) = state.uploads.get_mut(id).filter(|it| it.repository == repository)
        else {
            return Reply(404, Vec::new());
        };
        let range = request.headers.get(header::CONTENT_RANGE).map(|range| range.to_str().unwrap());
        let offset = upload.bytes.len();
        let last = (offset + bytes.len()).wrapping_sub(1);
        let stale = field("state") != Some(offset.to_string());
        let wrong_range = range.is_some_and(|range| range != format!("{offset}-{last}"));
        match request.method.as_str() {
            "GET" => state.progress(204, id),
            "DELETE" => {
                state.uploads.remove(id);
                Reply(204, Vec::new())
            }
            "PATCH" if stale || wrong_range => state.progress(416, id),
            "PATCH" => {
                upload.bytes.extend_from_slice(bytes);
                state.progress(202, id)
            }
            "PUT" => {
                upload.bytes.extend_from_slice(bytes);
                let upload = state.uploads.remove(id).unwrap();
                let digest = Digest::of(&upload.bytes).to_string();
                if stale || field("digest").as_ref() != Some(&digest) {
                    return Reply(400, Vec::new());
                }
                let content = ("application/octet-stream".to_owned(), upload.bytes.into());
                state.content.insert(format!("{repository}/blobs/{digest}"), content);
                Reply(201, vec![("docker-content-digest", digest)])
            }
            _ => Reply(405, Vec::new()),
        }
    }
}

impl State {
    /// A blob of a repository. Blobs from [`FakeRegistry::put_blob`] are in every repository.
    pub(super) fn of(&self, repository: &str, blob: &str) -> Option<(String, Bytes)> {
        let own = self.content.get(&format!("{repository}/blobs/{blob}"));
        own.or_else(|| self.content.get(&format!("blobs/{blob}"))).cloned()
    }

    /// Stores the start of a chunk whose connection broke.
    fn keep(&mut self, path: &str, bytes: &[u8]) {
        let id = path.rsplit('/').next().unwrap();
        self.uploads.get_mut(id).unwrap().bytes.extend_from_slice(bytes);
    }

    /// The state of an upload, in distribution's form: no byte and one byte are both `0-0`.
    fn progress(&self, status: u16, id: &str) -> Reply {
        let upload = &self.uploads[id];
        let at = upload.bytes.len();
        let path = format!("/v2/{}/blobs/uploads/{id}?state={at}", upload.repository);
        let location = match &self.locations {
            Locations::Relative => path,
            Locations::At(host) => format!("http://{host}{path}"),
        };
        let range = format!("0-{}", at.saturating_sub(1));
        Reply(status, vec![("location", location), ("range", range)])
    }

    fn put_manifest(
        &mut self,
        repository: &str,
        name: &str,
        headers: &HeaderMap,
        bytes: &Bytes,
    ) -> Reply {
        let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let layers = document["layers"].as_array().cloned().unwrap_or_default();
        let blobs = layers.iter().chain(document.get("config"));
        let there = |blob: &Value| self.of(repository, blob["digest"].as_str().unwrap()).is_some();
        if !blobs.into_iter().all(there) {
            return Reply(400, Vec::new());
        }
        let content_type = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let digest = Digest::of(bytes).to_string();
        for name in [name, digest.as_str()] {
            let entry = (content_type.clone(), bytes.clone());
            self.content.insert(format!("{repository}/manifests/{name}"), entry);
        }
        Reply(201, vec![("docker-content-digest", digest)])
    }

    /// Deletes a manifest and its tags.
    fn delete_manifest(&mut self, repository: &str, name: &str) -> Reply {
        let dir = format!("{repository}/manifests/");
        let Some((_, bytes)) = self.content.get(&format!("{dir}{name}")).cloned() else {
            return Reply(404, Vec::new());
        };
        self.content.retain(|key, (_, other)| !key.starts_with(&dir) || *other != bytes);
        Reply(202, Vec::new())
    }
}

/// Whether [`Inner::take`] handles a request.
pub(super) fn is_push(method: &Method, path: &str) -> bool {
    let upload = path.contains("/blobs/uploads/");
    path.starts_with("/v2/") && (upload || !matches!(*method, Method::GET | Method::HEAD))
}

/// The complete body.
pub(super) async fn read_all(body: Body) -> Bytes {
    start(body, usize::MAX).await
}

/// The body up to its end, to the point where the client breaks it off, or to `most` bytes.
async fn start(body: Body, most: usize) -> Bytes {
    let (mut pieces, mut bytes) = (body.into_data_stream(), Vec::new());
    while bytes.len() < most
        && let Some(Ok(piece)) = pieces.next().await
    {
        bytes.extend_from_slice(&piece);
    }
    bytes.truncate(most);
    bytes.into()
}

/// A response whose connection breaks.
fn broken() -> Response {
    let error = stream::iter([Err::<Bytes, _>(std::io::Error::other("injected fault"))]);
    with_headers(500, "text/plain", Body::from_stream(error), &[])
}

/// Creates the token for these scopes, each `repository:<name>:<actions>`.
pub(super) fn token(scopes: &[String], generation: u64) -> String {
    let part = |scope: &String| {
        let (_, rest) = scope.split_once(':').unwrap();
        let (name, actions) = rest.rsplit_once(':').unwrap();
        let may = |action: &'static str| {
            let may = actions.split(',').any(|it| it == action || it == "*");
            if may { format!("-{action}") } else { String::new() }
        };
        format!("{}{}{}", Digest::of(name.as_bytes()).hex(), may("push"), may("delete"))
    };
    let parts: Vec<_> = scopes.iter().map(part).collect();
    let since = if generation == 0 { String::new() } else { format!("~{generation}") };
    format!("{}-{}{since}", super::TOKEN, parts.join("."))
}

/// Whether an `Authorization` with such a token allows `action`.
pub(super) fn lets(login: &str, repository: &str, action: &str, generation: u64) -> bool {
    let Some(token) = login.strip_prefix(&format!("Bearer {}-", super::TOKEN)) else {
        return false;
    };
    let (parts, since) = token.split_once('~').unwrap_or((token, "0"));
    let hex = Digest::of(repository.as_bytes()).hex();
    let part = parts.split('.').find_map(|part| part.strip_prefix(&hex));
    let may = part.is_some_and(|may| action == "pull" || may.contains(&format!("-{action}")));
    may && since == generation.to_string()
}

/// The permission that a request needs.
pub(super) fn action(method: &str) -> &'static str {
    match method {
        "GET" | "HEAD" => "pull",
        "DELETE" => "delete",
        _ => "push",
    }
}

pub(super) fn token_response(scopes: &[String], generation: u64) -> Response {
    let token = json!({ "token": token(scopes, generation) }).to_string();
    with_headers(200, "application/json", token.into(), &[])
}

/// Whether the request is to the host of [`FakeRegistry::uploads_elsewhere`].
pub(super) fn is_open(state: &State, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap());
    host.is_some() && host == state.open_host.as_deref()
}
