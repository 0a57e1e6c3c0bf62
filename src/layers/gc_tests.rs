//! Garbage collection: what is removed, what is kept, and that nothing in use is ever removed.

use std::{
    collections::HashSet,
    fs,
    io::Read,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread::ThreadId,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{testing::new_layer, *};
use crate::{
    digest::ManifestDigest,
    media_type::Format,
    sys::{mounts::FakeMounts, statfs::Space},
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

const NOW: Watermarks = Watermarks { high: 85, low: 75, grace: Duration::ZERO };

/// A store on a disk with free space.
fn store(dir: &Path) -> Arc<Store> {
    on_disk(dir, Space::with_available(100_000, 90_000))
}

fn on_disk(dir: &Path, space: Space) -> Arc<Store> {
    let store = Store::open(dir, Arc::new(FakeMounts::default())).unwrap();
    store.disk.set_fake(move |_| Ok(space));
    Arc::new(store)
}

/// A store on a full disk, and the disk's free bytes, which the test can set.
fn with_free(dir: &Path) -> (Arc<Store>, Arc<AtomicU64>) {
    let free = Arc::<AtomicU64>::default();
    let store = Store::open(dir, Arc::new(FakeMounts::default())).unwrap();
    let is_free = free.clone();
    store.disk.set_fake(move |_| Ok(Space::with_available(100_000, is_free.load(SeqCst))));
    (Arc::new(store), free)
}

/// Adds a layer of one file, whose image has two blocks. Returns its key.
fn add(store: &Arc<Store>, name: &str) -> LayerKey {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    tar.append_data(&mut header, name, std::io::empty()).unwrap();
    add_tar(store, &tar.into_inner().unwrap()[..])
}

fn add_tar(store: &Arc<Store>, mut tar: &[u8]) -> LayerKey {
    let new = new_layer(tar, Format::Portable);
    store.layers.add(&new, store.disk.reserve(1).unwrap(), tar.by_ref()).unwrap();
    new.key_alone()
}

fn nothing() -> Result<Roots, CollectError> {
    Ok(Roots::default())
}

fn only(layers: impl IntoIterator<Item = LayerKey>) -> Result<Roots, CollectError> {
    Ok(Roots { layers: layers.into_iter().collect(), ..Roots::default() })
}

#[test]
fn unreachable_layers_are_removed_after_the_grace_period() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let [unreachable, imaged, recorded, leased] =
        ["unreachable", "imaged", "recorded", "leased"].map(|name| add(&store, name));
    store
        .images
        .put("a:1", ManifestDigest::of(b"manifest"), &[imaged], &ImageDetails::default())
        .unwrap();
    let lease = store.leases.take_if_present(&[leased]).unwrap().unwrap();
    let absent = store.leases.take_if_present(&[leased, LayerKey::of(b"absent")]).unwrap();
    assert!(absent.is_none());
    let roots = || only([recorded]);
    let patient = Watermarks { grace: Duration::from_secs(600), ..NOW };
    assert_eq!(store.collect(roots, &patient).unwrap().layers, 0);

    let lower = store.layers.lower(&unreachable).unwrap();
    let done = store.collect(roots, &NOW).unwrap();
    assert_eq!((done.layers, done.images, done.kept_layers), (1, 0, 3));
    assert!(done.bytes > 0 && done.kept_bytes == 3 * done.bytes, "{done:?}");
    assert!(
        !store.layers.has(&unreachable)
            && [imaged, recorded, leased].iter().all(|l| store.layers.has(l))
    );
    assert_eq!(*store.origins.of(&unreachable), []);
    assert_eq!(Arc::strong_count(&lower.tree), 1, "the store still has it open");
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);

    drop(lease);
    assert_eq!(store.collect(roots, &NOW).unwrap().layers, 1);
    assert!(!store.layers.has(&leased));
}

/// A layer can be applied on top of a snapshot of a workspace. The two are then an image.
#[test]
fn a_layer_of_a_workspace_stays_while_an_image_names_it() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let layer = add(&store, "own");
    let (manifest, details) = (ManifestDigest::of(b"manifest"), ImageDetails::default());
    store.images.put("a:1", manifest, &[layer], &details).unwrap();
    assert_eq!(store.collect_layers(&[layer]).unwrap().layers, 0);
    assert!(store.layers.has(&layer));
    store.images.untag("a:1").unwrap();
    store.remove_image(&manifest, false).unwrap();
    assert!(!store.layers.has(&layer));
}

