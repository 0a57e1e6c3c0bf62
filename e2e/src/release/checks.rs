//! The checks of a release: each file is opened again, by the program that users open it with where there is one.
//!
//! Deliberately absent: checks of what the programs do. Those are the tests.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::dist::Dist;
use super::platform::{self, NODES};
use super::programs::{self, DRIVER};
use super::{archive, changelog, chart, image, krew, manual, sbom, sums};
use crate::machine::process::Cmd;
use crate::machine::progress::{minutes, seconds};
use crate::toolchain::apt;

/// Checks all files.
///
/// # Errors
/// One is not what it must be.
pub fn run(dist: &Dist<'_>, repository: &str, plugin: &[krew::Archive]) -> Result<()> {
    let Dist { h, place, source, .. } = dist;
    let step = |what: &str, work: &dyn Fn() -> Result<()>| {
        h.progress.step(&format!("checking {what}"), seconds(5), |_| work())
    };
    step("the programs", &|| programs_of_archives(dist))?;
    step("the image", &|| the_image(dist))?;
    step("the chart", &|| {
        let package = place.join(chart::name(&source.version));
        chart::check(h, &package, &source.version, repository)
    })?;
    h.progress.step("checking the manifest for krew", minutes(1), |log| {
        manifest(dist, plugin)?;
        krew::check(h, place, plugin, log)
    })?;
    step("the lists of crates", &|| {
        for platform in platform::all() {
            let name = sbom::name(&source.version, platform);
            sbom::check(h, dist.repo, platform, &dist.read(&name)?).context(name)?;
        }
        Ok(())
    })?;
    step("the checksums", &|| sums::check(place))
}

fn programs_of_archives(dist: &Dist<'_>) -> Result<()> {
    let version = &dist.source.version;
    for platform in platform::all() {
        for name in programs::of(platform) {
            let archive = archive::name(name, version, platform);
            let files = archive::open(&archive, &dist.read(&archive)?)?;
            let program = platform.file(name);
            let all = files.iter().map(|(path, _)| path);
            let (manual, names): (Vec<_>, Vec<_>) = all.partition(|path| path.contains('/'));
            ensure!(names == [archive::LICENSE, &program], "{archive} has {names:?}");
            let has_page = manual.contains(&manual::PAGE);
            ensure!(has_page == (*name == DRIVER), "{archive} has {manual:?}");
            let file = files.get(&program)?;
            ensure!(file.mode == 0o755, "{archive}: the program has the mode {:o}", file.mode);
            programs::check_paths(dist.h, dist.repo, &file.bytes)
                .and_then(|()| programs::check(dist.h, name, version, platform, &file.bytes))
                .context(archive)?;
        }
    }
    Ok(())
}

/// Checks every blob, and that skopeo finds the image of each platform.
fn the_image(dist: &Dist<'_>) -> Result<()> {
    let Dist { h, place, source, .. } = dist;
    apt::ensure(h, &["skopeo"])?;
    let name = image::name(&source.version);
    image::check(&dist.read(&name)?, |platform| dist.programs.get(DRIVER, platform))?;
    let reference = format!("oci-archive:{}:{}", place.join(&name).display(), source.version);
    let index = Cmd::new("skopeo").args(["inspect", "--raw", &reference]).output()?;
    let (digest, notes) = (sums::sha256(index.as_bytes()), dist.read(changelog::NOTES)?);
    let notes = String::from_utf8(notes).context("the notes are no text")?;
    ensure!(notes.contains(&format!("@sha256:{digest}`")), "the notes do not name sha256:{digest}");
    let index: Value = serde_json::from_str(&index).context("skopeo prints no JSON")?;
    let entries = index["manifests"].as_array().into_iter().flatten();
    let platform = |entry: &Value| {
        let part = |key: &str| entry["platform"][key].as_str().unwrap_or_default().to_owned();
        format!("{}_{}", part("os"), part("architecture"))
    };
    let found: Vec<_> = entries.map(platform).collect();
    ensure!(found == NODES.map(|platform| platform.to_string()), "the index has {found:?}");
    for platform in NODES {
        let inspect = Cmd::new("skopeo").args(["--override-os", platform.os, "--override-arch"]);
        let inspect = inspect.arg(platform.arch).args(["inspect", &reference]).output()?;
        let seen: Value = serde_json::from_str(&inspect).context("skopeo prints no JSON")?;
        ensure!(seen["Architecture"] == platform.arch, "skopeo sees {inspect}");
        let version = &seen["Labels"]["org.opencontainers.image.version"];
        ensure!(*version == source.version.as_str(), "skopeo sees the version {version}");
    }
    Ok(())
}

/// Checks that the manifest has the checksum of each archive as it is on the disk.
fn manifest(dist: &Dist<'_>, plugin: &[krew::Archive]) -> Result<()> {
    let text = String::from_utf8(dist.read(krew::NAME)?).context("the manifest is no text")?;
    for archive in plugin {
        let sum = sums::sha256(&dist.read(&archive.name)?);
        let entry = format!("/{}\n    sha256: {sum}\n", archive.name);
        ensure!(text.contains(&entry), "the manifest has no checksum {sum} of {}", archive.name);
    }
    Ok(())
}
