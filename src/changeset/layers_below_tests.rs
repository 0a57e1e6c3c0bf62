//! Hard links to files in lower layers, and unnamed directories, over a fake of the lower layers.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use super::testing::{Tar, unpack_alone, unpack_onto};
use super::{
    EntryBelow, EntryBelowKind, Exceeded, LayersBelow, Limits, LookupBelow, Special, UnpackError,
};
use crate::erofs::test_reader::Content;
use crate::erofs::{Extent, Meta, Time, Xattrs};
use crate::error::Class;

/// The fake: what the lower layers have, by path, with the inode's number.
#[derive(Default)]
struct Fake(BTreeMap<&'static str, (u64, Kind)>);

#[derive(Clone, Copy)]
enum Kind {
    File(&'static [u8]),
    /// A file of this number of bytes, of which the last is an `x`.
    Holes(u64),
    Symlink(&'static str),
    Special(Special),
    Dir,
    Broken,
}

impl Fake {
    fn with(mut self, path: &'static str, inode: u64, kind: Kind) -> Self {
        self.0.insert(path, (inode, kind));
        self
    }
}

fn meta() -> Meta {
    let mut xattrs = Xattrs::default();
    xattrs.set(b"user.colour", b"green").unwrap();
    Meta { mode: 0o4751, uid: 12, gid: 34, mtime: Time { seconds: 56, nanos: 78 }, xattrs }
}

impl LayersBelow for Fake {
    fn find(&self, path: &[u8], dirs: usize) -> io::Result<LookupBelow> {
        let path = std::str::from_utf8(path).unwrap();
        for (at, _) in path.match_indices('/') {
            let depth = path[..at].matches('/').count();
            if let Some((_, Kind::Symlink(target))) = self.0.get(&path[..at]) {
                let leads = depth >= dirs;
                let target = target.as_bytes().to_vec();
                return Ok(if leads {
                    LookupBelow::Through(depth, target)
                } else {
                    LookupBelow::Nothing
                });
            }
        }
        let Some((inode, kind)) = self.0.get(path) else {
            return Ok(LookupBelow::Nothing);
        };
        let file = |content: &[u8], size: u64| {
            let mut file = tempfile::tempfile().unwrap();
            file.set_len(size - content.len() as u64).unwrap();
            io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
            file.write_all(content).unwrap();
            let len = content.len() as u64;
            EntryBelowKind::File {
                content: file,
                size,
                data: vec![Extent { offset: size - len, len }],
            }
        };
        let kind = match kind {
            Kind::File(content) => file(content, content.len() as u64),
            Kind::Holes(size) => file(b"x", *size),
            Kind::Symlink(target) => EntryBelowKind::Symlink(target.as_bytes().to_vec()),
            Kind::Special(special) => EntryBelowKind::Special(*special),
            Kind::Dir => EntryBelowKind::Dir,
            Kind::Broken => return Err(io::Error::other("the disk is gone")),
        };
        Ok(LookupBelow::There(EntryBelow { id: (7, *inode), meta: meta(), kind }))
    }
}

#[test]
fn a_link_to_a_lower_file_becomes_a_copy_with_all_its_attributes() {
    static LONG: [u8; 300_000] = [b'l'; 300_000];
    let below = Fake::default()
        .with("usr/bin/tool", 1, Kind::File(b"program"))
        .with("long", 2, Kind::File(&LONG))
        .with("empty", 3, Kind::File(b""))
        .with("s", 4, Kind::Symlink("../any where"))
        .with("p", 5, Kind::Special(Special::Fifo))
        .with("null", 6, Kind::Special(Special::CharDevice(1, 3)));
    let tar = Tar::new().link("bin/t", "/usr/bin/tool").link("l", "long").link("e", "empty");
    let tar = tar.link("link", "./s").link("pipe", "p").link("zero", "null");
    let tar = tar.file("other", b"own").end();
    let (unpacked, image) = unpack_onto(&*tar, &below, &Limits::default()).unwrap();
    assert_eq!(unpacked.entries, 7);
    for (name, content) in [
        ("bin/t", Content::File(b"program".to_vec())),
        ("l", Content::File(LONG.to_vec())),
        ("e", Content::File(Vec::new())),
        ("link", Content::Symlink(b"../any where".to_vec())),
        ("pipe", Content::None),
        ("zero", Content::Device(0x103)),
    ] {
        let found = &image.names[name.as_bytes()];
        assert_eq!(found.content, content, "{name}");
        assert_eq!((found.mode & 0o7777, found.uid, found.gid), (0o4751, 12, 34), "{name}");
        assert_eq!(found.mtime, (56, 78), "{name}");
        assert_eq!(found.xattrs[b"user.colour".as_slice()], b"green", "{name}");
        assert_eq!(found.nlink, 1, "{name}");
    }
    assert!(!image.names.contains_key(b"usr".as_slice()), "only the linked file is copied");
    // Without the layers below it cannot be unpacked, and has an error of its own.
    let error = unpack_alone(&Tar::new().link("l", "long").end()).unwrap_err();
    assert!(matches!(error, UnpackError::LinkElsewhere { .. }), "{error}");
}

#[test]
fn links_to_one_lower_file_share_one_copy() {
    let below = Fake::default()
        .with("f", 1, Kind::File(b"one"))
        .with("same", 1, Kind::File(b"one"))
        .with("other", 2, Kind::File(b"one"));
    let tar = Tar::new().link("a", "f").link("d/b", "f").link("c", "same").link("e", "a");
    let tar = tar.link("x", "other").file("f", b"new").link("y", "f").end();
    let (_, image) = unpack_onto(&*tar, &below, &Limits::default()).unwrap();
    let inode = |name: &str| (image.nids[name.as_bytes()], image.names[name.as_bytes()].nlink);
    let one = inode("a");
    assert_eq!(one.1, 4);
    assert_eq!([inode("d/b"), inode("c"), inode("e")], [one; 3]);
    assert_ne!(inode("x").0, one.0);
    // After this layer has the file, a link means that one.
    assert_eq!(inode("y"), inode("f"));
    assert_eq!(image.names[b"y".as_slice()].content, Content::File(b"new".to_vec()));
}

/// `lib -> usr/lib` in a base image, and a layer that links to a file in it.
#[test]
fn a_link_is_resolved_through_symbolic_links() {
    let below = Fake::default()
        .with("lib", 1, Kind::Symlink("usr/lib"))
        .with("usr/lib/x.so", 2, Kind::File(b"lower"))
        .with("usr/lib/deep", 3, Kind::Symlink("../../opt"))
        .with("opt/y", 4, Kind::File(b"opt"));
    let content = |tar: Tar| {
        let (_, image) = unpack_onto(&*tar.end(), &below, &Limits::default()).unwrap();
        image.names[b"a".as_slice()].content.clone()
    };
    let file = |text: &[u8]| Content::File(text.to_vec());
    assert_eq!(content(Tar::new().link("a", "lib/x.so")), file(b"lower"));
    assert_eq!(content(Tar::new().link("a", "lib/deep/y")), file(b"opt"));
    // A link of this layer, then one of a lower layer; and a link of a lower layer that leads to a file of this layer.
    assert_eq!(content(Tar::new().symlink("l", "/lib").link("a", "l/x.so")), file(b"lower"));
    let own = Tar::new().file("usr/lib/x.so", b"own");
    assert_eq!(content(own.link("a", "lib/x.so")), file(b"own"));
    // A directory of this layer hides the link below.
    for tar in [Tar::new().dir("lib"), Tar::new().file("lib/other", b"")] {
        let error = unpack_onto(&*tar.link("a", "lib/x.so").end(), &below, &Limits::default());
        assert!(error.unwrap_err().to_string().contains("neither this layer nor those"), "hidden");
    }
    let round = Fake::default().with("a", 1, Kind::Symlink("b")).with("b", 2, Kind::Symlink("a"));
    let error = unpack_onto(&*Tar::new().link("x", "a/f").end(), &round, &Limits::default());
    assert!(error.unwrap_err().to_string().contains("40 symbolic links"));
}

#[test]
fn holes_of_a_lower_file_are_kept() {
    let below = Fake::default().with("f", 1, Kind::Holes(64 << 20));
    let tar = Tar::new().link("a", "f").end();
    let (unpacked, image) = unpack_onto(&*tar, &below, &Limits::default()).unwrap();
    assert!(unpacked.image_bytes < 1 << 20, "{}", unpacked.image_bytes);
    let Content::File(content) = &image.names[b"a".as_slice()].content else { panic!() };
    assert_eq!((content.len(), content.last()), (64 << 20, Some(&b'x')));
}

#[test]
fn a_file_that_the_layer_hides_cannot_be_linked() {
    for (tar, target) in [
        (Tar::new(), "gone"),
        (Tar::new().file("d/.wh.f", b""), "d/f"),
        (Tar::new().file(".wh.d", b""), "d/f"),
        (Tar::new().file("d/.wh..wh..opq", b""), "d/f"),
        (Tar::new().file(".wh..wh..opq", b""), "d/f"),
        (Tar::new().file("d/.wh..wh..opq", b"").dir("d/e"), "d/e/f"),
        (Tar::new().file("d", b""), "d/f"),
        (Tar::new().symlink("d", "e").file("e", b""), "d/f"),
        (Tar::new().link("d/g", "d/f").file("d/.wh.f", b""), "d/f"),
    ] {
        let f = Kind::File(b"lower");
        let below = Fake::default().with("d/f", 1, f).with("d/e/f", 2, f).with("e/f", 3, f);
        let error = unpack_onto(&*tar.link("a", target).end(), &below, &Limits::default());
        let error = error.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        for part in ["\"a\"", &format!("{target:?}"), "rebuild"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn the_error_of_a_failed_copy_names_the_reason() {
    let below = Fake::default()
        .with("directory", 1, Kind::Dir)
        .with("broken", 2, Kind::Broken)
        .with("large", 3, Kind::File(&[1; 2_000]))
        .with("more", 4, Kind::File(&[1; 2_000]))
        .with("huge", 5, Kind::Holes(20_001));
    let limits = Limits { tar_bytes: 20_000, ..Limits::default() };
    let failed = |tar: Tar| unpack_onto(&*tar.end(), &below, &limits).unwrap_err();
    let error = failed(Tar::new().link("a", "directory"));
    assert!(error.to_string().contains("\"directory\", which is a directory"), "{error}");
    let error = failed(Tar::new().link("a", "broken"));
    assert_eq!(error.class(), Class::Internal);
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    let error = failed(Tar::new().link("a", "huge"));
    assert!(matches!(error, UnpackError::Limit { what: Exceeded::FileBytes(20_000), .. }));

    // One copy of it is within the limit, and three links share it. Two copies are too many.
    let limits = Limits { tar_bytes: 3_072, ..limits };
    let tar = Tar::new().link("a", "large").link("b", "large").link("c", "large");
    unpack_onto(&*tar.end(), &below, &limits).unwrap();
    let error =
        unpack_onto(&*Tar::new().link("a", "large").link("b", "more").end(), &below, &limits);
    let error = error.unwrap_err();
    assert!(
        matches!(&error, UnpackError::Limit { what: Exceeded::LinkedBytes(3_072), .. }),
        "{error}"
    );
}

/// As `tar -c tmp/seed` makes a layer for a base with a world-writable /tmp.
#[test]
fn an_unnamed_directory_keeps_its_owner_mode_and_time() {
    let below = Fake::default()
        .with("home", 1, Kind::Dir)
        .with("home/user", 2, Kind::Dir)
        .with("home/user/.config/x", 3, Kind::Dir)
        .with("lib", 4, Kind::Symlink("usr/lib"))
        .with("gone", 5, Kind::Dir)
        .with("late", 6, Kind::Dir)
        .with("hidden", 7, Kind::Dir)
        .with("through", 8, Kind::Dir);
    let tar = Tar::new()
        .file("home/user/.config/x/seed", b"")
        .file("lib/x", b"")
        .file(".wh.gone", b"")
        .file("gone/f", b"")
        .file("late/f", b"")
        .dir("late")
        .file("hidden/.wh.f", b"")
        .symlink("link", "through")
        .file("link/f", b"")
        .end();
    let (unpacked, image) = unpack_onto(&*tar, &below, &Limits::default()).unwrap();
    assert!(unpacked.has_unnamed);
    let (known, new) = ((0o4751, 12, 34, 56), (0o755, 0, 0, 0));
    for (name, expected) in [
        ("home", known),
        ("home/user", known),
        ("home/user/.config", new),
        // Nothing is looked up in a directory that does not exist below.
        ("home/user/.config/x", new),
        ("lib", new),
        ("gone", new),
        ("late", (0o644, 1000, 100, 1_700_000_000)),
        ("hidden", known),
        ("through", known),
    ] {
        let found = &image.names[name.as_bytes()];
        let metadata = (found.mode & 0o7777, found.uid, found.gid, found.mtime.0);
        assert_eq!(metadata, expected, "{name}");
        let colour = found.xattrs.get(b"user.colour".as_slice());
        assert_eq!(colour.is_some(), expected == known, "{name}");
    }
    for name in ["a", "d/e"] {
        let named = Tar::new().dir("d").file(name, b"").end();
        assert!(!unpack_alone(&named).unwrap().0.has_unnamed, "{name}");
    }
    let broken = Fake::default().with("d", 1, Kind::Broken);
    let error = unpack_onto(&*Tar::new().file("d/f", b"").end(), &broken, &Limits::default());
    assert_eq!(error.unwrap_err().class(), Class::Internal);
}

#[test]
fn unpacking_alone_fails_at_the_first_unnamed_directory() {
    let mut tar = Tar::new().dir("named").file("named/f", b"").file("d/e/f", b"").end();
    tar.extend_from_slice(&[7; 1 << 20]);
    let error = unpack_alone(&tar).unwrap_err();
    assert!(matches!(error, UnpackError::DirElsewhere { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("\"d/e/f\"") && message.contains("directory \"d\""), "{message}");
    assert_eq!(error.class(), Class::Precondition);
}
