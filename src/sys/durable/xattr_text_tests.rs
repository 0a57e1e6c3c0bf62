//! Texts of any length, kills between two parts, and power cuts.

use super::*;
use crate::sys::test_dir::{Disk, TestDir};

/// Runs `test` in a directory on a disk of each file system whose [`Journal`] is known.
fn on_each(test: impl Fn(&Path)) {
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let _disk = Disk::new(&scratch, fs_type, &at);
        assert_ne!(Journal::of(&at), Journal::Unknown, "{fs_type}");
        let dir = at.join("noted");
        fs::create_dir(&dir).unwrap();
        test(&dir);
    }
}

#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_text_of_any_length_is_read_as_it_was_written() {
    on_each(any_length);
}

/// A volume may be removed while garbage collection reads the records of all volumes.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_text_that_is_removed_while_it_is_read_is_none_or_complete() {
    on_each(|dir| {
        let at = dir.join("going");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3_000 {
                    fs::create_dir(&at).unwrap();
                    put(&at, "record", b"text").unwrap();
                    fs::remove_dir(&at).unwrap();
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let read = get(&at, "record").unwrap();
                assert!(read.is_none_or(|text| text == b"text"));
            }
        });
    });
}

fn any_length(dir: &Path) {
    assert_eq!(get(dir, "record").unwrap(), None);
    assert_eq!(get(&dir.join("nowhere"), "record").unwrap(), None);
    for length in [0, 1, PART - 1, PART, PART + 1, 10 * PART, 3 * PART, 5, 4 * PART] {
        let text: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        put(dir, "record", &text).unwrap();
        assert!(get(dir, "record").unwrap().unwrap() == text, "{length}");
        let further = text.len().div_ceil(largest(dir).unwrap()).max(1) - 1;
        assert_eq!(fs::read_dir(dir).unwrap().count(), further, "{length}");
    }
}

#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_kill_between_two_parts_leaves_the_former_text() {
    on_each(killed);
}

fn killed(dir: &Path) {
    let part = largest(dir).unwrap();
    let former = vec![b'f'; 3 * part];
    put(dir, "record", &former).unwrap();
    let before = get_xattr(dir, "record").unwrap().unwrap();
    put(dir, "record", &vec![b'n'; 3 * part]).unwrap();
    // The state before the head was set.
    for n in 0..2 {
        fs::create_dir(part_of(dir, "record", 'a', n)).unwrap();
        set(&part_of(dir, "record", 'a', n), "record", &former[part * (n + 1)..][..part]).unwrap();
    }
    set(dir, "record", &before).unwrap();
    assert!(get(dir, "record").unwrap().unwrap() == former);
    put(dir, "record", b"next").unwrap();
    assert_eq!(get(dir, "record").unwrap().unwrap(), b"next");
    fs::create_dir(part_of(dir, "record", 'a', 0)).ok();
    set(dir, "record", &before).unwrap();
    assert_eq!(get(dir, "record").unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// The steps in which a volume is made, with a transaction of the disk that ends after each step.
/// Then a file is synced, and there is a power cut.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_text_is_durable_with_the_first_file_that_is_synced_after_it() {
    use std::io::Write as _;

    let cases = ["ext4", "xfs", "btrfs"].map(|fs_type| [600, 9_000].map(|n| (fs_type, n)));
    for (fs_type, length) in cases.into_iter().flatten() {
        for ends_at in 0..6 {
            let case = format!("{fs_type}, {length} bytes, after step {ends_at}");
            let scratch = TestDir::new();
            let at = scratch.dir("disk");
            let disk = Disk::new(&scratch, fs_type, &at);
            let journal = Journal::of(&at);
            assert_ne!(journal, Journal::Unknown, "{case}");
            let (all, dir) = (at.join("all"), at.join("all/one"));
            fs::create_dir(&all).unwrap();
            disk.sync();
            let text = vec![b'x'; length];
            let steps: [&dyn Fn(); 5] = [
                &|| fs::create_dir(&dir).unwrap(),
                &|| fs::create_dir(dir.join("upper.new")).unwrap(),
                &|| fs::rename(dir.join("upper.new"), dir.join("upper")).unwrap(),
                &|| put(&dir, "record", &text).unwrap(),
                &|| fs::create_dir(dir.join("newest")).unwrap(),
            ];
            for (n, step) in steps.iter().enumerate() {
                step();
                if ends_at == n + 1 {
                    disk.sync();
                }
            }
            journal.sync_if_needed(&dir, &dir.join("newest")).unwrap();
            let mut file = fs::File::create(dir.join("upper/file")).unwrap();
            file.write_all(b"mine").unwrap();
            file.sync_all().unwrap();
            let copy = disk.copy_image();
            drop(file);
            disk.boot_from(&copy);
            assert_eq!(
                fs::read(dir.join("upper/file")).ok().as_deref(),
                Some(&b"mine"[..]),
                "{case}"
            );
            assert!(get(&dir, "record").unwrap() == Some(text), "{case}: the record is lost");
        }
    }
}
