//! Programs of published crates that the harness runs. They are compiled once, with the toolchain of the sources.
//!
//! Deliberately absent: the crates of the driver. These programs are in no Cargo.lock of ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::build::cargo;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;

/// A program of a published crate, which has the crate's name.
pub struct CrateProgram {
    /// The name of the crate.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// More arguments for `cargo install`, such as those that select features.
    pub args: &'static [&'static str],
    /// How long the build usually takes on two cores.
    pub usual: Duration,
}

impl CrateProgram {
    /// The program. Compiles it if it is missing.
    ///
    /// # Errors
    /// It does not compile, or the crate cannot be downloaded.
    pub fn ensure(&self, h: &Harness, repo: &Path) -> Result<PathBuf> {
        let Self { name, version, args, usual } = *self;
        let recipe = Recipe { name, version, inputs: args };
        let place = match h.cache.find(&recipe) {
            Some(place) => place,
            None => h.progress.step(&format!("building {name} {version}"), usual, |log| {
                let aside = h.cache.scratch(&format!("{name}.target"))?;
                let place = h.cache.product(&recipe, |root| {
                    let install = cargo(h, repo).args(["install", name, "--version", version]);
                    let install = install.args(["--locked", "--root"]).arg(root).args(args);
                    install.env("CARGO_TARGET_DIR", &aside).log(log).run()
                });
                // Half a gigabyte that no later build needs.
                std::fs::remove_dir_all(&aside)
                    .with_context(|| format!("removing {}", aside.display()))?;
                place
            })?,
        };
        Ok(place.join("bin").join(name))
    }
}
