//! The images of the tour and of the cases: two for volumes, and the one with the shell that pods
//! run.
//!
//! Deliberately absent: downloaded files. All images are built from the Debian of the
//! prerequisites, or from nothing.

use std::fs;

use anyhow::{Context, Result};

use crate::cluster::engine::REPOSITORY;
use crate::cluster::kind::Cluster;
use crate::cluster::registry::Registry;
use crate::machine::harness::Harness;
use crate::machine::progress::seconds;
use crate::oci::image::{self, Layer};

/// The image that pods run, under its usual name.
pub const SHELL: &str = "docker.io/library/debian:bookworm-slim";

/// The image of volumes, relative to a registry.
pub const BASE: &str = "base:1";

/// The image above it in the tour.
pub const TOOLS: &str = "tools:1";

/// Builds the two images and pushes them. Returns their references on the nodes.
///
/// # Errors
/// The engine could not build or push one.
pub fn push_both(h: &Harness, cluster: &Cluster, registry: &Registry) -> Result<(String, String)> {
    let (engine, base) = (&cluster.prerequisites.engine, &cluster.prerequisites.base_image);
    let context = h.cache.scratch("demo-image")?;
    fs::write(context.join("Dockerfile"), include_str!("../../assets/demo.Dockerfile"))
        .with_context(|| format!("filling {}", context.display()))?;
    let image = format!("{REPOSITORY}/{BASE}");
    h.progress.step("building two images and pushing them to the registry", seconds(10), |log| {
        engine.build(&image, &context, &["--build-arg", &format!("BASE={base}")], log)?;
        let tools = Layer::new().file("demo/tool", "from the tools\n")?;
        image::push(registry.here, TOOLS, vec![tools.file("demo/changed", "from the tools\n")?])?;
        Ok((registry.push(engine, &image, BASE)?, registry.name(TOOLS)))
    })
}

/// Loads the image that pods run into every node.
///
/// # Errors
/// A node refused it.
pub fn load_shell(h: &Harness, cluster: &Cluster) -> Result<()> {
    let base = &cluster.prerequisites.base_image;
    let full = full_name(base);
    h.progress.step("loading a Debian for pods into the nodes", seconds(20), |_| {
        cluster.load_images(&[base])?;
        cluster.nodes.iter().try_for_each(|node| {
            // Under the name in the example's manifest, whatever name the prerequisites have for
            // it.
            let ctr = ["ctr", "--namespace", "k8s.io", "images", "tag", "--force"];
            let tag = [&ctr[..], &[&full, SHELL]].concat();
            cluster.on_node(node, &tag).map(drop)
        })
    })
}

/// The full name of an image, with the registry and directory that short names leave out.
fn full_name(image: &str) -> String {
    match image.split_once('/') {
        None => format!("docker.io/library/{image}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_as_the_nodes_do() {
        assert_eq!(full_name("debian:bookworm-slim"), SHELL);
        assert_eq!(full_name("ovl-csi-e2e/debian:1"), "docker.io/ovl-csi-e2e/debian:1");
        assert_eq!(full_name("localhost/a:1"), "localhost/a:1");
        assert_eq!(full_name("r.example/a:1"), "r.example/a:1");
    }
}
