//! The content of a node's store: its layers by their sums, and the disk space.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The files of the layers of a store, each with the sha256 of its bytes.
pub type Sums = BTreeMap<PathBuf, String>;

/// Reads every layer of a store.
///
/// # Errors
/// A file cannot be read.
pub fn sums(store: &Path) -> Result<Sums> {
    let mut sums = Sums::new();
    walk(&store.join("layers"), &mut |path, _| {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        sums.insert(path.to_owned(), hex::encode(Sha256::digest(bytes)));
        Ok(())
    })?;
    // The provenance of a layer grows beside it, and is not part of the layer.
    sums.retain(|path, _| path.file_name().is_some_and(|name| name != "origins.json"));
    Ok(sums)
}

/// The disk space of a directory, in bytes.
///
/// # Errors
/// A file in it cannot be read.
pub fn on_disk(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    walk(directory, &mut |_, metadata| {
        sum += metadata.blocks() * 512;
        Ok(())
    })?;
    Ok(sum)
}

/// Visits every regular file below a directory.
fn walk(
    directory: &Path,
    found: &mut impl FnMut(&Path, &fs::Metadata) -> Result<()>,
) -> Result<()> {
    let at = || format!("reading {}", directory.display());
    for entry in fs::read_dir(directory).with_context(at)? {
        let path = entry.with_context(at)?.path();
        let metadata = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        if metadata.is_dir() {
            walk(&path, found)?;
        } else if metadata.is_file() {
            found(&path, &metadata)?;
        }
    }
    Ok(())
}
