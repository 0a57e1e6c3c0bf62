//! Layers are listed: every kind of entry, both formats, and content that has one digest however it travels.

use super::*;
use crate::changeset::{
    Refusal,
    testing::{Tar, gzip, zstd},
};

fn listed(tar: &[u8], format: Format) -> Vec<Listed> {
    let mut all = Vec::new();
    let found = list(tar, format, &Limits::default(), |one| all.push(one));
    assert_eq!(found.unwrap(), Digest::of(tar));
    all
}

/// What is said of each path.
fn said(tar: &[u8], format: Format) -> Vec<(String, What)> {
    let all = listed(tar, format).into_iter();
    all.map(|one| (String::from_utf8(one.path).unwrap(), one.what)).collect()
}

fn content(bytes: &[u8]) -> What {
    let content = Some(Digest::of(bytes));
    What::File { size: bytes.len() as u64, content, from: None }
}

#[test]
fn every_kind_of_entry_is_said_where_it_counts() {
    let tar = Tar::new()
        .folder("./a/")
        .file("a/f", b"text")
        .symlink("a/s", "../f")
        .link("a/l", "a/f")
        .plain(b'6', "p")
        .plain(b'0', "a/.wh.gone")
        .plain(b'0', "b/.wh..wh..opq")
        .plain(b'0', ".wh..wh.plnk")
        .device(b'3', "w", 0, 0)
        .end();
    let folder = What::Folder { opaque: false, from: None };
    let want = [
        ("a", folder),
        ("a/f", content(b"text")),
        ("a/s", What::Symlink(b"../f".to_vec())),
        ("a/l", What::Link(b"a/f".to_vec())),
        ("p", What::Special(Special::Fifo)),
        ("a/gone", What::Gone),
        ("b", What::Emptied),
        ("w", What::Gone),
    ];
    assert_eq!(said(&tar, Format::Portable), want.map(|(path, what)| (path.to_owned(), what)));
    let first = &listed(&tar, Format::Portable)[1];
    assert_eq!((first.mode, first.uid, first.gid), (0o644, 1000, 100));
}

#[test]
fn marks_count_in_native_layers_alone() {
    const OVERLAY: &str = "SCHILY.xattr.trusted.overlay.";
    let mark = |name: &str| format!("{OVERLAY}{name}");
    let tar = Tar::new()
        .pax(&[(&mark("opaque"), b"y"), (&mark("redirect"), b"/x/y")])
        .folder("a/d")
        .pax(&[(&mark("metacopy"), b""), (&mark("redirect"), b"old")])
        .file("a/f", b"")
        .pax(&[(&mark("redirect"), b"old")])
        .file("a/g", b"")
        .file(".wh.h", b"")
        .end();
    let native = [
        ("a/d", What::Folder { opaque: true, from: Some(b"x/y".to_vec()) }),
        ("a/f", What::File { size: 0, content: None, from: Some(b"a/old".to_vec()) }),
        ("a/g", content(b"")),
        (".wh.h", content(b"")),
    ];
    assert_eq!(said(&tar, Format::Native), native.map(|(path, what)| (path.to_owned(), what)));
    let portable = [
        ("a/d", What::Folder { opaque: false, from: None }),
        ("a/f", content(b"")),
        ("a/g", content(b"")),
        ("h", What::Gone),
    ];
    assert_eq!(said(&tar, Format::Portable), portable.map(|(path, what)| (path.to_owned(), what)));
}

#[test]
fn holes_are_zeros() {
    let mut bytes = vec![0; 200_000];
    bytes[4096..4099].copy_from_slice(b"abc");
    bytes[150_000..150_002].copy_from_slice(b"de");
    let whole = Tar::new().file("f", &bytes).end();
    let map = [(4096, 3), (150_000, 2), (200_000, 0)];
    let sparse = Tar::new().old_sparse("f", 200_000, &map, b"abcde").end();
    for tar in [whole, sparse] {
        assert_eq!(said(&tar, Format::Portable), [("f".to_owned(), content(&bytes))]);
    }
    let empty = Tar::new().old_sparse("f", 70_000, &[(70_000, 0)], b"").end();
    assert_eq!(said(&empty, Format::Portable)[0].1, content(&vec![0; 70_000]));
}

#[test]
fn packed_and_wrong_layers_are_read_as_by_everybody_else() {
    let tar = Tar::new().file("f", b"text").end();
    for blob in [gzip(&tar), zstd(&tar)] {
        let mut count = 0;
        let limits = Limits::default();
        let found = list(&blob[..], Format::Portable, &limits, |_| count += 1);
        assert_eq!((found.unwrap(), count), (Digest::of(&tar), 1));
    }
    let bad = Tar::new().file("../f", b"").end();
    let found = list(&bad[..], Format::Portable, &Limits::default(), |_| ());
    assert!(matches!(found, Err(UnpackError::Entry { why: Refusal::Name(_), .. })), "{found:?}");
}
