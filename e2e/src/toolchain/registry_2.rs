//! The reference registry of the previous series, as Debian packages it.
//!
//! Its module has no go.mod, so Go cannot know the dependencies of its release.

use std::path::PathBuf;

use anyhow::Result;

use super::apt;
use crate::machine::harness::Harness;

const PACKAGE: &str = "docker-registry";

/// The program. Downloads it if it is missing.
///
/// # Errors
/// The machine is no Debian, or the package cannot be downloaded.
pub fn ensure(h: &Harness) -> Result<PathBuf> {
    Ok(apt::extracted(h, PACKAGE)?.join("usr/bin").join(PACKAGE))
}
