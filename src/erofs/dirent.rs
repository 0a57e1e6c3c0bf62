//! Packs the entries of a directory into blocks.
//!
//! A block is an array of fixed-size entries followed by their names. The first entry's name offset implies the number
//! of entries. Names are sorted over the whole directory, because the kernel finds a name by bisection: first the
//! block, then the entry.
//!
//! Deliberately absent: hashes and indexes, which the format does not have.

use super::format::{BLOCK_LEN, DIRENT_LEN};
use super::tree::Entry;

/// The length of a directory's content: whole blocks, and the used part of the last one.
#[derive(Debug, Default)]
pub(super) struct Size {
    full: u64,
    used: usize,
}

impl Size {
    /// Counts the next entry.
    pub(super) fn add(&mut self, name: &[u8]) {
        let len = DIRENT_LEN + name.len();
        if self.used + len > BLOCK_LEN {
            self.full += BLOCK_LEN as u64;
            self.used = 0;
        }
        self.used += len;
    }

    /// Bytes of all counted entries.
    pub(super) fn bytes(&self) -> u64 {
        self.full + self.used as u64
    }
}

/// Encodes a directory's content block by block.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The entries of the current block: nid, type and length of the name.
    group: Vec<(u64, u8, usize)>,
    /// The names of these entries.
    names: Vec<u8>,
    block: Vec<u8>,
}

impl Blocks {
    /// Adds the next entry. If it does not fit into the current block, the block goes to `emit` first.
    pub(super) fn add<E>(
        &mut self,
        entry: Entry<'_>,
        emit: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let used = self.group.len() * DIRENT_LEN + self.names.len();
        if used + DIRENT_LEN + entry.name.len() > BLOCK_LEN {
            self.encode();
            self.block.resize(BLOCK_LEN, 0);
            emit(&self.block)?;
        }
        self.group.push((entry.nid, entry.kind.dirent(), entry.name.len()));
        self.names.extend_from_slice(entry.name);
        Ok(())
    }

    /// Passes the last block to `emit`; it ends where its names end.
    pub(super) fn finish<E>(mut self, emit: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.encode();
        emit(&self.block)
    }

    fn encode(&mut self) {
        self.block.clear();
        let mut name_at = self.group.len() * DIRENT_LEN;
        for (nid, kind, len) in self.group.drain(..) {
            self.block.extend_from_slice(&nid.to_le_bytes());
            self.block.extend_from_slice(&(name_at as u16).to_le_bytes());
            self.block.extend_from_slice(&[kind, 0]);
            name_at += len;
        }
        self.block.append(&mut self.names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erofs::format::Kind;

    fn packed(names: &[Vec<u8>]) -> Vec<u8> {
        let (mut bytes, mut size, mut blocks) = (Vec::new(), Size::default(), Blocks::default());
        let mut emit = |block: &[u8]| {
            bytes.extend_from_slice(block);
            Ok::<_, ()>(())
        };
        for name in names {
            size.add(name);
            blocks.add(Entry { name, nid: 1, kind: Kind::File }, &mut emit).unwrap();
        }
        blocks.finish(&mut emit).unwrap();
        assert_eq!(bytes.len() as u64, size.bytes());
        bytes
    }

    #[test]
    fn a_block_is_filled_to_its_last_byte() {
        // 15 entries of 12 + 255 bytes leave 91 bytes, exactly enough for the last entry.
        let mut names = vec![vec![b'a'; 255]; 15];
        names.push(vec![b'b'; 79]);
        assert_eq!(packed(&names).len(), BLOCK_LEN);
        names[15].push(b'b');
        assert_eq!(packed(&names).len(), BLOCK_LEN + 12 + 80);
    }

    #[test]
    fn names_follow_their_entries() {
        let bytes = packed(&[b".".to_vec(), b"..".to_vec()]);
        assert_eq!(bytes, b"\x01\0\0\0\0\0\0\0\x18\0\x01\0\x01\0\0\0\0\0\0\0\x19\0\x01\0...");
    }
}
