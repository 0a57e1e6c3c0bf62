//! `cargo xtask soak`: the long tests, which `test` does not run.
//!
//! Deliberately absent: the tests. Each is an ignored test of the driver, named `soak_…`.

use std::{path::Path, time::Duration};

use anyhow::Result;

use super::cargo::FILE_SYSTEM_TOOLS;
use crate::driver;
use crate::machine::harness::Harness;
use crate::toolchain::apt;

/// The longest time without output and without use of the processor.
const LIMIT: Duration = Duration::from_hours(1);

/// Runs them in release mode and prints what they measure.
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
