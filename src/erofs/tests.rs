//! Images are written, read with the tests' own reader, and compared.

use std::collections::BTreeMap;
use std::io::{self, Cursor};

use proptest::prelude::*;

use super::test_reader::{Content, Found, Read, read};
use super::{DirId, Extent, Inode, Meta, Special, Time, Tree, WriteError, Writer, Xattrs};
use crate::{error::Class, spill::Scratch};

const UUID: [u8; 16] = *b"sixteen bytes it";

type Memory<'m> = Writer<&'m mut Cursor<Vec<u8>>>;

/// Reads the image that `fill` writes.
fn image(root: Meta, fill: impl FnOnce(&mut Memory<'_>, &mut Tree)) -> Read {
    let mut bytes = Cursor::new(Vec::new());
    let (mut writer, mut tree) = (Writer::new(&mut bytes), Tree::new(root));
    fill(&mut writer, &mut tree);
    let len = writer.finish(tree, UUID).unwrap();
    assert_eq!(len, bytes.get_ref().len() as u64);
    let found = read(bytes.get_ref());
    assert_eq!(found.uuid, UUID);
    found
}

fn file(writer: &mut Memory<'_>, meta: &Meta, content: &[u8]) -> Inode {
    let mut file = writer.file(meta, content.len() as u64).unwrap();
    for piece in content.chunks(1000) {
        file.write(piece).unwrap();
    }
    file.finish().unwrap()
}

fn found(meta: &Meta, kind: u16, nlink: u32, content: Content) -> Found {
    Found {
        mode: meta.mode | kind,
        uid: meta.uid,
        gid: meta.gid,
        mtime: (meta.mtime.seconds, meta.mtime.nanos),
        nlink,
        xattrs: BTreeMap::new(),
        content,
    }
}

#[test]
fn an_empty_image_is_one_block() {
    let meta = Meta { mode: 0o755, ..Meta::default() };
    let read = image(meta.clone(), |_, _| ());
    assert_eq!(
        read.names,
        BTreeMap::from([(Vec::new(), found(&meta, 0o040_000, 2, Content::Dir))])
    );
}

#[test]
fn every_type_of_inode_is_read_back() {
    let meta = Meta {
        mode: 0o6751,
        uid: 0xffff_fffe,
        gid: 70_000,
        mtime: Time { seconds: -2, nanos: 999_999_999 },
        xattrs: Xattrs::default(),
    };
    let long = vec![b'l'; 4095];
    let read = image(Meta::default(), |writer, tree| {
        let below = tree.add_dir(Tree::ROOT, b"d", meta.clone()).unwrap();
        let inode = file(writer, &meta, b"text");
        tree.add(below, b"file", inode).unwrap();
        tree.link(Tree::ROOT, b"link", inode).unwrap();
        let inode = writer.symlink(&meta, b"d/file").unwrap();
        tree.add(Tree::ROOT, b"symlink", inode).unwrap();
        let inode = writer.symlink(&meta, &long).unwrap();
        tree.add(Tree::ROOT, b"long", inode).unwrap();
        for (name, special) in [
            (b"c", Special::CharDevice(0, 0)),
            (b"b", Special::BlockDevice(8, 300)),
            (b"p", Special::Fifo),
            (b"s", Special::Socket),
        ] {
            let inode = writer.special(&meta, special).unwrap();
            tree.add(below, name, inode).unwrap();
        }
    });
    let text = || Content::File(b"text".to_vec());
    let expected = [
        ("", found(&Meta::default(), 0o040_000, 3, Content::Dir)),
        ("d", found(&meta, 0o040_000, 2, Content::Dir)),
        ("d/file", found(&meta, 0o100_000, 2, text())),
        ("link", found(&meta, 0o100_000, 2, text())),
        ("symlink", found(&meta, 0o120_000, 1, Content::Symlink(b"d/file".to_vec()))),
        ("long", found(&meta, 0o120_000, 1, Content::Symlink(long.clone()))),
        ("d/c", found(&meta, 0o020_000, 1, Content::Device(0))),
        ("d/b", found(&meta, 0o060_000, 1, Content::Device(0x10_082c))),
        ("d/p", found(&meta, 0o010_000, 1, Content::None)),
        ("d/s", found(&meta, 0o140_000, 1, Content::None)),
    ];
    let expected = expected.map(|(path, found)| (path.as_bytes().to_vec(), found));
    assert_eq!(read.names, BTreeMap::from(expected));
    assert_eq!(read.nids[b"d/file".as_slice()], read.nids[b"link".as_slice()]);
}

#[test]
fn a_file_can_have_hundreds_of_attributes_and_the_root_255() {
    let mut meta = Meta::default();
    for i in 0..300_u32 {
        meta.xattrs.set(format!("user.{i}").as_bytes(), &i.to_le_bytes()).unwrap();
    }
    let read = image(Meta::default(), |writer, tree| {
        let inode = file(writer, &meta, b"text");
        tree.add(Tree::ROOT, b"file", inode).unwrap();
        tree.add_dir(Tree::ROOT, b"directory", meta.clone()).unwrap();
    });
    for name in [&b"file"[..], b"directory"] {
        assert_eq!(read.names[name].xattrs.len(), 300);
        assert_eq!(read.names[name].xattrs[b"user.256".as_slice()], 256_u32.to_le_bytes());
    }
    let mut bytes = Cursor::new(Vec::new());
    let error = Writer::new(&mut bytes).finish(Tree::new(meta), UUID).unwrap_err();
    assert!(matches!(error, WriteError::RootXattrs), "{error}");
}

#[test]
fn names_sort_before_and_after_the_dots() {
    let names: [&[u8]; 8] = [b"\x01", b"!", b"-", b".-", b".\x01", b"...", b"..a", b"\xff"];
    let read = image(Meta::default(), |writer, tree| {
        for name in &names {
            let inode = file(writer, &Meta::default(), name);
            tree.add(Tree::ROOT, name, inode).unwrap();
        }
    });
    for name in names {
        assert_eq!(read.names[name].content, Content::File(name.to_vec()));
    }
}

#[test]
fn a_directory_can_have_thousands_of_long_names() {
    let name = |i: u32| [format!("{i:08}").as_bytes(), &[b'n'; 247]].concat();
    let read = image(Meta::default(), |writer, tree| {
        let inode = file(writer, &Meta::default(), b"");
        for i in 0..3000 {
            tree.link(Tree::ROOT, &name(i * 7919 % 3000), inode).unwrap();
        }
    });
    assert_eq!(read.names.len(), 3001);
    assert_eq!(read.names[&name(2999)].nlink, 3000);
}

#[test]
fn attributes_of_every_length_are_read_back() {
    let value = |len: usize| vec![b'v'; len];
    for lens in
        [vec![0], vec![1, 2, 3, 4], vec![2000, 2000], vec![65_535, 9, 65_535], vec![10; 255]]
    {
        let mut meta = Meta::default();
        for (i, len) in lens.iter().enumerate() {
            meta.xattrs.set(format!("trusted.{i}").as_bytes(), &value(*len)).unwrap();
        }
        let read = image(meta.clone(), |writer, tree| {
            let inode = file(writer, &meta, &value(5000));
            tree.add(Tree::ROOT, b"file", inode).unwrap();
            tree.add_dir(Tree::ROOT, b"directory", meta.clone()).unwrap();
        });
        for path in ["", "file", "directory"] {
            let xattrs = &read.names[path.as_bytes()].xattrs;
            for (i, len) in lens.iter().enumerate() {
                assert_eq!(xattrs[format!("trusted.{i}").as_bytes()], value(*len), "{path}");
            }
        }
    }
}

#[test]
fn replaced_entries_are_gone_and_not_counted() {
    let read = image(Meta::default(), |writer, tree| {
        let (old, new) =
            (file(writer, &Meta::default(), b"old"), file(writer, &Meta::default(), b"new"));
        tree.add(Tree::ROOT, b"a", old).unwrap();
        tree.link(Tree::ROOT, b"b", old).unwrap();
        tree.add(Tree::ROOT, b"a", new).unwrap();
        let dir = tree.add_dir(Tree::ROOT, b"c", Meta::default()).unwrap();
        let below = tree.add_dir(dir, b"d", Meta::default()).unwrap();
        tree.link(below, b"e", old).unwrap();
        tree.link(Tree::ROOT, b"c", new).unwrap();
    });
    assert_eq!(
        read.names.keys().map(Vec::as_slice).collect::<Vec<_>>(),
        [&b""[..], b"a", b"b", b"c"]
    );
    assert_eq!(read.names[b"".as_slice()].nlink, 2);
    assert_eq!(read.names[b"a".as_slice()].nlink, 2);
    assert_eq!(read.names[b"b".as_slice()].nlink, 1);
    assert_eq!(read.names[b"b".as_slice()].content, Content::File(b"old".to_vec()));
}

#[test]
fn content_must_be_as_long_as_announced() {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = Writer::new(&mut bytes);
    let mut long = writer.file(&Meta::default(), 3).unwrap();
    assert!(matches!(long.write(b"four"), Err(WriteError::Size { expected: 3 })));
    let mut short = writer.file(&Meta::default(), 3).unwrap();
    short.write(b"tw").unwrap();
    assert!(matches!(short.finish(), Err(WriteError::Size { expected: 3 })));
}

/// Writes a file of `size` bytes whose content is ones in `extents`. Returns the image and the file's content in it.
fn with_holes(size: u64, extents: &[Extent]) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = Cursor::new(Vec::new());
    let (mut writer, mut tree) = (Writer::new(&mut bytes), Tree::new(Meta::default()));
    let stored: u64 = extents.iter().map(|extent| extent.len).sum();
    let mut file = writer.sparse_file(&Meta::default(), size, extents).unwrap();
    for piece in vec![1; stored as usize].chunks(700) {
        file.write(piece).unwrap();
    }
    let inode = file.finish().unwrap();
    tree.add(Tree::ROOT, b"holes", inode).unwrap();
    writer.finish(tree, UUID).unwrap();
    let read = read(bytes.get_ref());
    let Content::File(found) = read.names[b"holes".as_slice()].content.clone() else {
        panic!("no file");
    };
    (bytes.into_inner(), found)
}

