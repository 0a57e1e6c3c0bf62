//! The system of a node image: Debian by debootstrap, then kind's own base image on it.
//!
//! Deliberately absent: copies from kind. Its Dockerfile is built from its module.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cluster::engine::{Engine, REPOSITORY};
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::{minutes, seconds};
use crate::toolchain::{apt, golang, versions};

/// A small Debian with a shell and apt, as an image in the engine. Returns the name of the image.
///
/// # Errors
/// debootstrap failed (it needs a Debian mirror), or the engine refused its result.
pub fn debian(h: &Harness, engine: &Engine) -> Result<String> {
    let recipe =
        Recipe { name: "debian", version: versions::DEBIAN, inputs: &["minbase, tar, no devices"] };
    let image = image_name("debian", &recipe);
    if engine.has_image(&image) {
        return Ok(image);
    }
    apt::ensure(h, &["debootstrap"])?;
    let what = format!("building a Debian {} image", versions::DEBIAN);
    h.progress.step(&what, minutes(1), |log| {
        let place = h.cache.product(&recipe, |dir| bootstrap(dir, log))?;
        let tar = place.join("root.tar");
        engine.docker(["import"]).arg(tar).arg(&image).log(log).run()
    })?;
    Ok(image)
}

fn bootstrap(dir: &Path, log: &Path) -> Result<()> {
    let root = dir.join("root");
    // In namespaces of its own, so all its mounts and processes end with it.
    let namespaces = Cmd::new("unshare").args(["--mount", "--pid", "--fork", "--kill-child"]);
    let debootstrap = namespaces.args(["debootstrap", "--variant=minbase", versions::DEBIAN]);
    debootstrap.arg(&root).log(log).run()?;
    for downloads in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let dir = root.join(downloads);
        fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display()))?;
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let tar = Cmd::new("tar").arg("--directory").arg(&root).args(["--numeric-owner", "--create"]);
    // Published images have no devices either: every container gets its own.
    let tar = tar.args(["--exclude", "./dev/*"]);
    tar.arg("--file").arg(dir.join("root.tar")).arg(".").log(log).run()?;
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
}

/// kind's base of a node (systemd and the programs that a kubelet calls) on this Debian. Returns
/// its name.
///
/// # Errors
/// kind's module or a Debian package cannot be downloaded, or the build failed.
pub fn node_base(h: &Harness, engine: &Engine, debian: &str) -> Result<String> {
    let recipe = Recipe { name: "node-base", version: versions::KIND, inputs: &[debian] };
    let image = image_name("node-base", &recipe);
    if engine.has_image(&image) {
        return Ok(image);
    }
    h.progress.step("building the system of a node", seconds(40), |log| {
        let kind = golang::module_dir(h, "sigs.k8s.io/kind", versions::KIND)?;
        let base = format!("BASE_IMAGE={debian}");
        let args = ["--target", "base", "--build-arg", &base];
        engine.build(&image, &kind.join("images/base"), &args, log)
    })?;
    Ok(image)
}

/// The name of an image: what it is, with its recipe as the tag.
pub fn image_name(what: &str, recipe: &Recipe<'_>) -> String {
    let key = recipe.key();
    format!("{REPOSITORY}/{what}:{}", key.strip_prefix(&format!("{what}-")).unwrap_or(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_after_their_recipe() {
        let recipe = Recipe { name: "node", version: "1.2.3", inputs: &[] };
        let name = image_name("node", &recipe);
        assert!(name.starts_with("ovl-csi-e2e/node:1.2.3-"), "{name}");
    }
}
