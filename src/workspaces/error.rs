//! Why a command on a workspace failed.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{
    changeset::CompareError,
    layers::{
        AddError, CollectError, LowerError, OpenError, ReserveError, StateName, WorkspaceName,
    },
    overlay::{OverlayError, PlanError},
    sys::{clone::CloneError, durable::at, mount_namespaces, mounts::MountError},
};

/// Why a command on a workspace failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Only root can mount overlays of this kind.
    #[error(
        "workspaces need root, because they are mounted; run the command as root, for example with sudo"
    )]
    NotRoot,
    /// The directory cannot hold a store.
    #[error("{} cannot hold a store: {why}; choose another directory with --root", root.display())]
    Unusable {
        /// The directory.
        root: PathBuf,
        /// The failed check, with its fix.
        why: String,
    },
    /// There is no such workspace.
    #[error("there is no workspace {name}; `ovl list` shows those of {}", root.display())]
    Unknown {
        /// The name.
        name: WorkspaceName,
        /// The store.
        root: PathBuf,
    },
    /// The workspace has no such snapshot.
    #[error("workspace {workspace} has no snapshot {state}; {}", Known(known))]
    UnknownState {
        /// The workspace.
        workspace: WorkspaceName,
        /// The name.
        state: StateName,
        /// The snapshots that it has.
        known: Vec<StateName>,
    },
    /// The name of a workspace is taken.
    #[error(
        "a workspace {0} exists already; choose another name, or remove it with `ovl scrub {0}`"
    )]
    Taken(WorkspaceName),
    /// The name of a snapshot is taken.
    #[error(
        "workspace {workspace} has a snapshot {state} already; choose another name, or remove it with \
         `ovl remove {workspace} {state}`"
    )]
    StateTaken {
        /// The workspace.
        workspace: WorkspaceName,
        /// The name.
        state: StateName,
    },
    /// The name has a meaning of its own.
    #[error(
        "{0:?} cannot be the name of a snapshot, because it has a meaning of its own; choose another name"
    )]
    Reserved(String),
    /// Another command has the lock of the workspace.
    #[error(
        "workspace {name} is in use by another command ({}); try again when it has ended",
        Processes(pids)
    )]
    Busy {
        /// The workspace.
        name: WorkspaceName,
        /// The processes that have the lock.
        pids: Vec<u32>,
    },
    /// The workspace is mounted, or commands run in it.
    #[error("cannot {action} workspace {name} while it is {how}")]
    InUse {
        /// What was requested.
        action: &'static str,
        /// The workspace.
        name: WorkspaceName,
        /// Where it is mounted, and how that ends.
        how: InUse,
    },
    /// Processes use files of the mount.
    #[error(
        "cannot unmount {}: it is in use by {}; end them, or let them leave the directory", path.display(), Processes(pids)
    )]
    BusyMount {
        /// Where it is mounted.
        path: PathBuf,
        /// The processes.
        pids: Vec<u32>,
    },
    /// The workspace is not mounted.
    #[error("workspace {0} is not mounted")]
    NotMounted(WorkspaceName),
    /// A rollback would lose changes.
    #[error(
        "a rollback of workspace {0} loses its changes since the last snapshot; repeat it with --yes, or keep them with \
         --keep NAME"
    )]
    WouldLose(WorkspaceName),
    /// The directory of a copy cannot be used.
    #[error("cannot make a workspace over {}: {why}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason, and what to do.
        why: String,
    },
    /// The directory of a copy does not exist any more.
    #[error(
        "workspace {name} was made over {}, which cannot be opened: {source}; put the directory back, or remove the \
         workspace with `ovl scrub {name}`", path.display()
    )]
    DirectoryGone {
        /// The workspace.
        name: WorkspaceName,
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        source: MountError,
    },
    /// A source of layers cannot be used.
    #[error("cannot use {text}: {why}")]
    Source {
        /// The source, as the user wrote it.
        text: String,
        /// The reason, and what to do.
        why: String,
    },
    /// A layer cannot be added.
    #[error(transparent)]
    Add(#[from] AddError),
    /// A layer cannot be opened.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The upper that was to become a layer is missing.
    #[error(
        "workspace {0} has lost its upper and the layer that was made of it; roll it back to a snapshot"
    )]
    Lost(WorkspaceName),
    /// The stack breaks a rule of overlayfs.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The overlay cannot be made.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A mount operation failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The overlay does not take writes.
    #[error("workspace {name} was mounted, but a test write failed: {source}")]
    NotWritable {
        /// The workspace.
        name: WorkspaceName,
        /// The system's error.
        source: io::Error,
    },
    /// The private overlay over a directory cannot be made.
    #[error(
        "cannot make an overlay over {}: {source}; this needs Linux 6.15 for a directory of the workspace, and Linux allows \
         only two overlays, one over the other; use --transient, which drops all changes", path.display()
    )]
    OverlayOver {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Box<Self>,
    },
    /// A file of `--pre-copy-up` cannot be copied up.
    #[error("cannot copy up {}: {source}", path.display())]
    CopyUp {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The upper of a mounted workspace cannot be copied.
    #[error("cannot copy the changes of workspace {name}: {source}")]
    Copy {
        /// The workspace.
        name: WorkspaceName,
        /// What failed.
        source: CloneError,
    },
    /// There is not enough space for a copy.
    #[error(transparent)]
    NoSpace(#[from] ReserveError),
    /// Two states cannot be compared.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// Unused layers cannot be removed.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// A node has volumes in the store.
    #[error("the store {} has volumes of a node, which may need every layer; only `ovl node` removes layers there", .0.display())]
    HasVolumes(PathBuf),
    /// A file system operation failed.
    #[error(transparent)]
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

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted(path) => write!(f, "mounted at {}; unmount it first", path.display()),
            Self::Running(pids) => {
                write!(f, "used by {}; wait until they end, or end them", Processes(pids))
            }
        }
    }
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

/// The snapshots that a workspace has, in a message.
struct Known<'a>(&'a [StateName]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(StateName::as_str).collect();
        match &names[..] {
            [] => f.write_str("it has none"),
            names => write!(f, "it has {}", names.join(", ")),
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
