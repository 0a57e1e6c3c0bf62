//! Images that are written and pushed, on real mounts. What other tools read of them: `tests/privileged_images`.

use std::{fs, path::Path};

use serde_json::Value;

use super::*;
use crate::{
    image::{Keyring, fake::FakeRegistry},
    media_type::Compression,
    reference::Reference,
    sys::mounts::{LinuxMounts, Mounts as _, tmpfs},
    workspaces::{
        CreateOptions, OnLocked, Source, WorkspaceError,
        testing::{Files, Machine, state, workspace},
    },
};

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    crate::changeset::archive_of(&files)
}

/// Pulls an image and makes a tree of it.
async fn tree(machine: &Machine, name: &str, image: &Reference, registry: &FakeRegistry) {
    let (registries, keyring) = (registry.registries(), Keyring::default());
    let sources = [Source::Reference(image.clone())];
    let stacked = machine.all.add_sources(&sources, &registries, &keyring).await.unwrap();
    let (names, options) = (vec![image.to_string()], CreateOptions::default());
    machine.all.create_tree(&workspace(name), names, stacked, &options).unwrap();
}

async fn push(
    machine: &Machine,
    source: &str,
    to: &Reference,
    registry: &FakeRegistry,
) -> Result<Sent, WorkspaceError> {
    let image = machine.all.outgoing_image(source, OnLocked::Fail)?;
    let via = (&registry.registries(), &Keyring::default());
    image.push(to, via, Compression::Zstd, &mut |_| {}).await
}

fn export(machine: &Machine, source: &str, to: &str) -> Result<Sent, WorkspaceError> {
    let image = machine.all.outgoing_image(source, OnLocked::Fail)?;
    image.export(&to.parse().unwrap(), Compression::Zstd, &mut |_| {})
}

