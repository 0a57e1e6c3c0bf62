//! `cargo xtask soak`: the long tests, which `test` does not run.
//!
//! Deliberately absent: the tests. Those on many files are ignored tests of the driver, named `soak_…`.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};

use super::arm64;
use super::cargo::FILE_SYSTEM_TOOLS;
use crate::driver;
use crate::machine::harness::Harness;
use crate::toolchain::apt;

/// The longest time without output and without use of the processor.
const LIMIT: Duration = Duration::from_hours(1);

/// One part: its name, and what runs it.
type Part = (&'static str, fn(&Harness, &Path) -> Result<()>);

/// All parts.
const PARTS: [Part; 2] = [("large", large), ("arm64", arm64::run)];

/// Runs the named parts, or all if none is named.
///
/// # Errors
/// A name that no part has, or a failed test.
pub fn run(h: &Harness, repo: &Path, names: &[&str]) -> Result<()> {
    let known = PARTS.map(|(name, _)| name);
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!("no part is called {unknown}; there are: {}", known.join(", "));
    }
    let mut chosen = PARTS.iter().filter(|(name, _)| names.is_empty() || names.contains(name));
    chosen.try_for_each(|(_, part)| part(h, repo))
}

/// Runs the tests of the driver in release mode and prints what they measure.
fn large(h: &Harness, repo: &Path) -> Result<()> {
    apt::ensure(h, FILE_SYSTEM_TOOLS)?;
    let test = driver::cargo(h, repo).args(["test", "--release", "--locked", "--lib"]);
    let done = test.args(["--", "--ignored", "--nocapture", "soak_"]).limit(LIMIT).output()?;
    print!("{done}");
    Ok(())
}
