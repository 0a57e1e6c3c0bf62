//! The image of the driver for the nodes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cluster::engine::{Engine, REPOSITORY};
use crate::machine::harness::Harness;
use crate::machine::progress::seconds;
use crate::toolchain::apt;

/// The certificates of this machine, at Debian's path.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// An image of the driver in the engine.
pub struct Image {
    /// Its repository.
    pub repository: String,
    /// Its tag, which follows its content.
    pub tag: String,
}

impl Image {
    /// Repository and tag.
    pub fn name(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

/// Builds the image of a program, as the Dockerfile does offline. Its tag follows its content, so a
/// cluster with an older image is updated.
///
/// # Errors
/// A file cannot be read, or the engine refuses the build.
pub fn build(h: &Harness, repo: &Path, engine: &Engine, program: &Path) -> Result<Image> {
    if !Path::new("/").join(CERTIFICATES).exists() {
        apt::ensure(h, &["ca-certificates"])?;
    }
    let context = h.cache.scratch("driver-image")?;
    let files = [
        (repo.join("Dockerfile"), "Dockerfile"),
        (repo.join("LICENSE"), "LICENSE"),
        (program.to_owned(), "dist/usr/bin/ovl"),
        (Path::new("/").join(CERTIFICATES), &format!("dist/{CERTIFICATES}")),
    ];
    let mut content = Sha256::new();
    for (from, to) in files {
        let bytes = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        content.update(&bytes);
        copy(&from, &context.join(to))?;
    }
    let tag = hex::encode(content.finalize())[..12].to_owned();
    let image = Image { repository: format!("{REPOSITORY}/driver"), tag };
    if !engine.has_image(&image.name()) {
        h.progress.step("building the driver's image", seconds(5), |log| {
            engine.build(&image.name(), &context, &["--target", "prebuilt"], log)
        })?;
    }
    Ok(image)
}

/// Copies a file with its permissions, and creates the directories above it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    to.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::copy(from, to))
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}
