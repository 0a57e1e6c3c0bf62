//! A store for several processes. Two stores that one process opens at the same path have locks of their own, so they
//! are as two processes. The last tests use real ones, and kill them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    testing::{new_layer, snapshot_record},
    *,
};
use crate::{
    digest::ManifestDigest,
    error::Class,
    media_type::Format,
    sys::{mounts::FakeMounts, statfs::Space},
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

const NOW: Watermarks = Watermarks { high: 100, low: 100, grace: Duration::ZERO };

fn try_shared(root: &Path) -> Result<Arc<Store>, OpenError> {
    let lock = StoreLock::shared(root)?;
    Store::open_locked(lock, Arc::new(FakeMounts::default()), StoreSettings::default())
        .map(Arc::new)
}

fn shared(root: &Path) -> Arc<Store> {
    try_shared(root).unwrap()
}

fn two(root: &Path) -> [Arc<Store>; 2] {
    [shared(root), shared(root)]
}

/// The tar of a layer: the number says which.
fn tar(number: usize) -> Vec<u8> {
    vec![0; 1024 * (number + 1)]
}

fn key(number: usize) -> LayerKey {
    new_layer(&tar(number), Format::Portable).key_alone()
}

fn add(store: &Store, number: usize) -> LayerKey {
    let (tar, reserved) = (tar(number), store.disk.reserve(1).unwrap());
    store.layers.add(&new_layer(&tar, Format::Portable), reserved, &tar[..]).unwrap();
    key(number)
}

/// Names a layer in the record of a snapshot, as a capture does: the lease is held until the record is written.
fn record(store: &Store, id: &str, number: usize) {
    let layer = key(number);
    let lease = store.leases.take(&[layer]).unwrap();
    if !store.layers.has(&layer) {
        add(store, number);
    }
    assert!(store.layers.has(&layer), "layer {number} was removed under a lease");
    store.snapshots.put(SnapshotRecord { stack: vec![layer], ..snapshot_record(id) }).unwrap();
    drop(lease);
    assert!(store.layers.has(&layer), "layer {number} was removed under a record");
}

fn nothing() -> Result<Roots, CollectError> {
    Ok(Roots::default())
}

fn collect(store: &Store) -> u64 {
    store.collect(nothing, &NOW).unwrap().layers
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_node_and_commands_exclude_each_other_and_the_error_names_the_process() {
    let dir = TempDir::new().unwrap();
    let node = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
    let id = node.id().to_owned();
    let error = try_shared(dir.path()).unwrap_err();
    let of_node = format!("in use by `ovl node` (process {})", std::process::id());
    assert!(matches!(error, OpenError::OfNode { .. }) && error.to_string().contains(&of_node));
    assert_eq!(error.class(), Class::Busy);
    drop(node);

    let commands = two(dir.path());
    assert!(commands.iter().all(|store| store.id() == id));
    let error = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap_err();
    let in_use = format!("in use by process {}, and a node", std::process::id());
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&in_use), "{error}");
    drop(commands);
    Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
}

#[test]
fn processes_that_create_a_store_at_the_same_time_agree_on_its_id() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("parent/store");
    let ids: BTreeSet<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| shared(&root).id().to_owned())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1);
    assert_eq!(names(&root.join("staging")), Vec::<String>::new());
    assert_eq!(names(&root.join("reservations")), Vec::<String>::new());
}

