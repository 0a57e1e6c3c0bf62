//! What a store has of workspaces, with their sizes.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    error::WorkspaceError,
    listed_states::{self, ListedState},
    mounted::Live,
    open::Workspaces,
};
use crate::{
    layers::{LayerKey, WorkspaceBase, WorkspaceName, WorkspaceRecord},
    overlay,
    sys::{
        du,
        durable::at,
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
    /// Its states: the snapshots, the oldest first, then those without a name, then what a failed command has left.
    pub states: Vec<ListedState>,
    /// Bytes on the disk that only this workspace needs: layers, and the upper.
    pub own_bytes: u64,
    /// Bytes of its layers that others need too, images as well.
    pub shared_bytes: u64,
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
        // Only trees have steps.
        let is_tree = |(_, record): &&(_, WorkspaceRecord)| record.directory().is_none();
        let steps = match wanted.clone().any(|one| is_tree(&one)) {
            true => self.store.steps.commands()?,
            false => HashMap::new(),
        };
        let mut listed =
            |name, record| self.listed(name, record, &users, &mounts, &mut sizes, &steps);
        wanted.map(|(name, record)| listed(name, record)).collect()
    }

    fn listed(
        &self,
        name: &WorkspaceName,
        record: &WorkspaceRecord,
        users: &HashMap<LayerKey, usize>,
        mounts: &[MountElsewhere],
        sizes: &mut Sizes<'_>,
        steps: &HashMap<LayerKey, Vec<String>>,
    ) -> Result<Listed, WorkspaceError> {
        let upper = self.store.workspaces.dir(name).join("upper");
        let live = Live::among(mounts, &upper);
        let upper_bytes = du::bytes_of(&upper)?;
        let (mut own_bytes, mut shared_bytes) = (upper_bytes, 0);
        let images: HashSet<&LayerKey> = record.image_layers().iter().collect();
        for key in record.layers().collect::<HashSet<_>>() {
            let is_shared = images.contains(key) || users.get(key).is_some_and(|users| *users > 1);
            *(if is_shared { &mut shared_bytes } else { &mut own_bytes }) += sizes.of(key)?;
        }
        let written = has_entries(&upper)?.then_some(upper_bytes);
        let states = listed_states::of(record, written, &mut |key| sizes.of(key), steps)?;
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

/// Whether a directory has entries. False if there is no such directory.
pub(super) fn has_entries(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(at("list", dir)(e)),
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
