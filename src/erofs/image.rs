//! Reads an image that [`Writer`](super::Writer) wrote, without a kernel: to unpack it into a directory, and to check
//! it.
//!
//! Each address is checked against the file's length, so an image that a broken disk damaged ends in an error and never
//! in a wild read. Memory is bounded. Deliberately absent: compressed images and everything else that the writer never
//! makes.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{
    Meta, Special, Time, Xattrs,
    format::{BLOCK, INODE_LEN, ROOT_AT, SLOT, SUPER_AT},
    xattr,
};

/// Bytes of one piece of content.
const PIECE: u64 = 1 << 20;

/// The addresses of chunks that are read at once.
const INDEX_PIECE: usize = 4096;

/// The most bytes of a symlink's target, which bounds memory.
const TARGET_MOST: u64 = BLOCK;

/// An open image.
#[derive(Debug)]
pub struct Image<'f> {
    file: &'f File,
    len: u64,
    xattr_area: u64,
    root: Nid,
    uuid: [u8; 16],
}

/// The number of an inode. Names with equal numbers are one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub(super) u64);

impl Nid {
    /// The number: the inode's address divided by 32.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// An inode as it is in the image.
#[derive(Debug, Clone)]
pub struct InodeInfo {
    /// The inode's number.
    pub nid: Nid,
    /// Owner, mode, time and extended attributes.
    pub meta: Meta,
    /// The link count.
    pub links: u32,
    /// The type, and what belongs to it.
    pub kind: InodeKind,
    body: Body,
}

/// The type of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InodeKind {
    /// A regular file of this size in bytes, holes included.
    File(u64),
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or socket.
    Special(Special),
}

/// Where an inode's content lies.
#[derive(Debug, Clone, Copy)]
struct Body {
    size: u64,
    layout: Layout,
    /// The address of the content's first block. Unused if all content is inline.
    data: u64,
    /// The address directly after the inode and its attributes.
    after_inode: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Whole blocks.
    Plain,
    /// Whole blocks, and the rest after the inode.
    Inline,
    /// An array of chunk addresses after the inode; a chunk has `1 << bits` bytes.
    Chunks { bits: u32 },
}

/// The error for an image that a kernel would not mount, or would misread.
fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the EROFS image is broken: {}", why.into()))
}

impl<'f> Image<'f> {
    /// Opens the image in `file`.
    ///
    /// # Errors
    /// `InvalidData` for a file that no [`Writer`](super::Writer) wrote or that is damaged, and the errors of reading
    /// it.
    pub fn open(file: &'f File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, 0).map_err(|_| broken("it has no superblock"))?;
        let superblock = &block[SUPER_AT as usize..];
        if !super::format::is_sealed(superblock) {
            return Err(broken("its superblock has a wrong magic or checksum"));
        }
        let blocks = u64::from(u32_at(superblock, 36));
        if blocks * BLOCK != len {
            return Err(broken(format!(
                "it has {len} bytes, but its superblock says {}",
                blocks * BLOCK
            )));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&superblock[48..64]);
        let xattr_area = u64::from(u32_at(superblock, 44)) * BLOCK;
        Ok(Self { file, len, xattr_area, root: Nid(ROOT_AT / SLOT), uuid })
    }

    /// The image that is still being written into `file`, of which `len` bytes are allocated.
    pub(super) fn unfinished(file: &'f File, len: u64) -> Self {
        Self { file, len, xattr_area: 0, root: Nid(ROOT_AT / SLOT), uuid: [0; 16] }
    }

