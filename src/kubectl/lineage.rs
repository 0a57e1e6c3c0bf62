//! The descent of snapshots: from which snapshot the volume of each one started.
//!
//! A parent is found by its uid. Another snapshot can have its name by now.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::snapshot_view::Snapshot;

/// An ancestor of a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Ancestor {
    pub(super) name: String,
    /// Whether it was deleted.
    pub(super) deleted: bool,
}

impl Ancestor {
    /// The name, and whether it was deleted.
    pub(super) fn text(&self) -> String {
        match self.deleted {
            true => format!("({}, deleted)", self.name),
            false => self.name.clone(),
        }
    }
}

/// The snapshots from which a snapshot descends, the nearest first, up to the first one that was deleted. `all` are the
/// snapshots of its namespace.
pub(super) fn ancestors(snapshot: &Snapshot, all: &[Snapshot]) -> Vec<Ancestor> {
    let (mut found, mut uids, mut at) = (Vec::new(), Vec::new(), snapshot);
    while let Some(name) = &at.parent {
        // A controller of an earlier version writes no uid. Then it is not known which snapshot is meant.
        let Some(uid) = &at.parent_uid else {
            found.push(Ancestor { name: name.clone(), deleted: false });
            break;
        };
        if uids.contains(&uid) {
            break;
        }
        uids.push(uid);
        let parent = all.iter().find(|one| one.uid == *uid);
        found.push(Ancestor { name: name.clone(), deleted: parent.is_none() });
        let Some(parent) = parent else { break };
        at = parent;
    }
    found
}

/// The snapshots of volumes that started from a snapshot.
pub(super) fn children<'s>(
    snapshot: &'s Snapshot,
    all: &'s [Snapshot],
) -> impl Iterator<Item = &'s Snapshot> {
    all.iter().filter(|one| one.parent_uid.as_ref() == Some(&snapshot.uid))
}

/// One row of the tree.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node<'s> {
    Snapshot(&'s Snapshot),
    /// A parent that is not in the list: its namespace and its name.
    Missing(&'s str, &'s str),
}

impl Node<'_> {
    /// By what roots and siblings are sorted.
    fn key(&self) -> (&str, &str) {
        match self {
            Self::Snapshot(snapshot) => (&snapshot.namespace, &snapshot.name),
            Self::Missing(namespace, name) => (namespace, name),
        }
    }
}

/// The snapshots in the order of the tree: each one after its parent, with the branch that leads to it. A parent that
/// is not in the list has a row too. Annotations can describe a ring, though snapshots cannot form one; then one
/// snapshot of the ring is a root.
pub(super) fn tree(snapshots: &[Snapshot]) -> Vec<(String, Node<'_>)> {
    let mut nodes: Vec<_> = snapshots.iter().map(Node::Snapshot).collect();
    let mut known: HashMap<_, _> =
        snapshots.iter().enumerate().map(|(i, one)| (key(one, &one.uid), i)).collect();
    let (mut children, mut roots) = (BTreeMap::<usize, Vec<usize>>::new(), Vec::new());
    for (i, snapshot) in snapshots.iter().enumerate() {
        let (Some(name), Some(uid)) = (&snapshot.parent, &snapshot.parent_uid) else {
            roots.push(i);
            continue;
        };
        let parent = *known.entry(key(snapshot, uid)).or_insert_with(|| {
            nodes.push(Node::Missing(&snapshot.namespace, name));
            roots.push(nodes.len() - 1);
            nodes.len() - 1
        });
        children.entry(parent).or_default().push(i);
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|i| (snapshots[*i].created, &snapshots[*i].name));
    }
    roots.sort_by_key(|i| nodes[*i].key());
    let every = 0..nodes.len();
    let visited = vec![false; nodes.len()];
    let mut builder = TreeBuilder { nodes, children, visited, rows: Vec::new() };
    for root in roots.into_iter().chain(every) {
        builder.add(root);
    }
    builder.rows
}

fn key<'s>(snapshot: &'s Snapshot, uid: &'s str) -> (&'s str, &'s str) {
    (&snapshot.namespace, uid)
}

struct TreeBuilder<'s> {
    nodes: Vec<Node<'s>>,
    children: BTreeMap<usize, Vec<usize>>,
    visited: Vec<bool>,
    rows: Vec<(String, Node<'s>)>,
}

impl TreeBuilder<'_> {
    /// Adds a node and all its descendants of any depth, except those that are added already.
    fn add(&mut self, root: usize) {
        // The next nodes, each with the lines that lead past it and the line that leads to it.
        let mut next = vec![(root, String::new(), "")];
        while let Some((at, past, branch)) = next.pop() {
            if std::mem::replace(&mut self.visited[at], true) {
                continue;
            }
            self.rows.push((format!("{past}{branch}"), self.nodes[at]));
            let past = match branch {
                "" => past,
                "└─ " => past + "   ",
                _ => past + "│  ",
            };
            let children = self.children.get(&at).map_or(&[][..], Vec::as_slice);
            for (i, child) in children.iter().enumerate().rev() {
                let branch = if i + 1 == children.len() { "└─ " } else { "├─ " };
                next.push((*child, past.clone(), branch));
            }
        }
    }
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
