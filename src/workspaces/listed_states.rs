//! The states of a workspace, as `list` shows them: the snapshots, and what has no name.
//!
//! A state without a name is the current one if all its names were removed, the present one if something was written since
//! the last snapshot, and the one on which a workspace stands after a step or a fork.

use std::{collections::HashMap, io};

use jiff::Timestamp;

use super::name::FAILED;
use crate::layers::{LayerKey, StateName, WorkspaceRecord};

/// One state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedState {
    /// Its name. `None`: it has none.
    pub name: Option<StateName>,
    /// When it got the name.
    pub taken: Option<Timestamp>,
    /// Whether a clean goes back to it.
    pub is_current: bool,
    /// Whether it is what the workspace holds now.
    pub is_present: bool,
    /// The index of the largest other state that it contains. `None`: it stands on the base.
    pub parent: Option<usize>,
    /// Whether it is the same state as its parent, with another name.
    pub is_alias: bool,
    /// Bytes on the disk that its parent does not have. Of `failed` only what the failed command has left.
    pub bytes: u64,
    /// The layers that its parent does not have, bottom first. What was written since the last state is in none of them.
    pub layers: Vec<ListedLayer>,
}

/// One layer of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedLayer {
    /// Its key.
    pub key: LayerKey,
    /// Its bytes on the disk.
    pub bytes: u64,
    /// The command whose result it is. `None`: it is not known to be a step. Empty: its command was not recorded.
    pub step: Option<Vec<String>>,
}

/// A state before its parent is known.
struct Node<'r> {
    name: Option<StateName>,
    taken: Option<Timestamp>,
    layers: &'r [LayerKey],
    /// The bytes of the upper, if the state is what was written in it.
    upper: Option<u64>,
}

/// The states of a workspace. `written` are the bytes of an upper in which something was written.
pub(super) fn of(
    record: &WorkspaceRecord,
    written: Option<u64>,
    size: &mut dyn FnMut(&LayerKey) -> io::Result<u64>,
    steps: &HashMap<LayerKey, Vec<String>>,
) -> io::Result<Vec<ListedState>> {
    let failed = match &record.failed {
        Some(layers) => {
            let name = Some(FAILED.parse().map_err(io::Error::other)?);
            Some(Node { name, taken: None, layers, upper: None })
        }
        None => None,
    };
    let mut nodes: Vec<Node<'_>> = Vec::new();
    nodes.extend(record.states.iter().map(|state| {
        let (name, taken) = (Some(state.name.clone()), Some(state.taken));
        Node { name, taken, layers: &state.layers, upper: None }
    }));
    let unnamed = |layers, upper| Node { name: None, taken: None, layers, upper };
    // Below an upper in which something was written, the state without a name is a part of the present one.
    let below = written.is_none().then_some(&record.below);
    for layers in [&record.current].into_iter().chain(below) {
        if !nodes.iter().chain(&failed).any(|node| node.layers == layers) {
            nodes.push(unnamed(layers, None));
        }
    }
    nodes.extend(written.map(|bytes| unnamed(&record.below, Some(bytes))));
    nodes.extend(failed);
    let states = (0..nodes.len()).map(|at| state(&nodes, at, record, size, steps));
    states.collect()
}

fn state(
    nodes: &[Node<'_>],
    at: usize,
    record: &WorkspaceRecord,
    size: &mut dyn FnMut(&LayerKey) -> io::Result<u64>,
    steps: &HashMap<LayerKey, Vec<String>>,
) -> io::Result<ListedState> {
    let node = &nodes[at];
    let others = nodes.iter().enumerate().filter(|(number, other)| {
        let is_before = other.layers != node.layers || node.upper.is_some() || *number < at;
        other.upper.is_none() && is_before && node.layers.starts_with(other.layers)
    });
    let parent = others.max_by_key(|(number, other)| (other.layers.len(), *number));
    let inherited = match node.name.as_ref().is_some_and(|name| name.as_str() == FAILED) {
        // Only what the failed command has left, without the steps before it.
        true => node.layers.len().saturating_sub(1),
        false => parent.map_or(0, |(_, parent)| parent.layers.len()),
    };
    let mut bytes = node.upper.unwrap_or(0);
    let mut layers = Vec::new();
    for key in &node.layers[inherited..] {
        let layer = ListedLayer { key: *key, bytes: size(key)?, step: steps.get(key).cloned() };
        bytes += layer.bytes;
        layers.push(layer);
    }
    let is_written = nodes.iter().any(|node| node.upper.is_some());
    Ok(ListedState {
        name: node.name.clone(),
        taken: node.taken,
        is_current: node.upper.is_none() && node.layers == record.current,
        is_present: node.layers == record.below && node.upper.is_some() == is_written,
        parent: parent.map(|(number, _)| number),
        is_alias: node.upper.is_none() && parent.is_some_and(|(_, it)| it.layers == node.layers),
        bytes,
        layers,
    })
}

#[cfg(test)]
#[path = "listed_states_tests.rs"]
mod tests;
