//! Why changes are not carried into a directory.

use std::{fmt, io, path::PathBuf};

use crate::{error::Class, format};

/// Why changes were not carried into a directory, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The directory cannot be opened.
    #[error(
        "cannot apply to {}: {source}; the directory must exist, and no part of its path may be a symbolic link",
        .dir.display()
    )]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process applies to the same directory.
    #[error("cannot apply to {}: another process is applying to it; try again when it has ended", .0.display())]
    Busy(PathBuf),
    /// Some paths must not be carried. Nothing was written.
    #[error("{0}")]
    Refused(Refusals),
    /// Something cannot be read.
    #[error("cannot apply: cannot read {path}: {source}")]
    Read {
        /// The path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Something cannot be written. What was written before remains, and is complete.
    #[error(
        "cannot apply: cannot write {path}: {source}; what was applied before it is complete; fix the cause and apply again"
    )]
    Write {
        /// The path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Another process changed a path after it was checked.
    #[error(
        "cannot apply: {0} was changed by another process meanwhile; what was applied before it is complete; apply again"
    )]
    Meanwhile(String),
    /// The caller stopped it.
    #[error("it was stopped before all changes were applied; apply again to finish")]
    Stopped,
}

impl ApplyError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Class::NotFound
            }
            Self::Open { source, .. } | Self::Read { source, .. } | Self::Write { source, .. } => {
                Class::of_disk(source)
            }
            Self::Busy(_) | Self::Meanwhile(_) => Class::Busy,
            Self::Refused(_) => Class::Precondition,
            Self::Stopped => Class::Unavailable,
        }
    }

    pub(super) fn reading(path: &[u8]) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read { path: shown(path), source }
    }

    pub(super) fn writing(path: &[u8]) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Write { path: shown(path), source }
    }
}

/// A path for people. The root is a dot.
pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { format::path(path) }
}

/// All paths that must not be carried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals {
    /// The directory.
    pub dir: PathBuf,
    /// Paths that were changed in the directory too.
    pub conflicts: Vec<Conflict>,
    /// Paths that could give rights, or lead out of the directory.
    pub special: Vec<Special>,
}

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.conflicts.is_empty() && self.special.is_empty()
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing was applied to {}", self.dir.display())?;
        if !self.conflicts.is_empty() {
            write!(f, "\nthese paths conflict with changes in it:")?;
            for conflict in &self.conflicts {
                write!(f, "\n  {conflict}")?;
            }
            if self.conflicts.iter().any(|conflict| conflict.reason.is_choice()) {
                write!(
                    f,
                    "\ntake the copy's files with --ours, or keep the directory's files with --theirs"
                )?;
            }
        }
        if !self.special.is_empty() {
            write!(f, "\nthese paths could give rights, or lead out of the directory:")?;
            for Special { path, reason } in &self.special {
                write!(f, "\n  {}: {reason}", shown(path))?;
            }
            write!(f, "\nlook at them, then apply them with --special")?;
        }
        Ok(())
    }
}

/// A path that cannot be carried without a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path in the directory.
    pub path: Vec<u8>,
    /// Why it conflicts.
    pub reason: ConflictReason,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown(&self.path), self.reason)
    }
}

/// Why a path conflicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConflictReason {
    /// It was changed in the directory after the moment.
    Changed,
    /// The directory has it, and the copy made it anew.
    Appeared,
    /// It was removed from the directory, or renamed.
    Gone,
    /// It is another file or directory than the one that the copy was made from.
    Replaced,
    /// A directory above it is gone, or is another one.
    Parent(Vec<u8>),
    /// It lies in a directory that is removed, and it is a git repository's.
    Git,
    /// Something above it is no directory.
    NoDir(Vec<u8>),
    /// Another file system is mounted there.
    Mounted,
}

impl ConflictReason {
    /// Whether `--ours` decides it.
    pub(super) fn is_choice(&self) -> bool {
        !matches!(self, Self::NoDir(_) | Self::Mounted)
    }
}

impl fmt::Display for ConflictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("it was changed there"),
            Self::Appeared => f.write_str("it was made there, too"),
            Self::Gone => f.write_str("it was removed or renamed there"),
            Self::Replaced => f.write_str("it is another file or directory there now"),
            Self::Parent(path) => {
                write!(f, "the directory {} was removed, renamed or replaced there", shown(path))
            }
            Self::Git => f.write_str("it is in a directory to remove, and .git is left out"),
            Self::NoDir(path) => {
                write!(f, "{} is no directory there; rename or remove it", shown(path))
            }
            Self::Mounted => {
                f.write_str("another file system is mounted there; unmount it and apply again")
            }
        }
    }
}

/// A path that is carried only on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Special {
    /// The path in the directory.
    pub path: Vec<u8>,
    /// What is special.
    pub reason: SpecialReason,
}

/// What is special about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialReason {
    /// A file runs with the rights of its owner.
    Setuid,
    /// A file runs with the rights of its group.
    Setgid,
    /// A file has capabilities.
    Capabilities,
    /// It is a device.
    Device,
    /// A symbolic link leads out of the directory.
    LeadsOut,
}

impl fmt::Display for SpecialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setuid => "a setuid file",
            Self::Setgid => "a setgid file",
            Self::Capabilities => "a file with capabilities",
            Self::Device => "a device",
            Self::LeadsOut => "a symbolic link that leads out of the directory",
        })
    }
}
