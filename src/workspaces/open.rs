//! Opens a store for the commands of workspaces.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    copied::Copied,
    error::WorkspaceError,
    fetching::{Fetching, OnFetching},
    known_features::{known_features, remember_features},
};
use crate::{
    layers::{LayerStorage, Store, StoreLock, StoreSettings},
    overlay::{Feature, KernelFeatures, root_usable},
    sys::{
        host, limits,
        mounts::{LinuxMounts, Mounts},
        statfs,
    },
};

/// The workspaces of one store.
#[derive(Debug)]
pub struct Workspaces {
    /// Dropped before the store: old kernels have mounts in the staging directory of this process.
    pub(super) mounts: Arc<dyn Mounts>,
    pub(super) features: KernelFeatures,
    pub(super) store: Arc<Store>,
    /// Gets how each state of a mounted workspace was copied.
    pub(super) on_copied: fn(&Copied),
    /// Gets how far each layer of an image is fetched.
    pub(super) on_fetching: OnFetching,
}

impl Workspaces {
    /// Opens the store at `root` together with other commands, and creates it if it does not exist. Blocks.
    ///
    /// # Errors
    /// A node has the store, the directory cannot hold one, or a file system operation failed.
    pub fn open(root: &Path, ignored_checks: &[String]) -> Result<Self, WorkspaceError> {
        if !host::is_root() {
            return Err(WorkspaceError::NotRoot);
        }
        // Each layer in use needs a descriptor, and each lease one more. Too few of them are reported where they are missed.
        let _ = limits::raise_open_files();
        let root = absolute(root)?;
        let lock = StoreLock::shared(&root)?;
        let features = features(&root, &lock.staging())?;
        let failed = root_usable(&root, &features, ignored_checks);
        if let Some(first) = failed.map_err(WorkspaceError::disk("look at", &root))?.first() {
            let kind = statfs::of(&root).ok().and_then(|space| space.kind());
            return Err(WorkspaceError::Unusable { root, kind, check: first.clone() });
        }
        let mounts = features.mounts(&lock.lowers())?;
        let storage = match features.has(Feature::Erofs) {
            true => LayerStorage::Erofs,
            false => LayerStorage::Dir,
        };
        let settings = StoreSettings { storage, ..StoreSettings::default() };
        let store = Arc::new(Store::open_locked(lock, mounts.clone(), settings)?);
        store
            .staging
            .remove_abandoned()
            .map_err(WorkspaceError::disk("empty staging of", &root))?;
        let on_fetching = OnFetching::default();
        Ok(Self { store, mounts, features, on_copied: |_| {}, on_fetching })
    }

    /// Calls `report` with how each state of a mounted workspace was copied.
    #[must_use]
    pub fn on_copied(self, report: fn(&Copied)) -> Self {
        Self { on_copied: report, ..self }
    }

    /// Calls `report` with how far each layer of an image is fetched. It must not block.
    pub fn set_on_fetching(&mut self, report: impl Fn(&Fetching) + Send + Sync + 'static) {
        self.on_fetching = OnFetching::new(report);
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        self.store.root()
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

/// The path without symlinks. The last parts of it may not exist yet.
fn absolute(root: &Path) -> Result<PathBuf, WorkspaceError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let rest = root.strip_prefix(existing).unwrap_or(Path::new(""));
    let real = existing.canonicalize().map_err(WorkspaceError::disk("open", existing))?;
    // Without the slash that joining an empty path would add.
    Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
}

fn features(root: &Path, scratch: &Path) -> Result<KernelFeatures, WorkspaceError> {
    if let Some(features) = known_features(root) {
        return Ok(features);
    }
    let failed = WorkspaceError::disk("probe the kernel's features in", root);
    let features = KernelFeatures::probe(&LinuxMounts, scratch).map_err(failed)?;
    // A store that cannot be written is reported by the command itself.
    let _ = remember_features(root, scratch, &features);
    Ok(features)
}
