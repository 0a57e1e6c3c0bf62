//! Verifies that the layers on the disk are the ones that were written.
//!
//! The checks are those of `fsck`. Here each layer has a lease meanwhile, so the process that has the store can call it.

use std::io;

use super::{fsck::check_layer, key::LayerKey, store::Store};
use crate::changeset::Limits;

/// A damaged layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedLayer {
    /// The key of the layer.
    pub key: LayerKey,
    /// What is damaged, as text that follows `layer <key>: `.
    pub what: String,
}

impl Store {
    /// Reads every layer to its end and returns the damaged ones, sorted by key. Blocks until all layers are read.
    ///
    /// # Errors
    /// The layers cannot be listed, or a lease of one cannot be taken.
    pub fn verify(&self) -> io::Result<Vec<DamagedLayer>> {
        let mut damaged = Vec::new();
        let scratch = self.staging.scratch();
        let limits = Limits { budget: self.budget.clone(), scratch, ..Limits::default() };
        for key in self.layers.dirs.keys()? {
            // A layer that was garbage collected meanwhile is not damaged.
            let Some(_lease) = self.leases.take_if_present(&[key])? else { continue };
            let checked = check_layer(&self.layers.dirs.of(&key), &key, &limits, &|_| {});
            damaged.extend(checked.faults.into_iter().map(|fault| DamagedLayer {
                key,
                what: format!("{}: {}", fault.path.display(), fault.what),
            }));
        }
        damaged.sort_by_key(|layer| layer.key);
        Ok(damaged)
    }
}
