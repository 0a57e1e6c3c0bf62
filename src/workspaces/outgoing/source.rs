//! A state of the store as an image: its layers, and what is known of its config.

use std::{collections::BTreeMap, io::Write};

use jiff::Timestamp;

use super::error::OutgoingError;
use crate::{
    changeset::{self, PackError, PackOptions, Packed},
    digest::DiffId,
    error::Explained,
    layers::{ImageRecord, StoreReader, WorkspaceBase, WorkspaceRecord},
    media_type::{Compression, Format},
    reference::Reference,
    workspaces::{
        OnLocked, State, WorkspaceError, Workspaces,
        lock::options,
        name::image_named,
        view::{OpenStack, upper_as_lower},
    },
};

/// A state that becomes an image in files or in a registry. Its layers are kept as long as this exists.
#[derive(Debug)]
pub struct OutgoingImage<'w> {
    pub(super) all: &'w Workspaces,
    state: State<'w>,
    /// The configs of the images on which it is based, in the order of the stack.
    pub(super) configs: Vec<String>,
    /// The number of layers above those of the images.
    pub(super) own_layers: usize,
    name: Option<Reference>,
    /// When its own layers were made.
    pub(super) created: Option<Timestamp>,
    /// The annotations of the manifest.
    pub(super) annotations: BTreeMap<&'static str, String>,
}

impl Workspaces {
    /// The state that a text names ([`Workspaces::state`]), as an image.
    ///
    /// # Errors
    /// Nothing has this name, it stands on a directory, or it has no layer.
    pub fn outgoing_image(
        &self,
        text: &str,
        on: OnLocked,
    ) -> Result<OutgoingImage<'_>, WorkspaceError> {
        let mut state = self.state(text, on)?;
        let refused = |why| OutgoingError::Source { text: text.to_owned(), why };
        if let Some(directory) = &state.directory {
            let why =
                format!("it stands on the directory {}, which is no layer", directory.display());
            let fix = "write its tree with `ovl export`, or make a workspace of images";
            return Err(refused(Explained::because(why).fix(fix)).into());
        }
        if let Some(workspace) = &state.workspace
            && workspace.is_unwritten()?
        {
            state.upper = None;
        }
        if state.layers.is_empty() && state.upper.is_none() {
            return Err(refused(Explained::because("it has no layer")).into());
        }
        let image = OutgoingImage {
            all: self,
            configs: Vec::new(),
            own_layers: 0,
            name: None,
            created: None,
            annotations: BTreeMap::new(),
            state,
        };
        match image.state.record.clone() {
            Some(record) => Ok(image.of_workspace(&record)),
            None => image.of_image(),
        }
    }
}

