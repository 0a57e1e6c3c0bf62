//! Trees of images from a registry and from files, on real mounts.

use std::fs;

use super::*;
use crate::{
    image::fake::FakeRegistry,
    workspaces::{
        CreateOptions, OnLocked,
        testing::{Files, Machine, workspace},
    },
};

/// A tar with these files, and hard links to earlier names.
fn archive(files: &[(&str, &str)], links: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    for (path, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_link(&mut header, path, target).unwrap();
    }
    tar.into_inner().unwrap()
}

fn files(machine: &Machine, name: &str) -> Files {
    machine.all.lock(&workspace(name), OnLocked::Fail).unwrap().files()
}

async fn create(
    machine: &Machine,
    name: &str,
    source: &str,
    registries: &Registries,
    keyring: &Keyring,
) -> Result<(), WorkspaceError> {
    let sources = [source.parse().unwrap()];
    let stacked = machine.all.add_sources(&sources, registries, keyring).await?;
    let options = CreateOptions::default();
    machine.all.create_tree(&workspace(name), vec![source.to_owned()], stacked, &options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_an_image_with_links_between_layers_is_pulled_once() {
    let (machine, registry) = (Machine::new(), FakeRegistry::start().await);
    let layers =
        [archive(&[("etc/one", "1")], &[]), archive(&[("etc/two", "2")], &[("same", "etc/one")])];
    registry.push_image("base", "1", &layers, true);
    let (registries, none) = (registry.registries(), Keyring::default());
    let image = registry.reference("base", "1").to_string();
    create(&machine, "one", &image, &registries, &none).await.unwrap();
    let expected = [("etc/one", "1"), ("etc/two", "2"), ("same", "1")];
    let expected: Files = expected.map(|(path, text)| (path.into(), text.into())).into();
    assert_eq!(files(&machine, "one"), expected);
    let blobs = || {
        registry
            .requests()
            .iter()
            .filter(|(path, _)| path.contains("/blobs/"))
            .map(|(_, count)| count)
            .sum::<usize>()
    };
    let before = blobs();
    create(&machine, "two", &image, &registries, &none).await.unwrap();
    assert_eq!(files(&machine, "two"), expected);
    // The config at most.
    assert!(blobs() <= before + 1, "the layers were fetched again");
    for name in ["one", "two"] {
        machine.lock(name).scrub().unwrap();
    }
    assert_eq!(machine.all.collect(None, false).unwrap().images, 1);
    assert_eq!(fs::read_dir(machine.all.root().join("layers")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_a_private_image_needs_a_credential_and_a_missing_one_is_named() {
    use crate::image::fake::Scheme;
    let (machine, registry) = (Machine::new(), FakeRegistry::start().await);
    registry.push_image("secret", "1", &[archive(&[("a", "1")], &[])], true);
    registry.protect("secret", Scheme::Basic, "me", "word");
    let (registries, none) = (registry.registries(), Keyring::default());
    let image = registry.reference("secret", "1").to_string();
    let refused = create(&machine, "one", &image, &registries, &none).await.unwrap_err();
    assert!(refused.to_string().starts_with(&format!("cannot use {image}: ")), "{refused}");
    let missing = registry.reference("secret", "2").to_string();
    let keyring = registry.keyring("me", "word");
    let missing = create(&machine, "one", &missing, &registries, &keyring).await.unwrap_err();
    assert!(missing.to_string().contains("secret:2"), "{missing}");
    create(&machine, "one", &image, &registries, &keyring).await.unwrap();
    assert_eq!(files(&machine, "one"), Files::from([("a".to_owned(), "1".to_owned())]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_a_tar_and_a_directory_are_layers() {
    let machine = Machine::new();
    let (registries, none) = (FakeRegistry::start().await.registries(), Keyring::default());
    let tar = machine.scratch.file("a.tar", archive(&[("a", "1")], &[]));
    let dir = machine.original();
    let sources = [Source::RootFs(dir), Source::Tar(tar.clone())];
    let stacked = machine.all.add_sources(&sources, &registries, &none).await.unwrap();
    let options = CreateOptions::default();
    machine.all.create_tree(&workspace("one"), Vec::new(), stacked, &options).unwrap();
    let expected = [("a", "1"), ("sub/b", "two")];
    let expected: Files = expected.map(|(path, text)| (path.into(), text.into())).into();
    assert_eq!(files(&machine, "one"), expected);
    // A file that is no tar, and one that is not there.
    fs::write(&tar, "no tar at all").unwrap();
    for path in [tar.as_path(), "/no/such".as_ref()] {
        let sources = [Source::Tar(path.to_owned())];
        let error = machine.all.add_sources(&sources, &registries, &none).await.unwrap_err();
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(machine.all.list(None).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts overlays"]
async fn privileged_a_directory_that_is_named_twice_is_copied_once() {
    let (machine, registry) = (Machine::new(), FakeRegistry::start().await);
    let dir = machine.scratch.dir("base");
    fs::write(dir.join("file"), "text").unwrap();
    let source: Source = format!("rootfs:{}", dir.display()).parse().unwrap();
    let (registries, none) = (registry.registries(), Keyring::default());
    let sources = [source.clone(), source];
    let stacked = machine.all.add_sources(&sources, &registries, &none).await.unwrap();
    assert_eq!(stacked.layers[0], stacked.layers[1]);
    let options = CreateOptions::default();
    machine.all.create_tree(&workspace("one"), Vec::new(), stacked, &options).unwrap();
    let expected: Files = [("file".to_owned(), "text".to_owned())].into_iter().collect();
    assert_eq!(files(&machine, "one"), expected);
}
