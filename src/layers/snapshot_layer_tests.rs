//! Snapshot layers beside layers that were added from tars.

use std::{collections::HashSet, fs, sync::Arc, time::Duration};

use super::{super::Place, *};
use crate::{
    changeset::LayerFeatures,
    digest::DiffId,
    layers::{
        GcStats, LayerKey, NewLayer, Origin, Roots, SnapshotRecord, Store, Watermarks,
        testing::{new_layer, snapshot_record},
    },
    media_type::Format,
    sys::{
        mounts::LinuxMounts,
        test_dir::{Disk, TestDir},
    },
};

fn open(scratch: &TestDir) -> Arc<Store> {
    Arc::new(Store::open(&scratch.path().join("store"), Arc::new(LinuxMounts)).unwrap())
}

fn id(name: &str) -> SnapshotId {
    name.parse().unwrap()
}

const CONTENTS: SnapshotContents = SnapshotContents {
    entries: 1,
    bytes: 4,
    features: LayerFeatures { metacopy: true, redirect: false },
};

const WRITTEN: Amount = Amount { files: 1, bytes: 4 };

fn add_snapshot(store: &Arc<Store>, name: &str, content: &str) -> LayerKey {
    let staged = store.layers.stage_snapshot(&id(name)).unwrap();
    fs::write(staged.tree().join("file"), content).unwrap();
    fs::write(staged.aside().join("0"), "replaced").unwrap();
    let key = staged.key();
    staged.commit(CONTENTS, WRITTEN).unwrap();
    key
}

fn names(dir: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn tar(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    tar.append_data(&mut header, name, io::empty()).unwrap();
    tar.into_inner().unwrap()
}

fn add(store: &Arc<Store>, name: &str, format: Format) -> NewLayer {
    let tar = tar(name);
    let new = new_layer(&tar, format);
    store.layers.add(&new, store.disk.reserve(1).unwrap(), &tar[..]).unwrap();
    new
}

#[test]
fn an_image_cannot_claim_a_snapshot_layer() {
    let scratch = TestDir::new();
    let store = open(&scratch);
    let key = add_snapshot(&store, "snap-1", "one");
    assert_eq!(key, LayerKey::of_snapshot(&id("snap-1")));
    assert!(store.layers.has(&key) && !store.layers.fits(&key, Place::Any));
    assert_eq!(store.layers.diff_id(&key).unwrap(), None);
    let lower = store.layers.lower(&key).unwrap();
    assert_eq!(fs::read_to_string(lower.tree.path().join("file")).unwrap(), "one");
    assert!(lower.is_snapshot && !lower.opaque_root);
    assert_eq!(lower.features, CONTENTS.features);
    assert_eq!(store.verify().unwrap(), []);
    let layer = scratch.path().join("store/layers").join(key.dir_name());
    assert_eq!(
        HashSet::from_iter(names(layer)),
        HashSet::from(["diff", "layer.json"].map(String::from))
    );
    // An image whose config claims the key as a diff ID must deliver bytes with that digest. There are none.
    let tar = tar("x");
    let diff_id = DiffId::new(key.to_string().parse().unwrap());
    let claim = NewLayer { diff_id, ..new_layer(&tar, Format::Portable) };
    store.layers.add(&claim, store.disk.reserve(1).unwrap(), &tar[..]).unwrap_err();
    assert!(store.layers.lower(&key).unwrap().is_snapshot);
}

#[test]
fn a_staged_snapshot_that_is_not_committed_leaves_nothing() {
    let scratch = TestDir::new();
    let store = open(&scratch);
    drop(store.layers.stage_snapshot(&id("snap-1")).unwrap());
    for part in ["staging", "layers"] {
        assert_eq!(names(scratch.path().join("store").join(part)), Vec::<String>::new(), "{part}");
    }
    // A kill: nothing is dropped.
    std::mem::forget(store.layers.stage_snapshot(&id("snap-1")).unwrap());
    // The leaked value keeps the store locked, because this is the same process.
    assert_eq!(names(scratch.path().join("store/staging")).len(), 1);
    assert!(!store.layers.has(&LayerKey::of_snapshot(&id("snap-1"))));
}

/// The earlier snapshot was deleted, but a volume may still use its layer.
#[test]
fn a_snapshot_name_used_again_gets_a_new_layer() {
    let scratch = TestDir::new();
    let store = open(&scratch);
    let keys = ["one", "two", "three"].map(|content| add_snapshot(&store, "snap-1", content));
    for (key, content) in keys.iter().zip(["one", "two", "three"]) {
        let tree = store.layers.lower(key).unwrap().tree.path();
        assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), content);
    }
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_snapshot_layer_is_kept_by_its_record_alone() {
    let scratch = TestDir::new();
    let store = open(&scratch);
    let key = add_snapshot(&store, "snap-1", "one");
    let record = SnapshotRecord { stack: vec![key], bytes: 4, ..snapshot_record("snap-1") };
    store.snapshots.put(record).unwrap();
    let watermarks = Watermarks { high: 100, low: 100, grace: Duration::ZERO };
    let collect = || store.collect(|| Ok(Roots::default()), &watermarks).unwrap();
    assert_eq!(collect(), GcStats { kept_layers: 1, kept_bytes: 4, ..GcStats::default() });
    store.snapshots.remove(&id("snap-1")).unwrap();
    assert_eq!(collect().layers, 1);
    assert!(!store.layers.has(&key));
}

