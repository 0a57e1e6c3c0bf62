//! Why a command on a workspace failed.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::outgoing::OutgoingError;
use crate::{
    changeset::CompareError,
    error::Explained,
    layers::{
        AddError, CollectError, LowerError, OpenError, ReserveError, StateName, WorkspaceBase,
        WorkspaceName,
    },
    overlay::{OverlayError, PlanError, PreflightError},
    sys::{clone::CloneError, durable::at, mount_namespaces, mounts::MountError},
};

/// Why a command on a workspace failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The store cannot be opened.
    Store(#[from] OpenError),
    /// Only root can mount overlays of this kind.
    NotRoot,
    /// The directory cannot hold a store.
    Unusable {
        /// The directory.
        root: PathBuf,
        /// The type of its file system, if it is known.
        kind: Option<&'static str>,
        /// The failed check.
        check: PreflightError,
    },
    /// There is no such workspace.
    Unknown {
        /// The name.
        name: WorkspaceName,
        /// The store.
        root: PathBuf,
    },
    /// The workspace has no such snapshot.
    UnknownState {
        /// The workspace.
        workspace: WorkspaceName,
        /// The name.
        state: StateName,
        /// The snapshots that it has.
        known: Vec<StateName>,
    },
    /// The name of a workspace is taken.
    Taken(WorkspaceName),
    /// The name of a snapshot is taken.
    StateTaken {
        /// The workspace.
        workspace: WorkspaceName,
        /// The name.
        state: StateName,
    },
    /// The name has a meaning of its own.
    Reserved(String),
    /// Another command has the lock of the workspace.
    Busy {
        /// The workspace.
        name: WorkspaceName,
        /// The processes that have the lock.
        pids: Vec<u32>,
    },
    /// The workspace is mounted, or commands run in it.
    InUse {
        /// What was requested.
        action: &'static str,
        /// The workspace.
        name: WorkspaceName,
        /// Where it is mounted, and how that ends.
        how: InUse,
    },
    /// Processes use files of the mount.
    BusyMount {
        /// Where it is mounted.
        path: PathBuf,
        /// The processes.
        pids: Vec<u32>,
    },
    /// The workspace is not mounted.
    NotMounted(WorkspaceName),
    /// Two workspaces do not stand on the same base.
    OtherBase(Box<[(WorkspaceName, WorkspaceBase); 2]>),
    /// A rollback would lose changes.
    WouldLose(WorkspaceName),
    /// The directory of a copy cannot be used.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason, and perhaps what to do.
        why: Explained,
    },
    /// The directory of a copy does not exist any more.
    DirectoryGone {
        /// The workspace.
        name: WorkspaceName,
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        source: MountError,
    },
    /// A source of layers cannot be used.
    Source {
        /// The source, as the user wrote it.
        text: String,
        /// The reason, and what to do.
        why: String,
    },
    /// A layer cannot be added.
    Add(#[from] AddError),
    /// A layer cannot be opened.
    Lower(#[from] LowerError),
    /// The upper that was to become a layer is missing.
    Lost(WorkspaceName),
    /// The stack breaks a rule of overlayfs.
    Plan(#[from] PlanError),
    /// The overlay cannot be made.
    Overlay(#[from] OverlayError),
    /// A mount operation failed.
    Mount(#[from] MountError),
    /// The overlay does not take writes.
    NotWritable {
        /// The workspace.
        name: WorkspaceName,
        /// The system's error.
        source: io::Error,
    },
    /// The private overlay over a directory cannot be made.
    OverlayOver {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Box<Self>,
    },
    /// A file of `--pre-copy-up` cannot be copied up.
    CopyUp {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The upper of a mounted workspace cannot be copied.
    Copy {
        /// The workspace.
        name: WorkspaceName,
        /// What failed.
        source: CloneError,
    },
    /// There is not enough space for a copy.
    NoSpace(#[from] ReserveError),
    /// Two states cannot be compared.
    Compare(#[from] CompareError),
    /// Unused layers cannot be removed.
    Collect(#[from] CollectError),
    /// An image cannot be written or pushed.
    Outgoing(Box<OutgoingError>),
    /// A node has volumes in the store.
    HasVolumes(PathBuf),
    /// A file system operation failed.
    Disk(#[from] io::Error),
}

/// How a workspace is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InUse {
    /// Mounted at this path in the namespace of the caller.
    Mounted(PathBuf),
    /// Mounted in the namespaces of these processes.
    Running(Vec<u32>),
}

/// Processes in a message, with their names.
pub(super) struct Processes<'a>(pub(super) &'a [u32]);

/// The most processes that a message names.
const NAMED: usize = 5;

impl fmt::Display for Processes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("a process that cannot be seen from here");
        }
        let name = |pid: &u32| match mount_namespaces::process_name(*pid) {
            Some(name) => format!("{pid} ({name})"),
            None => pid.to_string(),
        };
        let named: Vec<_> = self.0.iter().take(NAMED).map(name).collect();
        let word = if self.0.len() == 1 { "process" } else { "processes" };
        write!(f, "{word} {}", named.join(", "))?;
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What to do about an unknown snapshot of a workspace that has these.
pub(super) struct Known<'a>(pub(super) &'a WorkspaceName, pub(super) &'a [StateName]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.1.iter().map(StateName::as_str).collect();
        match &names[..] {
            [] => write!(f, "take one with `ovl snapshot {} SNAPSHOT`: it has none", self.0),
            names => write!(f, "use one of {}", names.join(", ")),
        }
    }
}

impl WorkspaceError {
    /// Adds an operation and a path to an I/O error.
    pub(super) fn disk(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let error = at(what, path);
        move |source| Self::Disk(error(source))
    }
}