#[test]
fn holes_take_no_space() {
    let (image, found) = with_holes(16 << 20, &[Extent { offset: 5 << 20, len: 5 }]);
    assert_eq!(found.len(), 16 << 20);
    assert!(found[..5 << 20].iter().chain(&found[(5 << 20) + 5..]).all(|b| *b == 0));
    assert_eq!(found[5 << 20..][..5], [1; 5]);
    // The first block, one block of content, and the addresses of 4,096 chunks.
    assert!(image.len() <= 3 * 4096 + (16 << 10), "{}", image.len());
    let (image, _) = with_holes(20_000, &[Extent { offset: 10, len: 19_000 }]);
    assert_eq!(image[1024 + 80], 0, "without holes, no feature that old kernels lack");
}

#[test]
fn a_huge_hole_has_a_short_index() {
    let mut writer = Writer::new(Cursor::new(Vec::new()));
    let size = (1 << 50) + 1;
    let file = writer.sparse_file(&Meta::default(), size, &[]).unwrap();
    file.finish().unwrap();
    assert!(writer.space.end() <= 300 << 10, "{}", writer.space.end());
    let far = [0, 1 << 61, 1 << 62].map(|offset| Extent { offset, len: 1 });
    let error = writer.sparse_file(&Meta::default(), u64::MAX, &far).map(drop).unwrap_err();
    assert!(matches!(error, WriteError::TooLarge), "{error}");
}

