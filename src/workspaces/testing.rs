//! A store of workspaces for tests, with real mounts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{ApplyOptions, CreateOptions, OnConflict, OnLocked, Workspace, Workspaces};
use crate::{
    layers::{StateName, WorkspaceName},
    sys::{
        mounts::{LinuxMounts, Mounts as _, tmpfs},
        test_dir::TestDir,
    },
};

/// The options of an apply without any.
pub(super) const PLAIN: ApplyOptions = ApplyOptions {
    dry_run: false,
    on_conflict: OnConflict::Refuse,
    git: false,
    special: false,
    in_place: false,
};

/// The files of a tree, with their contents.
pub(super) type Files = BTreeMap<String, String>;

/// A store on a tmpfs, and a directory beside it.
pub(super) struct Machine {
    pub(super) all: Workspaces,
    pub(super) scratch: TestDir,
}

impl Machine {
    pub(super) fn new() -> Self {
        let scratch = TestDir::new();
        let disk = scratch.dir("disk");
        let file_system = LinuxMounts.create(&tmpfs("ovl-test", None, None)).unwrap();
        LinuxMounts.attach(file_system, &disk).unwrap();
        let all = Workspaces::open(&disk.join("store"), &[]).unwrap();
        Self { all, scratch }
    }

    /// A directory with two files.
    pub(super) fn original(&self) -> PathBuf {
        let dir = self.scratch.dir("original");
        self.scratch.dir("original/sub");
        self.scratch.file("original/a", "one");
        self.scratch.file("original/sub/b", "two");
        dir
    }

    /// A workspace over [`Self::original`].
    pub(super) fn copy(&self, name: &str) -> Workspace<'_> {
        let dir = self.original();
        self.all.create_copy(&workspace(name), &dir, &CreateOptions::default()).unwrap();
        self.lock(name)
    }

    pub(super) fn lock(&self, name: &str) -> Workspace<'_> {
        self.all.lock(&workspace(name), OnLocked::Fail).unwrap()
    }
}

impl Workspace<'_> {
    /// Mounts the workspace, changes its tree, and unmounts it.
    pub(super) fn change(&mut self, change: impl FnOnce(&Path)) {
        let at = self.mount(None).unwrap();
        change(&at);
        self.umount().unwrap();
    }

    /// Writes one file.
    pub(super) fn write(&mut self, path: &str, text: &str) {
        self.change(|at| fs::write(at.join(path), text).unwrap());
    }

    /// The files of the present state.
    pub(super) fn files(&self) -> Files {
        let (tree, _lease) = self.present_view().unwrap();
        files(&tree.path())
    }

    /// The names that are current.
    pub(super) fn current(&self) -> Vec<String> {
        let listed = self.all.list(Some(self.name())).unwrap().remove(0);
        let current = listed.states.into_iter().filter(|state| state.is_current);
        current.filter_map(|state| state.name.map(|name| name.to_string())).collect()
    }
}

pub(super) fn workspace(name: &str) -> WorkspaceName {
    name.parse().unwrap()
}

pub(super) fn state(name: &str) -> StateName {
    name.parse().unwrap()
}

/// The regular files below a directory.
pub(super) fn files(root: &Path) -> Files {
    let (mut found, mut dirs) = (Files::new(), vec![PathBuf::new()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else {
                let text = fs::read_to_string(entry.path()).unwrap();
                found.insert(path.to_str().unwrap().to_owned(), text);
            }
        }
    }
    found
}
