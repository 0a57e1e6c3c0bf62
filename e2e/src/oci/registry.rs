//! A registry in this process, on loopback and in memory: as much of the distribution specification
//! as images and snapshots need.
//!
//! Deliberately absent: accounts, encryption, and ranges of blobs. A range request gets the whole
//! blob, which the specification allows.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::http::{Head, body, respond};
use super::image::digest;

/// A registry that runs as long as this process.
#[derive(Clone)]
pub struct MemoryRegistry {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Arc<[u8]>>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), Manifest>,
    uploads: BTreeMap<u64, Vec<u8>>,
    next: u64,
    delay: Duration,
    served: u64,
    received: u64,
}

/// A manifest's content type and bytes.
type Manifest = (String, Arc<[u8]>);

/// The response to a request.
struct Response {
    status: &'static str,
    fields: String,
    body: Arc<[u8]>,
}

impl Response {
    fn new(status: &'static str, fields: impl Into<String>) -> Self {
        Self { status, fields: fields.into(), body: Arc::from([]) }
    }

    fn missing() -> Self {
        Self::new("404 Not Found", "")
    }

    fn with(self, body: Arc<[u8]>) -> Self {
        Self { body, ..self }
    }
}

impl MemoryRegistry {
    /// Starts it, empty.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let address = listener.local_addr().context("the registry's own address")?;
        let registry = Self { address, state: Arc::default() };
        let server = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that disconnects early is no error here.
                thread::spawn(move || server.serve(stream).unwrap_or_default());
            }
        });
        Ok(registry)
    }

    /// Bytes of blobs that it has served.
    pub fn bytes_served(&self) -> u64 {
        self.state().served
    }

    /// Bytes of blobs that it has received.
    pub fn bytes_received(&self) -> u64 {
        self.state().received
    }

    /// Delays every response from now on, as a remote registry does.
    pub fn delay(&self, by: Duration) {
        self.state().delay = by;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is never half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone().context("sharing a connection")?);
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        let [method, target, ..] = head.start_line.as_slice() else {
            return respond(&mut stream, "400 Bad Request", "", "");
        };
        let body = body(&head, &mut reader)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let kind = head.field("content-type").unwrap_or_default();
        let delay = self.state().delay;
        thread::sleep(delay);
        let response = self.state().response(method, path, query, kind, body);
        let Response { status, fields, body } = response;
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n"
        );
        stream.write_all(text.as_bytes()).context("writing a response")?;
        match method.as_str() {
            "HEAD" => Ok(()),
            _ => stream.write_all(&body).context("writing a body"),
        }
    }
}

