//! What a store has and what it stands on. Takes no lock and reads no record.
//!
//! Deliberately absent: a probe. The features are those that the last process found that used the store.

use std::io;

use super::known_features::known_features;
use crate::{
    layers::{StoreReader, Totals, Unreadable},
    overlay::{KernelFeatures, root_usable},
    sys::statfs::{self, Space},
};

/// What a store has, and what it stands on.
#[derive(Debug, Clone)]
pub struct Status {
    /// The file system of the store.
    pub disk: Space,
    /// What the kernel and the file system can do. `None`: no process has used the store since the machine was started.
    pub features: Option<KernelFeatures>,
    /// The checks that fail for the store. It was made although they do.
    pub overridden: Vec<&'static str>,
    /// How much there is.
    pub totals: Totals,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// The status of a store.
///
/// # Errors
/// The records or the layers cannot be listed.
pub fn status(reader: &StoreReader) -> io::Result<Status> {
    let root = reader.root();
    let features = known_features(root);
    let overridden = match &features {
        Some(features) => {
            root_usable(root, features, &[])?.into_iter().map(|check| check.name).collect()
        }
        None => Vec::new(),
    };
    let totals = reader.totals()?;
    Ok(Status {
        disk: statfs::of(root)?,
        features,
        overridden,
        totals: totals.found,
        unreadable: totals.unreadable,
    })
}
