//! What the errors of workspaces say: what failed, why, and what to do.
//!
//! An error without a `what` is about the command that the caller has run.
//!
//! Deliberately absent: how it is printed (`cli`).

use std::{fmt, io, path::Path};

use super::{
    applied::ApplyFailure,
    compared::ExportFailure,
    container::ContainerError,
    error::{InUse, Known, Processes, WorkspaceError},
    run::RunError,
    step::StepError,
};
use crate::{
    error::Explained,
    format,
    layers::{
        AddError, LowerError, OpenError, ReserveError, WorkspaceBase, WorkspaceName,
        quarantined_workspace,
    },
};

/// What to do about a full disk.
const FREE_SPACE: &str = "free space on that disk; `ovl gc` removes images that no workspace needs, `ovl scrub` a workspace";

impl WorkspaceError {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        match self {
            Self::Store(error) => opening(error),
            Self::NotRoot => Explained::because("workspaces need root, because they are mounted")
                .fix("run the command as root, for example with sudo"),
            Self::Unusable { root, kind, check } => {
                let kind = kind.unwrap_or("of an unknown type");
                let why = match check.name {
                    "filesystem" => check.why.clone(),
                    name => format!("the check `{name}` failed: {}", check.why),
                };
                let why = format!("its file system is {kind}, and {why}");
                Explained::new(format!("{} cannot hold a store", root.display()))
                    .why(why)
                    .fix(format!("{}; or choose another directory with --root", check.fix))
            }
            Self::Unknown { name, root } => unknown(name, root),
            Self::UnknownState { workspace, state, known } => {
                Explained::new(format!("workspace {workspace} has no snapshot {state}"))
                    .fix(Known(workspace, known).to_string())
            }
            Self::Taken(name) => Explained::because(format!("a workspace {name} exists already"))
                .fix(format!("choose another name, or remove it with `ovl scrub {name}`")),
            Self::StateTaken { workspace, state } => {
                Explained::because(format!("workspace {workspace} has a snapshot {state} already"))
                    .fix(format!(
                        "choose another name, or remove it with `ovl remove {workspace} {state}`"
                    ))
            }
            Self::Reserved(name) => Explained::because(format!(
                "{name:?} cannot be the name of a snapshot, because it has a meaning of its own"
            ))
            .fix("choose another name"),
            Self::Busy { name, pids } => Explained::because(format!(
                "workspace {name} is in use by another command ({})",
                Processes(pids)
            ))
            .fix("try again when it has ended, or wait for it without --no-wait"),
            Self::InUse { action, name, how } => in_use(action, name.as_str(), how),
            Self::BusyMount { path, pids } => {
                Explained::new(format!("cannot unmount {}", path.display()))
                    .why(format!("it is in use by {}", Processes(pids)))
                    .fix("end them, or let them leave the directory")
            }
            Self::NotMounted(name) => {
                Explained::because(format!("workspace {name} is not mounted"))
            }
            Self::OtherBase(both) => other_base(both),
            Self::WouldLose(name) => Explained::because(format!(
                "workspace {name} has changes since its last snapshot, which would be lost"
            ))
            .fix("repeat it with --yes, or keep them with --keep SNAPSHOT"),
            Self::Directory { path, why } => {
                let what = format!("cannot make a workspace over {}", path.display());
                Explained { what: Some(what), ..why.clone() }
            }
            Self::DirectoryGone { name, path, source } => Explained::because(format!(
                "workspace {name} was made over {}, which cannot be opened: {source}",
                path.display()
            ))
            .fix(format!(
                "put the directory back, or remove the workspace with `ovl scrub {name}`"
            )),
            Self::Source { text, why } => {
                Explained::new(format!("cannot use {text}")).why(why.clone())
            }
            Self::Add(error) => adding(error),
            Self::Lost(name) => Explained::because(format!(
                "workspace {name} has lost its upper and the layer that was made of it"
            ))
            .fix("roll it back to a snapshot"),
            Self::NotWritable { name, source } => Explained::because(format!(
                "workspace {name} was mounted, but a test write failed: {source}"
            )),
            Self::OverlayOver { path, source } => {
                Explained::new(format!("cannot make an overlay over {}", path.display()))
                    .why(format!(
                        "{source}; this needs Linux 6.15 for a directory of the workspace, and Linux allows only two \
                         overlays, one over the other"
                    ))
                    .fix("use --transient, which drops all changes")
            }
            Self::CopyUp { path, source } => {
                Explained::because(format!("cannot copy up {}: {source}", path.display()))
            }
            Self::Copy { name, source } => Explained::because(format!(
                "the changes of workspace {name} cannot be copied: {source}"
            )),
            Self::NoSpace(error) => reserving(error),
            Self::Outgoing(error) => error.explained(),
            Self::HasVolumes(root) => Explained::because(format!(
                "the store {} has volumes of a node, which may need every layer",
                root.display()
            ))
            .fix("let `ovl node` remove layers there, or choose another store with --root"),
            Self::Disk(error) => on_disk(error),
            Self::Lower(LowerError::Quarantined { key, place }) => Explained::because(format!(
                "layer {key} was damaged or missing, and `ovl fsck --repair` moved it to the quarantine {}",
                place.display()
            ))
            .fix("pull or import its image again, or move it back to where why.json there says"),
            Self::Lower(error) => Explained::because(error.to_string()),
            Self::Plan(error) => Explained::because(error.to_string()),
            Self::Overlay(error) => Explained::because(error.to_string()),
            Self::Mount(error) => Explained::because(error.to_string()),
            Self::Compare(error) => Explained::because(error.to_string()),
            Self::Collect(error) => Explained::because(error.to_string()),
        }
    }
}

