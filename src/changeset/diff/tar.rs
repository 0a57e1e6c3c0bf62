//! Writes the entries of a tar: ustar headers, and pax records before them for values that do not fit.
//!
//! Deliberately absent: the prefix field of a ustar header. Tools split names into prefix and name differently, so a
//! tar of the same names would have other bytes.

use std::os::unix::fs::FileExt as _;

use tar::Header;

use super::{PackError, metadata::EntryMetadata, tar_sink::TarSink};
use crate::{
    changeset::{
        Limits,
        error::EntryName,
        header::BLOCK,
        path::{OPAQUE, fits},
        pax::DATA,
    },
    erofs::{Special, Time, XATTR_VALUE},
    overlay_xattr,
};

/// The largest number in a field of 12 bytes (11 octal digits and a NUL), and in one of 8 bytes.
const LONG_MOST: u64 = (8 << 30) - 1;
const SHORT_MOST: u32 = (1 << 21) - 1;
/// Bytes of the name field of a header.
const NAME_MOST: usize = 100;
/// The most bytes of pax records before a header that readers accept.
const RECORDS_MOST: usize = 1 << 20;
/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'e> {
    File,
    Dir,
    Symlink(&'e [u8]),
    /// Another name of the file at this path.
    Link(&'e [u8]),
    /// A named pipe or a device.
    Special(Special),
    /// A character device 0:0.
    Whiteout,
}

impl Kind<'_> {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::Link(_) => b'1',
            Self::Symlink(_) => b'2',
            Self::Whiteout | Self::Special(Special::CharDevice(..)) => b'3',
            Self::Special(Special::BlockDevice(..)) => b'4',
            Self::Dir => b'5',
            Self::Special(Special::Fifo | Special::Socket) => b'6',
        }
    }

    /// Major and minor number of a device.
    fn device(self) -> Option<(u32, u32)> {
        match self {
            Self::Whiteout => Some((0, 0)),
            Self::Special(
                Special::CharDevice(major, minor) | Special::BlockDevice(major, minor),
            ) => Some((major, minor)),
            _ => None,
        }
    }
}

/// How the holes of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holes {
    /// As zeros, with a map that readers may ignore.
    Zeros,
    /// Left out, with a map in the content (GNU's pax format 1.0).
    Sparse,
}

/// A tar that is being written.
#[derive(Debug)]
pub(super) struct Tar<'s> {
    sink: &'s mut TarSink,
    entries: u64,
    /// Entries that become names of an image: all but the root and the whiteouts that make directories opaque.
    names: u64,
    /// Headers of every kind.
    headers: u64,
}

/// Pax records, in the order in which they are added.
#[derive(Debug, Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // A space, an equals sign, a newline, and the length's own digits, whose number depends on the length.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + digits(len) {
            len = rest + digits(len);
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

impl<'s> Tar<'s> {
    pub(super) fn new(sink: &'s mut TarSink) -> Self {
        Self { sink, entries: 0, names: 0, headers: 0 }
    }

    /// The limits of a reader of the layer.
    pub(super) fn limits(&self) -> &Limits {
        self.sink.limits()
    }

    /// Writes an entry without content. The root's path is empty.
    pub(super) fn entry(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        metadata: &EntryMetadata,
        xattrs: &[(&str, &[u8])],
    ) -> Result<(), PackError> {
        self.head(path, path, kind, 0, metadata, &Records::default(), xattrs)
    }

