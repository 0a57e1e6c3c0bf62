//! What a layer makes the process hold while it is unpacked: measured as resident memory, in a process of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::{self, Read};

use ovl::changeset::{
    Exceeded, Limits, ParentLayers, ParentLookup, UnpackError, layer_to_erofs_onto,
};
use tar::Header;

/// The bound of the test: small, because reaching it takes time.
const MEMORY: u64 = 4 << 20;
/// What stays in memory of names that are in files: their caches.
const CACHES: u64 = 20 << 20;
/// Names of each layer: many times what fits in the memory.
const ENTRIES: u64 = 120_000;
/// What passes through in pieces, beside what is held: buffers, the stacks of three threads, and what their allocator
/// keeps for each of them.
const PIECES: u64 = 8 << 20;

/// A tar whose entries are made as they are read.
struct Made<I>(I, io::Cursor<Vec<u8>>);

impl<I: Iterator<Item = Vec<u8>>> Read for Made<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.1.read(into)? {
                0 => match self.0.next() {
                    Some(entry) => self.1 = io::Cursor::new(entry),
                    None => return Ok(0),
                },
                len => return Ok(len),
            }
        }
    }
}

fn entry(kind: u8, path: &str) -> Vec<u8> {
    linking(kind, path, "")
}

fn linking(kind: u8, path: &str, target: &str) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_path(path).unwrap();
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.as_old_mut().linkflag = [kind];
    header.set_size(0);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn unpack(entries: impl Iterator<Item = Vec<u8>> + Send) -> Result<(), UnpackError> {
    let image = tempfile::tempfile().unwrap();
    let blob = Made(entries, io::Cursor::default());
    let limits = Limits { memory: MEMORY, entries: ENTRIES, ..Limits::default() };
    layer_to_erofs_onto(blob, [7; 16], &image, &limits, &Nothing).map(drop)
}

/// What lies below.
struct Nothing;

impl ParentLayers for Nothing {
    fn find(&self, _: &[u8], _: usize) -> io::Result<ParentLookup> {
        Ok(ParentLookup::Nothing)
    }
}

/// The most bytes that were resident at once.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// A name: every one its own, in an order that fills a sorted map badly.
fn name(i: u32) -> String {
    format!("{:08x}", i.reverse_bits())
}

/// Makes the entry of a number.
type Make<'m> = &'m (dyn Fn(u32) -> Vec<u8> + Sync);

/// One test, because resident memory is the whole process's.
#[test]
fn a_layer_holds_no_more_than_its_bound() {
    let before = peak();
    let deep = "/a".repeat(120);
    let hostile: [(&str, Make<'_>); 6] = [
        ("directories that a path implies", &|i| entry(b'0', &(name(i) + &deep))),
        ("opaque directories", &|i| entry(b'0', &(name(i) + "/a/.wh..wh..opq"))),
        ("whiteouts in directories of their own", &|i| entry(b'0', &(name(i) + "/.wh.a"))),
        ("directories that take each other's place", &|i| {
            entry(if i % 2 == 0 { b'5' } else { b'0' }, &(name(i / 2) + "/a"))
        }),
        ("hard links to many files", &|i| match i % 2 {
            0 => entry(b'0', &name(i)),
            _ => linking(b'1', &name(i), &name(i - 1)),
        }),
        ("names of 99 bytes", &|i| entry(b'0', &(name(i) + &"n".repeat(91)))),
    ];
    for (what, make) in hostile {
        let error = unpack((0..).map(make)).unwrap_err();
        assert!(
            matches!(&error, UnpackError::Limit { what: Exceeded::Entries(ENTRIES), .. }),
            "{what}: {error}"
        );
        let held = peak() - before;
        assert!(held < MEMORY + CACHES + PIECES, "{what}: {held} bytes were held");
    }
}
