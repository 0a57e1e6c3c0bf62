//! All ways in which a layer is refused, and all limits. Nothing is guessed, and the message names the entry.

use std::{io, iter};

use proptest::prelude::*;
use tar::Header;

use super::testing::{Tar, gzip, unpack, unpack_alone, unpack_with};
use super::{Exceeded, Limits, UnpackError};
use crate::erofs::{Meta, Special, Tree, Writer};
use crate::error::Class;
use crate::spill::Scratch;

/// Unpacks the tar and expects an error that names the entry, the reason and the class.
fn refused(tar: Tar, name: &str, why: &str, class: Class) {
    let error = unpack(&tar.end()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&format!("{name:?}")), "{name}: {message}");
    assert!(message.contains(why), "{why}: {message}");
    assert_eq!(error.class(), class, "{message}");
}

fn exceeded(tar: Tar, limits: &Limits, name: &str, why: &str) {
    let error = unpack_with(tar.end().as_slice(), limits).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&format!("{name:?}")), "{name}: {message}");
    assert!(message.contains(why), "{why}: {message}");
    assert!(message.contains("; rebuild"), "{message} does not say what to do");
    assert_eq!(error.class(), Class::Precondition);
}

#[test]
fn invalid_names_are_refused() {
    let long = "x".repeat(256);
    let deep = "dir/".repeat(1024) + "x";
    for (name, why) in [
        ("..", "\"..\""),
        ("../etc/passwd", "\"..\""),
        ("a/../../b", "\"..\""),
        ("a/../..", "\"..\""),
        ("/..", "\"..\""),
        ("", "empty"),
        (".wh.", "whiteout"),
        ("a/.wh.", "whiteout"),
        (".wh...", "whiteout"),
        (".wh.a/b", "whiteout"),
        ("file/", "slash"),
        ("/", "slash"),
        (".", "root"),
    ] {
        refused(Tar::new().file(name, b""), name, why, Class::Invalid);
    }
    for (name, why) in
        [(long.as_str(), "255 bytes"), (&deep, "4,095"), ("a\0b", "NUL"), ("..", "\"..\"")]
    {
        let shown: String = name.chars().take(200).collect();
        let tar = Tar::new().pax(&[("path", name.as_bytes())]).file("short", b"");
        refused(tar, &shown, why, Class::Invalid);
        if !name.contains('\0') {
            let tar = Tar::new().extended(b'L', name.as_bytes()).file("short", b"");
            refused(tar, &shown, why, Class::Invalid);
        }
    }
}

#[test]
fn entries_below_a_non_directory_are_refused() {
    refused(Tar::new().file("a", b"").file("a/b", b""), "a/b", "lies below \"a\"", Class::Invalid);
    let through = Tar::new().symlink("a", "b").file("b", b"").file("a/c", b"");
    refused(through, "a/c", "lies below \"b\"", Class::Invalid);
    let through = Tar::new().symlink("a", "b/a").symlink("b", ".").file("a/c", b"");
    refused(through, "a/c", "40 symbolic links", Class::Invalid);
    let through = Tar::new().symlink("a", "b").symlink("b", "a").link("c", "a/d");
    refused(through, "c", "40 symbolic links", Class::Invalid);
    refused(Tar::new().symlink("/.", "/"), "/.", "root", Class::Invalid);
    refused(Tar::new().link("./.", "a"), "./.", "root", Class::Invalid);
    let limits = Limits { depth: 4, ..Limits::default() };
    let deep = Tar::new().symlink("a", "b/b/b").file("a/b", b"").file("a/b/c", b"");
    exceeded(deep, &limits, "a/b/c", "4 parts");
}

