//! Sparse files in the four forms that GNU tar has written. A map says where their data is; the rest is zeros:
//!
//! ```text
//! old GNU   type S: 4 pieces in the header, more in blocks after it
//! pax 0.0   records GNU.sparse.offset and GNU.sparse.numbytes, in turn
//! pax 0.1   one record GNU.sparse.map
//! pax 1.0   the map before the content, as decimal lines
//! ```
//!
//! and in one form of ours, for layers that every tool can read: a record `OVL.data` says where the data is, and the
//! content follows complete, with all zeros.
//!
//! Deliberately absent: repair. A map that is not sorted, overlaps, or does not match the bytes that follow is refused.

use tar::Header;

use super::error::InvalidLayer;
use super::header::{self, BLOCK};
use super::pax_value::{PaxError, decimal, number, numbers, text};
use crate::erofs::Extent;

/// The most pieces of one file. It bounds memory, and no disk image in a layer needs more.
const PIECES: usize = 1 << 18;
/// Bytes of a piece in an old GNU header, and the number of pieces in an extension block.
const PIECE_LEN: usize = 24;
const PIECES_OF_BLOCK: usize = 21;
/// The offset of the flag that another block follows, in a header and in an extension block.
const MORE_IN_HEADER: usize = 482;
const MORE_IN_BLOCK: usize = PIECE_LEN * PIECES_OF_BLOCK;
const HEADER_PIECES: std::ops::Range<usize> = 386..MORE_IN_HEADER;

/// A sparse file: its size, and the parts of it that have data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    pub size: u64,
    pub extents: Vec<Extent>,
}

impl Sparse {
    /// A file of which `stored` bytes follow in the tar.
    pub(super) fn new(size: u64, extents: Vec<Extent>, stored: u64) -> Result<Self, InvalidLayer> {
        let (mut end, mut sum) = (0, 0);
        for Extent { offset, len } in &extents {
            if *offset < end {
                return Err(InvalidLayer::Sparse("has pieces that overlap or are not in order"));
            }
            let piece_end = offset.checked_add(*len).filter(|end| *end <= size);
            end = piece_end.ok_or(InvalidLayer::Sparse("goes beyond its size"))?;
            sum += len;
        }
        if sum != stored {
            return Err(InvalidLayer::Sparse("does not match the bytes that follow"));
        }
        Ok(Self { size, extents })
    }

    /// A file that follows complete, with a map of its data: offsets and lengths in turn.
    pub(super) fn mapped(size: u64, map: &[u64]) -> Result<Self, InvalidLayer> {
        let mut extents = pairs(map)?;
        extents.retain(|extent| extent.len > 0);
        let data = extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.len));
        Self::new(size, extents, data)
    }
}

/// The pax records of a sparse file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    real_size: Option<u64>,
    pieces: Option<u64>,
    /// Offsets and lengths in turn.
    map: Vec<u64>,
}

impl SparseRecords {
    /// Reads the record `GNU.sparse.KEY`.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), PaxError> {
        const WHAT: &str = "sparse map";
        let slot = match key {
            b"name" => {
                self.name = text(value);
                return Ok(());
            }
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.pieces,
            b"offset" | b"numbytes" => {
                if self.map.len().is_multiple_of(2) != (key == b"offset") {
                    return Err(PaxError::Value(WHAT));
                }
                self.map.push(decimal(value).ok_or(PaxError::Value(WHAT))?);
                return Ok(());
            }
            b"map" if self.map.is_empty() => {
                self.map = numbers(value)?;
                return Ok(());
            }
            _ => return Err(PaxError::Value(WHAT)),
        };
        *slot = number(value, WHAT)?;
        Ok(())
    }

    /// Whether the map is before the content.
    pub(super) fn map_in_content(&self) -> Result<bool, InvalidLayer> {
        match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (1, 0) if self.map.is_empty() => Ok(true),
            (0, 0 | 1) => Ok(false),
            _ => Err(InvalidLayer::Sparse("has an unknown form")),
        }
    }

    /// The file's size with its holes.
    pub(super) fn size(&self) -> Result<u64, InvalidLayer> {
        match (self.size, self.real_size) {
            (Some(size), Some(real)) if size != real => Err(InvalidLayer::Contradiction("size")),
            (size, real) => size.or(real).ok_or(InvalidLayer::Sparse("has no file size")),
        }
    }

    /// The map in the records.
    pub(super) fn extents(&self) -> Result<Vec<Extent>, InvalidLayer> {
        let extents = pairs(&self.map)?;
        match self.pieces {
            Some(pieces) if pieces != extents.len() as u64 => {
                Err(InvalidLayer::Contradiction("sparse map"))
            }
            _ => Ok(extents),
        }
    }
}

