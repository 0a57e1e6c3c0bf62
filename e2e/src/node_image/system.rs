//! The system half of a node: Debian by debootstrap, then kind's own base image on top of it.
//!
//! Deliberately absent: anything copied from kind. Its Dockerfile is built where its module is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cache::Recipe;
use crate::engine::{Engine, REPOSITORY};
use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::{minutes, seconds};
use crate::tools::{apt, golang};
use crate::versions;

/// A small Debian with a shell and apt, as an image in the engine; returns the image's name.
///
/// # Errors
/// debootstrap failed (it needs a Debian mirror) or the engine refused its result.
pub fn debian(h: &Harness, engine: &Engine) -> Result<String> {
    let recipe =
        Recipe { name: "debian", version: versions::DEBIAN, inputs: &["minbase, tar, no devices"] };
    let image = image_name("debian", &recipe);
    if engine.has_image(&image) {
        return Ok(image);
    }
    apt::ensure(h, &["debootstrap"])?;
    let what = format!("making a Debian {} image", versions::DEBIAN);
    h.progress.step(&what, minutes(1), |log| {
        let place = h.cache.product(&recipe, |dir| bootstrap(dir, log))?;
        let tar = place.join("root.tar");
        engine.docker(["import"]).arg(tar).arg(&image).log(log).run()
    })?;
    Ok(image)
}

fn bootstrap(dir: &Path, log: &Path) -> Result<()> {
    let root = dir.join("root");
    // In namespaces of its own: whatever it mounts or starts is gone with it, however it ends.
    let namespaces = Cmd::new("unshare").args(["--mount", "--pid", "--fork", "--kill-child"]);
    let debootstrap = namespaces.args(["debootstrap", "--variant=minbase", versions::DEBIAN]);
    debootstrap.arg(&root).log(log).run()?;
    for downloads in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let folder = root.join(downloads);
        fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let tar = Cmd::new("tar").arg("--directory").arg(&root).args(["--numeric-owner", "--create"]);
    // Published images hold no devices either: every container gets its own.
    let tar = tar.args(["--exclude", "./dev/*"]);
    tar.arg("--file").arg(dir.join("root.tar")).arg(".").log(log).run()?;
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
}

/// kind's base of a node (systemd and what a kubelet calls) on this Debian; returns its name.
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

/// An image's name: what it is, tagged with its recipe.
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
