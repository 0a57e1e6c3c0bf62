//! Layers that need the layers below: lookups of a path in a stack, and the key of such a layer.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    changeset::LayerFeatures,
    digest::Digest,
    error::Class,
    layers::{LayerStorage, Store, StoreLock, StoreSettings, testing},
    media_type::Format,
    sys::{
        attributes,
        mounts::{FakeMounts, LinuxMounts, Mounts as _},
        test_dir::TestDir,
        tree::{Attributes, Dir},
    },
};

/// Layers as directories, bottom first.
struct Layers {
    scratch: TestDir,
    names: Vec<String>,
    opaque_roots: Vec<bool>,
}

impl Layers {
    fn new() -> Self {
        Self { scratch: TestDir::new(), names: Vec::new(), opaque_roots: Vec::new() }
    }

    /// One more layer on top. `name` is a file with the layer's number as content, `name/` a directory, `name!` a
    /// whiteout, `name*` an opaque directory, `name@` a link to `f`.
    fn layer(mut self, entries: &[&str]) -> Self {
        let number = self.names.len().to_string();
        let root = self.scratch.dir(&number);
        for entry in entries {
            let (name, kind) = match entry.split_at(entry.len() - 1) {
                (name, kind @ ("/" | "!" | "*" | "@")) => (name, kind),
                _ => (*entry, ""),
            };
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match kind {
                "/" => fs::create_dir_all(&path).unwrap(),
                "*" => {
                    fs::create_dir_all(&path).unwrap();
                    mark_opaque(&path);
                }
                "!" => {
                    let dir = Dir::open(path.parent().unwrap()).unwrap();
                    dir.whiteout(path.file_name().unwrap().as_encoded_bytes()).unwrap();
                }
                "@" => symlink("f", &path).unwrap(),
                _ => fs::write(&path, &number).unwrap(),
            }
        }
        self.names.push(number);
        self.opaque_roots.push(false);
        self
    }

    fn with_opaque_root(mut self) -> Self {
        *self.opaque_roots.last_mut().unwrap() = true;
        self
    }

    fn stack(&self) -> OpenLayers {
        let open = |(name, opaque_root): (&String, &bool)| OpenLayer {
            tree: Arc::new(LinuxMounts.open_dir(&self.scratch.path().join(name)).unwrap()),
            opaque_root: *opaque_root,
            is_snapshot: false,
            features: LayerFeatures::default(),
        };
        OpenLayers(self.names.iter().zip(&self.opaque_roots).map(open).collect())
    }

    /// Looks `path` up. Returns a file's content, `@` and the target of a symlink, `/` for a directory, or an empty
    /// string for nothing. A symlink inside the path is returned with its component's index before the `@`.
    fn find(&self, path: &str) -> String {
        let linked = match self.stack().find(path.as_bytes(), 0).unwrap() {
            LookupBelow::Nothing => return String::new(),
            LookupBelow::Through(depth, link) => {
                return format!("{depth}@{}", String::from_utf8(link).unwrap());
            }
            LookupBelow::There(linked) => linked.kind,
        };
        match linked {
            EntryBelowKind::File { content, .. } => io::read_to_string(content).unwrap(),
            EntryBelowKind::Symlink(target) => format!("@{}", String::from_utf8(target).unwrap()),
            EntryBelowKind::Dir => "/".to_owned(),
            EntryBelowKind::Special(special) => format!("{special:?}"),
        }
    }
}

fn mark_opaque(dir: &Path) {
    let xattrs = [(OPAQUE.as_bytes().to_vec(), b"y".to_vec())];
    let attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: &xattrs };
    Dir::open(dir).unwrap().set_attributes(&attributes).unwrap();
}

