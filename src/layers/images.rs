//! Which layers an image has, and which references mean it: what lets a pod start when the registry is not asked.
//!
//! ```text
//! <root>/images/<manifest digest, hex>.json    one record, and in it the config fields that a snapshot goes on from
//! ```
//!
//! Whoever names images makes records, so they are bounded: each in its references, all in their number and bytes. Configs are
//! read from the disk when a snapshot is pushed, and are never in memory together.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ImagesError, Store};
use crate::{
    digest::Digest,
    sys::durable::{self, at},
};

/// One image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The references, in their canonical form, that meant it when they were last resolved; the latest last.
    pub references: Vec<String>,
    /// The digests of indexes that led to it; the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Digest>,
    /// The keys of its layers, bottom first: diff ids, and ChainIDs for those that were made onto others.
    pub layers: Vec<Digest>,
    /// The digest of its config; not known of one that an earlier version recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<Digest>,
    /// When it was last resolved.
    pub resolved: Timestamp,
    /// When a volume was last made of it without asking a registry; on disk up to an hour late.
    #[serde(default)]
    pub used: Option<Timestamp>,
}

/// What is recorded of an image beside its layers. What is `None` stays as it is known.
#[derive(Debug, Clone, Default)]
pub struct ImageDetails {
    /// The digest of the index that led to it, if one did.
    pub index: Option<Digest>,
    /// The digest of its config.
    pub config_digest: Option<Digest>,
    /// The fields of its config that a snapshot's image goes on from: JSON.
    pub config: Option<String>,
}

/// A record as it lies on the disk.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    image: &'a ImageRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a str>,
}

/// The part of a record's file that is read when a snapshot needs it.
#[derive(Deserialize)]
struct ConfigOnly {
    config: Option<String>,
}

/// In seconds. An image's use is written once in each: a pod's start is no reason to write.
const HOUR: i64 = 3600;
/// How many references, and how many indexes, one record holds.
const NAMES: usize = 32;
/// The largest file that is read. Ours stay below it: a config of 1 MiB names at most some 14,000 layers.
const FILE_MAX: u64 = 4 << 20;
/// How many records a round of collection leaves, and the bytes of their files.
const KEPT: Bounds = Bounds { count: 2048, bytes: 32 << 20 };
/// How many there are between two rounds. Beyond that the least recently used goes, whoever needs it.
const HELD: Bounds = Bounds { count: 2 * KEPT.count, bytes: 2 * KEPT.bytes };

/// A limit for all records.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    count: usize,
    /// Of their files, which is more than they take in memory.
    bytes: u64,
}

impl ImageRecord {
    /// When anybody last wanted it.
    pub fn last_use(&self) -> Timestamp {
        self.used.map_or(self.resolved, |used| used.max(self.resolved))
    }

    /// Whether a reference to `place` (`registry/repository`) was resolved to it.
    fn is_from(&self, place: &str) -> bool {
        let from = |reference: &String| {
            reference.strip_prefix(place).is_some_and(|rest| rest.starts_with([':', '@']))
        };
        self.references.iter().any(from)
    }

    fn is_named(&self, reference: &str) -> bool {
        self.references.iter().any(|known| known == reference)
    }
}

/// A record and the bytes of its file.
#[derive(Debug, Clone)]
struct Known {
    image: Arc<ImageRecord>,
    bytes: u64,
}

/// All records, in memory as on disk, but for the configs. A reference is in one record at most.
#[derive(Debug)]
pub(super) struct Images {
    dir: PathBuf,
    known: Mutex<BTreeMap<Digest, Known>>,
    /// Held by the one who writes, so that readers never wait for the disk.
    writer: Mutex<()>,
}

impl Images {
    pub(super) fn load(dir: PathBuf) -> io::Result<Self> {
        durable::sweep(&dir)?;
        let entries = fs::read_dir(&dir).map_err(at("list", &dir))?;
        let images = Self { dir, known: Mutex::default(), writer: Mutex::default() };
        for entry in entries {
            let path = entry.map_err(at("list", &images.dir))?.path();
            match read(&path) {
                Ok((image, bytes)) => {
                    let known = Known { bytes, image: Arc::new(image) };
                    images.known().insert(known.image.manifest, known);
                    images.trim(&HashSet::new(), HELD)?;
                }
                // What cannot be read costs one question to a registry, not the node.
                Err(why) => {
                    tracing::warn!(path = %path.display(), why, "not an image record: ignored")
                }
            }
        }
        Ok(images)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Digest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, manifest: &Digest) -> PathBuf {
        self.dir.join(file_name(manifest))
    }

