//! A registry in this process, on loopback: what images and snapshots need of the distribution specification, in memory.
//!
//! Deliberately absent: accounts, encryption, and ranges of blobs. A request for a part gets the whole, which the specification allows.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::http::{Head, body, say};

/// A registry that serves for as long as this process runs.
#[derive(Clone)]
pub struct Registry {
    /// Where it listens.
    pub address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    blobs: BTreeMap<String, Arc<[u8]>>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), Manifest>,
    uploads: BTreeMap<u64, Vec<u8>>,
    next: u64,
    delay: Duration,
    given: u64,
    taken: u64,
}

/// A manifest's content type and bytes.
type Manifest = (String, Arc<[u8]>);

/// What a request is answered with.
struct Answer {
    status: &'static str,
    fields: String,
    body: Arc<[u8]>,
}

impl Answer {
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

impl Registry {
    /// Starts it, empty.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let address = listener.local_addr().context("the registry's own address")?;
        let registry = Self { address, kept: Arc::default() };
        let server = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that goes away in the middle is its own business.
                thread::spawn(move || server.serve(stream).unwrap_or_default());
            }
        });
        Ok(registry)
    }

    /// Bytes of blobs that it has given out.
    pub fn given(&self) -> u64 {
        self.kept().given
    }

    /// Bytes of blobs that it has taken in.
    pub fn taken(&self) -> u64 {
        self.kept().taken
    }

    /// Every request is answered so much later from here on, as by a registry far away.
    pub fn delay(&self, by: Duration) {
        self.kept().delay = by;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every change is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone().context("sharing a connection")?);
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        let [method, target, ..] = head.words.as_slice() else {
            return say(&mut stream, "400 Bad Request", "", "");
        };
        let body = body(&head, &mut reader)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let kind = head.field("content-type").unwrap_or_default();
        let delay = self.kept().delay;
        thread::sleep(delay);
        let answer = self.kept().answer(method, path, query, kind, body);
        let Answer { status, fields, body } = answer;
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n"
        );
        stream.write_all(text.as_bytes()).context("answering")?;
        match method.as_str() {
            "HEAD" => Ok(()),
            _ => stream.write_all(&body).context("answering with a body"),
        }
    }
}

impl Kept {
    fn answer(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Answer {
        let Some(rest) = path.strip_prefix("/v2/") else { return Answer::missing() };
        if rest.is_empty() {
            return Answer::new("200 OK", "");
        }
        if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
            return self.upload(method, repository, upload, query, body);
        }
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            let Some(blob) = self.blobs.get(digest).cloned() else { return Answer::missing() };
            if method == "GET" {
                self.given += blob.len() as u64;
            }
            return Answer::new("200 OK", content("application/octet-stream", digest)).with(blob);
        }
        match rest.split_once("/manifests/") {
            Some((repository, name)) => self.manifest(method, repository, name, kind, body),
            None => Answer::missing(),
        }
    }

    fn manifest(
        &mut self,
        method: &str,
        repository: &str,
        name: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Answer {
        let key = |name: &str| (repository.to_owned(), name.to_owned());
        match method {
            "PUT" => {
                let digest = digest(&body);
                let kept = (kind.to_owned(), Arc::<[u8]>::from(body));
                self.manifests.insert(key(name), kept.clone());
                self.manifests.insert(key(&digest), kept);
                let place = format!("Location: /v2/{repository}/manifests/{digest}\r\n");
                Answer::new("201 Created", format!("{place}Docker-Content-Digest: {digest}\r\n"))
            }
            "DELETE" => {
                let Some((_, bytes)) = self.manifests.get(&key(name)).cloned() else {
                    return Answer::missing();
                };
                self.manifests.retain(|(of, _), (_, other)| of != repository || *other != bytes);
                Answer::new("202 Accepted", "")
            }
            _ => match self.manifests.get(&key(name)) {
                Some((kind, bytes)) => {
                    Answer::new("200 OK", content(kind, &digest(bytes))).with(bytes.clone())
                }
                None => Answer::missing(),
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
    ) -> Answer {
        let asked = |key: &str| {
            let parameter = query.split('&').find_map(|part| part.strip_prefix(key))?;
            Some(parameter.replace("%3A", ":").replace("%3a", ":"))
        };
        let place = |number: u64| format!("Location: /v2/{repository}/blobs/uploads/{number}\r\n");
        if method == "POST" {
            if let Some(mounted) = asked("mount=").filter(|digest| self.blobs.contains_key(digest))
            {
                return Answer::new(
                    "201 Created",
                    format!("Location: /v2/{repository}/blobs/{mounted}\r\n"),
                );
            }
            self.next += 1;
            self.uploads.insert(self.next, Vec::new());
            if asked("digest=").is_none() {
                return Answer::new("202 Accepted", place(self.next));
            }
        }
        let number = if method == "POST" { self.next } else { upload.parse().unwrap_or(0) };
        let Some(so_far) = self.uploads.get_mut(&number) else { return Answer::missing() };
        if method == "DELETE" {
            self.uploads.remove(&number);
            return Answer::new("204 No Content", "");
        }
        so_far.extend_from_slice(&body);
        let range = format!("{}Range: 0-{}\r\n", place(number), so_far.len().saturating_sub(1));
        match (method, asked("digest=")) {
            ("GET", _) => Answer::new("204 No Content", range),
            ("PATCH", _) => Answer::new("202 Accepted", range),
            (_, Some(wanted)) => {
                let blob = self.uploads.remove(&number).unwrap_or_default();
                if digest(&blob) != wanted {
                    return Answer::new("400 Bad Request", "");
                }
                self.taken += blob.len() as u64;
                let there = format!("Location: /v2/{repository}/blobs/{wanted}\r\n");
                self.blobs.insert(wanted.clone(), blob.into());
                Answer::new("201 Created", format!("{there}Docker-Content-Digest: {wanted}\r\n"))
            }
            _ => Answer::new("400 Bad Request", ""),
        }
    }
}

fn content(kind: &str, digest: &str) -> String {
    format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n")
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use crate::oci::{Layer, push};

    #[test]
    fn what_is_pushed_is_given_and_what_is_deleted_is_gone() -> Result<()> {
        let registry = Registry::start()?;
        let blobs = push(registry.address, "a/b:1", vec![Layer::new().file("f", "text")?])?;
        let ask = |method: &str, path: &str| http::send(registry.address, method, path, &[], &[]);
        let blob = ask("GET", &format!("/v2/a/b/blobs/{}", blobs[0]))?;
        assert_eq!((blob.status, digest(&blob.bytes()?)), (200, blobs[0].clone()));
        let head = ask("HEAD", "/v2/a/b/manifests/1")?;
        let manifest = head.head.field("docker-content-digest").unwrap_or_default().to_owned();
        assert_eq!(head.status, 200);
        assert_eq!(ask("DELETE", &format!("/v2/a/b/manifests/{manifest}"))?.status, 202);
        assert_eq!(ask("GET", "/v2/a/b/manifests/1")?.status, 404);
        let mount = format!("/v2/c/blobs/uploads/?mount={}&from=a/b", blobs[0]);
        assert_eq!(ask("POST", &mount)?.status, 201);
        Ok(())
    }

    #[test]
    fn a_blob_in_parts_is_one_blob_and_a_wrong_one_is_none() -> Result<()> {
        let registry = Registry::start()?;
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
        assert_eq!(registry.taken(), 3);
        Ok(())
    }
}
