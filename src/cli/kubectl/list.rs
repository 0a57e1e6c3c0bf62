//! `kubectl ovl list`: lists snapshots as a tree of their descent.

use std::collections::{BTreeMap, HashMap};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use super::{failure::Failure, print, session::Session, snapshot_view::Snapshot};
use crate::format;

/// List snapshots as a tree: each one below the snapshot from which its volume started.
///
/// PHASE is Pending until a node reports the snapshot, then Capturing, Pushing and Ready, or Failed. LOCATION is the
/// repository of a pushed snapshot, or the only node that has it.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// List the snapshots of all namespaces, if you have the right to read them
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The format of the result
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    output: Width,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Width {
    /// A table
    Text,
    /// A table with more columns
    Wide,
    /// JSON
    Json,
}

pub(super) async fn run(session: &Session, args: &ListArgs) -> Result<(), Failure> {
    let snapshots = session.snapshots(args.all_namespaces).await?;
    if args.output == Width::Json {
        print::json(&json!({ "items": snapshots }))?;
    } else if snapshots.is_empty() {
        let place = match args.all_namespaces {
            true => "any namespace".to_owned(),
            false => format!("namespace {}", session.namespace),
        };
        print::note(&format!("there are no snapshots in {place}"));
    } else {
        let wide = args.output == Width::Wide;
        let rows = rows(&snapshots, args.all_namespaces, wide, Timestamp::now());
        print::out(&print::table(&rows))?;
    }
    Ok(())
}

fn rows(snapshots: &[Snapshot], everywhere: bool, wide: bool, now: Timestamp) -> Vec<Vec<String>> {
    let mut head = vec!["NAME", "SOURCE", "PHASE", "ENTRIES", "SIZE", "LOCATION", "AGE"];
    if wide {
        head.extend(["LAYERS", "PUSHED-SIZE", "FROZEN", "NODE", "CLASS", "IMAGE"]);
    }
    if everywhere {
        head.insert(0, "NAMESPACE");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    for (branch, snapshot) in tree(snapshots) {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        let size = |number: Option<u64>| number.map_or("-".to_owned(), format::bytes);
        let mut row = vec![
            format!("{branch}{}", snapshot.name),
            text(&snapshot.source),
            snapshot.phase.clone(),
            number(snapshot.entries),
            size(snapshot.bytes),
            snapshot.place(),
            print::age(snapshot.created, now),
        ];
        if wide {
            row.extend([
                number(snapshot.layers),
                size(snapshot.pushed_bytes),
                text(&snapshot.frozen),
                text(&snapshot.node),
                text(&snapshot.class),
                text(&snapshot.image),
            ]);
        }
        if everywhere {
            row.insert(0, snapshot.namespace.clone());
        }
        rows.push(row);
    }
    rows
}

/// The snapshots in the order of the tree: each one after its parent, with the branch that leads to it. A snapshot
/// whose parent does not exist is a root. Annotations can describe a ring, though snapshots cannot form one; then one
/// snapshot of the ring is a root.
pub(super) fn tree(snapshots: &[Snapshot]) -> Vec<(String, &Snapshot)> {
    let place: HashMap<_, _> = snapshots.iter().enumerate().map(|(i, s)| (key(s), i)).collect();
    let parent = |snapshot: &Snapshot| {
        let parent = snapshot.parent.as_deref()?;
        place.get(&(snapshot.namespace.as_str(), parent)).copied()
    };
    let (mut children, mut roots) = (BTreeMap::<usize, Vec<usize>>::new(), Vec::new());
    for (i, snapshot) in snapshots.iter().enumerate() {
        match parent(snapshot) {
            Some(parent) => children.entry(parent).or_default().push(i),
            None => roots.push(i),
        }
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|i| (snapshots[*i].created, &snapshots[*i].name));
    }
    let visited = vec![false; snapshots.len()];
    let mut builder = TreeBuilder { snapshots, children, visited, rows: Vec::new() };
    for root in roots.into_iter().chain(0..snapshots.len()) {
        builder.add(root);
    }
    builder.rows
}

struct TreeBuilder<'s> {
    snapshots: &'s [Snapshot],
    children: BTreeMap<usize, Vec<usize>>,
    visited: Vec<bool>,
    rows: Vec<(String, &'s Snapshot)>,
}

impl TreeBuilder<'_> {
    /// Adds a snapshot and all its descendants of any depth, except those that are added already.
    fn add(&mut self, root: usize) {
        // The next snapshots, each with the lines that lead past it and the line that leads to it.
        let mut next = vec![(root, String::new(), "")];
        while let Some((at, past, branch)) = next.pop() {
            if std::mem::replace(&mut self.visited[at], true) {
                continue;
            }
            self.rows.push((format!("{past}{branch}"), &self.snapshots[at]));
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

fn key(snapshot: &Snapshot) -> (&str, &str) {
    (&snapshot.namespace, &snapshot.name)
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
