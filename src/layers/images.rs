//! Image records: an image's layers and references, with which a pod can start without a request to the registry.
//!
//! ```text
//! <root>/images/<manifest digest, hex>.json    one record, with the config fields on which a snapshot's image is based
//! ```
//!
//! A pod that names an image causes a record, so records are bounded: each record in its references, all together in
//! number and bytes. A config is read from the disk when a snapshot is pushed; configs are never all in memory.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::{
    error::ImagesError,
    image_record::{ImageDetails, ImageRecord},
    key::LayerKey,
};
use crate::{
    digest::{BlobDigest, ManifestDigest},
    sys::durable::{self, at},
};

/// A record's file as it is written.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    image: &'a ImageRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a str>,
}

/// The part of a record's file that is read only when a snapshot needs it.
#[derive(Deserialize)]
struct ConfigOnly {
    config: Option<String>,
}

/// The seconds of an hour. The last use of an image is written at most once per hour.
const HOUR: i64 = 3600;
/// The most references, and the most indexes, in one record.
const NAMES: usize = 32;
/// The largest file that is read, in bytes. Files that this version writes are smaller: a config of 1 MiB names at most
/// some 14,000 layers.
const FILE_MAX: u64 = 4 << 20;
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

/// A record, and what is on disk of it.
#[derive(Debug, Clone)]
struct KnownImage {
    image: Arc<ImageRecord>,
    /// The bytes of its file.
    bytes: u64,
    /// Its last use according to its file.
    written_use: Timestamp,
}

/// The records of all images, without the configs. In memory as on disk, except for the last use of an image, which is
/// written later. A reference is in at most one record.
#[derive(Debug)]
pub struct ImageRecords {
    dir: PathBuf,
    known: Mutex<BTreeMap<ManifestDigest, KnownImage>>,
    /// Held by a writer, so that readers never wait for the disk.
    writer: Mutex<()>,
}

impl ImageRecords {
    pub(super) fn load(dir: PathBuf) -> io::Result<Self> {
        durable::remove_temp_files(&dir)?;
        let entries = fs::read_dir(&dir).map_err(at("list", &dir))?;
        let images = Self { dir, known: Mutex::default(), writer: Mutex::default() };
        for entry in entries {
            let path = entry.map_err(at("list", &images.dir))?.path();
            match read(&path) {
                Ok((image, bytes)) => {
                    images.remember(image, bytes);
                    images.trim_to(BOUNDS_BETWEEN_ROUNDS, &HashSet::new())?;
                }
                // A record that cannot be read costs one request to a registry. It must not stop the node.
                Err(why) => {
                    tracing::warn!(path = %path.display(), why, "not an image record: ignored")
                }
            }
        }
        Ok(images)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ManifestDigest, KnownImage>> {
        self.known.lock()
    }

    fn write(&self) -> MutexGuard<'_, ()> {
        self.writer.lock()
    }

    fn path(&self, manifest: &ManifestDigest) -> PathBuf {
        self.dir.join(file_name(manifest))
    }

    fn matching(&self, wanted: impl Fn(&ImageRecord) -> bool) -> Vec<Arc<ImageRecord>> {
        let known = self.known();
        known.values().map(|known| &known.image).filter(|image| wanted(image)).cloned().collect()
    }

