//! The file of an image record: the record, with the config fields on which a snapshot's image is based.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::image_record::ImageRecord;
use crate::digest::ManifestDigest;

/// The most references, and the most indexes, in one record.
pub(super) const NAMES: usize = 32;
/// The largest file that is read, in bytes. Files that this version writes are smaller: a config of 1 MiB names at most
/// some 14,000 layers.
const FILE_MAX: u64 = 4 << 20;

/// A record's file as it is written.
#[derive(Serialize)]
pub(super) struct ImageFile<'a> {
    #[serde(flatten)]
    pub(super) image: &'a ImageRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<&'a str>,
}

/// The part of a record's file that is read only when a snapshot needs it.
#[derive(Deserialize)]
struct ConfigOnly {
    config: Option<String>,
}

/// Reads a record. Its file must be named after its manifest: a copy under another name may be outdated.
pub(super) fn read(path: &Path) -> Result<(ImageRecord, u64), String> {
    let (bytes, size) = bounded(path)?;
    let mut image: ImageRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    keep_latest(&mut image.references);
    keep_latest(&mut image.indexes);
    match path.file_name() {
        Some(name) if name == file_name(&image.manifest).as_str() => Ok((image, size)),
        _ => Err(format!("its name differs: it is the record of {}", image.manifest)),
    }
}

/// Reads the config fields in a record's file.
pub(super) fn read_config(path: &Path) -> Option<String> {
    let (bytes, _) = bounded(path).ok()?;
    serde_json::from_slice::<ConfigOnly>(&bytes).ok()?.config
}

/// Reads a file and its size in bytes, if it is not larger than any file that this version writes.
fn bounded(path: &Path) -> Result<(Vec<u8>, u64), String> {
    let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("it has {size} bytes, and no record has more than {FILE_MAX}"));
    }
    Ok((fs::read(path).map_err(|e| e.to_string())?, size))
}

pub(super) fn file_name(manifest: &ManifestDigest) -> String {
    format!("{}.json", manifest.digest().hex())
}

/// Removes the oldest names, so that at most [`NAMES`] are left.
pub(super) fn keep_latest<T>(names: &mut Vec<T>) {
    names.drain(..names.len().saturating_sub(NAMES));
}
