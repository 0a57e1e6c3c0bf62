//! Collection: what goes, what stays, and that nothing in use ever goes.

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

use super::*;
use crate::{
    changeset::Format,
    digest::Digest,
    sys::{mounts::FakeMounts, statfs::Space},
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

const NOW: Watermarks = Watermarks { high: 85, low: 75, grace: Duration::ZERO };

/// A store on a disk that has room.
fn store(dir: &Path) -> Arc<Store> {
    on_disk(dir, Space::with_available(100_000, 90_000))
}

fn on_disk(dir: &Path, space: Space) -> Arc<Store> {
    let mut store = Store::open(dir, Arc::new(FakeMounts::default())).unwrap();
    store.set_disk(move |_| Ok(space));
    Arc::new(store)
}

/// A store on a full disk, and how many bytes of it are free.
fn with_free(dir: &Path) -> (Arc<Store>, Arc<AtomicU64>) {
    let free = Arc::<AtomicU64>::default();
    let mut store = Store::open(dir, Arc::new(FakeMounts::default())).unwrap();
    let is_free = free.clone();
    store.set_disk(move |_| Ok(Space::with_available(100_000, is_free.load(SeqCst))));
    (Arc::new(store), free)
}

/// Adds a layer of one file, an image of two blocks; answers its diff id.
fn add(store: &Arc<Store>, name: &str) -> Digest {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    tar.append_data(&mut header, name, std::io::empty()).unwrap();
    add_tar(store, &tar.into_inner().unwrap()[..])
}

fn add_tar(store: &Arc<Store>, mut tar: &[u8]) -> Digest {
    let diff_id = Digest::of(tar);
    let (registry, repository) = ("r.example".to_owned(), "a".to_owned());
    let origin =
        Origin { registry, repository, blob: diff_id, public: true, packed: None, namespace: None };
    let new = NewLayer { diff_id, format: Format::Portable, origin };
    store.add(&new, store.reserve(&diff_id, 1).unwrap(), tar.by_ref()).unwrap();
    diff_id
}

fn nothing() -> Result<HashSet<Digest>, CollectError> {
    Ok(HashSet::new())
}

#[test]
fn what_nothing_reaches_goes_after_its_grace() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let [lost, imaged, recorded, leased] =
        ["lost", "imaged", "recorded", "leased"].map(|name| add(&store, name));
    store.put_image("a:1", Digest::of(b"manifest"), &[imaged], &ImageDetails::default()).unwrap();
    let lease = store.lease(&[leased]).unwrap();
    assert!(store.lease(&[leased, Digest::of(b"absent")]).is_none());
    let roots = || Ok(HashSet::from([recorded]));
    let patient = Watermarks { grace: Duration::from_secs(600), ..NOW };
    assert_eq!(store.collect(roots, &patient).unwrap().layers, 0);

    let lower = store.lower(&lost).unwrap();
    let done = store.collect(roots, &NOW).unwrap();
    assert_eq!((done.layers, done.images, done.kept_layers), (1, 0, 3));
    assert!(done.bytes > 0 && done.kept_bytes == 3 * done.bytes, "{done:?}");
    assert!(!store.has(&lost) && [imaged, recorded, leased].iter().all(|l| store.has(l)));
    assert_eq!(*store.origins(&lost), []);
    assert_eq!(Arc::strong_count(&lower.tree), 1, "the store still has it open");
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);

    drop(lease);
    assert_eq!(store.collect(roots, &NOW).unwrap().layers, 1);
    assert!(!store.has(&leased));
}

/// Has a layer's description say that it came when a clock showed that year: as if it was set since then.
fn came_in(dir: &Path, layer: &Digest, year: u16) {
    let path = dir.join("layers").join(layer.hex()).join("layer.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut description: serde_json::Value = serde_json::from_str(&text).unwrap();
    description["added"] = format!("{year}-01-01T00:00:00Z").into();
    fs::write(&path, description.to_string()).unwrap();
}

#[test]
fn a_clock_that_was_set_back_hides_no_lost_layer_and_one_set_on_takes_none_too_early() {
    let dir = TempDir::new().unwrap();
    let patient = Watermarks { grace: Duration::from_secs(600), ..NOW };
    let store = store(dir.path());
    let (set_back, set_on) = (add(&store, "set back"), add(&store, "set on"));
    came_in(dir.path(), &set_back, 2999);
    came_in(dir.path(), &set_on, 2000);
    assert_eq!(store.collect(nothing, &patient).unwrap().layers, 0, "both have just come");
    drop(store);
    // Another process does not know when they came, and has the store for no time.
    let store = self::store(dir.path());
    assert_eq!(store.collect(nothing, &patient).unwrap().layers, 1);
    assert!(store.has(&set_back) && !store.has(&set_on));
    assert_eq!(store.collect(nothing, &NOW).unwrap().layers, 1);
    let again = add(&store, "set back");
    came_in(dir.path(), &again, 2999);
    assert_eq!(store.collect(nothing, &NOW).unwrap().layers, 1);
}

#[test]
fn an_image_that_no_reference_means_any_more_goes() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let (old, new) = (add(&store, "old"), add(&store, "new"));
    store.put_image("a:latest", Digest::of(b"1"), &[old], &ImageDetails::default()).unwrap();
    store.put_image("a:latest", Digest::of(b"2"), &[new], &ImageDetails::default()).unwrap();
    let done = store.collect(nothing, &NOW).unwrap();
    assert_eq!((done.images, done.layers), (1, 1));
    assert!(store.has(&new) && !store.has(&old));
    assert_eq!(store.image("a:latest").unwrap().layers, [new]);
}