impl fmt::Display for WorkspaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

fn other_base(both: &[(WorkspaceName, WorkspaceBase); 2]) -> Explained {
    let [(one, base), (other, other_base)] = both;
    let (base, other_base) = (base.to_string(), other_base.to_string());
    let layers = if base == other_base { ", but of other layers" } else { "" };
    Explained::because(format!(
        "workspace {one} was made of {base}, and workspace {other} of {other_base}{layers}"
    ))
    .fix(format!(
        "compare workspaces that were made of the same images or over the same directory; for trees, `ovl layer changes {one} \
         {other}` compares any two"
    ))
}

fn unknown(name: &WorkspaceName, root: &Path) -> Explained {
    let what = Explained::new(format!("there is no workspace {name}"));
    match quarantined_workspace(root, name) {
        Some(place) => what
            .why(format!(
                "its record could not be read, and `ovl fsck --repair` moved it to the quarantine {}",
                place.display()
            ))
            .fix("why.json there says what was wrong, and where to move it back to"),
        None => what.fix(format!("`ovl list` shows those of {}", root.display())),
    }
}

fn in_use(action: &str, name: &str, how: &InUse) -> Explained {
    let what = Explained::new(format!("cannot {action} workspace {name}"));
    match how {
        InUse::Mounted(path) => what
            .why(format!("it is mounted at {}", path.display()))
            .fix(format!("unmount it first with `ovl umount {name}`")),
        InUse::Running(pids) => what
            .why(format!("it is used by {}", Processes(pids)))
            .fix("wait until they end, or end them"),
    }
}

fn opening(error: &OpenError) -> Explained {
    match error {
        OpenError::Disk(source) => on_disk(source),
        OpenError::OfNode { path, by } => Explained::because(format!(
            "the store {} is in use by `ovl node` ({by}), and commands cannot use the store of a running node",
            path.display()
        ))
        .fix("use another store with --root, or stop the node"),
        OpenError::Unknown { path, why } => Explained::because(format!(
            "{} is not of a store that this version can use: {why}",
            path.display()
        ))
        .fix("use the version of `ovl` that wrote the store, or another store with --root"),
        error => Explained::because(error.to_string()),
    }
}

