//! Image records: their content in memory and on the disk, and their bounds.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::{
    layers::{Roots, Store, Watermarks, image_file::NAMES},
    sys::mounts::FakeMounts,
};

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap()
}

fn manifest(n: usize) -> ManifestDigest {
    ManifestDigest::of(&n.to_le_bytes())
}

fn with_config(config: &str) -> ImageDetails {
    let config_digest = Some(BlobDigest::of(config.as_bytes()));
    ImageDetails { index: None, config_digest, config: Some(config.to_owned()) }
}

fn collect(store: &Store, manifests: HashSet<ManifestDigest>) -> u64 {
    let watermarks = Watermarks { high: 100, low: 100, grace: Duration::from_secs(60) };
    let roots = || Ok(Roots { manifests: manifests.clone(), ..Roots::default() });
    store.collect(roots, &watermarks).unwrap().images
}

/// Tenants choose images, so configs are never in memory, neither at start nor later.
#[test]
fn a_config_stays_on_the_disk_and_survives_later_writes_of_its_record() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let config = r#"{"config":{"Env":["A=1"]}}"#;
    store.images.put("r.io/a:1", manifest(1), &[], &with_config(config)).unwrap();
    store.images.put("r.io/a:2", manifest(1), &[], &ImageDetails::default()).unwrap();
    store.images.known().get_mut(&manifest(1)).unwrap().written_use = Timestamp::UNIX_EPOCH;
    store.images.mark_used(&manifest(1));
    collect(&store, HashSet::new());
    let check = |store: &Store| {
        assert_eq!(store.images.config(&manifest(1)).as_deref(), Some(config));
        let (place, digest) = ("r.io/a", BlobDigest::of(config.as_bytes()));
        assert_eq!(store.images.config_at(place, &digest).as_deref(), Some(config));
        assert_eq!(store.images.config_at("r.io/b", &digest), None, "another repository's");
        assert_eq!(store.images.config_at("r.io/a", &BlobDigest::new(*manifest(1).digest())), None);
        let shown = format!("{:?}", store.images);
        assert!(!shown.contains("Env"), "{shown}");
    };
    check(&store);
    drop(store);
    check(&open(&dir));
}

/// A pod that starts must not wait for the disk. After a crash an image may only seem to be used earlier.
#[test]
fn a_use_is_written_by_a_round_and_at_most_once_an_hour() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    store.images.put("r.io/a:1", manifest(1), &[], &ImageDetails::default()).unwrap();
    store.images.known().get_mut(&manifest(1)).unwrap().written_use = Timestamp::UNIX_EPOCH;
    let path = store.images.path(&manifest(1));
    let on_disk = || read(&path).unwrap().0.used;
    store.images.mark_used(&manifest(1));
    assert_eq!(on_disk(), None, "a use writes nothing");
    let uses = ["10:00", "10:59", "11:00"].map(|time| format!("2999-01-01T{time}:00Z"));
    let uses = uses.map(|time| time.parse::<Timestamp>().unwrap());
    for (use_at, written) in uses.into_iter().zip([uses[0], uses[0], uses[2]]) {
        let mut known = store.images.known();
        Arc::make_mut(&mut known.get_mut(&manifest(1)).unwrap().image).used = Some(use_at);
        drop(known);
        collect(&store, HashSet::new());
        assert_eq!(on_disk(), Some(written), "used at {use_at}");
    }
}

#[test]
fn a_digest_resolves_only_at_the_repository_that_served_it() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let details = ImageDetails { index: Some(manifest(7)), ..ImageDetails::default() };
    store.images.put("r.io/a:1", manifest(1), &[], &details).unwrap();
    for digest in [manifest(1), manifest(7)] {
        assert_eq!(store.images.at("r.io/a", &digest).unwrap().manifest, manifest(1));
        for other in ["r.io/b", "r.io", "r.io/a/b", "r.io/"] {
            assert_eq!(store.images.at(other, &digest), None, "{other}");
        }
    }
    assert_eq!(store.images.at("r.io/a", &manifest(2)), None);
}

#[test]
fn a_record_keeps_its_latest_references_and_indexes() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    for n in 0..=NAMES {
        let details = ImageDetails { index: Some(manifest(n)), ..ImageDetails::default() };
        store.images.put(&format!("r.io/a:{n}"), manifest(99), &[], &details).unwrap();
    }
    assert_eq!(store.images.named("r.io/a:0"), None);
    assert_eq!(store.images.at("r.io/a", &manifest(0)), None);
    let image = store.images.named(&format!("r.io/a:{NAMES}")).unwrap();
    assert_eq!((image.references.len(), image.indexes.len()), (NAMES, NAMES));
}

/// A node with very many small images must not run out of memory, even if its disk has free space.
#[test]
fn image_records_are_bounded_and_needed_ones_are_kept() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let bounds = Bounds { count: 3, bytes: 1 << 20 };
    for n in 0..6 {
        store
            .images
            .put(&format!("r.io/a:{n}"), manifest(n), &[], &ImageDetails::default())
            .unwrap();
    }
    store.images.mark_used(&manifest(1));
    let trim = |bounds| store.images.trim_to(bounds, &HashSet::from([manifest(0)])).unwrap();
    assert_eq!(trim(bounds), 3);
    let left: Vec<_> =
        store.images.by_last_use().unwrap().iter().map(|image| image.manifest).collect();
    assert_eq!(left, [0, 5, 1].map(manifest), "the oldest is needed, another was used");
    assert_eq!(trim(bounds), 0);
    let small = store.images.known().values().map(|known| known.bytes).max().unwrap();
    assert_eq!(trim(Bounds { bytes: 2 * small, ..bounds }), 1, "bytes count too");
    drop(store);
    let left: Vec<_> =
        open(&dir).images.by_last_use().unwrap().iter().map(|image| image.manifest).collect();
    assert_eq!(left, [0, 1].map(manifest), "on the disk as in memory");
}

#[test]
fn a_round_trims_image_records_to_their_bounds() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let bytes = BOUNDS_AFTER_ROUND.bytes / 4;
    for n in 0..6 {
        store
            .images
            .put(&format!("r.io/a:{n}"), manifest(n), &[], &ImageDetails::default())
            .unwrap();
        store.images.known().get_mut(&manifest(n)).unwrap().bytes = bytes;
    }
    assert_eq!(collect(&store, HashSet::from([manifest(0)])), 2);
    assert!(store.images.named("r.io/a:0").is_some() && store.images.named("r.io/a:1").is_none());
}

/// An earlier version wrote whole configs into the records. Reading them all at start ran out of memory.
#[test]
fn an_image_record_that_is_too_large_is_skipped_at_start() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    for n in 0..2 {
        store
            .images
            .put(&format!("r.io/a:{n}"), manifest(n), &[], &ImageDetails::default())
            .unwrap();
    }
    let path = store.images.path(&manifest(1));
    drop(store);
    let text = fs::read_to_string(&path).unwrap();
    let config = "x".repeat(8 << 20);
    fs::write(&path, text.replacen('{', &format!("{{\"config\":\"{config}\","), 1)).unwrap();
    let store = open(&dir);
    assert!(store.images.named("r.io/a:0").is_some() && store.images.named("r.io/a:1").is_none());
    store.images.put("r.io/a:1", manifest(1), &[], &ImageDetails::default()).unwrap();
    assert_eq!(store.images.named("r.io/a:1").unwrap().manifest, manifest(1), "recorded again");
}