#[test]
fn a_lease_keeps_its_layer_from_the_rounds_of_other_processes_until_the_next_round_after_its_end() {
    let dir = TempDir::new().unwrap();
    let [one, other] = two(dir.path());
    let [leased, unreachable] = [0, 1].map(|number| add(&one, number));
    let lease = one.leases.take_if_present(&[leased]).unwrap().unwrap();
    let again = one.leases.take(&[leased]).unwrap();
    assert!(one.leases.take_if_present(&[leased, key(7)]).unwrap().is_none());
    assert_eq!(collect(&other), 1);
    assert!(one.layers.has(&leased) && !one.layers.has(&unreachable));
    drop(lease);
    assert_eq!(collect(&other), 0, "the second lease");

    // The record that needs the layer may have been written after the round read the records.
    let again = std::sync::Mutex::new(Some(again));
    let roots = || {
        drop(again.lock().unwrap().take());
        nothing()
    };
    assert_eq!(other.collect(roots, &NOW).unwrap().layers, 0, "leased when the round began");
    let roots = || {
        drop(one.leases.take(&[leased]).unwrap());
        nothing()
    };
    assert_eq!(other.collect(roots, &NOW).unwrap().layers, 0, "leased in the round");
    assert_eq!(collect(&other), 1);
    assert!(!one.layers.has(&leased));
    assert_eq!(collect(&other), 0);
    assert_eq!(names(&dir.path().join("leases")), Vec::<String>::new());
}

#[test]
fn a_lease_and_a_use_do_not_wait_for_a_round_of_another_process_but_rounds_do() {
    let dir = TempDir::new().unwrap();
    let [one, other] = two(dir.path());
    let (layer, manifest) = (add(&one, 0), ManifestDigest::of(b"a"));
    one.images.put("a:1", manifest, &[layer], &ImageDetails::default()).unwrap();
    let (began, is_on) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let rounds = std::thread::scope(|scope| {
        let store = &one;
        let round = scope.spawn(move || {
            let roots = || {
                began.send(()).unwrap();
                ended.recv_timeout(LONG).unwrap();
                nothing()
            };
            store.collect(roots, &NOW).unwrap()
        });
        is_on.recv_timeout(LONG).unwrap();
        let lease = other.leases.take_if_present(&[layer]).unwrap();
        other.images.mark_used(&manifest);
        assert!(lease.is_some());
        let second = scope.spawn(|| collect(&other));
        sleep(Duration::from_millis(50));
        let waits = !second.is_finished();
        end.send(()).unwrap();
        round.join().unwrap();
        second.join().unwrap();
        waits
    });
    assert!(rounds, "two rounds ran at the same time");
}

#[test]
fn two_processes_that_add_one_layer_both_succeed_and_both_origins_are_kept() {
    let dir = TempDir::new().unwrap();
    let stores = two(dir.path());
    let tar = tar(0);
    let new = new_layer(&tar, Format::Portable);
    std::thread::scope(|scope| {
        for (store, repository) in stores.iter().zip(["a", "b"]) {
            let origin = Origin { repository: repository.to_owned(), ..new.origin.clone() };
            let (new, tar) = (NewLayer { origin, ..new.clone() }, &tar);
            scope.spawn(move || {
                let lease = store.leases.take(&[new.key_alone()]).unwrap();
                store.layers.add(&new, store.disk.reserve(1).unwrap(), &tar[..]).unwrap();
                drop(lease);
            });
        }
    });
    for store in &stores {
        let origins = store.origins.of(&key(0));
        let repositories: BTreeSet<_> = origins.iter().map(|it| &*it.repository).collect();
        assert_eq!(repositories, BTreeSet::from(["a", "b"]));
        assert_eq!(store.verify().unwrap(), []);
    }
    let staging = dir.path().join("staging");
    let staged: Vec<_> = names(&staging).iter().flat_map(|own| names(&staging.join(own))).collect();
    assert_eq!(staged, Vec::<String>::new());
}

