//! The states that the commands of layers name: a ChainID, an image, or `NAME[@SNAPSHOT]`.
//!
//! The parent of a state is the state below its topmost layer. The upper of a workspace is its topmost layer.

use std::{io::Write, path::PathBuf, sync::Arc};

use super::{
    chains::{Chains, is_chain_id},
    error::WorkspaceError,
    lock::{OnLocked, Workspace, options},
    name::{NameAt, image_named},
    open::Workspaces,
    sources::source_error,
    view::{OpenStack, Trees, upper_as_lower},
};
use crate::{
    changeset::{PackOptions, Packed, pack},
    layers::{LayerKey, Lease, StoreReader, WorkspaceRecord},
    media_type::{Compression, Format},
    overlay::Options,
    sys::{mounts::Detached, tree_reader::Entry, tree_size},
};

/// A state, whose layers are kept as long as this exists.
#[derive(Debug)]
pub struct State<'w> {
    /// As the user wrote it.
    pub(super) text: String,
    /// The directory of a copy, under its layers.
    pub(super) directory: Option<PathBuf>,
    /// Its layers, bottom first.
    pub(super) layers: Vec<LayerKey>,
    /// The upper of an unmounted workspace, on top of them.
    pub(super) upper: Option<Arc<Detached>>,
    leases: Vec<Lease>,
    /// The record of the workspace whose state it is.
    pub(super) record: Option<WorkspaceRecord>,
    /// Keeps the upper as it is.
    pub(super) workspace: Option<Workspace<'w>>,
}

/// What a state is compared with.
#[derive(Debug)]
pub enum Parent<'s, 'w> {
    /// The state below its topmost layer.
    Below,
    /// Nothing: all of it counts as added.
    Nothing,
    /// Another state.
    State(&'s State<'w>),
}

/// The size of a state's topmost layer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSize {
    /// The sizes of its files and symbolic links. A file with several names counts once.
    pub apparent: u64,
    /// What it takes on the disk: its image, or the blocks of its files.
    pub on_disk: u64,
}

impl State<'_> {
    /// The same state, if it consists of layers of the store only.
    pub(super) fn without_directory(self) -> Result<(Vec<LayerKey>, Vec<Lease>), WorkspaceError> {
        match &self.directory {
            None => Ok((self.layers, self.leases)),
            Some(directory) => Err(WorkspaceError::Source {
                text: self.text.clone(),
                why: format!(
                    "it stands on the directory {}, which is no layer; use a workspace that was made of images",
                    directory.display()
                ),
            }),
        }
    }
}

