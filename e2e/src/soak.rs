//! `cargo xtask soak`: the tests that are long by nature, which `test` does not run.
//!
//! Deliberately absent: what they do. Each is an ignored test of the driver's, named `soak_…`.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{driver, harness::Harness, suites::cargo::FILE_SYSTEM_TOOLS, tools::apt};

/// How long all of them may take.
const LIMIT: Duration = Duration::from_hours(1);

/// Runs them in release, and prints what they measure.
///
/// # Errors
/// One of them failed.
pub fn run(h: &Harness, repo: &Path) -> Result<()> {
    apt::ensure(h, FILE_SYSTEM_TOOLS)?;
    let test = driver::cargo(h, repo).args(["test", "--release", "--locked", "--lib"]);
    let done = test.args(["--", "--ignored", "--nocapture", "soak_"]).limit(LIMIT).output()?;
    print!("{done}");
    Ok(())
}
