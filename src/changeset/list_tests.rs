//! Layers are listed: every type of entry, both formats, and content with the same digest in every form.

use super::*;
use crate::changeset::{
    InvalidLayer,
    testing::{Tar, gzip, zstd},
};

fn listed(tar: &[u8], format: Format) -> Vec<Listed> {
    let mut all = Vec::new();
    let found = list(tar, format, &Limits::default(), |one| all.push(one));
    assert_eq!(found.unwrap(), DiffId::of(tar));
    all
}

/// What is listed for each path.
fn what(tar: &[u8], format: Format) -> Vec<(String, ListedKind)> {
    let all = listed(tar, format).into_iter();
    all.map(|one| (String::from_utf8(one.path).unwrap(), one.what)).collect()
}

fn content(bytes: &[u8]) -> ListedKind {
    let content = Some(Digest::of(bytes));
    ListedKind::File { size: bytes.len() as u64, content, from: None }
}

#[test]
fn every_type_of_entry_is_listed() {
    let tar = Tar::new()
        .dir("./a/")
        .file("a/f", b"text")
        .symlink("a/s", "../f")
        .link("a/l", "a/f")
        .plain(b'6', "p")
        .plain(b'0', "a/.wh.gone")
        .plain(b'0', "b/.wh..wh..opq")
        .plain(b'0', ".wh..wh.plnk")
        .device(b'3', "w", 0, 0)
        .end();
    let dir = ListedKind::Dir { opaque: false, from: None };
    let want = [
        ("a", dir),
        ("a/f", content(b"text")),
        ("a/s", ListedKind::Symlink(b"../f".to_vec())),
        ("a/l", ListedKind::Link(b"a/f".to_vec())),
        ("p", ListedKind::Special(Special::Fifo)),
        ("a/gone", ListedKind::Whiteout),
        ("b", ListedKind::OpaqueDir),
        ("w", ListedKind::Whiteout),
    ];
    assert_eq!(what(&tar, Format::Portable), want.map(|(path, what)| (path.to_owned(), what)));
    let first = &listed(&tar, Format::Portable)[1];
    assert_eq!((first.mode, first.uid, first.gid), (0o644, 1000, 100));
}

#[test]
fn overlay_xattrs_count_only_in_native_layers() {
    const OVERLAY: &str = "SCHILY.xattr.trusted.overlay.";
    let mark = |name: &str| format!("{OVERLAY}{name}");
    let tar = Tar::new()
        .pax(&[(&mark("opaque"), b"y"), (&mark("redirect"), b"/x/y")])
        .dir("a/d")
        .pax(&[(&mark("metacopy"), b""), (&mark("redirect"), b"old")])
        .file("a/f", b"")
        .pax(&[(&mark("redirect"), b"old")])
        .file("a/g", b"")
        .file(".wh.h", b"")
        .end();
    let native = [
        ("a/d", ListedKind::Dir { opaque: true, from: Some(b"x/y".to_vec()) }),
        ("a/f", ListedKind::File { size: 0, content: None, from: Some(b"a/old".to_vec()) }),
        ("a/g", content(b"")),
        (".wh.h", content(b"")),
    ];
    assert_eq!(what(&tar, Format::Native), native.map(|(path, what)| (path.to_owned(), what)));
    let portable = [
        ("a/d", ListedKind::Dir { opaque: false, from: None }),
        ("a/f", content(b"")),
        ("a/g", content(b"")),
        ("h", ListedKind::Whiteout),
    ];
    assert_eq!(what(&tar, Format::Portable), portable.map(|(path, what)| (path.to_owned(), what)));
}

#[test]
fn the_digest_of_a_sparse_file_includes_its_zeros() {
    let mut bytes = vec![0; 200_000];
    bytes[4096..4099].copy_from_slice(b"abc");
    bytes[150_000..150_002].copy_from_slice(b"de");
    let whole = Tar::new().file("f", &bytes).end();
    let map = [(4096, 3), (150_000, 2), (200_000, 0)];
    let sparse = Tar::new().old_sparse("f", 200_000, &map, b"abcde").end();
    for tar in [whole, sparse] {
        assert_eq!(what(&tar, Format::Portable), [("f".to_owned(), content(&bytes))]);
    }
    let empty = Tar::new().old_sparse("f", 70_000, &[(70_000, 0)], b"").end();
    assert_eq!(what(&empty, Format::Portable)[0].1, content(&vec![0; 70_000]));
}

#[test]
fn compressed_and_invalid_layers_are_read_like_by_unpacking() {
    let tar = Tar::new().file("f", b"text").end();
    for blob in [gzip(&tar), zstd(&tar)] {
        let mut count = 0;
        let limits = Limits::default();
        let found = list(&blob[..], Format::Portable, &limits, |_| count += 1);
        assert_eq!((found.unwrap(), count), (DiffId::of(&tar), 1));
    }
    let bad = Tar::new().file("../f", b"").end();
    let found = list(&bad[..], Format::Portable, &Limits::default(), |_| ());
    assert!(
        matches!(found, Err(UnpackError::Entry { why: InvalidLayer::Name(_), .. })),
        "{found:?}"
    );
}
