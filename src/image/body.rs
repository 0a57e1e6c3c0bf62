//! Request bodies, and the detection of uploads that stall.
//!
//! A range of a file is read in place, piece by piece, and only as fast as the connection accepts the pieces. So it can
//! be sent again from any byte, and a push of any size keeps one piece in memory. Deliberately absent: a total time
//! limit for a push that makes progress.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use reqwest::{Body, header::HeaderValue};

use super::error::{FileError, Problem};

/// Small enough that a slow line sends it within [`super::retry::RetryPolicy::response`].
const PIECE_MAX: u64 = 256 << 10;

/// The body of a request. It can be sent again, as it is after a 401.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestBody<'a> {
    Nothing,
    /// A media type, and the content.
    Bytes(&'a str, &'a Bytes),
    /// A range of a blob.
    Part(&'a Part),
}

/// A range of a file.
#[derive(Debug)]
pub(super) struct Part {
    file: Arc<File>,
    from: u64,
    size: u64,
    /// Bytes that no connection has accepted yet.
    left: Arc<AtomicU64>,
}

impl RequestBody<'_> {
    pub(super) fn size(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(_, bytes) => bytes.len() as u64,
            Self::Part(part) => part.size,
        }
    }

    pub(super) fn media_type(self) -> Option<HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::Bytes(media_type, _) => HeaderValue::from_str(media_type).ok(),
            Self::Part(_) => Some(HeaderValue::from_static("application/octet-stream")),
        }
    }

    pub(super) fn to_body(self) -> Body {
        match self {
            Self::Nothing => Body::default(),
            Self::Bytes(_, bytes) => bytes.clone().into(),
            Self::Part(part) => part.to_body(),
        }
    }

    /// Bytes that no connection has accepted yet. Only a [`RequestBody::Part`] counts them.
    fn left(self) -> u64 {
        match self {
            Self::Part(part) => part.left.load(Ordering::Relaxed),
            Self::Nothing | Self::Bytes(..) => 0,
        }
    }

    /// Runs `sending` while the connection accepts bytes of the body in each period `idle`, and the response comes
    /// within `after` the last of them.
    ///
    /// # Errors
    /// [`Problem::Unreachable`] where one of these limits passes.
    pub(super) async fn watched<T>(
        self,
        idle: Duration,
        after: Duration,
        sending: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        let mut sending = pin!(sending);
        let mut before = None;
        loop {
            let left = self.left();
            if before == Some(left) {
                let why = if left > 0 {
                    "the server stopped reading the request"
                } else {
                    "the server did not respond in time"
                };
                return Err(Problem::Unreachable { why: why.to_owned() });
            }
            before = Some(left);
            let limit = if left > 0 { idle } else { after };
            if let Ok(done) = tokio::time::timeout(limit, &mut sending).await {
                return Ok(done);
            }
        }
    }
}

impl Part {
    pub(super) fn new(file: &Arc<File>, from: u64, size: u64) -> Self {
        Self { file: Arc::clone(file), from, size, left: Arc::new(AtomicU64::new(size)) }
    }

    /// `<first>-<last>`, the format of a chunk's `Content-Range` (OCI distribution-spec, "Pushing a blob in chunks").
    /// Only for a part that is not empty.
    pub(super) fn range(&self) -> Option<HeaderValue> {
        let last = (self.from + self.size).checked_sub(1)?;
        HeaderValue::try_from(format!("{}-{last}", self.from)).ok()
    }

    fn to_body(&self) -> Body {
        let end = self.from + self.size;
        self.left.store(self.size, Ordering::Relaxed);
        let (file, left) = (Arc::clone(&self.file), Arc::clone(&self.left));
        Body::wrap_stream(stream::try_unfold(self.from, move |at| {
            let (file, left) = (Arc::clone(&file), Arc::clone(&left));
            async move {
                if at == end {
                    return Ok(None);
                }
                let reading = move || piece(&file, at, end);
                let piece = tokio::task::spawn_blocking(reading).await;
                let piece = piece.map_err(|error| FileError(error.to_string())).flatten()?;
                let next = at + piece.len() as u64;
                left.store(end - next, Ordering::Relaxed);
                Ok::<_, FileError>(Some((piece, next)))
            }
        }))
    }
}

/// Reads at least one and at most [`PIECE_MAX`] bytes at offset `at`, and none from `end` on.
fn piece(file: &File, at: u64, end: u64) -> Result<Bytes, FileError> {
    let mut piece = vec![0; (end - at).min(PIECE_MAX) as usize];
    let count = loop {
        match file.read_at(&mut piece, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => break done.map_err(|error| FileError::new(&error))?,
        }
    };
    if count == 0 {
        return Err(FileError(format!("it ends after {at} bytes of at least {end}")));
    }
    piece.truncate(count);
    Ok(piece.into())
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn an_upload_that_makes_progress_is_awaited_and_one_that_stalls_fails() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let part = Part::new(&file, 0, 12);
        let moving = async {
            for left in (0..12).rev() {
                tokio::time::sleep(MOMENT).await;
                part.left.store(left, Ordering::Relaxed);
            }
            tokio::time::sleep(MOMENT * 12).await;
        };
        assert_eq!(RequestBody::Part(&part).watched(MOMENT * 8, MOMENT * 99, moving).await, Ok(()));

        part.left.store(1, Ordering::Relaxed);
        let stuck = RequestBody::Part(&part).watched(MOMENT, MOMENT * 99, future::pending::<()>());
        assert!(stuck.await.unwrap_err().details().unwrap().contains("stopped reading"));
        let silent = RequestBody::Nothing.watched(MOMENT * 99, MOMENT, future::pending::<()>());
        assert!(silent.await.unwrap_err().details().unwrap().contains("did not respond in time"));
    }

    #[tokio::test]
    async fn a_part_sends_its_range_of_the_file_each_time() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..600_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let file = Arc::new(file);
        let part = Part::new(&file, 7, 599_000);
        for _ in 0..2 {
            let sent = reqwest::Response::from(axum::http::Response::new(part.to_body()));
            assert!(sent.bytes().await.unwrap() == bytes[7..599_007], "the range");
            assert_eq!(RequestBody::Part(&part).left(), 0);
        }
        assert_eq!(part.range().unwrap(), "7-599006");
        let beyond = Part::new(&file, 599_999, 2);
        let sent = reqwest::Response::from(axum::http::Response::new(beyond.to_body()));
        assert!(sent.bytes().await.is_err());
    }
}
