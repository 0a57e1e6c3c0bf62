//! Prometheus and promtool, as Debian packages them.
//!
//! Its module is large: its build takes many minutes. Debian's build has no service discovery of Kubernetes.

use std::path::PathBuf;

use anyhow::Result;

use super::apt;
use crate::machine::harness::Harness;

/// The programs.
pub struct Prometheus {
    /// The server.
    pub server: PathBuf,
    /// promtool, which checks and tests rules.
    pub promtool: PathBuf,
}

impl Prometheus {
    /// Downloads them if they are missing. No service is installed.
    ///
    /// # Errors
    /// The machine is no Debian, or the package cannot be downloaded.
    pub fn ensure(h: &Harness) -> Result<Self> {
        let programs = apt::extracted(h, "prometheus")?.join("usr/bin");
        Ok(Self { server: programs.join("prometheus"), promtool: programs.join("promtool") })
    }
}
