//! What the registry takes: uploads, mounts, manifests, deletes.

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

use super::{FakeRegistry, Inner, Misdeed, SECRET, Seen, Shelf, serve, with_headers};
use crate::digest::Digest;

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload {
    repository: String,
    bytes: Vec<u8>,
}

/// How `Location` is written.
#[derive(Debug, Default)]
pub(super) enum Locations {
    /// A path.
    #[default]
    Relative,
    /// A URL of this server, or of another `host:port`.
    At(String),
}

impl FakeRegistry {
    /// From now on a `Location` is a whole URL.
    pub(crate) fn locate_absolutely(&self) {
        self.locate_at(&self.host());
    }

    /// From now on a `Location` leads to `host`.
    pub(crate) fn locate_at(&self, host: &str) {
        self.inner.shelf.lock().unwrap().locations = Locations::At(host.to_owned());
    }

    /// From now on uploads go on at another port, which asks for no token; answers its `host:port`. The registry
    /// listens there as long as the handle lives.
    pub(crate) async fn uploads_elsewhere(&self) -> (String, AbortOnDropHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        self.locate_at(&host);
        self.inner.shelf.lock().unwrap().open_host = Some(host.clone());
        (host, serve(listener, &self.inner))
    }

    /// Every token that was given is one no more.
    pub(crate) fn expire_tokens(&self) {
        self.inner.shelf.lock().unwrap().generation += 1;
    }

    /// Every upload under way is lost.
    pub(crate) fn forget_uploads(&self) {
        self.inner.shelf.lock().unwrap().uploads.clear();
    }

    /// How many uploads are under way.
    pub(crate) fn uploads(&self) -> usize {
        self.inner.shelf.lock().unwrap().uploads.len()
    }

    /// A blob that was pushed to, or mounted into, this very repository.
    pub(crate) fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        let shelf = self.inner.shelf.lock().unwrap();
        shelf.content.get(&format!("{repository}/blobs/{digest}")).map(|(_, bytes)| bytes.clone())
    }

    /// The content type and text of a manifest, by tag or digest.
    pub(crate) fn manifest(&self, repository: &str, name: &str) -> Option<(String, Bytes)> {
        let shelf = self.inner.shelf.lock().unwrap();
        shelf.content.get(&format!("{repository}/manifests/{name}")).cloned()
    }

    /// The methods of all requests whose path contains `part`, in order.
    pub(crate) fn methods(&self, part: &str) -> Vec<String> {
        self.seen(part).into_iter().map(|seen| seen.method).collect()
    }
}