impl Workspaces {
    /// The state that a text names: a workspace or its snapshot, a ChainID or the first digits of one, or an image of the
    /// store. Locks the workspace whose present state it is. A mounted one is copied first.
    ///
    /// # Errors
    /// Nothing has this name, or a record cannot be read.
    pub fn state(&self, text: &str, on: OnLocked) -> Result<State<'_>, WorkspaceError> {
        if let Ok(name) = text.parse::<NameAt>()
            && self.store.workspaces.get(&name.workspace)?.is_some()
        {
            return self.state_of_workspace(text, &name, on);
        }
        let reader = StoreReader::open(self.root())?;
        let reader = reader.ok_or_else(|| source_error(text, "the store is empty"))?;
        let (directory, layers) = stack_named(&reader, text)?;
        self.new_state(text, directory, layers)
    }

    fn new_state(
        &self,
        text: &str,
        directory: Option<PathBuf>,
        layers: Vec<LayerKey>,
    ) -> Result<State<'_>, WorkspaceError> {
        let lease = self.store.leases.take(&layers)?;
        let text = text.to_owned();
        let (upper, record, workspace) = (None, None, None);
        Ok(State { text, directory, layers, upper, leases: vec![lease], record, workspace })
    }

    fn state_of_workspace(
        &self,
        text: &str,
        name: &NameAt,
        on: OnLocked,
    ) -> Result<State<'_>, WorkspaceError> {
        let mut workspace = self.lock(&name.workspace, on)?;
        let record = Some(workspace.record.clone());
        let directory = workspace.record.directory().map(ToOwned::to_owned);
        let mut layers = workspace.record.image_layers().to_vec();
        if let Some(state) = &name.state {
            layers.extend(workspace.layers_of(state)?);
            return Ok(State { record, ..self.new_state(text, directory, layers)? });
        }
        if !workspace.live()?.is_none() {
            let (own, lease) = workspace.present_layers()?;
            layers.extend(own);
            let mut state = self.new_state(text, directory, layers)?;
            state.leases.extend(lease);
            return Ok(State { record, ..state });
        }
        layers.extend(&workspace.record.below);
        let mut state = self.new_state(text, directory, layers)?;
        if workspace.has_upper() {
            let pair = workspace.upper_and_work();
            state.upper = Some(Arc::new(self.mounts.open_dir(pair.upper())?));
        }
        Ok(State { record, workspace: Some(workspace), ..state })
    }

    /// A state and its parent as trees.
    ///
    /// # Errors
    /// A layer cannot be opened, or the two stand on different directories.
    pub fn state_trees(
        &self,
        state: &State<'_>,
        parent: &Parent<'_, '_>,
    ) -> Result<Trees, WorkspaceError> {
        let below;
        let before = match parent {
            Parent::Nothing => None,
            Parent::State(other) => Some(*other),
            Parent::Below => {
                below = self.below(state)?;
                Some(&below)
            }
        };
        let same_directory = before.is_none_or(|before| before.directory == state.directory);
        if !same_directory {
            return Err(WorkspaceError::Source {
                text: state.text.clone(),
                why: "its parent does not stand on the same directory".to_owned(),
            });
        }
        let (after, second) = self.state_tree(state)?;
        let Some(before) = before else {
            // All of it is added, and nothing is hidden: the names are those of the state itself.
            let (names, first) = self.state_tree(state)?;
            let nothing = self.view(Vec::new(), Options::default())?;
            let (layers, _leases) = (vec![Arc::new(names)], vec![first, second]);
            return Ok(Trees { before: nothing, after, layers, hides_all: false, _leases });
        };
        let (mut layers, hides_all) = self.differing(&before.layers, &state.layers)?;
        layers.extend([&before.upper, &state.upper].into_iter().flatten().cloned());
        let (before, first) = self.state_tree(before)?;
        Ok(Trees { before, after, layers, hides_all, _leases: vec![first, second] })
    }

    /// The state below the topmost layer of another one.
    fn below(&self, state: &State<'_>) -> Result<State<'_>, WorkspaceError> {
        let mut layers = state.layers.clone();
        if state.upper.is_none() && layers.pop().is_none() {
            return Err(WorkspaceError::Source {
                text: state.text.clone(),
                why: "it has no layer yet; write something in the workspace first".to_owned(),
            });
        }
        self.new_state(&state.text, state.directory.clone(), layers)
    }

    /// The merged tree of a state.
    fn state_tree(&self, state: &State<'_>) -> Result<(Detached, Lease), WorkspaceError> {
        let directory = state.directory.as_ref().map(|path| self.mounts.open_dir(path));
        let OpenStack { mut lowers, lease } =
            self.open_layers(directory.transpose()?, &state.layers)?;
        let options = options(state.directory.is_none());
        lowers.extend(state.upper.clone().map(|upper| upper_as_lower(upper, &options)));
        Ok((self.view(lowers, options)?, lease))
    }

    /// Writes what a state adds to its parent as an uncompressed tar.
    ///
    /// # Errors
    /// A layer cannot be read, `out` fails, or a native tar is wanted of more than one layer.
    pub fn pack_state(
        &self,
        state: &State<'_>,
        parent: &Parent<'_, '_>,
        format: Format,
        out: &mut (dyn Write + Send),
    ) -> Result<Packed, WorkspaceError> {
        let trees = self.state_trees(state, parent)?;
        let layers: Vec<&Detached> = trees.layers.iter().map(|layer| &**layer).collect();
        let options = PackOptions {
            format,
            compression: Compression::None,
            clamp: None,
            owner: None,
            hides_below: trees.hides_all,
        };
        pack(&layers, &trees.after, &options, &self.limits(), out).map_err(|error| {
            WorkspaceError::Source { text: state.text.clone(), why: error.to_string() }
        })
    }

    /// The size of a state's topmost layer.
    ///
    /// # Errors
    /// The layer cannot be read, or the state has none.
    pub fn layer_size(&self, state: &State<'_>) -> Result<LayerSize, WorkspaceError> {
        let (tree, image) = match (&state.upper, state.layers.last()) {
            (Some(upper), _) => (upper.clone(), None),
            (None, Some(key)) => {
                let layers = &self.store.layers;
                let image = match layers.tree_of(key)? {
                    Some(_) => None,
                    None => Some(layers.bytes(key)?),
                };
                (layers.lower(key)?.tree, image)
            }
            (None, None) => {
                return Err(WorkspaceError::Source {
                    text: state.text.clone(),
                    why: "it has no layer".to_owned(),
                });
            }
        };
        let size = tree_size::of(&Entry::root(&tree)?)?;
        Ok(LayerSize { apparent: size.apparent, on_disk: image.unwrap_or(size.on_disk) })
    }
}

/// The directory and the layers of a stack that a text names: a ChainID or the first digits of one, or an image of the store.
///
/// # Errors
/// Nothing has this name, or the records cannot be read.
pub(super) fn stack_named(
    reader: &StoreReader,
    text: &str,
) -> Result<(Option<PathBuf>, Vec<LayerKey>), WorkspaceError> {
    if is_chain_id(text) {
        let chains = Chains::read(reader)?;
        match chains.find(text) {
            Ok(chain) => return Ok((chain.directory.clone(), chains.layers(chain))),
            // The digits can be the name of an image.
            Err(error) if text.starts_with("sha256:") => return Err(source_error(text, error)),
            Err(_) => {}
        }
    }
    let images = reader.images()?.found;
    match image_named(&images, text) {
        Some(image) => Ok((None, image.layers.clone())),
        None => Err(source_error(
            text,
            "it is no workspace, no image and no ChainID of this store; `ovl list`, `ovl image ls` and `ovl layer ls` list \
             what there is",
        )),
    }
}
