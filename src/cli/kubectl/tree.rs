//! The directory tree that layers make on top of a base that was not read.
//!
//! For each path that the layers name, it is known whether an entry exists and what it is. For all other paths it is
//! only known whether the base is visible there or hidden: by a whiteout, by an opaque directory, or by a file that
//! replaced a directory.
//!
//! Deliberately absent: times, because they change without a change of content; and hard links: here each name is a
//! file of its own.

use std::collections::BTreeMap;

use crate::{
    changeset::{Listed, ListedKind, Special},
    digest::Digest,
};

/// One side of a comparison.
#[derive(Debug, Clone, Default)]
pub(super) struct Side(pub(super) Node);

/// A name that is in a layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// The entry of the layers. `None`: the layers have only entries below it.
    pub(super) entry: Option<Entry>,
    base: Base,
    pub(super) children: BTreeMap<Vec<u8>, Node>,
}

/// The part of the base that is visible at a name and below it.
#[derive(Debug, Clone, Default)]
enum Base {
    /// The same path of the base.
    #[default]
    Same,
    /// Another path of the base.
    At(Vec<u8>),
    /// The base is hidden.
    Nothing,
}

/// The entry at a path, with its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) owner: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File {
        size: u64,
        content: Content,
    },
    Dir,
    Symlink(Vec<u8>),
    /// A hard link to a file of the base.
    Link(Vec<u8>),
    Special(Special),
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Of(Digest),
    /// The content of the base at this path.
    Base(Vec<u8>),
}

/// The path of the base that is visible. `None`: the base is hidden.
pub(super) type Place = Option<Vec<u8>>;

impl Side {
    /// A tree without a base, instead of one on an unknown base.
    pub(super) fn on_nothing() -> Self {
        Self(Node { base: Base::Nothing, ..Node::default() })
    }

    /// Puts a layer on top, given its entries in the order of its tar.
    pub(super) fn put(&mut self, layer: Vec<Listed>) {
        let uses_lower_layers = |listed: &Listed| {
            matches!(
                listed.what,
                ListedKind::File { content: None, .. } | ListedKind::Dir { from: Some(_), .. }
            )
        };
        // Metacopies and redirects refer to the tree without this layer.
        let before =
            if layer.iter().any(uses_lower_layers) { self.clone() } else { Self::default() };
        // Whiteouts hide entries of the layers below, whatever their position in the tar.
        for Listed { path, what, .. } in &layer {
            if matches!(what, ListedKind::OpaqueDir | ListedKind::Dir { opaque: true, .. })
                && let Some(dir) = self.0.reach(path)
            {
                dir.children.clear();
                dir.base = Base::Nothing;
            }
        }
        for Listed { path, what, .. } in &layer {
            if let ListedKind::Dir { from: Some(from), .. } = what {
                let (known, base) = before.0.find(from);
                let dir = self.0.dir(path);
                dir.entry.get_or_insert_with(Entry::implied);
                dir.base = base.map_or(Base::Nothing, Base::At);
                dir.children = known.map(|known| known.children.clone()).unwrap_or_default();
            }
        }
        for Listed { path, what, .. } in &layer {
            if *what == ListedKind::Whiteout
                && let Some(gone) = self.0.reach(path)
            {
                *gone = Node { base: Base::Nothing, ..Node::default() };
            }
        }
        for listed in layer {
            self.enter(listed, &before);
        }
    }

    fn enter(&mut self, listed: Listed, before: &Self) {
        let Listed { path, what, mode, uid, gid, xattrs } = listed;
        let kind = match what {
            ListedKind::Whiteout | ListedKind::OpaqueDir => return,
            ListedKind::Dir { .. } => {
                let entry = Entry { kind: Kind::Dir, mode, owner: (uid, gid), xattrs };
                self.0.dir(&path).entry = Some(entry);
                return;
            }
            ListedKind::File { size, content, from } => {
                let content = content
                    .map_or_else(|| before.content(from.as_deref().unwrap_or(&path)), Content::Of);
                Kind::File { size, content }
            }
            ListedKind::Symlink(target) => Kind::Symlink(target),
            ListedKind::Special(special) => Kind::Special(special),
            ListedKind::Link(target) => {
                match self.0.find(&target).0.and_then(|n| n.entry.clone()) {
                    Some(linked) => return self.0.place_entry(&path, linked),
                    None => Kind::Link(target),
                }
            }
        };
        self.0.place_entry(&path, Entry { kind, mode, owner: (uid, gid), xattrs });
    }

