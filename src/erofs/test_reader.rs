//! A reader for the tests. It has its own knowledge of the format, shares no constant with the writer, and checks
//! what the kernel takes for granted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What a reader sees under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub nlink: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A file's bytes.
    File(Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
    Device(u32),
    None,
}

/// A whole tree by path; the root is the empty path. Names with equal inode numbers are one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub names: BTreeMap<Vec<u8>, Found>,
    pub nids: BTreeMap<Vec<u8>, u64>,
    pub uuid: [u8; 16],
}

/// Reads an image and checks it: the checksum is right, no two things overlap, no inode and no tail crosses a
/// block, directories are sorted, and bisection finds every name.
pub(crate) fn read(image: &[u8]) -> Read {
    let sb = &image[1024..1152];
    assert_eq!(u32_at(sb, 0), 0xE0F5_E1E2, "magic");
    assert_eq!(u32_at(sb, 8), 3, "compatible features");
    assert!([0, 4].contains(&u32_at(sb, 80)), "incompatible features");
    assert_eq!(sb[12], 12, "block size");
    assert_eq!(u32_at(sb, 36) as usize * 4096, image.len(), "blocks");
    assert_eq!(u32_at(sb, 4), checksum(image), "checksum");
    let mut walk = Walk {
        image,
        xattr_area: u32_at(sb, 44) as usize * 4096,
        may_have_chunks: u32_at(sb, 80) == 4,
        taken: BTreeMap::from([(0, 1152)]),
        serials: BTreeMap::new(),
        read: Read { uuid: sb[48..64].try_into().unwrap(), ..Read::default() },
    };
    let root = u64::from(u16_at(sb, 14));
    walk.dir(Vec::new(), root, root);
    assert!(walk.serials.len() as u64 <= u64_at(sb, 16), "inode count");
    walk.read
}

struct Walk<'i> {
    image: &'i [u8],
    xattr_area: usize,
    may_have_chunks: bool,
    /// Start and end of everything read so far.
    taken: BTreeMap<usize, usize>,
    serials: BTreeMap<u32, u64>,
    read: Read,
}

