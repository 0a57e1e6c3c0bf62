//! Layers that are accepted: the image that each entry gives.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use super::testing::{Tar, gzip, unpack, unpack_with, zstd};
use super::{Limits, UnpackError};
use crate::budget::Budget;
use crate::digest::DiffId;
use crate::erofs::test_reader::{Content, Read as Image};
use crate::error::Class;

fn image(tar: Tar) -> Image {
    unpack(&tar.end()).unwrap().1
}

/// The tree in one line: names, with `/` after directories, `/*` after opaque ones, `!` after whiteouts.
fn shape(tar: Tar) -> String {
    let image = image(tar);
    let mut words = Vec::new();
    for (path, found) in &image.names {
        let opaque = found.xattrs.get(b"trusted.overlay.opaque".as_slice());
        let end = match &found.content {
            Content::Dir if opaque.is_some_and(|value| value == b"y") => "/*",
            Content::Dir if path.is_empty() => continue,
            Content::Dir => "/",
            Content::Device(0) => "!",
            _ => "",
        };
        words.push(String::from_utf8(path.clone()).unwrap() + end);
    }
    words.join(" ")
}

#[test]
fn different_spellings_of_a_name_are_one_entry() {
    assert_eq!(shape(Tar::new().file("./a", b"")), "a");
    assert_eq!(shape(Tar::new().file("/a//b", b"")), "a/ a/b");
    assert_eq!(shape(Tar::new().dir("./").dir("a/")), "a/");
    assert_eq!(shape(Tar::new().plain(0, "a/").plain(0, "a/b").plain(b'7', "c")), "a/ a/b c");
    assert_eq!(shape(Tar::new()), "");
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let image = image(Tar::new().file("a", b"old").file("./a", b"new"));
    assert_eq!(image.names[b"a".as_slice()].content, Content::File(b"new".to_vec()));
    assert_eq!(shape(Tar::new().file("d/a", b"").dir("d").file("d/b", b"")), "d/ d/a d/b");
    assert_eq!(shape(Tar::new().file("d/a", b"").symlink("d", "x")), "d");
    assert_eq!(shape(Tar::new().file("d", b"").dir("d").file("d/b", b"")), "d/* d/b");
}

#[test]
fn a_symbolic_link_has_mode_0777_whatever_its_header_says() {
    let image = image(Tar::new().file("a", b"").symlink("b", "a").link("c", "b"));
    let mode = |name: &[u8]| image.names[name].mode & 0o7777;
    assert_eq!((mode(b"a"), mode(b"b"), mode(b"c")), (0o644, 0o777, 0o777));
}

#[test]
fn whiteouts_hide_only_lower_layers() {
    let shape_of = |names: &[&str]| {
        shape(names.iter().fold(Tar::new(), |tar, name| match name.strip_suffix('/') {
            Some(dir) => tar.dir(dir),
            None => tar.file(name, b""),
        }))
    };
    for (names, expected) in [
        (&[".wh.a"][..], "a!"),
        (&["d/.wh.a", "d/.wh.b"], "d/ d/a! d/b!"),
        (&["a", ".wh.a"], "a"),
        (&[".wh.a", "a"], "a"),
        (&["a/", ".wh.a"], "a/*"),
        (&[".wh.a", "a/"], "a/*"),
        (&[".wh.a", "a/b"], "a/* a/b"),
        (&["a/b", ".wh.a"], "a/* a/b"),
        (&[".wh.a", "a", "a/"], "a/*"),
        (&[".wh.a", ".wh.a"], "a!"),
        // This layer has nothing in the directory, so it is hidden as a whole.
        (&[".wh.a", "a/.wh.b"], "a!"),
        (&["a/.wh.b", ".wh.a"], "a!"),
        (&["a/b/.wh.c", ".wh.a"], "a!"),
        (&["a/.wh.b", "a/c", ".wh.a"], "a/* a/c"),
        (&["a/.wh..wh..opq", ".wh.a"], "a!"),
        // An opaque directory needs no whiteouts, and overlay would list them.
        (&["a/.wh.b", "a/.wh..wh..opq", "a/.wh.c", "a/d"], "a/* a/d"),
        (&["a/.wh..wh..opq", "a/"], "a/*"),
        (&["a/.wh..wh..opq", "a/b/.wh.c"], "a/* a/b/ a/b/c!"),
        (&[".wh..wh.plnk/1.2", ".wh..wh.aufs", "a"], "a"),
    ] {
        assert_eq!(shape_of(names), expected, "{names:?}");
    }
    assert_eq!(
        shape(Tar::new().device(b'3', "a", 0, 0).dir("b").device(b'3', "b", 0, 0)),
        "a! b/*"
    );
    assert_eq!(shape(Tar::new().link(".wh.a", ".wh..wh.aufs")), "a!");
}

