//! Why changes are not carried into a directory.

use std::{fmt, io, path::PathBuf};

use crate::{
    error::{Class, Explained},
    format,
};

/// Why changes were not carried into a directory, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The directory cannot be opened.
    Open {
        /// The directory.
        dir: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process applies to the same directory.
    Busy(PathBuf),
    /// Some paths must not be carried. Nothing was written.
    Refused(Refusals),
    /// Something cannot be read.
    Read {
        /// The path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Something cannot be written. What was written before remains, and is complete.
    Write {
        /// The path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Another process changed a path after it was checked.
    Meanwhile(String),
    /// The caller stopped it.
    Stopped,
}

impl ApplyError {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        const COMPLETE: &str = "what was applied before it is complete";
        match self {
            Self::Open { dir, source } => {
                Explained::new(format!("cannot apply to {}", dir.display()))
                    .why(source.to_string())
                    .fix("the directory must exist, and no part of its path may be a symbolic link")
            }
            Self::Busy(dir) => Explained::new(format!("cannot apply to {}", dir.display()))
                .why("another process is applying to it")
                .fix("try again when it has ended"),
            Self::Refused(refusals) => refusals.explained(),
            Self::Read { path, source } => {
                Explained::because(format!("cannot read {path}: {source}"))
            }
            Self::Write { path, source } => {
                Explained::because(format!("cannot write {path}: {source}"))
                    .fix(format!("{COMPLETE}; remove the reason and apply again"))
            }
            Self::Meanwhile(path) => {
                Explained::because(format!("{path} was changed by another process meanwhile"))
                    .fix(format!("{COMPLETE}; apply again"))
            }
            Self::Stopped => Explained::because("it was stopped before all changes were applied")
                .fix("apply again to finish"),
        }
    }

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

impl Refusals {
    fn explained(&self) -> Explained {
        let (mut why, mut fix) = (Vec::new(), Vec::new());
        if !self.conflicts.is_empty() {
            why.push("these paths conflict with changes in it:".to_owned());
            why.extend(self.conflicts.iter().map(|conflict| format!("  {conflict}")));
            if self.conflicts.iter().any(|conflict| conflict.reason.is_choice()) {
                fix.push("take the copy's files with --ours, or keep the directory's files with --theirs");
            }
        }
        if !self.special.is_empty() {
            why.push("these paths could give rights, or lead out of the directory:".to_owned());
            let special = self.special.iter();
            why.extend(
                special.map(|Special { path, reason }| format!("  {}: {reason}", shown(path))),
            );
            fix.push("look at them, then apply them with --special");
        }
        Explained {
            what: Some(format!("nothing was applied to {}", self.dir.display())),
            why: Some(why.join("\n")),
            fix: (!fix.is_empty()).then(|| fix.join("\n")),
        }
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
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
    /// Its ctime is after the moment, and its mtime is not.
    Ctime,
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
    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Ctime => "ctime",
            Self::Appeared => "appeared",
            Self::Gone => "gone",
            Self::Replaced => "replaced",
            Self::Parent(_) => "parent",
            Self::Git => "git",
            Self::NoDir(_) => "notDirectory",
            Self::Mounted => "mounted",
        }
    }

    /// Whether `--ours` decides it.
    pub(super) fn is_choice(&self) -> bool {
        !matches!(self, Self::NoDir(_) | Self::Mounted)
    }
}

impl fmt::Display for ConflictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("it was changed there"),
            Self::Ctime => f.write_str(
                "only its ctime is newer; its links, mode, owner or attributes were changed there, or its mtime was put back",
            ),
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

impl SpecialReason {
    /// One word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Setuid => "setuid",
            Self::Setgid => "setgid",
            Self::Capabilities => "capabilities",
            Self::Device => "device",
            Self::LeadsOut => "leadsOut",
        }
    }
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