/// An entry of a random tree, in the directory that `parent` picks among those made so far.
#[derive(Debug, Clone)]
struct Step {
    parent: prop::sample::Index,
    name: Vec<u8>,
    meta: Meta,
    xattr: Option<Vec<u8>>,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Dir,
    File(usize),
    Symlink(usize),
    Link(prop::sample::Index),
    Special(Special),
}

fn step() -> impl Strategy<Value = Step> {
    let name = prop::collection::vec(any::<u8>().prop_filter("", |b| *b != 0 && *b != b'/'), 1..20)
        .prop_filter("", |name| name != b"." && name != b"..");
    let size = prop_oneof![0..200_usize, 3900..4200_usize, 0..20_000_usize];
    let what = prop_oneof![
        2 => Just(What::Dir),
        5 => size.prop_map(What::File),
        1 => (1..4096_usize).prop_map(What::Symlink),
        2 => any::<prop::sample::Index>().prop_map(What::Link),
        1 => Just(What::Special(Special::CharDevice(0, 0))),
    ];
    let meta = (0..0o10000_u16, any::<u32>(), any::<u32>(), any::<i64>(), 0..1_000_000_000_u32)
        .prop_map(|(mode, uid, gid, seconds, nanos)| Meta {
            mode,
            uid,
            gid,
            mtime: Time { seconds, nanos },
            xattrs: Xattrs::default(),
        });
    let xattr = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..6000));
    (any::<prop::sample::Index>(), name, meta, xattr, what)
        .prop_map(|(parent, name, meta, xattr, what)| Step { parent, name, meta, xattr, what })
}

/// The simple model of a tree: directories, files that can be linked, and what a reader should find.
struct Model {
    dirs: Vec<(DirId, Vec<u8>)>,
    files: Vec<(Inode, Vec<Vec<u8>>)>,
    names: BTreeMap<Vec<u8>, Found>,
}

