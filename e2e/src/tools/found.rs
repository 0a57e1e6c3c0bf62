//! The programs that handle a cluster, as the machine has them where they are new enough.
//!
//! Only for clusters on published images: what is built here is used with what was built with it.
//! Deliberately absent: downloads. What is missing or too old is built, or comes from the node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{helm as build_helm, kind as build_kind};
use crate::cache::Recipe;
use crate::engine::Engine;
use crate::harness::Harness;
use crate::process::Cmd;
use crate::versions;

/// The oldest kind that was released for this minor Kubernetes.
const LEAST_KIND: (u32, u32) = (0, 32);

/// The oldest helm that the chart is written for.
const LEAST_HELM: (u32, u32) = (3, 14);

/// kind, built unless a new enough one is in `PATH`.
///
/// # Errors
/// It is not here and cannot be built.
pub fn kind(h: &Harness) -> Result<PathBuf> {
    let said = Cmd::new("kind").arg("version").output().ok();
    if said.and_then(|said| version(&said)).is_some_and(|have| have >= LEAST_KIND) {
        return Ok("kind".into());
    }
    Ok(build_kind().ensure(h)?.join("kind"))
}

/// helm, built unless a new enough one is in `PATH`.
///
/// # Errors
/// It is not here and cannot be built.
pub fn helm(h: &Harness) -> Result<PathBuf> {
    let said = Cmd::new("helm").args(["version", "--short"]).output().ok();
    if said.and_then(|said| version(&said)).is_some_and(|have| have >= LEAST_HELM) {
        return Ok("helm".into());
    }
    Ok(build_helm().ensure(h)?.join("helm"))
}

/// kubectl, from the node's image unless one in `PATH` is within a minor version of the cluster
/// (the distance that Kubernetes supports).
///
/// # Errors
/// The image holds none.
pub fn kubectl(h: &Harness, engine: &Engine, node_image: &str) -> Result<PathBuf> {
    let said = Cmd::new("kubectl").args(["version", "--client"]).output().ok();
    if said.and_then(|said| version(&said)).is_some_and(near_the_cluster) {
        return Ok("kubectl".into());
    }
    let version = versions::KUBERNETES;
    let recipe = Recipe { name: "kubectl", version, inputs: &[node_image] };
    let place =
        h.cache.product(&recipe, |dir| copy_out(engine, node_image, "/usr/bin/kubectl", dir))?;
    Ok(place.join("kubectl"))
}

fn copy_out(engine: &Engine, image: &str, path: &str, dir: &Path) -> Result<()> {
    let container = engine.docker(["create", image]).output()?;
    let from = format!("{container}:{path}");
    let copied = engine.docker(["cp", &from]).arg(dir).output();
    engine.docker(["rm", &container]).output()?;
    copied.map(drop).with_context(|| format!("taking {path} out of {image}"))
}

fn near_the_cluster(have: (u32, u32)) -> bool {
    version(versions::KUBERNETES)
        .is_some_and(|want| have.0 == want.0 && have.1.abs_diff(want.1) <= 1)
}

/// Major and minor of the first version in a text: `1.36` of `Client Version: v1.36.3`.
fn version(said: &str) -> Option<(u32, u32)> {
    said.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version("kind v0.33.0 go1.26.8 linux/amd64"), Some((0, 33)));
        assert_eq!(version("v4.3.1+gabcdef0"), Some((4, 3)));
        assert_eq!(
            version("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0"),
            Some((1, 32))
        );
        assert_eq!(version("no number"), None);
    }

    #[test]
    fn a_kubectl_may_be_one_minor_away() {
        let (major, minor) = version(versions::KUBERNETES).unwrap_or_default();
        assert!(near_the_cluster((major, minor + 1)) && near_the_cluster((major, minor - 1)));
        assert!(!near_the_cluster((major, minor - 2)));
    }
}
