//! Volumes on real overlays, and their trees as comparable values.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::*;
use crate::{
    changeset::{Limits, Unpacked, layer_to_erofs, native_to_erofs},
    digest::Digest,
    sys::{
        mounts::{Attrs, Param, Request, mount_image},
        test_dir::TestDir,
        tree_reader::Entry,
    },
};

pub(super) type Layer = Arc<Detached>;
/// Every path with its metadata and content, except its other names.
pub(super) type Tree = BTreeMap<String, String>;

pub(super) struct Volumes {
    pub(super) scratch: TestDir,
    made: Cell<u32>,
}

impl Volumes {
    pub(super) fn new() -> Self {
        Self { scratch: TestDir::new(), made: Cell::new(0) }
    }

    pub(super) fn dir(&self, what: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.scratch.dir(&format!("{what}-{}", self.made.get()))
    }

    /// A layer that is a directory, filled by `fill`.
    pub(super) fn base(&self, fill: impl FnOnce(&Path)) -> Layer {
        let dir = self.dir("base");
        fill(&dir);
        Arc::new(LinuxMounts.open_dir(&dir).unwrap())
    }

    fn overlay(&self, below: &[Layer], writable: Option<(&Path, &Path)>) -> Detached {
        let mut params: Vec<_> =
            below.iter().rev().map(|layer| Param::Tree("lowerdir+", layer.clone())).collect();
        if below.len() < 2 {
            params.push(Param::Tree("lowerdir+", self.base(|_| {})));
        }
        let open = |path| Arc::new(LinuxMounts.open_dir(path).unwrap());
        if let Some((upper, work)) = writable {
            params.push(Param::Tree("upperdir", open(upper)));
            params.push(Param::Tree("workdir", open(work)));
        }
        for (key, value) in
            [("redirect_dir", "on"), ("metacopy", "on"), ("index", "off"), ("xino", "off")]
        {
            params.push(Param::Text(key, value.to_owned()));
        }
        let attrs = Attrs { read_only: writable.is_none(), ..Attrs::default() };
        let request = Request { fs_type: "overlay", source: "test".to_owned(), params, attrs };
        LinuxMounts.create(&request).unwrap()
    }

    /// Runs `work` in a volume on these layers, bottom first, and returns its upper.
    pub(super) fn write(&self, below: &[Layer], work: impl FnOnce(&Path)) -> Layer {
        let (upper, target) = (self.dir("upper"), self.dir("target"));
        let overlay = self.overlay(below, Some((&upper, &self.dir("work"))));
        LinuxMounts.attach(overlay, &target).unwrap();
        work(&target);
        LinuxMounts.unmount(&target).unwrap();
        Arc::new(LinuxMounts.open_dir(&upper).unwrap())
    }

    /// The view of a volume on these layers.
    pub(super) fn view(&self, stack: &[Layer]) -> Detached {
        self.overlay(stack, None)
    }

    pub(super) fn tree(&self, stack: &[Layer]) -> Tree {
        tree(&self.view(stack)).0
    }

    /// Packs the topmost `own` layers of a stack.
    pub(super) fn pack(
        &self,
        stack: &[Layer],
        own: usize,
        packing: &PackOptions,
    ) -> (Packed, Vec<u8>) {
        let mut out = Vec::new();
        let own: Vec<&Detached> = stack[stack.len() - own..].iter().map(|layer| &**layer).collect();
        let packed = pack(&own, &self.view(stack), packing, &Limits::default(), &mut out).unwrap();
        (packed, out)
    }

    /// The layer that another node gets from the blob.
    pub(super) fn unpack(&self, blob: &[u8], packing: &PackOptions) -> (Unpacked, Layer) {
        let path = self.dir("image").join("layer.erofs");
        let image = fs::File::create_new(&path).unwrap();
        let limits = Limits::default();
        let unpack = match packing.format {
            Format::Portable => layer_to_erofs,
            Format::Native => native_to_erofs,
        };
        let uuid = [self.made.get() as u8; 16];
        let unpacked = unpack(blob, uuid, &image, &limits).unwrap();
        (unpacked, Arc::new(mount_image(&LinuxMounts, &path).unwrap()))
    }

    /// Packs the topmost layers of a stack as one, unpacks that, and puts the result on the other layers.
    pub(super) fn round_trip(
        &self,
        stack: &[Layer],
        own: usize,
        packing: &PackOptions,
    ) -> Vec<Layer> {
        let (packed, blob) = self.pack(stack, own, packing);
        let (unpacked, layer) = self.unpack(&blob, packing);
        assert_eq!(unpacked.diff_id, packed.diff_id);
        [&stack[..stack.len() - own], &[layer]].concat()
    }
}

/// All that a tree shows, and which names are one file.
pub(super) fn tree(view: &Detached) -> (Tree, Vec<Vec<String>>) {
    let (mut tree, mut files) = (Tree::new(), BTreeMap::<(u64, u64), Vec<String>>::new());
    walk(&view.path().join("."), &Entry::root(view).unwrap(), "", &mut tree, &mut files);
    let mut groups: Vec<_> = files.into_values().filter(|names| names.len() > 1).collect();
    groups.iter_mut().for_each(|names| names.sort_unstable());
    groups.sort_unstable();
    (tree, groups)
}

fn walk(
    path: &Path,
    entry: &Entry,
    name: &str,
    tree: &mut Tree,
    files: &mut BTreeMap<(u64, u64), Vec<String>>,
) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let content = if kind.is_symlink() {
        format!("{:?}", fs::read_link(path).unwrap())
    } else if kind.is_file() {
        format!("{} {}", metadata.len(), Digest::of(&fs::read(path).unwrap()))
    } else {
        format!("{kind:?} {}", if kind.is_dir() { 0 } else { metadata.rdev() })
    };
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
    let mut xattrs = entry.xattrs().unwrap();
    xattrs.sort_unstable();
    tree.insert(name.to_owned(), format!("{mode:o} {uid}:{gid} {time} {xattrs:?} {content}"));
    if kind.is_dir() {
        for child in fs::read_dir(path).unwrap() {
            let child = child.unwrap().file_name();
            let bytes = child.as_bytes();
            let inside = entry.entry(bytes).unwrap().unwrap();
            let name = format!("{name}/{}", bytes.escape_ascii());
            walk(&path.join(&child), &inside, &name, tree, files);
        }
    } else {
        files.entry((metadata.dev(), metadata.ino())).or_default().push(name.to_owned());
    }
}

/// Runs lines of shell in a directory.
pub(super) fn shell(dir: &Path, lines: &str) {
    let done = Command::new("sh").args(["-euc", lines]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Fails with the paths that differ.
pub(super) fn assert_same(found: &Tree, expected: &Tree, why: &str) {
    let paths: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differing: Vec<_> = paths
        .into_iter()
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            format!("{path}\n  found    {:?}\n  expected {:?}", found.get(path), expected.get(path))
        })
        .collect();
    assert!(differing.is_empty(), "{why}\n{}", differing.join("\n"));
}
