//! Why an image was not written or pushed.

use std::{fmt, io, path::PathBuf};

use crate::{
    changeset::PackError,
    error::{Class, Explained},
    snapshots::TargetError,
};

/// Why an image was not written or pushed.
#[derive(Debug)]
pub enum OutgoingError {
    /// The state cannot be an image.
    Source {
        /// The state, as the user wrote it.
        text: String,
        /// The reason, and what to do.
        why: Explained,
    },
    /// A layer cannot be packed.
    Pack(PackError),
    /// A file cannot be written.
    Write {
        /// The file or the directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file exists already.
    Exists(PathBuf),
    /// Another command writes the same file.
    Busy(PathBuf),
    /// The directory has something else than a layout.
    NotALayout {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The registry does not get it.
    Push(Box<TargetError>),
}

impl OutgoingError {
    /// An error of a file that is written.
    pub(super) fn writing(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    /// An error of a packing whose output is a file.
    pub(super) fn packing(path: impl Into<PathBuf>) -> impl FnOnce(PackError) -> Self {
        let path = path.into();
        move |error| match error {
            PackError::Output(source) => Self::Write { path, source },
            error => Self::Pack(error),
        }
    }

    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        match self {
            Self::Source { text, why } => {
                Explained { what: Some(format!("cannot use {text} as an image")), ..why.clone() }
            }
            Self::Pack(error) => Explained::because(error.to_string()),
            Self::Write { path, source } => {
                let why = Explained::because(format!("cannot write {}: {source}", path.display()));
                match Class::of_disk(source) {
                    Class::Exhausted => why.fix(
                        "free space on that disk, or write to another one; nothing was left there",
                    ),
                    _ => why,
                }
            }
            Self::Exists(path) => Explained::because(format!("{} exists already", path.display()))
                .fix("remove it, or choose another name"),
            Self::Busy(path) => {
                Explained::because(format!("another command writes {}", path.display()))
                    .fix("wait until it has ended, or choose another name")
            }
            Self::NotALayout { dir, why } => {
                Explained::because(format!("{} is not an OCI layout: {why}", dir.display()))
                    .fix("name a layout, an empty directory or a new one")
            }
            Self::Push(error) => Explained::because(error.to_string()),
        }
    }
}

impl fmt::Display for OutgoingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

impl std::error::Error for OutgoingError {}
