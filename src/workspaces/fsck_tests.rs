//! Damage in the layers of real workspaces: their marks, and what is in use.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{
    Repaired,
    testing::{Machine, state},
};
use crate::{
    layers::{FsckReport, LayerKey, StoreReader},
    overlay_xattr::{METACOPY, OPAQUE, ORIGIN, REDIRECT},
    sys::tree::Dir,
};

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

impl Machine {
    fn fsck(&self) -> FsckReport {
        let reader = StoreReader::open(self.all.root()).unwrap().unwrap();
        let report = reader.fsck(&|_| {}).unwrap();
        let again = self.all.store.verify().unwrap();
        let of_layers = report.faults.iter().filter(|fault| fault.path.starts_with(self.layers()));
        assert_eq!(of_layers.count(), again.len(), "{:?}", report.faults);
        report
    }

    fn record_contents(&self) {
        let unchecked = self.fsck().unchecked;
        assert_eq!(self.all.record_contents(&unchecked).unwrap(), unchecked.len() as u64);
        assert_eq!(self.fsck().unchecked, []);
    }

    fn layers(&self) -> PathBuf {
        self.all.root().join("layers")
    }

    /// Takes a snapshot `s` of a copy with the file `c` and the directory `sub`. Returns its layer and the layer's tree.
    fn snapshot(&self) -> (LayerKey, PathBuf) {
        let mut one = self.copy("one");
        one.change(|at| {
            fs::write(at.join("c"), "text").unwrap();
            fs::remove_dir_all(at.join("sub")).unwrap();
            fs::create_dir(at.join("sub")).unwrap();
        });
        one.snapshot(&state("s")).unwrap();
        let key = one.record().below[0];
        (key, self.layers().join(key.dir_name()).join("diff"))
    }
}

fn flip(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 0).unwrap();
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_each_altered_mark_of_a_recorded_layer_is_found() {
    type Change = fn(&Path);
    let changes: [Change; 6] = [
        |tree| set_xattr(&tree.join("sub"), OPAQUE, b"x"),
        |tree| set_xattr(&tree.join("sub"), REDIRECT, b"/other"),
        |tree| set_xattr(&tree.join("c"), METACOPY, b""),
        |tree| set_xattr(&tree.join("c"), "trusted.overlay.other", b""),
        |tree| Dir::open(tree).unwrap().whiteout(b"a").unwrap(),
        |tree| std::os::unix::fs::chown(tree.join("c"), Some(7), None).unwrap(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let machine = Machine::new();
        let (_, tree) = machine.snapshot();
        let report = machine.fsck();
        assert_eq!((report.faults.len(), report.unchecked.len()), (0, 1));
        machine.record_contents();
        assert_eq!(machine.fsck().faults, []);
        change(&tree);
        let faults = machine.fsck().faults;
        assert!(!faults.is_empty(), "{number}");
        for fault in &faults {
            assert_eq!(fault.needed_by, ["snapshot one@s", "workspace one"], "{fault:?}");
            assert!(fault.path.starts_with(&tree), "{fault:?}");
        }
    }
}

/// The record says which marks a layer can have, so those are found without a digest.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_mark_that_the_record_does_not_allow_is_found_without_a_digest() {
    let machine = Machine::new();
    let (_, tree) = machine.snapshot();
    set_xattr(&tree.join("c"), ORIGIN, b"x");
    assert_eq!(machine.fsck().faults, []);
    for (path, mark) in [("sub", REDIRECT), ("c", METACOPY), ("c", "trusted.overlay.other")] {
        set_xattr(&tree.join(path), mark, b"/a");
    }
    let faults = machine.fsck().faults;
    let found = |path: &str, mark: &str| {
        faults.iter().any(|it| it.path == tree.join(path) && it.what.contains(mark))
    };
    assert!(found("sub", REDIRECT) && found("c", METACOPY) && found("c", "other"), "{faults:?}");
    assert_eq!(faults.len(), 3, "{faults:?}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_damaged_layer_in_use_stays_and_else_it_is_moved_and_nothing_is_deleted() {
    let machine = Machine::new();
    let (key, tree) = machine.snapshot();
    machine.record_contents();
    flip(&tree.join("c"));
    let faults = machine.fsck().faults;
    let mut one = machine.lock("one");
    let is_in_use = || matches!(&machine.all.repair(&faults).unwrap()[..], [Repaired::InUse(_)]);
    assert!(is_in_use(), "a command has the lock");
    one.mount(None).unwrap();
    drop(one);
    assert!(is_in_use(), "it is mounted");
    assert!(tree.is_dir());
    machine.lock("one").umount().unwrap();
    let [Repaired::Moved(entry)] = &machine.all.repair(&faults).unwrap()[..] else { panic!() };
    assert!(entry.join(key.dir_name()).join("diff/c").is_file());
    assert_eq!(machine.fsck().faults, []);
    let error = machine.lock("one").mount(None).unwrap_err().to_string();
    assert!(error.contains(entry.to_str().unwrap()), "{error}");
    // A collection leaves the quarantine alone.
    machine.all.collect(None, false).unwrap();
    assert!(entry.join(key.dir_name()).join("diff/c").is_file());
    // Moved back, it is what it was: damaged.
    fs::rename(entry.join(key.dir_name()), machine.layers().join(key.dir_name())).unwrap();
    assert_eq!(machine.fsck().faults, faults);
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_workspace_without_a_record_is_moved_with_its_upper_unless_it_is_mounted() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.change(|at| fs::write(at.join("c"), "text").unwrap());
    let record = one.dir().join("workspace.json");
    let mut at = one.mount(None).unwrap();
    fs::write(&record, "{").unwrap();
    drop(one);
    let faults = machine.fsck().faults;
    assert_eq!((faults.len(), &faults[0].path), (1, &record));
    let done = machine.all.repair(&faults).unwrap();
    assert!(matches!(&done[..], [Repaired::InUse(why)] if why.contains("mounted")), "{done:?}");
    machine.all.mounts.unmount(&at).unwrap();
    at.pop();
    let [Repaired::Moved(entry)] = &machine.all.repair(&faults).unwrap()[..] else { panic!() };
    assert!(entry.join("one/upper/c").is_file() && !at.exists());
    assert_eq!(machine.fsck().faults, []);
    let error = machine.all.lock(&"one".parse().unwrap(), super::OnLocked::Fail).unwrap_err();
    assert!(error.to_string().contains(entry.to_str().unwrap()), "{error}");
}
