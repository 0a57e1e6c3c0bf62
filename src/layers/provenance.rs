//! Where each layer has come from: what decides who may have it without bringing its bytes.
//!
//! A registry may claim any diff id, so only whoever delivered a layer's bytes is written down here.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Origin, Store, layer_meta::same_place};
use crate::{
    digest::Digest,
    sys::durable::{self, at},
};

/// How many origins of one layer are kept: base layers are in countless repositories, and the newest are asked for.
const KEPT: usize = 64;

/// Of how many layers they are in memory; the others' are read again.
const CACHED: usize = 512;

/// The origins of the layers that were asked for last, as on disk.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: Mutex<HashMap<Digest, Arc<Vec<Origin>>>>,
    /// Held by the one who writes, so that readers never wait for the disk.
    writer: Mutex<()>,
}

impl Origins {
    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Vec<Origin>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self, diff_id: Digest, origins: Arc<Vec<Origin>>) {
        let mut known = self.known();
        if known.len() >= CACHED && !known.contains_key(&diff_id) {
            // Any one will do: it is on the disk.
            let other = known.keys().next().copied();
            other.map(|other| known.remove(&other));
        }
        known.insert(diff_id, origins);
    }

    pub(super) fn forget(&self, diff_id: &Digest) {
        self.known().remove(diff_id);
    }
}

/// The file in a layer's directory.
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
    /// Where the layer has come from, the oldest first; nothing for one that is not here. Where that cannot be read nobody is
    /// known to have brought it, which costs the next one a download.
    pub fn origins(&self, diff_id: &Digest) -> Arc<Vec<Origin>> {
        if let Some(origins) = self.origins.known().get(diff_id) {
            return origins.clone();
        }
        if !self.has(diff_id) {
            return Arc::default();
        }
        let origins = Arc::new(read(&self.layer(diff_id)).unwrap_or_else(|error| {
            tracing::warn!(layer = %diff_id, %error, "origins are lost");
            Vec::new()
        }));
        self.origins.cache(*diff_id, origins.clone());
        origins
    }

    /// Records that the bytes of a layer that is here came from, or went to, `origin` too. What is public once stays so. The caller
    /// has a lease of the layer.
    pub fn add_origin(&self, diff_id: &Digest, origin: Origin) -> io::Result<()> {
        let _writer = self.origins.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut origins = Vec::clone(&self.origins(diff_id));
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
        write(&self.layer(diff_id), &origins)?;
        self.origins.cache(*diff_id, Arc::new(origins));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_bounded() {
        let origins = Origins::default();
        let layer = |n: usize| Digest::of(&n.to_le_bytes());
        (0..CACHED + 9).for_each(|n| origins.cache(layer(n), Arc::default()));
        origins.cache(layer(CACHED + 8), Arc::default());
        assert_eq!(origins.known().len(), CACHED);
        assert!(origins.known().contains_key(&layer(CACHED + 8)));
    }
}