#[test]
fn invalid_links_are_refused() {
    refused(Tar::new().dir("d").link("a", "d"), "a", "\"d\", which is a directory", Class::Invalid);
    refused(Tar::new().link("a", "."), "a", "directory", Class::Invalid);
    refused(Tar::new().link("a", "../b"), "a", "\"..\"", Class::Invalid);
    refused(Tar::new().link("a", ""), "a", "empty", Class::Invalid);
    refused(Tar::new().symlink("a", ""), "a", "empty", Class::Invalid);
    let long = Tar::new().extended(b'K', &[b'x'; 4096]).symlink("a", "");
    refused(long, "a", "4,095", Class::Invalid);
    for (tar, target) in [
        (Tar::new().link("a", "b"), "b"),
        (Tar::new().link("a", "a"), "a"),
        (Tar::new().link("a", "/etc/passwd"), "etc/passwd"),
        (Tar::new().file(".wh.b", b"").link("a", "b"), "b"),
        (Tar::new().file("b", b"").link("a", "b/c"), "b/c"),
        (Tar::new().symlink("d", "e").link("a", "d/f"), "d/f"),
    ] {
        let error = unpack_alone(&tar.end()).unwrap_err();
        assert!(matches!(error, UnpackError::LinkElsewhere { .. }), "{error}");
        assert!(error.to_string().contains("\"a\""), "{error}");
        assert!(error.to_string().contains(&format!("{target:?}")), "{error}");
        assert_eq!(error.class(), Class::Precondition);
    }
}

#[test]
fn unknown_types_and_device_numbers_are_refused() {
    refused(Tar::new().device(b'3', "far", 1 << 12, 3), "far", "device number", Class::Corrupt);
    refused(Tar::new().device(b'4', "far", 8, 1 << 20), "far", "device number", Class::Corrupt);
    for kind in [b'V', b'M', b'D', b'N', b'X', b'A', 0xff] {
        refused(Tar::new().plain(kind, "odd"), "odd", "type", Class::Invalid);
    }
}

#[test]
fn headers_that_readers_could_read_differently_are_refused() {
    // CVE-2025-62518: one reader sees a file of 512 bytes, another sees an empty one and then "hidden".
    let hidden = Tar::new().file("hidden", b"").0;
    let smuggled = Tar::new().pax(&[("size", b"512")]).push(Tar::header(b'0', b"box", 0), &hidden);
    refused(smuggled, "box", "disagree on its size", Class::Corrupt);
    let both = Tar::new().extended(b'L', b"a\0").pax(&[("path", b"b")]).file("c", b"");
    refused(both, "b", "disagree on its name", Class::Corrupt);
    let both = Tar::new().extended(b'K', b"a\0").pax(&[("linkpath", b"b")]).symlink("c", "d");
    refused(both, "c", "disagree on its link target", Class::Corrupt);
    let global = Tar::new().extended(b'g', b"10 path=a\n").file("c", b"");
    refused(global, "extended", "every entry", Class::Corrupt);
    refused(Tar::new().pax(&[("path", b"a")]), "extended", "entry is missing", Class::Corrupt);
    let zeros = Tar(Tar::new().file("last", b"").0.into_iter().chain([0; 512]).collect());
    refused(zeros.file("after", b""), "last", "end marker after it is incomplete", Class::Corrupt);
}

#[test]
fn damaged_tars_are_refused() {
    let mut tar = Tar::new().file("name", b"x");
    tar.0[300] ^= 1;
    refused(tar, "name", "checksum", Class::Corrupt);
    for (field, why) in
        [(100, "mode"), (108, "owner"), (116, "group"), (124, "size"), (136, "time")]
    {
        let mut header = Tar::header(b'0', b"name", 0);
        header.as_mut_bytes()[field] = b'x';
        refused(Tar::new().push(header, b""), "name", why, Class::Corrupt);
    }
    let mut header = Tar::header(b'0', b"name", 0);
    header.set_uid(u64::from(u32::MAX));
    refused(Tar::new().push(header, b""), "name", "owner", Class::Corrupt);
    let tar = Tar::new().extended(b'x', b"8 path=a\n").file("c", b"");
    refused(tar, "extended", "whole pax records", Class::Corrupt);
    let tar = Tar::new().push(Tar::header(b'x', b"extended", (1 << 20) + 1), b"");
    refused(tar, "extended", "1 MiB", Class::Corrupt);

    let whole = Tar::new().file("first", b"").file("second", &[b'x'; 1000]).0;
    for len in [600, 1100, 2000, 2040] {
        let error = unpack(&whole[..len]).unwrap_err();
        let name = if len < 1024 { "first" } else { "second" };
        assert!(error.to_string().contains(&format!("{name:?}")), "{len}: {error}");
        assert!(error.to_string().contains("middle"), "{len}: {error}");
        assert_eq!(error.class(), Class::Corrupt);
    }
}