    fn all(&self, wanted: impl Fn(&ImageRecord) -> bool) -> Vec<Arc<ImageRecord>> {
        let known = self.known();
        known.values().map(|known| &known.image).filter(|image| wanted(image)).cloned().collect()
    }

    /// The config in a record's file.
    fn config(&self, manifest: &Digest) -> Option<String> {
        let (bytes, _) = bounded(&self.path(manifest)).ok()?;
        serde_json::from_slice::<ConfigOnly>(&bytes).ok()?.config
    }

    /// Writes a record; its config stays as it is unless there is a new one. The caller is the writer.
    fn keep(&self, image: ImageRecord, config: Option<&str>) -> Result<(), ImagesError> {
        let there = if config.is_none() { self.config(&image.manifest) } else { None };
        let file = File { image: &image, config: config.or(there.as_deref()) };
        let bytes = serde_json::to_vec_pretty(&file).map_err(io::Error::from)?;
        durable::write_atomic(&self.path(&image.manifest), &bytes)?;
        let known = Known { bytes: bytes.len() as u64, image: Arc::new(image) };
        self.known().insert(known.image.manifest, known);
        Ok(())
    }

    /// Forgets the least recently used of the records that are not `needed`, until the others are within `bounds`. The caller is
    /// the writer. Returns how many.
    fn trim(&self, needed: &HashSet<Digest>, bounds: Bounds) -> io::Result<u64> {
        let (count, bytes) = {
            let known = self.known();
            (known.len(), known.values().map(|known| known.bytes).sum::<u64>())
        };
        let (mut count, mut bytes, mut gone) = (count, bytes, 0);
        if count <= bounds.count && bytes <= bounds.bytes {
            return Ok(gone);
        }
        let mut all: Vec<Known> = self.known().values().cloned().collect();
        all.sort_by_key(|known| known.image.last_use());
        for Known { image, bytes: freed } in all {
            if count <= bounds.count && bytes <= bounds.bytes {
                break;
            }
            if needed.contains(&image.manifest) {
                continue;
            }
            durable::remove_file(&self.path(&image.manifest))?;
            self.known().remove(&image.manifest);
            tracing::info!(image = %image.manifest, "an image record is forgotten: there are too many");
            (count, bytes, gone) = (count - 1, bytes.saturating_sub(freed), gone + 1);
        }
        Ok(gone)
    }
}

/// Reads a record from the file that bears its name. One that a kill kept from its place is somebody's past.
fn read(path: &Path) -> Result<(ImageRecord, u64), String> {
    let (bytes, size) = bounded(path)?;
    let mut image: ImageRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    latest(&mut image.references);
    latest(&mut image.indexes);
    match path.file_name() {
        Some(name) if name == file_name(&image.manifest).as_str() => Ok((image, size)),
        _ => Err(format!("it is about {}", image.manifest)),
    }
}

/// A file's bytes and their number, if it is one that we could have written.
fn bounded(path: &Path) -> Result<(Vec<u8>, u64), String> {
    let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("it has {size} bytes, and no record has more than {FILE_MAX}"));
    }
    Ok((fs::read(path).map_err(|e| e.to_string())?, size))
}

fn file_name(manifest: &Digest) -> String {
    format!("{}.json", manifest.hex())
}

/// A time for a use that is later than all that are known, also where the clock was set back: uses are compared with each other alone.
fn next_use(known: &BTreeMap<Digest, Known>) -> Timestamp {
    let latest = known.values().map(|known| known.image.last_use()).max();
    let next = latest.and_then(|latest| latest.checked_add(SignedDuration::from_nanos(1)).ok());
    Timestamp::now().max(next.unwrap_or(Timestamp::MIN))
}

/// Drops the oldest of too many.
fn latest<T>(names: &mut Vec<T>) {
    names.drain(..names.len().saturating_sub(NAMES));
}

impl Store {
    /// The image that `reference` (canonical) meant when it was last resolved.
    pub fn image(&self, reference: &str) -> Option<Arc<ImageRecord>> {
        // Two may name it, where a crash came between the two writes of `put_image`.
        let named = self.images.all(|image| image.is_named(reference));
        named.into_iter().max_by_key(|image| image.resolved)
    }

