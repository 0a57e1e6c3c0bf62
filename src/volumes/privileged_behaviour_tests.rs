//! Tests of the statements in `docs/volumes.md` on each kernel, with system calls only and no programs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{SeekFrom, XattrFlags, inotify, ioctl_ficlone, seek},
    io::Errno,
};

use super::{
    privileged_tests::{Node, read},
    *,
};
use crate::{image::fake::FakeRegistry, overlay::Xino, sys::host};

/// The size of a file in bytes: a whole page, because a mapping shows whole pages.
const PAGE: usize = 4096;

/// The xattr in which Linux keeps a POSIX ACL.
const ACL: &str = "system.posix_acl_access";

/// The offset in bytes of the only data in the sparse file.
const ISLAND: u64 = 8 << 20;

/// The length in bytes of the sparse file: data between two holes.
const SPARSE: u64 = 16 << 20;

/// A layer with the files of these tests: files of one page, one with two names, and one with holes.
fn layer() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    for name in ["one", "two", "three", "linked"] {
        header.set_size(PAGE as u64);
        tar.append_data(&mut header, name, &[b'a'; PAGE][..]).unwrap();
    }
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Link);
    tar.append_link(&mut header, "second", "linked").unwrap();
    let sparse = File::create(dir.path().join("sparse")).unwrap();
    sparse.set_len(SPARSE).unwrap();
    sparse.write_all_at(&[b'a'; PAGE], ISLAND).unwrap();
    // The tar builder writes a file with holes as a sparse entry.
    tar.append_path_with_name(dir.path().join("sparse"), "sparse").unwrap();
    tar.into_inner().unwrap()
}

/// A node with one volume of that layer.
async fn volume(id: &str, change: impl FnOnce(&mut VolumeSpec)) -> (Node, PathBuf) {
    let registry = FakeRegistry::start().await;
    registry.push_image("behaviour", "1", &[layer()], true);
    let node = Node::new(&registry);
    let mut spec =
        VolumeSpec { images: vec![registry.reference("behaviour", "1")], ..VolumeSpec::default() };
    change(&mut spec);
    node.volumes.publish(node.request(id, spec)).await.unwrap();
    let at = node.target(id);
    (node, at)
}

/// Appends a byte to a file, which copies it up.
fn append(path: &Path) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"b").unwrap();
}

/// A file's first page, mapped shared and read-only.
struct Mapping(*mut libc::c_void);