#[test]
fn attributes_that_cannot_be_stored() {
    for (name, why) in [("user.", "name"), ("user.a\0b", "name")] {
        let key = format!("SCHILY.xattr.{name}");
        refused(Tar::new().pax(&[(&key, b"v")]).file("f", b""), "f", why, Class::Invalid);
    }
    let large = Tar::new().pax(&[("SCHILY.xattr.user.a", &[0; 65_536])]).file("f", b"");
    refused(large, "f", "65,535", Class::Invalid);
}

#[test]
fn layers_that_exceed_a_limit_are_refused() {
    let limits =
        Limits { tar_bytes: 8192, entries: 5, depth: 3, xattr_bytes: 20, ..Limits::default() };
    let huge = Tar::header(b'0', b"huge", 8193);
    exceeded(Tar::new().push(huge, b""), &limits, "huge", "8.0 KiB");
    let many = (0..6).fold(Tar::new(), |tar, i| tar.file(&i.to_string(), b""));
    exceeded(many, &limits, "5", "5 entries");
    exceeded(Tar::new().file("a/b/c/d", b""), &limits, "a/b/c/d", "3 parts");
    let shallow = Limits { depth: 10, ..limits.clone() };
    exceeded(Tar::new().file("a/b/c/d/e/f", b""), &shallow, "a/b/c/d/e/f", "5 entries");
    let xattr = Tar::new().pax(&[("SCHILY.xattr.user.a", &[0; 15])]).file("f", b"");
    exceeded(xattr, &limits, "f", "20 bytes");
    let root = Tar::new().pax(&[("SCHILY.xattr.user.a", b""), ("SCHILY.xattr.user.b", b"")]);
    let few = Limits { root_xattrs: 1, ..Limits::default() };
    exceeded(root.dir("./"), &few, "./", "1 extended attributes");
    let endless = Tar(vec![0; 8192]).file("f", b"").0;
    let error = unpack_with(endless.as_slice(), &limits).unwrap_err();
    assert!(error.to_string().contains("8.0 KiB"), "{error}");
    assert!(unpack_with(Tar::new().end().as_slice(), &limits).is_ok());
}

#[test]
fn endless_streams_end_at_a_limit() {
    let limits = Limits { tar_bytes: 3 << 20, entries: 500, ..Limits::default() };
    let error = unpack_with(io::repeat(0), &limits).unwrap_err();
    assert!(matches!(&error, UnpackError::Limit { what: Exceeded::TarBytes(_), .. }), "{error}");
    let entry = Tar::new().dir("again").0;
    let again = iter::repeat_with(move || entry.clone()).flatten();
    let error = unpack_with(Endless(again), &limits).unwrap_err();
    assert!(matches!(&error, UnpackError::Limit { what: Exceeded::Entries(_), .. }), "{error}");
    let member = gzip(&[0; 512]);
    let members = iter::repeat_with(move || member.clone()).flatten();
    let error = unpack_with(Endless(members), &limits).unwrap_err();
    assert!(matches!(&error, UnpackError::Limit { what: Exceeded::TarBytes(_), .. }), "{error}");
    let skipped = iter::repeat_n(*b"\x50\x2a\x4d\x18\0\0\0\0", 1 << 16).flatten();
    let error = unpack_with(Endless(skipped.chain(*b"end")), &limits);
    assert!(matches!(error.unwrap_err(), UnpackError::Zstd(_)));
}

