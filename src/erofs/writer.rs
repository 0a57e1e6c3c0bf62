//! The writer: inodes in, addresses out.
//!
//! Deliberately absent: `fsync`. When a layer has to be durable is for the store to say, once per layer.

use std::{
    fs,
    io::{self, Seek, Write},
};

use super::body::Body;
use super::chunks::{Chunks, Extent};
use super::format::{BLOCK, INODE_LEN, InodeFields, Kind, Layout, SLOT, Special, Time};
use super::image::{Image, Nid};
use super::space::{Place, Space};
use super::window::Window;
use super::xattr::Xattrs;
use crate::fault::Class;

/// What every inode has, whatever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission, setuid, setgid and sticky bits; others are ignored.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The only time the format keeps; the kernel shows it as all of them.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// An inode that is in the image and waits for a name. Packed, because a tree holds one for every name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(Rust, packed(4))]
pub struct Inode {
    pub(super) nid: u64,
    pub(super) kind: Kind,
}

impl Inode {
    /// Whether it is a symbolic link.
    pub fn is_symlink(self) -> bool {
        self.kind == Kind::Symlink
    }
}

/// Where an image is written: a new file, perhaps with somebody who counts what is written.
pub trait Output: Write + Seek {
    /// The file. What was written can be read in it at once.
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

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output failed.
    #[error("the EROFS image could not be written: {0}")]
    Io(#[from] io::Error),
    /// Block addresses have 32 bits.
    #[error(
        "the EROFS image would pass 16 TiB, the most its block addresses reach; rebuild the image with this layer split"
    )]
    TooLarge,
    /// The superblock's way to the root leaves it less room for attributes than others have.
    #[error("the image's root has more than 255 extended attributes; rebuild the image with fewer")]
    RootXattrs,
    /// Content was shorter or longer than announced.
    #[error("a file announced as {expected} bytes has more or fewer")]
    Size {
        /// What was announced.
        expected: u64,
    },
}

impl WriteError {
    /// What the failure means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            // More room would not help against either.
            Self::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => Class::Precondition,
            Self::TooLarge | Self::RootXattrs => Class::Precondition,
            Self::Io(error) => Class::of_disk(error),
            Self::Size { .. } => Class::Internal,
        }
    }
}

/// Writes one image.
#[derive(Debug)]
pub struct Writer<W> {
    pub(super) window: Window<W>,
    pub(super) space: Space,
    pub(super) inodes: u64,
    pub(super) has_chunks: bool,
}

impl<W: Write + Seek> Writer<W> {
    /// A writer into `out`, which must be empty and is written from its begin.
    pub fn new(out: W) -> Self {
        Self { window: Window::new(out), space: Space::new(), inodes: 0, has_chunks: false }
    }

    /// Begins a regular file of `size` bytes.
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

    /// Begins a regular file of `size` bytes that are zero but for `extents`, which are sorted, do not overlap and
    /// end within it. Its content is then written as one text, without the holes.
    ///
    /// Holes take no room where whole chunks lie in them; a file without such is written like any other.
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

    /// Writes a symbolic link to `target`, which is neither empty nor longer than 4,095 bytes.
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

    /// The fields of the next inode, with one name and no device number.
    pub(super) fn fields(
        &mut self,
        kind: Kind,
        meta: &Meta,
        place: Place,
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
    /// The target of a symbolic link that was written.
    pub fn target(&mut self, symlink: Inode) -> io::Result<Vec<u8>> {
        self.window.settle(symlink.nid * SLOT)?;
        let image = Image::unfinished(self.window.out().file(), self.space.end());
        image.target(&image.inode(Nid(symlink.nid))?)
    }
}

/// Bytes of an inode with its attributes.
pub(super) fn head_len(xattrs: &Xattrs) -> u64 {
    (INODE_LEN + xattrs.encoded_len()) as u64
}

/// A regular file being written. Dropped before [`File::finish`], it leaves an inode nobody can name.
#[derive(Debug)]
pub struct File<'w, W> {
    window: &'w mut Window<W>,
    inode: Inode,
    body: Body,
    head: Vec<u8>,
}

impl<W: Write + Seek> File<'_, W> {
    /// Takes the next piece of the content.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.body.write(self.window, bytes)
    }

    /// Ends the file.
    pub fn finish(self) -> Result<Inode, WriteError> {
        self.body.finish(self.window, &self.head)?;
        Ok(self.inode)
    }
}
