//! Installs the few Debian packages that have no substitute.
//!
//! Deliberately absent: removal. The packages stay on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

/// Installs the missing packages.
///
/// # Errors
/// The machine is no Debian, or the installation failed. The error quotes the end of the log.
pub fn ensure(h: &Harness, packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(
        Cmd::new("apt-get").arg("--version").succeeds(),
        "{list}: not here, and this system has no apt-get; install them by its own means"
    );
    h.progress.step(&format!("installing {list}"), seconds(20), |log| {
        // The package lists may be missing or too old. They are fetched only then.
        if install(&missing, log).is_ok() {
            return Ok(());
        }
        apt(log).arg("update").run()?;
        install(&missing, log)
    })
}

/// Updates the package lists.
///
/// # Errors
/// They cannot be fetched.
pub fn update(h: &Harness) -> Result<()> {
    h.progress.step("updating the package lists", seconds(10), |log| apt(log).arg("update").run())
}

/// The files of a package of this Debian, in a directory of the cache. Downloads and extracts the package if it is
/// missing.
///
/// # Errors
/// The machine is no Debian, or the package cannot be downloaded.
pub fn extracted(h: &Harness, package: &str) -> Result<PathBuf> {
    let version = match candidate(package) {
        Ok(version) => version,
        Err(_) => {
            update(h)?;
            candidate(package)?
        }
    };
    let recipe = Recipe { name: package, version: &version, inputs: &[] };
    match h.cache.find(&recipe) {
        Some(place) => Ok(place),
        None => h.progress.step(&format!("fetching {package} {version}"), seconds(5), |log| {
            h.cache.product(&recipe, |place| extract(package, place, log))
        }),
    }
}

/// The version of a package of this Debian, as in a file name.
fn candidate(package: &str) -> Result<String> {
    let policy = Cmd::new("apt-cache").args(["policy", package]).output()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let version = version.with_context(|| format!("this system has no package {package}"))?;
    Ok(version.replace(['+', '~', ':'], "-"))
}

/// Downloads a package and extracts its files to the directory `place`, without an installation:
/// none of its services starts.
///
/// # Errors
/// This Debian has no such package, or it cannot be downloaded.
pub fn extract(package: &str, place: &Path, log: &Path) -> Result<()> {
    // apt's sandbox user cannot write here.
    let download = Cmd::new("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
    download.arg(package).dir(place).log(log).run()?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
    let entries = fs::read_dir(place)?.collect::<Result<Vec<_>, _>>()?;
    let file = entries.iter().map(|entry| entry.path()).find(is_package);
    let file = file.with_context(|| format!("{package}: nothing was downloaded"))?;
    Cmd::new("dpkg-deb").arg("--extract").arg(&file).arg(place).log(log).run()?;
    Ok(fs::remove_file(&file)?)
}

fn installed(package: &str) -> bool {
    let status = Cmd::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    status.is_ok_and(|status| status == "installed")
}

fn install(packages: &[&str], log: &Path) -> Result<()> {
    apt(log).args(["install", "--yes", "--no-install-recommends"]).args(packages).run()
}

fn apt(log: &Path) -> Cmd {
    let apt = Cmd::new("apt-get").args(["-q", "-o", "DPkg::Lock::Timeout=120"]);
    apt.env("DEBIAN_FRONTEND", "noninteractive").log(log)
}
