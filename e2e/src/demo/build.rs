//! Builds the program quickly: in the profile of this harness and beside it, so common dependencies
//! are compiled once.
//!
//! Deliberately absent: the cache. A user who tries the demonstration may not need the rest of the
//! harness.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::machine::process::Cmd;
use crate::machine::progress::human;

/// The profile in Cargo.toml.
const PROFILE: &str = "quick";

/// The target directory: that of the environment, or the one that this harness is in.
///
/// # Errors
/// The harness is in no target directory.
pub fn target() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(named.into());
    }
    // <target>/<profile>/xtask
    let myself = std::env::current_exe().context("finding this program")?;
    let target = myself.ancestors().nth(2).context("this program is in no target directory")?;
    Ok(target.to_owned())
}

/// Builds it in a target directory with cargo's output on the screen, and returns its path.
///
/// # Errors
/// It does not compile. cargo has printed why.
pub fn program(repo: &Path, target: &Path) -> Result<PathBuf> {
    println!("Building the program (2 minutes on 2 idle cores the first time, then seconds):");
    let since = Instant::now();
    let build = Cmd::new("cargo").dir(repo).args(["build", "--profile", PROFILE, "--locked"]);
    let build = build.args(["--package", "ovl-csi", "--bin", "ovl", "--target-dir"]).arg(target);
    // cargo sets these for the programs that it runs. They are no settings of this build, and would
    // make some crates compile again.
    let unset = std::env::vars_os().map(|(name, _)| name);
    let unset = unset.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    });
    let build = unset.fold(build, Cmd::env_remove);
    build.run_inherited().context("building the program")?;
    println!("Built in {}.", human(since.elapsed()));
    Ok(target.join(PROFILE).join("ovl"))
}
