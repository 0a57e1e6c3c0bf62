use std::{
    io::{self, Seek as _, SeekFrom, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::{
    layers::{SnapshotRecord, SnapshotSource, reserved_file::ReservedFile},
    sys::mounts::FakeMounts,
};

const TOTAL: u64 = 1_000 * STEP;

#[test]
fn what_outgrows_memory_leaves_the_last_part_of_the_disk_free_too() {
    let free = Arc::new(AtomicU64::new(70 * STEP));
    let (_dir, store) = store(&free);
    let mut map = crate::spill::Map::<Vec<u8>>::default();
    map.spill(&store.spills(), 1 << 20).unwrap();
    assert!(open(&store) > 0);
    drop(map);
    assert_eq!(open(&store), 0);
    free.store(50 * STEP, Relaxed);
    let error =
        crate::spill::Map::<Vec<u8>>::default().spill(&store.spills(), 1 << 20).unwrap_err();
    assert!(matches!(ReserveError::within(&error), Some(ReserveError::Full { .. })), "{error}");
}

/// A store whose disk has `free` bytes left.
fn store(free: &Arc<AtomicU64>) -> (TempDir, Arc<Store>) {
    let (dir, free) = (TempDir::new().unwrap(), free.clone());
    let mut store = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
    store.set_disk(move |_| Ok(Space::with_available(TOTAL, free.load(Relaxed))));
    let limits = DiskLimits { min_free: 5, captures: 20, captures_each: 10 };
    (dir, Arc::new(store.leaving(limits)))
}

fn open(store: &Store) -> u64 {
    store.disk.promised(|promised| promised.open)
}

#[test]
fn what_grows_is_promised_more_in_steps_and_the_last_part_of_the_disk_stays_free() {
    // 60 steps beyond what stays free; of these a quarter of that for who wants little.
    let free = Arc::new(AtomicU64::new(122 * STEP + STEP / 2));
    let (_dir, store) = store(&free);
    let write =
        |room: &Reservation, bytes| room.write(bytes).map(|()| _ = free.fetch_sub(bytes, Relaxed));
    let layer = Digest::of(b"layer");
    let (room, other) = (store.reserve(&layer, 10).unwrap(), store.reserve(&layer, STEP).unwrap());
    write(&room, 10).unwrap();
    assert_eq!((room.bytes(), open(&store)), (10, STEP));
    write(&room, 1).unwrap();
    assert_eq!((room.bytes(), open(&store)), (10 + STEP, 2 * STEP - 1));
    // The rest but for the other's; a whole step is not there any more at the end.
    for _ in 0..58 {
        write(&room, STEP).unwrap();
    }
    write(&room, STEP - 11).unwrap();
    let error = room.write(1).unwrap_err();
    assert_eq!(error.class(), Class::Exhausted);
    assert!(matches!(
        ReserveError::within(&error.into_io()),
        Some(ReserveError::Full { wanted: 1, .. })
    ));
    write(&other, STEP).unwrap();
    assert_eq!((free.load(Relaxed), open(&store)), (62 * STEP + STEP / 2, 0));
    let little = store.reserve(&layer, LITTLE).unwrap();
    assert!(store.reserve(&layer, LITTLE + 1).is_err() && little.write(LITTLE + 1).is_err());
    drop(little);
    drop((room, other));
    assert_eq!(open(&store), 0);
}

#[test]
fn what_nobody_needs_goes_before_there_is_no_room() {
    let free = Arc::new(AtomicU64::new(64 * STEP));
    let (_dir, store) = store(&free);
    let (asked, given) = (Arc::new(AtomicU64::new(0)), free.clone());
    let told = asked.clone();
    store.when_full(move |bytes| {
        told.store(bytes, Relaxed);
        given.store(70 * STEP, Relaxed);
    });
    let room = store.reserve(&Digest::of(b"layer"), STEP).unwrap();
    assert_eq!(asked.load(Relaxed), 0);
    room.write(STEP).unwrap();
    free.store(62 * STEP, Relaxed);
    room.write(7).unwrap();
    assert_eq!(asked.load(Relaxed), 7 + 62 * STEP + STEP / 2);
    let error = store.reserve(&Digest::of(b"layer"), 20 * STEP).unwrap_err();
    assert!(error.to_string().contains("to stay free"), "{error}");
}

/// A file's rewritten parts and its holes take nothing.
#[test]
fn only_what_makes_a_file_longer_counts() {
    let (_dir, store) = store(&Arc::new(AtomicU64::new(TOTAL)));
    let room = store.reserve(&Digest::of(b"layer"), 100).unwrap();
    let mut file = ReservedFile::new(io::Cursor::new(Vec::new()), &room);
    file.write_all(&[1; 10]).unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    file.write_all(&[2; 10]).unwrap();
    file.seek(SeekFrom::Start(1_000)).unwrap();
    file.write_all(&[3; 10]).unwrap();
    assert_eq!(open(&store), 75);
}

#[test]
fn captures_of_a_namespace_and_of_all_have_their_part_of_the_disk() {
    let (_dir, store) = store(&Arc::new(AtomicU64::new(TOTAL)));
    let part = TOTAL / 10;
    let a = store.reserve_capture("a", part - 10).unwrap();
    a.write(part - 10).unwrap();
    let error = a.write(11).unwrap_err();
    assert_eq!(error.class(), Class::Exhausted);
    assert!(error.to_string().starts_with("the snapshots of namespace a on this node"), "{error}");
    store.put_snapshot(record("a", part - 10)).unwrap();
    drop(a);
    store.reserve_capture("a", 11).unwrap_err();
    let _a = store.reserve_capture("a", 10).unwrap();
    let b = store.reserve_capture("b", part).unwrap();
    let error = store.reserve_capture("c", 1).unwrap_err();
    assert!(error.to_string().starts_with("the snapshots of all namespaces"), "{error}");
    drop(b);
    drop(store.reserve_capture("c", 1).unwrap());
    drop(store.reserve(&Digest::of(b"layer"), 5 * part).unwrap());
}

/// A capture that shares its volume's bytes takes no room, and is no way to have more than one's part.
#[test]
fn bytes_that_a_capture_shares_count_as_its_namespaces_and_what_it_replaced_does_not() {
    let free = Arc::new(AtomicU64::new(50 * STEP));
    let (_dir, store) = store(&free);
    let part = TOTAL / 10;
    let room = store.reserve_capture("a", 0).unwrap();
    for _ in 0..10 {
        room.share(part / 10).unwrap();
    }
    let error = room.share(1).unwrap_err();
    assert!(error.to_string().starts_with("the snapshots of namespace a on this node"), "{error}");
    assert_eq!(open(&store), 0);
    // A round has replaced half of it.
    room.settle(part / 2);
    room.share(part - part / 2).unwrap();
    room.share(1).unwrap_err();
    drop(room);
    store.reserve_capture("a", 0).unwrap().share(part).unwrap();
}

fn record(namespace: &str, bytes: u64) -> SnapshotRecord {
    let text = || String::new();
    SnapshotRecord {
        format: SnapshotRecord::FORMAT,
        id: "s".parse().unwrap(),
        stack: Vec::new(),
        own: 0,
        manifests: Vec::new(),
        base: None,
        parent: None,
        source: SnapshotSource {
            namespace: namespace.to_owned(),
            pod: text(),
            pod_uid: text(),
            volume: text(),
        },
        owner: None,
        cut: Timestamp::now(),
        entries: 1,
        bytes,
        frozen_micros: None,
        ended: false,
        torn: 0,
        pushed: None,
    }
}
