//! kubectl, from the machine or from the node image.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::engine::Engine;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::toolchain::installed::version;
use crate::toolchain::versions;

/// kubectl from `PATH` if it is within one minor version of the cluster, which Kubernetes supports.
/// Otherwise kubectl from the node image.
///
/// # Errors
/// The image has none.
pub fn ensure(h: &Harness, engine: &Engine, node_image: &str) -> Result<PathBuf> {
    let output = Cmd::new("kubectl").args(["version", "--client"]).output().ok();
    if output.and_then(|output| version(&output)).is_some_and(near_the_cluster) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubectl_may_be_one_minor_away() {
        let (major, minor) = version(versions::KUBERNETES).unwrap_or_default();
        assert!(near_the_cluster((major, minor + 1)) && near_the_cluster((major, minor - 1)));
        assert!(!near_the_cluster((major, minor - 2)));
    }
}
