//! Downloads a blob: an async task fetches and verifies it, and a blocking thread reads it.
//!
//! ```text
//! registry --HTTP--> task: time, count, hash --channel, 2 MiB--> BlobReader: io::Read
//!     ^                │ a connection that breaks: a wait, then the rest by range
//!     └────────────────┘
//! ```
//!
//! The task computes the hash, not the reader: the reading thread decompresses and writes, which is the slower half of
//! a pull, so the hash costs no extra time. A full channel stops the task, and so the server. The digest is over the
//! complete blob, even if it came over several connections.

use std::{
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use futures::{Stream, TryStreamExt, stream};
use reqwest::Response;
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Access, Reference,
    candidates::Attempt,
    error::{ImageError, Problem},
    min_throughput::{self, MinThroughput},
    request::{self, Place, RegistryRequest},
    suspect_mirrors::Suspicion,
    transport::Transport,
};
use crate::{
    digest::{BlobDigest, Digester},
    error::Class,
};

/// Length of the channel.
const PIECES: usize = 8;
/// The largest piece in bytes. With [`PIECES`] it limits the buffer between network and disk to 2 MiB per blob.
const PIECE_MAX: usize = 256 << 10;
/// Bytes that a connection must deliver to reset the count of failed tries. A server whose connections always break is
/// still given up at some point, because a blob has an end.
const PROGRESS: u64 = 4 << 20;

/// What the task sends to the reader: bytes, and at the end `None` if size and digest are right.
type Piece = Result<Option<Bytes>, Problem>;

/// Reads the bytes of a blob.
///
/// The stream ends without an error only if the number of bytes and their digest are the expected ones. Otherwise the
/// read fails with an [`io::Error`] that contains an [`ImageError`], and so does every further read. Its kind is
/// `InvalidData` where the bytes are wrong ([`Class::Corrupt`]), and another one where they do not arrive
/// ([`Class::Unavailable`]). No other class occurs once a response has started. Bytes that were read before the end are
/// not verified yet.
///
/// Reads block: use it in a blocking thread, never in an async task (it panics there). Dropping it ends the download.
#[derive(Debug)]
pub struct BlobReader {
    pieces: mpsc::Receiver<Piece>,
    state: State,
    reference: Reference,
    access: Access,
    host: String,
    /// The servers that were tried before this one.
    tried: Vec<(String, Problem)>,
    _download: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum State {
    Reading(Bytes),
    Complete,
    Failed(Arc<ImageError>),
}

/// The blob to download.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) digest: BlobDigest,
    pub(super) size: u64,
}

/// The server of a download, from which it can resume at any byte.
pub(super) struct Source {
    transport: Arc<Transport>,
    reference: Reference,
    wanted: Wanted,
    attempt: Attempt,
}

impl Source {
    pub(super) fn new(
        transport: &Arc<Transport>,
        reference: &Reference,
        wanted: Wanted,
        attempt: &Attempt,
    ) -> Self {
        Self {
            transport: Arc::clone(transport),
            reference: reference.clone(),
            wanted,
            attempt: attempt.clone(),
        }
    }

    pub(super) async fn open(&self, from: u64) -> Result<(Response, Access), Problem> {
        let name = self.wanted.digest.to_string();
        let request = RegistryRequest {
            credential: self.attempt.credential.as_deref(),
            from,
            ..RegistryRequest::get(&self.reference, Place::Content("blobs", &name), "layer")
        };
        self.transport.open(&self.attempt.endpoint, request).await
    }

    /// Requests the rest from byte `from` on, after a connection broke with `problem`. `failed` counts the breaks in a
    /// row.
    ///
    /// # Errors
    /// That problem, where the server does not support ranges or no try is left.
    async fn rest(
        &self,
        from: u64,
        failed: &mut u32,
        problem: Problem,
    ) -> Result<Response, Problem> {
        self.transport.retry().pause(failed, problem.clone()).await?;
        let host = self.attempt.endpoint.name();
        tracing::info!(image = %self.reference, host, from, %problem, "requesting the rest of a layer");
        self.open(from).await.map(|(response, _)| response).map_err(|_| problem)
    }
}

impl BlobReader {
    /// Starts the download, and clears `suspicion` if it succeeds. Must be called within the runtime that made the
    /// response.
    pub(super) fn start(
        (response, access): (Response, Access),
        source: Source,
        suspicion: Suspicion,
        tried: Vec<(String, Problem)>,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (reference, host) = (source.reference.clone(), source.attempt.endpoint.name());
        let mut pump = Pump::new(source.wanted, sender.clone());
        let download = tokio::spawn(async move {
            let end = pump.run(response, &source).await;
            if matches!(end, Ok(Some(_))) {
                suspicion.clear();
            }
            // An error means that the reader was dropped.
            let _ = sender.send(end.map(|_| None)).await;
        });
        let _download = AbortOnDropHandle::new(download);
        Self {
            pieces,
            state: State::Reading(Bytes::new()),
            access,
            reference,
            host,
            tried,
            _download,
        }
    }

