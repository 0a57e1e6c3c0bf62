//! Image records: an image's layers and references, with which a pod can start without a request to the registry.
//!
//! ```text
//! <root>/images/<manifest digest, hex>.json    one record, with the config fields on which a snapshot's image is based
//! ```
//!
//! A pod that names an image causes a record, so records are bounded: each record in its references, all together in
//! number and bytes. A config is read from the disk when a snapshot is pushed; configs are never all in memory.
//!
//! In a shared store all records are read again for each call, because other processes write them too.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    access::{Access, DirGuard, DirLock},
    error::ImagesError,
    image_file::{ImageFile, file_name, keep_latest, read, read_config},
    image_record::{ImageDetails, ImageRecord},
    key::LayerKey,
    known_image::{KnownImage, next_use},
};
use crate::{
    digest::{BlobDigest, ManifestDigest},
    sys::durable::{self, at},
};

/// The bounds of all records after a garbage collection round.
const BOUNDS_AFTER_ROUND: Bounds = Bounds { count: 2048, bytes: 32 << 20 };
/// The bounds of all records between two rounds. Above them the least recently used record is removed, even if it is
/// needed.
const BOUNDS_BETWEEN_ROUNDS: Bounds =
    Bounds { count: 2 * BOUNDS_AFTER_ROUND.count, bytes: 2 * BOUNDS_AFTER_ROUND.bytes };

/// Limits of all records together.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    count: usize,
    /// Bytes of their files; they take less in memory.
    bytes: u64,
}

/// The records of all images, without the configs. In memory as on disk, except for the last use of an image, which is
/// written later. A reference is in at most one record.
#[derive(Debug)]
pub struct ImageRecords {
    dir: PathBuf,
    access: Access,
    known: Mutex<BTreeMap<ManifestDigest, KnownImage>>,
    /// Held by a writer, so that readers never wait for the disk. In a shared store also held by readers, because a list
    /// of a directory may lack a record that is replaced meanwhile.
    writer: DirLock,
}

impl ImageRecords {
    pub(super) fn load(dir: PathBuf, access: Access) -> io::Result<Self> {
        let writer = access.dir_lock(&dir);
        let images = Self { dir, access, known: Mutex::default(), writer };
        let writer = images.write()?;
        durable::remove_temp_files(&images.dir)?;
        if !images.access.is_shared() {
            images.read_all(|image, bytes| {
                images.remember(image, bytes);
                images.trim_to(BOUNDS_BETWEEN_ROUNDS, &HashSet::new()).map(drop)
            })?;
        }
        drop(writer);
        Ok(images)
    }