impl State {
    fn response(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Response {
        let Some(rest) = path.strip_prefix("/v2/") else { return Response::missing() };
        if rest.is_empty() {
            return Response::new("200 OK", "");
        }
        if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
            return self.upload(method, repository, upload, query, body);
        }
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            let Some(blob) = self.blobs.get(digest).cloned() else { return Response::missing() };
            if method == "GET" {
                self.served += blob.len() as u64;
            }
            return Response::new("200 OK", content("application/octet-stream", digest)).with(blob);
        }
        match rest.split_once("/manifests/") {
            Some((repository, name)) => self.manifest(method, repository, name, kind, body),
            None => Response::missing(),
        }
    }

    fn manifest(
        &mut self,
        method: &str,
        repository: &str,
        name: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Response {
        let key = |name: &str| (repository.to_owned(), name.to_owned());
        match method {
            "PUT" => {
                let digest = digest(&body);
                let kept = (kind.to_owned(), Arc::<[u8]>::from(body));
                self.manifests.insert(key(name), kept.clone());
                self.manifests.insert(key(&digest), kept);
                let place = format!("Location: /v2/{repository}/manifests/{digest}\r\n");
                Response::new("201 Created", format!("{place}Docker-Content-Digest: {digest}\r\n"))
            }
            "DELETE" => {
                let Some((_, bytes)) = self.manifests.get(&key(name)).cloned() else {
                    return Response::missing();
                };
                self.manifests.retain(|(of, _), (_, other)| of != repository || *other != bytes);
                Response::new("202 Accepted", "")
            }
            _ => match self.manifests.get(&key(name)) {
                Some((kind, bytes)) => {
                    Response::new("200 OK", content(kind, &digest(bytes))).with(bytes.clone())
                }
                None => Response::missing(),
            },
        }
    }

    fn upload(
        &mut self,
        method: &str,
        repository: &str,
        upload: &str,
        query: &str,
        body: Vec<u8>,
    ) -> Response {
        let parameter_of = |key: &str| {
            let parameter = query.split('&').find_map(|part| part.strip_prefix(key))?;
            Some(parameter.replace("%3A", ":").replace("%3a", ":"))
        };
        let place = |number: u64| format!("Location: /v2/{repository}/blobs/uploads/{number}\r\n");
        if method == "POST" {
            if let Some(mounted) =
                parameter_of("mount=").filter(|digest| self.blobs.contains_key(digest))
            {
                return Response::new(
                    "201 Created",
                    format!("Location: /v2/{repository}/blobs/{mounted}\r\n"),
                );
            }
            self.next += 1;
            self.uploads.insert(self.next, Vec::new());
            if parameter_of("digest=").is_none() {
                return Response::new("202 Accepted", place(self.next));
            }
        }
        let number = if method == "POST" { self.next } else { upload.parse().unwrap_or(0) };
        let Some(so_far) = self.uploads.get_mut(&number) else { return Response::missing() };
        if method == "DELETE" {
            self.uploads.remove(&number);
            return Response::new("204 No Content", "");
        }
        so_far.extend_from_slice(&body);
        let range = format!("{}Range: 0-{}\r\n", place(number), so_far.len().saturating_sub(1));
        match (method, parameter_of("digest=")) {
            ("GET", _) => Response::new("204 No Content", range),
            ("PATCH", _) => Response::new("202 Accepted", range),
            (_, Some(wanted)) => {
                let blob = self.uploads.remove(&number).unwrap_or_default();
                if digest(&blob) != wanted {
                    return Response::new("400 Bad Request", "");
                }
                self.received += blob.len() as u64;
                let there = format!("Location: /v2/{repository}/blobs/{wanted}\r\n");
                self.blobs.insert(wanted.clone(), blob.into());
                Response::new("201 Created", format!("{there}Docker-Content-Digest: {wanted}\r\n"))
            }
            _ => Response::new("400 Bad Request", ""),
        }
    }
}

fn content(kind: &str, digest: &str) -> String {
    format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::http;
    use crate::oci::image::{Layer, push};

    #[test]
    fn a_pushed_image_is_served_until_it_is_deleted() -> Result<()> {
        let registry = MemoryRegistry::start()?;
        let blobs = push(registry.address, "a/b:1", vec![Layer::new().file("f", "text")?])?;
        let send = |method: &str, path: &str| http::send(registry.address, method, path, &[], &[]);
        let blob = send("GET", &format!("/v2/a/b/blobs/{}", blobs[0]))?;
        assert_eq!((blob.status, digest(&blob.bytes()?)), (200, blobs[0].clone()));
        let head = send("HEAD", "/v2/a/b/manifests/1")?;
        let manifest = head.head.field("docker-content-digest").unwrap_or_default().to_owned();
        assert_eq!(head.status, 200);
        assert_eq!(send("DELETE", &format!("/v2/a/b/manifests/{manifest}"))?.status, 202);
        assert_eq!(send("GET", "/v2/a/b/manifests/1")?.status, 404);
        let mount = format!("/v2/c/blobs/uploads/?mount={}&from=a/b", blobs[0]);
        assert_eq!(send("POST", &mount)?.status, 201);
        Ok(())
    }

    #[test]
    fn a_blob_in_parts_is_one_blob_and_a_wrong_digest_is_refused() -> Result<()> {
        let registry = MemoryRegistry::start()?;
        let send = |method: &str, path: &str, bytes: &[u8]| {
            http::send(registry.address, method, path, &[], bytes)
        };
        let begin = || -> Result<String> {
            let begun = send("POST", "/v2/r/blobs/uploads/", &[])?;
            Ok(begun.head.field("location").context("no location")?.to_owned())
        };
        let place = begin()?;
        assert_eq!(send("PATCH", &place, b"ab")?.head.field("range"), Some("0-1"));
        assert_eq!(send("PATCH", &place, b"c")?.status, 202);
        let whole = format!("{place}?digest={}", digest(b"abc").replace(':', "%3A"));
        assert_eq!(send("PUT", &whole, b"")?.status, 201);
        let wrong = format!("{}?digest={}", begin()?, digest(b"other"));
        assert_eq!(send("PUT", &wrong, b"abc")?.status, 400);
        assert_eq!(registry.bytes_received(), 3);
        Ok(())
    }
}
