//! What a store has of workspaces, with their sizes.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
};

use jiff::Timestamp;

use super::{error::WorkspaceError, mounted::Live, name::FAILED, open::Workspaces};
use crate::{
    layers::{LayerKey, StateName, WorkspaceBase, WorkspaceName, WorkspaceRecord},
    overlay,
    sys::{
        du,
        mount_namespaces::{self, MountElsewhere},
    },
};

/// One workspace, as `list` shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: WorkspaceName,
    /// What it stands on.
    pub base: WorkspaceBase,
    /// When it was created.
    pub created: Timestamp,
    /// Where it is mounted in the namespace of the caller.
    pub mounted: Vec<PathBuf>,
    /// The processes of other namespaces that have it mounted.
    pub running: Vec<u32>,
    /// Its snapshots, the oldest first.
    pub states: Vec<ListedState>,
    /// Bytes on the disk that only this workspace needs: layers, and the upper.
    pub own_bytes: u64,
    /// Bytes of its layers that others need too, images as well.
    pub shared_bytes: u64,
}

/// One snapshot.
#[derive(Debug, Clone)]
pub struct ListedState {
    /// Its name.
    pub name: StateName,
    /// When it was taken.
    pub taken: Timestamp,
    /// Whether the workspace stands on it.
    pub is_current: bool,
    /// The index in [`Listed::states`] of the newest older snapshot that it contains. `None`: it stands on the base.
    pub parent: Option<usize>,
    /// Whether it is the same state as its parent, with another name.
    pub is_alias: bool,
    /// Bytes on the disk of the layers that its parent does not have.
    pub bytes: u64,
}

impl Workspaces {
    /// All workspaces by name, or one.
    ///
    /// # Errors
    /// There is no such workspace, or something of the store cannot be read.
    pub fn list(&self, only: Option<&WorkspaceName>) -> Result<Vec<Listed>, WorkspaceError> {
        let mut all = self.store.workspaces.readable()?;
        all.sort_by(|(one, _), (other, _)| natural_order(one.as_str(), other.as_str()));
        if let Some(name) = only
            && !all.iter().any(|(other, _)| other == name)
        {
            // An error says why it is not there.
            self.store.workspaces.get(name)?;
            let (name, root) = (name.clone(), self.root().to_owned());
            return Err(WorkspaceError::Unknown { name, root });
        }
        let mut sizes = Sizes { all: self, known: HashMap::new() };
        let mut users: HashMap<LayerKey, usize> = HashMap::new();
        for (_, record) in &all {
            for key in record.layers().collect::<HashSet<_>>() {
                *users.entry(*key).or_default() += 1;
            }
        }
        let wanted = all.iter().filter(|(name, _)| only.is_none_or(|only| only == name));
        // The tables of all processes are read once, however many workspaces there are.
        let mounts = mount_namespaces::find(self.root(), overlay::has_upper)?;
        let mut listed = |name, record| self.listed(name, record, &users, &mounts, &mut sizes);
        wanted.map(|(name, record)| listed(name, record)).collect()
    }

    fn listed(
        &self,
        name: &WorkspaceName,
        record: &WorkspaceRecord,
        users: &HashMap<LayerKey, usize>,
        mounts: &[MountElsewhere],
        sizes: &mut Sizes<'_>,
    ) -> Result<Listed, WorkspaceError> {
        let upper = self.store.workspaces.dir(name).join("upper");
        let live = Live::among(mounts, &upper);
        let (mut own_bytes, mut shared_bytes) = (du::bytes_of(&upper)?, 0);
        let images: HashSet<&LayerKey> = record.image_layers().iter().collect();
        for key in record.layers().collect::<HashSet<_>>() {
            let is_shared = images.contains(key) || users.get(key).is_some_and(|users| *users > 1);
            *(if is_shared { &mut shared_bytes } else { &mut own_bytes }) += sizes.of(key)?;
        }
        let mut states: Vec<ListedState> = Vec::new();
        for (number, state) in record.states.iter().enumerate() {
            let older = record.states[..number].iter().enumerate().rev();
            let parent = older
                .filter(|(_, older)| state.layers.starts_with(&older.layers))
                .max_by_key(|(at, older)| (older.layers.len(), *at));
            let inherited = parent.map_or(0, |(_, parent)| parent.layers.len());
            let own = state.layers[inherited..].iter().map(|key| sizes.of(key));
            states.push(ListedState {
                name: state.name.clone(),
                taken: state.taken,
                is_current: state.layers == record.current,
                parent: parent.map(|(at, _)| at),
                is_alias: parent.is_some_and(|(_, parent)| parent.layers == state.layers),
                bytes: own.sum::<io::Result<u64>>()?,
            });
        }
        if let Some(layers) = &record.failed {
            let bytes = layers.last().map_or(Ok(0), |key| sizes.of(key))?;
            let name = FAILED.parse().map_err(io::Error::other)?;
            let taken = record.created;
            states.push(ListedState {
                name,
                taken,
                is_current: false,
                parent: None,
                is_alias: false,
                bytes,
            });
        }
        Ok(Listed {
            name: name.clone(),
            base: record.base.clone(),
            created: record.created,
            mounted: live.here().map(|live| live.mount.target.clone()).collect(),
            running: live.elsewhere(),
            states,
            own_bytes,
            shared_bytes,
        })
    }
}

/// The sizes of layers, each counted once.
struct Sizes<'w> {
    all: &'w Workspaces,
    known: HashMap<LayerKey, u64>,
}

impl Sizes<'_> {
    fn of(&mut self, key: &LayerKey) -> io::Result<u64> {
        if let Some(bytes) = self.known.get(key) {
            return Ok(*bytes);
        }
        let layers = &self.all.store.layers;
        let bytes = match layers.has(key).then(|| layers.tree_of(key)).transpose()? {
            // It is not in place yet, or missing.
            None => 0,
            Some(Some(tree)) => du::bytes_of(&tree)?,
            Some(None) => layers.bytes(key)?,
        };
        self.known.insert(*key, bytes);
        Ok(bytes)
    }
}

/// Compares names so that `box-2` is before `box-10`: numbers in them by their value, the rest by its bytes.
fn natural_order(one: &str, other: &str) -> Ordering {
    let parts = |name: &'_ str| -> Vec<String> {
        let same = |a: &u8, b: &u8| a.is_ascii_digit() == b.is_ascii_digit();
        let parts = name.as_bytes().chunk_by(same);
        parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    };
    let number = |part: &str| -> Option<u128> { part.parse().ok() };
    for (one, other) in parts(one).iter().zip(&parts(other)) {
        let order = match (number(one), number(other)) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => one.cmp(other),
        };
        if order.is_ne() {
            return order;
        }
    }
    // One is the beginning of the other, or they differ in zeros before a number.
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_in_the_order_of_their_values() {
        let mut names = ["box-10", "box", "box-2", "a-b", "box-02", "box-2-1", "1box", "box-"];
        names.sort_by(|one, other| natural_order(one, other));
        assert_eq!(names, ["1box", "a-b", "box", "box-", "box-2", "box-02", "box-2-1", "box-10"]);
    }
}