/// Bytes from an iterator.
struct Endless<I>(I);

impl<I: Iterator<Item = u8>> io::Read for Endless<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(into.iter_mut().zip(&mut self.0).map(|(to, byte)| *to = byte).count())
    }
}

/// What the default value promises: see [`Limits::memory`].
#[test]
fn names_of_common_layers_stay_in_memory() {
    let image = tempfile::tempfile().unwrap();
    let file = Writer::new(&image).special(&Meta::default(), Special::Fifo).unwrap();
    let mut tree = Tree::new(Meta::default());
    let mut dir = Tree::ROOT;
    for i in 0..250_000 {
        if i % 16 == 0 {
            let name = format!("directory-{i}");
            dir = tree.add_dir(Tree::ROOT, name.as_bytes(), Meta::default()).unwrap();
        }
        tree.add(dir, format!("file-{i:07}.so").as_bytes(), file).unwrap();
    }
    let memory = tree.memory();
    assert!(memory <= Limits::default().memory, "{memory}");
    assert!(memory / tree.names() <= 150, "{memory}");
    tree.spill(&Scratch::default()).unwrap();
    assert!(tree.memory() < memory);
}

/// An entry of every kind, as header and content.
fn entries() -> Vec<(Header, Vec<u8>)> {
    let linking = |kind, name, target: &[u8]| {
        let mut header = Tar::header(kind, name, 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        (header, Vec::new())
    };
    let filled = |kind, name, content: &[u8]| {
        (Tar::header(kind, name, content.len() as u64), content.to_vec())
    };
    let sparse = |tar: Tar| {
        let (header, content) = tar.0.split_at(512);
        (Header::from_byte_slice(header).clone(), content.to_vec())
    };
    let scattered: Vec<_> = (0..6).map(|i| (i * 5000, 1)).collect();
    vec![
        sparse(Tar::new().old_sparse("sparse", 30_000, &scattered, b"123456")),
        filled(b'x', b"pax", b"22 GNU.sparse.major=1\n28 GNU.sparse.realsize=5000\n"),
        filled(b'0', b"holes", &[b"1\n4000\n4\n".as_slice(), &[0; 503], b"more"].concat()),
        filled(b'5', b"directory/", b""),
        filled(b'0', b"directory/file", &[b'f'; 5000]),
        filled(b'x', b"pax", b"15 path=longer\n13 mtime=1.5\n25 SCHILY.xattr.user.u=v\n9 size=2\n"),
        filled(b'0', b"short", b"xy"),
        filled(b'L', b"gnu", b"long name\0"),
        linking(b'1', b"link", b"directory/file"),
        linking(b'2', b"symlink", b"directory"),
        filled(b'0', b"directory/.wh.gone", b""),
        filled(b'0', b".wh.directory", b""),
        filled(b'6', b"pipe", b""),
    ]
}

fn packed(entries: Vec<(Header, Vec<u8>)>) -> Vec<u8> {
    let tar =
        entries.into_iter().fold(Tar::new(), |tar, (header, content)| tar.push(header, &content));
    tar.end()
}

#[test]
fn the_entries_that_the_next_test_changes_are_accepted_unchanged() {
    assert_eq!(unpack(&packed(entries())).unwrap().0.entries, 10);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes are changed, and the checksums corrected. The result is a readable image, or an error with a
    /// message.
    #[test]
    fn random_changes_never_panic(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..600_usize, any::<u8>()),
            1..6,
        ),
        truncated in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut entries = entries();
        for (entry, at, byte) in changes {
            let (header, content) = entry.get_mut(&mut entries);
            if let Some(old) = header.as_mut_bytes().get_mut(at) {
                *old = byte;
            } else if let Some(old) = content.get_mut(at - 512) {
                *old = byte;
            }
        }
        let mut bytes = packed(entries);
        if let Some(at) = truncated {
            bytes.truncate(at.index(bytes.len()));
        }
        if let Err(error) = unpack(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