    /// The content of the file at a path.
    fn content(&self, path: &[u8]) -> Content {
        match self.0.find(path) {
            (Some(Node { entry: Some(entry), .. }), _) => match &entry.kind {
                Kind::File { content, .. } => content.clone(),
                Kind::Link(target) => Content::Base(target.clone()),
                _ => Content::Base(path.to_vec()),
            },
            (_, base) => Content::Base(base.unwrap_or_else(|| path.to_vec())),
        }
    }
}

impl Entry {
    /// A directory without an entry of its own: mode 0755, owned by root.
    fn implied() -> Self {
        Self { kind: Kind::Dir, mode: 0o755, owner: (0, 0), xattrs: Vec::new() }
    }
}

impl Node {
    /// The path of the base that is visible at this name, in a directory at which `above` is visible.
    pub(super) fn place(&self, above: &Place, name: &[u8]) -> Place {
        match &self.base {
            Base::Same => base_below(above, name),
            Base::At(path) => Some(path.clone()),
            Base::Nothing => None,
        }
    }

    /// The node of a path, which is added if it is missing. `None` where a directory above hides the base and lacks the
    /// name: then nothing exists at the path.
    fn reach(&mut self, path: &[u8]) -> Option<&mut Self> {
        let mut node = self;
        for name in parts(path) {
            if matches!(node.base, Base::Nothing) && !node.children.contains_key(name) {
                return None;
            }
            node = node.children.entry(name.to_vec()).or_default();
        }
        Some(node)
    }

    /// The directory at a path. Entries of another type there and above it are replaced by directories.
    fn dir(&mut self, path: &[u8]) -> &mut Self {
        let mut node = self;
        for name in parts(path) {
            node = node.children.entry(name.to_vec()).or_default();
            let hides = matches!(node.base, Base::Nothing);
            let is_dir = node.entry.as_ref().map_or(!hides, |entry| entry.kind == Kind::Dir);
            if !is_dir {
                // The replaced entry was no directory, so it hid everything of the base below it.
                *node =
                    Self { entry: Some(Entry::implied()), base: Base::Nothing, ..Self::default() };
            }
        }
        node
    }

    /// Puts an entry that is no directory at a path.
    fn place_entry(&mut self, path: &[u8], entry: Entry) {
        let slash = path.iter().rposition(|b| *b == b'/');
        let (above, name) = (&path[..slash.unwrap_or(0)], &path[slash.map_or(0, |at| at + 1)..]);
        let node = Self { entry: Some(entry), base: Base::Nothing, ..Self::default() };
        self.dir(above).children.insert(name.to_vec(), node);
    }

    /// The node of a path, if there is one, and the path of the base that is visible there.
    fn find(&self, path: &[u8]) -> (Option<&Self>, Place) {
        let (mut node, mut place) = (Some(self), self.place(&Some(Vec::new()), b""));
        for name in parts(path) {
            node = node.and_then(|node| node.children.get(name));
            place = match node {
                Some(node) => node.place(&place, name),
                None => base_below(&place, name),
            };
        }
        (node, place)
    }
}

/// The path of the base that is visible at a name, in a directory at which `above` is visible.
pub(super) fn base_below(above: &Place, name: &[u8]) -> Place {
    let above = above.as_ref()?;
    Some(match above.is_empty() {
        true => name.to_vec(),
        false => [above, name].join(&b'/'),
    })
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty())
}
