//! The store with fake mounts.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use tempfile::TempDir;

use super::*;
use crate::{
    digest::ManifestDigest,
    error::Class,
    media_type::Format,
    sys::{mounts::FakeMounts, statfs::Space},
};

struct Node {
    dir: TempDir,
    kernel: FakeMounts,
    store: Arc<Store>,
}

impl Node {
    fn new() -> Self {
        let (dir, kernel) = (TempDir::new().unwrap(), FakeMounts::default());
        let store = open(dir.path(), &kernel).unwrap();
        Self { dir, kernel, store }
    }

    /// The names in one directory of the store.
    fn names(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(part)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn assert_no_layer(&self) {
        assert_eq!(self.names("layers"), Vec::<String>::new());
        assert_eq!(self.names("staging"), Vec::<String>::new());
    }
}

fn open(root: &Path, kernel: &FakeMounts) -> Result<Arc<Store>, OpenError> {
    Store::open(root, Arc::new(kernel.clone())).map(Arc::new)
}

fn add(store: &Arc<Store>, new: &NewLayer, blob: impl Read + Send) -> Result<(), AddError> {
    store.layers.add(new, store.disk.reserve(1).unwrap(), blob)
}

/// A layer with one file.
fn layer(content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", content.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

fn new_layer(tar: &[u8]) -> NewLayer {
    let new = testing::new_layer(tar, Format::Portable);
    NewLayer { origin: Origin { public: false, ..new.origin }, ..new }
}

#[test]
fn a_layer_is_stored_once() {
    let node = Node::new();
    let tar = layer("one");
    let new = new_layer(&tar);
    assert!(!node.store.layers.has(&new.key_alone()));
    add(&node.store, &new, &tar[..]).unwrap();
    assert!(node.store.layers.has(&new.key_alone()));
    add(&node.store, &new, &tar[..]).unwrap();
    assert_eq!(node.names("layers"), [new.key_alone().dir_name()]);
    assert_eq!(node.names("staging"), Vec::<String>::new());
}

#[test]
fn a_layer_is_mounted_once() {
    let node = Node::new();
    let tar = layer("one");
    let new = new_layer(&tar);
    assert!(matches!(node.store.layers.lower(&new.key_alone()), Err(LowerError::Absent(_))));
    add(&node.store, &new, &tar[..]).unwrap();
    let (first, second) = (
        node.store.layers.lower(&new.key_alone()).unwrap(),
        node.store.layers.lower(&new.key_alone()).unwrap(),
    );
    assert!(Arc::ptr_eq(&first.tree, &second.tree));
    assert_eq!(node.kernel.requests().len(), 1);
}

#[test]
fn a_layer_with_another_digest_is_rejected() {
    let node = Node::new();
    let new = new_layer(&layer("one"));
    let error = add(&node.store, &new, &layer("two")[..]).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.to_string().contains(&new.diff_id.to_string()), "{error}");
    node.assert_no_layer();
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    let node = Node::new();
    let tar = layer("one");
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the registry closed the connection",
            ))
        }
    }
    // Also at the very end, where a wrong digest of the blob is found.
    for length in [0, 100, 512, tar.len()] {
        let new = new_layer(&tar);
        let error = add(&node.store, &new, tar[..length].chain(Broken)).unwrap_err();
        assert!(error.to_string().contains("the registry closed the connection"), "{error}");
        node.assert_no_layer();
    }
}

#[test]
fn what_an_earlier_process_abandoned_is_removed_while_this_one_serves() {
    let Node { dir, kernel, store } = Node::new();
    let tar = layer("one");
    let new = new_layer(&tar);
    add(&store, &new, &tar[..]).unwrap();
    fs::create_dir(dir.path().join("staging/7")).unwrap();
    fs::write(dir.path().join("staging/7/layer.erofs"), "half").unwrap();
    fs::write(dir.path().join("staging/no number"), "").unwrap();
    drop(store);
    let store = open(dir.path(), &kernel).unwrap();
    assert!(store.layers.has(&new.key_alone()));
    let node = Node { dir, kernel, store };
    assert_eq!(node.names("staging").len(), 2);
    let staged = node.store.layers.stage_snapshot(&"snapshot".parse().unwrap()).unwrap();
    assert_eq!(node.store.staging.remove_abandoned().unwrap(), 0);
    assert_eq!(node.names("staging"), ["8"]);
    drop(staged);
    assert_eq!(node.names("staging"), Vec::<String>::new());
}