/// Sets the year of a layer's `added` time in its metadata, as if the clock was changed since then.
fn set_added(dir: &Path, layer: &LayerKey, year: u16) {
    let path = dir.join("layers").join(layer.dir_name()).join("layer.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut meta: serde_json::Value = serde_json::from_str(&text).unwrap();
    meta["added"] = format!("{year}-01-01T00:00:00Z").into();
    fs::write(&path, meta.to_string()).unwrap();
}

#[test]
fn a_clock_set_back_keeps_no_unreachable_layer_and_one_set_forward_removes_none_too_early() {
    let dir = TempDir::new().unwrap();
    let patient = Watermarks { grace: Duration::from_secs(600), ..NOW };
    let store = store(dir.path());
    let (set_back, set_forward) = (add(&store, "set back"), add(&store, "set forward"));
    set_added(dir.path(), &set_back, 2999);
    set_added(dir.path(), &set_forward, 2000);
    assert_eq!(store.collect(nothing, &patient).unwrap().layers, 0, "both have just been added");
    drop(store);
    // A new process does not know when they were added, and has just opened the store.
    let store = self::store(dir.path());
    assert_eq!(store.collect(nothing, &patient).unwrap().layers, 1);
    assert!(store.layers.has(&set_back) && !store.layers.has(&set_forward));
    assert_eq!(store.collect(nothing, &NOW).unwrap().layers, 1);
    let again = add(&store, "set back");
    set_added(dir.path(), &again, 2999);
    assert_eq!(store.collect(nothing, &NOW).unwrap().layers, 1);
}

#[test]
fn an_image_without_references_is_removed() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let (old, new) = (add(&store, "old"), add(&store, "new"));
    store
        .images
        .put("a:latest", ManifestDigest::of(b"1"), &[old], &ImageDetails::default())
        .unwrap();
    store
        .images
        .put("a:latest", ManifestDigest::of(b"2"), &[new], &ImageDetails::default())
        .unwrap();
    let done = store.collect(nothing, &NOW).unwrap();
    assert_eq!((done.images, done.layers), (1, 1));
    assert!(store.layers.has(&new) && !store.layers.has(&old));
    assert_eq!(store.images.named("a:latest").unwrap().layers, [new]);
}

/// docs/hazards.md, 34: a round removes nothing when a root is unknown.
#[test]
fn nothing_is_removed_when_the_roots_are_incomplete() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let unreachable = add(&store, "unreachable");
    let incomplete = || Err(CollectError::IncompleteRoots("a record cannot be read".to_owned()));
    let error = store.collect(incomplete, &NOW).unwrap_err();
    assert!(error.to_string().contains("a record cannot be read"), "{error}");
    assert!(store.layers.has(&unreachable));
    assert_eq!(store.collect(nothing, &NOW).unwrap().layers, 1);
}

/// Stores three images in the order of their last use, the second used by a volume. A layer is 10 percent of the disk,
/// and `free` percent are free. Runs a round, for `need` percent if that is not 0. Returns the layers that are kept.
fn kept_after(free: u64, need: u64) -> Vec<&'static str> {
    let dir = TempDir::new().unwrap();
    let one = {
        let store = store(dir.path());
        add(&store, "shared");
        store.collect(nothing, &Watermarks { grace: Duration::MAX, ..NOW }).unwrap().kept_bytes
    };
    // A layer is ten percent of the disk.
    let store = on_disk(dir.path(), Space::with_available(one * 10, one * free / 10));
    let names = ["shared", "first", "second", "third"];
    let layers = names.map(|name| add(&store, name));
    for (n, layer) in layers.iter().enumerate().skip(1) {
        let name = format!("a:{n}");
        store
            .images
            .put(
                &name,
                ManifestDigest::of(name.as_bytes()),
                &[layers[0], *layer],
                &ImageDetails::default(),
            )
            .unwrap();
    }
    // Used again: now the third has the oldest use.
    store.images.mark_used(&ManifestDigest::of(b"a:1"));
    let roots = || only([layers[2]]);
    match need {
        0 => _ = store.collect(roots, &NOW).unwrap(),
        need => _ = store.free_space(roots, NOW.grace, need * one / 10).unwrap(),
    }
    let kept = names.into_iter().zip(layers).filter(|(_, layer)| store.layers.has(layer));
    kept.map(|(name, _)| name).collect()
}

#[test]
fn above_the_high_watermark_images_are_removed_until_the_low_one() {
    assert_eq!(kept_after(15, 0), ["shared", "first", "second", "third"], "at the watermark");
    assert_eq!(kept_after(14, 0), ["shared", "second"], "24 percent are not enough");
    assert_eq!(kept_after(5, 0), ["shared", "second"], "a volume's layer is kept");
}

