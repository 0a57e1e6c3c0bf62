//! Compares trees with their copies, entry by entry, between rounds in which everything changes.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    hash::{DefaultHasher, Hasher as _},
    io::Write as _,
    os::unix::fs::{
        FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, FileType};
use rustix::fs::{
    CWD, Mode, Timespec, Timestamps, XattrFlags, ioctl_ficlone, lgetxattr, llistxattr, lsetxattr,
    makedev, mknodat, removexattr, utimensat,
};

use super::*;
use crate::{
    budget::{Budget, OverBudget},
    spill,
    sys::{
        limits,
        mounts::{LinuxMounts, Mounts as _, tmpfs},
        test_dir::{Disk, TestDir},
    },
};

/// Bounds that no test exceeds by accident.
const WIDE: Bounds = Bounds {
    entries: 1_000_000,
    depth: 256,
    path_bytes: 1 << 20,
    file_bytes: 1 << 40,
    tar_bytes: 1 << 40,
    xattr_bytes: 128 << 10,
    xattr_value: 65_535,
    root_xattrs: 255,
};

fn always() -> bool {
    true
}

/// A tree and its copy.
struct Case {
    from: PathBuf,
    to: PathBuf,
    clone: TreeClone,
}

impl Case {
    fn new(at: &Path) -> Self {
        let [from, to, aside] = ["from", "to", "aside"].map(|name| at.join(name));
        for dir in [&from, &to, &aside] {
            fs::create_dir_all(dir).unwrap();
        }
        let clone = TreeClone::new(&from, &to, &aside, WIDE, &spill::Scratch::default()).unwrap();
        Self { from, to, clone }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.from.join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn round(&mut self) {
        self.clone.sync().unwrap();
        self.clone.catch_up(Round::PreCopy, &always).unwrap();
    }

    /// Runs a round that must fail.
    fn round_error(&mut self) -> CloneError {
        self.clone.sync().unwrap();
        self.clone.catch_up(Round::PreCopy, &always).unwrap_err()
    }

    /// Asserts that the copy equals the tree, except for what copies never have.
    fn assert_same(&self, why: &str) {
        assert_eq!(tree(&self.to), tree(&self.from), "{why}");
    }

    /// The inode of a name in the copy. It differs after the name was copied again.
    fn copied(&self, name: &str) -> u64 {
        fs::symlink_metadata(self.to.join(name)).unwrap().ino()
    }
}

fn set(path: &Path, name: &str, value: &str) {
    lsetxattr(path, name, value.as_bytes(), XattrFlags::empty()).unwrap();
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut space = [0; 4096];
    let length = llistxattr(path, &mut space).unwrap();
    let names = space[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = [0; 4096];
            let length = lgetxattr(path, &*name, &mut value).unwrap();
            (name, value[..length].to_vec())
        })
        .filter(|(name, _)| !["impure", "uuid", "nlink"].iter().any(|mark| name.ends_with(mark)))
        .collect()
}

fn root_or_copied_up(socket: &Path, root: &Path) -> bool {
    let dir = socket.parent().unwrap();
    dir == root || xattrs(dir).contains_key("trusted.overlay.origin")
}

/// Everything that a test compares, by path: type, mode, owner, size, time, content, attributes,
/// and the first path of the same file.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut first, mut next) = (BTreeMap::new(), BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(path) = next.pop() {
        let full = root.join(&path);
        let is = fs::symlink_metadata(&full).unwrap();
        let kind = is.file_type();
        if kind.is_socket() {
            // It may cover an entry of a lower.
            if root_or_copied_up(&full, root) {
                found.insert(path, "whiteout".to_owned());
            }
            continue;
        }
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&full)
                .unwrap()
                .map(|entry| path.join(entry.unwrap().file_name()))
                .collect();
            names.sort();
            next.extend(names.into_iter().rev());
        }
        if kind.is_char_device() && is.rdev() == 0 {
            found.insert(path, "whiteout".to_owned());
            continue;
        }
        let content = match () {
            () if kind.is_file() => {
                let mut hasher = DefaultHasher::new();
                hasher.write(&fs::read(&full).unwrap());
                format!("{:x}", hasher.finish())
            }
            () if kind.is_symlink() => format!("{:?}", fs::read_link(&full).unwrap()),
            () => String::new(),
        };
        let size = if kind.is_dir() { 0 } else { is.len() };
        let same = match is.nlink() {
            2.. if !kind.is_dir() => first.entry(is.ino()).or_insert(path.clone()).clone(),
            _ => PathBuf::new(),
        };
        let text = format!(
            "{:o} {}:{} {size} {}.{} rdev {} {content} {:?} {same:?}",
            is.mode(),
            is.uid(),
            is.gid(),
            is.mtime(),
            is.mtime_nsec(),
            is.rdev(),
            xattrs(&full),
        );
        found.insert(path, text);
    }
    found
}

