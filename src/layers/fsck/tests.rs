//! Stores with planted damage. Each damage is found and named, and nothing else is.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use jiff::Timestamp;

use super::*;
use crate::{
    changeset::LayerFeatures,
    digest::{Digest, ManifestDigest},
    layers::{
        ImageDetails, LayerKey, LayerStorage, Layers, NamedState, StepKey, Store, StoreLock,
        StoreReader, StoreSettings, WorkspaceBase, WorkspaceName, WorkspaceRecord,
        testing::{new_layer, snapshot_record},
    },
    media_type::Format,
    sys::{mounts::FakeMounts, test_dir::TestDir},
};

/// A shared store, and the layers in it.
struct Place {
    scratch: TestDir,
    store: Arc<Store>,
}

impl Place {
    fn new(storage: LayerStorage) -> Self {
        let scratch = TestDir::new();
        let lock = StoreLock::shared(&scratch.path().join("store")).unwrap();
        let settings = StoreSettings { storage, ..StoreSettings::default() };
        let store = Store::open_locked(lock, Arc::new(FakeMounts::default()), settings).unwrap();
        Self { scratch, store: Arc::new(store) }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    fn dir(&self, layer: &LayerKey) -> PathBuf {
        self.root().join("layers").join(layer.dir_name())
    }

    fn fsck(&self) -> FsckReport {
        StoreReader::open(&self.root()).unwrap().unwrap().fsck(&|_| {}).unwrap()
    }

    /// The paths and texts of all faults.
    fn faults(&self) -> Vec<(PathBuf, String)> {
        self.fsck().faults.into_iter().map(|fault| (fault.path, fault.what)).collect()
    }

    /// Adds a layer with the file `d/file`.
    fn add(&self, content: &[u8]) -> LayerKey {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o755);
        tar.append_data(&mut header, "d", &b""[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, "d/file", content).unwrap();
        let tar = tar.into_inner().unwrap();
        let new = new_layer(&tar, Format::Portable);
        self.store.layers.add(&new, self.store.disk.reserve(1).unwrap(), &tar[..]).unwrap();
        new.key_alone()
    }

    /// Waits until the clock of file times is later than the record of a layer.
    fn wait_for_later_times(&self, layer: &LayerKey) {
        let ctime = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            (found.ctime(), found.ctime_nsec())
        };
        let (made, probe) =
            (ctime(&self.dir(layer).join("layer.json")), self.scratch.path().join("now"));
        while ctime(&self.scratch.file("now", "")) <= made {
            fs::remove_file(&probe).unwrap();
        }
    }

    /// Makes an upper with the file `file` a layer.
    fn seal(&self, features: LayerFeatures) -> LayerKey {
        let (upper, key) = (self.scratch.dir("upper"), Layers::new_key().unwrap());
        fs::write(upper.join("file"), "text").unwrap();
        assert!(self.store.layers.seal(&upper, &key, features).unwrap());
        key
    }

    fn record_contents(&self) {
        for one in self.fsck().unchecked {
            assert!(self.store.layers.record_content(&one.layer, &one.content.unwrap()).unwrap());
        }
    }

    /// Makes an image, a snapshot, a step and a workspace that need a layer. Returns how they are named.
    fn name_everywhere(&self, layer: LayerKey) -> [String; 5] {
        let manifest = ManifestDigest::of(b"manifest");
        self.store.images.put("r.io/a:1", manifest, &[layer], &ImageDetails::default()).unwrap();
        let record =
            crate::layers::SnapshotRecord { stack: vec![layer], ..snapshot_record("snap") };
        self.store.snapshots.put(record).unwrap();
        let step = StepKey::new(Digest::of(b"step"));
        self.store.steps.put(&step, layer, Vec::new()).unwrap();
        let mut record = workspace();
        record.below.push(layer);
        let (name, taken) = ("s".parse().unwrap(), Timestamp::now());
        record.states.push(NamedState { name, layers: vec![layer], taken });
        self.store.workspaces.create(&"box".parse().unwrap(), &record).unwrap();
        [
            "image r.io/a:1".to_owned(),
            "snapshot box@s".to_owned(),
            "snapshot snap".to_owned(),
            format!("step {step}"),
            "workspace box".to_owned(),
        ]
    }
}

/// A workspace over a directory.
fn workspace() -> WorkspaceRecord {
    WorkspaceRecord {
        format: WorkspaceRecord::FORMAT,
        base: WorkspaceBase::Directory("/nowhere".into()),
        created: Timestamp::now(),
        since: Timestamp::now(),
        below: Vec::new(),
        current: Vec::new(),
        states: Vec::new(),
        sealing: None,
        failed: None,
        pre_copy_up: Vec::new(),
    }
}