#[test]
fn images_are_removed_for_needed_space_but_not_for_a_layer_that_cannot_fit() {
    assert_eq!(kept_after(50, 50), ["shared", "first", "second", "third"]);
    assert_eq!(kept_after(50, 55), ["shared", "first", "second"]);
    assert_eq!(kept_after(50, 500), ["shared", "first", "second", "third"]);
}

#[test]
fn a_round_for_needed_space_ends_as_soon_as_it_is_free() {
    // Far above the high watermark: a full round would continue to the low one.
    assert_eq!(kept_after(5, 6), ["shared", "first", "second"]);
    assert_eq!(kept_after(5, 15), ["shared", "first", "second"]);
    assert_eq!(kept_after(5, 16), ["shared", "second"]);
    // Unreachable layers are not removed beyond that either.
    let dir = TempDir::new().unwrap();
    let one = {
        let store = store(dir.path());
        ["one", "two", "three"].iter().for_each(|name| _ = add(&store, name));
        store.collect(nothing, &Watermarks { grace: LONG, ..NOW }).unwrap().kept_bytes / 3
    };
    let store = on_disk(dir.path(), Space::with_available(100 * one, 0));
    let done = store.free_space(nothing, Duration::ZERO, 2 * one).unwrap().unwrap();
    assert_eq!((done.layers, done.kept_layers), (2, 1));
}

/// A full round that reports its start to `began`, and ends after a message of `ended`.
fn round_until(
    store: &Store,
    began: &mpsc::Sender<()>,
    ended: &mpsc::Receiver<()>,
) -> Result<GcStats, CollectError> {
    let roots = || {
        began.send(()).unwrap();
        let released = ended.recv_timeout(LONG).is_ok();
        let timeout = || CollectError::IncompleteRoots("timeout".to_owned());
        released.then(Roots::default).ok_or_else(timeout)
    };
    store.collect(roots, &NOW)
}

/// A full round may take long: it reads the records of all volumes and removes all unreachable layers.
#[test]
fn a_caller_that_waits_for_space_returns_as_soon_as_it_is_free() {
    let dir = TempDir::new().unwrap();
    let (store, free) = with_free(dir.path());
    let (began, is_on) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let whole = &store;
        let whole = scope.spawn(move || round_until(whole, &began, &ended));
        is_on.recv().unwrap();
        let waits = scope.spawn(|| store.free_space(|| panic!("a second round"), LONG, 10));
        free.store(10, SeqCst);
        assert!(waits.join().unwrap().unwrap().is_none());
        end.send(()).unwrap();
        whole.join().unwrap().unwrap();
    });
}

/// A publish does this while it holds the lock of its volume.
#[test]
fn leases_and_uses_do_not_wait_for_a_round() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let (layer, manifest) = (add(&store, "layer"), ManifestDigest::of(b"a"));
    store.images.put("a:1", manifest, &[layer], &ImageDetails::default()).unwrap();
    let (began, is_on) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let whole = &store;
        let whole = scope.spawn(move || round_until(whole, &began, &ended));
        is_on.recv().unwrap();
        let lease = store.leases.take_if_present(&[layer]).unwrap();
        store.images.mark_used(&manifest);
        // A wait above lasts until the round gives up, which then fails.
        let released = end.send(()).is_ok();
        let ended = whole.join().unwrap();
        assert!(lease.is_some() && released && ended.is_ok(), "a lease waits for a round");
    });
}

#[test]
fn of_many_callers_that_find_no_space_one_runs_a_round() {
    let dir = TempDir::new().unwrap();
    let looked = Arc::<Mutex<HashSet<ThreadId>>>::default();
    let store = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
    let looks = looked.clone();
    store.disk.set_fake(move |_| {
        looks.lock().unwrap().insert(std::thread::current().id());
        Ok(Space::with_available(100_000, 5))
    });
    let (began, is_on) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let rounds = AtomicUsize::new(0);
    let began_at = Instant::now();
    std::thread::scope(|scope| {
        let whole = &store;
        let whole = scope.spawn(move || round_until(whole, &began, &ended));
        is_on.recv().unwrap();
        let many: Vec<_> = (10..20)
            .map(|need| {
                let (store, rounds) = (&store, &rounds);
                scope.spawn(move || {
                    let roots = || {
                        rounds.fetch_add(1, SeqCst);
                        nothing()
                    };
                    store.free_space(roots, LONG, need)
                })
            })
            .collect();
        while looked.lock().unwrap().len() < many.len() && began_at.elapsed() < LONG {
            std::thread::yield_now();
        }
        end.send(()).unwrap();
        whole.join().unwrap().unwrap();
        many.into_iter().for_each(|one| _ = one.join().unwrap().unwrap());
    });
    assert_eq!(rounds.load(SeqCst), 1);
    // The result of a round counts only for calls that began before it.
    store
        .free_space(
            || {
                rounds.fetch_add(1, SeqCst);
                nothing()
            },
            LONG,
            10,
        )
        .unwrap()
        .unwrap();
    assert_eq!(rounds.load(SeqCst), 2);
}