/// Makes one entry of each kind that a pod can make.
fn fill(case: &Case) {
    case.write("plain", "one");
    case.write("directory/below/deep", "two");
    case.write("removed", "three");
    case.write("becomes a directory", "x");
    case.write("was a directory/with/content", "x");
    case.write("moved/a/b", "moved");
    case.write("mode", "mode");
    case.write("linked", "linked");
    fs::create_dir(case.path("links")).unwrap();
    fs::hard_link(case.path("linked"), case.path("links/again")).unwrap();
    fs::hard_link(case.path("linked"), case.path("links/third")).unwrap();
    symlink("../nowhere", case.path("symlink")).unwrap();
    symlink("..", case.path("directory/up")).unwrap();
    rustix::fs::mknodat(CWD, case.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    set(&case.path("directory"), "user.colour", "green");
    set(&case.path("plain"), "user.colour", "red");
    fs::set_permissions(case.path("directory"), Permissions::from_mode(0o1770)).unwrap();
    let old = Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 };
    let old = Timestamps { last_access: old, last_modification: old };
    for name in ["plain", "symlink", "fifo", "directory"] {
        utimensat(CWD, case.path(name), &old, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    for name in ["socket", "directory/socket", "links/socket"] {
        mknodat(CWD, case.path(name), FileType::Socket, Mode::RUSR, 0).unwrap();
    }
}

/// Makes the entries that only root can make.
fn fill_as_root(case: &Case) {
    std::os::unix::fs::lchown(case.path("mode"), Some(1000), Some(2000)).unwrap();
    std::os::unix::fs::lchown(case.path("symlink"), Some(1000), Some(2000)).unwrap();
    fs::set_permissions(case.path("mode"), Permissions::from_mode(0o6755)).unwrap();
    // As setcap writes cap_net_raw+ep.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    lsetxattr(case.path("mode"), "security.capability", capability, XattrFlags::empty()).unwrap();
    for name in ["whiteout", "directory/whiteout"] {
        mknodat(CWD, case.path(name), FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
            .unwrap();
    }
    mknodat(CWD, case.path("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
    for (name, mark, value) in [
        ("directory", "opaque", "y"),
        ("moved", "redirect", "/elsewhere"),
        ("plain", "metacopy", ""),
        ("plain", "overlay.opaque", "theirs"),
        ("directory", "impure", "y"),
        ("directory", "origin", "a handle"),
        (".", "uuid", "0123456789abcdef"),
    ] {
        set(&case.path(name), &format!("trusted.overlay.{mark}"), value);
    }
    set(&case.path("symlink"), "trusted.on-a-link", "yes");
}

/// Makes every kind of change, between two rounds.
fn change(case: &Case) {
    case.write("plain", "another");
    case.write("new/with/directories", "new");
    fs::remove_file(case.path("removed")).unwrap();
    fs::remove_file(case.path("becomes a directory")).unwrap();
    case.write("becomes a directory/x", "y");
    crate::sys::durable::remove_tree(&case.path("was a directory")).unwrap();
    symlink("plain", case.path("was a directory")).unwrap();
    fs::rename(case.path("moved"), case.path("moved away")).unwrap();
    fs::set_permissions(case.path("mode"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(case.path("directory"), Permissions::from_mode(0o755)).unwrap();
    removexattr(case.path("directory"), "user.colour").unwrap();
    set(&case.path("directory/below"), "user.new", "attribute");
    OpenOptions::new()
        .append(true)
        .open(case.path("links/third"))
        .unwrap()
        .write_all(b"!")
        .unwrap();
    fs::hard_link(case.path("directory/below/deep"), case.path("directory/second name")).unwrap();
    fs::remove_file(case.path("fifo")).unwrap();
}

fn copy_equals_tree(at: &Path, as_root: bool) {
    let mut case = Case::new(at);
    fill(&case);
    let sparse = fs::File::create(case.path("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 16 << 20).unwrap();
    sparse.set_len(64 << 20).unwrap();
    if as_root {
        fill_as_root(&case);
    }
    case.round();
    case.assert_same("the first round");
    let whiteout = |name: &str| {
        let is = fs::symlink_metadata(case.to.join(name));
        is.is_ok_and(|is| is.file_type().is_char_device() && is.rdev() == 0)
    };
    let sockets = ["socket", "directory/socket", "links/socket"].map(whiteout);
    assert_eq!(sockets, [true, as_root, false]);
    assert!(!case.to.join("links/socket").exists());
    let sparse = fs::metadata(case.to.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 8 << 20, "the holes are filled");
    let contents = case.clone.contents();
    assert_eq!((contents.metacopy, contents.redirect), (as_root, as_root));
    assert!(contents.bytes < 8 << 20, "{contents:?}");
    let names = tree(&case.to).len() - 1;
    assert_eq!(contents.entries, names as u64);

    change(&case);
    case.round();
    case.assert_same("the second round");
    // Only the directory was renamed. Its files look unchanged under their new paths, and are still
    // names of one file.
    fs::rename(case.path("links"), case.path("a links")).unwrap();
    case.round();
    case.assert_same("a directory with names of a file was renamed");
    fs::rename(case.path("a links"), case.path("z links")).unwrap();
    case.round();
    case.assert_same("and once more, behind the others");
    fs::remove_file(case.path("z links/third")).unwrap();
    case.round();
    case.round();
    case.assert_same("nothing changed");
    assert_eq!(case.clone.contents().entries as usize, tree(&case.to).len() - 1);
}

#[test]
fn the_copy_equals_the_tree_after_any_change_between_rounds() {
    copy_equals_tree(TestDir::new().path(), false);
}

/// Bytes are shared on xfs, copied with holes on ext4, and read and written from a tmpfs.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_the_copy_equals_the_tree_on_each_file_system() {
    for fs_type in ["xfs", "ext4"] {
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let _disk = Disk::new(&scratch, fs_type, &at);
        copy_equals_tree(&at, true);
    }
    let scratch = TestDir::new();
    let from = scratch.dir("from");
    LinuxMounts.attach(LinuxMounts.create(&tmpfs("ovl-test", None, None)).unwrap(), &from).unwrap();
    copy_equals_tree(scratch.path(), true);
}

#[test]
fn only_changed_files_are_copied_again() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    for name in ["same", "changed", "a/same", "a/changed"] {
        case.write(name, "x");
    }
    case.round();
    // A tick of the clock has to pass: what changed within it is copied again.
    thread::sleep(Duration::from_millis(30));
    case.round();
    let names = ["same", "changed", "a/same", "a/changed"];
    let before = names.map(|name| case.copied(name));
    case.write("changed", "y");
    case.write("a/changed", "y");
    case.round();
    let after = names.map(|name| case.copied(name));
    let again: Vec<_> = (0..4).map(|n| before[n] != after[n]).collect();
    assert_eq!(again, [false, true, false, true]);
    case.assert_same("");
}

/// A change during the sync may leave the fingerprint equal: the page of a mapping was not yet
/// read-only.
#[test]
fn a_file_that_changed_since_the_sync_started_is_copied_again() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    case.write("before", "x");
    thread::sleep(Duration::from_millis(30));
    case.clone.sync().unwrap();
    thread::sleep(Duration::from_millis(30));
    case.write("after", "x");
    case.clone.catch_up(Round::PreCopy, &always).unwrap();
    let before = ["before", "after"].map(|name| case.copied(name));
    case.round();
    let after = ["before", "after"].map(|name| case.copied(name));
    assert_eq!([before[0] == after[0], before[1] == after[1]], [true, false]);
}

/// A file that changes after the clock was set back gets a time before the copy, and its
/// fingerprint may be equal.
#[test]
fn a_file_is_copied_again_after_the_clock_was_set_back() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    case.write("file", "x");
    thread::sleep(Duration::from_millis(30));
    case.round();
    let first = case.copied("file");
    case.round();
    assert_eq!(case.copied("file"), first);
    // As if the previous sync had run one hour from now.
    case.clone.since.as_mut().unwrap().clock.0 += 3600;
    case.round();
    assert_ne!(case.copied("file"), first);
    case.assert_same("");
}

#[test]
fn the_next_round_completes_a_round_that_was_stopped_anywhere() {
    for stop in 0..30_usize {
        let scratch = TestDir::new();
        let mut case = Case::new(scratch.path());
        fill(&case);
        case.round();
        change(&case);
        case.clone.sync().unwrap();
        let left = Cell::new(stop);
        let go_on = || left.replace(left.get().saturating_sub(1)) > 0;
        let stopped = case.clone.catch_up(Round::PreCopy, &go_on);
        assert!(matches!(stopped, Err(CloneError::Stopped) | Ok(())), "{stopped:?}");
        case.round();
        case.assert_same(&format!("stopped after {stop}"));
    }
}

#[test]
fn depth_is_limited_also_below_the_longest_path() {
    limits::raise_open_files().unwrap();
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    let mut dir = openat2::dir(&case.from, openat2::READ).unwrap();
    let name = "n".repeat(200);
    for _ in 1..WIDE.depth {
        rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &name, openat2::READ, Mode::empty()).unwrap();
    }
    // Two names of a file, one of them so deep that no path reaches it.
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&dir, "file", flags, Mode::RUSR).unwrap();
    rustix::fs::linkat(&dir, "file", CWD, case.path("z second name"), AtFlags::empty()).unwrap();
    case.round();
    assert_eq!(fs::metadata(case.to.join("z second name")).unwrap().nlink(), 2);
    rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
    case.round();
    dir = rustix::fs::openat(&dir, "d", openat2::READ, Mode::empty()).unwrap();
    rustix::fs::mkdirat(&dir, "one more", Mode::RWXU).unwrap();
    let error = case.round_error();
    assert!(
        matches!(error, CloneError::ExceedsBound { what: ExceededBound::Depth(256), .. }),
        "{error}"
    );
}

#[test]
fn an_entry_that_no_layer_can_hold_is_refused_with_its_name() {
    let long = "l".repeat(50);
    let bounds = Bounds {
        path_bytes: 60,
        file_bytes: 1 << 20,
        tar_bytes: 3 << 20,
        xattr_bytes: 3000,
        xattr_value: 2000,
        root_xattrs: 2,
        ..WIDE
    };
    let file = |path: &Path| fs::write(path, "x").unwrap();
    let sized = |path: &Path, size| fs::File::create(path).unwrap().set_len(size).unwrap();
    type BadEntry<'c> = (&'c str, &'c str, &'c dyn Fn(&Path));
    let cases: [BadEntry<'_>; 8] = [
        (&long, "60 bytes", &|path| {
            fs::create_dir(path).unwrap();
            file(&path.join("is too long"));
        }),
        ("large", "1.0 MiB with its holes", &|path| sized(path, (1 << 20) + 1)),
        ("sum", "larger than 3.0 MiB", &|path| {
            fs::create_dir(path).unwrap();
            for name in ["a", "b", "c"] {
                sized(&path.join(name), 1 << 20);
            }
        }),
        ("heavy", "3000; remove some", &|path| {
            file(path);
            set(path, "user.a", &"a".repeat(1500));
            set(path, "user.b", &"b".repeat(1500));
        }),
        ("value", "\"user.a\" has 2001 bytes", &|path| {
            file(path);
            set(path, "user.a", &"a".repeat(2001));
        }),
        ("equals", "\"user.a=b\"", &|path| {
            file(path);
            set(path, "user.a=b", "x");
        }),
        ("directory", "\"user.a=b\"", &|path| {
            fs::create_dir(path).unwrap();
            set(path, "user.a=b", "x");
        }),
        (".", "root has 3 extended attributes", &|path| {
            for name in ["user.a", "user.b", "user.c"] {
                set(path, name, "x");
            }
        }),
    ];
    for (name, phrase, make) in cases {
        let scratch = TestDir::new();
        let mut case = Case::new(scratch.path());
        case.clone.bounds = bounds;
        case.round();
        make(&case.path(name));
        let error = case.round_error();
        assert!(matches!(error, CloneError::ExceedsBound { .. }), "{name}: {error}");
        let message = error.to_string();
        assert!(message.starts_with(name) && message.contains(phrase), "{name}: {message}");
    }
}

/// Each entry takes memory, and no node could restore a larger layer.
#[test]
fn the_number_of_entries_is_limited() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    case.clone.bounds.entries = 5;
    for name in ["a/b/c", "d", "e"] {
        case.write(name, "x");
    }
    case.round();
    // As many entries as before, under other names.
    fs::rename(case.path("a"), case.path("z")).unwrap();
    case.round();
    case.assert_same("");
    case.write("z/b/one more", "x");
    case.clone.sync().unwrap();
    let error = case.clone.catch_up(Round::PreCopy, &always).unwrap_err();
    assert!(matches!(error, CloneError::TooMany(5)), "{error}");
    fs::remove_file(case.path("e")).unwrap();
    case.round();
    case.assert_same("one fewer");
}

/// A reservation that counts the requested bytes, and has a limit.
#[derive(Debug, Clone)]
struct Counted {
    copied: Arc<AtomicU64>,
    shared: Arc<AtomicU64>,
    most: u64,
}

impl Counted {
    fn up_to(most: u64) -> Self {
        Self { copied: Arc::default(), shared: Arc::default(), most }
    }
}

impl SpaceReservation for Counted {
    fn copy(&self, bytes: u64) -> io::Result<()> {
        match self.copied.fetch_add(bytes, Relaxed) + bytes > self.most {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn share(&self, bytes: u64) -> io::Result<()> {
        self.shared.fetch_add(bytes, Relaxed);
        Ok(())
    }
}

#[test]
fn a_copy_reserves_space_before_it_writes_and_none_for_holes() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    let budget = Arc::new(Budget::default());
    let reservation = Counted::up_to(40 << 20);
    case.clone = case.clone.with_budget(budget.share(), Box::new(reservation.clone()));
    case.clone.content.never_shares = true;
    case.write("small", "x");
    let sparse = fs::File::create(case.path("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sparse.write_all_at(&[1; 20 << 20], 50 << 20).unwrap();
    case.round();
    case.assert_same("");
    // One block for the small file.
    assert_eq!(reservation.copied.load(Relaxed), (20 << 20) + 4096);
    case.write("more", vec![1; 30 << 20]);
    case.clone.sync().unwrap();
    let error = case.clone.catch_up(Round::PreCopy, &always).unwrap_err();
    let CloneError::Entry { path, source } = error else { panic!("{error}") };
    assert_eq!((path, source.kind()), ("more".into(), io::ErrorKind::StorageFull));
    assert_eq!(case.clone.copied(), (36 << 20) + 1);
}

/// Shared bytes take no disk space, but the volume has them.
#[test]
#[ignore = "needs root: mounts a file system on a loop device"]
fn privileged_shared_bytes_are_counted_as_shared() {
    let scratch = TestDir::new();
    let at = scratch.dir("disk");
    let _disk = Disk::new(&scratch, "xfs", &at);
    let mut case = Case::new(&at);
    let (budget, reservation) = (Arc::new(Budget::default()), Counted::up_to(4096));
    case.clone = case.clone.with_budget(budget.share(), Box::new(reservation.clone()));
    case.write("dir/shared", vec![1; 20 << 20]);
    // A file that is as new as the copy is copied again.
    thread::sleep(Duration::from_millis(30));
    case.round();
    case.round();
    let counted = (reservation.copied.load(Relaxed), reservation.shared.load(Relaxed));
    assert_eq!(counted, (4096, 20 << 20));
}

#[test]
fn tidy_frees_replaced_entries() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    let aside = scratch.path().join("aside");
    let left = || fs::read_dir(&aside).unwrap().count();
    fill(&case);
    case.round();
    change(&case);
    case.round();
    assert!(left() > 0);
    case.clone.free_replaced().unwrap();
    assert_eq!(left(), 0);
    case.write("plain", "once more");
    case.round();
    case.assert_same("after it was tidied");
    assert!(left() > 0);
}

/// Programs that rename, replace and link entries during the copy cannot lead it out of the tree or
/// make it fail.
#[test]
fn a_tree_that_changes_constantly_is_copied_once_it_is_quiet() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    let outside = scratch.dir("outside");
    scratch.file("outside/secret", "secret");
    for n in 0..40 {
        case.write(&format!("d{}/f{n}", n % 5), format!("{n}"));
    }
    let from = case.from.clone();
    let until = Instant::now() + Duration::from_millis(700);
    let writer = thread::spawn(move || {
        let mut n = 0_usize;
        while Instant::now() < until {
            n += 1;
            let dir = from.join(format!("d{}", n % 5));
            let _ = fs::rename(&dir, from.join(format!("d{}", (n + 1) % 5)));
            let _ = symlink(&outside, &dir);
            let _ = fs::remove_file(&dir);
            let _ = fs::rename(from.join(format!("d{}", (n + 1) % 5)), &dir);
            let _ = fs::write(dir.join(format!("f{}", n % 40)), format!("{n}"));
            let _ =
                fs::hard_link(dir.join(format!("f{}", n % 40)), from.join(format!("l{}", n % 7)));
            let _ = fs::remove_file(from.join(format!("l{}", (n + 3) % 7)));
            let _ = fs::create_dir(from.join(format!("e{}", n % 3)));
            let _ = fs::remove_dir(from.join(format!("e{}", (n + 1) % 3)));
        }
    });
    while !writer.is_finished() {
        case.round();
    }
    writer.join().unwrap();
    case.round();
    case.assert_same("");
    assert!(!tree(&case.to).keys().any(|path| path.ends_with("secret")));
}

/// Without a freeze, the copy of a file that changes meanwhile has the bytes of one moment.
#[test]
fn a_live_round_copies_a_file_again_that_changes_during_the_copy() {
    for (changes, torn) in [(1, 0), (u32::MAX, 1)] {
        let scratch = TestDir::new();
        let mut case = Case::new(scratch.path());
        case.write("big", vec![b'a'; 20 << 20]);
        case.clone.content.never_shares = true;
        let file = OpenOptions::new().write(true).open(case.path("big")).unwrap();
        let left = Cell::new(changes);
        let calls = Cell::new(0);
        let go_on = || {
            calls.set(calls.get() + 1);
            // `go_on` is called once for the name and once before each piece. At the third call the
            // first piece is copied and the last one is not.
            if calls.get() % 3 == 0 && left.get() > 0 {
                left.set(left.get() - 1);
                file.write_all_at(b"b", 0).unwrap();
                file.write_all_at(b"b", (20 << 20) - 1).unwrap();
                thread::sleep(Duration::from_millis(15));
            }
            true
        };
        thread::sleep(Duration::from_millis(30));
        case.clone.sync().unwrap();
        case.clone.catch_up(Round::Live, &go_on).unwrap();
        let copy = fs::read(case.to.join("big")).unwrap();
        assert_eq!(case.clone.contents().torn, torn, "{changes}");
        assert!(torn > 0 || copy[0] == copy[copy.len() - 1], "{changes}");
        assert_eq!(copy.len(), 20 << 20);
    }
}

/// A file that was copied before the freeze and not changed since has the bytes of one moment.
#[test]
fn no_file_of_a_frozen_copy_is_inconsistent() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    case.write("early", "bytes");
    case.clone.content.never_shares = true;
    case.clone.sync().unwrap();
    case.clone.catch_up(Round::PreCopy, &|| true).unwrap();
    assert_eq!(case.clone.contents().torn, 0);
    case.write("late", "bytes");
    case.clone.catch_up(Round::Frozen, &|| true).unwrap();
    assert!(case.clone.copied() >= 10);
    assert_eq!(case.clone.contents().torn, 0);
}

/// Overlay copies the file up during the copy. The `metacopy` xattr is gone then, and without it
/// the old bytes would count as the whole file.
#[test]
#[ignore = "needs root: sets overlay's xattrs"]
fn privileged_a_file_that_overlay_copies_up_during_the_copy_is_complete() {
    let scratch = TestDir::new();
    let at = scratch.dir("disk");
    let _disk = Disk::new(&scratch, "ext4", &at);
    let mut case = Case::new(&at);
    case.write("lazy", vec![0; 20 << 20]);
    set(&case.path("lazy"), "trusted.overlay.metacopy", "");
    let calls = Cell::new(0);
    let go_on = || {
        calls.set(calls.get() + 1);
        if calls.get() == 4 {
            fs::write(case.from.join("lazy"), vec![b'x'; 20 << 20]).unwrap();
            removexattr(case.from.join("lazy"), "trusted.overlay.metacopy").unwrap();
        }
        true
    };
    case.clone.sync().unwrap();
    case.clone.catch_up(Round::Live, &go_on).unwrap();
    assert!(!case.clone.contents().metacopy);
    assert!(fs::read(case.to.join("lazy")).unwrap() == vec![b'x'; 20 << 20]);
    assert_eq!(case.clone.contents().torn, 0);
}

/// Direct I/O sets the time of the file when it starts, and its bytes are there when the disk has
/// written them.
#[test]
#[ignore = "needs root: mounts a file system on a loop device, makes a cgroup"]
fn privileged_the_last_round_has_the_bytes_of_direct_io_in_flight() {
    let scratch = TestDir::new();
    let at = scratch.dir("disk");
    let _disk = Disk::new(&scratch, "ext4", &at);
    let mut case = Case::new(&at);
    case.write("direct", vec![b'a'; 4 << 20]);
    case.write("common", vec![b'a'; 4 << 20]);
    let device = fs::metadata(&at).unwrap().dev();
    let group = Slow::new(rustix::fs::major(device), rustix::fs::minor(device));
    rustix::fs::fsync(fs::File::open(case.path("direct")).unwrap()).unwrap();
    let mut writer =
        group.run(&["xfs_io", "-d", "-c", "pwrite -S 0x62 -b 4m 0 4m"], &case.path("direct"));
    thread::sleep(Duration::from_millis(500));
    case.round();
    assert!(writer.try_wait().unwrap().is_none(), "the disk is not slow");
    assert!(fs::read(case.to.join("direct")).unwrap().contains(&b'a'));
    let common = case.copied("common");
    assert!(writer.wait().unwrap().success());
    case.clone.sync().unwrap();
    case.clone.catch_up(Round::Frozen, &always).unwrap();
    assert!(fs::read(case.to.join("direct")).unwrap() == vec![b'b'; 4 << 20]);
    assert_eq!(
        case.copied("common"),
        common,
        "a file that was written without O_DIRECT is not copied again"
    );
}

/// A cgroup whose processes can write one megabyte per second to one device.
struct Slow(PathBuf);

impl Slow {
    fn new(major: u32, minor: u32) -> Self {
        let top = Path::new("/sys/fs/cgroup");
        let is_v1 = top.join("blkio").is_dir();
        let top = if is_v1 { top.join("blkio") } else { top.to_owned() };
        let dir = top.join(format!("ovl-test-slow-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let (file, limit) = match is_v1 {
            true => ("blkio.throttle.write_bps_device", format!("{major}:{minor} 1048576")),
            false => ("io.max", format!("{major}:{minor} wbps=1048576")),
        };
        fs::write(dir.join(file), limit).unwrap();
        Self(dir)
    }

    fn run(&self, args: &[&str], file: &Path) -> std::process::Child {
        let procs = self.0.join("cgroup.procs");
        let script = format!("echo $$ > '{}' && exec \"$@\"", procs.display());
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, "sh"]).args(args).arg(file);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let removed = || fs::remove_dir(&self.0).is_ok();
        let _ = (0..200).any(|_| {
            removed() || {
                thread::sleep(Duration::from_millis(5));
                false
            }
        });
    }
}