#[test]
fn an_opaque_root_is_reported() {
    let (unpacked, image) = unpack(&Tar::new().file(".wh..wh..opq", b"").dir("./").end()).unwrap();
    assert!(unpacked.opaque_root);
    assert_eq!(image.names[b"".as_slice()].xattrs[b"trusted.overlay.opaque".as_slice()], b"y");
    assert!(!unpack(&Tar::new().file("a/.wh..wh..opq", b"").end()).unwrap().0.opaque_root);
}

#[test]
fn an_unnamed_directory_has_the_metadata_of_mkdir_by_root() {
    let tar = Tar::new().file("a/b", b"").end();
    let (unpacked, image) = unpack(&tar).unwrap();
    for path in ["", "a"] {
        let found = &image.names[path.as_bytes()];
        assert_eq!((found.mode, found.uid, found.gid, found.mtime), (0o040_755, 0, 0, (0, 0)));
    }
    assert_eq!(unpacked.entries, 1);
    assert_eq!(unpacked.tar_bytes, tar.len() as u64);
    assert_eq!(unpacked.diff_id, DiffId::of(&tar));
    assert_eq!(image.uuid, [7; 16]);
}

#[test]
fn metadata_comes_from_the_last_header_that_has_it() {
    let long = "long/".repeat(40) + "name";
    let tar = Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"4000000000"),
            ("gid", b"3000000000"),
            ("mtime", b"-1.5"),
            ("atime", b"1"),
            ("SCHILY.xattr.user.a", b"1\n2\0"),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.whiteout", b"y"),
            ("SCHILY.xattr.com.apple.provenance", b"x"),
        ])
        .file("short", b"content");
    let tar = tar.extended(b'g', b"12 comment=\n").file("second", b"").end();
    let (unpacked, image) = unpack(&tar).unwrap();
    assert_eq!(unpacked.entries, 2);
    let found = &image.names[long.as_bytes()];
    assert_eq!((found.uid, found.gid), (4_000_000_000, 3_000_000_000));
    assert_eq!(found.mtime, (-2, 500_000_000));
    let xattrs: Vec<_> = found.xattrs.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
    assert_eq!(
        xattrs,
        [
            (&b"security.capability"[..], &b"\x01\0\0\x02"[..]),
            (b"user.a", b"1\n2\0"),
            (b"user.empty", b""),
        ]
    );
    let second = &image.names[b"second".as_slice()];
    assert_eq!((second.uid, second.gid, second.mtime), (1000, 100, (1_700_000_000, 0)));
    assert_eq!(second.mode, 0o100_644);
}

#[test]
fn gnu_long_names_and_ustar_prefixes_are_read() {
    let long = "g".repeat(150);
    let target = "t".repeat(200);
    let mut prefixed = Tar::header(b'0', b"name", 0);
    prefixed.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"pre");
    let image = image(
        Tar::new()
            .extended(b'L', format!("{long}\0").as_bytes())
            .extended(b'K', target.as_bytes())
            .symlink("short", "t")
            .push(prefixed, b""),
    );
    let found = &image.names[long.as_bytes()].content;
    assert_eq!(*found, Content::Symlink(target.into_bytes()));
    assert!(image.names.contains_key(b"pre/name".as_slice()));
}

#[test]
fn hard_links_are_one_file() {
    let tar = Tar::new().file("a", b"text").link("d/b", "./a").link("c", "/d/b").symlink("s", "x");
    let image = image(tar.link("t", "s").link("a", "a"));
    for name in ["a", "d/b", "c"] {
        assert_eq!(image.names[name.as_bytes()].nlink, 3, "{name}");
        assert_eq!(image.nids[name.as_bytes()], image.nids[b"a".as_slice()]);
    }
    assert_eq!(image.names[b"t".as_slice()].content, Content::Symlink(b"x".to_vec()));
}

