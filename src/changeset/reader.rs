//! Reads the tar as a sequence of typed entries, each followed by its content.
//!
//! ```text
//!       next()                     content()
//! ───▶ header ──▶ entry ──▶ content and padding ──▶ header … ──▶ two blocks of zeros ──▶ finish()
//!        └─ extended headers belong to the entry after them
//! ```
//!
//! Deliberately absent: seeking. Content that the caller does not read is skipped, and still hashed.

use tar::Header;

use super::Limits;
use super::entry::{self, Entry, Kind};
use super::error::{EntryName, Exceeded, InvalidLayer, UnpackError};
use super::header::{self, BLOCK};
use super::pax::{Extended, check_global};
use super::pax_value::PaxError;
use super::sparse::{MapLines, OldGnuMap, Sparse, SparseRecords};
use super::stream::Stream;
use crate::erofs::Extent;

/// The most bytes of one extended header: many times what attributes of real files need.
const EXTENDED_MOST: u64 = 1 << 20;

pub(super) struct Reader<'l> {
    stream: &'l mut Stream,
    limits: &'l Limits,
    /// The name of the last entry, for messages.
    name: EntryName,
    /// Bytes of content that are not read yet, and of padding after them.
    content: u64,
    padding: u64,
    /// The number of headers of every kind, and of entries among them.
    headers: u64,
    entries: u64,
}

impl<'l> Reader<'l> {
    pub(super) fn new(stream: &'l mut Stream, limits: &'l Limits) -> Self {
        Self {
            stream,
            limits,
            name: EntryName::default(),
            content: 0,
            padding: 0,
            headers: 0,
            entries: 0,
        }
    }