/// The copy writes out the bytes of this tree, and leaves those of neighbours in memory.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_copy_does_not_write_out_a_neighbours_bytes() {
    for fs_type in ["xfs", "ext4"] {
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let disk = Disk::new(&scratch, fs_type, &at);
        let mut case = Case::new(&at);
        fs::write(at.join("neighbour"), vec![1; 100 << 20]).unwrap();
        case.write("own", vec![2; 1 << 20]);
        assert!(!case.clone.sync().unwrap(), "{fs_type}");
        case.clone.catch_up(Round::PreCopy, &always).unwrap();
        assert!(!case.clone.sync().unwrap(), "{fs_type}");
        case.clone.catch_up(Round::Frozen, &always).unwrap();
        case.assert_same(fs_type);
        drop(case);
        disk.cut_power();
        disk.boot();
        let neighbour = fs::read(at.join("neighbour")).unwrap_or_default();
        assert!(neighbour != vec![1; 100 << 20], "{fs_type}");
    }
}

/// Another program that syncs a file meanwhile does not wait for much of the copy, and little is
/// left to write at the end. While the writers are frozen, the copy does not wait for the disk.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_copy_is_written_out_while_it_is_made() {
    // These file systems share no bytes.
    let cases: [(&str, &[&str]); 2] = [("ext4", &[]), ("xfs", &["-m", "reflink=0"])];
    for (fs_type, options) in cases {
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let disk = Disk::with(&scratch, fs_type, options, &at);
        let mut case = Case::new(&at);
        let (budget, reservation) = (Arc::new(Budget::default()), Counted::up_to(u64::MAX));
        case.clone = case.clone.with_budget(budget.share(), Box::new(reservation.clone()));
        (0..100).for_each(|n| case.write(&format!("small/{n}"), vec![1; 200 << 10]));
        case.write("large", vec![2; 40 << 20]);
        disk.sync();
        let (before, most, calls) = (disk.written(), Cell::new(0), Cell::new(0));
        let measure = || {
            let left = reservation.copied.load(Relaxed).saturating_sub(disk.written() - before);
            most.set(most.get().max(left));
            calls.set(calls.get() + 1);
            true
        };
        case.clone.sync().unwrap();
        case.clone.catch_up(Round::PreCopy, &measure).unwrap();
        case.assert_same(fs_type);
        assert!(most.get() <= 3 << 20, "{fs_type}: {} bytes were not written out", most.get());
        assert!(calls.get() >= 140, "{fs_type}: go_on was called {} times", calls.get());
        assert_eq!(case.clone.dirty(), Amount::default(), "{fs_type}");

        case.write("changed", vec![3; 8 << 20]);
        case.clone.sync().unwrap();
        case.clone.catch_up(Round::Frozen, &always).unwrap();
        let left = Amount { files: 1, bytes: 8 << 20 };
        assert_eq!(
            case.clone.dirty(),
            left,
            "{fs_type}: the copy was written out while the writers were frozen"
        );
    }
}