/// Something that the registry has taken or refused.
struct Answer(u16, Vec<(&'static str, String)>);

impl Inner {
    /// Takes what is pushed.
    pub(super) async fn take(&self, seen: &Seen, uri: &Uri, body: Body) -> Response {
        if let Some(refused) = self.locked(seen) {
            whole(body).await;
            return refused;
        }
        let misdeed = self.told(seen);
        let bytes = match misdeed {
            Some(Misdeed::CutAfter(bytes)) => {
                let taken = start(body, bytes).await;
                self.shelf.lock().unwrap().keep(uri.path(), &taken);
                return broken();
            }
            _ => whole(body).await,
        };
        match &misdeed {
            Some(Misdeed::Hold) => self.gate.acquire().await.unwrap().forget(),
            Some(Misdeed::Answer(status, headers)) => {
                return with_headers(*status, "text/plain", SECRET.into(), headers);
            }
            _ => {}
        }
        let may_mount = !matches!(misdeed, Some(Misdeed::NoMount));
        let tags = matches!(misdeed, Some(Misdeed::KeepTag)).then(|| self.tags(uri.path()));
        let Answer(status, mut headers) = self.taken(seen, uri, &bytes, may_mount);
        self.shelf.lock().unwrap().content.extend(tags.into_iter().flatten());
        match misdeed {
            Some(Misdeed::Lost) => return broken(),
            Some(Misdeed::Header(name, value)) => headers.push((name, value)),
            _ => {}
        }
        with_headers(status, "text/plain", Body::empty(), &headers)
    }

    /// What else is the manifest with this path.
    fn tags(&self, path: &str) -> Vec<(String, (String, Bytes))> {
        let shelf = self.shelf.lock().unwrap();
        let name = path.strip_prefix("/v2/").unwrap();
        let Some((_, manifest)) = shelf.content.get(name) else { return Vec::new() };
        let same =
            shelf.content.iter().filter(|(key, (_, bytes))| *key != name && bytes == manifest);
        same.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    fn taken(&self, seen: &Seen, uri: &Uri, bytes: &Bytes, may_mount: bool) -> Answer {
        let path = uri.path().strip_prefix("/v2/").unwrap();
        let url = Url::parse(&format!("http://x/?{}", seen.query)).unwrap();
        let field = |name: &str| {
            let pair = url.query_pairs().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.into_owned())
        };
        let may_mount = may_mount
            && field("from")
                .is_some_and(|from| self.granted(&from, "pull", seen.authorization.as_deref()));
        let shelf = &mut *self.shelf.lock().unwrap();
        if let Some((repository, name)) = path.split_once("/manifests/") {
            return match seen.method.as_str() {
                "PUT" => shelf.put_manifest(repository, name, &seen.headers, bytes),
                "DELETE" => shelf.delete_manifest(repository, name),
                _ => Answer(405, Vec::new()),
            };
        }
        let (repository, id) = path.split_once("/blobs/uploads/").unwrap();
        if (seen.method.as_str(), id) == ("POST", "") {
            if let (Some(blob), Some(from)) = (field("mount"), field("from"))
                && let Some(content) = shelf.of(&from, &blob).filter(|_| may_mount)
            {
                shelf.content.insert(format!("{repository}/blobs/{blob}"), content);
                return Answer(201, vec![("location", format!("/v2/{repository}/blobs/{blob}"))]);
            }
            shelf.next += 1;
            let upload = Upload { repository: repository.to_owned(), bytes: Vec::new() };
            let id = shelf.next.to_string();
            shelf.uploads.insert(id.clone(), upload);
            return shelf.progress(202, &id);
        }
        let Some(upload) = shelf.uploads.get_mut(id).filter(|it| it.repository == repository)
        else {
            return Answer(404, Vec::new());
        };
        let range = seen.headers.get(header::CONTENT_RANGE).map(|range| range.to_str().unwrap());
        let begin = upload.bytes.len();
        let last = (begin + bytes.len()).wrapping_sub(1);
        let stale = field("state") != Some(begin.to_string());
        let elsewhere = range.is_some_and(|range| range != format!("{begin}-{last}"));
        match seen.method.as_str() {
            "GET" => shelf.progress(204, id),
            "DELETE" => {
                shelf.uploads.remove(id);
                Answer(204, Vec::new())
            }
            "PATCH" if stale || elsewhere => shelf.progress(416, id),
            "PATCH" => {
                upload.bytes.extend_from_slice(bytes);
                shelf.progress(202, id)
            }
            "PUT" => {
                upload.bytes.extend_from_slice(bytes);
                let upload = shelf.uploads.remove(id).unwrap();
                let digest = Digest::of(&upload.bytes).to_string();
                if stale || field("digest").as_ref() != Some(&digest) {
                    return Answer(400, Vec::new());
                }
                let content = ("application/octet-stream".to_owned(), upload.bytes.into());
                shelf.content.insert(format!("{repository}/blobs/{digest}"), content);
                Answer(201, vec![("docker-content-digest", digest)])
            }
            _ => Answer(405, Vec::new()),
        }
    }
}

impl Shelf {
    /// A blob as a repository has it; those that were put by calls are in every one.
    pub(super) fn of(&self, repository: &str, blob: &str) -> Option<(String, Bytes)> {
        let own = self.content.get(&format!("{repository}/blobs/{blob}"));
        own.or_else(|| self.content.get(&format!("blobs/{blob}"))).cloned()
    }

    /// Keeps the start of a chunk whose connection broke.
    fn keep(&mut self, path: &str, bytes: &[u8]) {
        let id = path.rsplit('/').next().unwrap();
        self.uploads.get_mut(id).unwrap().bytes.extend_from_slice(bytes);
    }

    /// Where an upload stands. As distribution writes it: nothing and one byte are both `0-0`.
    fn progress(&self, status: u16, id: &str) -> Answer {
        let upload = &self.uploads[id];
        let at = upload.bytes.len();
        let path = format!("/v2/{}/blobs/uploads/{id}?state={at}", upload.repository);
        let location = match &self.locations {
            Locations::Relative => path,
            Locations::At(host) => format!("http://{host}{path}"),
        };
        let range = format!("0-{}", at.saturating_sub(1));
        Answer(status, vec![("location", location), ("range", range)])
    }

    fn put_manifest(
        &mut self,
        repository: &str,
        name: &str,
        headers: &HeaderMap,
        bytes: &Bytes,
    ) -> Answer {
        let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let layers = document["layers"].as_array().cloned().unwrap_or_default();
        let blobs = layers.iter().chain(document.get("config"));
        let there = |blob: &Value| self.of(repository, blob["digest"].as_str().unwrap()).is_some();
        if !blobs.into_iter().all(there) {
            return Answer(400, Vec::new());
        }
        let content_type = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let digest = Digest::of(bytes).to_string();
        for name in [name, digest.as_str()] {
            let entry = (content_type.clone(), bytes.clone());
            self.content.insert(format!("{repository}/manifests/{name}"), entry);
        }
        Answer(201, vec![("docker-content-digest", digest)])
    }

    /// With its tags.
    fn delete_manifest(&mut self, repository: &str, name: &str) -> Answer {
        let folder = format!("{repository}/manifests/");
        let Some((_, bytes)) = self.content.get(&format!("{folder}{name}")).cloned() else {
            return Answer(404, Vec::new());
        };
        self.content.retain(|key, (_, other)| !key.starts_with(&folder) || *other != bytes);
        Answer(202, Vec::new())
    }
}

/// Whether a request is one for [`Inner::take`].
pub(super) fn is_push(method: &Method, path: &str) -> bool {
    let upload = path.contains("/blobs/uploads/");
    path.starts_with("/v2/") && (upload || !matches!(*method, Method::GET | Method::HEAD))
}

pub(super) async fn whole(body: Body) -> Bytes {
    start(body, usize::MAX).await
}

/// The body to its end, to where the client breaks off, or to `most` bytes.
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

/// An answer that does not come.
fn broken() -> Response {
    let error = stream::iter([Err::<Bytes, _>(std::io::Error::other("told to break"))]);
    with_headers(500, "text/plain", Body::from_stream(error), &[])
}

/// The token for these scopes, each `repository:<name>:<actions>`.
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

/// Whether an `Authorization` with such a token lets do `action`.
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

/// What a request needs to be allowed.
pub(super) fn action(method: &str) -> &'static str {
    match method {
        "GET" | "HEAD" => "pull",
        "DELETE" => "delete",
        _ => "push",
    }
}

pub(super) fn answer_token(scopes: &[String], generation: u64) -> Response {
    let token = json!({ "token": token(scopes, generation) }).to_string();
    with_headers(200, "application/json", token.into(), &[])
}

/// For [`FakeRegistry::uploads_elsewhere`].
pub(super) fn is_open(shelf: &Shelf, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap());
    host.is_some() && host == shelf.open_host.as_deref()
}
