//! The driver's image for all architectures of nodes, as one OCI archive, without an engine and without running a
//! program of another architecture.
//!
//! Deliberately absent: a base image. The programs are static.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::dockerfile::Settings;
use super::platform::{NODES, Platform};
use super::source::Source;
use crate::machine::harness::Harness;
use crate::oci::files::Files;
use crate::oci::layout::{self, Archive, Common};
use crate::toolchain::apt;

/// The certificates of this machine, at the path at which the image has them (Debian's).
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// The path of the program in the image.
const PROGRAM: &str = "usr/bin/ovl";

/// The name of the archive.
pub fn name(version: &str) -> String {
    format!("ovl-csi_{version}_image.tar")
}

/// Makes the archive of the programs of all platforms.
///
/// # Errors
/// A file cannot be read, or the Dockerfile has a setting that is not known here.
pub fn make(
    h: &Harness,
    repo: &Path,
    source: &Source,
    program: impl Fn(Platform) -> Result<Vec<u8>>,
) -> Result<Archive> {
    let certificates = Path::new("/").join(CERTIFICATES);
    if !certificates.exists() {
        apt::ensure(h, &["ca-certificates"])?;
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let (certificates, license) = (read(&certificates)?, read(&repo.join("LICENSE"))?);
    let mut images = Vec::new();
    for platform in NODES {
        let files = Files::default()
            .with("LICENSE", license.clone())
            .with(CERTIFICATES, certificates.clone())
            .with_program(PROGRAM, program(platform)?);
        images.push((platform.arch, files));
    }
    let dockerfile =
        fs::read_to_string(repo.join("Dockerfile")).context("reading the Dockerfile")?;
    layout::archive(&common(source, Settings::parse(&dockerfile)?), &images)
}

/// Labels and annotations are the same: some tools read the one, some the other.
fn common(source: &Source, settings: Settings) -> Common {
    let mut annotations = settings.labels;
    for (key, value) in [
        ("created", &source.created),
        ("version", &source.version),
        ("revision", &source.commit),
        ("source", &source.home),
        ("url", &source.home),
        ("documentation", &format!("{}/tree/{}/docs", source.home, source.tag())),
    ] {
        annotations.insert(format!("org.opencontainers.image.{key}"), value.clone());
    }
    Common {
        tag: source.version.clone(),
        time: source.time,
        created: source.created.clone(),
        created_by: "cargo xtask release".to_owned(),
        config: json!({
            "Entrypoint": settings.entrypoint,
            "Env": settings.env,
            "Labels": annotations,
        }),
        annotations,
    }
}

/// Checks every blob of an archive, and that the programs in it are these.
///
/// # Errors
/// The archive is damaged, or has another program.
pub fn check(archive: &[u8], program: impl Fn(Platform) -> Result<Vec<u8>>) -> Result<()> {
    let images = layout::read(archive)?;
    ensure!(images.len() == NODES.len(), "it has {} images", images.len());
    for platform in NODES {
        let files = images.get(platform.arch).with_context(|| format!("no {platform}"))?;
        let file = files.get(PROGRAM)?;
        ensure!(file.bytes == program(platform)?, "{platform}: another program");
        ensure!(file.mode == 0o755, "{platform}: the program has the mode {:o}", file.mode);
        ensure!(!files.get(CERTIFICATES)?.bytes.is_empty(), "{platform}: no certificates");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_has_the_settings_of_the_dockerfile_and_the_labels_of_oci() -> Result<()> {
        let settings = Settings::parse(include_str!("../../../Dockerfile"))?;
        let common = common(&Source::example(), settings);
        assert_eq!(common.config["Entrypoint"][0], format!("/{PROGRAM}"));
        let label = |key: &str| {
            let key = format!("org.opencontainers.image.{key}");
            assert_eq!(common.config["Labels"][&key], common.annotations[&key]);
            common.annotations[&key].clone()
        };
        assert_eq!(
            (label("title").as_str(), label("licenses").as_str()),
            ("ovl-csi", "Apache-2.0")
        );
        assert_eq!(
            (label("version").as_str(), label("created").as_str()),
            ("1.2.3", "2023-11-14T22:13:20Z")
        );
        assert_eq!(label("documentation"), "https://github.com/Example/ovl/tree/v1.2.3/docs");
        Ok(())
    }

    #[test]
    fn another_program_in_an_archive_is_found() -> Result<()> {
        let settings = Settings::parse(include_str!("../../../Dockerfile"))?;
        let files = |name: &str| {
            Files::default().with(CERTIFICATES, "a").with_program(PROGRAM, name.as_bytes())
        };
        let images = NODES.map(|platform| (platform.arch, files(platform.arch)));
        let archive = layout::archive(&common(&Source::example(), settings), &images)?.tar;
        let program = |platform: Platform| Ok(platform.arch.as_bytes().to_vec());
        assert!(check(&archive, program).is_ok());
        assert!(check(&archive, |_| Ok(b"amd64".to_vec())).is_err());
        Ok(())
    }
}