/// Changes one byte of a file in place. Its size and mtime stay.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (mtime, mut byte) = (file.metadata().unwrap().modified().unwrap(), [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(mtime).unwrap();
}

fn shorten(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn a_new_layer_has_a_digest_and_a_whole_store_has_no_fault() {
    for storage in [LayerStorage::Erofs, LayerStorage::Dir] {
        let place = Place::new(storage);
        let layer = place.add(&b"0123456789abcdef".repeat(10_000));
        place.name_everywhere(layer);
        let report = place.fsck();
        assert_eq!((report.faults, report.unchecked), (Vec::new(), Vec::new()));
        assert_eq!((report.layers, report.notes), (1, Vec::<String>::new()));
        assert!(report.bytes > 160_000, "{}", report.bytes);
        assert_eq!(place.store.verify().unwrap(), []);
    }
}

#[test]
fn the_digest_of_an_image_is_that_of_its_file() {
    let place = Place::new(LayerStorage::Erofs);
    let dir = place.dir(&place.add(b"text"));
    let meta: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("layer.json")).unwrap()).unwrap();
    let digest = Digest::of(&fs::read(dir.join("layer.erofs")).unwrap());
    assert_eq!(meta["content"], serde_json::json!({ "of": "image", "digest": digest }));
}

#[test]
fn a_byte_that_changed_in_an_image_is_found_wherever_it_is() {
    let place = Place::new(LayerStorage::Erofs);
    let layer = place.add(&b"0123456789abcdef".repeat(10_000));
    let needed_by = place.name_everywhere(layer);
    let image = place.dir(&layer).join("layer.erofs");
    // The boot sector, the superblock, content, and the last byte.
    for at in [5, 1100, 50_000, fs::metadata(&image).unwrap().len() - 1] {
        flip(&image, at);
        let report = place.fsck();
        let [fault] = &report.faults[..] else { panic!("{at}: {:?}", report.faults) };
        assert_eq!((&fault.path, &fault.needed_by[..]), (&image, &needed_by[..]), "{at}");
        assert_eq!(fault.subject, Subject::Layer(layer));
        assert!(fault.fix.contains("--repair"), "{}", fault.fix);
        assert_eq!(place.store.verify().unwrap().len(), 1);
        flip(&image, at);
        assert_eq!(place.faults(), []);
    }
    shorten(&image);
    assert!(place.faults()[0].1.contains("were written"), "{:?}", place.faults());
}

#[test]
fn each_change_in_a_directory_layer_is_found_and_its_file_is_named() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("d/file", |tree| flip(&tree.join("d/file"), 70_000)),
        ("d/file", |tree| {
            fs::set_permissions(tree.join("d/file"), Permissions::from_mode(0o4644)).unwrap();
        }),
        ("d/file", |tree| {
            let file = File::open(tree.join("d/file")).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_001)).unwrap();
        }),
        ("d/new", |tree| fs::write(tree.join("d/new"), "").unwrap()),
        ("d", |tree| fs::remove_file(tree.join("d/file")).unwrap()),
        ("d/gone", |tree| {
            crate::sys::tree::Dir::open(&tree.join("d")).unwrap().whiteout(b"gone").unwrap();
        }),
    ];
    for (changed, change) in changes {
        let place = Place::new(LayerStorage::Dir);
        let layer = place.add(&b"0123456789abcdef".repeat(10_000));
        let tree = place.dir(&layer).join("diff");
        place.wait_for_later_times(&layer);
        change(&tree);
        let faults = place.faults();
        let [(path, what)] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!(path, &tree);
        assert!(what.contains("digest differs") && what.contains(changed), "{what}");
    }
}

#[test]
fn a_layer_without_a_digest_is_unchecked_until_one_is_recorded() {
    let place = Place::new(LayerStorage::Erofs);
    let layer = place.seal(LayerFeatures::default());
    let report = place.fsck();
    assert_eq!((report.faults.len(), report.unchecked.len()), (0, 1));
    // A field of a later version.
    let path = place.dir(&layer).join("layer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen('{', "{ \"later\": [1],", 1)).unwrap();
    place.record_contents();
    let meta: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((&meta["later"], &meta["content"]["of"]), (&serde_json::json!([1]), &"tree".into()));
    let report = place.fsck();
    assert_eq!((report.faults, report.unchecked), (Vec::new(), Vec::new()));
    flip(&place.dir(&layer).join("diff/file"), 0);
    assert_eq!(place.faults().len(), 1);
}

