//! The tar as a sequence of typed entries, each followed by its content.
//!
//! ```text
//!       next()                     content()
//! ───▶ header ──▶ entry ──▶ content and padding ──▶ header … ──▶ two blocks of zeros ──▶ finish()
//!        └─ extended headers belong to the entry behind them
//! ```
//!
//! Deliberately absent: seeking, and a second look. What a caller does not read is read past and hashed.

use tar::Header;

use super::Limits;
use super::entry::{self, Entry, Kind};
use super::error::{EntryName, Exceeded, Refusal, UnpackError};
use super::header::{self, BLOCK};
use super::pax::{Extended, PaxError, check_global};
use super::sparse::{Lines, Old, Records, Sparse};
use super::stream::Stream;
use crate::erofs::Extent;

/// The most bytes of one extended header: what attributes of honest files need, many times over.
const EXTENDED_MOST: u64 = 1 << 20;

pub(super) struct Reader<'l> {
    stream: &'l mut Stream,
    limits: &'l Limits,
    /// The entry last seen, for messages.
    name: EntryName,
    /// Bytes of content not read yet, and of padding behind it.
    content: u64,
    padding: u64,
    /// Headers of every kind, and those among them that are entries.
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

    /// The next entry; none at the tar's end.
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
            let mut said = Ok(());
            match header::kind(header) {
                b'x' => said = extended.pax(&self.extended(header)?),
                b'g' => said = check_global(&self.extended(header)?),
                b'L' => extended.long_name(self.extended(header)?),
                b'K' => extended.long_link(self.extended(header)?),
                _ => return self.entry(header, extended).map(Some),
            }
            said.map_err(|why| self.name.refuse(why))?;
        }
    }

    /// Hands the entry's content on, piece by piece.
    pub(super) fn content(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        while self.content > 0 {
            let seen = self.stream.peek().map_err(|error| error.at(&self.name))?;
            if seen.is_empty() {
                return Err(self.name.refuse(Refusal::Truncated));
            }
            let len = seen.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
            take(&seen[..len])?;
            self.stream.consume(len);
            self.content -= len as u64;
        }
        Ok(())
    }

    /// Hands on what lies in `extents`; the rest of the content has to be zeros.
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
                    return Err(name.refuse(Refusal::Sparse("names a hole where there is none")));
                }
                (at, piece) = (at + len as u64, rest);
                extents.next_if(|extent| extent.offset + extent.len <= at);
            }
            Ok(())
        })
    }

    /// Reads what stands behind the tar's end; answers how many entries there were.
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
            b'S' => Some(Old::new(header).map_err(|why| self.name.refuse(why))?),
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
                entry.kind = Kind::Holed(map);
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

    /// A sparse file whose map stands in its header and the blocks behind that.
    fn old_sparse(&mut self, mut old: Old) -> Result<Sparse, UnpackError> {
        self.check_size(old.size)?;
        while old.goes_on {
            let block = self.whole_block()?;
            old.take(&block).map_err(|why| self.name.refuse(why))?;
        }
        let sparse = Sparse::new(old.size, old.extents, self.content);
        sparse.map_err(|why| self.name.refuse(why))
    }

    /// A sparse file whose map stands in its records, or in front of its content.
    fn pax_sparse(&mut self, records: &Records) -> Result<Sparse, UnpackError> {
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
        let mut lines = Lines::default();
        while self.content >= BLOCK as u64 {
            let block = self.whole_block()?;
            self.content -= BLOCK as u64;
            if let Some(extents) = lines.take(&block).map_err(|why| self.name.refuse(why))? {
                return Ok(extents);
            }
        }
        Err(self.name.refuse(Refusal::Sparse("cannot be read")))
    }

    /// A block of which no part may be missing.
    fn whole_block(&mut self) -> Result<[u8; BLOCK], UnpackError> {
        let mut block = [0; BLOCK];
        match self.stream.fill(&mut block).map_err(|error| error.at(&self.name))? {
            BLOCK => Ok(block),
            _ => Err(self.name.refuse(Refusal::Truncated)),
        }
    }

    fn check_size(&self, size: u64) -> Result<(), UnpackError> {
        if size > self.limits.tar_bytes {
            return Err(self.name.exceed(Exceeded::FileBytes(self.limits.tar_bytes)));
        }
        Ok(())
    }

    /// The content of an extended header.
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

    /// Announces content. What would pass the limit is not even begun.
    fn expect(&mut self, size: u64) -> Result<(), UnpackError> {
        if size > self.limits.tar_bytes {
            return Err(self.name.exceed(Exceeded::TarBytes(self.limits.tar_bytes)));
        }
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(())
    }

    /// Moves past content that nobody read, and its padding.
    fn skip(&mut self) -> Result<(), UnpackError> {
        self.content(|_| Ok(()))?;
        self.content = std::mem::take(&mut self.padding);
        self.content(|_| Ok(()))
    }

    /// The next block, if the tar does not end there: after two blocks of zeros, or with the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut zeros = 0;
        loop {
            match self.stream.fill(&mut block).map_err(|error| error.at(&self.name))? {
                0 => return Ok(None),
                BLOCK => {}
                _ => return Err(self.name.refuse(Refusal::Truncated)),
            }
            match (block == [0; BLOCK], zeros) {
                (false, 0) => return Ok(Some(block)),
                (false, _) => return Err(self.name.refuse(Refusal::LoneZeros)),
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
