//! Compares EROFS images in the kernel with their source: packs a real tree with the system's tar, unpacks it with this
//! program, mounts the image, and compares all files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use ovl::changeset::{Limits, Unpacked, layer_to_erofs};
use ovl::erofs::{Meta, Tree, Writer};
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A mounted image file. It is unmounted and deleted when dropped.
struct Mounted {
    dir: TempDir,
}

impl Mounted {
    fn new(dir: TempDir) -> Self {
        let (image, target) = (dir.path().join("image"), dir.path().join("mounted"));
        fs::create_dir(&target).unwrap();
        mount(&image, &target, "erofs", MountFlags::RDONLY, None).unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.root(), UnmountFlags::DETACH).unwrap();
    }
}

/// The state of a file, by lstat, readlink, read and listxattr.
#[derive(Debug, PartialEq, Eq)]
struct FileState {
    mode: u32,
    owner: (u32, u32),
    nlink: u64,
    mtime: (i64, i64),
    rdev: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn state_of(path: &Path) -> FileState {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let content = if kind.is_file() {
        fs::read(path).unwrap()
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    FileState {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        nlink: meta.nlink(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        rdev: meta.rdev(),
        content,
        xattrs: xattrs(path),
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = llistxattr(path, names.as_mut_slice()).unwrap();
    let names = names[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// All paths below `root`, sorted. The root itself is the empty path.
fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while next < found.len() {
        let path = root.join(&found[next]);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                found.push(found[next].join(entry.unwrap().file_name()));
            }
        }
        next += 1;
    }
    found.sort();
    found
}

fn compare(expected: &Path, mounted: &Path) {
    let paths = walk(expected);
    assert_eq!(walk(mounted), paths);
    let mut inodes = BTreeMap::new();
    for path in paths {
        assert_eq!(state_of(&mounted.join(&path)), state_of(&expected.join(&path)), "{path:?}");
        let ino = |root: &Path| fs::symlink_metadata(root.join(&path)).unwrap().ino();
        let same = *inodes.entry(ino(expected)).or_insert(ino(mounted));
        assert_eq!(ino(mounted), same, "{path:?} is not the same inode as its hard links");
    }
}

/// Packs `tree` with the system's tar, unpacks it, and checks the image with fsck.erofs if it is installed.
fn pack_and_unpack(tree: &Path, dir: &Path) -> Unpacked {
    let mut tar = Command::new("tar")
        .args(["--format=pax", "--xattrs", "--xattrs-include=*", "--sort=name", "-c", "-C"])
        .arg(tree)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let image = File::create(dir.join("image")).unwrap();
    let stream = tar.stdout.take().unwrap();
    let unpacked = layer_to_erofs(stream, *b"0123456789abcdef", &image, &Limits::default());
    assert!(tar.wait().unwrap().success());
    check(&dir.join("image"));
    unpacked.unwrap()
}

/// Checks an image with fsck.erofs. A machine without it (Debian: erofs-utils) skips only this check.
fn check(image: &Path) {
    match Command::new("fsck.erofs").arg(image).output() {
        Ok(fsck) => {
            let output = String::from_utf8_lossy(&fsck.stdout).into_owned();
            assert!(fsck.status.success(), "{output}{}", String::from_utf8_lossy(&fsck.stderr));
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
    }
}

fn set_time(path: &Path, nanos: u32) {
    let time = UNIX_EPOCH + Duration::new(1_600_000_000, nanos);
    let file = File::options().read(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

/// Makes files with lengths around block sizes, names of many lengths and orders, every kind of inode that tar packs
/// for a layer, and small and large attributes.
fn make_tree(root: &Path) {
    let set = |path: &Path, name: &str, value: &[u8]| {
        lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    let lengths =
        [0, 1, 31, 4000, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 12_000, 1 << 20, 3_000_001];
    for len in lengths {
        let path = root.join(format!("{len:07}"));
        let content: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        fs::write(&path, content).unwrap();
        set(&path, "user.length", len.to_string().as_bytes());
        chown(&path, Some(70_000 + len), Some(4_000_000_000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4000 + len % 0o1000)).unwrap();
        set_time(&path, len * 7 + 1);
    }
    for name in ["!", "-", ".-", "...", "..a", "\u{1}", "\u{10ffff}"] {
        fs::write(root.join(name), name).unwrap();
    }
    let deep = root.join("deep/er/and/deeper");
    fs::create_dir_all(&deep).unwrap();
    fs::set_permissions(root.join("deep"), fs::Permissions::from_mode(0o1777)).unwrap();
    set(&root.join("deep/er"), "trusted.t", &[b'x'; 3000]);
    for i in 0..300 {
        fs::write(deep.join(format!("{i:03}{}", "n".repeat(252))), i.to_string()).unwrap();
    }
    set(&deep.join(format!("007{}", "n".repeat(252))), "security.capability", CAPABILITY);
    fs::hard_link(root.join("0000031"), deep.join("link")).unwrap();
    fs::hard_link(root.join("0000031"), root.join("link")).unwrap();
    symlink("0000031", root.join("symlink")).unwrap();
    symlink("l".repeat(4000), root.join("long symlink")).unwrap();
    lchown(root.join("symlink"), Some(5), Some(6)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    set_time(&root.join("empty"), 999_999_999);
    set(root, "user.root", &[b'r'; 3500]);
}

/// The value of `security.capability` for cap_net_raw, permitted and effective.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
#[ignore = "needs root"]
fn privileged_a_tree_is_the_same_in_a_mounted_image() {
    let (tree, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    make_tree(tree.path());
    let unpacked = pack_and_unpack(tree.path(), dir.path());
    let image = fs::metadata(dir.path().join("image")).unwrap();
    assert_eq!(image.len(), unpacked.image_bytes);
    assert!(unpacked.image_bytes < unpacked.tar_bytes, "{unpacked:?}");
    let mounted = Mounted::new(dir);
    compare(tree.path(), &mounted.root());
    assert_eq!(xattrs(&mounted.root())[b"user.root".as_slice()], [b'r'; 3500]);
}

#[test]
#[ignore = "needs root"]
fn privileged_a_directory_of_100_000_entries_is_the_same_in_a_mounted_image() {
    let (tree, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let many = tree.path().join("many");
    fs::create_dir(&many).unwrap();
    fs::write(many.join("0"), "").unwrap();
    for i in 1..100_000 {
        // Hard links of few inodes, which are faster to make. The test is about the directory.
        let old = many.join((i / 50_000 * 50_000).to_string());
        match fs::hard_link(&old, many.join(i.to_string())) {
            Ok(()) => {}
            Err(_) => fs::write(many.join(i.to_string()), "").unwrap(),
        }
    }
    pack_and_unpack(tree.path(), dir.path());
    let mounted = Mounted::new(dir);
    compare(tree.path(), &mounted.root());
    let none = fs::symlink_metadata(mounted.root().join("many/100000")).unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::NotFound);
}

/// Packs the sparse files of `tree` with the system's tar and `options`, unpacks them, and compares them in the mounted
/// image.
fn compare_sparse(tree: &Path, options: &[&str]) {
    let dir = TempDir::new().unwrap();
    let mut tar = Command::new("tar")
        .args(options)
        .args(["--sparse", "--sort=name", "-c", "-C"])
        .arg(tree)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let image = File::create(dir.path().join("image")).unwrap();
    let stream = tar.stdout.take().unwrap();
    let unpacked = layer_to_erofs(stream, [5; 16], &image, &Limits::default()).unwrap();
    assert!(tar.wait().unwrap().success());
    check(&dir.path().join("image"));
    assert!(unpacked.image_bytes < 4 << 20, "{options:?}: {unpacked:?}");
    let mounted = Mounted::new(dir);
    for name in ["all hole", "ends", "scattered", "whole"] {
        let (expected, found) = (tree.join(name), mounted.root().join(name));
        assert!(fs::read(&expected).unwrap() == fs::read(&found).unwrap(), "{options:?}: {name}");
    }
    let large = File::open(mounted.root().join("large")).unwrap();
    assert_eq!(large.metadata().unwrap().len(), LARGE);
    for (at, expected) in [(0, [0; 4]), (LARGE / 2, *b"half"), (LARGE - 4, *b"last")] {
        let mut found = [1; 4];
        large.read_exact_at(&mut found, at).unwrap();
        assert_eq!(found, expected, "{options:?}: at {at}");
    }
}

/// More bytes than 32 bits can count.
const LARGE: u64 = (6 << 30) + 4;

#[test]
#[ignore = "needs root"]
fn privileged_sparse_files_of_every_tar_format_are_the_same_in_a_mounted_image() {
    let tree = TempDir::new().unwrap();
    let make = |name: &str, len: u64, parts: &[(u64, &[u8])]| {
        let file = File::create(tree.path().join(name)).unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
    };
    let block = [b'x'; 8192];
    make("all hole", 10_000_000, &[]);
    make("ends", 1_000_001, &[(0, b"begin"), (999_998, b"end")]);
    let scattered: Vec<_> = (0..60).map(|i| (i * 65_536 + 512, &block[..])).collect();
    make("scattered", 5_000_000, &scattered);
    make("whole", 8192, &[(0, &block)]);
    make("large", LARGE, &[(LARGE / 2, b"half"), (LARGE - 4, b"last")]);
    for options in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        compare_sparse(tree.path(), options);
    }
}

/// An output that leaves holes for large writes, which are zeros in this test.
struct Holes(File);

impl Write for Holes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() >= 1 << 20 {
            self.0.seek(SeekFrom::Current(bytes.len() as i64))?;
            return Ok(bytes.len());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Holes {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_a_file_above_4_gib_and_large_xattrs_are_the_same_in_a_mounted_image() {
    const SIZE: u64 = (5 << 30) + 10;
    let dir = TempDir::new().unwrap();
    let mut writer = Writer::new(Holes(File::create(dir.path().join("image")).unwrap()));
    // user::rwx, user:1337:rw-, group::r-x, mask::rwx, other::r-x
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x06\0\x39\x05\0\0\
        \x04\0\x05\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    let mut meta = Meta { mode: 0o755, ..Meta::default() };
    meta.xattrs.set(b"system.posix_acl_access", acl).unwrap();
    meta.xattrs.set(b"user.large", &[b'v'; 65_535]).unwrap();
    let mut tree = Tree::new(meta.clone());
    let mut file = writer.file(&meta, SIZE).unwrap();
    let zeros = vec![0; 16 << 20];
    for _ in 0..SIZE / zeros.len() as u64 {
        file.write(&zeros).unwrap();
    }
    file.write(b"0123456789").unwrap();
    let inode = file.finish().unwrap();
    tree.add(Tree::ROOT, b"large", inode).unwrap();
    let behind = writer.file(&meta, 0).unwrap().finish().unwrap();
    tree.add(Tree::ROOT, b"behind", behind).unwrap();
    writer.finish(tree, [1; 16]).unwrap();

    let mounted = Mounted::new(dir);
    let large = File::open(mounted.root().join("large")).unwrap();
    assert_eq!(large.metadata().unwrap().len(), SIZE);
    let mut end = [0; 12];
    large.read_exact_at(&mut end, SIZE - 12).unwrap();
    assert_eq!(&end, b"\0\x000123456789");
    for name in ["large", "behind", "."] {
        let xattrs = xattrs(&mounted.root().join(name));
        assert_eq!(xattrs[b"system.posix_acl_access".as_slice()], acl, "{name}");
        assert_eq!(xattrs[b"user.large".as_slice()], [b'v'; 65_535], "{name}");
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_an_image_of_a_truncated_layer_does_not_mount() {
    let (tree, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(tree.path().join("file"), [b'x'; 100_000]).unwrap();
    let tar =
        Command::new("tar").args(["-c", "-C"]).arg(tree.path()).arg(".").output().unwrap().stdout;
    let image = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.path().join("image"))
        .unwrap();
    let truncated = tar.as_slice().take(50_000);
    layer_to_erofs(truncated, [0; 16], &image, &Limits::default()).unwrap_err();
    let target = dir.path().join("mounted");
    fs::create_dir(&target).unwrap();
    let path = dir.path().join("image");
    mount(&path, &target, "erofs", MountFlags::RDONLY, None).unwrap_err();
}
