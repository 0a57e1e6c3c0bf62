//! Measures the resident memory of the unpacking of hostile layers, in a process of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::{self, Read};

use ovl::changeset::{
    Exceeded, LayersBelow, Limits, LookupBelow, UnpackError, layer_to_erofs_with_layers_below,
};
use tar::Header;

/// The memory limit of the test. Small, because it takes time to reach it.
const MEMORY: u64 = 4 << 20;
/// Memory of the caches for names that are in files.
const CACHES: u64 = 20 << 20;
/// Names of each layer: many times more than fit in the memory limit.
const ENTRIES: u64 = 120_000;
/// Other memory: buffers, the stacks of three threads, and the memory that the allocator keeps for each of them.
const OVERHEAD: u64 = 8 << 20;

/// A tar whose entries are generated during the read.
struct GeneratedTar<I>(I, io::Cursor<Vec<u8>>);

impl<I: Iterator<Item = Vec<u8>>> Read for GeneratedTar<I> {
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
    link_entry(kind, path, "")
}

fn link_entry(kind: u8, path: &str, target: &str) -> Vec<u8> {
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
    let blob = GeneratedTar(entries, io::Cursor::default());
    let limits = Limits { memory: MEMORY, entries: ENTRIES, ..Limits::default() };
    layer_to_erofs_with_layers_below(blob, [7; 16], &image, &limits, &NoLayersBelow).map(drop)
}

/// Layers below without any file.
struct NoLayersBelow;

impl LayersBelow for NoLayersBelow {
    fn find(&self, _: &[u8], _: usize) -> io::Result<LookupBelow> {
        Ok(LookupBelow::Nothing)
    }
}

/// The peak of resident memory, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// A unique name. The order of the names is unfavourable for a sorted map.
fn name(i: u32) -> String {
    format!("{:08x}", i.reverse_bits())
}

/// Makes the entry with a number.
type MakeEntry<'m> = &'m (dyn Fn(u32) -> Vec<u8> + Sync);

/// A single test, because resident memory is that of the whole process.
#[test]
fn a_hostile_layer_uses_no_more_memory_than_its_limit() {
    let before = peak();
    let deep = "/a".repeat(120);
    let hostile: [(&str, MakeEntry<'_>); 6] = [
        ("directories that a path implies", &|i| entry(b'0', &(name(i) + &deep))),
        ("opaque directories", &|i| entry(b'0', &(name(i) + "/a/.wh..wh..opq"))),
        ("whiteouts in directories of their own", &|i| entry(b'0', &(name(i) + "/.wh.a"))),
        ("directories that take each other's place", &|i| {
            entry(if i % 2 == 0 { b'5' } else { b'0' }, &(name(i / 2) + "/a"))
        }),
        ("hard links to many files", &|i| match i % 2 {
            0 => entry(b'0', &name(i)),
            _ => link_entry(b'1', &name(i), &name(i - 1)),
        }),
        ("names of 99 bytes", &|i| entry(b'0', &(name(i) + &"n".repeat(91)))),
    ];
    for (what, make) in hostile {
        let error = unpack((0..).map(make)).unwrap_err();
        assert!(
            matches!(&error, UnpackError::Limit { what: Exceeded::Entries(ENTRIES), .. }),
            "{what}: {error}"
        );
        let used = peak() - before;
        assert!(used < MEMORY + CACHES + OVERHEAD, "{what}: {used} bytes were used");
    }
}