impl OutgoingImage<'_> {
    fn of_workspace(mut self, record: &WorkspaceRecord) -> Self {
        let state = &self.state;
        let base = record.image_layers().len();
        self.own_layers =
            state.layers.len().saturating_sub(base) + usize::from(state.upper.is_some());
        let images = &self.all.store.images;
        self.configs = record.manifests().iter().filter_map(|it| images.config(it)).collect();
        if self.own_layers == 0 {
            return self;
        }
        let own = &state.layers[base.min(state.layers.len())..];
        let named = record.states.iter().rev().find(|it| it.layers == own && state.upper.is_none());
        let created = named.map_or_else(Timestamp::now, |state| state.taken);
        let names = match &record.base {
            WorkspaceBase::Images { names, .. } => &names[..],
            WorkspaceBase::Directory(_) => &[],
        };
        let base_name = names.first().and_then(|name| of_registry(name));
        let known = [
            ("org.opencontainers.image.created", Some(created.to_string())),
            ("org.opencontainers.image.base.name", base_name.map(|name| name.to_string())),
            (
                "org.opencontainers.image.base.digest",
                record.manifests().first().map(ToString::to_string),
            ),
            ("dev.csi.ovl.workspace", Some(state.text.clone())),
            ("dev.csi.ovl.own-layers", Some(self.own_layers.to_string())),
        ];
        self.annotations =
            known.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        self.created = Some(created);
        self
    }

    fn of_image(mut self) -> Result<Self, WorkspaceError> {
        let store = &self.all.store;
        let Some(reader) = StoreReader::open(store.root())? else { return Ok(self) };
        let images = reader.images()?.found;
        let has_layers = |image: &&ImageRecord| image.layers == self.state.layers;
        let named = image_named(&images, &self.state.text).filter(has_layers);
        // Of those with these layers, one of a registry has a config.
        let others = || {
            images.iter().filter(has_layers).max_by_key(|it| (name_of(it).is_some(), it.resolved))
        };
        if let Some(image) = named.or_else(others) {
            self.configs = store.images.config(&image.manifest).into_iter().collect();
            self.name = name_of(image);
        }
        Ok(self)
    }

    /// The name of the image in the store, if it is one of a registry.
    pub fn name(&self) -> Option<&Reference> {
        self.name.as_ref()
    }

    /// As the user named it.
    pub(super) fn text(&self) -> &str {
        &self.state.text
    }

    /// The number of its layers.
    pub(super) fn layers(&self) -> usize {
        self.state.layers.len() + usize::from(self.state.upper.is_some())
    }

    /// The key of a layer, counted from the bottom. `None` for the upper of a workspace.
    pub(super) fn key(&self, layer: usize) -> Option<&crate::layers::LayerKey> {
        self.state.layers.get(layer)
    }

    /// The diff ID of the tar from which a layer came. `None` if it came from none.
    pub(super) fn diff_id(&self, layer: usize) -> Result<Option<DiffId>, WorkspaceError> {
        match self.key(layer) {
            Some(key) => Ok(self.all.store.layers.diff_id(key)?),
            None => Ok(None),
        }
    }

    /// Writes the tar of a layer, counted from the bottom. An error of `out` is [`PackError::Output`], which `failed` names.
    pub(super) fn pack(
        &self,
        layer: usize,
        compression: Compression,
        out: &mut (dyn Write + Send),
        failed: impl FnOnce(PackError) -> OutgoingError,
    ) -> Result<Packed, WorkspaceError> {
        let all = self.all;
        let keys = &self.state.layers[..self.state.layers.len().min(layer + 1)];
        let OpenStack { mut lowers, lease: _lease } = all.open_layers(None, keys)?;
        let options = options(true);
        let (tree, hides_below) = match (self.key(layer), &self.state.upper) {
            (Some(key), _) => {
                let open = all.store.layers.lower(key)?;
                (open.tree, open.opaque_root)
            }
            (None, Some(upper)) => {
                lowers.push(upper_as_lower(upper.clone(), &options));
                (upper.clone(), false)
            }
            (None, None) => {
                let why = Explained::because(format!("it has no layer {layer}"));
                return Err(OutgoingError::Source { text: self.text().to_owned(), why }.into());
            }
        };
        let merged = all.view(lowers, options)?;
        let packing = PackOptions {
            format: Format::Portable,
            compression,
            clamp: None,
            owner: None,
            hides_below,
        };
        changeset::pack(&[&tree], &merged, &packing, &all.limits(), out)
            .map_err(|error| failed(error).into())
    }
}

/// The latest name of an image that is the name of a tag in a registry.
fn name_of(image: &ImageRecord) -> Option<Reference> {
    image.references.iter().rev().find_map(|name| of_registry(name))
}

/// A name that is the canonical one of a tag in a registry, and not that of a file.
fn of_registry(name: &str) -> Option<Reference> {
    let reference: Reference = name.parse().ok()?;
    let is_tag = reference.tag().is_some() && reference.digest().is_none();
    (is_tag && reference.to_string() == name).then_some(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_name_of_a_tag_is_one_of_a_registry() {
        assert!(of_registry("docker.io/library/debian:13").is_some());
        for other in
            ["docker-archive:saved.tar", "oci-archive:/x.tar", "debian:13", "sha256:00ff00ff"]
        {
            assert_eq!(of_registry(other), None, "{other}");
        }
    }
}
