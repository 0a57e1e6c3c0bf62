//! The context of a suite.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::machine::harness::Harness;
use crate::{demo, driver};

/// What every suite gets.
pub struct SuiteContext<'a> {
    /// The harness.
    pub h: &'a Harness,
    /// The sources.
    pub repo: &'a Path,
    /// For everyday use: what takes long to compile is replaced by what compiles quickly.
    pub quick: bool,
}

impl SuiteContext<'_> {
    /// The driver: the static program that is shipped, or, for everyday use, the one of the quick profile,
    /// which the demonstration has compiled already.
    ///
    /// # Errors
    /// It does not compile.
    pub fn program(&self) -> Result<PathBuf> {
        if self.quick {
            demo::build::program(self.repo, &self.h.cache.cargo_target())
        } else {
            driver::program(self.h, self.repo)
        }
    }
}
