//! The reference registry of the previous series, as Debian packages it.
//!
//! Its module has no go.mod, so Go cannot know the dependencies of its release.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::apt;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

const PACKAGE: &str = "docker-registry";

/// The program. Downloads it if it is missing.
///
/// # Errors
/// The machine is no Debian, or the package cannot be downloaded.
pub fn ensure(h: &Harness) -> Result<PathBuf> {
    let version = match candidate() {
        Ok(version) => version,
        Err(_) => {
            apt::update(h)?;
            candidate()?
        }
    };
    let recipe = Recipe { name: PACKAGE, version: &version, inputs: &[] };
    let place = match h.cache.find(&recipe) {
        Some(place) => place,
        None => h.progress.step(&format!("fetching {PACKAGE} {version}"), seconds(5), |log| {
            h.cache.product(&recipe, |place| apt::extract(PACKAGE, place, log))
        })?,
    };
    Ok(place.join("usr/bin").join(PACKAGE))
}

/// The version of this Debian.
fn candidate() -> Result<String> {
    let policy = Cmd::new("apt-cache").args(["policy", PACKAGE]).output()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let version = version.with_context(|| format!("this system has no package {PACKAGE}"))?;
    Ok(version.replace(['+', '~', ':'], "-"))
}