#[test]
fn everything_after_the_end_is_part_of_the_diff_id() {
    let mut tar = Tar::new().file("a", b"x").end();
    tar.resize(10 * 1024, 0);
    tar.extend_from_slice(b"and more bytes from a tool");
    let (unpacked, _) = unpack(&tar).unwrap();
    assert_eq!((unpacked.diff_id, unpacked.tar_bytes), (DiffId::of(&tar), tar.len() as u64));
    let (first, rest) = tar.split_at(700);
    let members = [gzip(first), gzip(b""), gzip(rest)].concat();
    let limits = Limits::default();
    let (gzipped, _) = unpack_with(members.as_slice(), &limits).unwrap();
    assert_eq!(gzipped, unpacked);
    let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0any".as_slice();
    let frames = [skipped, &zstd(first), &zstd(b""), skipped, &zstd(rest), skipped].concat();
    let (packed, _) = unpack_with(frames.as_slice(), &limits).unwrap();
    assert_eq!(packed, unpacked);
}

/// A blob whose reader fails at its end, as a digest check does.
struct FailingAtEnd<'b>(&'b [u8], io::ErrorKind);

impl Read for FailingAtEnd<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(io::Error::new(self.1, "the verdict")),
            len => Ok(len),
        }
    }
}

#[test]
fn an_error_of_the_blobs_reader_is_distinguished_from_bad_compression() {
    let tar = Tar::new().file("a", b"x").end();
    let limits = Limits::default();
    for blob in [tar.clone(), gzip(&tar), zstd(&tar)] {
        for (kind, class) in [
            (io::ErrorKind::InvalidData, Class::Corrupt),
            (io::ErrorKind::UnexpectedEof, Class::Unavailable),
        ] {
            let error = unpack_with(FailingAtEnd(&blob, kind), &limits).unwrap_err();
            assert!(matches!(error, UnpackError::Blob(_)), "{error:?}");
            assert!(error.to_string().contains("the verdict"), "{error}");
            assert_eq!(error.class(), class);
        }
    }
    let whole = gzip(&tar);
    let mut wrong = whole.clone();
    wrong[whole.len() - 5] ^= 1;
    let trailing = [whole.as_slice(), b"junk"].concat();
    for blob in [&whole[..whole.len() - 1], &whole[..5], &wrong, &trailing] {
        let error = unpack_with(blob, &limits).unwrap_err();
        assert!(matches!(error, UnpackError::Gzip(_)), "{error:?}");
        assert_eq!(error.class(), Class::Corrupt);
    }
    let whole = zstd(&tar);
    let mut wrong = whole.clone();
    wrong[whole.len() / 2] ^= 0xff;
    let trailing = [whole.as_slice(), b"junk"].concat();
    for blob in [&whole[..whole.len() - 1], &whole[..5], &wrong, &trailing] {
        let error = unpack_with(blob, &limits).unwrap_err();
        assert!(matches!(error, UnpackError::Zstd(_)), "{} bytes: {error:?}", blob.len());
        assert_eq!(error.class(), Class::Corrupt);
    }
}

#[test]
fn damage_in_transit_takes_precedence_over_an_invalid_tar() {
    let mut limits = Limits::default();
    let refused = Tar::new().file("..", b"").file("large", &[0; 1 << 20]).end();
    let elsewhere = Tar::new().link("a", "b").file("large", &[0; 1 << 20]).end();
    let whole = gzip(&elsewhere);
    let half = &whole[..whole.len() / 2];
    for (kind, class) in [
        (io::ErrorKind::InvalidData, Class::Corrupt),
        (io::ErrorKind::ConnectionReset, Class::Unavailable),
    ] {
        for blob in [refused.as_slice(), &elsewhere, &whole, &gzip(&refused), half, &zstd(&refused)]
        {
            let error = unpack_with(FailingAtEnd(blob, kind), &limits).unwrap_err();
            assert!(error.to_string().contains("the verdict"), "{error}");
            assert_eq!(error.class(), class);
        }
    }
    let error = unpack_with(gzip(&refused).as_slice(), &limits).unwrap_err();
    assert!(matches!(error, UnpackError::Entry { .. }), "without an error of the reader: {error}");

    limits.depth = 1;
    let deep = Tar::new().file("a/b", b"").file("large", &vec![0; 16 << 20]).end();
    let mut blob = deep.as_slice();
    let error = unpack_with(blob.by_ref(), &limits).unwrap_err();
    assert!(matches!(error, UnpackError::Limit { .. }), "{error}");
    assert!(!blob.is_empty(), "nothing is read after a limit");
}