/// One tar is two trees, depending on its format.
#[test]
fn a_native_layer_is_stored_beside_the_portable_one() {
    let scratch = TestDir::new();
    let store = open(&scratch);
    let new = add(&store, "file", Format::Portable);
    let (portable, diff_id) = (new.key_alone(), new.diff_id);
    let new = add(&store, "file", Format::Native);
    let native = new.key_alone();
    assert_eq!(new.diff_id, diff_id);
    assert!(store.layers.has(&portable) && store.layers.has(&native));
    assert!(store.layers.fits(&portable, Place::Any) && store.layers.fits(&native, Place::Any));
    assert_eq!(store.layers.diff_id(&native).unwrap(), Some(diff_id));
    assert_eq!(store.verify().unwrap(), []);
    let packed = crate::layers::PackedBlob { media_type: "m".to_owned(), size: 7, diff_id };
    let [origin] = &store.origins.of(&native)[..] else { panic!() };
    let known = Origin { packed: Some(packed.clone()), public: false, ..origin.clone() };
    store.origins.add(&native, known).unwrap();
    let [origin] = &store.origins.of(&native)[..] else { panic!() };
    assert_eq!((origin.public, &origin.packed), (true, &Some(packed)));
}

/// docs/hazards.md, 16.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_a_committed_snapshot_layer_is_complete_after_a_power_cut() {
    for fs_type in ["xfs", "ext4"] {
        // On a busy machine, the kernel may write the neighbour's bytes by itself.
        let is_forced_out = (0..4).all(|_| neighbour_survives_a_power_cut(fs_type));
        assert!(!is_forced_out, "{fs_type}: a neighbour's bytes were forced out");
    }
}

/// Commits a snapshot layer; the power is gone in the middle of the next one. Whether bytes are on the disk that another
/// program has written and not synced.
fn neighbour_survives_a_power_cut(fs_type: &str) -> bool {
    let scratch = TestDir::new();
    let at = scratch.dir("disk");
    let disk = Disk::new(&scratch, fs_type, &at);
    let content = "0123456789abcdef".repeat(100_000);
    // More bytes than a sync of the snapshot layer alone writes to the disk.
    fs::write(at.join("neighbour"), vec![1; 64 << 20]).unwrap();
    let store = Arc::new(Store::open(&at.join("store"), Arc::new(LinuxMounts)).unwrap());
    let whole = add_snapshot(&store, "snap-1", &content);
    let half = store.layers.stage_snapshot(&id("snap-2")).unwrap();
    fs::write(half.tree().join("file"), &content).unwrap();
    disk.cut_power();
    let error = half.commit(CONTENTS, WRITTEN).unwrap_err();
    assert!(error.to_string().contains("staging"), "{error}");
    drop(store);
    disk.boot();
    let store = Arc::new(Store::open(&at.join("store"), Arc::new(LinuxMounts)).unwrap());
    store.staging.remove_abandoned().unwrap();
    assert_eq!(names(at.join("store/staging")), Vec::<String>::new(), "{fs_type}");
    assert_eq!(names(at.join("store/layers")), [whole.dir_name()], "{fs_type}");
    let tree = store.layers.lower(&whole).unwrap().tree.path();
    assert!(fs::read_to_string(tree.join("file")).unwrap() == content, "{fs_type}: torn");
    fs::read(at.join("neighbour")).unwrap_or_default() == vec![1; 64 << 20]
}

#[test]
fn an_unreachable_snapshot_layer_is_removed_at_once() {
    let scratch = TestDir::new();
    let store = open(&scratch);
    let (unreachable, tar) =
        (add_snapshot(&store, "snap-1", "one"), add(&store, "tar", Format::Portable).key_alone());
    let patient = Watermarks { high: 100, low: 100, grace: Duration::from_secs(600) };
    let lease = store.leases.take_if_present(&[unreachable]).unwrap().unwrap();
    let nothing = || Ok(Roots::default());
    assert_eq!(store.collect(nothing, &patient).unwrap().layers, 0);
    drop(lease);
    assert_eq!(store.collect(nothing, &patient).unwrap().layers, 1);
    assert!(!store.layers.has(&unreachable) && store.layers.has(&tar));
}
