//! Fuzz targets of the image: a tree that the bytes describe is written. One target reads it back with the reader of the
//! tests, which panics at each broken rule of the format. The other one damages it first, and reads it with [`Image`].
//!
//! Deliberately absent: images that another writer made, because the driver reads none.

#![allow(clippy::unwrap_used)] // a target fails by panicking

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::fs::FileExt as _,
};

use super::{
    DirId, Extent, Image, Inode, InodeKind, Meta, Special, Time, Tree, Writer, Xattrs,
    format::{BLOCK_LEN, SUPER_AT, set_checksum},
    test_reader::{Content, Read, read},
};

/// The most names of a tree.
const NAMES: usize = 200;

/// The most bytes of content that are read from a damaged image.
const CONTENT: u64 = 64 << 20;

/// A file in memory.
pub(crate) fn memory_file() -> File {
    File::from(rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).unwrap())
}

/// Reads an image back.
pub(crate) fn read_back(mut image: &File, len: u64) -> Read {
    let mut bytes = Vec::new();
    image.rewind().unwrap();
    image.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, len);
    read(&bytes)
}

/// Bytes as a sequence of decisions; zeros after the end.
struct Decisions<'d>(&'d [u8]);

impl Decisions<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    fn meta(&mut self) -> Meta {
        let mut xattrs = Xattrs::default();
        for _ in 0..self.byte() % 4 {
            let namespace =
                ["user.", "trusted.", "security.", "other."][usize::from(self.byte() % 4)];
            let len = usize::from(self.byte() % 40);
            let name = [namespace.as_bytes(), &self.bytes(len)].concat();
            let len = usize::from(self.byte());
            let value = self.bytes(len);
            // A name with a NUL, for example, is refused.
            _ = xattrs.set(&name, &value);
        }
        Meta {
            mode: (self.number() & 0o7777) as u16,
            uid: self.number(),
            gid: self.number(),
            mtime: Time {
                seconds: i64::from(self.number() as i32),
                nanos: self.number() % 1_000_000_000,
            },
            xattrs,
        }
    }

    /// A name that is not one of `known`.
    fn name(&mut self, dir: &[u8], known: &BTreeMap<Vec<u8>, Wanted>) -> Option<Vec<u8>> {
        let (first, len) = (self.byte(), usize::from(self.byte()));
        let mut name = vec![first; 1 + len % 255];
        name[0] = self.byte();
        let is_good = !name.iter().any(|b| matches!(b, 0 | b'/')) && name != b"." && name != b"..";
        (is_good && !known.contains_key(&path(dir, &name))).then_some(name)
    }
}

