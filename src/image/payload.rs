//! What goes with a request, and whether it still goes.
//!
//! A stretch of a file is read where it lies, piece by piece and only as the connection takes them: it can be sent
//! again from any byte, and a push of any size holds one piece. Deliberately absent: a bound on how long a push may
//! take as long as it moves.

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

use super::error::Problem;

/// Few enough bytes that a slow line takes them within [`super::pace::Pace::answer`].
const PIECE_MAX: u64 = 256 << 10;

/// What goes with a request. It can be sent again: a request that meets a 401 is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Payload<'a> {
    Nothing,
    /// A media type, and bytes of it.
    Bytes(&'a str, &'a Bytes),
    /// A stretch of a blob.
    Part(&'a Part),
}

/// A stretch of a file.
#[derive(Debug)]
pub(super) struct Part {
    file: Arc<File>,
    from: u64,
    size: u64,
    /// What no connection has taken yet.
    left: Arc<AtomicU64>,
}

/// The file does not give what is to be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(String);

impl Unreadable {
    pub(super) fn new(error: &io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Payload<'_> {
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

    pub(super) fn body(self) -> Body {
        match self {
            Self::Nothing => Body::default(),
            Self::Bytes(_, bytes) => bytes.clone().into(),
            Self::Part(part) => part.body(),
        }
    }

    /// What no connection has taken yet, as far as it is counted.
    fn left(self) -> u64 {
        match self {
            Self::Part(part) => part.left.load(Ordering::Relaxed),
            Self::Nothing | Self::Bytes(..) => 0,
        }
    }

    /// What `sending` gives, if the connection takes something in each `idle`, and the answer comes within
    /// `settle` of the last of it.
    ///
    /// # Errors
    /// [`Problem::Unreachable`] where it does not.
    pub(super) async fn watched<T>(
        self,
        idle: Duration,
        settle: Duration,
        sending: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        let mut sending = pin!(sending);
        let mut before = None;
        loop {
            let left = self.left();
            if before == Some(left) {
                let why = if left > 0 {
                    "it does not take what is sent"
                } else {
                    "it did not answer in time"
                };
                return Err(Problem::Unreachable { why: why.to_owned() });
            }
            before = Some(left);
            let patience = if left > 0 { idle } else { settle };
            if let Ok(done) = tokio::time::timeout(patience, &mut sending).await {
                return Ok(done);
            }
        }
    }
}

impl Part {
    pub(super) fn new(file: &Arc<File>, from: u64, size: u64) -> Self {
        Self { file: Arc::clone(file), from, size, left: Arc::new(AtomicU64::new(size)) }
    }

    /// `<first>-<last>`, as a chunk's `Content-Range` is written (OCI distribution-spec, "Pushing a blob in
    /// chunks"). For a part that is not empty.
    pub(super) fn range(&self) -> Option<HeaderValue> {
        let last = (self.from + self.size).checked_sub(1)?;
        HeaderValue::try_from(format!("{}-{last}", self.from)).ok()
    }

    fn body(&self) -> Body {
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
                let piece = piece.map_err(|error| Unreadable(error.to_string())).flatten()?;
                let next = at + piece.len() as u64;
                left.store(end - next, Ordering::Relaxed);
                Ok::<_, Unreadable>(Some((piece, next)))
            }
        }))
    }
}

/// Some of the bytes from `at` on, and none from `end` on.
fn piece(file: &File, at: u64, end: u64) -> Result<Bytes, Unreadable> {
    let mut piece = vec![0; (end - at).min(PIECE_MAX) as usize];
    let count = loop {
        match file.read_at(&mut piece, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => break done.map_err(|error| Unreadable::new(&error))?,
        }
    };
    if count == 0 {
        return Err(Unreadable(format!("it ends after {at} bytes of at least {end}")));
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
    async fn what_moves_is_waited_for_and_what_does_not_is_left() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let part = Part::new(&file, 0, 12);
        let moving = async {
            for left in (0..12).rev() {
                tokio::time::sleep(MOMENT).await;
                part.left.store(left, Ordering::Relaxed);
            }
            tokio::time::sleep(MOMENT * 12).await;
        };
        assert_eq!(Payload::Part(&part).watched(MOMENT * 8, MOMENT * 99, moving).await, Ok(()));

        part.left.store(1, Ordering::Relaxed);
        let stuck = Payload::Part(&part).watched(MOMENT, MOMENT * 99, future::pending::<()>());
        assert!(stuck.await.unwrap_err().details().unwrap().contains("does not take what is sent"));
        let silent = Payload::Nothing.watched(MOMENT * 99, MOMENT, future::pending::<()>());
        assert!(silent.await.unwrap_err().details().unwrap().contains("did not answer in time"));
    }

    #[tokio::test]
    async fn a_part_is_what_lies_there_and_again_the_same() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..600_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let file = Arc::new(file);
        let part = Part::new(&file, 7, 599_000);
        for _ in 0..2 {
            let sent = reqwest::Response::from(axum::http::Response::new(part.body()));
            assert!(sent.bytes().await.unwrap() == bytes[7..599_007], "the stretch");
            assert_eq!(Payload::Part(&part).left(), 0);
        }
        assert_eq!(part.range().unwrap(), "7-599006");
        let beyond = Part::new(&file, 599_999, 2);
        let sent = reqwest::Response::from(axum::http::Response::new(beyond.body()));
        assert!(sent.bytes().await.is_err());
    }
}
