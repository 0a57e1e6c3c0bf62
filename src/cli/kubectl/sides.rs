//! A tree that layers make on a base which nobody has read.
//!
//! Of each path that the layers name it is known whether something is there, and what; of all others only that they are as in the
//! base, or hidden from it: by a whiteout, an opaque folder, or a file in a folder's place.
//!
//! Deliberately absent: times, which change without anybody's will; and hard links, of which every name is a file of its own here.

use std::collections::BTreeMap;

use crate::{
    changeset::{Listed, Special, What},
    digest::Digest,
};

/// One side of a comparison.
#[derive(Debug, Clone, Default)]
pub(super) struct Side(pub(super) Node);

/// A name that layers speak of.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// What stands there. None: nothing of the layers; they speak of what is in it.
    pub(super) entry: Option<Entry>,
    base: Base,
    pub(super) children: BTreeMap<Vec<u8>, Node>,
}

/// What of the base shows at a name and below.
#[derive(Debug, Clone, Default)]
enum Base {
    /// What is there.
    #[default]
    Same,
    /// What is at another path.
    At(Vec<u8>),
    Nothing,
}

/// What stands at a path.
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
    Folder,
    Symlink(Vec<u8>),
    /// One more name for a file of the base.
    Link(Vec<u8>),
    Special(Special),
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Of(Digest),
    /// What the base has at this path.
    Base(Vec<u8>),
}

/// Where in the base something is looked for; none: it is hidden.
pub(super) type Place = Option<Vec<u8>>;

impl Side {
    /// A tree on nothing, instead of on an unknown base.
    pub(super) fn on_nothing() -> Self {
        Self(Node { base: Base::Nothing, ..Node::default() })
    }

    /// Puts a layer on top, which says this in the order of its tar.
    pub(super) fn put(&mut self, layer: Vec<Listed>) {
        let takes = |listed: &Listed| {
            matches!(
                listed.what,
                What::File { content: None, .. } | What::Folder { from: Some(_), .. }
            )
        };
        // What lies elsewhere in the layers below is taken from there as it was without this one.
        let before = if layer.iter().any(takes) { self.clone() } else { Self::default() };
        // What is hidden is hidden of the layers below, wherever in the tar that is said.
        for Listed { path, what, .. } in &layer {
            if matches!(what, What::Emptied | What::Folder { opaque: true, .. })
                && let Some(folder) = self.0.reach(path)
            {
                folder.children.clear();
                folder.base = Base::Nothing;
            }
        }
        for Listed { path, what, .. } in &layer {
            if let What::Folder { from: Some(from), .. } = what {
                let (known, base) = before.0.find(from);
                let folder = self.0.folder(path);
                folder.entry.get_or_insert_with(Entry::implied);
                folder.base = base.map_or(Base::Nothing, Base::At);
                folder.children = known.map(|known| known.children.clone()).unwrap_or_default();
            }
        }
        for Listed { path, what, .. } in &layer {
            if *what == What::Gone
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
            What::Gone | What::Emptied => return,
            What::Folder { .. } => {
                let entry = Entry { kind: Kind::Folder, mode, owner: (uid, gid), xattrs };
                self.0.folder(&path).entry = Some(entry);
                return;
            }
            What::File { size, content, from } => {
                let content = content
                    .map_or_else(|| before.content(from.as_deref().unwrap_or(&path)), Content::Of);
                Kind::File { size, content }
            }
            What::Symlink(target) => Kind::Symlink(target),
            What::Special(special) => Kind::Special(special),
            What::Link(target) => match self.0.find(&target).0.and_then(|n| n.entry.clone()) {
                Some(linked) => return self.0.stand(&path, linked),
                None => Kind::Link(target),
            },
        };
        self.0.stand(&path, Entry { kind, mode, owner: (uid, gid), xattrs });
    }

    /// What is in the file at a path.
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
    /// A folder that no entry describes: 0755, root's.
    fn implied() -> Self {
        Self { kind: Kind::Folder, mode: 0o755, owner: (0, 0), xattrs: Vec::new() }
    }
}

impl Node {
    /// What shows of the base at this name of a folder that shows `above` of it.
    pub(super) fn place(&self, above: &Place, name: &[u8]) -> Place {
        match &self.base {
            Base::Same => beneath(above, name),
            Base::At(path) => Some(path.clone()),
            Base::Nothing => None,
        }
    }

    /// The node of a path, made where there is none; nothing where the folders above hide the base, and have it not.
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

    /// The folder at a path, made of whatever stands there and above it.
    fn folder(&mut self, path: &[u8]) -> &mut Self {
        let mut node = self;
        for name in parts(path) {
            node = node.children.entry(name.to_vec()).or_default();
            let hides = matches!(node.base, Base::Nothing);
            let is_folder = node.entry.as_ref().map_or(!hides, |entry| entry.kind == Kind::Folder);
            if !is_folder {
                // What it takes the place of hid all that lies below.
                *node =
                    Self { entry: Some(Entry::implied()), base: Base::Nothing, ..Self::default() };
            }
        }
        node
    }

    /// Puts what is no folder at a path.
    fn stand(&mut self, path: &[u8], entry: Entry) {
        let cut = path.iter().rposition(|b| *b == b'/');
        let (above, name) = (&path[..cut.unwrap_or(0)], &path[cut.map_or(0, |at| at + 1)..]);
        let node = Self { entry: Some(entry), base: Base::Nothing, ..Self::default() };
        self.folder(above).children.insert(name.to_vec(), node);
    }

    /// What is known of a path below, and where it shows the base.
    fn find(&self, path: &[u8]) -> (Option<&Self>, Place) {
        let (mut node, mut place) = (Some(self), self.place(&Some(Vec::new()), b""));
        for name in parts(path) {
            node = node.and_then(|node| node.children.get(name));
            place = match node {
                Some(node) => node.place(&place, name),
                None => beneath(&place, name),
            };
        }
        (node, place)
    }
}

/// The place of a name in a folder.
pub(super) fn beneath(above: &Place, name: &[u8]) -> Place {
    let above = above.as_ref()?;
    Some(match above.is_empty() {
        true => name.to_vec(),
        false => [above, name].join(&b'/'),
    })
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty())
}
