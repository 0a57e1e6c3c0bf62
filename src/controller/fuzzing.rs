//! Fuzz target of a VolumeSnapshotClass's parameters, a part of the target of CSI requests.

use std::collections::BTreeMap;

use super::parameters::{FREEZE_MAX, Parameters, SQUASH_MAX};
#[cfg(test)]
use super::repository::{Names, Template};

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

/// The repository that a class with this `repository`, which has no placeholders, is for every snapshot.
#[cfg(test)]
pub(crate) fn repository(text: &str) -> Option<String> {
    let names = Names { namespace: "ci", pod: "p", volume: "ws", name: "s" };
    Some(text.parse::<Template>().ok()?.fill(names).ok()?.repository)
}
