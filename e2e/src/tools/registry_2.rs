//! The reference registry of the series before, as Debian packages it.
//!
//! Its module has no go.mod, so Go cannot say which dependencies it was released with.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::apt;
use crate::cache::Recipe;
use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::seconds;

const PACKAGE: &str = "docker-registry";

/// The program, downloaded first unless it is there.
///
/// # Errors
/// This is no Debian, or the package cannot be downloaded.
pub fn ensure(h: &Harness) -> Result<PathBuf> {
    let version = match candidate() {
        Ok(version) => version,
        Err(_) => {
            apt::update(h)?;
            candidate()?
        }
    };
    let recipe = Recipe { name: PACKAGE, version: &version, inputs: &[] };
    let place = match h.cache.have(&recipe) {
        Some(place) => place,
        None => h.progress.step(&format!("fetching {PACKAGE} {version}"), seconds(5), |log| {
            h.cache.product(&recipe, |place| apt::extract(PACKAGE, place, log))
        })?,
    };
    Ok(place.join("usr/bin").join(PACKAGE))
}

/// The version that this Debian has.
fn candidate() -> Result<String> {
    let policy = Cmd::new("apt-cache").args(["policy", PACKAGE]).output()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let version = version.with_context(|| format!("this system has no package {PACKAGE}"))?;
    Ok(version.replace(['+', '~', ':'], "-"))
}
