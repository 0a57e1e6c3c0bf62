//! Stacks by ChainID, with real layers.

use std::path::Path;

use super::*;
use crate::{
    layers::StoreReader,
    media_type::Format,
    workspaces::{OnLocked, Parent, testing::Machine},
};

/// A tar with one file.
fn tar_of(machine: &Machine, name: &str, text: &str) -> PathBuf {
    let path = machine.scratch.path().join(format!("{name}.tar"));
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    tar.into_inner().unwrap();
    path
}

fn apply(machine: &Machine, parent: Option<&str>, tar: &Path) -> ChainId {
    let parent = parent.map(|parent| machine.all.state(parent, OnLocked::Fail).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(machine.all.apply_layer(parent, tar, Format::Portable)).unwrap()
}

fn chains(machine: &Machine) -> Chains {
    Chains::read(&StoreReader::open(machine.all.root()).unwrap().unwrap()).unwrap()
}

#[test]
#[ignore = "needs root: real mounts"]
fn privileged_layers_are_applied_listed_and_written_again() {
    let machine = Machine::new();
    let (below, above) = (tar_of(&machine, "a", "one"), tar_of(&machine, "b", "two"));
    let bottom = apply(&machine, None, &below);
    let both = apply(&machine, Some(&bottom.to_string()), &above);
    let chains = chains(&machine);
    let sorted: Vec<_> =
        chains.sorted().into_iter().map(|(depth, chain)| (depth, chain.id)).collect();
    assert_eq!(sorted, [(0, bottom), (1, both)]);
    let found = chains.find(&both.digits()[..12]).unwrap();
    assert_eq!(chains.layers(found).len(), 2);

    let state = machine.all.state(&both.to_string(), OnLocked::Fail).unwrap();
    let names = |parent: &Parent<'_, '_>| {
        let mut tar = Vec::new();
        machine.all.pack_state(&state, parent, Format::Portable, &mut tar).unwrap();
        let mut archive = tar::Archive::new(&tar[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            entry.unwrap().path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned()
        });
        entries.filter(|name| !matches!(&**name, "" | ".")).collect::<Vec<_>>()
    };
    assert_eq!(names(&Parent::Below), ["b"]);
    assert_eq!(names(&Parent::Nothing), ["a", "b"]);
    let lower = machine.all.state(&bottom.to_string(), OnLocked::Fail).unwrap();
    let trees = machine.all.state_trees(&lower, &Parent::State(&state)).unwrap();
    let changes = machine.all.changes(&trees, super::super::ChangesOptions::default()).unwrap();
    assert_eq!((changes.stat.added, changes.stat.removed), (0, 1));
    assert_eq!(machine.all.layer_size(&state).unwrap().apparent, 3);
}

#[test]
#[ignore = "needs root: real mounts"]
fn privileged_a_workspace_names_its_present_state_and_its_snapshots() {
    let machine = Machine::new();
    let mut copy = machine.copy("box");
    copy.write("new", "text");
    copy.snapshot(&"one".parse().unwrap()).unwrap();
    copy.write("later", "more");
    drop(copy);
    let added = |text: &str| {
        let state = machine.all.state(text, OnLocked::Fail).unwrap();
        let trees = machine.all.state_trees(&state, &Parent::Below).unwrap();
        let changes = machine.all.changes(&trees, super::super::ChangesOptions::default()).unwrap();
        changes.list.into_iter().map(|one| String::from_utf8(one.path).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(added("box@one"), ["new"]);
    assert_eq!(added("box"), ["later"]);
    let chains = chains(&machine);
    let [(0, chain)] = &chains.sorted()[..] else { panic!("{chains:?}") };
    assert_eq!(chain.names, ["box@one"]);
    assert_eq!(chain.directory, Some(machine.scratch.path().join("original")));
    let error = machine.all.state("nothing", OnLocked::Fail).unwrap_err().to_string();
    assert!(error.contains("no workspace, no image and no ChainID"), "{error}");
}

#[test]
#[ignore = "needs root: real mounts"]
fn privileged_an_image_that_a_workspace_needs_is_not_removed() {
    let machine = Machine::new();
    let chain = apply(&machine, None, &tar_of(&machine, "a", "one")).to_string();
    let removed = machine.all.remove_image(&chain, false).unwrap();
    assert_eq!((removed.images, removed.layers, removed.kept_layers), (1, 1, 0));
    let error = machine.all.remove_image(&chain, false).unwrap_err().to_string();
    assert!(error.contains("no such image"), "{error}");
    let chain = apply(&machine, None, &tar_of(&machine, "b", "two")).to_string();
    machine.all.untag_image(&chain).unwrap();
    assert!(machine.all.untag_image(&chain).is_err());
    // The image has no name, and its layer still has a ChainID.
    machine.all.state(&chain, OnLocked::Fail).unwrap();
}
