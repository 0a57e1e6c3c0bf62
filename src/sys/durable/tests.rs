//! Each call with its two sides: what it changes, and what it leaves unchanged.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::*;
use crate::sys::test_dir::TestDir;

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn new_files_are_written_together_and_replace_none() {
    let dir = TestDir::new();
    let paths: Vec<_> = (0..100).map(|number| dir.path().join(number.to_string())).collect();
    write_new(&paths, b"new").unwrap();
    assert!(paths.iter().all(|path| fs::read(path).unwrap() == b"new" && mode(path) == 0o600));
    let error = write_new(&paths[5..6], b"other").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("/5:"), "{error}");
    assert_eq!(fs::read(&paths[5]).unwrap(), b"new");
}

#[test]
fn write_replaces_the_file_and_leaves_nothing_else() {
    let dir = TestDir::new();
    let record = dir.path().join("record.json");
    write_atomic(&record, b"first").unwrap();
    write_atomic(&record, b"second").unwrap();
    assert_eq!(fs::read(&record).unwrap(), b"second");
    assert_eq!(mode(&record), 0o600);
    assert_eq!(names(dir.path()), ["record.json"]);
}

#[test]
fn write_replaces_a_symlink_and_does_not_follow_it() {
    let dir = TestDir::new();
    let outside = dir.file("outside", "kept");
    let record = dir.path().join("record");
    symlink(&outside, &record).unwrap();
    write_atomic(&record, b"new").unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"kept");
    assert!(fs::symlink_metadata(&record).unwrap().is_file());
}

#[test]
fn a_failed_write_keeps_the_old_file_and_removes_its_temporary_file() {
    let dir = TestDir::new();
    let occupied = dir.dir("record");
    dir.file("record/full", "");
    let error = write_atomic(&occupied, b"new").unwrap_err();
    assert!(error.to_string().contains("record"), "{error}");
    assert_eq!(names(dir.path()), ["record"]);
}

#[test]
fn the_next_write_ignores_a_temporary_file_that_a_crash_left() {
    let dir = TestDir::new();
    let record = dir.file("record", "old");
    // A kill between the write and the rename leaves this file. Its number is the next to be used.
    let (temp, file) = create_temp(dir.path()).unwrap();
    temp.keep();
    drop(file);
    let left: Vec<_> = names(dir.path()).into_iter().filter(|name| name != "record").collect();
    assert_eq!(left.len(), 1);
    assert!(left[0].starts_with(TEMP_PREFIX), "{left:?}");
    assert_eq!(fs::read(&record).unwrap(), b"old");

    write_atomic(&record, b"new").unwrap();
    assert_eq!(fs::read(&record).unwrap(), b"new");
}

#[test]
fn a_temporary_file_can_be_in_another_directory() {
    let dir = TestDir::new();
    let (temp, record) = (dir.dir("temp"), dir.dir("records").join("record"));
    fs::write(&record, "old").unwrap();
    write_atomic_from(&temp, &record, b"new").unwrap();
    assert_eq!((fs::read(&record).unwrap(), names(&temp).len()), (b"new".to_vec(), 0));
    dir.dir("records/full/record");
    write_atomic_from(&temp, &dir.path().join("records/full"), b"new").unwrap_err();
    assert_eq!((names(record.parent().unwrap()).len(), names(&temp).len()), (2, 0));
}

#[test]
fn rename_moves_and_never_replaces() {
    let dir = TestDir::new();
    let (staged, placed) = (dir.dir("staging/x"), dir.dir("layers").join("x"));
    rename(&staged, &placed).unwrap();
    assert!(placed.is_dir() && !staged.exists());

    fs::create_dir(&staged).unwrap();
    let error = rename(&staged, &placed).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("staging/x"), "{error}");
    assert!(staged.is_dir());
}

#[test]
fn removing_a_file_twice_succeeds() {
    let dir = TestDir::new();
    let file = dir.file("file", "");
    remove_file(&file).unwrap();
    remove_file(&file).unwrap();
    assert!(remove_file(&dir.dir("directory")).is_err());
}

#[test]
fn a_new_directory_gets_its_exact_mode_and_an_existing_one_keeps_its_mode() {
    let dir = TestDir::new();
    let directory = dir.path().join("directory");
    create_dir(&directory, 0o2777).unwrap(); // the umask of a test run takes 022 at least
    assert_eq!(mode(&directory), 0o2777);
    create_dir(&directory, 0o700).unwrap();
    assert_eq!(mode(&directory), 0o2777, "it may be the root of a mount by now");

    let error = create_dir(&dir.file("file", ""), 0o700).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    symlink(&directory, dir.path().join("link")).unwrap();
    assert!(create_dir(&dir.path().join("link"), 0o700).is_err());
}

