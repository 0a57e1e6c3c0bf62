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

use super::{LayerKey, Origin, Store, layer_meta::same_place};
use crate::sys::durable::{self, at};

/// The most origins of one layer. Base layers are in very many repositories, and the newest origins are the ones in
/// use.
const KEPT: usize = 64;

/// The number of layers whose origins are cached in memory; those of other layers are read from the disk.
const CACHED: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// A cache of the origins on disk.
#[derive(Debug)]
pub(super) struct Origins {
    known: Mutex<LruCache<LayerKey, Arc<Vec<Origin>>>>,
    /// Held by a writer, so that readers never wait for the disk.
    writer: Mutex<()>,
}

impl Default for Origins {
    fn default() -> Self {
        Self { known: Mutex::new(LruCache::new(CACHED)), writer: Mutex::default() }
    }
}

impl Origins {
    fn known(&self) -> MutexGuard<'_, LruCache<LayerKey, Arc<Vec<Origin>>>> {
        self.known.lock()
    }

    fn cache(&self, key: LayerKey, origins: Arc<Vec<Origin>>) {
        self.known().put(key, origins);
    }

    pub(super) fn forget(&self, key: &LayerKey) {
        self.known().pop(key);
    }
}

/// The path of `origins.json` in a layer's directory.
fn path(dir: &Path) -> PathBuf {
    dir.join("origins.json")
}

/// Writes the origins of the layer in `dir`.
pub(super) fn write(dir: &Path, origins: &[Origin]) -> io::Result<()> {
    durable::write_atomic(&path(dir), &serde_json::to_vec_pretty(origins)?)
}

fn read(dir: &Path) -> io::Result<Vec<Origin>> {
    let path = path(dir);
    match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(at("read", &path)),
    }
}

impl Store {
    /// The layer's origins, the oldest first; empty for a layer that is not in the store. Also empty if they cannot be
    /// read, which costs the next pod a download.
    pub fn origins(&self, key: &LayerKey) -> Arc<Vec<Origin>> {
        if let Some(origins) = self.origins.known().get(key) {
            return origins.clone();
        }
        if !self.has(key) {
            return Arc::default();
        }
        let origins = Arc::new(read(&self.layer(key)).unwrap_or_else(|error| {
            tracing::warn!(layer = %key, %error, "cannot read a layer's origins: the next pod downloads it again");
            Vec::new()
        }));
        self.origins.cache(*key, origins.clone());
        origins
    }

    /// Adds an origin of a layer in the store: its bytes were downloaded from there, or pushed there. An origin that
    /// was public once stays public. The caller has a lease of the layer.
    pub fn add_origin(&self, key: &LayerKey, origin: Origin) -> io::Result<()> {
        let _writer = self.origins.writer.lock();
        let mut origins = Vec::clone(&self.origins(key));
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
        if origins.len() > KEPT {
            let oldest = origins.iter().position(|known| !known.public).unwrap_or(0);
            origins.remove(oldest);
        }
        write(&self.layer(key), &origins)?;
        self.origins.cache(*key, Arc::new(origins));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_of_origins_is_bounded() {
        let origins = Origins::default();
        let layer = |n: usize| LayerKey::of(&n.to_le_bytes());
        let last = CACHED.get() + 8;
        (0..=last).for_each(|n| origins.cache(layer(n), Arc::default()));
        origins.cache(layer(last), Arc::default());
        assert_eq!(origins.known().len(), CACHED.get());
        assert!(origins.known().contains(&layer(last)));
    }
}
