//! Random stacks: layers are unpacked each alone and merged as by overlayfs. The result is compared with the same tars
//! applied one after another to a map of paths.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::model_tests::{Model, Path, Step, What, content, step, tar};
use super::testing::unpack;
use crate::erofs::test_reader::{Content, Found, Read};

/// What is at a path, in either of the two results.
#[derive(Debug, Clone, PartialEq)]
struct Item {
    mode: u16,
    content: Content,
    /// The number of the file, for everything but directories.
    file: Option<usize>,
}

/// The tree after the tars were applied one after another.
#[derive(Debug, Default)]
struct Plain {
    /// Each item with the layer that changed it last.
    items: BTreeMap<Path, (Item, usize)>,
    files: usize,
}

impl Plain {
    fn is_dir(&self, path: &[&'static str]) -> bool {
        path.is_empty()
            || self.items.get(path).is_some_and(|(item, _)| item.content == Content::Dir)
    }

    /// Applies a layer: first its whiteouts, then its entries.
    fn apply(&mut self, layer: usize, steps: &[Step]) {
        for Step { path, what, .. } in steps {
            let depth = path.len();
            match what {
                What::Whiteout => self.items.retain(|other, _| !other.starts_with(path)),
                What::Opaque => {
                    self.items.retain(|other, _| other.len() == depth || !other.starts_with(path))
                }
                _ => {}
            }
        }
        for step in steps {
            let path = &step.path;
            let last = path.len() - 1;
            match &step.what {
                What::Whiteout => self.touch(layer, &path[..last], true),
                What::Opaque => self.touch(layer, path, true),
                What::Dir => {
                    self.touch(layer, path, false);
                    self.items.entry(path.clone()).and_modify(|(item, _)| {
                        item.mode = step.mode as u16;
                    });
                }
                What::Link(target) => {
                    self.touch(layer, &path[..last], false);
                    let item = self.items[target].clone();
                    self.put(path, item);
                }
                What::File(len) => self.leaf(layer, step, Content::File(content(*len))),
                What::Symlink => self.leaf(layer, step, Content::Symlink(b"target".to_vec())),
                What::Fifo => self.leaf(layer, step, Content::None),
            }
        }
    }

    /// Makes every part of a path a directory, with implied metadata where this layer does not name it.
    /// A whiteout does not make its directory.
    fn touch(&mut self, layer: usize, path: &[&'static str], mark: bool) {
        for len in 1..=path.len() {
            let part = path[..len].to_vec();
            if !self.is_dir(&part) {
                if mark {
                    return;
                }
                self.put(&part, (implied(), layer));
            }
            let item = self.items.get_mut(&part).unwrap();
            if item.1 != layer {
                *item = (implied(), layer);
            }
        }
    }

    fn leaf(&mut self, layer: usize, step: &Step, content: Content) {
        self.touch(layer, &step.path[..step.path.len() - 1], false);
        self.files += 1;
        let mode = if matches!(step.what, What::Symlink) { 0o777 } else { step.mode as u16 };
        let item = Item { mode, content, file: Some(self.files) };
        self.put(&step.path, (item, layer));
    }

    fn put(&mut self, path: &Path, item: (Item, usize)) {
        self.items.retain(|other, _| !other.starts_with(path));
        self.items.insert(path.clone(), item);
    }
}

fn implied() -> Item {
    Item { mode: 0o755, content: Content::Dir, file: None }
}

/// What overlayfs shows at a path and, except for directories, which image's inode it is.
type Shown<'i> = (&'i Found, Option<(usize, u64)>);

/// What overlayfs shows of images, the bottom one first: every path.
fn merge(images: &[Read]) -> BTreeMap<Vec<u8>, Shown<'_>> {
    let mut merged = BTreeMap::new();
    let mut dirs = vec![(Vec::new(), (0..images.len()).rev().collect::<Vec<_>>())];
    while let Some((dir, layers)) = dirs.pop() {
        let names: BTreeSet<_> = layers.iter().flat_map(|i| below(&images[*i], &dir)).collect();
        for path in names {
            let mut parts = Vec::new();
            for &i in &layers {
                let Some(found) = images[i].names.get(&path) else { continue };
                let is_dir = found.content == Content::Dir;
                if found.content == Content::Device(0) || (!is_dir && !parts.is_empty()) {
                    break;
                }
                if !is_dir {
                    merged.insert(path.clone(), (found, Some((i, images[i].nids[&path]))));
                    break;
                }
                if parts.is_empty() {
                    merged.insert(path.clone(), (found, None));
                }
                parts.push(i);
                if found.xattrs.contains_key(b"trusted.overlay.opaque".as_slice()) {
                    break;
                }
            }
            if !parts.is_empty() {
                dirs.push((path, parts));
            }
        }
    }
    merged
}

