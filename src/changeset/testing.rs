//! Tars for the tests, made header by header, so that they can be wrong in every way.

use std::io::{Read as _, Seek, SeekFrom, Write};

use tar::Header;

use super::{Compression, Limits, UnpackError, Unpacked, layer_to_erofs};
use crate::erofs::reader::{Read, read};

/// A tar under way.
#[derive(Clone, Default)]
pub(super) struct Tar(pub Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A ustar header of a type, with a name of at most 100 bytes, whatever they are.
    pub(super) fn header(kind: u8, name: &[u8], size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkflag = [kind];
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_700_000_000);
        header
    }

    /// Appends an entry as it is, but for its checksum.
    pub(super) fn push(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.push(Self::header(b'0', name.as_bytes(), content.len() as u64), content)
    }

    /// An entry without content.
    pub(super) fn plain(self, kind: u8, name: &str) -> Self {
        self.push(Self::header(kind, name.as_bytes(), 0), b"")
    }

    pub(super) fn folder(self, name: &str) -> Self {
        self.plain(b'5', name)
    }

    /// A link of a type to `target`, as it is.
    pub(super) fn linking(self, kind: u8, name: &str, target: &str) -> Self {
        let mut header = Self::header(kind, name.as_bytes(), 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.push(header, b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.linking(b'2', name, target)
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.linking(b'1', name, target)
    }

    pub(super) fn device(self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, name.as_bytes(), 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.push(header, b"")
    }

    /// An extended header of a type.
    pub(super) fn extended(self, kind: u8, data: &[u8]) -> Self {
        self.push(Self::header(kind, b"extended", data.len() as u64), data)
    }

    /// A pax header for the entry that follows.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            record(key, value, &mut data);
        }
        self.extended(b'x', &data)
    }

    /// The tar with its end.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A pax record, whose length counts its own digits.
fn record(key: &str, value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let len = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
    out.extend_from_slice(format!("{len} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Unpacks a plain tar and reads the image back.
pub(super) fn unpack(tar: &[u8]) -> Result<(Unpacked, Read), UnpackError> {
    unpack_with(tar, Compression::None, &Limits::default())
}

pub(super) fn unpack_with(
    blob: impl std::io::Read,
    compression: Compression,
    limits: &Limits,
) -> Result<(Unpacked, Read), UnpackError> {
    let mut image = tempfile::tempfile().unwrap();
    let unpacked = layer_to_erofs(blob, compression, [7; 16], &image, limits)?;
    let mut bytes = Vec::new();
    image.seek(SeekFrom::Start(0)).unwrap();
    image.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, unpacked.image_bytes);
    Ok((unpacked, read(&bytes)))
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
