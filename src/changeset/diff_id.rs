//! The digest of a layer that is not unpacked.

use std::io::{self, Read};

use super::{
    Limits,
    decompress::{ReadError, Source, StreamError},
};
use crate::digest::{DiffId, Digester};

/// The digest of a layer's uncompressed tar. Reads the blob to its end and unpacks nothing.
///
/// # Errors
/// The blob cannot be read or decompressed.
pub fn diff_id_of(blob: impl Read, limits: &Limits) -> io::Result<DiffId> {
    let mut tar = Source::new(blob, limits)?;
    let (share, mut digester) = (limits.budget.share(), Digester::default());
    let mut buffer = vec![0; 128 << 10];
    loop {
        match tar.read(&mut buffer, &share) {
            Ok(0) => return Ok(DiffId::new(digester.finish())),
            Ok(count) => digester.update(&buffer[..count]),
            Err(ReadError::Blob(error)) => return Err(error),
            Err(ReadError::Stream(StreamError::Packing(compression, error))) => {
                return Err(io::Error::other(format!(
                    "its {compression:?} data is damaged: {error}"
                )));
            }
            Err(ReadError::Stream(StreamError::Limit(limit))) => {
                return Err(io::Error::other(limit.to_string()));
            }
        }
    }
}