fn adding(error: &AddError) -> Explained {
    match error {
        AddError::NoSpace { source, .. } => reserving(source),
        AddError::Filled { dir, promised, free, .. } => Explained::because(format!(
            "the disk or quota of {} was used up: {} were reserved for the layer, and {} are free without it",
            dir.display(),
            format::bytes(*promised),
            format::bytes(*free)
        ))
        .fix(FREE_SPACE),
        AddError::Disk { source, .. } => on_disk(source),
        error => Explained::because(error.to_string()),
    }
}

/// The settings that [`ReserveError`] names in its text are those of a node.
fn reserving(error: &ReserveError) -> Explained {
    match error {
        ReserveError::Full { dir, wanted, free, reserved, kept } => Explained::because(format!(
            "not enough free space on {}: {} more are needed; {} are free, and {} are reserved or must stay free",
            dir.display(),
            format::bytes(*wanted),
            format::bytes(*free),
            format::bytes(reserved.saturating_add(*kept))
        ))
        .fix(FREE_SPACE),
        error => Explained::because(error.to_string()),
    }
}

/// An error of the store's disk.
fn on_disk(error: &io::Error) -> Explained {
    if let Some(error) = ReserveError::within(error) {
        return reserving(error);
    }
    let why = Explained::because(error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => why.fix(FREE_SPACE),
        io::ErrorKind::ReadOnlyFilesystem => {
            why.fix("choose a store that can be written with --root")
        }
        _ => why,
    }
}

impl RunError {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        match self {
            Self::Workspace(error) => error.explained(),
            Self::User(error) => Explained::because(error.to_string()),
            Self::Container(
                ContainerError::Absent { command, why }
                | ContainerError::NotExecutable { command, why },
            ) => Explained::new(format!("cannot run {command}")).why(why.clone()),
            Self::Container(error) => Explained::because(error.to_string()),
            Self::NoCommand(name) => {
                Explained::because(format!("workspace {name} has no command of its own"))
                    .fix(format!("write a command after --, or use `ovl shell {name}`"))
            }
            Self::Unusable(why) => Explained::because(*why),
        }
    }
}

impl StepError {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        match self {
            Self::HasChanges(name) => Explained::because(format!(
                "workspace {name} has changes since its last state, which a step would mix with its own"
            ))
            .fix(format!("keep them with `ovl snapshot {name} SNAPSHOT`, or drop them with `ovl clean {name}`")),
            Self::Copy(name) => Explained::because(format!(
                "workspace {name} was made over a directory, which can change"
            ))
            .fix("make steps in a tree of images, or use `ovl run`"),
            Self::Dropped(option) => Explained::because(format!(
                "a step keeps its result, so {option} cannot be used with it"
            ))
            .fix(format!("leave {option} out, or use `ovl run`")),
            Self::Pattern { pattern, why } => {
                Explained::because(format!("--input {pattern}: {why}"))
            }
            Self::NoMatch(pattern) => Explained::because(format!(
                "--input {pattern} matches no file of the directories of --bind, so the result would not depend on any"
            ))
            .fix("correct the pattern"),
            Self::Input(error) => {
                Explained::because(format!("cannot read the inputs of the step: {error}"))
            }
            Self::Run(error) => error.explained(),
        }
    }
}

impl ApplyFailure {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        match self {
            Self::Workspace(error) => error.explained(),
            Self::Apply(error) => error.explained(),
            Self::NoDirectory(name) => {
                Explained::because(format!("workspace {name} was not made over a directory"))
                    .fix("name the directory with --to DIR")
            }
            Self::Nowhere(path) => Explained::because(format!(
                "neither the workspace nor the directory has a path /{}",
                format::path(path)
            ))
            .fix("write paths as `ovl changes` lists them"),
            Self::Within { path, above } => {
                let (path, above) = (format::path(path), format::path(above));
                Explained::because(format!(
                    "/{path} lies in /{above}, which is no directory in the workspace any more"
                ))
                .fix(format!("choose /{above}"))
            }
        }
    }
}

impl ExportFailure {
    /// Its parts for people.
    pub fn explained(&self) -> Explained {
        match self {
            Self::Workspace(error) => error.explained(),
            Self::Export(error) => error.explained(),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

impl fmt::Display for ApplyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

impl fmt::Display for ExportFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}
