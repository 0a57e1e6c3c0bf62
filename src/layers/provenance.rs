//! Origins: the repositories that delivered each layer's bytes. They decide which pods may use a layer without a
//! download.
//!
//! A registry may claim any diff ID, so a repository is recorded as an origin only after it delivered the layer's
//! bytes.

use std::{
    fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::{
    access::{Access, DirLock},
    key::LayerKey,
    layer_dirs::LayerDirs,
};
use crate::{
    digest::{BlobDigest, DiffId},
    sys::durable::{self, at},
};

/// A repository that a layer's bytes came from, or were pushed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The registry, `host[:port]`.
    pub registry: String,
    /// The repository in the registry.
    pub repository: String,
    /// The digest of the blob in the repository (compressed).
    pub blob: BlobDigest,
    /// Whether the registry has served it without a credential.
    pub public: bool,
    /// The blob's descriptor, with which another manifest can name it too. `None` if an earlier version added the
    /// layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedBlob>,
    /// For a pushed layer: the namespace of the snapshot. The origin counts for this namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The description of a layer's blob in a manifest and its config.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackedBlob {
    /// The blob's media type.
    pub media_type: String,
    /// The blob's size in bytes.
    pub size: u64,
    /// The digest of its uncompressed tar. The store does not know that of a snapshot layer otherwise.
    pub diff_id: DiffId,
}

/// Whether both origins are the same blob in the same repository for the same namespace.
fn same_place(one: &Origin, other: &Origin) -> bool {
    let place = (&one.registry, &one.repository, one.blob, &one.namespace);
    place == (&other.registry, &other.repository, other.blob, &other.namespace)
}

/// The most origins of one layer. Base layers are in very many repositories, and the newest origins are the ones in
/// use.
const MOST: usize = 64;

/// The number of layers whose origins are cached in memory; those of other layers are read from the disk.
const CACHED: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// The origins of all layers.
#[derive(Debug)]
pub struct Origins {
    dirs: LayerDirs,
    access: Access,
    /// A cache of the origins on disk. Empty in a shared store, where other processes change them too.
    known: Mutex<LruCache<LayerKey, Arc<Vec<Origin>>>>,
    /// Held by a writer, so that readers never wait for the disk.
    writer: DirLock,
}

impl Origins {
    /// The origins of the layers in these directories.
    pub(super) fn new(dirs: LayerDirs, access: Access) -> Self {
        let writer = access.dir_lock(dirs.path());
        Self { dirs, access, known: Mutex::new(LruCache::new(CACHED)), writer }
    }

    fn known(&self) -> MutexGuard<'_, LruCache<LayerKey, Arc<Vec<Origin>>>> {
        self.known.lock()
    }

    fn cache(&self, key: LayerKey, origins: Arc<Vec<Origin>>) {
        if !self.access.is_shared() {
            self.known().put(key, origins);
        }
    }

    /// The layer's origins, the oldest first; empty for a layer that is not in the store. Also empty if they cannot be
    /// read, which costs the next pod a download.
    pub fn of(&self, key: &LayerKey) -> Arc<Vec<Origin>> {
        if let Some(origins) = self.known().get(key) {
            return origins.clone();
        }
        if !self.dirs.has(key) {
            return Arc::default();
        }
        let origins = Arc::new(read(&self.dirs.of(key)).unwrap_or_else(|error| {
            tracing::warn!(layer = %key, %error, "cannot read a layer's origins: the next pod downloads it again");
            Vec::new()
        }));
        self.cache(*key, origins.clone());
        origins
    }

    /// Adds an origin of a layer in the store: its bytes were downloaded from there, or pushed there. An origin that
    /// was public once stays public. The caller has a lease of the layer.
    pub fn add(&self, key: &LayerKey, origin: Origin) -> io::Result<()> {
        let _writer = self.writer.lock()?;
        let mut origins = Vec::clone(&self.of(key));
        match origins.iter_mut().find(|known| same_place(known, &origin)) {
            Some(known) => {
                let before = known.clone();
                known.public |= origin.public;
                known.packed = origin.packed.or(known.packed.take());
                if *known == before {
                    return Ok(());
                }
            }
            None => origins.push(origin),
        }
        if origins.len() > MOST {
            let oldest = origins.iter().position(|known| !known.public).unwrap_or(0);
            origins.remove(oldest);
        }
        self.access.replace(&path(&self.dirs.of(key)), &serde_json::to_vec_pretty(&origins)?)?;
        self.cache(*key, Arc::new(origins));
        Ok(())
    }

    /// Forgets the origins of a layer that was removed.
    pub(super) fn forget(&self, key: &LayerKey) {
        self.known().pop(key);
    }
}

/// The path of `origins.json` in a layer's directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("origins.json")
}

/// Writes the origins of a new layer, which is staged in `dir`.
pub(super) fn write(dir: &Path, origins: &[Origin]) -> io::Result<()> {
    durable::write_atomic(&path(dir), &serde_json::to_vec_pretty(origins)?)
}

pub(super) fn read(dir: &Path) -> io::Result<Vec<Origin>> {
    let path = path(dir);
    match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(at("read", &path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_of_origins_is_bounded() {
        let origins = Origins::new(LayerDirs::new(Path::new("/nowhere")), Access::Alone);
        let layer = |n: usize| LayerKey::of(&n.to_le_bytes());
        let last = CACHED.get() + 8;
        (0..=last).for_each(|n| origins.cache(layer(n), Arc::default()));
        origins.cache(layer(last), Arc::default());
        assert_eq!(origins.known().len(), CACHED.get());
        assert!(origins.known().contains(&layer(last)));
    }
}