/// A later version may hash something else. This one must not call that damage.
#[test]
fn a_digest_of_a_later_version_is_no_fault() {
    let place = Place::new(LayerStorage::Erofs);
    let path = place.dir(&place.add(b"text")).join("layer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"image\"", "\"fs-verity\"")).unwrap();
    let report = place.fsck();
    assert_eq!(report.faults, []);
    assert!(report.unchecked[0].content.is_err());
}

/// A digest that was recorded once must be computed in the same way by each later version.
#[test]
fn the_digest_of_a_tree_never_changes() {
    let scratch = TestDir::new();
    let tree = scratch.dir("tree");
    let mut content = vec![0; 200 << 10];
    content[70 << 10] = 1;
    fs::write(tree.join("sparse"), &content).unwrap();
    fs::write(tree.join("a"), "text").unwrap();
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    crate::sys::tree::Dir::open(&tree).unwrap().whiteout(b"gone").unwrap();
    let time = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_120_000_000);
    let digest = || {
        for (name, mode) in [("sparse", 0o600), ("a", 0o644), ("", 0o755)] {
            fs::set_permissions(tree.join(name), Permissions::from_mode(mode)).unwrap();
            File::open(tree.join(name)).unwrap().set_modified(time).unwrap();
        }
        let limits = crate::changeset::Limits::default();
        let content = crate::layers::content_digest::ContentDigest::compute(
            &tree,
            LayerStorage::Dir,
            &limits,
            &|_| {},
        );
        serde_json::to_value(content.unwrap()).unwrap()["digest"].clone()
    };
    let written = digest();
    // The same bytes with holes.
    let file = File::create(tree.join("sparse")).unwrap();
    file.set_len(200 << 10).unwrap();
    file.write_all_at(&[1], 70 << 10).unwrap();
    assert_eq!(digest(), written);
    let found = fs::metadata(&tree).unwrap();
    // Other users cannot make files of root.
    if (found.uid(), found.gid()) == (0, 0) {
        assert_eq!(
            written,
            "sha256:a826ec7d1feb87c9649ec4002d3a500169c6a62b65bb235e9e4018c9c4621961"
        );
    }
}

#[test]
fn a_layer_that_records_name_and_that_is_missing_is_found_with_all_names() {
    let place = Place::new(LayerStorage::Erofs);
    let layer = place.add(b"text");
    let needed_by = place.name_everywhere(layer);
    fs::rename(place.dir(&layer), place.scratch.path().join("aside")).unwrap();
    let report = place.fsck();
    let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
    assert_eq!((&fault.subject, &fault.path), (&Subject::Missing(layer), &place.dir(&layer)));
    assert_eq!(fault.needed_by, needed_by);
}

#[test]
fn each_name_of_a_missing_layer_is_found_alone() {
    for only in 0..4 {
        let place = Place::new(LayerStorage::Erofs);
        let [image, state, snapshot, step, workspace] =
            place.name_everywhere(LayerKey::of(b"none"));
        let parts = ["images", "snapshots", "steps", "workspaces"];
        for part in parts.iter().enumerate().filter(|(n, _)| *n != only).map(|(_, part)| part) {
            let part = place.root().join(part);
            fs::rename(&part, place.scratch.path().join(part.file_name().unwrap())).unwrap();
            fs::create_dir(part).unwrap();
        }
        let names = [vec![image], vec![snapshot], vec![step], vec![state, workspace]];
        let report = place.fsck();
        let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
        assert_eq!(fault.needed_by, names[only]);
    }
}

#[test]
fn a_short_record_is_found_and_one_of_a_later_version_is_noted() {
    let place = Place::new(LayerStorage::Erofs);
    let layer = place.add(b"text");
    place.name_everywhere(layer);
    let mut files: Vec<PathBuf> = ["images", "snapshots", "steps"]
        .map(|part| fs::read_dir(place.root().join(part)).unwrap().next().unwrap().unwrap().path())
        .to_vec();
    files.push(place.root().join("workspaces/box/workspace.json"));
    files.push(place.dir(&layer).join("origins.json"));
    files.push(place.dir(&layer).join("layer.json"));
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        shorten(file);
        let faults = place.faults();
        let [(path, what)] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!(path, file);
        assert!(what.contains("cannot be read"), "{what}");
        if text.contains("\"format\"") {
            let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
            value["format"] = 1000.into();
            fs::write(file, value.to_string()).unwrap();
            let report = place.fsck();
            assert_eq!(report.faults, []);
            assert!(report.notes[0].contains("later version"), "{:?}", report.notes);
        }
        fs::write(file, text).unwrap();
    }
    assert_eq!(place.faults(), []);
}