    /// The config in a record's file.
    fn read_config(&self, manifest: &ManifestDigest) -> Option<String> {
        let (bytes, _) = bounded(&self.path(manifest)).ok()?;
        serde_json::from_slice::<ConfigOnly>(&bytes).ok()?.config
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
        let old_config = if config.is_none() { self.read_config(&image.manifest) } else { None };
        let file = File { image, config: config.or(old_config.as_deref()) };
        let bytes = serde_json::to_vec_pretty(&file).map_err(io::Error::from)?;
        durable::write_atomic(&self.path(&image.manifest), &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Keeps a record in memory whose file has `bytes` bytes.
    fn remember(&self, image: ImageRecord, bytes: u64) {
        let (manifest, written_use) = (image.manifest, image.last_use());
        self.known().insert(manifest, KnownImage { image: Arc::new(image), bytes, written_use });
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

/// Reads a record. Its file must be named after its manifest: a copy under another name may be outdated.
fn read(path: &Path) -> Result<(ImageRecord, u64), String> {
    let (bytes, size) = bounded(path)?;
    let mut image: ImageRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    keep_latest(&mut image.references);
    keep_latest(&mut image.indexes);
    match path.file_name() {
        Some(name) if name == file_name(&image.manifest).as_str() => Ok((image, size)),
        _ => Err(format!("its name differs: it is the record of {}", image.manifest)),
    }
}

/// Reads a file and its size in bytes, if it is not larger than any file that this version writes.
fn bounded(path: &Path) -> Result<(Vec<u8>, u64), String> {
    let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("it has {size} bytes, and no record has more than {FILE_MAX}"));
    }
    Ok((fs::read(path).map_err(|e| e.to_string())?, size))
}

fn file_name(manifest: &ManifestDigest) -> String {
    format!("{}.json", manifest.digest().hex())
}

/// A timestamp for a use that is later than all known ones, even if the clock was set back. Uses are only compared with
/// each other.
fn next_use(known: &BTreeMap<ManifestDigest, KnownImage>) -> Timestamp {
    let latest = known.values().map(|known| known.image.last_use()).max();
    let next = latest.and_then(|latest| latest.checked_add(SignedDuration::from_nanos(1)).ok());
    Timestamp::now().max(next.unwrap_or(Timestamp::MIN))
}

/// Removes the oldest names, so that at most [`NAMES`] are left.
fn keep_latest<T>(names: &mut Vec<T>) {
    names.drain(..names.len().saturating_sub(NAMES));
}

impl ImageRecords {
    /// The image to which `reference` (canonical) was last resolved.
    pub fn named(&self, reference: &str) -> Option<Arc<ImageRecord>> {
        // Two records may name it after a crash between the two writes of [`ImageRecords::put`].
        let named = self.matching(|image| image.is_named(reference));
        named.into_iter().max_by_key(|image| image.resolved)
    }

    /// The image with this `digest`, of its manifest or of an index, if it was resolved before at `place`
    /// (`registry/repository`). An image that was only resolved at other places is not returned.
    pub fn at(&self, place: &str, digest: &ManifestDigest) -> Option<Arc<ImageRecord>> {
        let matches =
            |image: &ImageRecord| image.manifest == *digest || image.indexes.contains(digest);
        let found = self.matching(|image| matches(image) && image.is_from(place));
        found.into_iter().max_by_key(|image| image.resolved)
    }

    /// The fields of an image's config on which a snapshot's image is based, as JSON. Reads the disk; blocks.
    pub fn config(&self, manifest: &ManifestDigest) -> Option<String> {
        self.known().get(manifest)?;
        self.read_config(manifest)
    }

    /// As [`ImageRecords::config`], by the config's digest, if an image of `place` (`registry/repository`) has this
    /// config. Reads the disk; blocks.
    pub fn config_at(&self, place: &str, config: &BlobDigest) -> Option<String> {
        let found = self.matching(|image| image.config_digest.as_ref() == Some(config));
        let image = found.into_iter().find(|image| image.is_from(place))?;
        self.read_config(&image.manifest)
    }

    /// Records that `reference` (canonical) now resolves to this manifest with these layers, bottom first.
    pub fn put(
        &self,
        reference: &str,
        manifest: ManifestDigest,
        layers: &[LayerKey],
        details: &ImageDetails,
    ) -> Result<(), ImagesError> {
        let _writer = self.write();
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

    /// Remembers that a volume is created from an image, so that other images are removed first when the disk is full.
    /// Does not wait for the disk, because pods that start call it: `write_uses` writes the record.
    pub fn mark_used(&self, manifest: &ManifestDigest) {
        let mut known = self.known();
        let now = next_use(&known);
        if let Some(KnownImage { image, .. }) = known.get_mut(manifest) {
            Arc::make_mut(image).used = Some(now);
        }
    }

    /// Writes the records whose last use is in a later hour than the one on disk. Best effort: after the first error,
    /// which is logged, the next call tries again. A crash before that costs only the order in which images are
    /// removed.
    pub(super) fn write_uses(&self) {
        let hour = |time: Timestamp| time.as_second() / HOUR;
        let is_old = |known: &&KnownImage| hour(known.written_use) != hour(known.image.last_use());
        let old: Vec<_> =
            self.known().values().filter(is_old).map(|known| known.image.manifest).collect();
        for manifest in old {
            let _writer = self.write();
            let image = self.known().get(&manifest).map(|known| known.image.clone());
            // It may have been removed meanwhile.
            let Some(image) = image else { continue };
            match self.write_file(&image, None) {
                Ok(bytes) => {
                    // A use meanwhile stays in memory.
                    if let Some(known) = self.known().get_mut(&manifest) {
                        (known.bytes, known.written_use) = (bytes, image.last_use());
                    }
                }
                Err(error) => {
                    tracing::warn!(image = %manifest, %error, "cannot record the last use of an image; tried again in a minute");
                    return;
                }
            }
        }
    }

    /// All images, the least recently used first.
    pub(super) fn by_last_use(&self) -> Vec<Arc<ImageRecord>> {
        let mut images = self.matching(|_| true);
        images.sort_by_key(|image| image.last_use());
        images
    }

    /// Removes the least recently used image records that are not in `needed`, if there are too many. Returns the
    /// number of removed records.
    pub(super) fn trim(&self, needed: &HashSet<ManifestDigest>) -> io::Result<u64> {
        let _writer = self.write();
        self.trim_to(BOUNDS_AFTER_ROUND, needed)
    }

    /// Removes an image's record, unless it was changed or used since it was read as `expected`. Returns whether it was
    /// removed.
    pub(super) fn remove_unchanged(&self, expected: &ImageRecord) -> io::Result<bool> {
        let _writer = self.write();
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
