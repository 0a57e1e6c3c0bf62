//! Random layers are compared with a simple model: every path in one sorted map, without directories, inodes or blocks.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::testing::unpack;
use crate::erofs::test_reader::{Content, Read};

pub(super) type Path = Vec<&'static str>;

/// An entry of a random layer.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub path: Path,
    pub mode: u32,
    pub what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    File(usize),
    Dir,
    Symlink,
    Fifo,
    Link(Path),
    Whiteout,
    Opaque,
}

fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        4 => (0..9000_usize).prop_map(What::File),
        4 => Just(What::Dir),
        1 => Just(What::Symlink),
        1 => Just(What::Fifo),
        2 => path().prop_map(What::Link),
        3 => Just(What::Whiteout),
        1 => Just(What::Opaque),
    ];
    (path(), 0..0o10000_u32, what).prop_map(|(path, mode, what)| Step { path, mode, what })
}

pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 253) as u8).collect()
}

/// What the model has at a path.
#[derive(Debug, Clone)]
struct Item {
    mode: u16,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// Whether it is opaque, and whether only whiteouts made it.
    Dir {
        opaque: bool,
        hollow: bool,
    },
    /// Content, and the file's number.
    Leaf(Content, usize),
    Whiteout,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    items: BTreeMap<Path, Item>,
    files: usize,
}

impl Model {
    /// The step as the layer interprets it: with the links of this layer in its paths resolved. `None` if it is
    /// skipped.
    pub(super) fn resolved(&self, step: &Step) -> Option<Step> {
        let is_leaf = |path: &[&'static str]| {
            self.items.get(path).is_some_and(|item| matches!(item.kind, Kind::Leaf(..)))
        };
        let mut step = step.clone();
        match &mut step.what {
            What::Whiteout | What::Opaque => {
                let above = step.path.len() - usize::from(matches!(step.what, What::Whiteout));
                return (1..=above).all(|len| !is_leaf(&step.path[..len])).then_some(step);
            }
            What::Link(target) => *target = self.through(target),
            _ => {}
        }
        step.path = self.through(&step.path);
        Some(step)
    }

    /// A path with the links on its way resolved.
    fn through(&self, path: &[&'static str]) -> Path {
        let mut path = path.to_vec();
        let is_link = |path: &[&'static str]| {
            let item = self.items.get(path);
            item.is_some_and(|i| matches!(i.kind, Kind::Leaf(Content::Symlink(_), _)))
        };
        while let Some(len) = (1..path.len()).find(|len| is_link(&path[..*len])) {
            path = [&path[..len - 1], &["target"], &path[len..]].concat();
        }
        path
    }

    /// Applies a step. If the step must be refused, changes nothing and returns an error.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), ()> {
        let before = self.clone();
        let done = self.resolved(step).map_or(Ok(()), |step| self.try_step(&step));
        if done.is_err() {
            *self = before;
        }
        done
    }

    fn try_step(&mut self, step: &Step) -> Result<(), ()> {
        let mark = matches!(step.what, What::Whiteout | What::Opaque);
        let above = match step.what {
            What::Opaque => step.path.len(),
            _ => step.path.len() - 1,
        };
        for len in 1..=above {
            let part = step.path[..len].to_vec();
            let dir = |opaque| Item { mode: 0o755, kind: Kind::Dir { opaque, hollow: mark } };
            match self.items.get_mut(&part) {
                None => drop(self.items.insert(part, dir(false))),
                Some(Item { kind: Kind::Leaf(..), .. }) => return Err(()),
                Some(Item { kind: Kind::Whiteout, .. }) if mark => return Ok(()),
                Some(item @ Item { kind: Kind::Whiteout, .. }) => *item = dir(true),
                Some(Item { kind: Kind::Dir { hollow, .. }, .. }) => *hollow &= mark,
            }
        }
        let there = self.items.get(&step.path).cloned();
        let mode = step.mode as u16;
        let kind = match (&step.what, there.map(|item| item.kind)) {
            (What::Opaque, Some(Kind::Dir { hollow, .. })) => {
                let mode = self.items[&step.path].mode;
                let kind = Kind::Dir { opaque: true, hollow };
                self.items.insert(step.path.clone(), Item { mode, kind });
                return Ok(());
            }
            (What::Opaque, _) => return Err(()),
            (What::Whiteout, Some(Kind::Dir { hollow: false, .. })) => {
                let mode = self.items[&step.path].mode;
                let kind = Kind::Dir { opaque: true, hollow: false };
                self.items.insert(step.path.clone(), Item { mode, kind });
                return Ok(());
            }
            (What::Whiteout, Some(Kind::Leaf(..) | Kind::Whiteout)) => return Ok(()),
            (What::Whiteout, _) => Kind::Whiteout,
            (What::Dir, Some(Kind::Dir { opaque, .. })) => {
                let kind = Kind::Dir { opaque, hollow: false };
                self.items.insert(step.path.clone(), Item { mode, kind });
                return Ok(());
            }
            (What::Dir, there) => Kind::Dir { opaque: there.is_some(), hollow: false },
            (What::Link(target), _) => {
                let item = self.items.get(target).ok_or(())?.clone();
                if !matches!(item.kind, Kind::Leaf(..)) {
                    return Err(());
                }
                self.put(&step.path, item);
                return Ok(());
            }
            (What::File(len), _) => self.leaf(Content::File(content(*len))),
            (What::Symlink, _) => self.leaf(Content::Symlink(b"target".to_vec())),
            (What::Fifo, _) => self.leaf(Content::None),
        };
        let mode = match kind {
            Kind::Whiteout => 0,
            Kind::Leaf(Content::Symlink(_), _) => 0o777,
            _ => mode,
        };
        self.put(&step.path, Item { mode, kind });
        Ok(())
    }

