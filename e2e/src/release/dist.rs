//! A release in progress: what it is made of, and the directory of its files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::programs::Programs;
use super::source::Source;
use crate::machine::harness::Harness;

/// A release in progress.
pub struct Dist<'a> {
    /// The harness.
    pub h: &'a Harness,
    /// The sources.
    pub repo: &'a Path,
    /// The directory of the files.
    pub place: &'a Path,
    /// What is released.
    pub source: Source,
    /// The programs.
    pub programs: Programs,
}

impl Dist<'_> {
    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.place.join(name), bytes).with_context(|| format!("writing {name}"))
    }

    /// Reads a file again.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.place.join(name)).with_context(|| format!("reading {name}"))
    }
}