fn document(registry: &FakeRegistry, repository: &str, name: &str) -> Value {
    serde_json::from_slice(&registry.manifest(repository, name).unwrap().1).unwrap()
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_a_pushed_state_keeps_the_layers_of_its_image_and_says_what_it_is() {
    let (machine, registry) = (Machine::new(), FakeRegistry::start().await);
    let layers = [archive(&[("etc/one", "1")]), archive(&[("etc/two", "2")])];
    let base = registry.push_image("base", "1", &layers, true);
    tree(&machine, "box", &registry.reference("base", "1"), &registry).await;
    machine.lock("box").write("etc/three", "3");
    machine.lock("box").snapshot(&state("good")).unwrap();
    let to = registry.reference("box", "1");
    let sent = push(&machine, "box@good", &to, &registry).await.unwrap();
    assert_eq!((sent.layers, sent.new_diff_ids), (3, 0));
    let manifest = document(&registry, "box", "1");
    // The registry has mounted the first two from the other repository, as they are.
    for (number, blob) in base.layers.iter().enumerate() {
        assert_eq!(manifest["layers"][number]["digest"], blob.to_string());
        assert_eq!(
            manifest["layers"][number]["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
    }
    let annotations = &manifest["annotations"];
    assert_eq!(annotations["dev.csi.ovl.workspace"], "box@good");
    assert_eq!(annotations["dev.csi.ovl.own-layers"], "1");
    assert_eq!(annotations["org.opencontainers.image.base.digest"], base.manifest.to_string());
    let base_name = registry.reference("base", "1").to_string();
    assert_eq!(annotations["org.opencontainers.image.base.name"], base_name);
    // A repeated push sends the manifest only.
    let again = push(&machine, "box@good", &to, &registry).await.unwrap();
    let manifest_bytes = registry.manifest("box", "1").unwrap().1.len() as u64;
    assert_eq!((again.digest, again.bytes), (sent.digest, manifest_bytes));
    // Another machine gets the same tree.
    let other = Machine::new();
    tree(&other, "copy", &to, &registry).await;
    let expected = [("etc/one", "1"), ("etc/two", "2"), ("etc/three", "3")];
    let expected: Files = expected.map(|(path, text)| (path.into(), text.into())).into();
    assert_eq!(other.lock("copy").files(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_a_layer_that_no_registry_serves_is_packed_under_its_own_digest() {
    let (machine, registry) = (Machine::new(), FakeRegistry::start().await);
    // Made by another tool: the same tree is another tar here.
    let pushed = registry.push_image("base", "1", &[archive(&[("a", "1")])], false);
    tree(&machine, "box", &registry.reference("base", "1"), &registry).await;
    let to = FakeRegistry::start().await;
    drop(registry);
    let sent = push(&machine, "box", &to.reference("box", "1"), &to).await.unwrap();
    assert_eq!((sent.layers, sent.new_diff_ids), (1, 1));
    let manifest = document(&to, "box", "1");
    assert_ne!(manifest["layers"][0]["digest"], pushed.layers[0].to_string());
    let other = Machine::new();
    tree(&other, "copy", &to.reference("box", "1"), &to).await;
    assert_eq!(other.lock("copy").files(), Files::from([("a".to_owned(), "1".to_owned())]));
    // An image has a tag, and a registry that does not respond is an error.
    let digest = to.reference("box", "1").pinned(&sent.digest);
    let refused = push(&machine, "box", &digest, &to).await.unwrap_err().to_string();
    assert!(refused.contains("under a tag"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_a_full_disk_is_said_and_nothing_is_left_there() {
    let (machine, registry) = (Machine::new(), FakeRegistry::start().await);
    let noise: String =
        (0..400_000_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
    registry.push_image("base", "1", &[archive(&[("a", "1")]), archive(&[("big", &noise)])], false);
    tree(&machine, "box", &registry.reference("base", "1"), &registry).await;
    let disk = machine.scratch.dir("small");
    let file_system = LinuxMounts.create(&tmpfs("ovl-small", Some(1 << 20), None)).unwrap();
    LinuxMounts.attach(file_system, &disk).unwrap();
    let at = |name: &str| disk.join(name).display().to_string();
    fs::create_dir(disk.join("empty")).unwrap();
    for to in [
        format!("oci:{}", at("new")),
        format!("oci:{}", at("empty")),
        format!("oci-archive:{}", at("a.tar")),
        format!("docker-archive:{}", at("d.tar")),
    ] {
        let error = export(&machine, "box", &to).unwrap_err().to_string();
        assert!(error.contains("No space left") && error.contains("free space"), "{to}: {error}");
        assert_eq!(names(&disk), ["empty"], "{to}");
        assert_eq!(names(&disk.join("empty")), [""; 0], "{to}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_what_a_killed_export_has_left_is_taken_over() {
    use crate::sys::flock::{self, Kind, Lock};
    let (machine, registry) = (Machine::new(), FakeRegistry::start().await);
    registry.push_image("base", "1", &[archive(&[("a", "1")])], false);
    tree(&machine, "box", &registry.reference("base", "1"), &registry).await;
    let dir = machine.scratch.dir("out");
    let part = dir.join(".a.tar.ovl-part");
    fs::write(&part, vec![7; 1 << 20]).unwrap();
    let to = format!("oci-archive:{}", dir.join("a.tar").display());
    {
        let _other = Lock::try_take(flock::open_file(&part).unwrap(), Kind::Exclusive).unwrap();
        let busy = export(&machine, "box", &to).unwrap_err().to_string();
        assert!(busy.contains("another command writes"), "{busy}");
    }
    export(&machine, "box", &to).unwrap();
    assert_eq!(names(&dir), ["a.tar"]);
    assert!(fs::metadata(dir.join("a.tar")).unwrap().len() < 10_000);
    assert!(export(&machine, "box", &to).unwrap_err().to_string().contains("exists already"));
    // A layout without an index, and a blob that is not whole.
    let layout = machine.scratch.dir("layout");
    fs::write(layout.join("oci-layout"), layout::MARKER_CONTENT).unwrap();
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    fs::write(layout.join("blobs/sha256/.ovl-part"), "half").unwrap();
    export(&machine, "box", &format!("oci:{}:1", layout.display())).unwrap();
    assert_eq!(names(&layout), ["blobs", "index.json", "oci-layout"]);
    assert!(!names(&layout.join("blobs/sha256")).contains(&".ovl-part".to_owned()));
    let other = machine.scratch.dir("other");
    fs::write(other.join("mine"), "text").unwrap();
    let refused = export(&machine, "box", &format!("oci:{}", other.display())).unwrap_err();
    assert!(refused.to_string().contains("not an OCI layout"), "{refused}");
    assert_eq!(names(&other), ["mine"]);
}

#[tokio::test]
#[ignore = "needs root: mounts overlays"]
async fn privileged_a_copy_and_a_state_without_a_layer_are_no_images() {
    let machine = Machine::new();
    machine.copy("copy");
    let error = machine.all.outgoing_image("copy", OnLocked::Fail).unwrap_err().to_string();
    assert!(error.contains("stands on the directory") && error.contains("ovl export"), "{error}");
}
