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
pub(super) fn size<'t>(entries: impl Iterator<Item = Entry<'t>>) -> u64 {
    let (mut full, mut used) = (0, 0);
    for entry in entries {
        let len = DIRENT_LEN + entry.name.len();
        if used + len > BLOCK_LEN {
            full += BLOCK_LEN as u64;
            used = 0;
        }
        used += len;
    }
    full + used as u64
}

/// Hands a folder's content to `emit` block by block; the last one ends where its names end.
pub(super) fn pack<'t, E>(
    entries: impl Iterator<Item = Entry<'t>>,
    mut emit: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut group, mut used, mut block) = (Vec::new(), 0, Vec::with_capacity(BLOCK_LEN));
    for entry in entries {
        let len = DIRENT_LEN + entry.name.len();
        if used + len > BLOCK_LEN {
            encode(&group, &mut block);
            block.resize(BLOCK_LEN, 0);
            emit(&block)?;
            group.clear();
            used = 0;
        }
        used += len;
        group.push(entry);
    }
    encode(&group, &mut block);
    emit(&block)
}

fn encode(group: &[Entry<'_>], block: &mut Vec<u8>) {
    block.clear();
    let mut name_at = group.len() * DIRENT_LEN;
    for entry in group {
        block.extend_from_slice(&entry.nid.to_le_bytes());
        block.extend_from_slice(&(name_at as u16).to_le_bytes());
        block.extend_from_slice(&[entry.kind.dirent(), 0]);
        name_at += entry.name.len();
    }
    for entry in group {
        block.extend_from_slice(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erofs::format::Kind;

    fn packed(names: &[Vec<u8>]) -> Vec<u8> {
        let entries = || names.iter().map(|name| Entry { name, nid: 1, kind: Kind::File });
        let mut bytes = Vec::new();
        pack(entries(), |block| {
            bytes.extend_from_slice(block);
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(bytes.len() as u64, size(entries()));
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
