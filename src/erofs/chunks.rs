//! Files with holes: content in chunks of one length, whose addresses follow the inode.
//!
//! ```text
//! file    ──data──┆┄┄┄┄┄┄┄┄┄┄┄┆┄┄┄──data──┆┄┄┄┄┄┄┄┄
//! chunks  [   0   ][   1   ][   2   ][   3   ]          addresses: c, HOLE, c + 1 chunk, HOLE
//! image   [   0   ][   2   ]                            the part of a hole in a chunk stays zeros
//! ```
//!
//! Deliberately absent: chunks that two files share. A layer is written in one pass and never read again.

use super::format::{BLOCK, CHUNK_BITS_MOST, HOLE};
use super::inode::Extent;
use super::inode_body::{Body, Run};

/// The most chunks before longer ones are used, so that an index takes at most 256 KiB. Only a file of more than
/// 512 PiB needs a longer index.
const CHUNKS: u64 = 1 << 16;
/// Bytes of a chunk's address.
const ADDRESS_LEN: u64 = 4;

/// The chunks of one file.
#[derive(Debug)]
pub(super) struct Chunks {
    size: u64,
    bits: u32,
    /// Ranges of chunks with content: first chunk, and the one after the last. Sorted and not adjacent.
    used: Vec<(u64, u64)>,
}

impl Chunks {
    pub(super) fn new(size: u64, extents: &[Extent]) -> Self {
        let mut bits = BLOCK.trailing_zeros();
        while bits < CHUNK_BITS_MOST && size.div_ceil(1 << bits) > CHUNKS {
            bits += 1;
        }
        let mut used: Vec<(u64, u64)> = Vec::new();
        for extent in extents.iter().filter(|extent| extent.len > 0) {
            let (first, end) =
                (extent.offset >> bits, (extent.offset + extent.len).div_ceil(1 << bits));
            match used.last_mut() {
                Some(last) if first <= last.1 => last.1 = end,
                _ => used.push((first, end)),
            }
        }
        Self { size, bits, used }
    }

    /// The length of a chunk in bytes as a power of two.
    pub(super) fn bits(&self) -> u32 {
        self.bits
    }

    /// The inode's field for this layout: how many times a block is doubled to make a chunk.
    pub(super) fn format(&self) -> u32 {
        self.bits - BLOCK.trailing_zeros()
    }

    /// Whether a chunk is a hole.
    pub(super) fn has_holes(&self) -> bool {
        self.used.iter().map(|(first, end)| end - first).sum::<u64>() < self.count()
    }

    /// Bytes of the chunks with content. Each is whole, except the file's last.
    pub(super) fn content(&self) -> u64 {
        let chunks = self.used.iter().map(|(first, end)| end - first).sum::<u64>();
        let whole = u128::from(chunks) << self.bits;
        let ends = self.used.last().is_some_and(|(_, end)| *end == self.count());
        let beyond = (u128::from(self.count()) << self.bits) - u128::from(self.size);
        let content = if ends { whole - beyond } else { whole };
        u64::try_from(content).unwrap_or(u64::MAX)
    }

    /// Bytes of all addresses together.
    pub(super) fn index_len(&self) -> u64 {
        self.count() * ADDRESS_LEN
    }

    /// Appends the address of every chunk. The first chunk with content lies at `content`.
    pub(super) fn append_index(&self, content: u64, out: &mut Vec<u8>) {
        let per_chunk = 1_u64 << self.format();
        let (mut block, mut next) = (content / BLOCK, 0);
        let holes = |from: u64, to: u64, out: &mut Vec<u8>| {
            (from..to).for_each(|_| out.extend_from_slice(&HOLE.to_le_bytes()));
        };
        for &(first, end) in &self.used {
            holes(next, first, out);
            for _ in first..end {
                out.extend_from_slice(&(block as u32).to_le_bytes());
                block += per_chunk;
            }
            next = end;
        }
        holes(next, self.count(), out);
    }

    /// The body that writes the content of `extents` into the chunks at `content`.
    pub(super) fn body(&self, inode: u64, content: u64, extents: &[Extent]) -> Body {
        let (mut runs, mut before) = (Vec::with_capacity(extents.len()), 0);
        let mut used = self.used.iter().peekable();
        for extent in extents.iter().filter(|extent| extent.len > 0) {
            let chunk = extent.offset >> self.bits;
            while let Some((first, end)) = used.next_if(|(_, end)| *end <= chunk) {
                before += end - first;
            }
            let first = used.peek().map_or(0, |(first, _)| *first);
            let at = content + (before << self.bits) + (extent.offset - (first << self.bits));
            runs.push(Run { at, len: extent.len });
        }
        Body::new(inode, runs)
    }

    fn count(&self) -> u64 {
        self.size.div_ceil(1 << self.bits)
    }
}
