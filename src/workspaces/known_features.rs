//! The features of the kernel and of the store's disk, kept in the store for the time of a boot: they take a second to probe.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    overlay::KernelFeatures,
    sys::{
        durable::{self, at},
        host,
    },
};

/// The name of the file in the store.
const FILE: &str = "features.json";

/// The features that were found, and when that is true.
#[derive(Debug, Serialize, Deserialize)]
struct KnownFeatures {
    boot: String,
    kernel: String,
    version: String,
    features: KernelFeatures,
}

impl KnownFeatures {
    /// These features, found now.
    fn now(features: KernelFeatures) -> Self {
        let (boot, kernel) = (durable::boot_id().unwrap_or_default(), host::release());
        Self { boot, kernel, version: env!("CARGO_PKG_VERSION").to_owned(), features }
    }
}

/// The features that this version has found in the store at `root` since the machine was started.
pub(super) fn known_features(root: &Path) -> Option<KernelFeatures> {
    let text = fs::read(root.join(FILE)).ok()?;
    let known: KnownFeatures = serde_json::from_slice(&text).ok()?;
    let now = KnownFeatures::now(known.features);
    let is_now = (known.boot, known.kernel, known.version) == (now.boot, now.kernel, now.version);
    is_now.then_some(now.features)
}

/// Keeps features that were found now. `scratch` is a directory of this process in the store. The file may be lost in a crash.
///
/// # Errors
/// It cannot be written.
pub fn remember_features(root: &Path, scratch: &Path, features: &KernelFeatures) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&KnownFeatures::now(features.clone()))?;
    let (new, path) = (scratch.join(FILE), root.join(FILE));
    fs::create_dir_all(scratch).map_err(at("make", scratch))?;
    fs::write(&new, text).map_err(at("write", &new))?;
    fs::rename(&new, &path).map_err(at("rename into place", &path))
}
