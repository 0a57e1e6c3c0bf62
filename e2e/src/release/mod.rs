//! `cargo xtask release`: all files of a release, in `target/dist/VERSION`, each of them checked.
//!
//! ```text
//! programs ─┬─► ovl_VERSION_OS_ARCH.tar.gz, kubectl-ovl_VERSION_OS_ARCH.tar.gz ─► ovl.yaml (krew)
//!           └─► ovl-csi_VERSION_image.tar (both architectures) ─► its name in ovl-csi-VERSION.tgz (the chart)
//! Cargo.lock ─► ovl-csi_VERSION_OS_ARCH.cdx.json          CHANGELOG.md ─► NOTES.md
//! all files ──► SHA256SUMS
//! ```
//!
//! Everything that is packed here has the same bytes each time: the time of the commit, sorted, of root. Deliberately
//! absent: publishing. `docs/release.md` has the commands.
//!
//! May use: machine, toolchain, oci, driver, env

mod archive;
mod changelog;
mod chart;
mod checks;
mod dist;
mod dockerfile;
mod identify;
mod image;
mod krew;
mod macho;
mod manual;
mod options;
mod pe;
mod platform;
mod programs;
mod sbom;
mod source;
mod sums;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::harness::Harness;
use crate::machine::mounts;
use crate::machine::progress::{human, minutes, seconds};
use crate::oci::files::Files;
use dist::Dist;
use programs::{DRIVER, PLUGIN, Programs};
use source::Source;

pub use options::Options;

/// Where the files are, below the sources, in a directory with the version's name.
const PLACE: &str = "target/dist";

/// Makes all files and checks them.
///
/// # Errors
/// There are changes that are not committed, the changelog has no section of the version, or a file cannot be made or
/// is not what it must be.
pub fn run(h: &Harness, repo: &Path, options: &Options) -> Result<()> {
    let since = std::time::Instant::now();
    let source = Source::of(repo, options.allow_dirty)?;
    let image = options.image.clone().map_or_else(|| source.image(), Ok)?;
    // Before anything slow.
    let changes = fs::read_to_string(repo.join("CHANGELOG.md")).context("reading CHANGELOG.md")?;
    let changes = changelog::section(
        &changes,
        if options.unreleased { changelog::UNRELEASED } else { &source.version },
    )?;
    let place = repo.join(PLACE).join(&source.version);
    mounts::remove(&place)?;
    fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
    let programs = Programs::build(h, repo, &options.profile)?;
    let dist = Dist { h, repo, place: &place, source, programs };
    let version = &dist.source.version;
    let digest = pack_image(&dist)?;
    let plugin = pack_programs(&dist)?;
    h.progress.step("packing the chart", seconds(2), |_| {
        let package = chart::make(h, repo, &dist.source, &image)?;
        dist.write(&chart::name(version), &package)
    })?;
    dist.write(krew::NAME, krew::manifest(&dist.source, &plugin).as_bytes())?;
    list_crates(&dist)?;
    let notes = changelog::notes(&changes, &format!("{image}:{version}@{digest}"));
    dist.write(changelog::NOTES, notes.as_bytes())?;
    sums::write(&place)?;
    checks::run(&dist, &image, &plugin)?;
    h.progress.say(&format!(
        "All files of {version} are in {} and checked, after {}.",
        place.display(),
        human(since.elapsed())
    ));
    Ok(())
}

/// Writes the archive of the image. Returns its digest.
fn pack_image(dist: &Dist<'_>) -> Result<String> {
    dist.h.progress.step("packing the image", seconds(10), |_| {
        let program = |platform| dist.programs.get(DRIVER, platform);
        let archive = image::make(dist.h, dist.repo, &dist.source, program)?;
        dist.write(&image::name(&dist.source.version), &archive.tar)?;
        Ok(archive.digest)
    })
}

/// Writes the archives of all programs. Returns those of the plugin.
fn pack_programs(dist: &Dist<'_>) -> Result<Vec<krew::Archive>> {
    let license = fs::read(dist.repo.join("LICENSE")).context("reading LICENSE")?;
    let Source { version, time, .. } = &dist.source;
    dist.h.progress.step("packing the programs", seconds(10), |_| {
        let mut plugin = Vec::new();
        let manual = manual::files(dist.h, &dist.programs)?.with(archive::LICENSE, license.clone());
        for platform in platform::all() {
            for &program in programs::of(platform) {
                let (name, file) =
                    (archive::name(program, version, platform), platform.file(program));
                let bytes = dist.programs.get(program, platform)?;
                let others = match program {
                    PLUGIN => Files::default().with(archive::LICENSE, license.clone()),
                    _ => manual.clone(),
                };
                let bytes = archive::pack(&name, &file, bytes, others, *time)?;
                dist.write(&name, &bytes)?;
                if program == PLUGIN {
                    let (program, sha256) = (file, sums::sha256(&bytes));
                    plugin.push(krew::Archive { platform, name, program, sha256 });
                }
            }
        }
        Ok(plugin)
    })
}

/// Writes the lists of crates.
fn list_crates(dist: &Dist<'_>) -> Result<()> {
    let Dist { h, repo, source, .. } = dist;
    for platform in platform::all() {
        h.progress.step(&format!("listing the crates for {platform}"), minutes(1), |log| {
            let list = sbom::make(h, repo, source, platform, log)?;
            dist.write(&sbom::name(&source.version, platform), &list)
        })?;
    }
    Ok(())
}
