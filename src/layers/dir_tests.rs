//! A layer's mounted EROFS image and the directory extracted from it show the same tree.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{lgetxattr, llistxattr};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::{
    changeset::{self, Limits},
    spill::Scratch,
    sys::mounts::{LinuxMounts, mount_image},
};

/// What a reader sees of one name in either format: mode, uid, gid, mtime, number of links, content and xattrs. Not the
/// inode number, nor the other names of the inode.
type Observed = (u32, u32, u32, (i64, i64), u64, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>);

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(1_000);
    header.set_gid(2_000);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header
}

/// A layer with every kind of entry, and with a file of `large` bytes.
fn layer(large: usize) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut put = |name: &str, kind, mode, content: &[u8]| {
        let mut header = header(kind, mode, content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    put("etc/", EntryType::Directory, 0o751, b"");
    put("etc/shadow", EntryType::Regular, 0o640, b"secret");
    put("bin/", EntryType::Directory, 0o755, b"");
    put("bin/su", EntryType::Regular, 0o4755, &[7; 10_000]);
    put("large", EntryType::Regular, 0o644, &vec![3; large]);
    put("empty", EntryType::Regular, 0o000, b"");
    put("pipe", EntryType::Fifo, 0o622, b"");
    put("zeros", EntryType::Regular, 0o600, &vec![0; large]);
    // Some tools write the size of the target into the header of a symlink.
    let mut sized = header(EntryType::Symlink, 0o777, 4096);
    sized.set_link_name("etc").unwrap();
    sized.set_path("sized").unwrap();
    sized.set_cksum();
    tar.append(&sized, &b""[..]).unwrap();
    for (name, kind, major, minor) in
        [("null", EntryType::Char, 1, 3), ("disk", EntryType::Block, 259, 70_000)]
    {
        let mut device = header(kind, 0o4666, 0);
        device.set_device_major(major).unwrap();
        device.set_device_minor(minor).unwrap();
        tar.append_data(&mut device, name, &b""[..]).unwrap();
    }
    let mut put = |name: &str, kind, mode, content: &[u8]| {
        let mut header = header(kind, mode, content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    put(".wh.gone", EntryType::Regular, 0o644, b"");
    put("new/", EntryType::Directory, 0o755, b"");
    put("new/deep/", EntryType::Directory, 0o755, b"");
    put("new/deep/er/", EntryType::Directory, 0o755, b"");
    put("new/.wh..wh..opq", EntryType::Regular, 0o644, b"");
    put("new/deep/er/file", EntryType::Regular, 0o644, b"x");
    for name in ["a", "new/b", "new/deep/c"] {
        let mut link = header(EntryType::Link, 0o644, 0);
        tar.append_link(&mut link, name, "etc/shadow").unwrap();
    }
    let mut link = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut link, "escape", "/etc/../../..").unwrap();
    tar.append_pax_extensions([
        ("SCHILY.xattr.user.colour", &b"green"[..]),
        ("mtime", b"1.000000002"),
    ])
    .unwrap();
    tar.append_data(&mut header(EntryType::Regular, 0o600, 1), "marked", &b"y"[..]).unwrap();
    tar.into_inner().unwrap()
}

fn is_device(m: &fs::Metadata) -> bool {
    m.file_type().is_char_device() || m.file_type().is_block_device()
}

fn observe(root: &Path) -> BTreeMap<PathBuf, Observed> {
    let (mut all, mut next) = (BTreeMap::new(), vec![PathBuf::new()]);
    let mut by_inode = BTreeMap::new();
    while let Some(path) = next.pop() {
        let full = root.join(&path);
        let m = if path.as_os_str().is_empty() {
            fs::metadata(&full)
        } else {
            fs::symlink_metadata(&full)
        };
        let m = m.unwrap();
        let content = if m.is_dir() {
            next.extend(
                fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())),
            );
            Vec::new()
        } else if m.is_symlink() {
            fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes()
        } else if m.file_type().is_fifo() || is_device(&m) {
            m.rdev().to_string().into_bytes()
        } else {
            fs::read(&full).unwrap()
        };
        let mut names = vec![0; 4096];
        let length =
            if path.as_os_str().is_empty() { 0 } else { llistxattr(&full, &mut names).unwrap() };
        let xattrs =
            names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()).map(|name| {
                let mut value = vec![0; 4096];
                let length = lgetxattr(&full, name, &mut value).unwrap();
                (name.to_vec(), value[..length].to_vec())
            });
        let whiteout = is_device(&m) && m.rdev() == 0;
        let links = if m.is_dir() || whiteout { 0 } else { m.nlink() };
        let time = if whiteout { (0, 0) } else { (m.mtime(), m.mtime_nsec()) };
        all.insert(
            path.clone(),
            (m.mode(), m.uid(), m.gid(), time, links, content, xattrs.collect()),
        );
        if links > 1 {
            by_inode.entry(m.ino()).or_insert_with(Vec::new).push(path);
        }
    }
    assert_eq!(by_inode.len(), 1, "one file has several names");
    all
}

#[test]
#[ignore = "privileged: mounts"]
fn privileged_an_erofs_image_and_a_directory_show_the_same_tree() {
    let directory = TempDir::new().unwrap();
    let image_path = directory.path().join("layer.erofs");
    let image =
        fs::File::options().read(true).write(true).create_new(true).open(&image_path).unwrap();
    let limits = Limits::default();
    changeset::layer_to_erofs(&*layer(3 << 20), [9; 16], &image, &limits).unwrap();
    let to = directory.path().join("diff");
    fs::create_dir(&to).unwrap();
    lay_out(&image, &to, &Scratch::default()).unwrap();

    let mounted = mount_image(&LinuxMounts, &image_path).unwrap();
    let mounted = mounted.path();
    let (image, dir) = (observe(&mounted), observe(&to));
    assert_eq!(image.len(), 22, "{:?}", image.keys());
    assert_eq!(image, dir);
    let zeros = fs::metadata(to.join("zeros")).unwrap();
    assert!(zeros.len() == 3 << 20 && zeros.blocks() == 0, "{} blocks", zeros.blocks());
}

#[test]
fn a_corrupt_superblock_is_an_error_and_reading_a_corrupt_image_ends() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("layer.erofs");
    let image = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    changeset::layer_to_erofs(&*layer(10_000), [9; 16], &image, &Limits::default()).unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() < 256 << 10, "the image is too large to corrupt all of it");
    // Only the superblock's block has a checksum. With any other corruption, reading has to end.
    for at in (0..whole.len()).step_by(211) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        let to = directory.path().join(at.to_string());
        fs::create_dir(&to).unwrap();
        let done = lay_out(&fs::File::open(&path).unwrap(), &to, &Scratch::default());
        assert!(done.is_err() || !(1024..4096).contains(&at), "byte {at}");
        fs::remove_dir_all(&to).unwrap();
    }
}
