//! Compares the content of two files.
//!
//! Deliberately absent: digests. The first byte that differs ends a comparison.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use crate::sys::tree_reader::{self, Entry};

/// Bytes that are read at once, of each file.
const PIECE: usize = 64 << 10;

/// The buffers for the pieces of two files.
pub(super) struct ContentReader([Vec<u8>; 2]);

impl Default for ContentReader {
    fn default() -> Self {
        Self([vec![0; PIECE], vec![0; PIECE]])
    }
}

impl ContentReader {
    /// Bytes of memory.
    pub(super) const BYTES: u64 = 2 * PIECE as u64;

    /// Whether two files of one size have the same bytes. What is a hole in both is not read. Once `stop` returns true,
    /// it ends with any result.
    pub(super) fn is_same(
        &mut self,
        one: &Entry,
        other: &Entry,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        let (one, other) = (one.open()?, other.open()?);
        let ranges = [tree_reader::data_ranges(&one)?, tree_reader::data_ranges(&other)?].concat();
        for (mut at, end) in union(ranges) {
            while at < end {
                if stop() {
                    return Ok(false);
                }
                let len = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let [first, second] = &mut self.0;
                let (a, b) = (
                    read_up_to(&one, &mut first[..len], at)?,
                    read_up_to(&other, &mut second[..len], at)?,
                );
                if first[..a] != second[..b] {
                    return Ok(false);
                }
                if a == 0 {
                    // Both were truncated meanwhile.
                    break;
                }
                at += a as u64;
            }
        }
        Ok(true)
    }
}

/// Reads until the buffer is full or the file ends. Returns the number of bytes.
fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], at + len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// The union of ranges of offset and length, as ranges of start and end, sorted and apart.
fn union(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut union: Vec<(u64, u64)> = Vec::new();
    for (start, len) in ranges {
        let end = start.saturating_add(len);
        match union.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => union.push((start, end)),
        }
    }
    union
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{
        mounts::{LinuxMounts, Mounts as _},
        test_dir::TestDir,
    };

    #[test]
    fn ranges_are_merged() {
        assert_eq!(union(vec![]), []);
        let ranges = vec![(10, 5), (0, 3), (12, 10), (3, 1), (30, 0), (40, u64::MAX)];
        assert_eq!(union(ranges), [(0, 4), (10, 22), (30, 30), (40, u64::MAX)]);
    }

    #[test]
    fn files_are_compared_with_their_holes() {
        let scratch = TestDir::new();
        let length = (3 * PIECE) as u64;
        let file = |name: &str, at: u64, text: &[u8]| {
            let file = File::create_new(scratch.path().join(name)).unwrap();
            file.set_len(length).unwrap();
            file.write_all_at(text, at).unwrap();
        };
        file("hole", 0, b"");
        file("zeros", 0, &vec![0; length as usize]);
        file("early", 0, b"x");
        file("late", length - 1, b"x");
        file("again", length - 1, b"x");
        let tree = LinuxMounts.open_dir(scratch.path()).unwrap();
        let root = Entry::root(&tree).unwrap();
        let entry = |name: &str| root.entry(name.as_bytes()).unwrap().unwrap();
        let mut reader = ContentReader::default();
        for (one, other, same) in [
            ("hole", "zeros", true),
            ("hole", "early", false),
            ("zeros", "late", false),
            ("early", "late", false),
            ("late", "again", true),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let found = reader.is_same(&entry(one), &entry(other), &|| false).unwrap();
                assert_eq!(found, same, "{one} {other}");
            }
        }
        assert!(!reader.is_same(&entry("late"), &entry("again"), &|| true).unwrap());
    }
}
