//! The images of a store, and layers that are applied by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Seek as _},
    path::Path,
};

use jiff::Timestamp;

use super::{
    error::WorkspaceError,
    name::image_named,
    open::Workspaces,
    sources::{Stacked, source_error},
    stack::State,
};
use crate::{
    digest::ManifestDigest,
    layers::{
        ChainId, GcStats, ImageDetails, ImageRecord, LayerKey, RemovedImage, StoreReader,
        Unreadable, WorkspaceRecord,
    },
    media_type::Format,
    reference::Reference,
};

/// One image, as `image ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedImage {
    /// Its names, the latest last.
    pub references: Vec<String>,
    /// The digest of its manifest. Of an image in files: that of the file, or of the manifest in it.
    pub manifest: ManifestDigest,
    /// Its layers, bottom first.
    pub layers: Vec<LayerKey>,
    /// Bytes of its layers on the disk. Other images can have the same ones.
    pub bytes: u64,
    /// How many of its layers are missing. A pull brings them again.
    pub missing: usize,
    /// When it was last pulled or used.
    pub last_use: Timestamp,
    /// The workspaces that were made of it.
    pub workspaces: Vec<String>,
}

/// The images of a store, by name, and what could not be read. Takes no lock.
///
/// # Errors
/// The records or the layers cannot be listed.
pub fn images(reader: &StoreReader) -> io::Result<(Vec<ListedImage>, Vec<Unreadable>)> {
    let (images, workspaces) = (reader.images()?, reader.workspaces()?);
    // After the records: a layer is there before a record names it.
    let mut sizes = BTreeMap::new();
    let mut unreadable = [images.unreadable, workspaces.unreadable].concat();
    for key in images.found.iter().flat_map(|image| &image.layers).collect::<BTreeSet<_>>() {
        match reader.layer_bytes(key) {
            Ok(bytes) => sizes.extend(bytes.map(|bytes| (*key, bytes))),
            Err(error) => unreadable.push(error),
        }
    }
    let made_of = |manifest: &ManifestDigest| {
        let made = |record: &WorkspaceRecord| record.manifests().contains(manifest);
        let made = workspaces.found.iter().filter(|(_, record)| made(record));
        made.map(|(name, _)| name.to_string()).collect()
    };
    let listed = images.found.into_iter().map(|image| {
        let (bytes, missing) = size(&image, &sizes);
        ListedImage {
            workspaces: made_of(&image.manifest),
            last_use: image.last_use(),
            references: image.references,
            manifest: image.manifest,
            layers: image.layers,
            bytes,
            missing,
        }
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort_by(|one, other| {
        (one.references.last(), one.manifest).cmp(&(other.references.last(), other.manifest))
    });
    Ok((listed, unreadable))
}

/// The bytes of an image's layers, each counted once, and the number of those that are missing.
fn size(image: &ImageRecord, sizes: &BTreeMap<LayerKey, u64>) -> (u64, usize) {
    let keys: BTreeSet<_> = image.layers.iter().collect();
    let missing = keys.iter().filter(|key| !sizes.contains_key(key)).count();
    (keys.iter().filter_map(|key| sizes.get(key)).sum(), missing)
}

impl Workspaces {
    /// Removes an image, and those of its layers that nothing else needs. With `force` also one from which a workspace was
    /// made: the workspace keeps the layers, and loses the command, the environment and the user of the image.
    ///
    /// # Errors
    /// There is no such image, a workspace was made of it, or a record cannot be read.
    pub fn remove_image(&self, text: &str, force: bool) -> Result<GcStats, WorkspaceError> {
        self.require_no_volumes()?;
        let manifest = self.manifest_of(text)?;
        match self.store.remove_image(&manifest, force)? {
            RemovedImage::Removed(done) => Ok(done),
            RemovedImage::Absent => Err(unknown(text)),
            RemovedImage::Needed => {
                let records = self.store.workspaces.readable()?;
                let made = records.iter().filter(|(_, it)| it.manifests().contains(&manifest));
                let made: Vec<_> = made.map(|(name, _)| name.to_string()).collect();
                let by = match &made[..] {
                    [] => "a snapshot of a node".to_owned(),
                    names => format!("workspace {}", names.join(", ")),
                };
                Err(source_error(
                    text,
                    format!(
                        "{by} was made of it; remove that first, or repeat the command with --force, which keeps the \
                         layers and drops the command, the environment and the user of the image"
                    ),
                ))
            }
        }
    }

    /// Takes a name from the image that has it. Without a name it stays until `gc`, or until it is removed.
    ///
    /// # Errors
    /// No image has this name, or its record cannot be written.
    pub fn untag_image(&self, text: &str) -> Result<(), WorkspaceError> {
        let canonical = text.parse::<Reference>().map(|reference| reference.to_string());
        for name in [Some(text.to_owned()), canonical.ok()].into_iter().flatten() {
            if self.store.images.untag(&name).map_err(|e| source_error(text, e))? {
                return Ok(());
            }
        }
        Err(unknown(text))
    }

    fn manifest_of(&self, text: &str) -> Result<ManifestDigest, WorkspaceError> {
        let reader = StoreReader::open(self.root())?.ok_or_else(|| unknown(text))?;
        let images = reader.images()?.found;
        image_named(&images, text).map(|image| image.manifest).ok_or_else(|| unknown(text))
    }

    /// Adds the layer in a tar, compressed or not, on top of a state. Returns the ChainID of the two. The store keeps them
    /// as an image of this name until `gc`.
    ///
    /// # Errors
    /// The state has a directory or an upper below, the tar is no layer, or the disk is full.
    pub async fn apply_layer(
        &self,
        parent: Option<State<'_>>,
        tar: &Path,
        format: Format,
    ) -> Result<ChainId, WorkspaceError> {
        let (below, mut stacked) = stack_below(parent)?;
        let keys = self.add_tar_file(below, tar, format, &mut stacked).await?;
        self.record_stack(&keys)
    }

    /// As [`Self::apply_layer`], for a tar that can be read once only. It is kept in a file of the store meanwhile.
    ///
    /// # Errors
    /// As [`Self::apply_layer`].
    pub async fn apply_layer_once(
        &self,
        parent: Option<State<'_>>,
        mut tar: impl Read,
        format: Format,
    ) -> Result<ChainId, WorkspaceError> {
        let mut file = self.store.staging.unnamed_file()?;
        let size = io::copy(&mut tar, &mut file).map_err(|e| source_error("tar:-", e))?;
        let again = || {
            let mut again = file.try_clone()?;
            again.rewind()?;
            Ok(again)
        };
        let open = || again().map_err(|e: io::Error| source_error("tar:-", e));
        let (below, mut stacked) = stack_below(parent)?;
        let keys = self.add_tar(below, "tar:-", size, format, open, &mut stacked).await?;
        self.record_stack(&keys)
    }

    /// Records layers as an image whose name is their ChainID. The caller has a lease of them.
    fn record_stack(&self, keys: &[LayerKey]) -> Result<ChainId, WorkspaceError> {
        let chain = self.store.layers.chain_id(keys)?;
        let chain =
            chain.ok_or_else(|| io::Error::other("a stack without a layer has no ChainID"))?;
        let manifest = ManifestDigest::of(format!("ovl-csi layers {chain}").as_bytes());
        let name = chain.to_string();
        let put = self.store.images.put(&name, manifest, keys, &ImageDetails::default());
        put.map_err(|e| source_error(&name, e))?;
        Ok(chain)
    }
}

/// The layers of the state on which a layer is applied, and what keeps them.
fn stack_below(parent: Option<State<'_>>) -> Result<(Vec<LayerKey>, Stacked), WorkspaceError> {
    let Some(parent) = parent else { return Ok(Default::default()) };
    let (layers, lease) = parent.without_directory()?;
    Ok((layers, Stacked { lease, ..Stacked::default() }))
}

fn unknown(text: &str) -> WorkspaceError {
    source_error(text, "the store has no such image; `ovl image ls` lists those that it has")
}