#[test]
fn a_path_is_found_in_the_topmost_layer_that_has_it() {
    let layers = Layers::new().layer(&["d/f", "d/low", "d/s@", "x/f", "y/f", "z"]);
    let layers = layers.layer(&["d/f", "d/e/", "x!", "y", "z/"]).layer(&["d/", "x/g", "d/low!"]);
    for (path, shown) in [
        ("d/f", "1"),
        ("d/s", "@f"),
        ("d/low", ""),
        ("d/e", "/"),
        ("d", "/"),
        ("d/none", ""),
        // A whiteout in the middle layer hides the layers below it, also if the top layer has the directory.
        ("x/f", ""),
        ("x/g", "2"),
        // So does a file.
        ("y/f", ""),
        ("y", "1"),
        ("z", "/"),
        ("z/f", ""),
        // A symlink inside the path is returned.
        ("d/s/f", "1@f"),
    ] {
        assert_eq!(layers.find(path), shown, "{path}");
    }
    assert_eq!(Layers::new().find("f"), "");
}

#[test]
fn a_symlink_in_the_path_is_returned_and_never_followed() {
    let layers = Layers::new().layer(&["f", "d/f"]);
    symlink("d", layers.scratch.path().join("0/here")).unwrap();
    symlink("/", layers.scratch.path().join("0/out")).unwrap();
    layers.scratch.file("secret", "secret");
    for (path, shown) in [("here/f", "0@d"), ("out/secret", "0@/"), ("out/0/f", "0@/")] {
        assert_eq!(layers.find(path), shown, "{path}");
    }
    for path in ["../secret", "d/../f"] {
        layers.stack().find(path.as_bytes(), 0).unwrap_err();
    }
    // A directory above hides the symlink, both in a layer of the stack and in the new layer.
    let layers = layers.layer(&["here/g"]);
    assert_eq!(layers.find("here/f"), "");
    assert!(matches!(layers.stack().find(b"out/secret", 1).unwrap(), LookupBelow::Nothing));
}

#[test]
fn an_opaque_root_ends_the_search() {
    let layers = Layers::new().layer(&["f", "g"]).layer(&["g"]).with_opaque_root().layer(&["h"]);
    assert_eq!(["f", "g", "h"].map(|path| layers.find(path)), ["", "1", "2"]);
}

#[test]
#[ignore = "needs root: sets attributes of overlay"]
fn privileged_an_opaque_directory_hides_the_layers_below() {
    let layers = Layers::new().layer(&["d/f", "d/g", "d/e/f"]).layer(&["d*", "d/g", "d/e/"]);
    let layers = layers.layer(&["d/e/"]);
    assert_eq!(["d/f", "d/g", "d/e/f", "d/e"].map(|path| layers.find(path)), ["", "1", "", "/"]);
}

#[test]
fn a_found_file_has_its_attributes() {
    let layers = Layers::new().layer(&["f"]);
    let path = layers.scratch.path().join("0/f");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(100).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(5, 6)).unwrap();
    let find = || match layers.stack().find(b"f", 0).unwrap() {
        LookupBelow::There(linked) => linked,
        other => panic!("{other:?}"),
    };
    let found = find();
    assert_eq!(found.meta.mode, 0o4711);
    assert_eq!(found.meta.mtime, Time { seconds: 5, nanos: 6 });
    assert_eq!(found.id, find().id);
    let EntryBelowKind::File { size, data, .. } = found.kind else { panic!("{found:?}") };
    assert_eq!((size, data[0].offset), (100, 0));
    attributes::set_mode(&layers.scratch.path().join("0"), 0o700).unwrap();
}

