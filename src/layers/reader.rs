//! Reads a store without its locks: beside the node that has it, and where nothing can be written.
//!
//! A record is replaced by a rename, and a layer is renamed into place. So each of them is read whole, as it is now or was a
//! moment before. What is missing on the way to it was removed meanwhile. Two records need not be of the same moment: an
//! image can be listed whose layer is gone.
//!
//! Deliberately absent: the contents of layers. They need a lease, because a round can remove them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    error::OpenError,
    image_file,
    image_record::ImageRecord,
    key::LayerKey,
    layer_dirs::LayerDirs,
    layer_meta::LayerMeta,
    layer_storage::LayerStorage,
    snapshots::{self, SnapshotRecord},
    step_records::{self, StepKey},
    store::read_id,
    workspace_record::{WorkspaceName, WorkspaceRecord},
    workspace_records,
};
use crate::{digest::DiffId, media_type::Format, sys::durable::at};

/// A store that is only read.
#[derive(Debug)]
pub struct StoreReader {
    root: PathBuf,
    dirs: LayerDirs,
}

/// What is known of a layer without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its key.
    pub key: LayerKey,
    /// The key that represents it in the ChainID of a stack.
    pub chain_member: LayerKey,
    /// How it is stored.
    pub storage: LayerStorage,
    /// The digest of its uncompressed tar, and how that was read. `None` for a layer that was made of an upper.
    pub tar: Option<(DiffId, Format)>,
    /// The size of its image in bytes, or of its files if it was copied. `None` if it is an upper that was renamed: see
    /// [`StoreReader::tree_bytes`].
    pub bytes: Option<u64>,
    /// When it was added, by the wall clock.
    pub added: Timestamp,
}

/// How much a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// The number of records of images.
    pub images: usize,
    /// The number of layers.
    pub layers: usize,
    /// Bytes of the layers.
    pub layer_bytes: u64,
    /// The number of layers that are not in `layer_bytes`: only a walk through their files measures them.
    pub not_measured: usize,
    /// The number of workspaces.
    pub workspaces: usize,
    /// The number of snapshots of a node.
    pub snapshots: usize,
}

/// A record or the metadata of a layer that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
}

/// What was read, and what could not be read.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// What was read.
    pub found: T,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
}

impl StoreReader {
    /// The store at `root`. `None` if there is none.
    ///
    /// # Errors
    /// The store has an unknown format, or cannot be read.
    pub fn open(root: &Path) -> Result<Option<Self>, OpenError> {
        let id = read_id(&root.join("store.json"))?;
        Ok(id.map(|_| Self { root: root.to_owned(), dirs: LayerDirs::new(root) }))
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The records of images, in the order of their file names.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn images(&self) -> io::Result<Read<Vec<ImageRecord>>> {
        self.records("images", |path| image_file::read(path).map(|(image, _)| image))
    }

    /// The records of a node's snapshots, in the order of their file names.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn snapshots(&self) -> io::Result<Read<Vec<SnapshotRecord>>> {
        self.records("snapshots", snapshots::read)
    }