/// docs/hazards.md, 29: a repository that claims a diff ID becomes an origin only after it delivered the bytes.
#[test]
fn only_a_repository_that_delivered_the_bytes_is_an_origin() {
    let Node { dir, kernel, store } = Node::new();
    let tar = layer("one");
    let new = new_layer(&tar);
    assert_eq!(*store.origins.of(&new.key_alone()), []);
    add(&store, &new, &tar[..]).unwrap();
    assert_eq!(*store.origins.of(&new.key_alone()), *std::slice::from_ref(&new.origin));
    let of = |registry: &str| Origin { registry: registry.to_owned(), ..new.origin.clone() };
    let (evil, honest) = (of("evil.example"), of("mirror.example"));
    add(&store, &NewLayer { origin: evil, ..new.clone() }, &layer("two")[..]).unwrap_err();
    assert_eq!(*store.origins.of(&new.key_alone()), *std::slice::from_ref(&new.origin));
    add(&store, &NewLayer { origin: honest.clone(), ..new.clone() }, &tar[..]).unwrap();
    let public = Origin { public: true, ..new.origin.clone() };
    store.origins.add(&new.key_alone(), public.clone()).unwrap();
    // An origin that was public once stays public.
    store.origins.add(&new.key_alone(), new.origin.clone()).unwrap();
    let origins = store.origins.of(&new.key_alone());
    assert_eq!(*origins, [public, honest]);

    drop(store);
    let temp = dir.path().join("layers").join(new.key_alone().dir_name()).join(".ovl-tmp.1.1");
    fs::write(&temp, "half").unwrap();
    let store = open(dir.path(), &kernel).unwrap();
    assert_eq!(store.origins.of(&new.key_alone()), origins);
    assert!(!temp.exists());
}

#[test]
fn the_origins_of_one_layer_are_bounded() {
    let node = Node::new();
    let tar = layer("one");
    let new = new_layer(&tar);
    let origin =
        |n: usize| Origin { repository: format!("r{n}"), public: n == 0, ..new.origin.clone() };
    add(&node.store, &NewLayer { origin: origin(0), ..new.clone() }, &tar[..]).unwrap();
    (1..100).for_each(|n| node.store.origins.add(&new.key_alone(), origin(n)).unwrap());
    let kept = node.store.origins.of(&new.key_alone());
    assert_eq!(kept.len(), 64);
    assert_eq!((&kept[0], &kept[63]), (&origin(0), &origin(99)));
}