    /// Writes a file. `data` are the parts of `content` that are not holes, as offsets and lengths.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        metadata: &EntryMetadata,
        holes: Holes,
        xattrs: &[(&str, &[u8])],
        content: &std::fs::File,
        data: &[(u64, u64)],
    ) -> Result<(), PackError> {
        let mut records = Records::default();
        let (size, limit) = (metadata.size, self.sink.limits().tar_bytes);
        if size > limit {
            return Err(PackError::FileBytes { path: EntryName::new(path), bytes: size, limit });
        }
        let stored: u64 = data.iter().map(|(_, len)| len).sum();
        let has_holes = stored < size;
        if !has_holes || holes == Holes::Zeros {
            if has_holes {
                records.add(DATA, list(data, ",").as_bytes());
            }
            self.head(path, path, Kind::File, size, metadata, &records, xattrs)?;
            let mut at = 0;
            for (start, len) in data {
                self.sink.zeros(start - at)?;
                self.content(path, content, *start, *len)?;
                at = start + len;
            }
            self.sink.zeros(size - at)?;
            return self.pad(size);
        }
        for (key, value) in [("major", b"1".as_slice()), ("minor", b"0"), ("name", path)] {
            records.add(format!("GNU.sparse.{key}").as_bytes(), value);
        }
        records.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
        // The map: the number of pieces, then offset and length of each, one number a line, padded to whole blocks.
        // From an empty piece at the end GNU tar recognizes a hole there.
        let mut pieces = data.to_vec();
        if data.last().is_none_or(|(start, len)| start + len < size) {
            pieces.push((size, 0));
        }
        let mut map = format!("{}\n{}\n", pieces.len(), list(&pieces, "\n")).into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let stored = map.len() as u64 + stored;
        self.head(path, b"GNUSparseFile.0", Kind::File, stored, metadata, &records, xattrs)?;
        self.sink.write(&map)?;
        for (start, len) in data {
            self.content(path, content, *start, *len)?;
        }
        self.pad(stored)
    }

    /// Ends the tar; returns the number of its entries.
    pub(super) fn finish(self) -> Result<u64, PackError> {
        self.sink.zeros(2 * BLOCK as u64)?;
        Ok(self.entries)
    }

    /// Writes a header and the pax records before it. `path` is the entry's path, `shown` the one that the header has.
    #[expect(clippy::too_many_arguments, reason = "a header has that many parts")]
    fn head(
        &mut self,
        path: &[u8],
        shown: &[u8],
        kind: Kind<'_>,
        size: u64,
        metadata: &EntryMetadata,
        more: &Records,
        xattrs: &[(&str, &[u8])],
    ) -> Result<(), PackError> {
        if !fits(path, self.limits().depth) {
            return Err(PackError::Deep(EntryName::new(path)));
        }
        self.names += u64::from(!path.is_empty() && !path.ends_with(OPAQUE));
        let limit = self.limits().entries;
        if self.names > limit {
            return Err(PackError::Entries(limit));
        }
        let name = match (shown, kind) {
            (b"", _) => b"./".to_vec(),
            (_, Kind::Dir) => [shown, b"/"].concat(),
            _ => shown.to_vec(),
        };
        let link = match kind {
            Kind::Symlink(target) | Kind::Link(target) => target,
            _ => b"",
        };
        let mut header = Header::new_ustar();
        let mut records = Records::default();
        let fields = header.as_old_mut();
        fields.linkflag = [kind.flag()];
        put(&mut fields.name, &name, b"path", &mut records);
        put(&mut fields.linkname, link, b"linkpath", &mut records);
        number(size, LONG_MOST, "size", &mut records, |size| header.set_size(size));
        let short = u64::from(SHORT_MOST);
        number(metadata.uid.into(), short, "uid", &mut records, |uid| header.set_uid(uid));
        number(metadata.gid.into(), short, "gid", &mut records, |gid| header.set_gid(gid));
        let whole = u64::try_from(metadata.mtime.seconds).ok().filter(|whole| *whole <= LONG_MOST);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || metadata.mtime.nanos > 0 {
            records.add(b"mtime", text(metadata.mtime).as_bytes());
        }
        header.set_mode(metadata.mode);
        if let Some((major, minor)) = kind.device() {
            // Linux has 12 and 20 bits for them, and the fields have 21.
            for (field, number) in [(329..337, major), (337..345, minor)] {
                let digits = format!("{number:07o}\0");
                header.as_mut_bytes()[field].copy_from_slice(digits.as_bytes());
            }
        }
        records.0.extend_from_slice(&more.0);
        let own = metadata.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let xattrs = xattrs.iter().map(|(name, value)| (name.as_bytes(), *value));
        self.attributes(path, own.chain(xattrs), &mut records)?;
        self.records(path, &records)?;
        self.entries += 1;
        self.header(&mut header)
    }

    /// Adds extended attributes, if they are within the limits of a reader.
    fn attributes<'a>(
        &self,
        path: &[u8],
        all: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        records: &mut Records,
    ) -> Result<(), PackError> {
        let (mut bytes, mut count, Limits { xattr_bytes, root_xattrs, .. }) = (0, 0, self.limits());
        for (name, value) in all {
            bytes += (name.len() + value.len()) as u64;
            count += u64::from(!overlay_xattr::is_overlays(name));
            let of = || (EntryName::new(path), EntryName::new(name));
            if name.contains(&b'=') {
                let (path, name) = of();
                return Err(PackError::Xattr { path, name });
            }
            if value.len() as u64 > XATTR_VALUE {
                let ((path, name), bytes) = (of(), value.len() as u64);
                return Err(PackError::Value { path, name, bytes, limit: XATTR_VALUE });
            }
            records.add(&[b"SCHILY.xattr.", name].concat(), value);
        }
        if bytes > *xattr_bytes {
            let (path, limit) = (EntryName::new(path), *xattr_bytes);
            return Err(PackError::Attributes { path, bytes, limit });
        }
        if path.is_empty() && count > *root_xattrs {
            return Err(PackError::RootXattrs { found: count, limit: *root_xattrs });
        }
        Ok(())
    }

    fn header(&mut self, header: &mut Header) -> Result<(), PackError> {
        self.headers += 1;
        let limits = self.sink.limits();
        if self.headers > limits.headers() {
            return Err(PackError::Entries(limits.entries));
        }
        header.set_cksum();
        self.sink.write(header.as_bytes())
    }

    fn records(&mut self, path: &[u8], Records(records): &Records) -> Result<(), PackError> {
        if records.is_empty() {
            return Ok(());
        }
        if records.len() > RECORDS_MOST {
            let (bytes, limit) = (records.len() as u64, RECORDS_MOST as u64);
            return Err(PackError::Attributes { path: EntryName::new(path), bytes, limit });
        }
        let mut header = Header::new_ustar();
        header.as_old_mut().linkflag = [b'x'];
        header.as_old_mut().name[..15].copy_from_slice(b"PaxHeaders.0/of");
        header.set_size(records.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.header(&mut header)?;
        self.sink.write(records)?;
        self.pad(records.len() as u64)
    }

    /// Reads a part of a file directly into the buffer of the tar.
    fn content(
        &mut self,
        path: &[u8],
        content: &std::fs::File,
        mut at: u64,
        mut len: u64,
    ) -> Result<(), PackError> {
        while len > 0 {
            let spare = self.sink.spare()?;
            let most = spare.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let read = match content.read_at(&mut spare[..most], at) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            let read = read.map_err(PackError::reading(path))?;
            self.sink.filled(read);
            (at, len) = (at + read as u64, len - read as u64);
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<(), PackError> {
        self.sink.zeros(size.next_multiple_of(BLOCK as u64) - size)
    }
}

fn list(data: &[(u64, u64)], between: &str) -> String {
    let pairs = data.iter().map(|(start, len)| format!("{start}{between}{len}"));
    pairs.collect::<Vec<_>>().join(between)
}

/// Puts a text into a field if it fits. Otherwise the field gets its first bytes, and a record the whole text.
fn put(field: &mut [u8; NAME_MOST], text: &[u8], key: &[u8], records: &mut Records) {
    let len = text.len().min(NAME_MOST);
    field[..len].copy_from_slice(&text[..len]);
    if text.len() > NAME_MOST {
        records.add(key, text);
    }
}

/// Puts a number into a field if it fits. Otherwise the field gets 0, and a record the number.
fn number(value: u64, most: u64, key: &str, records: &mut Records, put: impl FnOnce(u64)) {
    if value > most {
        records.add(key.as_bytes(), value.to_string().as_bytes());
    }
    put(if value > most { 0 } else { value });
}

/// A time as a decimal number. Before 1970 the number is negative, with its fraction.
fn text(time: Time) -> String {
    let Time { seconds, nanos } = time;
    let (sign, whole, nanos) = match (seconds < 0, nanos) {
        (false, nanos) => ("", seconds.unsigned_abs(), nanos),
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, nanos) => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanos),
    };
    let text = format!("{sign}{whole}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_includes_its_own_digits() {
        for (value, expected) in
            [(1, "9 size=0\n"), (2, "11 size=00\n"), (91, "101 size="), (90, "99 size=")]
        {
            let mut records = Records::default();
            records.add(b"size", "0".repeat(value).as_bytes());
            let text = String::from_utf8(records.0).unwrap();
            assert!(text.starts_with(expected), "{text}");
            let len: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(len, text.len());
        }
    }

    #[test]
    fn times_are_decimal_numbers() {
        for (seconds, nanos, expected) in [
            (0, 0, "0"),
            (100, 0, "100"),
            (1_700_000_000, 120_000_000, "1700000000.12"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 750_000_000, "-0.25"),
            (i64::MIN, 0, "-9223372036854775808"),
        ] {
            assert_eq!(text(Time { seconds, nanos }), expected);
        }
    }
}
