//! The platforms of a release: their names in Go's words, as Kubernetes, OCI and krew use them, and Rust's targets.
//!
//! Deliberately absent: platforms for which nothing links, such as Windows on arm64.

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

/// Where only the plugin of kubectl runs: the machines of users.
pub const USERS: [Platform; 3] = [
    Platform { os: "darwin", arch: "amd64", target: "x86_64-apple-darwin" },
    Platform { os: "darwin", arch: "arm64", target: "aarch64-apple-darwin" },
    Platform { os: "windows", arch: "amd64", target: "x86_64-pc-windows-gnu" },
];

/// All of them.
pub fn all() -> impl Iterator<Item = Platform> {
    NODES.into_iter().chain(USERS)
}

impl Platform {
    /// The name of a program's file.
    pub fn file(self, program: &str) -> String {
        if self.os == "windows" { format!("{program}.exe") } else { program.to_owned() }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.os, self.arch)
    }
}
