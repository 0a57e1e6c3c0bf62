//! Why a hosts folder cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::fault::Class;

/// Why the directory, or what it says of one registry, cannot be used. Every one is for whoever runs the node.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A folder or file that cannot be read.
    #[error("registry hosts: cannot read {}: {source}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A folder that no image reference can lead to.
    #[error(
        "registry hosts: the folder {} is not named after a registry; write host, host:port or host_port_, \
         with a dot or a port in it",
        folder.display()
    )]
    Folder {
        /// That folder.
        folder: PathBuf,
    },
    /// Two folders for one registry.
    #[error("registry hosts: {} names a registry that another folder names too; keep one", folder.display())]
    Twice {
        /// The one of them that was read last.
        folder: PathBuf,
    },
    /// Not TOML.
    #[error("registry hosts: {} line {line}: {why}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        why: String,
    },
    /// A known key with a wrong value.
    #[error("registry hosts: {}: {key} {why}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key with the tables around it.
        key: String,
        /// What it must be.
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
