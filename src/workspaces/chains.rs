//! The stacks of a store by their ChainIDs: each stack of layers that an image, a workspace or a snapshot has, and each
//! stack below it.
//!
//! The ChainID of a stack of portable layers is that of the image-spec (config.md, "Layer ChainID"), so it is the same in
//! other tools. A layer that was made of an upper counts with its key. The layers of a copy are on a directory, which has
//! no ChainID: the lowest of them has the ChainID of a single layer.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use super::name::FAILED;
use crate::layers::{ChainId, LayerInfo, LayerKey, StoreReader, Unreadable, WorkspaceRecord};

/// A stack of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its ChainID.
    pub id: ChainId,
    /// Its topmost layer.
    pub top: LayerInfo,
    /// The ChainID of the stack below that layer. `None` if it is the only one.
    pub below: Option<ChainId>,
    /// The directory of the copy that has it. `None` for layers of images and of trees.
    pub directory: Option<PathBuf>,
    /// The images, `NAME@SNAPSHOT`s and snapshots that are exactly this stack, sorted.
    pub names: Vec<String>,
}

/// The stacks of a store.
#[derive(Debug, Clone, Default)]
pub struct Chains {
    by_id: BTreeMap<ChainId, Chain>,
    /// What could not be read, and layers that are named and missing.
    pub unreadable: Vec<Unreadable>,
}

/// Why a text names no stack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No ChainID begins with it.
    #[error("no stack of layers has the ChainID {0}; `ovl layer ls` lists them")]
    Unknown(String),
    /// Several ChainIDs begin with it.
    #[error("{0} ChainIDs begin with {1}; write more digits")]
    Ambiguous(usize, String),
}

/// The fewest digits by which a ChainID can be named.
const FEWEST: usize = 6;

impl Chains {
    /// Reads the stacks of a store.
    ///
    /// # Errors
    /// The records or the layers cannot be listed.
    pub fn read(reader: &StoreReader) -> io::Result<Self> {
        let (images, workspaces, snapshots) =
            (reader.images()?, reader.workspaces()?, reader.snapshots()?);
        // After the records: a layer is there before a record names it.
        let layers = reader.layers()?;
        let mut chains = Self::default();
        let unreadable = [images.unreadable, workspaces.unreadable, snapshots.unreadable];
        chains.unreadable.extend(unreadable.into_iter().flatten().chain(layers.unreadable));
        let known = layers.found;
        for image in &images.found {
            // Layers that were applied by hand have an image whose name is their ChainID.
            let names = image.references.iter().filter(|name| !is_chain_id(name));
            chains.add(&known, None, &image.layers, names.cloned().collect());
        }
        for (name, record) in &workspaces.found {
            let directory = record.directory();
            let mut add = |own: &[LayerKey], names| {
                let stack: Vec<_> = record.image_layers().iter().chain(own).copied().collect();
                chains.add(&known, directory, &stack, names);
            };
            for (state, own) in states(record) {
                add(own, state.map(|state| format!("{name}@{state}")).into_iter().collect());
            }
        }
        for snapshot in &snapshots.found {
            chains.add(&known, None, &snapshot.stack, vec![snapshot.id.to_string()]);
        }
        let used: HashSet<LayerKey> = chains.by_id.values().map(|chain| chain.top.key).collect();
        for key in known.keys().filter(|key| !used.contains(key)) {
            chains.add(&known, None, &[*key], Vec::new());
        }
        for chain in chains.by_id.values_mut() {
            chain.names.sort_unstable();
            if chain.top.bytes.is_none() {
                chain.top.bytes = Some(reader.tree_bytes(&chain.top.key)?);
            }
        }
        Ok(chains)
    }

    fn add(
        &mut self,
        known: &BTreeMap<LayerKey, LayerInfo>,
        directory: Option<&Path>,
        stack: &[LayerKey],
        names: Vec<String>,
    ) {
        let mut below: Option<ChainId> = None;
        for key in stack {
            let Some(top) = known.get(key) else {
                let why = format!("{} is missing, which {} needs", key, names.join(", "));
                self.unreadable.push(Unreadable { path: PathBuf::from(key.to_string()), why });
                return;
            };
            let id = ChainId::new(below.as_ref(), &top.chain_member);
            let new = || Chain {
                id,
                top: top.clone(),
                below,
                directory: directory.map(Path::to_owned),
                names: Vec::new(),
            };
            self.by_id.entry(id).or_insert_with(new);
            below = Some(id);
        }
        if let Some(chain) = below.and_then(|id| self.by_id.get_mut(&id)) {
            chain.names.extend(names);
        }
    }

    /// All stacks, the lower ones before those on top of them, and else the older ones first, each with the number of layers
    /// below its topmost one.
    pub fn sorted(&self) -> Vec<(usize, &Chain)> {
        let mut children: BTreeMap<Option<ChainId>, Vec<&Chain>> = BTreeMap::new();
        for chain in self.by_id.values() {
            children.entry(chain.below).or_default().push(chain);
        }
        for list in children.values_mut() {
            // The last one is taken first.
            list.sort_by_key(|chain| std::cmp::Reverse((chain.top.added, chain.id)));
        }
        let mut next: Vec<(usize, &Chain)> =
            children.remove(&None).into_iter().flatten().map(|chain| (0, chain)).collect();
        let mut sorted = Vec::with_capacity(self.by_id.len());
        while let Some((depth, chain)) = next.pop() {
            sorted.push((depth, chain));
            let above = children.remove(&Some(chain.id)).into_iter().flatten();
            next.extend(above.map(|chain| (depth + 1, chain)));
        }
        sorted
    }

    /// The stack whose ChainID is `text`, or the only one that begins with it. `sha256:` can be left out.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn find(&self, text: &str) -> Result<&Chain, ChainError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let begins = |chain: &&Chain| chain.id.digits().starts_with(digits);
        let found: Vec<&Chain> = self.by_id.values().filter(begins).collect();
        match &found[..] {
            [one] => Ok(one),
            [] => Err(ChainError::Unknown(text.to_owned())),
            several => Err(ChainError::Ambiguous(several.len(), text.to_owned())),
        }
    }

    /// The layers of a stack, bottom first.
    pub fn layers(&self, chain: &Chain) -> Vec<LayerKey> {
        let mut keys = vec![chain.top.key];
        let mut below = chain.below;
        while let Some(chain) = below.and_then(|id| self.by_id.get(&id)) {
            keys.push(chain.top.key);
            below = chain.below;
        }
        keys.reverse();
        keys
    }
}

/// Whether a text can be a ChainID, or the first digits of one.
pub(super) fn is_chain_id(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (FEWEST..=64).contains(&digits.len()) && digits.bytes().all(is_hex)
}

/// The states of a workspace with their names, as own layers. The present state without its upper has no name.
fn states(record: &WorkspaceRecord) -> impl Iterator<Item = (Option<&str>, &[LayerKey])> {
    let named = record.states.iter().map(|state| (Some(state.name.as_str()), &state.layers[..]));
    let failed = record.failed.iter().map(|layers| (Some(FAILED), &layers[..]));
    named.chain(failed).chain([(None, &record.below[..]), (None, &record.current[..])])
}

#[cfg(test)]
#[path = "chains_tests.rs"]
mod tests;