/// docs/hazards.md, 2.
#[test]
#[ignore = "needs root: mounts a file system on a loop device"]
fn privileged_a_failed_sync_is_reported() {
    let scratch = TestDir::new();
    let at = scratch.dir("disk");
    let disk = Disk::new(&scratch, "xfs", &at);
    let (from, to, aside) = (scratch.dir("disk/from"), scratch.dir("to"), scratch.dir("aside"));
    let mut clone = TreeClone::new(&from, &to, &aside, WIDE, &spill::Scratch::default()).unwrap();
    fs::write(from.join("file"), "lost").unwrap();
    disk.cut_power();
    // The error comes from the sync or from the file. That depends on how much is dirty elsewhere.
    let done = clone.sync().and_then(|_| clone.catch_up(Round::PreCopy, &always));
    assert!(matches!(done, Err(CloneError::Sync { .. } | CloneError::Entry { .. })), "{done:?}");
}

/// A write through a mapping that was made before the first round.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_write_through_a_mapping_is_copied() {
    for fs_type in ["xfs", "ext4", "tmpfs"] {
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let _disk = match fs_type {
            "tmpfs" => {
                let from = scratch.dir("disk/from");
                let memory = LinuxMounts.create(&tmpfs("ovl-test", None, None)).unwrap();
                LinuxMounts.attach(memory, &from).unwrap();
                None
            }
            disk => Some(Disk::new(&scratch, disk, &at)),
        };
        let mut case = Case::new(&at);
        case.write("mapped", vec![0; 8192]);
        let mut mapped = Mapped::new(&case.path("mapped"));
        mapped.write(1);
        thread::sleep(Duration::from_millis(30));
        case.round();
        for byte in 2..20 {
            // This also happens within one tick of the clock.
            mapped.write(byte);
            case.round();
            assert_eq!(fs::read(case.to.join("mapped")).unwrap()[5000], byte, "{fs_type}");
        }
    }
}

