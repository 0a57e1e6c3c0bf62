//! Volumes under small limits: everything that can be captured can be packed, and everything that is packed can be
//! unpacked and is the same.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{MetadataExt as _, symlink},
    },
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    volumes::{Volumes, assert_same},
    *,
};
use crate::{
    budget::Budget,
    changeset::{layer_to_erofs, native_to_erofs},
    digest::Digest,
    erofs::test_reader::{Content, Read, read},
    error::Class,
    spill,
    sys::{
        clone::{CloneError, Round, TreeClone},
        test_dir::{Disk, TestDir},
        tree::Dir,
    },
};

const NAMES: [&[u8]; 5] = [b"a", b"b", b"c\xff", b".wh.d", &[b'n'; 255]];
const XATTRS: [&str; 4] = ["user.a", "user.b=c", "user.c", "user.a long name"];
const TIMES: [(i64, u32); 4] = [(0, 0), (-2_147_483_648, 5), (8_589_934_592, 0), (1, 999_999_999)];

#[derive(Debug, Clone)]
struct Item {
    path: Vec<usize>,
    kind: u8,
    size: u64,
    hole: u64,
    xattrs: Vec<(usize, usize)>,
    time: usize,
}

fn item() -> impl Strategy<Value = Item> {
    let name = prop_oneof![8 => 0..3_usize, 1 => 3..5_usize];
    let xattr = (prop_oneof![4 => Just(0), 1 => Just(1), 4 => 2..4_usize], 0..40_usize);
    let xattrs = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(xattr, 0..5)];
    let sizes = (0..9_000_u64, prop_oneof![6 => Just(0), 1 => 0..60_000_u64]);
    (prop::collection::vec(name, 0..6), 0..6_u8, sizes, xattrs, 0..TIMES.len()).prop_map(
        |(path, kind, (size, hole), xattrs, time)| Item { path, kind, size, hole, xattrs, time },
    )
}

/// Makes the items. An item that cannot be made is left out.
fn fill(root: &Path, items: &[Item]) {
    let mut with_attributes = Vec::new();
    for item in items {
        let name = |part: &usize| std::ffi::OsString::from_vec(NAMES[*part].to_vec());
        let path: PathBuf = root.join(item.path.iter().map(name).collect::<PathBuf>());
        let above = path.parent().filter(|_| path != root).unwrap_or(root);
        let _ = fs::create_dir_all(above);
        let takes_attributes = match item.kind {
            0 | 1 => fs::create_dir_all(&path).is_ok(),
            2 => {
                let _ = symlink("a", &path);
                false
            }
            3 => {
                let _ = fs::hard_link(root.join("a"), &path);
                false
            }
            _ => File::create_new(&path).is_ok_and(|mut file| {
                use std::io::Write as _;
                file.write_all(&vec![1; item.size as usize]).unwrap();
                file.set_len(item.size + item.hole).is_ok()
            }),
        };
        if takes_attributes {
            with_attributes.push((path, item));
        }
    }
    // The innermost first, because making something in a directory changes its time.
    with_attributes.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
    for (path, item) in with_attributes {
        let values: Vec<_> = item.xattrs.iter().map(|(_, len)| vec![b'v'; *len]).collect();
        let named = item.xattrs.iter().map(|(name, _)| XATTRS[*name]);
        let xattrs: Vec<_> = named.zip(values.iter().map(Vec::as_slice)).collect();
        give(&path, 0o755, TIMES[item.time], &xattrs);
    }
}

/// Every path with a description of what is there.
fn described(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let (mut described, mut next) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(path) = next.pop() {
        let full = root.join(&path);
        let is = fs::symlink_metadata(&full).unwrap();
        let content = if is.is_dir() {
            next.extend(
                fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())),
            );
            "directory".to_owned()
        } else if is.is_symlink() {
            format!("{:?}", fs::read_link(&full).unwrap().as_os_str().as_bytes())
        } else {
            let mut bytes = Vec::new();
            File::open(&full).unwrap().read_to_end(&mut bytes).unwrap();
            Digest::of(&bytes).to_string()
        };
        let mut xattrs = BTreeMap::new();
        if !is.is_symlink() {
            let mut names = [0; 4096];
            let len = rustix::fs::listxattr(&full, &mut names).unwrap();
            for name in
                names[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."))
            {
                let mut value = [0; 4096];
                let len = rustix::fs::getxattr(&full, name, &mut value).unwrap();
                xattrs.insert(name.to_vec(), value[..len].to_vec());
            }
        }
        let (mode, time) = (is.mode(), (is.mtime(), is.mtime_nsec()));
        let links = if is.is_dir() { 0 } else { is.nlink() };
        let is = format!("{mode:o} {time:?} {links} {xattrs:?} {content}");
        described.insert(path.as_os_str().as_bytes().to_vec(), is);
    }
    described
}