impl Model {
    fn step(&mut self, step: Step, writer: &mut Memory<'_>, tree: &mut Tree) {
        let (dir, prefix) = self.dirs[step.parent.index(self.dirs.len())].clone();
        let path = if prefix.is_empty() {
            step.name.clone()
        } else {
            [&prefix, b"/".as_slice(), &step.name].concat()
        };
        if self.names.contains_key(&path) {
            return;
        }
        let mut meta = step.meta;
        if let Some(value) = &step.xattr {
            meta.xattrs.set(b"user.name", value).unwrap();
        }
        let mut expected = match step.what {
            What::Dir => {
                let id = tree.add_dir(dir, &step.name, meta.clone()).unwrap();
                self.dirs.push((id, path.clone()));
                self.names.get_mut(&prefix).unwrap().nlink += 1;
                found(&meta, 0o040_000, 2, Content::Dir)
            }
            What::File(size) => {
                let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
                let inode = file(writer, &meta, &content);
                tree.add(dir, &step.name, inode).unwrap();
                self.files.push((inode, vec![path.clone()]));
                found(&meta, 0o100_000, 1, Content::File(content))
            }
            What::Symlink(size) => {
                let inode = writer.symlink(&meta, &vec![b's'; size]).unwrap();
                tree.add(dir, &step.name, inode).unwrap();
                found(&meta, 0o120_000, 1, Content::Symlink(vec![b's'; size]))
            }
            What::Special(special) => {
                let inode = writer.special(&meta, special).unwrap();
                tree.add(dir, &step.name, inode).unwrap();
                found(&meta, 0o020_000, 1, Content::Device(0))
            }
            What::Link(index) => return self.link(index, dir, &step.name, path, tree),
        };
        if let Some(value) = step.xattr {
            expected.xattrs.insert(b"user.name".to_vec(), value);
        }
        self.names.insert(path, expected);
    }

    fn link(
        &mut self,
        index: prop::sample::Index,
        dir: DirId,
        name: &[u8],
        path: Vec<u8>,
        tree: &mut Tree,
    ) {
        if self.files.is_empty() {
            return;
        }
        let (inode, names) = index.get_mut(&mut self.files);
        tree.link(dir, name, *inode).unwrap();
        names.push(path.clone());
        self.names.insert(path, self.names[&names[0]].clone());
        for name in names.iter() {
            self.names.get_mut(name).unwrap().nlink = names.len() as u32;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_with_random_holes_are_read_back(
        parts in prop::collection::vec((0..40_000_u64, 0..20_000_u64), 0..20),
        end in 0..40_000_u64,
    ) {
        let mut extents = Vec::new();
        let mut expected = Vec::new();
        for (hole, len) in parts {
            expected.resize(expected.len() + hole as usize, 0);
            extents.push(Extent { offset: expected.len() as u64, len });
            expected.resize(expected.len() + len as usize, 1);
        }
        expected.resize(expected.len() + end as usize, 0);
        let (_, found) = with_holes(expected.len() as u64, &extents);
        prop_assert!(found == expected);
    }

    #[test]
    fn random_trees_are_read_back(
        root in step(),
        steps in prop::collection::vec(step(), 0..60),
        spill in 0..120_usize,
    ) {
        let mut meta = root.meta;
        let mut expected = found(&meta, 0o040_000, 2, Content::Dir);
        if let Some(value) = root.xattr {
            meta.xattrs.set(b"security.root", &value).unwrap();
            expected.xattrs.insert(b"security.root".to_vec(), value);
        }
        let mut model = Model {
            dirs: vec![(Tree::ROOT, Vec::new())],
            files: Vec::new(),
            names: BTreeMap::from([(Vec::new(), expected)]),
        };
        let read = image(meta, |writer, tree| {
            for (number, step) in steps.into_iter().enumerate() {
                if number == spill {
                    tree.spill(&Scratch::default()).unwrap();
                }
                model.step(step, writer, tree);
            }
        });
        prop_assert_eq!(&read.names, &model.names);
        for (_, names) in &model.files {
            for name in names {
                prop_assert_eq!(read.nids[name], read.nids[&names[0]]);
            }
        }
    }
}

#[test]
fn only_a_full_disk_can_have_space_later() {
    let of = |kind: io::ErrorKind| WriteError::Io(kind.into()).class();
    assert_eq!(of(io::ErrorKind::StorageFull), Class::Exhausted);
    assert_eq!(of(io::ErrorKind::QuotaExceeded), Class::Exhausted);
    assert_eq!(of(io::ErrorKind::FileTooLarge), Class::Precondition);
    assert_eq!(WriteError::TooLarge.class(), Class::Precondition);
    assert_eq!(of(io::ErrorKind::Other), Class::Internal);
}