#[test]
fn records_that_another_process_writes_and_removes_are_seen_at_once() {
    let dir = TempDir::new().unwrap();
    let [one, other] = two(dir.path());
    let layer = add(&one, 0);
    let (manifest, next) = (ManifestDigest::of(b"1"), ManifestDigest::of(b"2"));
    let details = ImageDetails { config: Some("{}".to_owned()), ..ImageDetails::default() };
    one.images.put("r.io/a:1", manifest, &[layer], &details).unwrap();
    other.images.put("r.io/a:2", manifest, &[layer], &ImageDetails::default()).unwrap();
    for store in [&one, &other] {
        let image = store.images.named("r.io/a:1").unwrap();
        assert_eq!(image.references, ["r.io/a:1", "r.io/a:2"]);
        assert_eq!(store.images.config(&manifest).as_deref(), Some("{}"));
    }
    one.images.put("r.io/a:1", next, &[layer], &ImageDetails::default()).unwrap();
    assert_eq!(other.images.named("r.io/a:1").unwrap().manifest, next);
    assert_eq!(other.images.named("r.io/a:2").unwrap().references, ["r.io/a:2"]);

    record(&one, "snap-1", 0);
    let id = "snap-1".parse().unwrap();
    assert_eq!(other.snapshots.get(&id), one.snapshots.get(&id));
    assert_eq!(other.snapshots.all().len(), 1);
    assert!(other.snapshots.remove(&id).unwrap() && !one.snapshots.remove(&id).unwrap());
    assert_eq!((one.snapshots.get(&id), one.snapshots.all().len()), (None, 0));
    // What another version has written stops garbage collection here too.
    let later = dir.path().join("snapshots/later.json");
    fs::write(&later, r#"{"format":99}"#).unwrap();
    let error = other.collect(nothing, &NOW).unwrap_err().to_string();
    assert!(error.contains("snapshots/later.json"), "{error}");
    fs::remove_file(later).unwrap();
    other.collect(nothing, &NOW).unwrap();
}

/// A use is in no process's memory for long, so it is written when it happens. Writing each one would cost more than the
/// order of images is worth.
#[test]
fn a_use_is_written_at_once_and_at_most_once_an_hour() {
    let dir = TempDir::new().unwrap();
    let [one, other] = two(dir.path());
    let [old, new] = [b"1", b"2"].map(|name| ManifestDigest::of(name));
    for (reference, manifest) in [("a:1", old), ("a:2", new)] {
        one.images.put(reference, manifest, &[], &ImageDetails::default()).unwrap();
    }
    let path = dir.path().join("images").join(format!("{}.json", old.digest().hex()));
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["resolved"] = "2020-01-01T00:00:00Z".into();
    fs::write(&path, json.to_string()).unwrap();
    one.images.mark_used(&old);
    let used = other.images.named("a:1").unwrap().used;
    assert!(used.is_some());
    one.images.mark_used(&old);
    assert_eq!(other.images.named("a:1").unwrap().used, used);
}

#[test]
fn reservations_of_all_processes_add_up_and_those_of_an_ended_one_do_not_count() {
    const MIB: u64 = 1 << 20;
    let dir = TempDir::new().unwrap();
    let stores = two(dir.path());
    for store in &stores {
        store.disk.set_fake(|_| Ok(Space::with_available(10_000 * MIB, 1_000 * MIB)));
    }
    let [one, other] = &stores;
    let reserved = one.disk.reserve(600 * MIB).unwrap();
    let error = other.disk.reserve(500 * MIB).unwrap_err();
    assert!(
        matches!(error, ReserveError::Full { reserved, .. } if reserved == 600 * MIB),
        "{error}"
    );
    let small = other.disk.reserve(300 * MIB).unwrap();
    assert!(one.disk.reserve(200 * MIB).is_err());
    drop(small);
    // Bytes that are written are not free any more, so they count no longer as reserved.
    reserved.write(400 * MIB).unwrap();
    drop(other.disk.reserve(800 * MIB).unwrap());
    drop(reserved);
    drop(other.disk.reserve(1_000 * MIB).unwrap());
    // The file of a process that was killed.
    let killed = dir.path().join("reservations/process-1");
    fs::write(&killed, format!("{:020}", 900 * MIB)).unwrap();
    drop(other.disk.reserve(1_000 * MIB).unwrap());
    assert!(!killed.exists());
    assert_eq!(names(&dir.path().join("reservations")).len(), 2);
    drop(stores);
    assert_eq!(names(&dir.path().join("reservations")), Vec::<String>::new());
}

#[test]
fn abandoned_entries_of_staging_are_removed_and_those_of_running_processes_stay() {
    let dir = TempDir::new().unwrap();
    let staging = dir.path().join("staging");
    let [one, other] = two(dir.path());
    let staged = one.layers.stage_snapshot(&"snapshot".parse().unwrap()).unwrap();
    let running = names(&staging);
    assert_eq!(running.len(), 2);
    // Of a process that was killed, of a node, and of this process, which could not remove it.
    for dir in ["process-0/7/diff", "7/diff", &format!("{}/left-3/diff", running[0])] {
        fs::create_dir_all(staging.join(dir)).unwrap();
    }
    for file in ["process-0/.ovl-tmp.1.1", "7/layer.erofs", "no number"] {
        fs::write(staging.join(file), "half").unwrap();
    }
    for store in [&one, &other] {
        assert_eq!(store.staging.remove_abandoned().unwrap(), 0);
    }
    assert_eq!(names(&staging), running);
    assert!(staged.tree().is_dir());
    drop(staged);
    assert!(running.iter().all(|own| names(&staging.join(own)).is_empty()), "{running:?}");
    drop((one, other));
    assert_eq!(names(&staging), Vec::<String>::new());
}

#[test]
fn a_node_removes_what_processes_that_shared_its_store_have_left() {
    let dir = TempDir::new().unwrap();
    let store = shared(dir.path());
    let layer = add(&store, 0);
    drop(store.leases.take(&[layer]).unwrap());
    drop(store);
    // A kill leaves these.
    for file in ["staging/process-1/7/half", "reservations/process-1"] {
        let file = dir.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    let node = Store::open(dir.path(), Arc::new(FakeMounts::default())).unwrap();
    assert!(node.layers.has(&layer));
    node.staging.remove_abandoned().unwrap();
    assert_eq!(names(&dir.path().join("staging")), Vec::<String>::new());
    assert!(["leases", "reservations"].iter().all(|part| !dir.path().join(part).exists()));
}

/// One step of a random test. The first number is the process.
#[derive(Debug, Clone)]
enum Step {
    Lease(usize, usize),
    EndLease(usize),
    Record(usize, usize, usize),
    RemoveRecord(usize, usize),
    Collect(usize),
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (process, layer, id) = (0..2_usize, 0..3_usize, 0..3_usize);
    prop_oneof![
        2 => (process.clone(), layer.clone()).prop_map(|(p, l)| Step::Lease(p, l)),
        2 => (0..4_usize).prop_map(Step::EndLease),
        3 => (process.clone(), id.clone(), layer).prop_map(|(p, i, l)| Step::Record(p, i, l)),
        2 => (process.clone(), id).prop_map(|(p, i)| Step::RemoveRecord(p, i)),
        3 => process.clone().prop_map(Step::Collect),
        1 => process.prop_map(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The reference: a round removes exactly the layers that no lease of a running process and no record names.
    #[test]
    fn random_steps_of_two_processes_agree_with_the_reference(
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let dir = TempDir::new().unwrap();
        let mut stores = two(dir.path());
        let mut leases: Vec<(usize, usize, Lease)> = Vec::new();
        let mut records = BTreeMap::new();
        let mut present = BTreeSet::new();
        for step in steps {
            match step {
                Step::Lease(process, layer) => {
                    let lease = stores[process].leases.take(&[key(layer)]).unwrap();
                    leases.push((process, layer, lease));
                }
                Step::EndLease(at) => {
                    if at < leases.len() {
                        drop(leases.swap_remove(at));
                    }
                }
                Step::Record(process, id, layer) => {
                    record(&stores[process], &format!("snap-{id}"), layer);
                    records.insert(format!("snap-{id}"), layer);
                    present.insert(layer);
                }
                Step::RemoveRecord(process, id) => {
                    let id = format!("snap-{id}");
                    let removed = stores[process].snapshots.remove(&id.parse().unwrap()).unwrap();
                    prop_assert_eq!(removed, records.remove(&id).is_some());
                }
                Step::Collect(process) => {
                    collect(&stores[process]);
                    let is_leased = |layer: &usize| leases.iter().any(|(_, it, _)| it == layer);
                    let is_recorded = |layer: &usize| records.values().any(|it| it == layer);
                    present.retain(|layer| is_leased(layer) || is_recorded(layer));
                }
                Step::Reopen(process) => {
                    leases.retain(|(of, _, _)| *of != process);
                    stores[process] = shared(dir.path());
                }
            }
            for store in &stores {
                let found = (0..3).filter(|layer| store.layers.has(&key(*layer))).collect();
                prop_assert_eq!(&present, &found);
                let found = store.snapshots.all().into_iter().map(|it| it.id.to_string());
                prop_assert!(found.eq(records.keys().cloned()));
            }
        }
        prop_assert_eq!(stores[0].verify().unwrap(), []);
    }
}

/// The root of the store, in the environment of a process that the tests below start.
const ROOT: &str = "OVL_TEST_SHARED_STORE";
/// The number of its steps, or the word of [`holds`].
const WORK: &str = "OVL_TEST_SHARED_WORK";

/// Random numbers: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Uses a store in all ways at once with other processes. Fails if a layer is removed that it leases or that its record
/// names.
fn hammer(store: &Arc<Store>, steps: u64) {
    let process = u64::from(std::process::id());
    let mut random = Random(process.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for step in 0..steps {
        let (number, id) = (random.below(4) as usize, format!("snap-{process}-{step}"));
        match random.below(8) {
            0 | 1 => _ = collect(store),
            2 => {
                // Image records stay, so their layers do.
                let number = number + 4;
                let image = ManifestDigest::of(&number.to_le_bytes());
                let lease = store.leases.take(&[key(number)]).unwrap();
                add(store, number);
                let reference = format!("a:{number}-{process}");
                store
                    .images
                    .put(&reference, image, &lease.layers, &ImageDetails::default())
                    .unwrap();
                store.images.mark_used(&image);
                drop(lease);
                assert!(store.images.named(&reference).is_some_and(|it| it.manifest == image));
            }
            _ => {
                record(store, &id, number);
                store.layers.lower(&key(number)).unwrap();
                let keep = random.below(4) == 0;
                assert!(keep || store.snapshots.remove(&id.parse().unwrap()).unwrap());
            }
        }
    }
}

/// A process that the tests below start.
#[test]
#[ignore = "the tests below start it"]
fn process_of_a_shared_store() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    match &*std::env::var(WORK).unwrap() {
        "node" => holds(Store::open(&root, Arc::new(FakeMounts::default())).map(Arc::new)),
        "command" => holds(try_shared(&root)),
        steps => hammer(&shared(&root), steps.parse().unwrap()),
    }
}

/// Has a store with a lease, a reservation and a staged layer until it is killed.
fn holds(store: Result<Arc<Store>, OpenError>) {
    let store = store.unwrap();
    let layer = add(&store, 0);
    let _lease = store.leases.take(&[layer]).unwrap();
    let _reservation = store.disk.reserve(1 << 20).unwrap();
    let staged = store.layers.stage_snapshot(&"snapshot".parse().unwrap()).unwrap();
    fs::write(staged.tree().join("file"), "half").unwrap();
    fs::write(store.root().join("is ready"), "").unwrap();
    sleep(LONG);
}

/// A process, which is killed at the end of the test.
struct Process(Child);

impl Process {
    fn start(root: &Path, work: &str) -> Self {
        let test = "layers::shared_tests::process_of_a_shared_store";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", test, "--nocapture"])
            .env(ROOT, root)
            .env(WORK, work)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Waits until it has the store, which it reports by a file or by its staging directory.
    fn wait_for(&mut self, done: impl Fn(u32) -> bool) {
        let start = Instant::now();
        while !done(self.0.id()) {
            assert_eq!(self.0.try_wait().unwrap(), None, "the process ended too early");
            assert!(start.elapsed() < LONG, "the process does nothing");
            sleep(Duration::from_millis(1));
        }
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn after_a_kill_another_process_removes_the_staging_the_lease_and_the_reservation() {
    let dir = TempDir::new().unwrap();
    for (work, name) in [("command", "is in use by process"), ("node", "`ovl node` (process")] {
        let ready = dir.path().join("is ready");
        let mut process = Process::start(dir.path(), work);
        process.wait_for(|_| ready.exists());
        let pid = process.0.id();
        let open_node = || Store::open(dir.path(), Arc::new(FakeMounts::default()));
        let error = if work == "node" {
            try_shared(dir.path()).unwrap_err()
        } else {
            // A command does not exclude commands, and its lease counts for them.
            assert_eq!(collect(&shared(dir.path())), 0);
            open_node().unwrap_err()
        };
        assert!(error.to_string().contains(&format!("{name} {pid}")), "{error}");
        assert_eq!(error.class(), Class::Busy);
        process.kill();
        fs::remove_file(ready).unwrap();

        assert_ne!(names(&dir.path().join("staging")), Vec::<String>::new());
        let store = shared(dir.path());
        assert_eq!(store.staging.remove_abandoned().unwrap(), 0);
        assert_eq!(names(&dir.path().join("staging")).len(), 1, "its own");
        assert_eq!(collect(&store), 1);
        assert_eq!(names(&dir.path().join("leases")), Vec::<String>::new());
        assert_eq!(names(&dir.path().join("reservations")), Vec::<String>::new());
        drop(store.disk.reserve(1).unwrap());
        assert_eq!(names(&dir.path().join("reservations")).len(), 1, "its own");
    }
}

/// docs/hazards.md, 15 and 20.
#[test]
fn a_store_that_processes_hammer_while_others_are_killed_stays_whole() {
    const STEPS: &str = "80";
    let dir = TempDir::new().unwrap();
    let mut workers: Vec<_> = (0..2).map(|_| Process::start(dir.path(), STEPS)).collect();
    let mut random = Random(u64::from(std::process::id()) | 1);
    let staging = dir.path().join("staging");
    for _ in 0..8 {
        let mut victim = Process::start(dir.path(), &u64::MAX.to_string());
        victim.wait_for(|pid| staging.join(format!("process-{pid}")).exists());
        sleep(Duration::from_millis(random.below(60)));
        victim.kill();
        let store = shared(dir.path());
        store.staging.remove_abandoned().unwrap();
        hammer(&store, 4);
    }
    for worker in &mut workers {
        assert!(worker.0.wait().unwrap().success(), "a layer in use was removed");
    }

    let store = shared(dir.path());
    assert_eq!(store.staging.remove_abandoned().unwrap(), 0);
    collect(&store);
    for record in store.snapshots.all() {
        assert!(record.stack.iter().all(|layer| store.layers.has(layer)), "{}", record.id);
    }
    assert_eq!(names(&staging).len(), 1, "only its own: {:?}", names(&staging));
    assert_eq!(names(&dir.path().join("leases")), Vec::<String>::new());
    assert_eq!(store.verify().unwrap(), []);
    for part in ["images", "snapshots"] {
        let names = names(&dir.path().join(part));
        assert!(names.iter().all(|name| name.ends_with(".json")), "{names:?}");
    }
    drop(store);
    assert_eq!(names(&staging), Vec::<String>::new());
    assert_eq!(names(&dir.path().join("reservations")), Vec::<String>::new());
}