#[test]
fn a_zstd_window_is_bounded() {
    let tar = Tar::new().file("large", &vec![7; 9 << 20]).end();
    let framed = |log| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        io::copy(&mut tar.as_slice(), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let limits = Limits { zstd_window: 25, ..Limits::default() };
    for log in [10, 23, 25] {
        unpack_with(framed(log).as_slice(), &limits).unwrap();
    }
    let after_smaller = [framed(20), framed(24)].concat();
    for blob in [framed(26), after_smaller] {
        let error = unpack_with(blob.as_slice(), &limits).unwrap_err();
        assert!(error.to_string().contains("zstd window of more than"), "{error}");
        assert_eq!(error.class(), Class::Precondition);
    }
}

#[test]
fn layers_that_share_a_budget_wait_for_each_other_and_end() {
    let budget = Arc::new(Budget::new(0, 1, u64::MAX));
    let limits = Limits { budget: Arc::clone(&budget), ..Limits::default() };
    let names: Vec<_> = (0..6000).map(|i| format!("{i}{}", "n".repeat(80))).collect();
    let tar = names.iter().fold(Tar::new(), |tar, name| tar.file(name, b"")).end();
    thread::scope(|scope| {
        for blob in [tar.clone(), gzip(&tar), zstd(&tar)] {
            let limits = &limits;
            scope.spawn(move || {
                let (unpacked, _) = unpack_with(blob.as_slice(), limits).unwrap();
                assert_eq!(unpacked.entries, 6000);
            });
        }
    });
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_first_bytes_decide_the_compression_of_a_layer() {
    let tar = Tar::new().file("a", b"x").end();
    let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0any".as_slice();
    let skip = [skipped, &zstd(&tar)].concat();
    let whole = unpack(&tar).unwrap().0;
    for blob in [gzip(&tar), zstd(&tar), skip] {
        assert_eq!(unpack(&blob).unwrap().0, whole);
    }
    // Too few bytes to be unpacked, and no bytes.
    for blob in [&b"\x1f\x8b"[..], b"\x28"] {
        assert_eq!(unpack(blob).unwrap_err().class(), Class::Corrupt);
    }
    assert_eq!(unpack(b"").unwrap().0.entries, 0);
    let sparse = Tar::new().file("PK\x03\x04", b"").end();
    assert!(unpack(&sparse).is_ok(), "a name may have such bytes");
}

#[test]
fn a_gibibyte_of_zeros_takes_no_space() {
    use std::os::unix::fs::MetadataExt as _;
    let zeros = 1 << 30;
    let mut header = Tar::header(b'0', b"zeros", 0);
    header.set_size(zeros);
    header.set_cksum();
    let head = header.as_bytes().to_vec();
    let tar = || head.chain(io::repeat(0).take(zeros + 1024));
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    io::copy(&mut tar(), &mut packed).unwrap();
    let blob = packed.finish().unwrap();
    assert!(blob.len() < 1 << 20, "{} bytes", blob.len());
    let image = tempfile::tempfile().unwrap();
    let unpacked = super::layer_to_erofs(&*blob, [7; 16], &image, &Limits::default()).unwrap();
    let metadata = image.metadata().unwrap();
    assert!(unpacked.image_bytes > zeros && metadata.len() == unpacked.image_bytes);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn devices_are_unpacked_as_devices() {
    let tar = Tar::new().device(b'3', "null", 1, 3).device(b'4', "disk", 259, 70_000);
    let image = image(tar.device(b'4', "none", 0, 0).device(b'3', "d/gone", 0, 0));
    for (name, mode, device) in [
        ("null", 0o020_644, 0x103),
        ("disk", 0o060_644, 70_000 & 0xff | 259 << 8 | (70_000 & !0xff) << 12),
        ("none", 0o060_644, 0),
    ] {
        let found = &image.names[name.as_bytes()];
        assert_eq!((found.mode, &found.content), (mode, &Content::Device(device)), "{name}");
        assert_eq!((found.uid, found.gid), (1000, 100));
    }
    let gone = &image.names[b"d/gone".as_slice()];
    assert_eq!((gone.mode, &gone.content), (0o020_000, &Content::Device(0)));
}

#[test]
fn only_regular_files_have_content() {
    let sized = |kind: u8, name: &str| {
        let mut header = Tar::header(kind, name.as_bytes(), 512);
        header.as_old_mut().linkname[0] = b'f';
        header
    };
    let tar = Tar::new().file("f", b"text");
    let tar = [(b'1', "link"), (b'2', "symlink"), (b'5', "directory"), (b'6', "pipe"), (0, "old/")]
        .into_iter()
        .fold(tar, |tar, (kind, name)| tar.push(sized(kind, name), b""));
    let image = image(tar.device(b'3', "null", 1, 3).file("last", b"read"));
    assert_eq!(image.names.len(), 9);
    assert_eq!(image.names[b"last".as_slice()].content, Content::File(b"read".to_vec()));
    assert_eq!(image.names[b"link".as_slice()].nlink, 2);
    assert_eq!(image.names[b"old".as_slice()].content, Content::Dir);
}

#[test]
fn a_link_of_the_layer_is_followed_within_the_layer() {
    for (tar, expected) in [
        (Tar::new().symlink("lib", "usr/lib").file("lib/x", b""), "lib usr/ usr/lib/ usr/lib/x"),
        (Tar::new().symlink("a/l", "/b").dir("a/l/c/d"), "a/ a/l b/ b/c/ b/c/d/"),
        (Tar::new().symlink("a/l", "../../..").file("a/l/x", b""), "a/ a/l x"),
        (Tar::new().symlink("l", "m").symlink("m", "d").file("l/x", b""), "d/ d/x l m"),
        // The file replaces the directory, like any later entry.
        (Tar::new().file("lib/x", b"").symlink("lib", "usr/lib"), "lib"),
        (Tar::new().symlink("d", "e").file("e/f", b"").link("a", "d/f"), "a d e/ e/f"),
        (Tar::new().file("a/../b", b"").link("x/../c", "y/../b"), "b c"),
        // A whiteout hides in a directory and follows no link.
        (Tar::new().symlink("d", "e").file("e/f", b"").file("d/.wh.f", b""), "d e/ e/f"),
        (Tar::new().symlink("d", "e").file("d/.wh..wh..opq", b""), "d"),
        (Tar::new().file("d", b"").file("d/.wh.f", b"").file("d/e/.wh.g", b""), "d"),
        (Tar::new().plain(b'6', "a").file("a/.wh.b", b"").device(b'3', "a/c", 0, 0), "a"),
    ] {
        assert_eq!(shape(tar), expected);
    }
    let long = "d/".repeat(20) + "e";
    let tar = Tar::new().symlink("l", &"d/".repeat(20)).file("other", &[7; 3 << 20]);
    assert!(
        image(tar.file("l/e", b"")).names.contains_key(long.as_bytes()),
        "read back from the file"
    );
}

/// umoci, Go's archive/tar and GNU tar write and read such headers.
#[test]
fn repeated_headers_and_keys_are_accepted_and_the_last_counts() {
    let twice = Tar::new().pax(&[("path", b"a"), ("mtime", b"1")]).pax(&[("path", b"b")]);
    let twice = twice.file("c", b"").extended(b'L', b"d\0").extended(b'L', b"e\0junk");
    let twice = twice.file("c", b"").pax(&[("path", b"f"), ("path", b"g")]).file("c", b"");
    let image = image(twice);
    assert_eq!(
        image.names.keys().skip(1).map(Vec::as_slice).collect::<Vec<_>>(),
        [b"b", b"e", b"g"]
    );
    assert_eq!(image.names[b"b".as_slice()].mtime, (1_700_000_000, 0));
    let global = Tar::new().extended(b'g', b"11 mtime=1\n10 uid=99\n20 SCHILY.xattr.a=b\n");
    let tar = global.file("f", b"").end();
    let (_, image) = unpack(&tar).unwrap();
    let found = &image.names[b"f".as_slice()];
    assert_eq!((found.uid, found.mtime, found.xattrs.len()), (1000, (1_700_000_000, 0), 0));
}

#[test]
fn attributes_that_linux_does_not_keep_on_a_type_are_dropped() {
    let records: [(&str, &[u8]); 2] =
        [("SCHILY.xattr.user.a", b"x"), ("SCHILY.xattr.security.b", b"y")];
    let image = image(Tar::new().pax(&records).symlink("l", "x").pax(&records).plain(b'6', "p"));
    for name in ["l", "p"] {
        let names: Vec<_> = image.names[name.as_bytes()].xattrs.keys().collect();
        assert_eq!(names, [b"security.b"], "{name}");
    }
}