    /// The next entry; `None` at the tar's end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else {
                return if extended.is_empty() {
                    Ok(None)
                } else {
                    Err(self.name.refuse(PaxError::Alone))
                };
            };
            let header = header::parse(&block).map_err(|why| {
                EntryName::new(&Header::from_byte_slice(&block).path_bytes()).refuse(why)
            })?;
            self.count()?;
            let mut parsed = Ok(());
            match header::kind(header) {
                b'x' => parsed = extended.pax(&self.extended(header)?),
                b'g' => parsed = check_global(&self.extended(header)?),
                b'L' => extended.long_name(self.extended(header)?),
                b'K' => extended.long_link(self.extended(header)?),
                _ => return self.entry(header, extended).map(Some),
            }
            parsed.map_err(|why| self.name.refuse(why))?;
        }
    }

    /// Calls `take` with the entry's content, piece by piece.
    pub(super) fn content(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        while self.content > 0 {
            let bytes = self.stream.peek().map_err(|error| error.at(&self.name))?;
            if bytes.is_empty() {
                return Err(self.name.refuse(InvalidLayer::Truncated));
            }
            let len = bytes.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
            take(&bytes[..len])?;
            self.stream.consume(len);
            self.content -= len as u64;
        }
        Ok(())
    }

    /// Calls `take` with the content in `extents`. The rest of the content must be zeros.
    pub(super) fn content_of(
        &mut self,
        extents: &[Extent],
        mut take: impl FnMut(&[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        let (name, mut extents, mut at) = (self.name.clone(), extents.iter().peekable(), 0);
        self.content(|mut piece| {
            while !piece.is_empty() {
                let (is_data, end) = match extents.peek() {
                    Some(extent) if extent.offset > at => (false, extent.offset),
                    Some(extent) => (true, extent.offset + extent.len),
                    None => (false, u64::MAX),
                };
                let len = piece.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let (now, rest) = piece.split_at(len);
                if is_data {
                    take(now)?;
                } else if now.iter().fold(0, |bits, byte| bits | byte) != 0 {
                    return Err(name.refuse(InvalidLayer::Sparse("has a hole where there is data")));
                }
                (at, piece) = (at + len as u64, rest);
                extents.next_if(|extent| extent.offset + extent.len <= at);
            }
            Ok(())
        })
    }

    /// Reads what follows the tar's end; returns the number of entries.
    pub(super) fn finish(&mut self) -> Result<u64, UnpackError> {
        self.stream.finish().map_err(|error| error.at(&self.name))?;
        Ok(self.entries)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, UnpackError> {
        self.entries += 1;
        self.name = entry::name(header, &extended);
        let xattr_bytes = extended.xattr_bytes();
        if xattr_bytes > self.limits.xattr_bytes {
            return Err(self.name.exceed(Exceeded::XattrBytes(self.limits.xattr_bytes)));
        }
        let old = match header::kind(header) {
            b'S' => Some(OldGnuMap::new(header).map_err(|why| self.name.refuse(why))?),
            _ => None,
        };
        let (records, map) = (extended.sparse.clone(), extended.data.clone());
        let entry = Entry::new(self.name.clone(), header, extended);
        let mut entry = entry.map_err(|why| self.name.refuse(why))?;
        if !entry.path.fits(self.limits.depth) {
            return Err(self.name.exceed(Exceeded::Depth(self.limits.depth)));
        }
        if let Kind::File(size) = entry.kind {
            self.expect(size)?;
            if let Some(map) = map {
                let map = Sparse::mapped(size, &map).map_err(|why| self.name.refuse(why))?;
                entry.kind = Kind::Mapped(map);
            }
        }
        let sparse = match (old, records) {
            (Some(old), _) => self.old_sparse(old)?,
            (None, Some(records)) => self.pax_sparse(&records)?,
            (None, None) => return Ok(entry),
        };
        entry.kind = Kind::Sparse(sparse);
        Ok(entry)
    }

    /// A sparse file whose map is in its header and in the blocks after it.
    fn old_sparse(&mut self, mut old: OldGnuMap) -> Result<Sparse, UnpackError> {
        self.check_size(old.size)?;
        while old.has_more {
            let block = self.whole_block()?;
            old.take(&block).map_err(|why| self.name.refuse(why))?;
        }
        let sparse = Sparse::new(old.size, old.extents, self.content);
        sparse.map_err(|why| self.name.refuse(why))
    }

    /// A sparse file whose map is in its records, or before its content.
    fn pax_sparse(&mut self, records: &SparseRecords) -> Result<Sparse, UnpackError> {
        let size = records.size().map_err(|why| self.name.refuse(why))?;
        self.check_size(size)?;
        let extents = if records.map_in_content().map_err(|why| self.name.refuse(why))? {
            self.lines()?
        } else {
            records.extents().map_err(|why| self.name.refuse(why))?
        };
        let sparse = Sparse::new(size, extents, self.content);
        sparse.map_err(|why| self.name.refuse(why))
    }

    fn lines(&mut self) -> Result<Vec<Extent>, UnpackError> {
        let mut lines = MapLines::default();
        while self.content >= BLOCK as u64 {
            let block = self.whole_block()?;
            self.content -= BLOCK as u64;
            if let Some(extents) = lines.take(&block).map_err(|why| self.name.refuse(why))? {
                return Ok(extents);
            }
        }
        Err(self.name.refuse(InvalidLayer::Sparse("cannot be read")))
    }

    /// The next block, which must be complete.
    fn whole_block(&mut self) -> Result<[u8; BLOCK], UnpackError> {
        let mut block = [0; BLOCK];
        match self.stream.fill(&mut block).map_err(|error| error.at(&self.name))? {
            BLOCK => Ok(block),
            _ => Err(self.name.refuse(InvalidLayer::Truncated)),
        }
    }

    fn check_size(&self, size: u64) -> Result<(), UnpackError> {
        if size > self.limits.tar_bytes {
            return Err(self.name.exceed(Exceeded::FileBytes(self.limits.tar_bytes)));
        }
        Ok(())
    }

    /// Reads the content of an extended header.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, UnpackError> {
        self.name = EntryName::new(&header.path_bytes());
        let size = header::size(header).map_err(|why| self.name.refuse(why))?;
        if size > EXTENDED_MOST {
            return Err(self.name.refuse(PaxError::Long(size)));
        }
        self.expect(size)?;
        let mut data = Vec::with_capacity(size as usize);
        self.content(|piece| {
            data.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(data)
    }

    /// Expects `size` bytes of content. If they would exceed the limit, nothing is read.
    fn expect(&mut self, size: u64) -> Result<(), UnpackError> {
        if size > self.limits.tar_bytes {
            return Err(self.name.exceed(Exceeded::TarBytes(self.limits.tar_bytes)));
        }
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(())
    }

    /// Skips content that the caller did not read, and its padding.
    fn skip(&mut self) -> Result<(), UnpackError> {
        self.content(|_| Ok(()))?;
        self.content = std::mem::take(&mut self.padding);
        self.content(|_| Ok(()))
    }

    /// The next block. `None` at the tar's end: after two blocks of zeros, or at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut zeros = 0;
        loop {
            match self.stream.fill(&mut block).map_err(|error| error.at(&self.name))? {
                0 => return Ok(None),
                BLOCK => {}
                _ => return Err(self.name.refuse(InvalidLayer::Truncated)),
            }
            match (block == [0; BLOCK], zeros) {
                (false, 0) => return Ok(Some(block)),
                (false, _) => return Err(self.name.refuse(InvalidLayer::LoneZeros)),
                (true, 0) => zeros = 1,
                (true, _) => return Ok(None),
            }
        }
    }

    fn count(&mut self) -> Result<(), UnpackError> {
        self.headers += 1;
        if self.headers > self.limits.headers() {
            return Err(self.name.exceed(Exceeded::Entries(self.limits.entries)));
        }
        Ok(())
    }
}
