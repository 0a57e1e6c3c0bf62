//! Why a command was not run.

use std::{fmt, io};

use super::report::{AFTER_COMMAND, Report, What};
use crate::{error::Class, sys::mounts::MountError};

/// Why a command was not run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// There is no such program.
    Absent {
        /// The command.
        command: String,
        /// The reason.
        why: String,
    },
    /// The program exists and cannot be executed.
    NotExecutable {
        /// The command.
        command: String,
        /// The reason.
        why: String,
    },
    /// The container cannot be set up.
    SetUp(String),
    /// A call of this process failed.
    Io {
        /// The operation, as a verb phrase.
        what: String,
        /// The error.
        error: io::Error,
    },
    /// A mount cannot be made.
    Mount(#[from] MountError),
}

impl fmt::Display for ContainerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { command, why } | Self::NotExecutable { command, why } => {
                write!(f, "cannot run {command}: {why}")
            }
            Self::SetUp(why) => write!(f, "cannot start the container: {why}"),
            Self::Io { what, error } => {
                write!(f, "cannot start the container: cannot {what}: {error}")
            }
            Self::Mount(error) => write!(f, "cannot start the container: {error}"),
        }
    }
}

impl ContainerError {
    /// The class of the failure.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent { .. } => Class::NotFound,
            Self::NotExecutable { .. } | Self::SetUp(_) => Class::Precondition,
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
            Self::Absent { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            Self::SetUp(_) | Self::Io { .. } | Self::Mount(_) => None,
        }
    }
}

impl From<Report> for ContainerError {
    fn from(report: Report) -> Self {
        let (command, why) = report.text.split_once(AFTER_COMMAND).unwrap_or(("it", &report.text));
        let (command, why) = (command.to_owned(), why.to_owned());
        match report.what {
            What::Absent => Self::Absent { command, why },
            What::NotExecutable => Self::NotExecutable { command, why },
            What::SetUp => Self::SetUp(report.text),
        }
    }
}

/// The error of an operation, a verb phrase.
pub(super) fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> ContainerError {
    let what = what.into();
    |error| ContainerError::Io { what, error }
}
