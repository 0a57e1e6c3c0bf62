//! Programs that handle a cluster, as the machine has them, where they are new enough.
//!
//! Only for clusters with published images. Built clusters use programs of the same build.
//! Deliberately absent: downloads. A missing or old program is built, or comes from the node image.

use std::path::PathBuf;

use anyhow::Result;

use super::programs;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;

/// The oldest kind that supports this minor version of Kubernetes.
const LEAST_KIND: (u32, u32) = (0, 32);

/// The oldest helm that the chart supports.
const LEAST_HELM: (u32, u32) = (3, 14);

/// kind. Builds it unless a new enough one is in `PATH`.
///
/// # Errors
/// It is not here and cannot be built.
pub fn kind(h: &Harness) -> Result<PathBuf> {
    let output = Cmd::new("kind").arg("version").output().ok();
    if output.and_then(|output| version(&output)).is_some_and(|have| have >= LEAST_KIND) {
        return Ok("kind".into());
    }
    Ok(programs::kind().ensure(h)?.join("kind"))
}

/// helm. Builds it unless a new enough one is in `PATH`.
///
/// # Errors
/// It is not here and cannot be built.
pub fn helm(h: &Harness) -> Result<PathBuf> {
    let output = Cmd::new("helm").args(["version", "--short"]).output().ok();
    if output.and_then(|output| version(&output)).is_some_and(|have| have >= LEAST_HELM) {
        return Ok("helm".into());
    }
    Ok(programs::helm().ensure(h)?.join("helm"))
}

/// Major and minor number of the first version in a text: `1.36` of `Client Version: v1.36.3`.
pub fn version(output: &str) -> Option<(u32, u32)> {
    output.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_the_output_of_programs() {
        assert_eq!(version("kind v0.33.0 go1.26.8 linux/amd64"), Some((0, 33)));
        assert_eq!(version("v4.3.1+gabcdef0"), Some((4, 3)));
        assert_eq!(
            version("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0"),
            Some((1, 32))
        );
        assert_eq!(version("no number"), None);
    }
}