    /// The image that `digest`, its manifest's or an index's, means at `place` (`registry/repository`), which has given it before.
    /// One that only another place gave is not this one's.
    pub fn image_at(&self, place: &str, digest: &Digest) -> Option<Arc<ImageRecord>> {
        let means =
            |image: &ImageRecord| image.manifest == *digest || image.indexes.contains(digest);
        let found = self.images.all(|image| means(image) && image.is_from(place));
        found.into_iter().max_by_key(|image| image.resolved)
    }

    /// The fields of an image's config that a snapshot's image goes on from, as JSON. Read from the disk; blocks.
    pub fn image_config(&self, manifest: &Digest) -> Option<String> {
        self.images.known().get(manifest)?;
        self.images.config(manifest)
    }

    /// The same by the config's digest, where an image of `place` has it. Read from the disk; blocks.
    pub fn config_at(&self, place: &str, config: &Digest) -> Option<String> {
        let found = self.images.all(|image| image.config_digest.as_ref() == Some(config));
        let image = found.into_iter().find(|image| image.is_from(place))?;
        self.images.config(&image.manifest)
    }

    /// Records that `reference` (canonical) now means this manifest with these layers, bottom first.
    pub fn put_image(
        &self,
        reference: &str,
        manifest: Digest,
        layers: &[Digest],
        details: &ImageDetails,
    ) -> Result<(), ImagesError> {
        let _writer = self.images.write();
        let known = self.images.known().get(&manifest).map(|known| known.image.clone());
        let (mut references, mut indexes, mut config_digest) = match known.as_deref() {
            Some(known) => (known.references.clone(), known.indexes.clone(), known.config_digest),
            None => Default::default(),
        };
        references.retain(|known| known != reference);
        references.push(reference.to_owned());
        latest(&mut references);
        indexes.retain(|known| Some(known) != details.index.as_ref());
        indexes.extend(details.index);
        latest(&mut indexes);
        config_digest = details.config_digest.or(config_digest);
        let (layers, resolved) = (layers.to_vec(), next_use(&self.images.known()));
        let image = ImageRecord {
            manifest,
            references,
            indexes,
            layers,
            config_digest,
            resolved,
            used: None,
        };
        self.images.keep(image, details.config.as_deref())?;
        for other in self.images.all(|other| other.is_named(reference)) {
            if other.manifest != manifest {
                let mut other = ImageRecord::clone(&other);
                other.references.retain(|known| known != reference);
                self.images.keep(other, None)?;
            }
        }
        self.images.trim(&HashSet::from([manifest]), HELD)?;
        Ok(())
    }

    /// Notes that a volume is made of an image, so that others go first when the disk is full. Best effort.
    pub fn use_image(&self, manifest: &Digest) {
        {
            let mut known = self.images.known();
            let now = next_use(&known);
            let Some(Known { image, .. }) = known.get_mut(manifest) else { return };
            let same_hour = image.last_use().as_second() / HOUR == now.as_second() / HOUR;
            Arc::make_mut(image).used = Some(now);
            if same_hour {
                return;
            }
        }
        let _writer = self.images.write();
        let used = |image: &ImageRecord| image.manifest == *manifest;
        for image in self.images.all(used) {
            if let Err(error) = self.images.keep(ImageRecord::clone(&image), None) {
                tracing::warn!(image = %manifest, %error, "its last use is not recorded");
            }
        }
    }

    /// All images, the least recently used first.
    pub(super) fn images(&self) -> Vec<Arc<ImageRecord>> {
        let mut images = self.images.all(|_| true);
        images.sort_by_key(|image| image.last_use());
        images
    }

    /// Forgets the least recently used images that nothing in `needed` is, where there are too many. Returns how many.
    pub(super) fn trim_images(&self, needed: &HashSet<Digest>) -> io::Result<u64> {
        let _writer = self.images.write();
        self.images.trim(needed, KEPT)
    }

    /// Forgets an image, unless it changed or was used since it was looked at.
    pub(super) fn drop_image(&self, seen: &ImageRecord) -> io::Result<bool> {
        let _writer = self.images.write();
        let unchanged =
            self.images.known().get(&seen.manifest).is_some_and(|known| *known.image == *seen);
        if !unchanged {
            return Ok(false);
        }
        durable::remove_file(&self.images.path(&seen.manifest))?;
        self.images.known().remove(&seen.manifest);
        Ok(true)
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