#[test]
fn a_tree_is_removed_with_everything_in_it_and_nothing_else() {
    let dir = TestDir::new();
    let outside = dir.dir("outside");
    dir.file("outside/file", "kept");
    let tree = dir.dir("tree");
    for n in 0..300 {
        dir.dir(&format!("tree/{n}/a/b"));
        dir.file(&format!("tree/{n}/a/file"), "x");
    }
    symlink(&outside, tree.join("link")).unwrap();
    symlink(outside.join("file"), tree.join("0/a/b/link")).unwrap();
    remove_tree(&tree).unwrap();
    assert_eq!(names(dir.path()), ["outside"]);
    assert_eq!(names(&outside), ["file"]);
}

#[test]
fn removing_a_missing_tree_a_file_or_a_symlink_succeeds() {
    let dir = TestDir::new();
    remove_tree(&dir.path().join("missing/tree")).unwrap();
    remove_tree(&dir.path().join("missing")).unwrap();
    remove_tree(&dir.file("file", "")).unwrap();
    let outside = dir.dir("outside");
    symlink(&outside, dir.path().join("link")).unwrap();
    remove_tree(&dir.path().join("link")).unwrap();
    assert_eq!(names(dir.path()), ["outside"]);
    assert_eq!(remove_tree(Path::new("/")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_tree_deeper_than_the_longest_path_is_removed() {
    let dir = TestDir::new();
    let tree = dir.dir("tree");
    let name = "eight by"; // 9,000 bytes of path, twice what a path may have
    let mut dir_fd = std::os::fd::OwnedFd::from(File::open(&tree).unwrap());
    for _ in 0..1_000 {
        rustix::fs::mkdirat(&dir_fd, name, rustix::fs::Mode::RWXU).unwrap();
        dir_fd =
            rustix::fs::openat(&dir_fd, name, openat2::READ, rustix::fs::Mode::empty()).unwrap();
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

/// Deep directories are moved up: past existing names, from directories with several entries, and
/// again where they are still deep.
#[test]
fn a_deep_tree_is_removed_whatever_its_names_are() {
    let dir = TestDir::new();
    let tree = dir.dir("tree");
    dir.dir("tree/.ovl-deep.0/full");
    dir.file("tree/.ovl-deep.1", "");
    let mut dir_fd = std::os::fd::OwnedFd::from(File::open(&tree).unwrap());
    let mode = rustix::fs::Mode::RWXU;
    for _ in 0..1_000 {
        for name in ["a", "b", "c"] {
            rustix::fs::mkdirat(&dir_fd, name, mode).unwrap();
        }
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&dir_fd, "file", flags, mode).unwrap();
        dir_fd = rustix::fs::openat(&dir_fd, "b", openat2::READ, mode).unwrap();
    }
    remove_tree(&tree).unwrap();
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root"]
fn privileged_a_mount_in_the_tree_is_refused_and_its_files_survive() {
    for at in ["tree", "tree/a/mounted", "tree/a/empty"] {
        let dir = TestDir::new();
        let data = dir.dir("data");
        let (tree, target) = (dir.dir("tree"), dir.dir(at));
        if at != "tree/a/empty" {
            dir.file("data/file", "kept");
        }
        mount_bind(&data, &target).unwrap();
        let error = remove_tree(&tree).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::CrossesDevices, "{error}");
        assert!(error.to_string().contains(target.to_str().unwrap()), "{error}");
        assert_eq!(names(&data).len(), usize::from(at != "tree/a/empty"));

        unmount(&target, UnmountFlags::NOFOLLOW).unwrap();
        remove_tree(&tree).unwrap();
        assert_eq!(names(dir.path()), ["data"]);
    }
}

#[test]
fn the_error_of_a_sync_names_a_missing_path() {
    let dir = TestDir::new();
    sync_file(&File::open(dir.file("file", "x")).unwrap()).unwrap();
    sync_filesystem(&File::open(dir.path()).unwrap()).unwrap();
    sync_dir(dir.path()).unwrap();
    let error = sync_dir(&dir.path().join("missing")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn the_boot_id_is_a_uuid_and_does_not_change() {
    let id = boot_id().unwrap();
    assert_eq!(id.len(), 36, "{id}");
    assert_eq!(id, boot_id().unwrap());
}