#[test]
fn an_image_used_after_the_clock_was_set_back_is_the_last_to_be_removed() {
    let dir = TempDir::new().unwrap();
    let manifest = |n: u8| ManifestDigest::of(&[n]);
    {
        let store = store(dir.path());
        for n in [1, 2] {
            store.images.put("a:1", manifest(n), &[], &ImageDetails::default()).unwrap();
        }
        let path = dir.path().join("images").join(format!("{}.json", manifest(2).digest().hex()));
        let text = fs::read_to_string(&path).unwrap();
        let mut later: serde_json::Value = serde_json::from_str(&text).unwrap();
        later["resolved"] = "2999-01-01T00:00:00Z".into();
        fs::write(&path, later.to_string()).unwrap();
    }
    let store = store(dir.path());
    let order = |store: &Store| {
        store.images.by_last_use().unwrap().iter().map(|image| image.manifest).collect::<Vec<_>>()
    };
    assert_eq!(order(&store), [manifest(1), manifest(2)]);
    store.images.mark_used(&manifest(1));
    assert_eq!(order(&store), [manifest(2), manifest(1)]);
    store.images.put("a:3", manifest(3), &[], &ImageDetails::default()).unwrap();
    store.images.mark_used(&manifest(2));
    assert_eq!(order(&store), [manifest(1), manifest(3), manifest(2)]);
}

#[test]
fn the_last_use_survives_a_restart_and_an_old_record_has_none() {
    let dir = TempDir::new().unwrap();
    let manifest = ManifestDigest::of(b"manifest");
    let path = dir.path().join("images").join(format!("{}.json", manifest.digest().hex()));
    {
        let store = store(dir.path());
        store.images.put("a:1", manifest, &[], &ImageDetails::default()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    old.as_object_mut().unwrap().remove("used");
    old["resolved"] = "2020-01-01T00:00:00Z".into();
    fs::write(&path, old.to_string()).unwrap();
    {
        let store = store(dir.path());
        assert_eq!(store.images.named("a:1").unwrap().used, None);
        store.images.mark_used(&manifest);
        store.collect(nothing, &NOW).unwrap();
    }
    assert!(store(dir.path()).images.named("a:1").unwrap().used.is_some());
}

/// docs/hazards.md, 20 and 34: publishers take a lease, look for the layer, write a record, drop the lease and use the
/// layer, while rounds run all the time. A layer that was found under a lease exists as long as the lease or the
/// record.
#[test]
fn no_layer_in_use_is_removed_while_publishers_and_rounds_race() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let records: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
    let tars: Vec<Vec<u8>> = (0..4).map(|n| vec![0; 1024 * (n + 1)]).collect();
    let new = |tar: &Vec<u8>| new_layer(tar, Format::Portable).key_alone();
    let ids: Vec<LayerKey> = tars.iter().map(new).collect();
    let (ended, removed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(SeqCst) {
                let roots = || {
                    let recorded = ids.iter().zip(&records).filter(|(_, r)| r.load(SeqCst));
                    only(recorded.map(|(id, _)| *id))
                };
                let done = store.collect(roots, &NOW).unwrap();
                removed.fetch_add(usize::try_from(done.layers).unwrap(), SeqCst);
            }
        });
        let publishers: Vec<_> = (0..4)
            .map(|n| {
                let (store, id, tar, record) = (&store, ids[n], &tars[n], &records[n]);
                let removed = &removed;
                scope.spawn(move || {
                    while removed.load(SeqCst) < 20 && began.elapsed() < LONG {
                        let lease = store.leases.take(&[id]).unwrap();
                        if !store.layers.has(&id) {
                            add_tar(store, tar);
                        }
                        assert!(store.layers.has(&id), "removed under a lease");
                        record.store(true, SeqCst);
                        drop(lease);
                        std::thread::yield_now();
                        assert!(store.layers.has(&id), "removed under a record");
                        store.layers.lower(&id).unwrap();
                        record.store(false, SeqCst);
                        // No record or lease names it for a moment.
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        let all: Vec<_> = publishers.into_iter().map(|p| p.join()).collect();
        ended.store(true, SeqCst);
        all.into_iter().for_each(|done| done.unwrap());
    });
    assert!(removed.load(SeqCst) >= 20, "the race was not run");
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
}
