//! A blob on its way: fetched by a task, read by a thread, checked in between.
//!
//! ```text
//! registry --HTTP--> task: time, count, hash --channel, 2 MiB--> BlobReader: io::Read
//! ```
//!
//! The task hashes, not the reader: the reading thread inflates and writes, which is the slower half of a pull,
//! so the hash runs beside it for nothing. A full channel stops the task, and so the sender.

use std::{
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use futures::{Stream, TryStreamExt, stream};
use reqwest::Response;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    LayerBlob,
    doubts::Doubt,
    error::{ImageError, Problem},
    flow::Flow,
    reference::Reference,
};
use crate::{digest::Digester, fault::Class};

/// Pieces in the channel, and the largest piece: what waits between network and disk is at most 2 MiB a blob.
const PIECES: usize = 8;
const PIECE_MAX: usize = 256 << 10;

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
    source: Source,
    _download: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum State {
    Reading(Bytes),
    Complete,
    Failed(Arc<ImageError>),
}

/// Where the bytes come from, for the sentence about a failure.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) reference: Reference,
    pub(super) host: String,
    /// The servers asked before it.
    pub(super) tried: Vec<(String, Problem)>,
}

impl BlobReader {
    /// Starts to fetch; settles `doubt` if all goes well. Must be called within the runtime that made the response.
    pub(super) fn start(
        response: Response,
        layer: &LayerBlob,
        source: Source,
        doubt: Doubt,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let layer = layer.clone();
        let download = tokio::spawn(async move {
            let end = pump(arriving(response), &layer, doubt, &sender).await;
            // A reader that has gone does not want to know.
            let _ = sender.send(end.map(|()| None)).await;
        });
        let _download = AbortOnDropHandle::new(download);
        Self { pieces, state: State::Reading(Bytes::new()), source, _download }
    }

    fn fail(&mut self, problem: Problem) {
        let Source { reference, host, tried } = &self.source;
        let error = ImageError::new(reference, host.clone(), problem, tried.clone());
        self.state = State::Failed(Arc::new(error));
    }
}

/// What the server sends, each piece with the time for which it was waited.
fn arriving(response: Response) -> impl Stream<Item = Result<(Bytes, Duration), Problem>> {
    stream::try_unfold(response, async |mut response| {
        let asked = Instant::now();
        let chunk = response.chunk().await.map_err(Problem::of_body)?;
        Ok(chunk.map(|chunk| ((chunk, asked.elapsed()), response)))
    })
}

/// Hands on what arrives, and at the end says whether it was what was promised.
async fn pump(
    arriving: impl Stream<Item = Result<(Bytes, Duration), Problem>>,
    layer: &LayerBlob,
    doubt: Doubt,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), Problem> {
    let (what, size) = ("layer", layer.size);
    let mut arriving = pin!(arriving);
    let (mut digester, mut flow) = (Digester::default(), Flow::default());
    let mut found = 0;
    while let Some((mut chunk, waited)) = arriving.try_next().await? {
        flow.came(chunk.len(), waited)?;
        found += chunk.len() as u64;
        if found > size {
            return Err(Problem::WrongSize { what, promised: size, found });
        }
        digester.update(&chunk);
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE_MAX));
            if sender.send(Ok(Some(piece))).await.is_err() {
                return Ok(());
            }
        }
    }
    if found < size {
        return Err(Problem::WrongSize { what, promised: size, found });
    }
    match digester.finish() {
        same if same == layer.digest => {
            doubt.settle();
            Ok(())
        }
        found => Err(Problem::Mismatch { what, promised: layer.digest, found }),
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
    use crate::{changeset::Compression, digest::Digest, image::doubts::Doubts};

    #[tokio::test]
    async fn a_layer_that_creeps_is_left() {
        let digest = Digest::of(&[0; 9]);
        let layer = LayerBlob { digest, size: 9, compression: Compression::None, diff_id: digest };
        let url = reqwest::Url::parse("http://a").unwrap();
        for (seconds, end) in
            [(29, Err(Problem::Slow { bytes: 3, waited: Duration::from_secs(87) })), (6, Ok(()))]
        {
            let piece = (Bytes::from_static(&[0]), Duration::from_secs(seconds));
            let pieces = stream::iter(vec![Ok(piece); 9]);
            let doubts = Doubts::default();
            let (sender, _kept) = mpsc::channel(9);
            let found = pump(pieces, &layer, doubts.raise(&url, digest), &sender).await;
            assert_eq!(found, end);
            assert_eq!(doubts.rank(&url, digest).is_none(), found.is_ok());
        }
    }
}
