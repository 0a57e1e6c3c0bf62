//! Errors of the registry hosts directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::error::Class;

/// The hosts directory cannot be read, or the settings of one registry are invalid. Only an administrator of the node can
/// fix it.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A directory or file that cannot be read.
    #[error("registry hosts: cannot read {}: {source}", path.display())]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The directory of no registry: no image reference leads to its name.
    #[error(
        "registry hosts: the name of the directory {} is not a registry; write host, host:port or host_port_, \
         with a dot or a port in it",
        dir.display()
    )]
    Dir {
        /// Path of the directory.
        dir: PathBuf,
    },
    /// Two directories for one registry.
    #[error("registry hosts: {} is the second directory of its registry; keep one of them", dir.display())]
    Twice {
        /// Path of the directory that was read last.
        dir: PathBuf,
    },
    /// The file is not valid TOML.
    #[error("registry hosts: {} line {line}: {why}", file.display())]
    Syntax {
        /// Path of the file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's message.
        why: String,
    },
    /// A known key has an invalid value.
    #[error("registry hosts: {}: {key} {why}", file.display())]
    Value {
        /// Path of the file.
        file: PathBuf,
        /// The key, with the names of its tables.
        key: String,
        /// What the value must be.
        why: String,
    },
    /// Additional CA certificates that cannot be used.
    #[error("the additional CA certificates cannot be used: {why}; write PEM certificates")]
    ExtraCa {
        /// The cause.
        why: String,
    },
}

impl HostsError {
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    /// Always [`Class::Invalid`]: the node's settings are wrong.
    pub fn class(&self) -> Class {
        Class::Invalid
    }
}