/// The paths directly in a directory of an image.
fn below(image: &Read, dir: &[u8]) -> Vec<Vec<u8>> {
    let depth = |path: &[u8]| path.split(|b| *b == b'/').filter(|part| !part.is_empty()).count();
    let inside = |path: &[u8]| {
        dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    let paths = image.names.keys();
    let paths = paths.filter(|path| inside(path) && depth(path) == depth(dir) + 1);
    paths.cloned().collect()
}

/// Compares both. A directory that only the images have must contain only a layer's whiteouts.
fn compare(plain: &Plain, images: &[Read], layers: &[Vec<Step>]) {
    let merged = merge(images);
    let mut files = BTreeMap::new();
    for (path, (item, _)) in &plain.items {
        let name = path.join("/").into_bytes();
        let (found, inode) = merged.get(&name).unwrap_or_else(|| panic!("{path:?} is missing"));
        assert_eq!(found.content, item.content, "{path:?}");
        assert_eq!(found.mode & 0o7777, item.mode, "{path:?}");
        if let (Some(file), Some(inode)) = (item.file, inode) {
            assert_eq!(files.entry(file).or_insert(inode), &inode, "{path:?} is another file");
        }
    }
    let distinct: BTreeSet<_> = files.values().collect();
    assert_eq!(distinct.len(), files.len(), "two files are one");
    let marks: BTreeSet<Path> = layers
        .iter()
        .flatten()
        .filter(|step| matches!(step.what, What::Whiteout | What::Opaque))
        .flat_map(|step| (1..=step.path.len()).map(|len| step.path[..len].to_vec()))
        .collect();
    for (name, (found, _)) in &merged {
        let text = String::from_utf8(name.clone()).unwrap();
        let known = plain.items.keys().any(|path| path.join("/") == text);
        let hollow = found.content == Content::Dir && found.mode & 0o7777 == 0o755;
        let marked = marks.iter().any(|path| path.join("/") == text);
        assert!(known || (hollow && marked), "{text} came back, or was never there");
    }
}

/// Whether a whiteout is in a directory of a lower layer or of its own layer, as in the tars of real tools.
fn makes_sense(plain: &Plain, own: &[Step], step: &Step) -> bool {
    let dir = match step.what {
        What::Whiteout => &step.path[..step.path.len() - 1],
        What::Opaque => &step.path[..],
        _ => return true,
    };
    plain.is_dir(dir) || own.iter().any(|step| matches!(step.what, What::Dir) && step.path == dir)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_unpacked_alone_merge_to_the_tree_of_the_tars_in_turn(
        stack in prop::collection::vec(prop::collection::vec(step(), 0..14), 2..5),
    ) {
        let (mut plain, mut images, mut layers) = (Plain::default(), Vec::new(), Vec::new());
        for (i, steps) in stack.into_iter().enumerate() {
            let (mut model, mut written, mut taken) = (Model::default(), Vec::new(), Vec::new());
            for step in steps {
                let meant = model.resolved(&step);
                let makes_sense = meant.as_ref().is_none_or(|s| makes_sense(&plain, &taken, s));
                if makes_sense && model.step(&step).is_ok() {
                    written.push(step);
                    taken.extend(meant);
                }
            }
            images.push(unpack(&tar(&written)).unwrap().1);
            plain.apply(i, &taken);
            layers.push(taken);
        }
        compare(&plain, &images, &layers);
    }
}