/// The same for an image.
fn unpacked(read: &Read) -> BTreeMap<Vec<u8>, String> {
    let of = |found: &crate::erofs::test_reader::Found| {
        let content = match &found.content {
            Content::Dir => "directory".to_owned(),
            Content::Symlink(target) => format!("{target:?}"),
            Content::File(bytes) => Digest::of(bytes).to_string(),
            other => format!("{other:?}"),
        };
        let links = if found.content == Content::Dir { 0 } else { found.nlink };
        let (mode, time) = (found.mode, (found.mtime.0, i64::from(found.mtime.1)));
        format!("{mode:o} {time:?} {links} {:?} {content}", found.xattrs)
    };
    read.names.iter().map(|(path, found)| (path.clone(), of(found))).collect()
}

fn unpack(
    format: Format,
    tar: &[u8],
    limits: &Limits,
) -> Result<Read, crate::changeset::UnpackError> {
    let path = tempfile::NamedTempFile::new().unwrap();
    let image = File::options().read(true).write(true).open(path.path()).unwrap();
    let unpack = match format {
        Format::Portable => layer_to_erofs,
        Format::Native => native_to_erofs,
    };
    unpack(tar, [7; 16], &image, limits)?;
    Ok(read(&fs::read(path.path()).unwrap()))
}

fn small() -> Limits {
    Limits {
        entries: 9,
        depth: 4,
        xattr_bytes: 64,
        root_xattrs: 1,
        tar_bytes: 60_000,
        memory: 1,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_captured_tree_can_be_packed_and_a_packed_tree_can_be_unpacked(
        items in prop::collection::vec(item(), 0..9),
        common in any::<bool>(),
    ) {
        let limits = if common { Limits::default() } else { small() };
        let scratch = TestDir::new();
        let [from, to, aside] = ["from", "to", "aside"].map(|name| scratch.dir(name));
        fill(&from, &items);
        let mut clone =
            TreeClone::new(&from, &to, &aside, limits.bounds(), &spill::Scratch::default()).unwrap();
        clone.sync().unwrap();
        let captured = clone.catch_up(Round::PreCopy, &|| true);
        match &captured {
            Ok(()) => prop_assert_eq!(described(&to), described(&from)),
            Err(CloneError::ExceedsBound { .. } | CloneError::TooMany(_)) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
        let tree = LinuxMounts.open_dir(&from).unwrap();
        for format in [Format::Portable, Format::Native] {
            let (packing, mut out) = (packing(format, Compression::None), Vec::new());
            match pack(&[&tree], &tree, &packing, &limits, &mut out) {
                Ok(_) => {
                    let read = unpack(format, &out, &limits);
                    prop_assert!(read.is_ok(), "packed, but not unpacked: {}", read.unwrap_err());
                    prop_assert_eq!(unpacked(&read.unwrap()), described(&from));
                }
                // The format is chosen after the capture.
                Err(PackError::Reserved(_)) => {
                    prop_assert_eq!(format, Format::Portable);
                }
                Err(error) => prop_assert!(captured.is_err(), "captured, but not packed: {error}"),
            }
        }
    }
}

/// No entry follows these directories, at which the size would be checked.
#[test]
fn the_last_directories_count_for_the_size_of_the_tar() {
    let scratch = TestDir::new();
    let [from, to, aside] = ["from", "to", "aside"].map(|name| scratch.dir(name));
    let item = |path: Vec<usize>, kind, size, hole| {
        let xattrs = Vec::new();
        Item { path, kind, size, hole, xattrs, time: 1 }
    };
    fill(&from, &[item(vec![1, 0, 0], 0, 0, 0), item(vec![0, 0], 4, 3_245, 46_420)]);
    let bounds = small().bounds();
    let mut clone = TreeClone::new(&from, &to, &aside, bounds, &spill::Scratch::default()).unwrap();
    clone.sync().unwrap();
    let error = clone.catch_up(Round::PreCopy, &|| true).unwrap_err();
    assert!(matches!(error, CloneError::ExceedsBound { .. }), "{error}");
}

#[test]
fn packing_uses_the_memory_that_other_work_leaves() {
    let scratch = TestDir::new();
    let root = scratch.dir("tree");
    let text = (0_u64..1 << 20).map(|i| (i * i).to_le_bytes()).collect::<Vec<_>>().concat();
    fs::write(root.join("file"), text).unwrap();
    fs::hard_link(root.join("file"), root.join("other")).unwrap();
    let tree = LinuxMounts.open_dir(&root).unwrap();
    let pack = |budget: &Arc<Budget>| {
        let limits = Limits { budget: budget.clone(), ..Limits::default() };
        let (packing, mut out) = (packing(Format::Portable, Compression::Zstd), Vec::new());
        pack(&[&tree], &tree, &packing, &limits, &mut out).map(|packed| (packed, out))
    };
    let whole = pack(&Arc::default()).unwrap();
    // Enough for one thread of zstd, whatever number of cores there is.
    assert!(pack(&Arc::new(Budget::new(0, 0, 15 << 20))).unwrap() == whole, "not the same bytes");
    for most in [1, 2 << 20] {
        let error = pack(&Arc::new(Budget::new(0, 0, most))).unwrap_err();
        assert_eq!(error.class(), Class::Precondition, "{error}");
        assert!(error.to_string().contains("raise that limit"), "{error}");
    }
    let budget = Arc::new(Budget::new(0, 0, 1 << 30));
    let eldest = budget.share();
    let (sender, packed) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| sender.send(pack(&budget).unwrap()).unwrap());
        assert!(packed.recv_timeout(Duration::from_millis(50)).is_err(), "it should wait");
        drop(eldest);
        assert!(packed.recv().unwrap() == whole, "not the same bytes");
    });
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_longest_name_can_be_hidden() {
    let scratch = TestDir::new();
    let (own, merged) = (scratch.dir("own"), scratch.dir("merged"));
    Dir::open(&own).unwrap().whiteout(&[b'n'; 255]).unwrap();
    let open = |path: &Path| LinuxMounts.open_dir(path).unwrap();
    let (limits, mut out) = (Limits::default(), Vec::new());
    pack(&[&open(&own)], &open(&merged), &PORTABLE, &limits, &mut out).unwrap();
    let read = unpack(Format::Portable, &out, &limits).unwrap();
    assert_eq!(read.names[[b'n'; 255].as_slice()].content, Content::Device(0));
}

