//! The store against the in-memory twin of the kernel.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use tempfile::TempDir;

use super::*;
use crate::{changeset::Compression, digest::Digest, fault::Class, sys::mounts::MemoryMounts};

struct Node {
    folder: TempDir,
    kernel: MemoryMounts,
    store: Store,
}

impl Node {
    fn new() -> Self {
        let (folder, kernel) = (TempDir::new().unwrap(), MemoryMounts::default());
        let store = open(folder.path(), &kernel).unwrap();
        Self { folder, kernel, store }
    }

    /// The names in one folder of the store.
    fn names(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join(part)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn assert_no_layer(&self) {
        assert_eq!(self.names("layers"), Vec::<String>::new());
        assert_eq!(self.names("staging"), Vec::<String>::new());
    }
}

fn open(root: &Path, kernel: &MemoryMounts) -> Result<Store, OpenError> {
    Store::open(root, Arc::new(kernel.clone()))
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

fn new_layer(diff_id: Digest) -> NewLayer {
    NewLayer {
        diff_id,
        compression: Compression::None,
        origin: Origin {
            registry: "registry.example".to_owned(),
            repository: "a/b".to_owned(),
            blob: diff_id,
        },
    }
}

#[test]
fn a_layer_is_kept_once() {
    let node = Node::new();
    let tar = layer("one");
    let new = new_layer(Digest::of(&tar));
    assert!(!node.store.has(&new.diff_id));
    node.store.add(&new, &tar[..]).unwrap();
    assert!(node.store.has(&new.diff_id));
    struct Untouchable;
    impl Read for Untouchable {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("a layer that is here was read again")
        }
    }
    node.store.add(&new, Untouchable).unwrap();
    assert_eq!(node.names("layers"), [new.diff_id.hex()]);
    assert_eq!(node.names("staging"), Vec::<String>::new());
}

#[test]
fn a_layer_is_mounted_once() {
    let node = Node::new();
    let tar = layer("one");
    let new = new_layer(Digest::of(&tar));
    assert!(matches!(node.store.lower(&new.diff_id), Err(LowerError::Absent(_))));
    node.store.add(&new, &tar[..]).unwrap();
    let (first, second) =
        (node.store.lower(&new.diff_id).unwrap(), node.store.lower(&new.diff_id).unwrap());
    assert!(Arc::ptr_eq(&first.tree, &second.tree));
    assert_eq!(node.kernel.requests().len(), 1);
}

#[test]
fn other_content_than_promised_is_refused() {
    let node = Node::new();
    let new = new_layer(Digest::of(&layer("one")));
    let error = node.store.add(&new, &layer("two")[..]).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.to_string().contains(&new.diff_id.to_string()), "{error}");
    node.assert_no_layer();
}

#[test]
fn a_stream_that_breaks_leaves_nothing() {
    let node = Node::new();
    let tar = layer("one");
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "the registry went away"))
        }
    }
    // Also at the very end, where a blob's digest is found to be wrong.
    for cut in [0, 100, 512, tar.len()] {
        let new = new_layer(Digest::of(&tar));
        let error = node.store.add(&new, tar[..cut].chain(Broken)).unwrap_err();
        assert!(error.to_string().contains("the registry went away"), "{error}");
        node.assert_no_layer();
    }
}

#[test]
fn opening_empties_staging_and_keeps_layers() {
    let Node { folder, kernel, store } = Node::new();
    let tar = layer("one");
    let new = new_layer(Digest::of(&tar));
    store.add(&new, &tar[..]).unwrap();
    fs::create_dir(folder.path().join("staging/7")).unwrap();
    fs::write(folder.path().join("staging/7/layer.erofs"), "half").unwrap();
    drop(store);
    let store = open(folder.path(), &kernel).unwrap();
    assert!(store.has(&new.diff_id));
    let node = Node { folder, kernel, store };
    assert_eq!(node.names("staging"), Vec::<String>::new());
}

#[test]
fn one_process_at_a_time() {
    let node = Node::new();
    let error = open(node.folder.path(), &node.kernel).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
}

#[test]
fn a_store_of_another_format_is_left_alone() {
    let Node { folder, kernel, store } = Node::new();
    drop(store);
    for text in [r#"{"format":2,"id":"x"}"#, "", "{}"] {
        fs::write(folder.path().join("store.json"), text).unwrap();
        let error = open(folder.path(), &kernel).unwrap_err();
        assert!(matches!(error, OpenError::Unknown { .. }), "{text}: {error}");
    }
}

#[test]
fn a_reference_means_the_image_it_was_last_resolved_to() {
    let Node { folder, kernel, store } = Node::new();
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    store.put_image("a/b:1", one, &[one]).unwrap();
    store.put_image("a/b:latest", one, &[one]).unwrap();
    store.put_image("a/b:latest", two, &[one, two]).unwrap();
    drop(store);
    let store = open(folder.path(), &kernel).unwrap();
    assert_eq!(store.image("a/b:1").unwrap().layers, [one]);
    assert_eq!(store.image("a/b:latest").unwrap().layers, [one, two]);
    assert_eq!(store.image("a/b"), None);
}

#[test]
fn a_record_that_a_kill_kept_from_its_place_is_not_taken() {
    let Node { folder, kernel, store } = Node::new();
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    store.put_image("a:latest", one, &[one]).unwrap();
    let images = folder.path().join("images");
    fs::copy(images.join(format!("{}.json", one.hex())), images.join(".ovl-tmp.1.2")).unwrap();
    fs::create_dir(images.join("folder")).unwrap();
    store.put_image("a:latest", two, &[two]).unwrap();
    drop(store);
    let store = open(folder.path(), &kernel).unwrap();
    assert_eq!(store.image("a:latest").unwrap().manifest, two);
}

#[test]
fn the_store_is_closed_to_others_whoever_made_its_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    for part in ["", "layers", "volumes"] {
        fs::create_dir_all(root.join(part)).unwrap();
        fs::set_permissions(root.join(part), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let _store = open(&root, &MemoryMounts::default()).unwrap();
    for part in ["", "layers", "volumes", "images", "staging"] {
        let mode = fs::metadata(root.join(part)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{part}");
    }
}

#[test]
fn readiness_does_not_race_with_itself() {
    let node = Node::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| node.store.ready().unwrap()));
        }
    });
    assert_eq!(node.names("staging"), Vec::<String>::new());
}

#[test]
fn what_is_discarded_leaves_its_place() {
    let node = Node::new();
    let folder = node.folder.path().join("volumes/x");
    fs::create_dir_all(folder.join("upper/deep")).unwrap();
    node.store.discard(&folder).unwrap();
    node.store.discard(&folder).unwrap();
    assert!(!folder.exists());
    assert_eq!(node.names("staging"), Vec::<String>::new());
}