/// Reads the map before the content, block by block.
#[derive(Debug, Default)]
pub(super) struct MapLines {
    /// The number of numbers that follow, once it has been read.
    expected: Option<usize>,
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl MapLines {
    /// Reads a block; returns the map when it is complete.
    pub(super) fn take(
        &mut self,
        block: &[u8; BLOCK],
    ) -> Result<Option<Vec<Extent>>, InvalidLayer> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let unreadable = InvalidLayer::Sparse("cannot be read");
            let number = decimal(&self.line).ok_or(unreadable)?;
            self.line.clear();
            match self.expected {
                None if number > PIECES as u64 => return Err(too_many()),
                None => self.expected = Some(2 * number as usize),
                Some(_) => self.numbers.push(number),
            }
            if self.expected == Some(self.numbers.len()) {
                return pairs(&self.numbers).map(Some);
            }
        }
        if self.line.len() > BLOCK {
            return Err(InvalidLayer::Sparse("cannot be read"));
        }
        Ok(None)
    }
}

/// The map of an old GNU header: what has been read of it, and whether another block follows.
#[derive(Debug)]
pub(super) struct OldGnuMap {
    pub size: u64,
    pub extents: Vec<Extent>,
    pub has_more: bool,
}

impl OldGnuMap {
    pub(super) fn new(header: &Header) -> Result<Self, InvalidLayer> {
        let Some(gnu) = header.as_gnu() else {
            return Err(InvalidLayer::Sparse("is in a header that is not GNU tar's"));
        };
        let size = u64::try_from(header::number(&gnu.realsize, "size")?);
        let size = size.map_err(|_| InvalidLayer::Number("size"))?;
        let bytes = header.as_bytes();
        let mut old = Self { size, extents: Vec::new(), has_more: bytes[MORE_IN_HEADER] != 0 };
        old.pieces(&bytes[HEADER_PIECES])?;
        Ok(old)
    }

    /// Reads one of the blocks after the header.
    pub(super) fn take(&mut self, block: &[u8; BLOCK]) -> Result<(), InvalidLayer> {
        self.has_more = block[MORE_IN_BLOCK] != 0;
        self.pieces(&block[..MORE_IN_BLOCK])
    }

    /// Reads pieces up to the first unused one, which ends the block.
    fn pieces(&mut self, bytes: &[u8]) -> Result<(), InvalidLayer> {
        let part = |field: &[u8]| {
            let number = header::number(field, "sparse map")?;
            u64::try_from(number).map_err(|_| InvalidLayer::Number("sparse map"))
        };
        for piece in bytes.chunks_exact(PIECE_LEN).take_while(|piece| piece[0] != 0) {
            if self.extents.len() == PIECES {
                return Err(too_many());
            }
            let (offset, len) = piece.split_at(PIECE_LEN / 2);
            self.extents.push(Extent { offset: part(offset)?, len: part(len)? });
        }
        Ok(())
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Extent>, InvalidLayer> {
    if !numbers.len().is_multiple_of(2) {
        return Err(InvalidLayer::Sparse("cannot be read"));
    }
    if numbers.len() / 2 > PIECES {
        return Err(too_many());
    }
    Ok(numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], len: pair[1] }).collect())
}

fn too_many() -> InvalidLayer {
    InvalidLayer::Sparse("has more than 262,144 pieces")
}
