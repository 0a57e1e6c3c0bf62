//! Compares two trees that have one base in common.
//!
//! Deliberately absent: the content of the base. Where it would decide, the result names both possible changes.

use std::collections::BTreeSet;

use serde::Serialize;

use super::tree::{Content, Entry, Kind, Node, Place, Side, base_below};
use crate::changeset::Special;

/// The kind of change of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Change {
    /// Only the second tree has the path.
    Added,
    /// Both trees have the path.
    Changed,
    /// Only the first tree has the path.
    Removed,
    /// The second tree has the path. The base decides whether the first has it too.
    AddedOrChanged,
    /// The first tree has the path. The base decides whether the second has it too.
    RemovedOrChanged,
}

impl Change {
    /// The letters in the output of `kubectl ovl diff`.
    pub(super) fn letters(self) -> &'static str {
        match self {
            Self::Added => "A",
            Self::Changed => "C",
            Self::Removed => "D",
            Self::AddedOrChanged => "AC",
            Self::RemovedOrChanged => "CD",
        }
    }
}

/// A path that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) path: Vec<u8>,
    pub(super) change: Change,
    /// The file type in the second tree, or in the first one if the second lacks the path. `None` where it is not
    /// known.
    pub(super) kind: Option<&'static str>,
    /// The size in bytes, if it is a regular file.
    pub(super) size: Option<u64>,
    /// The properties that differ, as far as they are known.
    pub(super) properties: Vec<&'static str>,
}

/// The state of a path in one tree.
enum State<'s> {
    Known(&'s Entry),
    Base(&'s [u8]),
    Absent,
}

/// Returns all differences, sorted by path. A removed directory is one difference: its content is not listed.
pub(super) fn compare(first: &Side, second: &Side) -> Vec<Difference> {
    let mut differences = Vec::new();
    let root = |side: &Side| side.0.place(&Some(Vec::new()), b"");
    let pair = (At(Some(&first.0), root(first)), At(Some(&second.0), root(second)));
    below(&[], &pair, &mut differences);
    differences
}

/// A path of a tree: its node, and the path of the base that is visible there.
struct At<'s>(Option<&'s Node>, Place);

impl<'s> At<'s> {
    fn child(&self, name: &[u8]) -> Self {
        let node = self.0.and_then(|node| node.children.get(name));
        match node {
            Some(found) => At(node, found.place(&self.1, name)),
            None => At(None, base_below(&self.1, name)),
        }
    }

    fn names(&self) -> impl Iterator<Item = &'s [u8]> {
        self.0.into_iter().flat_map(|node| node.children.keys().map(Vec::as_slice))
    }

    fn state(&self) -> State<'_> {
        match (self.0.and_then(|node| node.entry.as_ref()), &self.1) {
            (Some(entry), _) => State::Known(entry),
            (None, Some(base)) => State::Base(base),
            (None, None) => State::Absent,
        }
    }

    /// Whether it is a directory in which no entry of the base is visible.
    fn is_emptied(&self) -> bool {
        matches!(self.state(), State::Known(entry) if entry.kind == Kind::Dir && self.1.is_none())
    }
}

fn below(path: &[u8], (first, second): &(At<'_>, At<'_>), out: &mut Vec<Difference>) {
    let names: BTreeSet<_> = first.names().chain(second.names()).collect();
    for name in names {
        let path = if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') };
        let pair = (first.child(name), second.child(name));
        let found = difference(&path, &pair);
        let is_gone = found.as_ref().is_some_and(|found| found.change == Change::Removed)
            && pair.1.names().next().is_none();
        out.extend(found);
        if !is_gone {
            below(&path, &pair, out);
        }
    }
}

fn difference(path: &[u8], (first, second): &(At<'_>, At<'_>)) -> Option<Difference> {
    let mut properties = Vec::new();
    let (change, entry) = match (first.state(), second.state()) {
        (State::Absent, State::Absent) => return None,
        (State::Base(one), State::Base(other)) if one == other => return None,
        (State::Base(_), State::Base(_)) => (Change::Changed, None),
        (State::Known(one), State::Known(other)) => {
            properties = differing(one, other);
            (Change::Changed, Some(other))
        }
        (State::Absent, State::Known(entry)) => (Change::Added, Some(entry)),
        (State::Absent, State::Base(_)) => (Change::Added, None),
        (State::Known(entry), State::Absent) => (Change::Removed, Some(entry)),
        (State::Base(_), State::Absent) => (Change::Removed, None),
        (State::Base(_), State::Known(entry)) => (Change::AddedOrChanged, Some(entry)),
        (State::Known(entry), State::Base(_)) => (Change::RemovedOrChanged, Some(entry)),
    };
    if second.is_emptied() && first.1.is_some() {
        properties.push("emptied");
    }
    if matches!((first.state(), second.state()), (State::Known(_), State::Known(_)))
        && properties.is_empty()
    {
        return None;
    }
    let size = entry.and_then(|entry| match entry.kind {
        Kind::File { size, .. } => Some(size),
        _ => None,
    });
    let kind = entry.map(|entry| kind(&entry.kind));
    Some(Difference { path: path.to_vec(), change, kind, size, properties })
}

/// The properties in which two entries differ.
fn differing(one: &Entry, other: &Entry) -> Vec<&'static str> {
    let content = |entry: &Entry| match &entry.kind {
        Kind::File { content, .. } => Some(content.clone()),
        Kind::Symlink(target) => Some(Content::Base(target.clone())),
        Kind::Link(target) => Some(Content::Base(target.clone())),
        Kind::Dir | Kind::Special(_) => None,
    };
    let size = |entry: &Entry| match entry.kind {
        Kind::File { size, .. } => Some(size),
        _ => None,
    };
    let is_other_kind = kind(&one.kind) != kind(&other.kind);
    let special = |entry: &Entry| match entry.kind {
        Kind::Special(special) => Some(special),
        _ => None,
    };
    [
        ("type", is_other_kind),
        ("size", !is_other_kind && size(one) != size(other)),
        ("content", !is_other_kind && content(one) != content(other)),
        ("device", !is_other_kind && special(one) != special(other)),
        ("mode", one.mode != other.mode),
        ("owner", one.owner != other.owner),
        ("xattrs", one.xattrs != other.xattrs),
    ]
    .into_iter()
    .filter_map(|(property, differs)| differs.then_some(property))
    .collect()
}

fn kind(kind: &Kind) -> &'static str {
    match kind {
        Kind::File { .. } | Kind::Link(_) => "file",
        Kind::Dir => "directory",
        Kind::Symlink(_) => "symlink",
        Kind::Special(Special::Fifo) => "fifo",
        Kind::Special(Special::Socket) => "socket",
        Kind::Special(Special::CharDevice(..)) => "character device",
        Kind::Special(Special::BlockDevice(..)) => "block device",
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
