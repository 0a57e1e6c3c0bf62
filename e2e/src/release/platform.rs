//! The platforms of a release: their names in Go's words, as Kubernetes, OCI and krew use them, and Rust's targets.
//!
//! Deliberately absent: platforms on which no test runs and for which nothing links.

use std::fmt;

/// A system and an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The system, as Go names it.
    pub os: &'static str,
    /// The architecture, as Go names it.
    pub arch: &'static str,
    /// Rust's target.
    pub target: &'static str,
}

/// Where the driver runs.
pub const NODES: [Platform; 2] = [
    Platform { os: "linux", arch: "amd64", target: "x86_64-unknown-linux-musl" },
    Platform { os: "linux", arch: "arm64", target: "aarch64-unknown-linux-musl" },
];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.os, self.arch)
    }
}