    fn leaf(&mut self, content: Content) -> Kind {
        self.files += 1;
        Kind::Leaf(content, self.files)
    }

    /// Puts an item at a path. Removes what was there and below.
    fn put(&mut self, path: &Path, item: Item) {
        self.items.retain(|other, _| !other.starts_with(path));
        self.items.insert(path.clone(), item);
    }

    /// What an image shows: without whiteouts in opaque directories.
    fn shown(&self) -> BTreeMap<Path, &Item> {
        let opaque = |path: &[&'static str]| {
            let parent = self.items.get(&path[..path.len() - 1]);
            parent.is_some_and(|item| matches!(item.kind, Kind::Dir { opaque: true, .. }))
        };
        let items = self.items.iter();
        let items = items.filter(|(path, item)| item.kind != Kind::Whiteout || !opaque(path));
        items.map(|(path, item)| (path.clone(), item)).collect()
    }

    fn compare(&self, image: &Read) {
        let shown = self.shown();
        let names: Vec<_> = shown.keys().map(|path| path.join("/").into_bytes()).collect();
        let mut found: Vec<_> =
            image.names.keys().filter(|path| !path.is_empty()).cloned().collect();
        found
            .sort_by_key(|path| path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(found, names);
        for (path, item) in &shown {
            let name = path.join("/").into_bytes();
            let found = &image.names[&name];
            assert_eq!(found.mode & 0o7777, item.mode, "{path:?}");
            let marked = found.xattrs.contains_key(b"trusted.overlay.opaque".as_slice());
            if item.kind == Kind::Whiteout && path.len() > 1 {
                let above = &image.names[&path[..path.len() - 1].join("/").into_bytes()];
                let origin = above.xattrs.get(b"trusted.overlay.origin".as_slice());
                assert_eq!(origin.map(Vec::as_slice), Some(&b""[..]), "{path:?}");
            }
            match &item.kind {
                Kind::Dir { opaque, .. } => {
                    assert_eq!((&found.content, marked), (&Content::Dir, *opaque), "{path:?}");
                }
                Kind::Whiteout => assert_eq!(found.content, Content::Device(0), "{path:?}"),
                Kind::Leaf(content, number) => {
                    assert_eq!(found.content, *content, "{path:?}");
                    let same =
                        |item: &&&Item| matches!(item.kind, Kind::Leaf(_, n) if n == *number);
                    assert_eq!(
                        found.nlink as usize,
                        shown.values().filter(same).count(),
                        "{path:?}"
                    );
                }
            }
        }
    }
}

fn append(builder: &mut Builder<Vec<u8>>, step: &Step) {
    let mut header = Header::new_gnu();
    header.set_mode(step.mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let mut name = step.path.join("/");
    let mut data = Vec::new();
    match &step.what {
        What::File(len) => data = content(*len),
        What::Dir => header.set_entry_type(EntryType::Directory),
        What::Fifo => header.set_entry_type(EntryType::Fifo),
        What::Symlink => {
            header.set_entry_type(EntryType::Symlink);
            return builder.append_link(&mut header, name, "target").unwrap();
        }
        What::Link(target) => {
            header.set_entry_type(EntryType::Link);
            return builder.append_link(&mut header, name, target.join("/")).unwrap();
        }
        What::Whiteout => {
            let last = step.path.len() - 1;
            name = [&step.path[..last], &[&*format!(".wh.{}", step.path[last])]].concat().join("/");
        }
        What::Opaque => name += "/.wh..wh..opq",
    }
    header.set_size(data.len() as u64);
    builder.append_data(&mut header, name, data.as_slice()).unwrap();
}

pub(super) fn tar<'s>(steps: impl IntoIterator<Item = &'s Step>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    steps.into_iter().for_each(|step| append(&mut builder, step));
    builder.into_inner().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_match_the_model(steps in prop::collection::vec(step(), 0..25)) {
        let mut model = Model::default();
        let mut taken = Vec::new();
        let mut refused = None;
        for step in &steps {
            match model.step(step) {
                Ok(()) => taken.push(step),
                Err(()) if refused.is_none() => {
                    refused = Some(tar(taken.iter().copied().chain([step])));
                }
                Err(()) => {}
            }
        }
        let (unpacked, image) = unpack(&tar(taken.iter().copied())).unwrap();
        prop_assert_eq!(unpacked.entries, taken.len() as u64);
        model.compare(&image);
        if let Some(tar) = refused {
            prop_assert!(unpack(&tar).is_err());
        }
    }
}