    /// Reads all records, each with the bytes of its file.
    fn read_all(&self, mut each: impl FnMut(ImageRecord, u64) -> io::Result<()>) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir).map_err(at("list", &self.dir))? {
            let path = entry.map_err(at("list", &self.dir))?.path();
            match read(&path) {
                Ok((image, bytes)) => each(image, bytes)?,
                // A record that cannot be read costs one request to a registry. It must not stop the node.
                Err(why) => {
                    tracing::warn!(path = %path.display(), why, "not an image record: ignored")
                }
            }
        }
        Ok(())
    }

    /// Reads the records again if other processes may have changed them.
    fn refresh(&self, _writer: &DirGuard<'_>) -> io::Result<()> {
        if self.access.is_shared() {
            let mut now = BTreeMap::new();
            self.read_all(|image, bytes| {
                now.insert(image.manifest, KnownImage::new(image, bytes));
                Ok(())
            })?;
            *self.known() = now;
        }
        Ok(())
    }

    /// [`Self::refresh`] for a reader. An error is logged: the reader then misses records, which costs a request to a
    /// registry.
    fn refresh_for_reader(&self) {
        if self.access.is_shared()
            && let Err(error) = self.write().and_then(|writer| self.refresh(&writer))
        {
            tracing::warn!(%error, "cannot read the image records again");
        }
    }

    /// As [`Self::refresh`], for one record.
    fn refresh_one(&self, manifest: &ManifestDigest, _writer: &DirGuard<'_>) {
        if self.access.is_shared() {
            match read(&self.path(manifest)) {
                Ok((image, bytes)) => self.remember(image, bytes),
                Err(_) => _ = self.known().remove(manifest),
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ManifestDigest, KnownImage>> {
        self.known.lock()
    }

    fn write(&self) -> io::Result<DirGuard<'_>> {
        self.writer.lock()
    }

    fn path(&self, manifest: &ManifestDigest) -> PathBuf {
        self.dir.join(file_name(manifest))
    }

    fn matching(&self, wanted: impl Fn(&ImageRecord) -> bool) -> Vec<Arc<ImageRecord>> {
        let known = self.known();
        known.values().map(|known| &known.image).filter(|image| wanted(image)).cloned().collect()
    }

    /// Writes a record. The caller holds the writer lock.
    fn write_record(&self, image: ImageRecord, config: Option<&str>) -> Result<(), ImagesError> {
        let bytes = self.write_file(&image, config)?;
        self.remember(image, bytes);
        Ok(())
    }

    /// Writes the file of a record. Without a new `config`, the file keeps its config. Returns its bytes. The caller
    /// holds the writer lock.
    fn write_file(&self, image: &ImageRecord, config: Option<&str>) -> Result<u64, ImagesError> {
        let old_config =
            if config.is_none() { read_config(&self.path(&image.manifest)) } else { None };
        let file = ImageFile { image, config: config.or(old_config.as_deref()) };
        let bytes = serde_json::to_vec_pretty(&file).map_err(io::Error::from)?;
        self.access.replace(&self.path(&image.manifest), &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Keeps a record in memory whose file has `bytes` bytes.
    fn remember(&self, image: ImageRecord, bytes: u64) {
        self.known().insert(image.manifest, KnownImage::new(image, bytes));
    }

    /// Removes records that are not `needed`, the least recently used first, until all are within `bounds`. The caller
    /// holds the writer lock. Returns the number of removed records.
    fn trim_to(&self, bounds: Bounds, needed: &HashSet<ManifestDigest>) -> io::Result<u64> {
        let (count, bytes) = {
            let known = self.known();
            (known.len(), known.values().map(|known| known.bytes).sum::<u64>())
        };
        let (mut count, mut bytes, mut removed) = (count, bytes, 0);
        if count <= bounds.count && bytes <= bounds.bytes {
            return Ok(removed);
        }
        let mut all: Vec<KnownImage> = self.known().values().cloned().collect();
        all.sort_by_key(|known| known.image.last_use());
        for KnownImage { image, bytes: freed, .. } in all {
            if count <= bounds.count && bytes <= bounds.bytes {
                break;
            }
            if needed.contains(&image.manifest) {
                continue;
            }
            durable::remove_file(&self.path(&image.manifest))?;
            self.known().remove(&image.manifest);
            tracing::info!(image = %image.manifest, "image record removed: there are too many");
            (count, bytes, removed) = (count - 1, bytes.saturating_sub(freed), removed + 1);
        }
        Ok(removed)
    }
}

impl ImageRecords {
    /// The image to which `reference` (canonical) was last resolved.
    pub fn named(&self, reference: &str) -> Option<Arc<ImageRecord>> {
        self.refresh_for_reader();
        // Two records may name it after a crash between the two writes of [`ImageRecords::put`].
        let named = self.matching(|image| image.is_named(reference));
        named.into_iter().max_by_key(|image| image.resolved)
    }

    /// The image with this `digest`, of its manifest or of an index, if it was resolved before at `place`
    /// (`registry/repository`). An image that was only resolved at other places is not returned.
    pub fn at(&self, place: &str, digest: &ManifestDigest) -> Option<Arc<ImageRecord>> {
        self.refresh_for_reader();
        let matches =
            |image: &ImageRecord| image.manifest == *digest || image.indexes.contains(digest);
        let found = self.matching(|image| matches(image) && image.is_from(place));
        found.into_iter().max_by_key(|image| image.resolved)
    }

    /// The fields of an image's config on which a snapshot's image is based, as JSON. Reads the disk; blocks.
    pub fn config(&self, manifest: &ManifestDigest) -> Option<String> {
        self.refresh_for_reader();
        self.known().get(manifest)?;
        read_config(&self.path(manifest))
    }

    /// As [`ImageRecords::config`], by the config's digest, if an image of `place` (`registry/repository`) has this
    /// config. Reads the disk; blocks.
    pub fn config_at(&self, place: &str, config: &BlobDigest) -> Option<String> {
        self.refresh_for_reader();
        let found = self.matching(|image| image.config_digest.as_ref() == Some(config));
        let image = found.into_iter().find(|image| image.is_from(place))?;
        read_config(&self.path(&image.manifest))
    }

    /// Records that `reference` (canonical) now resolves to this manifest with these layers, bottom first.
    pub fn put(
        &self,
        reference: &str,
        manifest: ManifestDigest,
        layers: &[LayerKey],
        details: &ImageDetails,
    ) -> Result<(), ImagesError> {
        let writer = self.write()?;
        self.refresh(&writer)?;
        let known = self.known().get(&manifest).map(|known| known.image.clone());
        let (mut references, mut indexes, mut config_digest) = match known.as_deref() {
            Some(known) => (known.references.clone(), known.indexes.clone(), known.config_digest),
            None => Default::default(),
        };
        references.retain(|known| known != reference);
        references.push(reference.to_owned());
        keep_latest(&mut references);
        indexes.retain(|known| Some(known) != details.index.as_ref());
        indexes.extend(details.index);
        keep_latest(&mut indexes);
        config_digest = details.config_digest.or(config_digest);
        let (layers, resolved) = (layers.to_vec(), next_use(&self.known()));
        let image = ImageRecord {
            manifest,
            references,
            indexes,
            layers,
            config_digest,
            resolved,
            used: None,
        };
        self.write_record(image, details.config.as_deref())?;
        for other in self.matching(|other| other.is_named(reference)) {
            if other.manifest != manifest {
                let mut other = ImageRecord::clone(&other);
                other.references.retain(|known| known != reference);
                self.write_record(other, None)?;
            }
        }
        self.trim_to(BOUNDS_BETWEEN_ROUNDS, &HashSet::from([manifest]))?;
        Ok(())
    }

    /// Remembers that an image is used, so that other images are removed first when the disk is full. Does not wait for
    /// the disk, because pods that start call it: `write_uses` writes the record. In a shared store the record is
    /// written now, but at most once an hour. Best effort: an error is logged.
    pub fn mark_used(&self, manifest: &ManifestDigest) {
        if self.access.is_shared() {
            let written = self.write().map_err(ImagesError::from).and_then(|writer| {
                self.refresh(&writer)?;
                self.remember_use(manifest);
                let known = self.known().get(manifest).filter(|known| known.is_old()).cloned();
                known.map_or(Ok(0), |known| self.write_file(&known.image, None))
            });
            if let Err(error) = written {
                tracing::warn!(image = %manifest, %error, "cannot record the last use of an image");
            }
            return;
        }
        self.remember_use(manifest);
    }

    fn remember_use(&self, manifest: &ManifestDigest) {
        let mut known = self.known();
        let now = next_use(&known);
        if let Some(KnownImage { image, .. }) = known.get_mut(manifest) {
            Arc::make_mut(image).used = Some(now);
        }
    }

    /// Writes the records whose last use is in a later hour than the one on disk. Best effort: after the first error,
    /// which is logged, the next call tries again. A crash before that costs only the order in which images are
    /// removed. In a shared store no use waits for this.
    pub(super) fn write_uses(&self) {
        if self.access.is_shared() {
            return;
        }
        let old: Vec<_> = self
            .known()
            .values()
            .filter(|known| known.is_old())
            .map(|known| known.image.manifest)
            .collect();
        for manifest in old {
            let written = self.write().map_err(ImagesError::from).and_then(|_writer| {
                let image = self.known().get(&manifest).map(|known| known.image.clone());
                // It may have been removed meanwhile.
                let Some(image) = image else { return Ok(()) };
                let bytes = self.write_file(&image, None)?;
                // A use meanwhile stays in memory.
                if let Some(known) = self.known().get_mut(&manifest) {
                    (known.bytes, known.written_use) = (bytes, image.last_use());
                }
                Ok(())
            });
            if let Err(error) = written {
                tracing::warn!(image = %manifest, %error, "cannot record the last use of an image; tried again in a minute");
                return;
            }
        }
    }

    /// All images, the least recently used first.
    ///
    /// # Errors
    /// The records of a shared store cannot be listed.
    pub(super) fn by_last_use(&self) -> io::Result<Vec<Arc<ImageRecord>>> {
        if self.access.is_shared() {
            self.refresh(&self.write()?)?;
        }
        let mut images = self.matching(|_| true);
        images.sort_by_key(|image| image.last_use());
        Ok(images)
    }

    /// Removes the least recently used image records that are not in `needed`, if there are too many. Returns the
    /// number of removed records.
    pub(super) fn trim(&self, needed: &HashSet<ManifestDigest>) -> io::Result<u64> {
        let writer = self.write()?;
        self.refresh(&writer)?;
        self.trim_to(BOUNDS_AFTER_ROUND, needed)
    }

    /// Takes a name from the image that has it. Returns whether one had it.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn untag(&self, reference: &str) -> Result<bool, ImagesError> {
        let writer = self.write()?;
        self.refresh(&writer)?;
        let named = self.matching(|image| image.is_named(reference));
        for image in &named {
            let mut image = ImageRecord::clone(image);
            image.references.retain(|known| known != reference);
            self.write_record(image, None)?;
        }
        Ok(!named.is_empty())
    }

    /// Removes an image's record, and returns it.
    pub(super) fn remove(&self, manifest: &ManifestDigest) -> io::Result<Option<Arc<ImageRecord>>> {
        let writer = self.write()?;
        self.refresh_one(manifest, &writer);
        let Some(known) = self.known().get(manifest).cloned() else { return Ok(None) };
        durable::remove_file(&self.path(manifest))?;
        self.known().remove(manifest);
        Ok(Some(known.image))
    }

    /// Removes an image's record, unless it was changed or used since it was read as `expected`. Returns whether it was
    /// removed.
    pub(super) fn remove_unchanged(&self, expected: &ImageRecord) -> io::Result<bool> {
        let writer = self.write()?;
        self.refresh_one(&expected.manifest, &writer);
        let unchanged =
            self.known().get(&expected.manifest).is_some_and(|known| *known.image == *expected);
        if !unchanged {
            return Ok(false);
        }
        durable::remove_file(&self.path(&expected.manifest))?;
        self.known().remove(&expected.manifest);
        Ok(true)
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
