//! Tests of images with hard links to files of lower layers, on the real kernel.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{tests::claim, *};
use crate::{
    digest::DiffId,
    image::fake::{FakeRegistry, Pushed, Scheme},
    layers::{ChainId, testing::keys},
    volumes::{
        PublishRequest, VolumeSpec,
        privileged_tests::{Node, read, tar},
    },
};

/// The kind of an entry of a layer, with its content or target.
enum Entry {
    File(&'static str),
    Symlink(&'static str),
    Link(&'static str),
}

use Entry::{File, Link, Symlink};

fn layer(entries: &[(&str, Entry)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, entry) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o4750);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_234_567_890);
        header.set_size(0);
        match entry {
            File(content) => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
            Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, name, target).unwrap();
            }
            Link(target) => {
                header.set_entry_type(tar::EntryType::Link);
                // The mode and owner in the header of a hard link do not count.
                header.set_mode(0o777);
                header.set_uid(0);
                tar.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn linked() -> Vec<Vec<u8>> {
    vec![
        layer(&[("d/tool", File("tool")), ("d/link", Symlink("tool")), ("d/gone", File("gone"))]),
        layer(&[("d/.wh.gone", File("")), ("d/other", File("other"))]),
        layer(&[("b/one", Link("d/tool")), ("b/two", Link("d/tool")), ("b/link", Link("d/link"))]),
        // Links to a layer that itself depends on lower layers.
        layer(&[("c/three", Link("b/one")), ("c/own", File("own")), ("c/four", Link("c/own"))]),
    ]
}

fn spec(images: &[Reference], policy: PullPolicy) -> VolumeSpec {
    VolumeSpec { images: images.to_vec(), pull_policy: Some(policy), ..VolumeSpec::default() }
}

fn fetches(registry: &FakeRegistry, pushed: &Pushed) -> Vec<usize> {
    pushed.layers.iter().map(|layer| registry.requests_to(&layer.to_string()).len()).collect()
}

fn check(volume: &Path) {
    for name in ["b/one", "b/two", "c/three", "d/tool"] {
        assert_eq!(read(volume.join(name)), "tool", "{name}");
        let meta = fs::metadata(volume.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 2000, 0o4750), "{name}");
        assert_eq!(meta.mtime(), 1_234_567_890, "{name}");
    }
    assert_eq!(fs::read_link(volume.join("b/link")).unwrap(), Path::new("tool"));
    assert_eq!(read(volume.join("c/four")), "own");
    let inode = |name: &str| {
        let meta = fs::metadata(volume.join(name)).unwrap();
        (meta.dev(), meta.ino())
    };
    assert_eq!(inode("b/one"), inode("b/two"));
    assert_ne!(inode("b/one"), inode("d/tool"));
    assert!(!volume.join("d/gone").exists());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_hard_links_into_lower_layers_become_copies() {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("linked", "1", &linked(), true);
    let images = [registry.reference("linked", "1")];
    let mut node = Node::new(&registry);
    let publish = async |node: &Node, id: &str, images: &[Reference], policy| {
        node.volumes.publish(node.request(id, spec(images, policy))).await.unwrap();
        check(&node.target(id));
    };
    publish(&node, "linked-a", &images, PullPolicy::IfNotPresent).await;
    assert_eq!(
        fetches(&registry, &pushed),
        [1, 2, 2, 2],
        "once to find the links, once to build the layer"
    );
    // Found by the record, by the key that the manifest leads to, and by the record again after a restart.
    publish(&node, "linked-b", &images, PullPolicy::IfNotPresent).await;
    publish(&node, "linked-c", &images, PullPolicy::Always).await;
    node.restart(&registry).await;
    publish(&node, "linked-a", &images, PullPolicy::Never).await;
    publish(&node, "linked-e", &images, PullPolicy::Never).await;
    assert_eq!(fetches(&registry, &pushed), [1, 2, 2, 2]);

    // The same layers in another stack: the links mean other files.
    let mut layers = linked();
    layers[0] = layer(&[("d/tool", File("another")), ("d/link", Symlink("tool"))]);
    let other = registry.push_image("other", "1", &layers, true);
    let images = [images[0].clone(), registry.reference("other", "1")];
    node.volumes
        .publish(node.request("linked-f", spec(&images, PullPolicy::Always)))
        .await
        .unwrap();
    assert_eq!(read(node.target("linked-f").join("b/one")), "another");
    assert_eq!(read(node.target("linked-f").join("c/three")), "another");
    publish(&node, "linked-g", &images[..1], PullPolicy::Always).await;
    assert_eq!(fetches(&registry, &other)[0], 1);
    let layers = fs::read_dir(node.dir.path().join("store/layers")).unwrap().count();
    assert_eq!(layers, 8);
    for id in ["a", "b", "c", "e", "f", "g"] {
        node.unpublish(&format!("linked-{id}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_many_pods_fetch_a_linked_layer_twice() {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("linked", "1", &linked(), true);
    let image = [registry.reference("linked", "1")];
    let node = Node::new(&registry);
    let ids: Vec<_> = (0..10).map(|n| format!("linked-v{n}")).collect();
    let pods = ids
        .iter()
        .map(|id| node.volumes.publish(node.request(id, spec(&image, PullPolicy::IfNotPresent))));
    for done in futures::future::join_all(pods).await {
        done.unwrap();
    }
    assert_eq!(fetches(&registry, &pushed), [1, 2, 2, 2]);
    for id in &ids {
        node.unpublish(id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_a_link_to_a_hidden_file_is_an_error_with_both_names() {
    let registry = FakeRegistry::start().await;
    let node = Node::new(&registry);
    for (name, layers, target) in [
        ("deleted", vec![tar(&[("f", "x")]), tar(&[(".wh.f", "")])], "f"),
        ("opaque", vec![tar(&[("d/f", "x")]), tar(&[("d/.wh..wh..opq", "")])], "d/f"),
        ("absent", vec![tar(&[("f", "x")])], "d/f"),
        ("round", vec![layer(&[("e", Symlink("d")), ("d", Symlink("none"))])], "d/f"),
        ("nothing", vec![], "f"),
    ] {
        let link = match target {
            "f" => layer(&[("link", Link("f"))]),
            _ => layer(&[("link", Link("d/f"))]),
        };
        let layers: Vec<_> = layers.into_iter().chain([link]).collect();
        let pushed = registry.push_image(name, "1", &layers, true);
        let request =
            || node.request(name, spec(&[registry.reference(name, "1")], PullPolicy::IfNotPresent));
        let error = node.volumes.publish(request()).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{name}: {error}");
        for part in ["\"link\"", &format!("{target:?}"), "rebuild", name] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        // The error is remembered, like every fault of a layer.
        let before = fetches(&registry, &pushed);
        let error = node.volumes.publish(request()).await.unwrap_err();
        assert!(error.to_string().contains("s ago"), "{name}: {error}");
        assert_eq!(fetches(&registry, &pushed), before, "{name}");
    }
}

/// Like `lib -> usr/lib` in the base of most distributions.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_a_hard_link_is_resolved_through_a_lower_symlink() {
    let registry = FakeRegistry::start().await;
    let node = Node::new(&registry);
    let base = layer(&[("usr/lib/x.so", File("x")), ("lib", Symlink("usr/lib"))]);
    let top = layer(&[("own", Symlink("lib")), ("a", Link("lib/x.so")), ("b", Link("own/x.so"))]);
    registry.push_image("linked", "1", &[base, top], true);
    let image = registry.reference("linked", "1");
    let request = node.request("through", spec(&[image], PullPolicy::IfNotPresent));
    node.volumes.publish(request).await.unwrap();
    for name in ["a", "b"] {
        let file = node.target("through").join(name);
        assert_eq!(read(file.clone()), "x", "{name}");
        assert_eq!(fs::metadata(file).unwrap().nlink(), 2);
    }
    node.unpublish("through").await;
}

/// The header of a directory of that mode, which belongs to `owner` and its group.
fn directory(mode: u32, owner: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_234_567_890);
    header.set_size(0);
    header
}

/// The base has entries for /tmp and a home directory, and the layers above only add files to them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_directories_without_an_entry_keep_their_owner_and_mode() {
    let registry = FakeRegistry::start().await;
    let base = {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, mode, owner) in [("tmp", 0o1777, 0), ("home", 0o755, 0), ("home/u", 0o700, 7)] {
            tar.append_data(&mut directory(mode, owner), name, &[][..]).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let seed = layer(&[("tmp/seed", File("s")), ("home/u/f", File("f"))]);
    let more = layer(&[("home/u/.wh.f", File("")), ("new/f", File(""))]);
    let pushed = registry.push_image("seeded", "1", &[base, seed.clone(), more], true);
    // In this image there is no layer below the same layer.
    registry.push_image("alone", "1", &[seed], true);
    let [seeded, alone] = ["seeded", "alone"].map(|name| registry.reference(name, "1"));
    let attributes_of = |id: &str, node: &Node, name: &str| {
        let meta = fs::metadata(node.target(id).join(name)).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime())
    };
    for (n, images) in [[&alone, &seeded], [&seeded, &alone]].into_iter().enumerate() {
        let node = Node::new(&registry);
        for (id, image) in [("parents-a", images[0]), ("parents-b", images[1])] {
            let spec = spec(std::slice::from_ref(image), PullPolicy::Always);
            node.volumes.publish(node.request(id, spec)).await.unwrap();
            let names = ["tmp", "home", "home/u", "new"];
            let names = if image == &seeded { &names[..] } else { &names[..3] };
            for name in names {
                let expected = match (*name, image == &seeded) {
                    ("tmp", true) => (0o1777, 0, 0, 1_234_567_890),
                    ("home/u", true) => (0o700, 7, 7, 1_234_567_890),
                    ("home", true) => (0o755, 0, 0, 1_234_567_890),
                    _ => (0o755, 0, 0, 0),
                };
                assert_eq!(attributes_of(id, &node, name), expected, "{n} {image} {name}");
            }
        }
        assert!(!node.target("parents-b").join("home/u/f").exists() || n == 1);
        let again = spec(std::slice::from_ref(&seeded), PullPolicy::Always);
        let before = fetches(&registry, &pushed);
        node.volumes.publish(node.request("parents-c", again)).await.unwrap();
        assert_eq!(
            fetches(&registry, &pushed),
            before,
            "the store finds it by the layers below it"
        );
        for id in ["a", "b", "c"] {
            node.unpublish(&format!("parents-{id}")).await;
        }
    }
    // Both images in one volume: the store has two forms of the shared layer.
    let node = Node::new(&registry);
    let request = node.request("parents-d", spec(&[alone, seeded], PullPolicy::Always));
    node.volumes.publish(request).await.unwrap();
    assert_eq!(attributes_of("parents-d", &node, "tmp"), (0o1777, 0, 0, 1_234_567_890));
    node.unpublish("parents-d").await;
}

/// docs/volumes.md, "Several images in one volume".
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_directories_and_the_root_have_the_attributes_of_the_last_image() {
    let registry = FakeRegistry::start().await;
    let named = |entries: &[(&str, tar::Header)], file: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, header) in entries {
            tar.append_data(&mut header.clone(), name, &[][..]).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        tar.append_data(&mut header, file, &[][..]).unwrap();
        tar.into_inner().unwrap()
    };
    let base = named(&[("./", directory(0o750, 5)), ("tmp", directory(0o1777, 7))], "tmp/base");
    let names = named(&[("tmp", directory(0o1770, 8))], "tmp/names");
    registry.push_image("base", "1", std::slice::from_ref(&base), true);
    registry.push_image("seed", "1", &[layer(&[("tmp/seed", File("s"))])], true);
    registry.push_image("names", "1", &[names], true);
    // The alternative that docs/volumes.md recommends.
    registry.push_image("from", "1", &[base, layer(&[("tmp/seed", File("s"))])], true);
    let known = 1_234_567_890;
    let node = Node::new(&registry);
    for (id, images, root, tmp) in [
        ("base-seed", vec!["base", "seed"], (0o755, 0, 0), (0o755, 0, 0)),
        ("seed-base", vec!["seed", "base"], (0o750, 5, known), (0o1777, 7, known)),
        ("base-names", vec!["base", "names"], (0o755, 0, 0), (0o1770, 8, known)),
        ("from", vec!["from"], (0o755, 0, 0), (0o1777, 7, known)),
    ] {
        let files = images.clone();
        let images: Vec<_> = images.iter().map(|name| registry.reference(name, "1")).collect();
        node.volumes.publish(node.request(id, spec(&images, PullPolicy::Always))).await.unwrap();
        let attributes_of = |name: &str| {
            let meta = fs::metadata(node.target(id).join(name)).unwrap();
            (meta.mode() & 0o7777, meta.uid(), meta.mtime())
        };
        let (mode, owner, _) = attributes_of(".");
        assert_eq!((mode, owner), (root.0, root.1), "{id}: the root");
        assert_eq!(attributes_of("tmp"), tmp, "{id}");
        for file in files.into_iter().filter(|file| *file != "from") {
            assert!(node.target(id).join("tmp").join(file).exists(), "{id}: {file}");
        }
        node.unpublish(id).await;
    }
}

/// docs/hazards.md, 29: a layer with copies of files of a private layer is as private as that layer.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_copies_of_private_files_stay_private() {
    let registry = FakeRegistry::start().await;
    let secret = layer(&[("secret", File("of ann"))]);
    let pushed = registry.push_image("team/tool", "1", &[secret], true);
    registry.protect("team/tool", Scheme::Basic, "ann", "right");
    let node = Node::new(&registry);
    let as_ann = |id: &str, image: Reference, policy| PublishRequest {
        keyring: registry.keyring("ann", "right"),
        ..node.request(id, spec(&[image], policy))
    };
    let image = registry.reference("team/tool", "1");
    node.volumes.publish(as_ann("private-a", image, PullPolicy::Always)).await.unwrap();

    // Bob's image names ann's layer, and he makes ann run it.
    let links = layer(&[("mine", Link("secret"))]);
    let diff_ids = [pushed.diff_ids[0], DiffId::of(&links)];
    let trap = claim(&registry, "bob/trap", &diff_ids, &[&tar(&[("any", "thing")]), &links]);
    node.volumes.publish(as_ann("private-b", trap.clone(), PullPolicy::Always)).await.unwrap();
    assert_eq!(read(node.target("private-b").join("mine")), "of ann");

    let refused = async |image: &Reference| {
        for policy in [PullPolicy::Never, PullPolicy::IfNotPresent, PullPolicy::Always] {
            let request = node.request("private-bob", spec(std::slice::from_ref(image), policy));
            let error = node.volumes.publish(request).await.unwrap_err();
            assert!(
                matches!(error.class(), Class::Denied | Class::Corrupt | Class::NotFound),
                "{policy:?}: {error}"
            );
        }
    };
    refused(&trap).await;
    // Then he claims the resulting layer, also in the repository that it came from.
    let key =
        keys(&diff_ids).iter().fold(None, |below, top| Some(ChainId::new(below.as_ref(), top)));
    let key = DiffId::new(key.unwrap().to_string().parse().unwrap());
    for repository in ["bob/claimed", "bob/trap"] {
        refused(&claim(&registry, repository, &[key], &[&links])).await;
    }
    node.unpublish("private-a").await;
    node.unpublish("private-b").await;
}