impl Mapping {
    fn of(file: &File) -> Self {
        // SAFETY: the kernel chooses the address. The mapping is one page, and its descriptor is open.
        let at = unsafe {
            let (at, fd) = (std::ptr::null_mut(), file.as_raw_fd());
            libc::mmap(at, PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self(at)
    }

    /// The first byte that the mapping shows now.
    fn first(&self) -> u8 {
        // SAFETY: the mapping is a page long and lives until it is dropped. The read is volatile because the file
        // changes.
        unsafe { self.0.cast::<u8>().read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and no reference into it exists.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_descriptor_follows_a_copy_up_and_a_mapping_does_not() {
    let (node, at) = volume("followed", |spec| spec.pre_copy_up = vec!["two".into()]).await;
    for (name, mapping_shows) in [("one", b'a'), ("two", b'b')] {
        let mut reader = File::open(at.join(name)).unwrap();
        let mapping = Mapping::of(&reader);
        assert_eq!(mapping.first(), b'a');
        OpenOptions::new().write(true).open(at.join(name)).unwrap().write_all(b"b").unwrap();
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b", "{name}: the descriptor was opened before the copy-up");
        assert_eq!(mapping.first(), mapping_shows, "{name}");
        assert_eq!(Mapping::of(&reader).first(), mapping_shows, "{name}: mapped again");
        assert_eq!(Mapping::of(&File::open(at.join(name)).unwrap()).first(), b'b', "{name}");
    }
    node.unpublish("followed").await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_file_with_one_name_keeps_its_inode_number_at_copy_up() {
    for xino in [Xino::Off, Xino::Auto] {
        let (node, at) = volume("numbered", |spec| spec.options.xino = xino).await;
        let number = |name: &str| {
            let found = fs::metadata(at.join(name)).unwrap();
            (found.dev(), found.ino())
        };
        let before = (number("one"), number("linked"));
        for name in ["one", "linked"] {
            append(&at.join(name));
        }
        assert_eq!(number("one"), before.0, "{xino:?}");
        assert_ne!(number("linked"), before.1, "{xino:?}: it is a file of its own now");
        assert_eq!(number("second"), before.1, "{xino:?}");
        node.unpublish("numbered").await;
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_copy_up_separates_hard_links_unless_index_is_on() {
    for (index, second) in [(false, PAGE), (true, PAGE + 1)] {
        let (node, at) = volume("parted", |spec| spec.options.index = index).await;
        append(&at.join("linked"));
        assert_eq!(fs::metadata(at.join("linked")).unwrap().len(), PAGE as u64 + 1);
        let len = fs::metadata(at.join("second")).unwrap().len();
        assert_eq!(len, second as u64, "index: {index}");
        node.unpublish("parted").await;
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_an_inotify_watch_sees_writes_after_the_copy_up() {
    let (node, at) = volume("watched", |_| {}).await;
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let modified = inotify::WatchFlags::MODIFY;
    inotify::add_watch(&watch, at.join("one"), modified).unwrap();
    append(&at.join("one"));
    let mut buffer = [MaybeUninit::uninit(); 256];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    assert!(events.next().unwrap().events().contains(inotify::ReadFlags::MODIFY));
    drop(watch);
    node.unpublish("watched").await;
}

/// A POSIX ACL in the xattr's format: the owner reads and writes, user 1000 and the others read.
fn acl_xattr() -> Vec<u8> {
    const UNDEFINED_ID: u32 = u32::MAX;
    let entries = [
        (0x01_u16, 6_u16, UNDEFINED_ID),
        (0x02, 4, 1000),
        (0x04, 4, UNDEFINED_ID),
        (0x10, 4, UNDEFINED_ID),
        (0x20, 4, UNDEFINED_ID),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Before the kernel copies the file up, it looks for the lower inode's operation to set an ACL, and EROFS has none.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_an_acl_can_be_set_only_after_the_copy_up() {
    let (node, at) = volume("listed", |spec| spec.pre_copy_up = vec!["two".into()]).await;
    let set =
        |name: &str| rustix::fs::setxattr(at.join(name), ACL, &acl_xattr(), XattrFlags::empty());
    let has = |name: &str| rustix::fs::getxattr(at.join(name), ACL, &mut [0_u8; 64]).is_ok();
    assert_eq!(set("one"), Err(Errno::OPNOTSUPP));
    assert!(!has("one"));
    set("two").unwrap();
    assert!(has("two"), "preCopyUp");

    let mode = fs::metadata(at.join("three")).unwrap().permissions().mode();
    fs::set_permissions(at.join("three"), fs::Permissions::from_mode(mode)).unwrap();
    set("three").unwrap();
    assert!(has("three"), "chmod to the same mode");
    let upper = node.dir.path().join("store/volumes/listed/upper/three");
    assert!(fs::metadata(upper).unwrap().blocks() * 512 <= PAGE as u64, "its data were copied");
    node.unpublish("listed").await;
}

/// Whether the running kernel has at least this version.
fn is_at_least(major: u32, minor: u32) -> bool {
    let release = host::release();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// The start and the end of the first data in a file, as `lseek(2)` reports them.
fn data(path: &Path) -> (u64, u64) {
    let file = File::open(path).unwrap();
    let begin = seek(&file, SeekFrom::Data(0)).unwrap();
    (begin, seek(&file, SeekFrom::Hole(begin)).unwrap())
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_sparse_file_keeps_its_holes_in_the_layer_and_at_copy_up() {
    let (node, at) = volume("sparse", |_| {}).await;
    let path = at.join("sparse");
    let (begin, end) = data(&path);
    // EROFS of Linux 6.12 reports no holes, so all of the file is copied.
    let reports_holes = (begin, end) != (0, SPARSE);
    assert!(reports_holes || !is_at_least(6, 18), "holes of the layer are reported as data");
    if reports_holes {
        assert!(begin <= ISLAND && end > ISLAND, "{begin} to {end}");
        assert!(end - begin <= 64 << 10, "{begin} to {end}");
    }
    let reported = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(
        reported >= SPARSE,
        "{reported} bytes: docs/volumes.md says that a layer's file reports all its blocks"
    );
    append(&path);
    let copied = fs::metadata(node.dir.path().join("store/volumes/sparse/upper/sparse")).unwrap();
    // The kernel copies in chunks of 1 MiB.
    assert_eq!(copied.blocks() * 512 < SPARSE / 4, reports_holes, "{} blocks", copied.blocks());
    let mut island = [0; PAGE];
    File::open(&path).unwrap().read_exact_at(&mut island, ISLAND).unwrap();
    assert_eq!(island, [b'a'; PAGE]);
    node.unpublish("sparse").await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_layers_file_is_copied_and_not_shared_by_reflink() {
    let (node, at) = volume("unshared", |_| {}).await;
    let (from, to) = (File::open(at.join("one")).unwrap(), File::create(at.join("new")).unwrap());
    let shared = ioctl_ficlone(&to, &from);
    assert!(matches!(shared, Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL)), "{shared:?}");
    drop((from, to));
    fs::copy(at.join("one"), at.join("new")).unwrap();
    assert_eq!(read(at.join("new")), read(at.join("one")));
    node.unpublish("unshared").await;
}

/// Removing a file of a layer makes a whiteout, so a volume without free inodes cannot do it.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_full_volume_must_remove_its_own_files_first() {
    let limits = Limits { size: Some(1 << 20), inodes: Some(20), by_default: false };
    let in_memory = |spec: &mut VolumeSpec| {
        (spec.medium, spec.limits) = (Medium::Memory, limits);
    };
    let (node, at) = volume("full", in_memory).await;
    let created =
        (0..100).take_while(|n| fs::write(at.join(format!("new{n}")), "").is_ok()).count();
    assert!((10..=30).contains(&created), "{created} files where 20 are allowed");
    let error = fs::remove_file(at.join("one")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    fs::remove_file(at.join("new0")).unwrap();
    fs::remove_file(at.join("new1")).unwrap();
    fs::remove_file(at.join("one")).unwrap();
    node.unpublish("full").await;
}
