//! Where things go in an image: arithmetic on addresses, no bytes.
//!
//! Content takes whole blocks at the end. Inodes gather in one open metadata block, whose address was taken
//! when it was opened; content written since then lies behind it and wastes none of its room.
//!
//! Deliberately absent: giving room back. An entry replaced by a later one leaves its blocks unused.

use super::format::{BLOCK, ROOT_AT, SLOT};
use super::writer::WriteError;

/// Where one inode and its content go, in bytes from the image's begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The inode.
    pub inode: u64,
    /// The content's first block, if it has any of its own.
    pub content: u64,
    /// The last partial block of the content lies right behind the inode and its attributes.
    pub inline: bool,
}

/// What is taken so far.
#[derive(Debug)]
pub(super) struct Space {
    /// The first byte not taken; a multiple of a block.
    end: u64,
    /// The next free byte of the open metadata block.
    open: u64,
}

impl Space {
    /// An image whose first block is taken, and no other.
    pub(super) fn new() -> Self {
        Self { end: BLOCK, open: BLOCK }
    }

    /// Bytes taken.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Room for an inode of `head` bytes (with its attributes) and `size` bytes of content.
    ///
    /// The last partial block goes behind the inode where both fit into one block; if that means to open a new
    /// metadata block, then only when the room given up in the old one is less than the padding saved.
    pub(super) fn place(&mut self, head: u64, size: u64) -> Result<Place, WriteError> {
        let tail = size % BLOCK;
        let free = (BLOCK - self.open % BLOCK) % BLOCK;
        let inline = tail > 0
            && if head > BLOCK {
                tail <= head.next_multiple_of(BLOCK) - head
            } else {
                head + tail <= free || (head + tail <= BLOCK && free < BLOCK - tail)
            };
        let behind = if inline { tail } else { 0 };
        let content = self.take(size - behind)?;
        let inode = self.inode(head + behind, free)?;
        Ok(Place { inode, content, inline })
    }

    /// Room for an inode of `head` bytes (with its attributes and its chunks' addresses) and the chunks.
    pub(super) fn place_chunks(&mut self, head: u64, content: u64) -> Result<Place, WriteError> {
        let content = self.take(content)?;
        let free = (BLOCK - self.open % BLOCK) % BLOCK;
        let inode = self.inode(head, free)?;
        Ok(Place { inode, content, inline: false })
    }

    /// The root's place: its inode is where the superblock can name it.
    pub(super) fn place_root(&mut self, head: u64, size: u64) -> Result<Place, WriteError> {
        let tail = size % BLOCK;
        let inline = tail > 0 && head + tail <= root_room();
        let content = self.take(size - if inline { tail } else { 0 })?;
        Ok(Place { inode: ROOT_AT, content, inline })
    }

    /// Takes whole blocks for `bytes` at the end.
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

    /// Takes `bytes` for an inode and what lies behind it: in the open block if they fit, else in new blocks,
    /// the last of which becomes the open one.
    fn inode(&mut self, bytes: u64, free: u64) -> Result<u64, WriteError> {
        let at = if bytes <= free { self.open } else { self.take(bytes)? };
        self.open = (at + bytes).next_multiple_of(SLOT);
        Ok(at)
    }
}

/// Room for the root's inode and what lies behind it.
pub(super) fn root_room() -> u64 {
    BLOCK - ROOT_AT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_does_not_close_the_open_block() {
        let mut space = Space::new();
        let first = space.place(64, 100).unwrap();
        assert_eq!(first, Place { inode: BLOCK, content: BLOCK, inline: true });
        let second = space.place(64, 2 * BLOCK).unwrap();
        assert_eq!(second, Place { inode: BLOCK + 192, content: 2 * BLOCK, inline: false });
        let third = space.place(64, BLOCK + 1).unwrap();
        assert_eq!(third, Place { inode: BLOCK + 256, content: 4 * BLOCK, inline: true });
    }

    #[test]
    fn a_long_tail_opens_a_block_only_when_that_wastes_less() {
        let mut space = Space::new();
        space.place(64, 2000).unwrap();
        let padded = space.place(64, 2500).unwrap();
        assert_eq!(padded, Place { inode: BLOCK + 2080, content: 2 * BLOCK, inline: false });
        let inline = space.place(64, 2100).unwrap();
        assert_eq!(inline, Place { inode: 3 * BLOCK, content: 3 * BLOCK, inline: true });
    }

    #[test]
    fn attributes_longer_than_a_block_stay_in_one_piece() {
        let mut space = Space::new();
        space.place(64, 0).unwrap();
        let large = space.place(9000, 50).unwrap();
        assert_eq!(large, Place { inode: 2 * BLOCK, content: 2 * BLOCK, inline: true });
        assert_eq!(space.place(64, 0).unwrap().inode, 2 * BLOCK + 9056);
        assert_eq!(space.end(), 5 * BLOCK);
    }

    #[test]
    fn a_full_open_block_is_no_room() {
        let mut space = Space::new();
        space.place(64, BLOCK - 64).unwrap();
        assert_eq!(space.place(64, 0).unwrap().inode, 2 * BLOCK);
    }

    #[test]
    fn stops_at_32_bits_of_blocks() {
        let mut space = Space::new();
        assert!(matches!(space.place(64, u64::MAX), Err(WriteError::TooLarge)));
        assert!(matches!(space.place(64, BLOCK << 32), Err(WriteError::TooLarge)));
        assert!(space.place(64, BLOCK << 31).is_ok());
    }
}