fn path(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

/// What the reader has to find: attributes and content.
type Wanted = (Meta, Content);

/// What is written is read back.
pub fn erofs(data: &[u8]) -> bool {
    if data.len() > 64 << 10 {
        return false;
    }
    let (image, len, wanted) = write(Decisions(data));
    compare(&read_back(&image, len), &wanted);
    true
}

/// Reading a damaged image ends, with or without an error.
pub fn erofs_damaged(data: &[u8]) -> bool {
    if data.len() > 64 << 10 {
        return false;
    }
    let mut decide = Decisions(data);
    let has_checksum = decide.byte() % 2 == 0;
    let changes: Vec<_> =
        (0..decide.byte() % 16).map(|_| (decide.number(), decide.byte())).collect();
    let (image, len, _) = write(decide);
    for (place, byte) in changes {
        // Inodes are near the start, and directories near the end.
        let at = u64::from(place & 0xffff) % len;
        let at = if place >> 31 == 0 { at } else { len - 1 - at };
        image.write_all_at(&[byte], at).unwrap();
    }
    if has_checksum {
        let mut front = [0; BLOCK_LEN];
        image.read_exact_at(&mut front, 0).unwrap();
        set_checksum(&mut front[SUPER_AT as usize..]);
        image.write_all_at(&front, 0).unwrap();
    }
    read_all(&image).is_ok()
}

/// Reads every inode and all content. A damaged directory can contain itself, so the number of names is bounded.
fn read_all(image: &File) -> io::Result<()> {
    let image = Image::open(image)?;
    let (mut names_left, mut bytes_left, mut dirs) = (2 * NAMES, CONTENT, vec![image.root()]);
    while let Some(dir) = dirs.pop() {
        image.dir(&image.inode(dir)?, |_, nid| {
            names_left = names_left.checked_sub(1).ok_or(io::ErrorKind::QuotaExceeded)?;
            let inode = image.inode(nid)?;
            match inode.kind {
                InodeKind::Dir => dirs.push(nid),
                InodeKind::Symlink => drop(image.target(&inode)?),
                InodeKind::Special(_) => {}
                InodeKind::File(_) => image.content(&inode, |_, piece| {
                    let left = bytes_left.checked_sub(piece.len() as u64);
                    bytes_left = left.ok_or(io::ErrorKind::QuotaExceeded)?;
                    Ok(())
                })?,
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Writes the image of the tree that the bytes describe. Returns its length, and what a reader has to find.
fn write(mut decide: Decisions<'_>) -> (File, u64, BTreeMap<Vec<u8>, Wanted>) {
    let image = memory_file();
    let mut writer = Writer::new(&image);
    let root = decide.meta();
    let mut tree = Tree::new(root.clone());
    let mut dirs: Vec<(Vec<u8>, DirId)> = vec![(Vec::new(), Tree::ROOT)];
    let mut inodes: Vec<(Inode, Wanted)> = Vec::new();
    let mut wanted = BTreeMap::from([(Vec::new(), (root, Content::Dir))]);
    while !decide.0.is_empty() && wanted.len() < NAMES {
        let (kind, dir) = (decide.byte() % 8, usize::from(decide.byte()) % dirs.len());
        let (dir_path, dir) = dirs[dir].clone();
        let Some(name) = decide.name(&dir_path, &wanted) else { continue };
        let full = path(&dir_path, &name);
        if kind == 0 {
            let meta = decide.meta();
            let made = tree.add_dir(dir, &name, meta.clone()).unwrap();
            dirs.push((full.clone(), made));
            wanted.insert(full, (meta, Content::Dir));
            continue;
        }
        if kind == 1 && !inodes.is_empty() {
            let (inode, known) = &inodes[usize::from(decide.byte()) % inodes.len()];
            tree.link(dir, &name, *inode).unwrap();
            wanted.insert(full, known.clone());
            continue;
        }
        let meta = decide.meta();
        let (inode, content) = match kind {
            2 => {
                let target = vec![b'a' + decide.byte() % 26; 1 + usize::from(decide.byte()) * 16];
                (writer.symlink(&meta, &target).unwrap(), Content::Symlink(target))
            }
            3 => (writer.special(&meta, Special::Fifo).unwrap(), Content::None),
            4 => sparse(&mut writer, &meta, &mut decide),
            _ => {
                let len = decide.number() as usize % 10_000;
                let content = vec![decide.byte(); len];
                let mut file = writer.file(&meta, len as u64).unwrap();
                content
                    .chunks(1 + usize::from(decide.byte()) * 8)
                    .for_each(|piece| file.write(piece).unwrap());
                (file.finish().unwrap(), Content::File(content))
            }
        };
        tree.add(dir, &name, inode).unwrap();
        inodes.push((inode, (meta.clone(), content.clone())));
        wanted.insert(full, (meta, content));
    }
    let len = writer.finish(tree, [7; 16]).unwrap();
    (image, len, wanted)
}

/// A file with holes.
fn sparse(writer: &mut Writer<&File>, meta: &Meta, decide: &mut Decisions<'_>) -> (Inode, Content) {
    let (mut at, mut extents, mut content) = (0, Vec::new(), Vec::new());
    for _ in 0..decide.byte() % 6 {
        let (hole, len) = (decide.number() % 40_000, 1 + decide.number() % 9_000);
        at += u64::from(hole);
        extents.push(Extent { offset: at, len: u64::from(len) });
        content.resize(at as usize, 0);
        at += u64::from(len);
        content.resize(at as usize, decide.byte());
    }
    at += u64::from(decide.number() % 40_000);
    content.resize(at as usize, 0);
    let mut file = writer.sparse_file(meta, at, &extents).unwrap();
    for Extent { offset, len } in &extents {
        file.write(&content[*offset as usize..(offset + len) as usize]).unwrap();
    }
    (file.finish().unwrap(), Content::File(content))
}

fn compare(found: &Read, wanted: &BTreeMap<Vec<u8>, Wanted>) {
    assert!(found.names.keys().eq(wanted.keys()));
    for (path, (meta, content)) in wanted {
        let found = &found.names[path];
        let shown = path.escape_ascii();
        assert_eq!(found.content, *content, "{shown}");
        let attributes = (found.mode & 0o7777, found.uid, found.gid, found.mtime);
        let time = (meta.mtime.seconds, meta.mtime.nanos);
        assert_eq!(attributes, (meta.mode, meta.uid, meta.gid, time), "{shown}");
        assert!(
            found.xattrs.iter().eq(&meta.xattrs.named().collect::<BTreeMap<_, _>>()),
            "{shown}"
        );
    }
}
