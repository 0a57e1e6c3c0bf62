//! Allocates addresses in an image; it never touches bytes.
//!
//! Content takes whole blocks at the end. Inodes share one open metadata block, whose address is taken
//! when it is opened. Content that is written later lies behind that block, and the rest of the block is still used.
//!
//! Deliberately absent: freeing. An entry that a later one replaces leaves its blocks unused.

use super::error::WriteError;
use super::format::{BLOCK, ROOT_AT, SLOT};

/// The addresses of one inode and its content, in bytes from the image's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// Address of the inode.
    pub inode: u64,
    /// Address of the content's first block, if the content has blocks of its own.
    pub content: u64,
    /// Whether the last partial block of the content directly follows the inode and its attributes.
    pub inline: bool,
}

/// What is allocated so far.
#[derive(Debug)]
pub(super) struct Allocator {
    /// The first free byte; a multiple of a block.
    end: u64,
    /// The next free byte of the open metadata block.
    open: u64,
}

impl Allocator {
    /// An image of which only the first block is allocated.
    pub(super) fn new() -> Self {
        Self { end: BLOCK, open: BLOCK }
    }

    /// Bytes allocated.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Allocates space for an inode of `head` bytes (with its attributes) and `size` bytes of content.
    ///
    /// The last partial block follows the inode where both fit into one block. If that needs a new
    /// metadata block, it is done only when the space wasted in the old one is less than the padding saved.
    pub(super) fn place(&mut self, head: u64, size: u64) -> Result<Region, WriteError> {
        let tail = size % BLOCK;
        let free = (BLOCK - self.open % BLOCK) % BLOCK;
        let inline = tail > 0
            && if head > BLOCK {
                tail <= head.next_multiple_of(BLOCK) - head
            } else {
                head + tail <= free || (head + tail <= BLOCK && free < BLOCK - tail)
            };
        let inlined = if inline { tail } else { 0 };
        let content = self.take(size - inlined)?;
        let inode = self.inode(head + inlined, free)?;
        Ok(Region { inode, content, inline })
    }

    /// Allocates space for an inode of `head` bytes (with its attributes and its chunks' addresses) and for the chunks.
    pub(super) fn place_chunks(&mut self, head: u64, content: u64) -> Result<Region, WriteError> {
        let content = self.take(content)?;
        let free = (BLOCK - self.open % BLOCK) % BLOCK;
        let inode = self.inode(head, free)?;
        Ok(Region { inode, content, inline: false })
    }

    /// Allocates space for the root: its inode is at the address that the superblock can name.
    pub(super) fn place_root(&mut self, head: u64, size: u64) -> Result<Region, WriteError> {
        let tail = size % BLOCK;
        let inline = tail > 0 && head + tail <= root_space();
        let content = self.take(size - if inline { tail } else { 0 })?;
        Ok(Region { inode: ROOT_AT, content, inline })
    }

    /// Allocates whole blocks for `bytes` at the end.
    pub(super) fn take(&mut self, bytes: u64) -> Result<u64, WriteError> {
        let at = self.end;
        let end = bytes
            .checked_next_multiple_of(BLOCK)
            .and_then(|bytes| at.checked_add(bytes))
            .filter(|end| end / BLOCK < u64::from(u32::MAX))
            .ok_or(WriteError::TooLarge)?;
        self.end = end;
        Ok(at)
    }

    /// Allocates `bytes` for an inode and what follows it: in the open block if they fit, else in new blocks,
    /// the last of which becomes the open one.
    fn inode(&mut self, bytes: u64, free: u64) -> Result<u64, WriteError> {
        let at = if bytes <= free { self.open } else { self.take(bytes)? };
        self.open = (at + bytes).next_multiple_of(SLOT);
        Ok(at)
    }
}

/// Bytes that the root's inode, its attributes and its inline content can have.
pub(super) fn root_space() -> u64 {
    BLOCK - ROOT_AT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_does_not_close_the_open_block() {
        let mut space = Allocator::new();
        let first = space.place(64, 100).unwrap();
        assert_eq!(first, Region { inode: BLOCK, content: BLOCK, inline: true });
        let second = space.place(64, 2 * BLOCK).unwrap();
        assert_eq!(second, Region { inode: BLOCK + 192, content: 2 * BLOCK, inline: false });
        let third = space.place(64, BLOCK + 1).unwrap();
        assert_eq!(third, Region { inode: BLOCK + 256, content: 4 * BLOCK, inline: true });
    }

    #[test]
    fn a_long_tail_opens_a_block_only_when_that_wastes_less() {
        let mut space = Allocator::new();
        space.place(64, 2000).unwrap();
        let padded = space.place(64, 2500).unwrap();
        assert_eq!(padded, Region { inode: BLOCK + 2080, content: 2 * BLOCK, inline: false });
        let inline = space.place(64, 2100).unwrap();
        assert_eq!(inline, Region { inode: 3 * BLOCK, content: 3 * BLOCK, inline: true });
    }

    #[test]
    fn attributes_longer_than_a_block_stay_in_one_piece() {
        let mut space = Allocator::new();
        space.place(64, 0).unwrap();
        let large = space.place(9000, 50).unwrap();
        assert_eq!(large, Region { inode: 2 * BLOCK, content: 2 * BLOCK, inline: true });
        assert_eq!(space.place(64, 0).unwrap().inode, 2 * BLOCK + 9056);
        assert_eq!(space.end(), 5 * BLOCK);
    }

    #[test]
    fn a_full_open_block_is_not_used() {
        let mut space = Allocator::new();
        space.place(64, BLOCK - 64).unwrap();
        assert_eq!(space.place(64, 0).unwrap().inode, 2 * BLOCK);
    }

    #[test]
    fn addresses_end_at_32_bits_of_blocks() {
        let mut space = Allocator::new();
        assert!(matches!(space.place(64, u64::MAX), Err(WriteError::TooLarge)));
        assert!(matches!(space.place(64, BLOCK << 32), Err(WriteError::TooLarge)));
        assert!(space.place(64, BLOCK << 31).is_ok());
    }
}