    /// The UUID in the superblock.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        self.root
    }

    /// Reads an inode.
    pub fn inode(&self, nid: Nid) -> io::Result<InodeInfo> {
        let at = nid.0.checked_mul(SLOT).ok_or_else(|| broken("an inode's number is too large"))?;
        let raw = self.bytes(at, INODE_LEN as u64)?;
        let (format, xattr_count) = (u16_at(&raw, 0), u64::from(u16_at(&raw, 2)));
        let xattr_len = if xattr_count == 0 { 0 } else { 12 + 4 * (xattr_count - 1) };
        let mode = u16_at(&raw, 4);
        let (size, union) = (u64_at(&raw, 8), u32_at(&raw, 16));
        let layout = match format {
            1 => Layout::Plain,
            5 => Layout::Inline,
            9 => Layout::Chunks { bits: 12 + (union & 0x1f) },
            other => return Err(broken(format!("an inode has the layout {other}"))),
        };
        let kind = match mode & 0o170_000 {
            0o100_000 => InodeKind::File(size),
            0o040_000 => InodeKind::Dir,
            0o120_000 => InodeKind::Symlink,
            0o010_000 => InodeKind::Special(Special::Fifo),
            0o140_000 => InodeKind::Special(Special::Socket),
            0o020_000 => InodeKind::Special(Special::CharDevice(major(union), minor(union))),
            0o060_000 => InodeKind::Special(Special::BlockDevice(major(union), minor(union))),
            other => return Err(broken(format!("an inode has the type {other:o}"))),
        };
        let after_inode = at + INODE_LEN as u64 + xattr_len;
        let body = Body { size, layout, data: u64::from(union) * BLOCK, after_inode };
        let meta = Meta {
            mode: mode & 0o7777,
            uid: u32_at(&raw, 24),
            gid: u32_at(&raw, 28),
            mtime: Time { seconds: u64_at(&raw, 32).cast_signed(), nanos: u32_at(&raw, 40) },
            xattrs: self.xattrs(at + INODE_LEN as u64, xattr_len)?,
        };
        Ok(InodeInfo { nid, meta, links: u32_at(&raw, 44), kind, body })
    }

    /// Calls `each` with a directory's names in order, without `.` and `..`. One block of them is in memory.
    pub fn dir(
        &self,
        dir: &InodeInfo,
        mut each: impl FnMut(&[u8], Nid) -> io::Result<()>,
    ) -> io::Result<()> {
        let Body { size, layout, data, after_inode } = dir.body;
        let whole = match layout {
            Layout::Plain => size,
            Layout::Inline => size - size % BLOCK,
            Layout::Chunks { .. } => return Err(broken("a directory has holes")),
        };
        let mut at = 0;
        while at < size {
            let len = BLOCK.min(size - at);
            let from = if at < whole { data + at } else { after_inode };
            names(&self.bytes(from, len)?, &mut each)?;
            at += len;
        }
        Ok(())
    }

    /// Reads a symlink's target.
    pub fn target(&self, symlink: &InodeInfo) -> io::Result<Vec<u8>> {
        self.whole(symlink)
    }

    /// Calls `take` with each piece of a file's content and its position in the file. Holes are left out.
    pub fn content(
        &self,
        file: &InodeInfo,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Body { size, layout, data, after_inode } = file.body;
        match layout {
            Layout::Plain => self.run(0, data, size, &mut take),
            Layout::Inline => {
                let tail = size % BLOCK;
                self.run(0, data, size - tail, &mut take)?;
                self.run(size - tail, after_inode, tail, &mut take)
            }
            Layout::Chunks { bits } => {
                let (chunk, index) = (1_u64 << bits, after_inode.next_multiple_of(4));
                let count = size.div_ceil(chunk);
                if index + 4 * count > self.len {
                    return Err(broken("a file has more chunks than addresses"));
                }
                for first in (0..count).step_by(INDEX_PIECE) {
                    let addresses = (count - first).min(INDEX_PIECE as u64);
                    let addresses = self.bytes(index + 4 * first, 4 * addresses)?;
                    for (n, address) in (first..).zip(addresses.chunks_exact(4)) {
                        let (from, address) = (n * chunk, u32_at(address, 0));
                        if address != u32::MAX {
                            let len = chunk.min(size - from);
                            self.run(from, u64::from(address) * BLOCK, len, &mut take)?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Calls `take` with the `len` bytes at address `at`, which are at position `from` of the file.
    fn run(
        &self,
        from: u64,
        at: u64,
        len: u64,
        take: &mut impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let piece = self.bytes(at + done, PIECE.min(len - done))?;
            take(from + done, &piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads all content of a symlink.
    fn whole(&self, found: &InodeInfo) -> io::Result<Vec<u8>> {
        if found.body.size > TARGET_MOST {
            return Err(broken("a symlink's target is too long"));
        }
        let mut whole = Vec::new();
        self.content(found, |_, piece| {
            whole.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(whole)
    }

    fn xattrs(&self, at: u64, len: u64) -> io::Result<Xattrs> {
        if len == 0 {
            return Ok(Xattrs::default());
        }
        let raw = self.bytes(at, len)?;
        let mut xattrs = Xattrs::default();
        let inline = 12 + 4 * usize::from(raw[4]);
        if inline > raw.len() {
            return Err(broken("an inode's attributes are truncated"));
        }
        for pointer in raw[12..inline].chunks_exact(4) {
            let entry = self.xattr_area + 4 * u64::from(u32_at(pointer, 0));
            let head = self.bytes(entry, 4)?;
            let entry = self.bytes(entry, xattr::decoded_len(&head) as u64)?;
            xattr::decode(&entry, &mut xattrs).map_err(|e| broken(e.to_string()))?;
        }
        let mut rest = &raw[inline..];
        while rest.len() >= 4 {
            let entry = rest
                .get(..xattr::decoded_len(rest))
                .ok_or_else(|| broken("an attribute is truncated"))?;
            xattr::decode(entry, &mut xattrs).map_err(|e| broken(e.to_string()))?;
            rest = &rest[entry.len().next_multiple_of(4).min(rest.len())..];
        }
        Ok(xattrs)
    }

    fn bytes(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(broken("an address is after its end"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| broken("a piece is too large"))?];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

/// Calls `each` with the names in one block of a directory.
fn names(block: &[u8], each: &mut impl FnMut(&[u8], Nid) -> io::Result<()>) -> io::Result<()> {
    let first = block.get(8..10).map_or(0, |b| usize::from(u16_at(b, 0)));
    let count = first / 12;
    if count == 0 || count * 12 > block.len() {
        return Err(broken("a directory's block is empty"));
    }
    let name_at = |i: usize| usize::from(u16_at(block, 12 * i + 8));
    for i in 0..count {
        let end = if i + 1 < count { name_at(i + 1) } else { block.len() };
        let name = block.get(name_at(i)..end).ok_or_else(|| broken("a name is truncated"))?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        match name {
            b"." | b".." => {}
            b"" => return Err(broken("a name is empty")),
            name if name.contains(&b'/') => return Err(broken("a name has a slash")),
            name => each(name, Nid(u64_at(block, 12 * i)))?,
        }
    }
    Ok(())
}

fn major(device: u32) -> u32 {
    (device >> 8) & 0xfff
}

fn minor(device: u32) -> u32 {
    (device & 0xff) | ((device >> 12) & !0xff)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