#[test]
fn a_layer_that_is_an_upper_still_is_noted() {
    let place = Place::new(LayerStorage::Erofs);
    let (name, key): (WorkspaceName, _) = ("box".parse().unwrap(), Layers::new_key().unwrap());
    let mut record = workspace();
    record.below.push(key);
    record.sealing = Some(key);
    place.store.workspaces.create(&name, &record).unwrap();
    let upper = place.store.workspaces.dir(&name).join("upper");
    for part in [upper.clone(), upper.with_file_name("sealing").join("diff")] {
        fs::create_dir_all(&part).unwrap();
        let report = place.fsck();
        assert_eq!(report.faults, []);
        assert!(report.notes[0].contains("box was interrupted"), "{:?}", report.notes);
        fs::remove_dir(&part).unwrap();
        assert_eq!(place.faults().len(), 1);
    }
}

#[test]
fn what_was_moved_to_the_quarantine_is_no_fault_and_its_users_are_referred_to_it() {
    let place = Place::new(LayerStorage::Erofs);
    let layer = place.add(b"text");
    place.name_everywhere(layer);
    flip(&place.dir(&layer).join("layer.erofs"), 5);
    let lease = place.store.leases.take(&[layer]).unwrap();
    assert_eq!(place.store.quarantine_layer(&layer, "flipped", &[]).unwrap(), None);
    drop(lease);
    let entry = place.store.quarantine_layer(&layer, "flipped", &[]).unwrap().unwrap();
    assert!(entry.join(layer.dir_name()).join("layer.erofs").is_file());
    let why = fs::read_to_string(entry.join("why.json")).unwrap();
    for part in ["flipped", place.dir(&layer).to_str().unwrap()] {
        assert!(why.contains(part), "{why}");
    }
    let report = place.fsck();
    assert_eq!(report.faults, []);
    let note = |part: &str| report.notes.iter().any(|note| note.contains(part));
    assert!(note("workspace box cannot be used") && note("quarantine"), "{:?}", report.notes);
    let error = place.store.layers.lower(&layer).unwrap_err().to_string();
    assert!(error.contains(entry.to_str().unwrap()), "{error}");
    // The image is pulled again, and damaged again.
    place.add(b"text");
    let note = |note: &String| note.contains("cannot be used");
    assert!(!place.fsck().notes.iter().any(note));
    let second = place.store.quarantine_layer(&layer, "flipped", &[]).unwrap().unwrap();
    assert_eq!(second, entry.with_extension("2"));
}

/// A kill between the two renames leaves an entry without content.
#[test]
fn an_entry_of_the_quarantine_that_a_kill_has_left_is_used_again() {
    let place = Place::new(LayerStorage::Erofs);
    let layer = place.add(b"text");
    let entry = place.root().join("quarantine").join(format!("layer-{}", layer.dir_name()));
    fs::create_dir_all(&entry).unwrap();
    fs::write(entry.join("why.json"), "{").unwrap();
    flip(&place.dir(&layer).join("layer.erofs"), 5);
    assert_eq!(place.faults().len(), 1);
    let moved = place.store.quarantine_layer(&layer, "flipped", &[]).unwrap();
    assert_eq!(moved, Some(entry.clone()));
    assert!(fs::read_to_string(entry.join("why.json")).unwrap().contains("flipped"));
    assert!(entry.join(layer.dir_name()).is_dir());
}

#[test]
fn a_file_that_was_replaced_meanwhile_is_not_moved() {
    let place = Place::new(LayerStorage::Erofs);
    place.name_everywhere(place.add(b"text"));
    let dir = place.root().join("images");
    let file = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    assert_eq!(place.store.quarantine_file(&file, "short").unwrap(), None);
    shorten(&file);
    let entry = place.store.quarantine_file(&file, "short").unwrap().unwrap();
    assert!(!file.exists() && entry.join(file.file_name().unwrap()).is_file());
    assert_eq!(place.faults(), []);
}

#[test]
fn what_ended_processes_have_left_is_noted() {
    let place = Place::new(LayerStorage::Erofs);
    let store = place.root();
    fs::create_dir_all(store.join("staging/process-1.7")).unwrap();
    fs::write(store.join("reservations/process-1.7"), "").unwrap();
    let report = place.fsck();
    assert_eq!(report.faults, []);
    for part in ["1 left in staging", "1 left in reservations"] {
        assert!(report.notes.iter().any(|note| note.starts_with(part)), "{part}: {report:?}");
    }
}
