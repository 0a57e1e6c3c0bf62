//! Writes inodes and returns their addresses.
//!
//! Deliberately absent: `fsync`. The store decides when a layer has to be durable, once for each layer.

use std::{
    fs,
    io::{self, Seek, Write},
};

use super::allocator::{Allocator, Region};
use super::chunks::Chunks;
use super::error::WriteError;
use super::format::{BLOCK, INODE_LEN, InodeFields, Kind, Layout, SLOT, Special};
use super::image::{Image, Nid};
use super::inode::{Extent, Inode, Meta};
use super::inode_body::Body;
use super::write_buffer::WriteBuffer;
use super::xattr::Xattrs;

/// Where an image is written: a new file. An implementation may count what is written.
pub trait Output: Write + Seek {
    /// The file. What was written can be read from it at once.
    fn file(&self) -> &fs::File;
}

impl Output for &fs::File {
    fn file(&self) -> &fs::File {
        self
    }
}

impl<O: Output + ?Sized> Output for &mut O {
    fn file(&self) -> &fs::File {
        (**self).file()
    }
}

/// Writes one image, in one pass.
#[derive(Debug)]
pub struct Writer<W> {
    pub(super) window: WriteBuffer<W>,
    pub(super) space: Allocator,
    pub(super) inodes: u64,
    pub(super) has_chunks: bool,
}

impl<W: Write + Seek> Writer<W> {
    /// A writer into `out`, which must be empty; the image starts at its first byte.
    pub fn new(out: W) -> Self {
        Self {
            window: WriteBuffer::new(out),
            space: Allocator::new(),
            inodes: 0,
            has_chunks: false,
        }
    }

    /// Starts a regular file of `size` bytes.
    pub fn file(&mut self, meta: &Meta, size: u64) -> Result<File<'_, W>, WriteError> {
        let head_len = head_len(&meta.xattrs);
        let place = self.space.place(head_len, size)?;
        let head = self.fields(Kind::File, meta, place, size).encode(&meta.xattrs.inline());
        Ok(File {
            window: &mut self.window,
            inode: Inode { nid: place.inode / SLOT, kind: Kind::File },
            body: Body::flat(place, head_len, size),
            head,
        })
    }

    /// Starts a regular file of `size` bytes that are zeros except in `extents`. The extents are sorted, do not overlap
    /// and end within the file. The content is then written without the holes.
    ///
    /// A hole takes no space where it covers whole chunks. A file without such a hole is written like any other.
    pub fn sparse_file(
        &mut self,
        meta: &Meta,
        size: u64,
        extents: &[Extent],
    ) -> Result<File<'_, W>, WriteError> {
        let head_len = head_len(&meta.xattrs);
        let chunks = Chunks::new(size, extents);
        let (place, head, body) = if chunks.has_holes() {
            let place = self.space.place_chunks(head_len + chunks.index_len(), chunks.content())?;
            let mut fields = self.fields(Kind::File, meta, place, size);
            fields.layout = Layout::Chunks(chunks.bits());
            fields.union = chunks.format();
            let mut head = fields.encode(&meta.xattrs.inline());
            chunks.append_index(place.content, &mut head);
            self.has_chunks = true;
            (place, head, chunks.body(place.inode, place.content, extents))
        } else {
            let place = self.space.place(head_len, size)?;
            let head = self.fields(Kind::File, meta, place, size).encode(&meta.xattrs.inline());
            (place, head, Body::flat(place, head_len, size).only(extents))
        };
        let inode = Inode { nid: place.inode / SLOT, kind: Kind::File };
        Ok(File { window: &mut self.window, inode, body, head })
    }

    /// Writes a symbolic link to `target`, which must be 1 to 4,095 bytes long.
    pub fn symlink(&mut self, meta: &Meta, target: &[u8]) -> Result<Inode, WriteError> {
        let (head_len, size) = (head_len(&meta.xattrs), target.len() as u64);
        let place = self.space.place(head_len, size)?;
        let head = self.fields(Kind::Symlink, meta, place, size).encode(&meta.xattrs.inline());
        let mut body = Body::flat(place, head_len, size);
        body.write(&mut self.window, target)?;
        body.finish(&mut self.window, &head)?;
        Ok(Inode { nid: place.inode / SLOT, kind: Kind::Symlink })
    }

    /// Writes an inode without content.
    pub fn special(&mut self, meta: &Meta, special: Special) -> Result<Inode, WriteError> {
        let kind = special.kind();
        let place = self.space.place(head_len(&meta.xattrs), 0)?;
        let mut fields = self.fields(kind, meta, place, 0);
        fields.union = special.device();
        self.window.write_at(place.inode, &fields.encode(&meta.xattrs.inline()))?;
        Ok(Inode { nid: place.inode / SLOT, kind })
    }

    /// The fields of the next inode: one link, and content at `place`.
    pub(super) fn fields(
        &mut self,
        kind: Kind,
        meta: &Meta,
        place: Region,
        size: u64,
    ) -> InodeFields {
        self.inodes += 1;
        InodeFields {
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            size,
            nlink: 1,
            union: (place.content / BLOCK) as u32,
            layout: if place.inline { Layout::Inline } else { Layout::Plain },
            serial: self.inodes as u32,
        }
    }
}

impl<W: Output> Writer<W> {
    /// Reads back the target of a symbolic link that was written.
    pub fn target(&mut self, symlink: Inode) -> io::Result<Vec<u8>> {
        self.window.flush_from(symlink.nid * SLOT)?;
        let image = Image::unfinished(self.window.out().file(), self.space.end());
        image.target(&image.inode(Nid(symlink.nid))?)
    }
}

/// Bytes of an inode with its attributes.
pub(super) fn head_len(xattrs: &Xattrs) -> u64 {
    (INODE_LEN + xattrs.encoded_len()) as u64
}

/// A regular file that is being written. If it is dropped before [`File::finish`], its inode stays without a name.
#[derive(Debug)]
pub struct File<'w, W> {
    window: &'w mut WriteBuffer<W>,
    inode: Inode,
    body: Body,
    head: Vec<u8>,
}

impl<W: Write + Seek> File<'_, W> {
    /// Writes the next piece of the content.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.body.write(self.window, bytes)
    }

    /// Completes the file. Fails if content is missing.
    pub fn finish(self) -> Result<Inode, WriteError> {
        self.body.finish(self.window, &self.head)?;
        Ok(self.inode)
    }
}
