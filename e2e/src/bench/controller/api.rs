//! Requests to the API server, over one connection for each worker.
//!
//! Deliberately absent: encryption and credentials. `kubectl proxy` adds both.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::oci::http::{self, Head};

/// Connections of one kind of work.
const CONNECTIONS: usize = 8;

/// A connection on which requests follow one another.
pub struct Api {
    to: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Api {
    /// Connects to the proxy of an API server.
    ///
    /// # Errors
    /// It does not listen.
    pub fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        Ok(Self { to, stream: BufReader::new(stream) })
    }

    /// Creates an object and returns it.
    ///
    /// # Errors
    /// The API server refused it or does not respond, as for all requests.
    pub fn create(&mut self, path: &str, object: &Value) -> Result<Value> {
        self.send("POST", path, "application/json", object)
    }

    /// Changes an object by a merge patch (RFC 7386) and returns it.
    ///
    /// # Errors
    /// As [`Api::create`].
    pub fn patch(&mut self, path: &str, changes: &Value) -> Result<Value> {
        self.send("PATCH", path, "application/merge-patch+json", changes)
    }

    fn send(&mut self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            self.to,
            body.len()
        );
        let what = || format!("{method} {path}");
        self.stream.get_mut().write_all(request.as_bytes()).with_context(what)?;
        let head = Head::read(&mut self.stream).with_context(what)?;
        let head = head.with_context(|| format!("{}: the connection ended", what()))?;
        let body = http::body(&head, &mut self.stream).with_context(what)?;
        match head.start_line.get(1).map(String::as_str) {
            Some("200" | "201") => serde_json::from_slice(&body).with_context(what),
            status => bail!("{}: {status:?}: {}", what(), String::from_utf8_lossy(&body)),
        }
    }
}

/// Does the work for each number below a count, over several connections.
///
/// # Errors
/// The first error of the work.
pub fn each(
    to: SocketAddr,
    count: usize,
    work: impl Fn(&mut Api, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        let mut api = Api::connect(to)?;
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < count => work(&mut api, number)?,
                _ => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS.min(count)).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|w| w.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    })
}
