//! Extended headers: pax records (POSIX) and GNU long names, for what does not fit into a tar header.
//!
//! Keys that change nothing in an image (access times, user names, comments) are ignored. Of repeated keys the
//! last one counts, and of repeated headers the last header, as in Go's archive/tar and GNU tar.
//!
//! Deliberately absent: pax defaults for the whole archive. containerd, with Go's reader, ignores a global header, and
//! so does this module. But a global header that would move or rename the entries after it for other readers is
//! refused.

use super::pax_value::{PaxError, decimal, number, numbers, text};
use super::sparse::SparseRecords;
use crate::erofs::Time;

/// The record with the map of a file with holes, whose content follows complete.
pub(super) const DATA: &[u8] = b"OVL.data";

/// The extended headers of one entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub long_name: Option<Vec<u8>>,
    pub long_link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<SparseRecords>,
    /// Where a file that follows complete has data: offsets and lengths in turn.
    pub data: Option<Vec<u64>>,
    /// Whether a pax header has been read.
    has_pax: bool,
}

impl Extended {
    /// Reads a pax header, which replaces an earlier one. An empty value means "as in the header" (POSIX pax).
    pub(super) fn pax(&mut self, data: &[u8]) -> Result<(), PaxError> {
        let (long_name, long_link) = (self.long_name.take(), self.long_link.take());
        *self = Self { long_name, long_link, has_pax: true, ..Self::default() };
        each(data, |key, value| {
            match key {
                b"path" => self.path = text(value),
                b"linkpath" => self.link = text(value),
                b"size" => self.size = number(value, "size")?,
                b"uid" => self.uid = number(value, "owner")?,
                b"gid" => self.gid = number(value, "group")?,
                b"mtime" => self.mtime = time(value)?,
                DATA => self.data = Some(numbers(value)?),
                key => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        self.sparse.get_or_insert_default().take(key, value)?;
                    } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
            Ok(())
        })
    }

    /// Reads the content of a GNU long name (type `L`).
    pub(super) fn long_name(&mut self, data: Vec<u8>) {
        self.long_name = Some(before_nul(data));
    }

    /// Reads the content of a GNU long link target (type `K`).
    pub(super) fn long_link(&mut self, data: Vec<u8>) {
        self.long_link = Some(before_nul(data));
    }

    /// Bytes of all extended attributes, names and values.
    pub(super) fn xattr_bytes(&self) -> u64 {
        self.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
    }

    /// Whether no extended header has been read.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Checks that a global header has no key by which some readers would find other names or other content.
pub(super) fn check_global(data: &[u8]) -> Result<(), PaxError> {
    each(data, |key, _| {
        let moves = [&b"path"[..], b"linkpath", b"size", DATA].contains(&key)
            || key.starts_with(b"GNU.sparse.");
        if moves {
            return Err(PaxError::Global(String::from_utf8_lossy(key).into_owned()));
        }
        Ok(())
    })
}

/// Calls `take` with each record's key and value. A value is bytes and can have newlines.
fn each(
    mut data: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), PaxError>,
) -> Result<(), PaxError> {
    while !data.is_empty() {
        let space = data.iter().take(8).position(|b| *b == b' ').ok_or(PaxError::Record)?;
        let len = decimal(&data[..space]).ok_or(PaxError::Record)? as usize;
        let record = data.get(space + 1..len).ok_or(PaxError::Record)?;
        let record = record.strip_suffix(b"\n").ok_or(PaxError::Record)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or(PaxError::Record)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() {
            return Err(PaxError::Record);
        }
        take(key, value)?;
        data = &data[len..];
    }
    Ok(())
}

/// A time such as `-1.5`: digits, and a fraction, of which nine digits are kept.
fn time(value: &[u8]) -> Result<Option<Time>, PaxError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse_time(value).map(Some).ok_or(PaxError::Value("time"))
}

