//! The store on real file systems: a disk that becomes full, and mounts in the staging directory.

use std::{fs, path::Path, sync::Arc};

use super::{testing::new_layer, *};
use crate::{
    error::Class,
    media_type::Format,
    sys::{
        mounts::{Attrs, LinuxMounts, Mounts as _, Param, Request},
        test_dir::TestDir,
    },
};

/// docs/hazards.md, 17.
#[test]
#[ignore = "needs root: mounts a tmpfs"]
fn privileged_a_disk_that_fills_while_a_layer_is_added_is_reported_and_left_clean() {
    let scratch = TestDir::new();
    let root = scratch.dir("store");
    let disk = Request {
        fs_type: "tmpfs",
        source: "ovl-test".to_owned(),
        params: vec![Param::Text("size", "256k".to_owned())],
        attrs: Attrs::default(),
    };
    LinuxMounts.attach(LinuxMounts.create(&disk).unwrap(), &root).unwrap();
    let store = Arc::new(Store::open(&root, Arc::new(LinuxMounts)).unwrap());

    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1 << 20);
    tar.append_data(&mut header, "file", &vec![b'x'; 1 << 20][..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let new = new_layer(&tar, Format::Portable);
    let error = store.disk.reserve(tar.len() as u64).unwrap_err();
    assert!(matches!(error, ReserveError::Full { .. }), "{error}");
    // Its image is smaller, so a smaller reservation succeeds. It fails before the disk is full.
    let error = store.layers.add(&new, store.disk.reserve(4_321).unwrap(), &tar[..]).unwrap_err();
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    for part in [&root.display().to_string(), "4.2 KiB are reserved", "more are needed"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    for part in ["layers", "staging"] {
        assert_eq!(fs::read_dir(root.join(part)).unwrap().count(), 0, "{part}");
    }
    store.ready().unwrap();
}

/// Something is mounted in a staging directory, for example by a backup or an administrator.
#[test]
#[ignore = "needs root: mounts a tmpfs"]
fn privileged_an_abandoned_directory_with_a_mount_is_removed_after_the_unmount() {
    let scratch = TestDir::new();
    let root = scratch.dir("store");
    let names = || {
        let entries = fs::read_dir(root.join("staging")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let attach = |at: &Path| {
        fs::create_dir_all(at).unwrap();
        let request = Request {
            fs_type: "tmpfs",
            source: "ovl-test".to_owned(),
            params: Vec::new(),
            attrs: Attrs::default(),
        };
        LinuxMounts.attach(LinuxMounts.create(&request).unwrap(), at).unwrap();
        fs::write(at.join("file"), "kept").unwrap();
    };
    let open = || Arc::new(Store::open(&root, Arc::new(LinuxMounts)).unwrap());

    // An abandoned directory of an earlier process, and a directory that this one cannot remove.
    drop(open());
    let [earlier, later] = ["staging/0", "staging/left-1"].map(|name| root.join(name));
    attach(&earlier.join("mounted"));
    let store = open();
    let staged = store.layers.stage_snapshot(&"snapshot".parse().unwrap()).unwrap();
    assert_eq!(staged.tree().parent(), Some(&*root.join("staging/1")));
    attach(&staged.tree().join("mounted"));
    drop(staged);
    assert_eq!(names(), ["0", "left-1"]);
    assert_eq!(store.staging.remove_abandoned().unwrap(), 2);
    for mount in [&earlier.join("mounted"), &later.join("diff/mounted")] {
        assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "kept");
        LinuxMounts.unmount(mount).unwrap();
    }
    // A process that starts in between does not reuse a name.
    drop(store);
    let store = open();
    let staged = store.layers.stage_snapshot(&"snapshot".parse().unwrap()).unwrap();
    assert_eq!(staged.tree().parent(), Some(&*root.join("staging/2")));
    assert_eq!(store.staging.remove_abandoned().unwrap(), 0);
    assert_eq!(names(), ["2"]);
}
