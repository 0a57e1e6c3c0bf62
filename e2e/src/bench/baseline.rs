//! The least work that a pull needs: fetch every layer, check both digests, decompress with the
//! driver's own library, and sync one file for each layer, with all cores.
//!
//! Deliberately absent: parsing of the tar.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::images::{BenchRegistry, Blob};
use crate::oci::http;

/// Bytes of one read.
const CHUNK: usize = 256 * 1024;

/// Reads every layer and discards it.
pub fn read(registry: &BenchRegistry, layers: &[Blob]) -> Result<()> {
    layers.iter().try_for_each(|blob| {
        let mut response = fetch(registry, blob)?;
        let read = io::copy(&mut response.body, &mut io::sink());
        let read = read.with_context(|| format!("reading {}", blob.digest))?;
        ensure!(read == blob.size, "{} has {read} bytes, not {}", blob.digest, blob.size);
        Ok(())
    })
}

/// Does all of it into a directory.
pub fn run(registry: &BenchRegistry, layers: &[Blob], dir: &Path) -> Result<()> {
    let mut largest_first = layers.to_vec();
    largest_first.sort_by_key(|blob| blob.size);
    let queue = Mutex::new(largest_first);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(blob) = next() {
                layer(registry, &blob, dir).with_context(|| blob.digest.clone())?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|w| w.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    })
}

fn fetch(registry: &BenchRegistry, blob: &Blob) -> Result<http::Response> {
    let path = format!("/v2/bench/blobs/{}", blob.digest);
    let response = http::send(registry.address, "GET", &path, &[], &[])?;
    ensure!(response.status == 200, "the registry returns {} for {path}", response.status);
    Ok(response)
}

fn layer(registry: &BenchRegistry, blob: &Blob, dir: &Path) -> Result<()> {
    let body = Hashed { from: fetch(registry, blob)?.body, hash: Sha256::new() };
    let mut body = BufReader::with_capacity(CHUNK, body);
    let mut file = File::create(dir.join(blob.digest.replace(':', "-")))?;
    let (mut tar, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    let mut decoder = MultiGzDecoder::new(&mut body);
    loop {
        let read = decoder.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        tar.update(&chunk[..read]);
        file.write_all(&chunk[..read])?;
    }
    file.sync_all()?;
    ensure!(body.fill_buf()?.is_empty(), "bytes behind the end");
    let digest = format!("sha256:{}", hex::encode(body.into_inner().hash.finalize()));
    ensure!(digest == blob.digest, "it hashes to {digest}");
    // The other digest is in the image's configuration. Only the cost of computing it matters here.
    ensure!(!tar.finalize().is_empty(), "no digest");
    Ok(())
}

/// Hashes what is read through it.
struct Hashed<R> {
    from: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
