//! Which layers an image has, and which references mean it: what lets a pod start when the registry is not asked.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
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
    /// The references, in their canonical form, that meant it when they were last resolved.
    pub references: Vec<String>,
    /// The keys of its layers, bottom first: diff ids, and ChainIDs for those that were made onto others.
    pub layers: Vec<Digest>,
    /// Its config, as its registry has it: what a snapshot's image goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// When it was last resolved.
    pub resolved: Timestamp,
    /// When a volume was last made of it without asking a registry; on disk up to an hour late.
    #[serde(default)]
    pub used: Option<Timestamp>,
}

impl ImageRecord {
    /// When anybody last wanted it.
    pub fn last_use(&self) -> Timestamp {
        self.used.map_or(self.resolved, |used| used.max(self.resolved))
    }
}

/// In seconds. An image's use is written once in each: a pod's start is no reason to write.
const HOUR: i64 = 3600;

/// All records, in memory as on disk. A reference is in one record at most.
#[derive(Debug)]
pub(super) struct Images {
    folder: PathBuf,
    known: Mutex<BTreeMap<Digest, ImageRecord>>,
    /// Held by the one who writes, so that readers never wait for the disk.
    writer: Mutex<()>,
}

impl Images {
    pub(super) fn load(folder: PathBuf) -> io::Result<Self> {
        durable::sweep(&folder)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(at("list", &folder))? {
            let path = entry.map_err(at("list", &folder))?.path();
            match read(&path) {
                Ok(image) => drop(known.insert(image.manifest, image)),
                // What cannot be read costs one question to a registry, not the node.
                Err(why) => {
                    tracing::warn!(path = %path.display(), why, "not an image record: ignored")
                }
            }
        }
        Ok(Self { folder, known: Mutex::new(known), writer: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Digest, ImageRecord>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a record from the file that bears its name. One that a kill kept from its place is somebody's past.
fn read(path: &Path) -> Result<ImageRecord, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let image: ImageRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    match path.file_name() {
        Some(name) if name == file_name(&image.manifest).as_str() => Ok(image),
        _ => Err(format!("it is about {}", image.manifest)),
    }
}

fn file_name(manifest: &Digest) -> String {
    format!("{}.json", manifest.hex())
}

impl Store {
    /// The image that `reference` (canonical) meant when it was last resolved.
    pub fn image(&self, reference: &str) -> Option<ImageRecord> {
        // Two may name it, where a crash came between the two writes of `put_image`.
        self.images_of(reference).into_iter().max_by_key(|image| image.resolved)
    }

    /// Records that `reference` (canonical) now means this manifest with these layers, bottom first, and this config.
    pub fn put_image(
        &self,
        reference: &str,
        manifest: Digest,
        layers: &[Digest],
        config: &str,
    ) -> Result<(), ImagesError> {
        let _writer = self.images.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.images.known().get(&manifest).cloned();
        let mut references = known.map_or_else(Vec::new, |image| image.references);
        if !references.iter().any(|r| r == reference) {
            references.push(reference.to_owned());
        }
        let layers = layers.to_vec();
        self.keep(ImageRecord {
            manifest,
            references,
            layers,
            config: Some(config.to_owned()),
            resolved: Timestamp::now(),
            used: None,
        })?;
        for mut other in self.images_of(reference) {
            if other.manifest != manifest {
                other.references.retain(|r| r != reference);
                self.keep(other)?;
            }
        }
        Ok(())
    }

    /// Notes that a volume is made of an image, so that others go first when the disk is full. Best effort.
    pub fn use_image(&self, manifest: &Digest) {
        let now = Timestamp::now();
        let image = {
            let mut known = self.images.known();
            let Some(image) = known.get_mut(manifest) else { return };
            let same_hour = image.last_use().as_second() / HOUR == now.as_second() / HOUR;
            image.used = Some(now);
            if same_hour {
                return;
            }
            image.clone()
        };
        let _writer = self.images.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.keep(image) {
            tracing::warn!(image = %manifest, %error, "its last use is not recorded");
        }
    }

    /// All images, the least recently used first.
    pub(super) fn images(&self) -> Vec<ImageRecord> {
        let mut images: Vec<_> = self.images.known().values().cloned().collect();
        images.sort_by_key(ImageRecord::last_use);
        images
    }

    /// Forgets an image, unless it changed or was used since it was looked at.
    pub(super) fn drop_image(&self, seen: &ImageRecord) -> io::Result<bool> {
        let _writer = self.images.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.images.known().get(&seen.manifest) != Some(seen) {
            return Ok(false);
        }
        durable::remove_file(&self.images.folder.join(file_name(&seen.manifest)))?;
        self.images.known().remove(&seen.manifest);
        Ok(true)
    }

    fn images_of(&self, reference: &str) -> Vec<ImageRecord> {
        let named = |image: &&ImageRecord| image.references.iter().any(|r| r == reference);
        self.images.known().values().filter(named).cloned().collect()
    }

    fn keep(&self, image: ImageRecord) -> Result<(), ImagesError> {
        let path = self.images.folder.join(file_name(&image.manifest));
        let bytes = serde_json::to_vec_pretty(&image).map_err(io::Error::from)?;
        durable::write_atomic(&path, &bytes)?;
        self.images.known().insert(image.manifest, image);
        Ok(())
    }
}