fn tar(entries: &[(&str, Result<&str, &str>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(0);
        match content {
            Ok(content) => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
            Err(target) => {
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn new_layer(tar: &[u8]) -> NewLayer {
    testing::new_layer(tar, Format::Portable)
}

struct Node {
    scratch: TestDir,
    store: Arc<Store>,
}

impl Node {
    /// Stores layers as directories, because a fake mount of an image shows this machine's root directory.
    fn new() -> Self {
        let scratch = TestDir::new();
        let kernel = Arc::new(FakeMounts::default());
        let settings = StoreSettings { storage: LayerStorage::Dir, ..StoreSettings::default() };
        let lock = StoreLock::exclusive(&scratch.dir("store")).unwrap();
        let store = Store::open_locked(lock, kernel, settings).unwrap();
        Self { scratch, store: Arc::new(store) }
    }

    fn reservation(&self) -> Reservation {
        self.store.disk.reserve(1).unwrap()
    }

    fn content(&self, key: &LayerKey) -> PathBuf {
        self.scratch.path().join("store/layers").join(key.dir_name()).join("diff")
    }
}

/// The key of the topmost of these layers, bottom first, if it is unpacked with the others.
fn chain<const N: usize>(stack: [LayerKey; N]) -> LayerKey {
    let chain = stack.iter().fold(None, |below, top| Some(ChainId::new(below.as_ref(), top)));
    LayerKey::of_chain(&chain.unwrap())
}

#[test]
#[ignore = "needs root: lays layers out as directories"]
fn privileged_a_layer_with_links_to_lower_layers_is_stored_under_its_chain_id() {
    let node = Node::new();
    let (base, other) = (tar(&[("f", Ok("base"))]), tar(&[("f", Ok("other"))]));
    let links = tar(&[("a", Err("f")), ("b", Err("f"))]);
    let [base, other] = [base, other].map(|tar| {
        let new = new_layer(&tar);
        node.store.layers.add(&new, node.reservation(), &tar[..]).unwrap();
        new.key_alone()
    });
    let new = new_layer(&links);
    let error = node.store.layers.add(&new, node.reservation(), &links[..]).unwrap_err();
    assert!(error.needs_layers_below() && !error.is_lasting(), "{error}");
    let alone = new.key_alone();
    assert!(!node.store.layers.has(&alone));

    let add = |below: &[LayerKey]| {
        node.store.layers.add_with_layers_below(&new, below, node.reservation(), &links[..])
    };
    for (below, content) in [(base, "base"), (other, "other")] {
        let key = add(&[below]).unwrap();
        assert_eq!(key, chain([below, alone]));
        assert_eq!(node.store.origins.of(&key)[..], *std::slice::from_ref(&new.origin));
        assert_eq!(fs::read_to_string(node.content(&key).join("a")).unwrap(), content);
        assert_eq!(fs::read_to_string(node.content(&key).join("b")).unwrap(), content);
        node.store.layers.lower(&key).unwrap();
        assert!(node.store.layers.has(&key) && !node.store.layers.fits(&key, Place::Any));
        assert!(node.store.layers.fits(&below, Place::Any));
        assert_eq!(add(&[below]).unwrap(), key, "added again");
    }
    // A layer above a layer that needs another; its ChainID is computed from diff IDs.
    let key = chain([base, alone]);
    let more = tar(&[("c", Err("a"))]);
    let top = node
        .store
        .layers
        .add_with_layers_below(&new_layer(&more), &[base, key], node.reservation(), &more[..])
        .unwrap();
    assert_eq!(top, chain([base, alone, new_layer(&more).key_alone()]));
    assert_eq!(fs::read_to_string(node.content(&top).join("c")).unwrap(), "base");
    assert!(!node.store.layers.has(&alone) && !node.store.layers.fits(&alone, Place::Any));
    assert_eq!(node.store.verify().unwrap(), []);

    let error = add(&[LayerKey::of(b"none")]).unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    let wrong = tar(&[("a", Err("nowhere"))]);
    let error = node.store.layers.add_with_layers_below(
        &new_layer(&wrong),
        &[base],
        node.reservation(),
        &wrong[..],
    );
    assert_eq!(error.unwrap_err().class(), Class::Corrupt);
    assert_eq!(fs::read_dir(node.scratch.path().join("store/staging")).unwrap().count(), 0);
}

#[test]
fn a_chain_id_is_computed_as_the_specification_says() {
    let [a, b] = [LayerKey::of(b"a"), LayerKey::of(b"b")];
    assert_eq!(chain([a]), a);
    assert_eq!(chain([a, b]).to_string(), Digest::of(format!("{a} {b}").as_bytes()).to_string());
}
