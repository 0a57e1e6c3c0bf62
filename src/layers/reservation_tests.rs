//! Reservations: how they grow, the limits of captures, and a full disk.

use std::{
    io::{self, Seek as _, SeekFrom, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tempfile::TempDir;

use super::*;
use crate::{
    error::Class,
    layers::{
        SnapshotRecord, SnapshotSource, Store, StoreLock, StoreSettings,
        reserved_file::ReservedFile, testing::snapshot_record,
    },
    sys::mounts::FakeMounts,
};

const TOTAL: u64 = 1_000 * STEP;

#[test]
fn collections_that_outgrow_memory_leave_the_last_part_of_the_disk_free() {
    let free = Arc::new(AtomicU64::new(70 * STEP));
    let (_dir, store) = store(&free);
    let mut map = crate::spill::Map::<Vec<u8>>::default();
    map.spill(&store.disk.scratch(), 1 << 20).unwrap();
    assert!(unwritten(&store) > 0);
    drop(map);
    assert_eq!(unwritten(&store), 0);
    free.store(50 * STEP, Relaxed);
    let error =
        crate::spill::Map::<Vec<u8>>::default().spill(&store.disk.scratch(), 1 << 20).unwrap_err();
    assert!(matches!(ReserveError::within(&error), Some(ReserveError::Full { .. })), "{error}");
}

/// A store whose disk has `free` free bytes.
fn store(free: &Arc<AtomicU64>) -> (TempDir, Arc<Store>) {
    let (dir, free) = (TempDir::new().unwrap(), free.clone());
    let limits = DiskLimits { min_free: 5, captures: 20, captures_each: 10 };
    let settings = StoreSettings { limits, ..StoreSettings::default() };
    let lock = StoreLock::exclusive(dir.path()).unwrap();
    let store = Store::open_locked(lock, Arc::new(FakeMounts::default()), settings).unwrap();
    store.disk.set_fake(move |_| Ok(Space::with_available(TOTAL, free.load(Relaxed))));
    (dir, Arc::new(store))
}

fn unwritten(store: &Store) -> u64 {
    store.disk.with_reserved(|reserved| reserved.unwritten)
}

#[test]
fn a_reservation_grows_in_steps_and_the_last_part_of_the_disk_stays_free() {
    // 60 steps in addition to the part that stays free and its margin for small reservations, a quarter of that part.
    let free = Arc::new(AtomicU64::new(122 * STEP + STEP / 2));
    let (_dir, store) = store(&free);
    let write = |reservation: &Reservation, bytes| {
        reservation.write(bytes).map(|()| _ = free.fetch_sub(bytes, Relaxed))
    };
    let (reservation, other) = (store.disk.reserve(10).unwrap(), store.disk.reserve(STEP).unwrap());
    write(&reservation, 10).unwrap();
    assert_eq!((reservation.bytes(), unwritten(&store)), (10, STEP));
    write(&reservation, 1).unwrap();
    assert_eq!((reservation.bytes(), unwritten(&store)), (10 + STEP, 2 * STEP - 1));
    // Everything but the other reservation. At the end less than a whole step is free.
    for _ in 0..58 {
        write(&reservation, STEP).unwrap();
    }
    write(&reservation, STEP - 11).unwrap();
    let error = reservation.write(1).unwrap_err();
    assert_eq!(error.class(), Class::Exhausted);
    assert!(matches!(
        ReserveError::within(&error.into_io()),
        Some(ReserveError::Full { wanted: 1, .. })
    ));
    write(&other, STEP).unwrap();
    assert_eq!((free.load(Relaxed), unwritten(&store)), (62 * STEP + STEP / 2, 0));
    let small = store.disk.reserve(SMALL).unwrap();
    assert!(store.disk.reserve(SMALL + 1).is_err() && small.write(SMALL + 1).is_err());
    drop(small);
    drop((reservation, other));
    assert_eq!(unwritten(&store), 0);
}

#[test]
fn space_is_freed_before_a_reservation_fails() {
    let free = Arc::new(AtomicU64::new(64 * STEP));
    let (_dir, store) = store(&free);
    let (requested, given) = (Arc::new(AtomicU64::new(0)), free.clone());
    let request = requested.clone();
    store.disk.on_full(move |bytes| {
        request.store(bytes, Relaxed);
        given.store(70 * STEP, Relaxed);
    });
    let reservation = store.disk.reserve(STEP).unwrap();
    assert_eq!(requested.load(Relaxed), 0);
    reservation.write(STEP).unwrap();
    free.store(62 * STEP, Relaxed);
    reservation.write(7).unwrap();
    assert_eq!(requested.load(Relaxed), 7 + 62 * STEP + STEP / 2);
    let error = store.disk.reserve(20 * STEP).unwrap_err();
    assert!(error.to_string().contains("must stay free"), "{error}");
}

/// Rewritten parts of a file and its holes take no space.
#[test]
fn only_the_growth_of_a_file_counts() {
    let (_dir, store) = store(&Arc::new(AtomicU64::new(TOTAL)));
    let reservation = store.disk.reserve(100).unwrap();
    let mut file = ReservedFile::new(io::Cursor::new(Vec::new()), &reservation);
    file.write_all(&[1; 10]).unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    file.write_all(&[2; 10]).unwrap();
    file.seek(SeekFrom::Start(1_000)).unwrap();
    file.write_all(&[3; 10]).unwrap();
    assert_eq!(unwritten(&store), 75);
}

#[test]
fn captures_are_limited_per_namespace_and_in_total() {
    let (_dir, store) = store(&Arc::new(AtomicU64::new(TOTAL)));
    let part = TOTAL / 10;
    let a = store.disk.reserve_capture("a", part - 10).unwrap();
    a.write(part - 10).unwrap();
    let error = a.write(11).unwrap_err();
    assert_eq!(error.class(), Class::Exhausted);
    assert!(error.to_string().starts_with("the snapshots of namespace a on this node"), "{error}");
    store.snapshots.put(record("a", part - 10)).unwrap();
    drop(a);
    store.disk.reserve_capture("a", 11).unwrap_err();
    let _a = store.disk.reserve_capture("a", 10).unwrap();
    let b = store.disk.reserve_capture("b", part).unwrap();
    let error = store.disk.reserve_capture("c", 1).unwrap_err();
    assert!(error.to_string().starts_with("the snapshots of all namespaces"), "{error}");
    drop(b);
    drop(store.disk.reserve_capture("c", 1).unwrap());
    drop(store.disk.reserve(5 * part).unwrap());
}

/// A capture that shares its volume's bytes takes no space on the disk, but counts towards the namespace's limit.
#[test]
fn shared_bytes_of_a_capture_count_for_its_namespace_and_replaced_ones_do_not() {
    let free = Arc::new(AtomicU64::new(50 * STEP));
    let (_dir, store) = store(&free);
    let part = TOTAL / 10;
    let reservation = store.disk.reserve_capture("a", 0).unwrap();
    for _ in 0..10 {
        reservation.share(part / 10).unwrap();
    }
    let error = reservation.share(1).unwrap_err();
    assert!(error.to_string().starts_with("the snapshots of namespace a on this node"), "{error}");
    assert_eq!(unwritten(&store), 0);
    // A pre-copy round has replaced half of it.
    reservation.reduce_to(part / 2);
    reservation.share(part - part / 2).unwrap();
    reservation.share(1).unwrap_err();
    drop(reservation);
    store.disk.reserve_capture("a", 0).unwrap().share(part).unwrap();
}

fn record(namespace: &str, bytes: u64) -> SnapshotRecord {
    let record = snapshot_record("s");
    let source = SnapshotSource { namespace: namespace.to_owned(), ..record.source.clone() };
    SnapshotRecord { own_layers: 0, source, bytes, ..record }
}