    /// The records of workspaces, by name.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn workspaces(&self) -> io::Result<Read<Vec<(WorkspaceName, WorkspaceRecord)>>> {
        let dir = self.root.join("workspaces");
        let (mut found, mut unreadable) = (Vec::new(), Vec::new());
        for name in missing_is_empty(workspace_records::names(&dir))? {
            match workspace_records::read(&dir, &name) {
                Ok(record) => found.extend(record.map(|record| (name, record))),
                Err(e) => {
                    unreadable
                        .push(Unreadable { path: dir.join(name.as_str()), why: e.to_string() });
                }
            }
        }
        Ok(Read { found, unreadable })
    }

    /// The layers that steps have made, in the order of their file names.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn steps(&self) -> io::Result<Read<Vec<(StepKey, LayerKey)>>> {
        self.records("steps", step_records::read_named)
    }

    /// The keys of all layers, sorted, damaged ones too.
    ///
    /// # Errors
    /// The layers cannot be listed.
    pub(super) fn keys(&self) -> io::Result<Vec<LayerKey>> {
        let mut keys = missing_is_empty(self.dirs.keys())?;
        keys.sort();
        Ok(keys)
    }

    /// The entry of a layer that is or was in quarantine.
    pub(super) fn quarantined(&self, layer: &LayerKey) -> Option<PathBuf> {
        self.dirs.quarantined(layer)
    }

    /// The directory of a layer.
    pub(super) fn dir_of(&self, layer: &LayerKey) -> PathBuf {
        self.dirs.of(layer)
    }

    /// The layers, by key.
    ///
    /// # Errors
    /// The layers cannot be listed.
    pub fn layers(&self) -> io::Result<Read<BTreeMap<LayerKey, LayerInfo>>> {
        let (mut found, mut unreadable) = (BTreeMap::new(), Vec::new());
        for key in missing_is_empty(self.dirs.keys())? {
            let path = self.dirs.of(&key);
            match info(&path, key) {
                Ok(info) => _ = found.insert(key, info),
                Err(_) if is_gone(&path) => {}
                Err(why) => unreadable.push(Unreadable { path, why }),
            }
        }
        Ok(Read { found, unreadable })
    }

    /// The size of a layer's image in bytes, or of its files if it was copied; 0 if only a walk through its files measures
    /// it. `None` if the layer is missing. Of an image it reads nothing but the length.
    ///
    /// # Errors
    /// The metadata of a layer that is a directory tree cannot be read.
    pub fn layer_bytes(&self, layer: &LayerKey) -> Result<Option<u64>, Unreadable> {
        let path = self.dirs.of(layer);
        if let Ok(image) = fs::symlink_metadata(path.join(LayerStorage::Erofs.content())) {
            return Ok(Some(image.len()));
        }
        match LayerMeta::read(&path) {
            Ok(meta) => Ok(Some(meta.image_bytes)),
            Err(_) if is_gone(&path) => Ok(None),
            Err(error) => Err(Unreadable { path, why: error.to_string() }),
        }
    }

    /// The directory or the image file of a layer, and whether it hides all layers below it. `None` if it is missing.
    ///
    /// # Errors
    /// Its metadata cannot be read.
    pub fn content(&self, layer: &LayerKey) -> Result<Option<(PathBuf, bool)>, Unreadable> {
        let path = self.dirs.of(layer);
        match LayerMeta::read(&path) {
            Ok(meta) => Ok(Some((path.join(meta.storage.content()), meta.opaque_root))),
            Err(_) if is_gone(&path) => Ok(None),
            Err(error) => Err(Unreadable { path, why: error.to_string() }),
        }
    }

    /// The record of one workspace. `None` if there is no such workspace.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn workspace(&self, name: &WorkspaceName) -> io::Result<Option<WorkspaceRecord>> {
        workspace_records::read(&self.root.join("workspaces"), name)
    }

    /// How much the store has. Reads no record.
    ///
    /// # Errors
    /// The records or the layers cannot be listed.
    pub fn totals(&self) -> io::Result<Read<Totals>> {
        let count =
            |part| Ok::<_, io::Error>(missing_is_empty(files(&self.root.join(part)))?.len());
        let workspaces = missing_is_empty(workspace_records::names(&self.root.join("workspaces")))?;
        let mut found = Totals {
            images: count("images")?,
            snapshots: count("snapshots")?,
            workspaces: workspaces.len(),
            ..Totals::default()
        };
        let mut unreadable = Vec::new();
        for key in missing_is_empty(self.dirs.keys())? {
            match self.layer_bytes(&key) {
                // Removed meanwhile.
                Ok(None) => continue,
                Ok(Some(bytes)) => {
                    found.layer_bytes += bytes;
                    found.not_measured += usize::from(bytes == 0);
                }
                Err(error) => unreadable.push(error),
            }
            found.layers += 1;
        }
        Ok(Read { found, unreadable })
    }

    /// The bytes on the disk of a layer that is stored as a directory tree. Walks the tree. 0 if it is gone.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn tree_bytes(&self, layer: &LayerKey) -> io::Result<u64> {
        self.dirs.tree_bytes(layer)
    }

    fn records<T>(
        &self,
        part: &str,
        read: impl Fn(&Path) -> Result<T, String>,
    ) -> io::Result<Read<Vec<T>>> {
        let (mut found, mut unreadable) = (Vec::new(), Vec::new());
        for path in missing_is_empty(files(&self.root.join(part)))? {
            match read(&path) {
                Ok(record) => found.push(record),
                Err(_) if is_gone(&path) => {}
                Err(why) => unreadable.push(Unreadable { path, why }),
            }
        }
        Ok(Read { found, unreadable })
    }
}

fn info(dir: &Path, key: LayerKey) -> Result<LayerInfo, String> {
    let meta = LayerMeta::read(dir).map_err(|e| e.to_string())?;
    let chain_member = meta.chain_member().ok_or("it has neither a key nor a diff ID")?;
    let format = if meta.key.is_some() { Format::Native } else { Format::Portable };
    Ok(LayerInfo {
        key,
        chain_member,
        storage: meta.storage,
        tar: meta.diff_id.map(|diff_id| (diff_id, format)),
        bytes: (meta.image_bytes > 0).then_some(meta.image_bytes),
        added: meta.added,
    })
}

/// The paths of the records in a directory, sorted. A file that is being written has another suffix.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let path = entry.map_err(at("list", dir))?.path();
        if path.extension().is_some_and(|suffix| suffix == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn missing_is_empty<T: Default>(listed: io::Result<T>) -> io::Result<T> {
    match listed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        listed => listed,
    }
}

fn is_gone(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound)
}