fn parse_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut halves = value.splitn(2, |b| *b == b'.');
    let whole = i128::from(decimal(halves.next()?)?);
    let fraction = halves.next().unwrap_or(b"0");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos =
        (0..9).fold(0, |sum, i| sum * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    let (seconds, nanos) = match (negative, nanos) {
        (false, nanos) => (whole, nanos),
        (true, 0) => (-whole, nanos),
        (true, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    };
    Some(Time { seconds: i64::try_from(seconds).ok()?, nanos })
}

/// A text up to its first NUL. GNU tar ends its long names with a NUL, other writers do not. Both Go's and GNU tar's
/// readers stop at the NUL.
fn before_nul(mut data: Vec<u8>) -> Vec<u8> {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    data.truncate(end);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &[u8]) -> Result<Extended, PaxError> {
        let mut extended = Extended::default();
        extended.pax(data).map(|()| extended)
    }

    #[test]
    fn a_value_can_have_any_bytes() {
        let extended =
            read(b"12 path=a=b\n27 SCHILY.xattr.user.x=\n=\0\n11 uid=123\n6 a=b\n").unwrap();
        assert_eq!(extended.path.unwrap(), b"a=b");
        assert_eq!(extended.xattrs, [(b"user.x".to_vec(), b"\n=\0".to_vec())]);
        assert_eq!(extended.uid, Some(123));
        assert_eq!(read(b"8 path=\n").unwrap().path, None);
    }

    #[test]
    fn incomplete_records_are_refused() {
        for data in [
            b"12 path=ab\n".as_slice(),
            b"10 path=ab\n",
            b"11 path=ab\n\0",
            b"11 path=abc",
            b"x path=ab\n",
            b"+11 path=ab\n",
            b" 11 path=ab\n",
            b"0 a=b\n",
            b"2 a",
            b"5 =b\n",
            b"4 ab\n",
            b"999999999999999999999 a=b\n",
            b"11",
        ] {
            assert_eq!(read(data), Err(PaxError::Record), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn values_are_checked_and_the_last_one_of_a_key_counts() {
        assert_eq!(read(b"9 size=1\n9 size=2\n").unwrap().size, Some(2));
        assert_eq!(read(b"9 size=1\n8 size=\n").unwrap().size, None);
        let mut twice = read(b"9 size=1\n10 path=a\n").unwrap();
        twice.long_name(b"long\0junk".to_vec());
        twice.pax(b"9 size=2\n").unwrap();
        assert_eq!(
            (twice.size, twice.path),
            (Some(2), None),
            "the second header replaces the first"
        );
        assert_eq!(twice.long_name.unwrap(), b"long");
        assert_eq!(read(b"11 size=-1\n"), Err(PaxError::Value("size")));
        assert_eq!(read(b"13 size=0x10\n"), Err(PaxError::Value("size")));
        assert_eq!(read(b"29 size=18446744073709551616\n"), Err(PaxError::Value("size")));
        assert_eq!(check_global(b"15 comment=abc\n"), Ok(()));
        assert_eq!(check_global(b"11 mtime=1\n10 uid=99\n20 SCHILY.xattr.a=b\n"), Ok(()));
        for (key, global) in [("size", &b"9 size=1\n"[..]), ("path", b"10 path=a\n")] {
            assert_eq!(check_global(global), Err(PaxError::Global(key.into())));
        }
    }

    #[test]
    fn times_can_have_a_fraction_and_a_sign() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("1.1234567899", 1, 123_456_789),
            ("1.", 1, 0),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
            ("9223372036854775807.5", i64::MAX, 500_000_000),
            ("-9223372036854775808", i64::MIN, 0),
            ("-9223372036854775807.5", i64::MIN, 500_000_000),
        ] {
            assert_eq!(parse_time(text.as_bytes()), Some(Time { seconds, nanos }), "{text}");
        }
        for text in [
            ".5",
            "-",
            "1.5e3",
            "1.-5",
            "--1",
            "9223372036854775808",
            "-9223372036854775808.5",
            " 1",
        ] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }
}