struct Mapped(*mut libc::c_void);

impl Mapped {
    fn new(path: &Path) -> Self {
        use std::os::fd::AsRawFd as _;
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), 8192, access, shared, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at)
    }

    fn write(&mut self, byte: u8) {
        // SAFETY: within the 8192 bytes that are mapped for writing until this is dropped.
        unsafe { self.0.cast::<u8>().add(5000).write_volatile(byte) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: `new` mapped it, and it is not used any more.
        unsafe { libc::munmap(self.0, 8192) };
    }
}

/// The last round takes no more than twice the time that sharing the same files takes, however much
/// was written before.
#[test]
#[ignore = "needs root: mounts a file system on a loop device"]
fn privileged_a_round_without_changes_is_quicker_than_sharing_every_file() {
    let scratch = TestDir::new();
    let at = scratch.dir("disk");
    let _disk = Disk::new(&scratch, "xfs", &at);
    let mut case = Case::new(&at);
    for n in 0..1_000 {
        case.write(&format!("d{}/f{n}", n % 10), vec![7; 64 << 10]);
    }
    case.round();
    case.clone.sync().unwrap();
    let started = Instant::now();
    case.clone.catch_up(Round::PreCopy, &always).unwrap();
    let quiet = started.elapsed();
    let bare = at.join("bare");
    fs::create_dir(&bare).unwrap();
    let started = Instant::now();
    for n in 0..1_000 {
        let from = fs::File::open(case.path(&format!("d{}/f{n}", n % 10))).unwrap();
        ioctl_ficlone(fs::File::create(bare.join(n.to_string())).unwrap(), from).unwrap();
    }
    let shared = started.elapsed();
    assert!(quiet < shared * 2, "{quiet:?} against {shared:?}");
    assert!(quiet < Duration::from_millis(100), "{quiet:?}");
}