/// HAZARDS 34: the round is skipped when anything is unknown.
#[test]
fn in_doubt_nothing_goes() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let lost = add(&store, "lost");
    let doubt = || Err(CollectError::IncompleteRoots("a record cannot be read".to_owned()));
    let error = store.collect(doubt, &NOW).unwrap_err();
    assert!(error.to_string().contains("a record cannot be read"), "{error}");
    assert!(store.has(&lost));
    assert_eq!(store.collect(nothing, &NOW).unwrap().layers, 1);
}

/// Three images in the order of their last use, the second on a volume, on a disk of a hundred times `scale` of which
/// `free` is free; answers which layers are left after a round.
fn left_on(free: u64, need: u64) -> Vec<&'static str> {
    let dir = TempDir::new().unwrap();
    let one = {
        let store = store(dir.path());
        add(&store, "shared");
        store.collect(nothing, &Watermarks { grace: Duration::MAX, ..NOW }).unwrap().kept_bytes
    };
    // A layer is ten percent of it.
    let store = on_disk(dir.path(), Space::with_available(one * 10, one * free / 10));
    let names = ["shared", "first", "second", "third"];
    let layers = names.map(|name| add(&store, name));
    for (n, layer) in layers.iter().enumerate().skip(1) {
        let name = format!("a:{n}");
        store
            .put_image(
                &name,
                Digest::of(name.as_bytes()),
                &[layers[0], *layer],
                &ImageDetails::default(),
            )
            .unwrap();
    }
    // In use again: the third is now the oldest.
    store.use_image(&Digest::of(b"a:1"));
    let roots = || Ok(HashSet::from([layers[2]]));
    match need {
        0 => _ = store.collect(roots, &NOW).unwrap(),
        need => _ = store.free_space(roots, NOW.grace, need * one / 10).unwrap(),
    }
    let kept = names.into_iter().zip(layers).filter(|(_, layer)| store.has(layer));
    kept.map(|(name, _)| name).collect()
}

#[test]
fn above_the_high_mark_the_least_recently_used_go_until_the_low_one() {
    assert_eq!(left_on(15, 0), ["shared", "first", "second", "third"], "at the mark");
    assert_eq!(left_on(14, 0), ["shared", "second"], "24 percent are not enough");
    assert_eq!(left_on(5, 0), ["shared", "second"], "what a volume has stays");
}

#[test]
fn need_makes_images_go_too_but_not_for_what_cannot_fit() {
    assert_eq!(left_on(50, 50), ["shared", "first", "second", "third"]);
    assert_eq!(left_on(50, 55), ["shared", "first", "second"]);
    assert_eq!(left_on(50, 500), ["shared", "first", "second", "third"]);
}

#[test]
fn a_round_for_room_ends_as_soon_as_the_room_is_there() {
    // Far above the high mark: a whole round would go on to the low one.
    assert_eq!(left_on(5, 6), ["shared", "first", "second"]);
    assert_eq!(left_on(5, 15), ["shared", "first", "second"]);
    assert_eq!(left_on(5, 16), ["shared", "second"]);
    // Of layers that nothing reaches no more goes either.
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

/// A whole round may take long: it reads what every volume has, and removes all that it finds.
#[test]
fn who_waits_for_room_goes_on_as_soon_as_it_is_there() {
    let dir = TempDir::new().unwrap();
    let (store, free) = with_free(dir.path());
    let (began, is_on) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let whole = &store;
        let whole = scope.spawn(move || {
            let roots = || {
                began.send(()).unwrap();
                let told = ended.recv_timeout(LONG).is_ok();
                told.then(HashSet::new).ok_or(CollectError::IncompleteRoots("not told".to_owned()))
            };
            whole.collect(roots, &NOW)
        });
        is_on.recv().unwrap();
        let waits = scope.spawn(|| store.free_space(|| panic!("a second round"), LONG, 10));
        free.store(10, SeqCst);
        assert!(waits.join().unwrap().unwrap().is_none());
        end.send(()).unwrap();
        whole.join().unwrap().unwrap();
    });
}

