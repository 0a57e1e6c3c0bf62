//! A blob on its way: fetched by a task, read by a thread, checked in between.
//!
//! ```text
//! registry --HTTP--> task: time, count, hash --channel, 2 MiB--> BlobReader: io::Read
//!     ^                │ a connection that breaks: a wait, then the rest by range
//!     └────────────────┘
//! ```
//!
//! The task hashes, not the reader: the reading thread inflates and writes, which is the slower half of a pull,
//! so the hash runs beside it for nothing. A full channel stops the task, and so the sender. The digest is over
//! the whole, however many pieces it came in.

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
    Access,
    ask::{self, Ask, Place},
    attempts::Attempt,
    doubts::Doubt,
    error::{ImageError, Problem},
    flow::{self, Flow},
    reference::Reference,
    transport::Transport,
};
use crate::{
    digest::{Digest, Digester},
    fault::Class,
};

/// Pieces in the channel, and the largest piece: what waits between network and disk is at most 2 MiB a blob.
const PIECES: usize = 8;
const PIECE_MAX: usize = 256 << 10;
/// What a connection must bring to count as a success: only breaks without that between them use up the tries.
/// A server that always breaks is left all the same, because a blob has an end.
const PROGRESS: u64 = 4 << 20;

/// What the task hands over: bytes, or at last `None` when size and digest were right.
type Piece = Result<Option<Bytes>, Problem>;

/// The bytes of a blob. They end cleanly only when exactly the promised number of bytes with the promised
/// digest has been read; anything else ends in an [`io::Error`] with an [`ImageError`] inside, again at every
/// further read: of the kind `InvalidData` where the bytes are not the promised ones ([`Class::Corrupt`]), of
/// another where they do not come ([`Class::Unavailable`]). No other class happens once an answer has begun.
/// What was read before the end is unchecked until then.
///
/// Reads block: use it in a blocking thread, never in an async task (it panics there). Dropping it ends the
/// download.
#[derive(Debug)]
pub struct BlobReader {
    pieces: mpsc::Receiver<Piece>,
    state: State,
    reference: Reference,
    access: Access,
    host: String,
    /// The servers asked before it.
    tried: Vec<(String, Problem)>,
    _download: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum State {
    Reading(Bytes),
    Complete,
    Failed(Arc<ImageError>),
}

/// Which bytes are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Where the bytes come from, and can be had again from any byte on.
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
        let ask = Ask {
            who: self.attempt.who.as_deref(),
            from,
            ..Ask::get(&self.reference, Place::Content("blobs", &name), "layer")
        };
        self.transport.open(&self.attempt.endpoint, ask).await
    }

    /// The rest, after a connection broke with `problem` for the `failed`-th time in a row.
    ///
    /// # Errors
    /// That problem, where the server does not give parts or it has broken too often.
    async fn rest(
        &self,
        from: u64,
        failed: &mut u32,
        problem: Problem,
    ) -> Result<Response, Problem> {
        self.transport.pace().pause(failed, problem.clone()).await?;
        let host = self.attempt.endpoint.name();
        tracing::info!(image = %self.reference, host, from, %problem, "asking for the rest of a layer");
        self.open(from).await.map(|(response, _)| response).map_err(|_| problem)
    }
}

impl BlobReader {
    /// Starts to fetch; settles `doubt` if all goes well. Must be called within the runtime that made the response.
    pub(super) fn start(
        (response, access): (Response, Access),
        source: Source,
        doubt: Doubt,
        tried: Vec<(String, Problem)>,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let (reference, host) = (source.reference.clone(), source.attempt.endpoint.name());
        let mut pump = Pump::new(source.wanted, sender.clone());
        let download = tokio::spawn(async move {
            let end = pump.run(response, &source).await;
            if matches!(end, Ok(Some(_))) {
                doubt.settle();
            }
            // A reader that has gone does not want to know.
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

    /// As whom the server gave it: whether anybody can have these bytes is known from this, and not from the manifest.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Ends the download as soon as what this returns is dropped, also while a thread waits in a read, which then fails.
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

/// What the server sends, each piece with the time for which it was waited.
fn arriving(response: Response) -> impl Stream<Item = Result<(Bytes, Duration), Problem>> {
    stream::try_unfold(response, async |mut response| {
        let asked = Instant::now();
        let chunk = ask::next(&mut response).await?;
        Ok(chunk.map(|chunk| ((chunk, asked.elapsed()), response)))
    })
}

/// Hands on what arrives, over one connection after the other.
struct Pump {
    wanted: Wanted,
    sender: mpsc::Sender<Piece>,
    digester: Digester,
    found: u64,
    /// For how long the server was waited for, over all connections.
    waited: Duration,
}

/// All of it came, and was right.
struct Right;

impl Pump {
    fn new(wanted: Wanted, sender: mpsc::Sender<Piece>) -> Self {
        let digester = Digester::like(&wanted.digest);
        Self { wanted, sender, digester, found: 0, waited: Duration::ZERO }
    }

    /// To the end; without an answer where the reader has gone.
    async fn run(&mut self, response: Response, source: &Source) -> Result<Option<Right>, Problem> {
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
                Ok(true) => return self.end().map(Some),
                Ok(false) => return Ok(None),
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Takes what one connection brings; false where the reader has gone.
    async fn take(
        &mut self,
        arriving: impl Stream<Item = Result<(Bytes, Duration), Problem>>,
    ) -> Result<bool, Problem> {
        let mut arriving = pin!(arriving);
        let mut flow = Flow::default();
        while let Some((mut chunk, waited)) = arriving.try_next().await? {
            flow.came(chunk.len(), waited)?;
            self.waited += waited;
            flow::in_time(self.wanted.size, self.waited)?;
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

    /// Says whether it was what was promised.
    fn end(&mut self) -> Result<Right, Problem> {
        if self.found < self.wanted.size {
            return Err(self.wrong_size());
        }
        match std::mem::take(&mut self.digester).finish() {
            same if same == self.wanted.digest => Ok(Right),
            found => Err(Problem::Mismatch { what: "layer", promised: self.wanted.digest, found }),
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
                // The runtime went away under the task: whatever arrived is not known to be all.
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
    async fn a_layer_that_creeps_is_left() {
        let wanted = Wanted { digest: Digest::of(&[0; 9]), size: 9 };
        for (seconds, end) in
            [(29, Err(Problem::Slow { bytes: 3, waited: Duration::from_secs(87) })), (6, Ok(true))]
        {
            let piece = (Bytes::from_static(&[0]), Duration::from_secs(seconds));
            let (sender, _kept) = mpsc::channel(9);
            let mut pump = Pump::new(wanted, sender);
            assert_eq!(pump.take(stream::iter(vec![Ok(piece); 9])).await, end);
            assert_eq!(pump.end().is_ok(), end.is_ok());
        }
    }
}
