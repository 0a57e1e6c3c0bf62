//! A folder's entries packed into blocks.
//!
//! A block is an array of fixed entries followed by their names; the first entry's name offset tells how many
//! there are. Names are sorted over the whole folder, because the kernel finds one by bisection: first the
//! block, then the entry.
//!
//! Deliberately absent: hashes and indexes; the format has none.

use super::format::{BLOCK_LEN, DIRENT_LEN};
use super::tree::Entry;

/// The bytes of a folder's content: whole blocks, and the last as far as it is used.
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

    /// Bytes of those that were counted.
    pub(super) fn bytes(&self) -> u64 {
        self.full + self.used as u64
    }
}

/// A folder's content, block by block.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The entries of the block that is filled: nid, type and bytes of the name.
    group: Vec<(u64, u8, usize)>,
    /// Their names.
    names: Vec<u8>,
    block: Vec<u8>,
}

impl Blocks {
    /// Takes the next entry; hands a block to `emit` if it is full without that.
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

    /// Hands the last block to `emit`; it ends where its names end.
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
    fn fills_a_block_to_its_last_byte() {
        // 15 entries of 12 + 255 bytes leave 91, which the last one takes exactly.
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
