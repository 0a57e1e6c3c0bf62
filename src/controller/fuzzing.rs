//! Fuzz target of a VolumeSnapshotClass's parameters, a part of the target of CSI requests.

use std::collections::BTreeMap;

use super::parameters::{FREEZE_MAX, Parameters, SQUASH_MAX};

/// What is accepted is within its limits.
pub(crate) fn parameters(given: &BTreeMap<String, String>) -> bool {
    match Parameters::parse(given) {
        Ok(parameters) => {
            assert!(parameters.freeze_timeout <= FREEZE_MAX);
            assert!(parameters.squash_above <= SQUASH_MAX);
            true
        }
        Err(error) => {
            drop(error.to_string());
            false
        }
    }
}