#[test]
fn of_many_who_find_no_room_one_goes_round() {
    let dir = TempDir::new().unwrap();
    let looked = Arc::<Mutex<HashSet<ThreadId>>>::default();
    let mut store = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
    let looks = looked.clone();
    store.set_disk(move |_| {
        looks.lock().unwrap().insert(std::thread::current().id());
        Ok(Space::with_available(100_000, 5))
    });
    let (began, is_on) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let rounds = AtomicUsize::new(0);
    let began_at = Instant::now();
    std::thread::scope(|scope| {
        let whole = &store;
        let whole = scope.spawn(move || {
            let roots = || {
                began.send(()).unwrap();
                let told = ended.recv_timeout(LONG).is_ok();
                told.then(HashSet::new).ok_or(CollectError::IncompleteRoots("not told".to_owned()))
            };
            whole.collect(roots, &NOW)
        });
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
    // What one found holds for those who asked before it, and for nobody else.
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
fn an_image_that_is_used_after_the_clock_was_set_back_is_the_last_to_go() {
    let dir = TempDir::new().unwrap();
    let manifest = |n: u8| Digest::of(&[n]);
    {
        let store = store(dir.path());
        for n in [1, 2] {
            store.put_image("a:1", manifest(n), &[], &ImageDetails::default()).unwrap();
        }
        let path = dir.path().join("images").join(format!("{}.json", manifest(2).hex()));
        let text = fs::read_to_string(&path).unwrap();
        let mut later: serde_json::Value = serde_json::from_str(&text).unwrap();
        later["resolved"] = "2999-01-01T00:00:00Z".into();
        fs::write(&path, later.to_string()).unwrap();
    }
    let store = store(dir.path());
    let order =
        |store: &Store| store.images().iter().map(|image| image.manifest).collect::<Vec<_>>();
    assert_eq!(order(&store), [manifest(1), manifest(2)]);
    store.use_image(&manifest(1));
    assert_eq!(order(&store), [manifest(2), manifest(1)]);
    store.put_image("a:3", manifest(3), &[], &ImageDetails::default()).unwrap();
    store.use_image(&manifest(2));
    assert_eq!(order(&store), [manifest(1), manifest(3), manifest(2)]);
}

#[test]
fn a_use_outlives_the_process_and_an_old_record_has_none() {
    let dir = TempDir::new().unwrap();
    let manifest = Digest::of(b"manifest");
    let path = dir.path().join("images").join(format!("{}.json", manifest.hex()));
    {
        let store = store(dir.path());
        store.put_image("a:1", manifest, &[], &ImageDetails::default()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    old.as_object_mut().unwrap().remove("used");
    old["resolved"] = "2020-01-01T00:00:00Z".into();
    fs::write(&path, old.to_string()).unwrap();
    {
        let store = store(dir.path());
        assert_eq!(store.image("a:1").unwrap().used, None);
        store.use_image(&manifest);
    }
    assert!(store(dir.path()).image("a:1").unwrap().used.is_some());
}

/// HAZARDS 20 and 34: publishers lease, look, record, give the lease back and use; rounds go on all the time. A layer that was
/// found under a lease is there as long as lease or record are.
#[test]
fn nothing_in_use_goes_whoever_races() {
    let dir = TempDir::new().unwrap();
    let store = store(dir.path());
    let records: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
    let tars: Vec<Vec<u8>> = (0..4).map(|n| vec![0; 1024 * (n + 1)]).collect();
    let ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let (ended, removed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(SeqCst) {
                let roots = || {
                    let recorded = ids.iter().zip(&records).filter(|(_, r)| r.load(SeqCst));
                    Ok(recorded.map(|(id, _)| *id).collect())
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
                        let lease = store.hold(&[id]);
                        if !store.has(&id) {
                            add_tar(store, tar);
                        }
                        assert!(store.has(&id), "removed under a lease");
                        record.store(true, SeqCst);
                        drop(lease);
                        std::thread::yield_now();
                        assert!(store.has(&id), "removed under a record");
                        store.lower(&id).unwrap();
                        record.store(false, SeqCst);
                        // Nobody needs it for a moment.
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