/// docs/hazards.md, 11 and 17: space is reserved before the download, and the error names the directory and the
/// numbers.
#[test]
fn a_layer_that_does_not_fit_is_rejected_before_its_download() {
    let Node { dir, kernel, store } = Node::new();
    drop(store);
    let limits = DiskLimits { min_free: 5, ..DiskLimits::default() };
    let settings = StoreSettings { limits, ..StoreSettings::default() };
    let lock = StoreLock::exclusive(dir.path()).unwrap();
    let store = Store::open_locked(lock, Arc::new(kernel), settings).unwrap();
    store.disk.set_fake(|_| Ok(Space::with_available(2_000, 1_000)));
    let first = store.disk.reserve(500).unwrap();
    let error = store.disk.reserve(401).unwrap_err();
    assert_eq!(error.class(), Class::Exhausted);
    for part in
        [&dir.path().display().to_string(), "401 B more", "1000 B are free", "600 B are reserved"]
    {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    drop(first);
    drop(store.disk.reserve(900).unwrap());
}

#[test]
fn a_directory_layer_is_a_lower_too() {
    let node = Node::new();
    let tar = layer("one");
    let new = new_layer(&tar);
    add(&node.store, &new, &tar[..]).unwrap();
    let dir = node.dir.path().join("layers").join(new.key_alone().dir_name());
    let text = fs::read_to_string(dir.join("layer.json")).unwrap();
    let mut meta: serde_json::Value = serde_json::from_str(&text).unwrap();
    meta["form"] = "dir".into();
    meta.as_object_mut().unwrap().remove("content");
    fs::write(dir.join("layer.json"), meta.to_string()).unwrap();
    assert!(matches!(node.store.layers.lower(&new.key_alone()), Err(LowerError::Mount { .. })));
    assert_eq!(node.store.verify().unwrap().len(), 1);
    fs::create_dir(dir.join("diff")).unwrap();
    node.store.layers.lower(&new.key_alone()).unwrap();
    assert_eq!(node.kernel.requests().len(), 0);
    assert_eq!(node.store.verify().unwrap(), []);
}

#[test]
fn verify_finds_truncated_swapped_and_lost_layers() {
    let node = Node::new();
    let tars = ["one", "two", "three", "four"].map(layer);
    let ids = [0, 1, 2, 3].map(|n: usize| new_layer(&tars[n]).key_alone());
    for tar in &tars {
        add(&node.store, &new_layer(tar), &tar[..]).unwrap();
    }
    assert_eq!(node.store.verify().unwrap(), []);
    let image =
        |n: usize| node.dir.path().join("layers").join(ids[n].dir_name()).join("layer.erofs");
    let bytes = fs::read(image(0)).unwrap();
    fs::write(image(0), &bytes[..bytes.len() - 1]).unwrap();
    fs::copy(image(3), image(1)).unwrap();
    fs::write(image(2), vec![0; fs::metadata(image(2)).unwrap().len() as usize]).unwrap();
    let findings = node.store.verify().unwrap();
    let what = |n: usize| &findings.iter().find(|f| f.key == ids[n]).unwrap().what;
    assert!(what(0).contains("were written"), "{}", what(0));
    assert!(what(1).contains("another layer"), "{}", what(1));
    assert!(what(2).contains("superblock"), "{}", what(2));
    assert_eq!(findings.len(), 3);
    fs::remove_file(image(3)).unwrap();
    assert_eq!(node.store.verify().unwrap().len(), 4);
}

#[test]
fn a_node_has_its_store_alone() {
    let node = Node::new();
    let error = open(node.dir.path(), &node.kernel).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

#[test]
fn a_store_of_another_format_is_rejected() {
    let Node { dir, kernel, store } = Node::new();
    drop(store);
    for text in [r#"{"format":2,"id":"x"}"#, "", "{}"] {
        fs::write(dir.path().join("store.json"), text).unwrap();
        let error = open(dir.path(), &kernel).unwrap_err();
        assert!(matches!(error, OpenError::Unknown { .. }), "{text}: {error}");
    }
}

#[test]
fn a_reference_resolves_to_its_latest_image() {
    let Node { dir, kernel, store } = Node::new();
    let [one, two] = [b"one", b"two"].map(|name| ManifestDigest::of(name));
    let [lower, upper] = [b"lower", b"upper"].map(|name| LayerKey::of(name));
    store.images.put("a/b:1", one, &[lower], &ImageDetails::default()).unwrap();
    store.images.put("a/b:latest", one, &[lower], &ImageDetails::default()).unwrap();
    store.images.put("a/b:latest", two, &[lower, upper], &ImageDetails::default()).unwrap();
    drop(store);
    let store = open(dir.path(), &kernel).unwrap();
    assert_eq!(store.images.named("a/b:1").unwrap().layers, [lower]);
    assert_eq!(store.images.named("a/b:latest").unwrap().layers, [lower, upper]);
    assert_eq!(store.images.named("a/b"), None);
}

#[test]
fn a_temporary_record_of_a_killed_process_is_removed() {
    let Node { dir, kernel, store } = Node::new();
    let (one, two) = (ManifestDigest::of(b"one"), ManifestDigest::of(b"two"));
    store.images.put("a:latest", one, &[], &ImageDetails::default()).unwrap();
    let images = dir.path().join("images");
    fs::copy(images.join(format!("{}.json", one.digest().hex())), images.join(".ovl-tmp.1.2"))
        .unwrap();
    fs::create_dir(images.join("directory")).unwrap();
    store.images.put("a:latest", two, &[], &ImageDetails::default()).unwrap();
    drop(store);
    let store = open(dir.path(), &kernel).unwrap();
    assert_eq!(store.images.named("a:latest").unwrap().manifest, two);
    assert!(!images.join(".ovl-tmp.1.2").exists());
}

#[test]
fn the_store_is_private_even_in_an_existing_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    for part in ["", "layers", "volumes"] {
        fs::create_dir_all(root.join(part)).unwrap();
        fs::set_permissions(root.join(part), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let _store = open(&root, &FakeMounts::default()).unwrap();
    for part in ["", "layers", "volumes", "images", "staging"] {
        let mode = fs::metadata(root.join(part)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{part}");
    }
}

#[test]
fn concurrent_readiness_checks_do_not_conflict() {
    let node = Node::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| node.store.ready().unwrap()));
        }
    });
    assert_eq!(node.names("staging"), Vec::<String>::new());
}

#[test]
fn a_directory_set_aside_is_moved_to_staging() {
    let node = Node::new();
    let dir = node.dir.path().join("volumes/x");
    fs::create_dir_all(dir.join("upper/deep")).unwrap();
    let staged = node.store.staging.move_here(&dir).unwrap().unwrap();
    assert_eq!(node.store.staging.move_here(&dir).unwrap(), None);
    assert!(!dir.exists() && staged.join("upper/deep").is_dir());
    assert_eq!(node.names("staging").len(), 1);
}