#[test]
#[ignore = "needs root"]
fn privileged_hundreds_of_attributes_are_packed_and_unpacked() {
    let scratch = TestDir::new();
    let at = scratch.dir("disk");
    let _disk = Disk::new(&scratch, "xfs", &at);
    let volumes = Volumes::new();
    for name in ["tree", "to", "aside"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    let tree = at.join("tree");
    let named: Vec<_> = (0..300).map(|i| (format!("user.number {i}"), vec![b'v'; i])).collect();
    let xattrs: Vec<_> = named.iter().map(|(name, value)| (&**name, &**value)).collect();
    fs::write(tree.join("file"), "content").unwrap();
    fs::create_dir(tree.join("directory")).unwrap();
    for name in ["file", "directory"] {
        give(&tree.join(name), 0o755, (1, 0), &xattrs);
    }
    give(&tree, 0o755, (1, 0), &xattrs[..Limits::default().root_xattrs as usize]);
    let bounds = Limits::default().bounds();
    let (to, aside) = (at.join("to"), at.join("aside"));
    let mut clone = TreeClone::new(&tree, &to, &aside, bounds, &spill::Scratch::default()).unwrap();
    clone.sync().unwrap();
    clone.catch_up(Round::PreCopy, &|| true).unwrap();
    {
        let stack = [Arc::new(LinuxMounts.open_dir(&to).unwrap())];
        for packing in [PORTABLE, NATIVE] {
            let back = volumes.round_trip(&stack, 1, &packing);
            assert_same(&volumes.tree(&back), &volumes.tree(&stack), "packed and unpacked");
        }
    }
    // One more than the root of any image can have, and a value that is longer than any image can have.
    give(&tree, 0o755, (1, 0), &xattrs);
    clone.sync().unwrap();
    let error = clone.catch_up(Round::PreCopy, &|| true).unwrap_err();
    assert!(error.to_string().contains("root has 300 extended attributes"), "{error}");
}
