//! Decompresses the blob piece by piece, and distinguishes errors of the blob's own reader from errors of the
//! compression.
//!
//! The first bytes of a blob decide its compression, as in containerd (`pkg/archive/compression`), because media types
//! are often wrong: gzip begins with 1f 8b 08; zstd with 28 b5 2f fd or a skippable frame (50 to 5f, 2a 4d 18) (RFC
//! 1952, 2.3.1; RFC 8878, 3.1). A tar begins with a name, and no writer of layers makes one of such bytes.
//!
//! Deliberately absent: the media type.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;
use zstd::stream::read::Decoder;

use super::error::Exceeded;
use super::{Compression, Limits};
use crate::budget::{OverBudget, Share};

/// Bytes of the compressed blob read at once.
pub(super) const INPUT: usize = 128 << 10;
/// The largest zstd window that every decoder should accept (RFC 8878, 3.1.1.1.2), as a power of two.
const WINDOW_COMMON: u32 = 23;
/// Bytes at the start of a zstd frame that give its window: magic, descriptor, and window or (of up to 8 bytes) length.
const FRAME_HEADER: usize = 13;

/// Why the tar ends early, other than an error of the blob's reader.
#[derive(Debug)]
pub(super) enum StreamError {
    /// The compressed data is damaged, ends too early, or has another format.
    Packing(Compression, io::Error),
    Limit(Exceeded),
}

/// Why a read failed.
pub(super) enum ReadError {
    Blob(io::Error),
    Stream(StreamError),
}

/// The blob from its first byte on: the bytes that were read to detect the compression, then the rest.
type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, Blob<R>>>;

pub(super) enum Source<R: Read> {
    Plain(Box<Input<R>>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(Box<Zstd<R>>),
}

/// A zstd decoder, configured when the header of the first frame is there.
pub(super) struct Zstd<R: Read> {
    decoder: Decoder<'static, Input<R>>,
    started: bool,
    window_most: u32,
}

impl<R: Read> Source<R> {
    /// Detects the compression from the first bytes of the blob.
    ///
    /// # Errors
    /// Those of the blob's reader.
    pub(super) fn new(blob: R, limits: &Limits) -> io::Result<Self> {
        let mut blob = Blob { blob, failed: false };
        let mut first = Vec::with_capacity(FRAME_HEADER);
        blob.by_ref().take(FRAME_HEADER as u64).read_to_end(&mut first)?;
        let compression = Compression::detect(&first);
        let input = BufReader::with_capacity(INPUT, Cursor::new(first).chain(blob));
        Ok(match compression {
            Compression::None => Self::Plain(Box::new(input)),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => Self::Zstd(Box::new(Zstd {
                decoder: Decoder::with_buffer(input)?,
                started: false,
                window_most: limits.zstd_window,
            })),
        })
    }

    /// The next bytes of the tar; 0 at its end.
    pub(super) fn read(&mut self, into: &mut [u8], share: &Share) -> Result<usize, ReadError> {
        loop {
            let read = match self {
                Self::Plain(blob) => blob.read(into),
                Self::Gzip(decoder) => decoder.read(into),
                Self::Zstd(zstd) => zstd.read(into, share),
            };
            match read {
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.has_failed() => return Err(ReadError::Blob(error)),
                Err(error) => return Err(ReadError::Stream(self.fault(error))),
            }
        }
    }

    /// Reads the blob to its end without unpacking, because its reader may still report an error there.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let blob = match self {
            Self::Plain(input) => input.get_mut(),
            Self::Gzip(decoder) => decoder.get_mut().get_mut(),
            Self::Zstd(zstd) => zstd.decoder.get_mut().get_mut(),
        };
        io::copy(blob, &mut io::sink()).map(drop)
    }

    fn has_failed(&self) -> bool {
        let input = match self {
            Self::Plain(input) => input,
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(zstd) => zstd.decoder.get_ref(),
        };
        input.get_ref().get_ref().1.failed
    }

    fn fault(&self, error: io::Error) -> StreamError {
        match self {
            // A plain blob can only fail by its reader.
            Self::Plain(_) => StreamError::Packing(Compression::None, error),
            Self::Gzip(_) => StreamError::Packing(Compression::Gzip, error),
            Self::Zstd(zstd) if error.to_string().contains("too much memory") => {
                StreamError::Limit(Exceeded::Window(1 << zstd.window_most))
            }
            Self::Zstd(_) if error.get_ref().is_some_and(|inner| inner.is::<OverBudget>()) => {
                StreamError::Limit(Exceeded::Memory)
            }
            Self::Zstd(_) => StreamError::Packing(Compression::Zstd, error),
        }
    }
}

impl<R: Read> Zstd<R> {
    fn read(&mut self, into: &mut [u8], share: &Share) -> io::Result<usize> {
        if !self.started {
            self.start(share)?;
        }
        self.decoder.read(into)
    }

    /// Allows the window that the first frame requires, and no larger one for later frames.
    fn start(&mut self, share: &Share) -> io::Result<()> {
        let wanted = window(self.decoder.get_mut().fill_buf()?).unwrap_or(self.window_most);
        let most = wanted.max(WINDOW_COMMON).min(self.window_most);
        share.take(1 << most).map_err(io::Error::other)?;
        self.decoder.window_log_max(most)?;
        self.started = true;
        Ok(())
    }
}

/// The window of the zstd frame that begins with `bytes`, as the power of two that holds it (RFC 8878, 3.1.1.1). `None`
/// if they do not contain it.
fn window(bytes: &[u8]) -> Option<u32> {
    let bytes = &bytes[..bytes.len().min(FRAME_HEADER)];
    let descriptor = *bytes.strip_prefix(b"\x28\xb5\x2f\xfd")?.first()?;
    let rest = &bytes[5..];
    let size = if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1_u64 << (10 + (byte >> 3));
        base + base / 8 * (byte & 7)
    } else {
        let skipped = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let len = [1, 2, 4, 8][usize::from(descriptor >> 6)];
        let field = rest.get(skipped..skipped + len)?;
        field.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    };
    Some(64 - size.saturating_sub(1).leading_zeros())
}

/// The blob, which remembers whether an error was its own or the decoder's.
pub(super) struct Blob<R> {
    blob: R,
    failed: bool,
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read(into);
        if let Err(error) = &read {
            self.failed = error.kind() != io::ErrorKind::Interrupted;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_window_of_a_frame_is_read_from_its_header() {
        for log in [10, 17, 23, 27] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(b"some text").unwrap();
            let frame = encoder.finish().unwrap();
            assert_eq!(window(&frame), Some(log));
            assert_eq!(window(&frame[..5]), None);
        }
        let whole = zstd::bulk::compress(&[0; 5000], 1).unwrap();
        assert_eq!(window(&whole), Some(13), "a single segment's window is its content");
        assert_eq!(window(b"\x50\x2a\x4d\x18\0\0\0\0"), None, "a skippable frame");
    }
}
