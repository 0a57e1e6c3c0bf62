//! The images of the demonstration and of the cases: two whose layers become volumes, and the one
//! with the shell that pods run.
//!
//! Deliberately absent: files fetched from somewhere. All are made of the ground's Debian, or of nothing.

use std::fs;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::engine::REPOSITORY;
use crate::harness::Harness;
use crate::oci::{self, Layer};
use crate::progress::seconds;
use crate::registry::Registry;

/// The image that pods run, under the name that a person would write.
pub const SHELL: &str = "docker.io/library/debian:bookworm-slim";

/// The image whose layers become volumes, below a registry.
pub const BASE: &str = "base:1";

/// The image that lies above it in the demonstration.
pub const TOOLS: &str = "tools:1";

/// Makes the two images and pushes them; returns their references on the nodes.
///
/// # Errors
/// The engine could not build or push one.
pub fn push_both(h: &Harness, cluster: &Cluster, registry: &Registry) -> Result<(String, String)> {
    let (engine, base) = (&cluster.ground.engine, &cluster.ground.base_image);
    let context = h.cache.scratch("demo-image")?;
    fs::write(context.join("Dockerfile"), include_str!("../assets/demo.Dockerfile"))
        .with_context(|| format!("filling {}", context.display()))?;
    let image = format!("{REPOSITORY}/{BASE}");
    h.progress.step("making two images and pushing them to the registry", seconds(10), |log| {
        engine.build(&image, &context, &["--build-arg", &format!("BASE={base}")], log)?;
        let tools = Layer::new().file("demo/tool", "from the tools\n")?;
        oci::push(registry.here, TOOLS, vec![tools.file("demo/changed", "from the tools\n")?])?;
        Ok((registry.push(engine, &image, BASE)?, registry.name(TOOLS)))
    })
}

/// Gives every node the image that pods run.
///
/// # Errors
/// A node refused it.
pub fn load_shell(h: &Harness, cluster: &Cluster) -> Result<()> {
    let base = &cluster.ground.base_image;
    let full = full_name(base);
    h.progress.step("loading a Debian for pods into the nodes", seconds(20), |_| {
        cluster.load_images(&[base])?;
        cluster.nodes.iter().try_for_each(|node| {
            // Under the name of the example's manifest, whatever the ground calls it.
            let ctr = ["ctr", "--namespace", "k8s.io", "images", "tag", "--force"];
            let tag = [&ctr[..], &[&full, SHELL]].concat();
            cluster.on_node(node, &tag).map(drop)
        })
    })
}

/// An image's name with the registry and folder that short names leave out.
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
