//! Tars for the tests, made header by header, so that a test can make any part of them invalid.

use std::io::{Read as _, Seek, SeekFrom, Write};

use tar::Header;

use super::{
    LayersBelow, Limits, LookupBelow, UnpackError, Unpacked, layer_to_erofs,
    layer_to_erofs_with_layers_below,
};
use crate::erofs::test_reader::{Read, read};

/// A tar that is being made.
#[derive(Clone, Default)]
pub(super) struct Tar(pub Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A ustar header of a type, with a name of any bytes, at most 100.
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

    /// Appends an entry unchanged, except for its checksum.
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

    pub(super) fn dir(self, name: &str) -> Self {
        self.plain(b'5', name)
    }

    /// A link of a type to `target`, unchanged.
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

    /// An old GNU header of a sparse file with the pieces of its map, and `content` after it.
    pub(super) fn old_sparse(
        self,
        name: &str,
        size: u64,
        map: &[(u64, u64)],
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkflag = [b'S'];
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let octal = |number: u64, field: &mut [u8]| {
            field[..12].copy_from_slice(format!("{number:011o}\0").as_bytes());
        };
        let piece = |(offset, len): (u64, u64), field: &mut [u8]| {
            octal(offset, field);
            octal(len, &mut field[12..]);
        };
        octal(size, &mut header.as_mut_bytes()[483..]);
        let (own, more) = map.split_at(map.len().min(4));
        for (i, part) in own.iter().enumerate() {
            piece(*part, &mut header.as_mut_bytes()[386 + 24 * i..]);
        }
        header.as_mut_bytes()[482] = u8::from(!more.is_empty());
        let mut blocks = Vec::new();
        for (i, parts) in more.chunks(21).enumerate() {
            let mut block = [0; 512];
            parts.iter().enumerate().for_each(|(i, part)| piece(*part, &mut block[24 * i..]));
            block[504] = u8::from((i + 1) * 21 < more.len());
            blocks.extend_from_slice(&block);
        }
        let content = [&blocks, content].concat();
        self.push(header, &content)
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

    /// The tar with its end marker.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A pax record; its length includes its own digits.
fn record(key: &str, value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let len = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
    out.extend_from_slice(format!("{len} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Unpacks a plain tar and reads the image back.
pub(super) fn unpack(tar: &[u8]) -> Result<(Unpacked, Read), UnpackError> {
    unpack_with(tar, &Limits::default())
}

pub(super) fn unpack_with(
    blob: impl std::io::Read + Send,
    limits: &Limits,
) -> Result<(Unpacked, Read), UnpackError> {
    unpack_onto(blob, &Nothing, limits)
}

/// Unpacks a plain tar without the layers below.
pub(super) fn unpack_alone(tar: &[u8]) -> Result<(Unpacked, Read), UnpackError> {
    let image = tempfile::tempfile().unwrap();
    let unpacked = layer_to_erofs(tar, [7; 16], &image, &Limits::default())?;
    Ok((unpacked, read_back(image, &unpacked)))
}

/// The layers below the lowest layer.
pub(super) struct Nothing;

impl LayersBelow for Nothing {
    fn find(&self, _: &[u8], _: usize) -> std::io::Result<LookupBelow> {
        Ok(LookupBelow::Nothing)
    }
}

/// Unpacks a plain tar that may link to the layers below.
pub(super) fn unpack_onto(
    tar: impl std::io::Read + Send,
    below: &dyn LayersBelow,
    limits: &Limits,
) -> Result<(Unpacked, Read), UnpackError> {
    let image = tempfile::tempfile().unwrap();
    let unpacked = layer_to_erofs_with_layers_below(tar, [7; 16], &image, limits, below)?;
    Ok((unpacked, read_back(image, &unpacked)))
}

fn read_back(mut image: std::fs::File, unpacked: &Unpacked) -> Read {
    let mut bytes = Vec::new();
    image.seek(SeekFrom::Start(0)).unwrap();
    image.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, unpacked.image_bytes);
    read(&bytes)
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
