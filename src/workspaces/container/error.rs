//! Why a command was not run.

use std::io;

use super::report::{Report, What};
use crate::{error::Class, sys::mounts::MountError};

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// There is no such program.
    #[error("{0}")]
    Absent(String),
    /// The program exists and cannot be executed.
    #[error("{0}")]
    NotExecutable(String),
    /// The container cannot be set up.
    #[error("cannot start the container: {0}")]
    SetUp(String),
    /// A call of this process failed.
    #[error("cannot start the container: cannot {what}: {error}")]
    Io {
        /// The operation, as a verb phrase.
        what: String,
        /// The error.
        error: io::Error,
    },
    /// A mount cannot be made.
    #[error("cannot start the container: {0}")]
    Mount(#[from] MountError),
}

impl ContainerError {
    /// The class of the failure.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent(_) => Class::NotFound,
            Self::NotExecutable(_) | Self::SetUp(_) => Class::Precondition,
            Self::Io { error, .. } => match error.kind() {
                io::ErrorKind::PermissionDenied => Class::Denied,
                _ => Class::of_disk(error),
            },
            Self::Mount(error) => error.class(),
        }
    }

    /// The exit code that a shell has for a program that it cannot run: 127 if it is absent, 126 if it cannot be
    /// executed. `None` for every other failure.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Absent(_) => Some(127),
            Self::NotExecutable(_) => Some(126),
            Self::SetUp(_) | Self::Io { .. } | Self::Mount(_) => None,
        }
    }
}

impl From<Report> for ContainerError {
    fn from(report: Report) -> Self {
        match report.what {
            What::Absent => Self::Absent(report.text),
            What::NotExecutable => Self::NotExecutable(report.text),
            What::SetUp => Self::SetUp(report.text),
        }
    }
}

/// The error of an operation, a verb phrase.
pub(super) fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> ContainerError {
    let what = what.into();
    |error| ContainerError::Io { what, error }
}
