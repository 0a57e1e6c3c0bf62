//! The store on disks that lose power. Bytes that were not synced are lost: each case checks that with a file.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    sync::{Arc, mpsc},
};

use super::{testing::new_layer, *};
use crate::{
    digest::ManifestDigest,
    media_type::Format,
    sys::{
        mounts::LinuxMounts,
        test_dir::{Disk, TestDir},
    },
};

/// The tar of a layer with one file, and its `NewLayer`.
fn layer(content: &[u8]) -> (Vec<u8>, NewLayer) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", content).unwrap();
    let tar = tar.into_inner().unwrap();
    let new = new_layer(&tar, Format::Portable);
    (tar, new)
}

/// A download that stops in the middle, reports that, and fails when the test lets it continue.
struct Halted<'b> {
    half: &'b [u8],
    reached: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Read for Halted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.half.is_empty() {
            return self.half.read(into);
        }
        self.reached.send(()).unwrap();
        let _ = self.go_on.recv();
        Err(io::Error::other("the power is gone"))
    }
}

fn open(root: &Path, storage: LayerStorage) -> Arc<Store> {
    let settings = StoreSettings { storage, ..StoreSettings::default() };
    let lock = StoreLock::exclusive(root).unwrap();
    Arc::new(Store::open_locked(lock, Arc::new(LinuxMounts), settings).unwrap())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// docs/hazards.md, 16: after a power cut, no record names missing bytes, and no incomplete layer is in `layers`.
#[test]
#[ignore = "needs root: mounts file systems on loop devices"]
fn privileged_an_acknowledged_layer_is_complete_after_a_power_cut() {
    for (fs_type, storage) in [
        ("xfs", LayerStorage::Erofs),
        ("xfs", LayerStorage::Dir),
        ("ext4", LayerStorage::Erofs),
        ("ext4", LayerStorage::Dir),
    ] {
        let case = format!("{fs_type}, {storage:?}");
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let disk = Disk::new(&scratch, fs_type, &at);
        let root = at.join("store");
        let store = open(&root, storage);
        let content = b"0123456789abcdef".repeat(100_000);
        let (tar, whole) = layer(&content);
        store.layers.add(&whole, store.disk.reserve(1).unwrap(), &tar[..]).unwrap();
        let (key, manifest) = (whole.key_alone(), ManifestDigest::of(b"manifest"));
        store.images.put("r.example/a:1", manifest, &[key], &ImageDetails::default()).unwrap();

        let (tar, half) = layer(&b"another".repeat(200_000));
        let (reached, is_reached) = mpsc::channel();
        let (go, go_on) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let adding = scope.spawn(|| {
                let blob = Halted { half: &tar[..tar.len() / 2], reached, go_on };
                store.layers.add(&half, store.disk.reserve(1).unwrap(), blob)
            });
            is_reached.recv().unwrap();
            fs::write(at.join("not synced"), &content).unwrap();
            disk.cut_power();
            drop(go);
            adding.join().unwrap().unwrap_err();
        });
        assert!(
            store.images.put("r.example/a:2", manifest, &[], &ImageDetails::default()).is_err(),
            "{case}"
        );
        assert!(store.ready().is_err(), "{case}");
        drop(store);
        disk.boot();

        assert_ne!(
            fs::read(at.join("not synced")).ok(),
            Some(content.clone()),
            "{case}: unsynced bytes survived"
        );
        let [staged] = &names(&root.join("staging"))[..] else { panic!("{case}: no half layer") };
        assert!(!root.join("staging").join(staged).join("layer.json").exists(), "{case}");
        let store = open(&root, storage);
        store.staging.remove_abandoned().unwrap();
        assert_eq!(names(&root.join("staging")), Vec::<String>::new(), "{case}");
        assert_eq!(names(&root.join("layers")), [key.dir_name()], "{case}");
        assert_eq!(store.verify().unwrap(), [], "{case}");
        let lower = store.layers.lower(&key).unwrap();
        assert!(fs::read(lower.tree.path().join("file")).unwrap() == content, "{case}: torn");
        assert_eq!(*store.origins.of(&key), [whole.origin], "{case}");
        assert_eq!(store.images.named("r.example/a:1").unwrap().layers, [key], "{case}");
        assert_eq!(store.images.named("r.example/a:2"), None, "{case}");
        store.layers.add(&half, store.disk.reserve(1).unwrap(), &tar[..]).unwrap();
    }
}