#[test]
fn names_wait_for_memory_that_another_copy_holds() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    case.write("directory/file", "content");
    let budget = Arc::new(Budget::new(0, 0, 1 << 30));
    let other = budget.share();
    other.take(1).unwrap();
    case.clone = case.clone.with_budget(budget.share(), Box::new(Counted::up_to(u64::MAX)));
    case.clone.sync().unwrap();
    // As in the last round, when the time of the freeze ends.
    let calls = Cell::new(0);
    let twenty_times = || calls.replace(calls.get() + 1) < 20;
    assert!(matches!(case.clone.catch_up(Round::PreCopy, &twenty_times), Err(CloneError::Stopped)));
    drop(other);
    case.round();
    assert_eq!(fs::read(case.to.join("directory/file")).unwrap(), b"content");
    let used = budget.used();
    assert!(used > 0);
    // The memory is kept for the next round, so that this round does not wait for it.
    case.round();
    assert_eq!(budget.used(), used);
    drop(case);
    assert_eq!(budget.used(), 0);
}

#[test]
fn names_that_need_more_than_the_memory_limit_are_refused() {
    let scratch = TestDir::new();
    let mut case = Case::new(scratch.path());
    case.write("file", "content");
    case.clone = case
        .clone
        .with_budget(Arc::new(Budget::new(0, 0, 1)).share(), Box::new(Counted::up_to(u64::MAX)));
    let error = case.round_error();
    assert!(matches!(error, CloneError::Memory(OverBudget::TooMuch(1))), "{error}");
    assert!(error.to_string().contains("raise that limit"), "{error}");
}