    /// The credential that the server required for this blob. Only this says whether the blob is public; the manifest's
    /// access does not.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Returns a guard that ends the download when it is dropped. A thread that waits in a read then gets an error.
    pub fn end_when_dropped(&self) -> impl Drop + Send + use<> {
        End(self._download.abort_handle())
    }

    fn fail(&mut self, problem: Problem) {
        let tried = self.tried.clone();
        let error = ImageError::new(&self.reference, self.host.clone(), problem, tried);
        self.state = State::Failed(Arc::new(error));
    }
}

struct End(AbortHandle);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The chunks that the server sends, each with the time spent waiting for it.
fn arriving(response: Response) -> impl Stream<Item = Result<(Bytes, Duration), Problem>> {
    stream::try_unfold(response, async |mut response| {
        let started = Instant::now();
        let chunk = request::next_chunk(&mut response).await?;
        Ok(chunk.map(|chunk| ((chunk, started.elapsed()), response)))
    })
}

/// Passes the bytes from the connections, one after the other, to the channel, and counts and hashes them.
struct Pump {
    wanted: Wanted,
    sender: mpsc::Sender<Piece>,
    digester: Digester,
    found: u64,
    /// Time spent waiting for the server, over all connections.
    waited: Duration,
}

/// The blob is complete, and its size and digest are right.
struct Verified;

impl Pump {
    fn new(wanted: Wanted, sender: mpsc::Sender<Piece>) -> Self {
        let digester = Digester::like(wanted.digest.digest());
        Self { wanted, sender, digester, found: 0, waited: Duration::ZERO }
    }

    /// Runs the download to its end. Returns `None` if the reader was dropped.
    async fn run(
        &mut self,
        response: Response,
        source: &Source,
    ) -> Result<Option<Verified>, Problem> {
        let (mut response, mut failed) = (response, 0);
        loop {
            let before = self.found;
            match self.take(arriving(response)).await {
                Err(problem @ Problem::Unreachable { .. }) => {
                    if self.found - before >= PROGRESS {
                        failed = 0;
                    }
                    response = source.rest(self.found, &mut failed, problem).await?;
                }
                Ok(true) => return self.verify().map(Some),
                Ok(false) => return Ok(None),
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Passes on the bytes of one connection. Returns false if the reader was dropped.
    async fn take(
        &mut self,
        arriving: impl Stream<Item = Result<(Bytes, Duration), Problem>>,
    ) -> Result<bool, Problem> {
        let mut arriving = pin!(arriving);
        let mut throughput = MinThroughput::default();
        while let Some((mut chunk, waited)) = arriving.try_next().await? {
            throughput.record(chunk.len(), waited)?;
            self.waited += waited;
            min_throughput::check_total_time(self.wanted.size, self.waited)?;
            self.found += chunk.len() as u64;
            if self.found > self.wanted.size {
                return Err(self.wrong_size());
            }
            self.digester.update(&chunk);
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(PIECE_MAX));
                if self.sender.send(Ok(Some(piece))).await.is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Compares size and digest with the expected ones.
    fn verify(&mut self) -> Result<Verified, Problem> {
        if self.found < self.wanted.size {
            return Err(self.wrong_size());
        }
        let promised = *self.wanted.digest.digest();
        match std::mem::take(&mut self.digester).finish() {
            same if same == promised => Ok(Verified),
            found => Err(Problem::Mismatch { what: "layer", promised, found }),
        }
    }

    fn wrong_size(&self) -> Problem {
        Problem::WrongSize { what: "layer", promised: self.wanted.size, found: self.found }
    }
}

impl io::Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                State::Reading(bytes) if bytes.has_remaining() => {
                    let count = bytes.len().min(buffer.len());
                    bytes.copy_to_slice(&mut buffer[..count]);
                    return Ok(count);
                }
                State::Reading(_) => {}
                State::Complete => return Ok(0),
                State::Failed(error) => {
                    let kind = match error.class() {
                        Class::Corrupt => io::ErrorKind::InvalidData,
                        _ => io::ErrorKind::Other,
                    };
                    return Err(io::Error::new(kind, ImageError::clone(error)));
                }
            }
            match self.pieces.blocking_recv() {
                Some(Ok(Some(bytes))) => self.state = State::Reading(bytes),
                Some(Ok(None)) => self.state = State::Complete,
                Some(Err(problem)) => self.fail(problem),
                // The runtime was dropped under the task: it is unknown whether all bytes arrived.
                None => {
                    self.fail(Problem::Unreachable { why: "the download was stopped".to_owned() })
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_download_below_the_minimum_speed_is_cancelled() {
        let wanted = Wanted { digest: BlobDigest::of(&[0; 9]), size: 9 };
        for (seconds, end) in
            [(29, Err(Problem::Slow { bytes: 3, waited: Duration::from_secs(87) })), (6, Ok(true))]
        {
            let piece = (Bytes::from_static(&[0]), Duration::from_secs(seconds));
            let (sender, _kept) = mpsc::channel(9);
            let mut pump = Pump::new(wanted, sender);
            assert_eq!(pump.take(stream::iter(vec![Ok(piece); 9])).await, end);
            assert_eq!(pump.verify().is_ok(), end.is_ok());
        }
    }
}