impl<'i> Walk<'i> {
    fn dir(&mut self, path: Vec<u8>, nid: u64, parent: u64) {
        let (found, listing) = self.inode(nid);
        assert_eq!(found.content, Content::Dir, "{path:?}");
        let entries = entries(&listing);
        assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0), "unsorted: {path:?}");
        let mut below = 0;
        for (name, child, kind) in &entries {
            assert_eq!(search(&listing, name), Some(*child), "{name:?} is not found");
            match name.as_slice() {
                b"." => assert_eq!((*child, *kind), (nid, 2)),
                b".." => assert_eq!((*child, *kind), (parent, 2)),
                _ => {
                    let mut path = path.clone();
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                    below += u32::from(*kind == 2);
                    self.entry(path, *child, *kind, nid);
                }
            }
        }
        for missing in [b"\0".as_slice(), b"/", b"\xff\xff"] {
            assert_eq!(search(&listing, missing), None);
        }
        assert_eq!(found.nlink, below + 2, "links of {path:?}");
        self.read.nids.insert(path.clone(), nid);
        self.read.names.insert(path, found);
    }

    fn entry(&mut self, path: Vec<u8>, nid: u64, kind: u8, parent: u64) {
        if kind == 2 {
            return self.dir(path, nid, parent);
        }
        let (found, _) = self.inode(nid);
        let mode_kind = match found.mode & 0o170_000 {
            0o100_000 => 1,
            0o020_000 => 3,
            0o060_000 => 4,
            0o010_000 => 5,
            0o140_000 => 6,
            0o120_000 => 7,
            other => panic!("mode {other:o}"),
        };
        assert_eq!(mode_kind, kind, "{path:?}");
        self.read.nids.insert(path.clone(), nid);
        self.read.names.insert(path, found);
    }

    /// An inode's attributes and its content.
    fn inode(&mut self, nid: u64) -> (Found, Vec<u8>) {
        let at = nid as usize * 32;
        assert!(at % 4096 + 64 <= 4096, "inode {nid} crosses a block");
        let raw = &self.image[at..at + 64];
        let (format, count) = (u16_at(raw, 0), usize::from(u16_at(raw, 2)));
        assert!([1, 5, 9].contains(&format), "layout {format}");
        let xattr_len = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        let mode = u16_at(raw, 4);
        let size = u64_at(raw, 8) as usize;
        let head = 64 + xattr_len;
        let has_content = matches!(mode & 0o170_000, 0o100_000 | 0o040_000 | 0o120_000);
        let bytes = if format == 9 {
            self.chunks(at, head, size, u32_at(raw, 16))
        } else if has_content {
            self.content(at, head, size, u32_at(raw, 16) as usize * 4096, format == 5)
        } else {
            assert_eq!((size, format), (0, 1));
            self.take(at, head);
            Vec::new()
        };
        let known = self.serials.insert(u32_at(raw, 20), nid);
        assert!(known.is_none_or(|known| known == nid), "two inodes of one serial number");
        let found = Found {
            mode,
            uid: u32_at(raw, 24),
            gid: u32_at(raw, 28),
            mtime: (u64_at(raw, 32) as i64, u32_at(raw, 40)),
            nlink: u32_at(raw, 44),
            xattrs: self.xattrs(at + 64, xattr_len),
            content: match mode & 0o170_000 {
                0o100_000 => Content::File(bytes.clone()),
                0o040_000 => Content::Dir,
                0o120_000 => Content::Symlink(bytes.clone()),
                0o020_000 | 0o060_000 => Content::Device(u32_at(raw, 16)),
                _ => Content::None,
            },
        };
        (found, bytes)
    }

    fn content(&mut self, at: usize, head: usize, size: usize, data: usize, tail: bool) -> Vec<u8> {
        let tail_len = if tail { size % 4096 } else { 0 };
        assert!(!tail || tail_len > 0, "an empty tail");
        let tail_at = at + head;
        assert!(tail_len == 0 || tail_at % 4096 + tail_len <= 4096, "a tail crosses a block");
        self.take(at, head + tail_len);
        let own = size - tail_len;
        let mut bytes = Vec::with_capacity(size);
        if own > 0 {
            let padded = own.next_multiple_of(4096);
            self.take(data, padded);
            bytes.extend_from_slice(&self.image[data..data + own]);
            assert!(self.image[data + own..data + padded].iter().all(|b| *b == 0), "padding");
        }
        bytes.extend_from_slice(&self.image[tail_at..tail_at + tail_len]);
        bytes
    }

    /// The content of a file in chunks, whose addresses follow the inode.
    fn chunks(&mut self, at: usize, head: usize, size: usize, format: u32) -> Vec<u8> {
        assert!(self.may_have_chunks && format < 32, "chunks of {format}");
        let len = 4096_usize << format;
        self.take(at, head + 4 * size.div_ceil(len));
        let mut bytes = vec![0; size];
        for (i, chunk) in bytes.chunks_mut(len).enumerate() {
            let block = u32_at(self.image, at + head + 4 * i);
            if block != u32::MAX {
                let (from, padded) = (block as usize * 4096, chunk.len().next_multiple_of(4096));
                self.take(from, padded);
                chunk.copy_from_slice(&self.image[from..from + chunk.len()]);
                let padding = &self.image[from + chunk.len()..from + padded];
                assert!(padding.iter().all(|b| *b == 0), "padding");
            }
        }
        bytes
    }

    fn xattrs(&mut self, at: usize, len: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut found = BTreeMap::new();
        if len == 0 {
            return found;
        }
        let shared = usize::from(self.image[at + 4]);
        let mut inline = at + 12 + 4 * shared;
        for i in 0..shared {
            let entry = self.xattr_area + 4 * u32_at(self.image, at + 12 + 4 * i) as usize;
            let len = self.xattr(entry, &mut found);
            self.take(entry, len);
        }
        while inline < at + len {
            inline += self.xattr(inline, &mut found);
        }
        assert_eq!(inline, at + len, "attributes end where the inode says");
        found
    }

    fn xattr(&self, at: usize, found: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> usize {
        let prefix = match self.image[at + 1] {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("namespace {other}"),
        };
        let name_end = at + 4 + usize::from(self.image[at]);
        let end = name_end + usize::from(u16_at(self.image, at + 2));
        let name = [prefix.as_bytes(), &self.image[at + 4..name_end]].concat();
        assert!(found.insert(name, self.image[name_end..end].to_vec()).is_none(), "twice");
        (end - at).next_multiple_of(4)
    }

    /// Marks a range as used. The same range may be used again; any other overlap fails.
    fn take(&mut self, at: usize, len: usize) {
        let end = at + len;
        assert!(end <= self.image.len(), "after the end");
        if self.taken.get(&at) == Some(&end) {
            return;
        }
        let before = self.taken.range(..end).next_back();
        assert!(before.is_none_or(|(_, until)| *until <= at), "overlap at {at}");
        self.taken.insert(at, end);
    }
}

/// A directory's entries: name, nid, type.
fn entries(listing: &[u8]) -> Vec<(Vec<u8>, u64, u8)> {
    listing.chunks(4096).flat_map(block_entries).collect()
}

fn block_entries(block: &[u8]) -> Vec<(Vec<u8>, u64, u8)> {
    let count = usize::from(u16_at(block, 8)) / 12;
    assert!(count > 0, "an empty block");
    let name_at = |i: usize| usize::from(u16_at(block, 12 * i + 8));
    (0..count)
        .map(|i| {
            let name = if i + 1 < count {
                block[name_at(i)..name_at(i + 1)].to_vec()
            } else {
                block[name_at(i)..].split(|b| *b == 0).next().unwrap().to_vec()
            };
            assert!((1..=255).contains(&name.len()), "name length");
            (name, u64_at(block, 12 * i), block[12 * i + 10])
        })
        .collect()
}

/// Finds a name like the kernel: the last block whose first name is not greater, then the entry in it.
fn search(listing: &[u8], name: &[u8]) -> Option<u64> {
    let (mut low, mut high) = (0, listing.len().div_ceil(4096));
    let block = |i: usize| &listing[i * 4096..listing.len().min((i + 1) * 4096)];
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match block_entries(block(middle))[0].0.as_slice().cmp(name) {
            Ordering::Greater => high = middle,
            _ => low = middle,
        }
    }
    let entries = block_entries(block(low));
    entries.binary_search_by(|entry| entry.0.as_slice().cmp(name)).ok().map(|i| entries[i].1)
}

/// CRC-32C from a table, over the first block from byte 1024 on, with the checksum field as zeros.
fn checksum(image: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|i| (0..8).fold(i, |c, _| if c % 2 == 1 { 0x82f6_3b78 ^ (c >> 1) } else { c >> 1 }))
        .collect();
    let mut bytes = image[1024..4096].to_vec();
    bytes[4..8].fill(0);
    bytes.iter().fold(u32::MAX, |c, b| table[((c ^ u32::from(*b)) & 0xff) as usize] ^ (c >> 8))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
