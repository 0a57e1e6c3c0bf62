//! The arguments of the commands of workspaces.

use std::{fmt::Display, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;

use super::notes::say_copied;
use crate::{
    cli::{
        failure::Failure,
        output::Format,
        values::{DEFAULT_ROOT, dir, duration, required_check},
    },
    error::Explained,
    layers::{StateName, StoreReader, WorkspaceName},
    workspaces::{Against, Compared, NameAt, OnLocked, WorkspaceError, Workspaces},
};

/// The most forks of one command.
pub(super) const MOST_FORKS: usize = 1000;

/// Parses a name that clap takes as text.
pub(super) fn parsed<T: FromStr<Err: Display>>(argument: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error| {
        Failure::Unusable(Explained::because(format!("{argument} {text:?}: {error}")).into())
    })
}

/// The store of a command.
#[derive(Debug, Args)]
pub(in crate::cli) struct StoreArgs {
    /// The directory of the store. It is made if it does not exist
    #[arg(
        long,
        env = "OVL_ROOT",
        default_value = DEFAULT_ROOT,
        value_name = "DIR",
        value_parser = dir,
        help_heading = "Store"
    )]
    root: PathBuf,
    /// If another command uses the workspace, fail with exit code 3 instead of waiting
    #[arg(long, help_heading = "Store")]
    no_wait: bool,
    /// Use the store's directory even if this check of `ovl check` fails; can be repeated
    #[arg(
        long = "ignore-check",
        value_name = "CHECK",
        value_parser = required_check,
        help_heading = "Store"
    )]
    ignored_checks: Vec<String>,
}

impl StoreArgs {
    pub(super) fn open(&self) -> Result<Workspaces, Failure> {
        let all = Workspaces::open(&self.root, &self.ignored_checks)?;
        Ok(all.on_copied(say_copied))
    }

    /// Opens the store for reading, without a lock. `None` if there is none.
    pub(super) fn reader(&self) -> Result<Option<StoreReader>, Failure> {
        Ok(StoreReader::open(&self.root).map_err(WorkspaceError::from)?)
    }

    /// As [`StoreArgs::reader`], where a store must exist.
    pub(super) fn existing(&self) -> Result<StoreReader, Failure> {
        self.reader()?.ok_or_else(|| {
            let why = Explained::because(format!("there is no store in {}", self.root.display()));
            Failure::Failed(
                why.fix("a command such as `ovl create` makes it; or name another with --root")
                    .into(),
            )
        })
    }

    pub(super) fn on_locked(&self) -> OnLocked {
        if self.no_wait { OnLocked::Fail } else { OnLocked::Wait }
    }
}

/// Two states of a workspace.
#[derive(Debug, Args)]
pub(in crate::cli) struct ComparedArgs {
    /// The workspace, or a snapshot of it
    #[arg(value_name = "NAME[@SNAPSHOT]")]
    pub(super) name: NameAt,
    /// Compare with this snapshot; with `current`, the state to which `ovl clean` goes back; or with another workspace on the
    /// same base
    #[arg(long, value_name = "SNAPSHOT | NAME[@SNAPSHOT]")]
    against: Option<Against>,
}

impl ComparedArgs {
    /// The states to compare.
    pub(super) fn open<'w>(
        &self,
        all: &'w Workspaces,
        store: &StoreArgs,
    ) -> Result<Compared<'w>, Failure> {
        Ok(all.compared(&self.name, self.against.as_ref(), store.on_locked())?)
    }
}

/// Mount a workspace and print where
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cd \"$(ovl mount box)\"         mount it in the store, and go there
  ovl mount box /mnt/box        mount it at a path")]
pub(in crate::cli) struct MountArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// Where to mount it; it is made if it does not exist [default: a directory of the store]
    pub(super) path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Unmount a workspace
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ovl umount box
  ovl umount --all")]
pub(in crate::cli) struct UmountArgs {
    /// The workspace
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) name: Option<WorkspaceName>,
    /// Unmount all workspaces of the store
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Give the present state of a workspace a name
#[derive(Debug, Args)]
#[command(
    after_help = "An unmounted workspace is not copied, however large it is. Of one in use, the
changes since the last snapshot are copied. The programs that `ovl run` started are frozen for the end of the copy.

Examples:
  ovl snapshot box clean-build
  ovl rollback box clean-build"
)]
pub(in crate::cli) struct SnapshotArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// The name of the snapshot
    pub(super) snapshot: StateName,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Go back to a snapshot. Changes since the last snapshot are lost
#[derive(Debug, Args)]
#[command(
    after_help = "It asks at a terminal before changes are lost. Without a terminal it fails with exit code 2 and changes nothing,
unless it has --yes or --keep.

Examples:
  ovl rollback box postinit                    go back to the start
  ovl rollback box good --keep before          take the snapshot `before` first"
)]
pub(in crate::cli) struct RollbackArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// The snapshot
    pub(super) snapshot: StateName,
    /// Take a snapshot of the present state first
    #[arg(long, value_name = "SNAPSHOT")]
    pub(super) keep: Option<StateName>,
    /// Do not ask before changes are lost
    #[arg(long, short)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Drop all changes since the last snapshot or rollback
#[derive(Debug, Args)]
#[command(after_help = "It never asks. `ovl changes NAME --against current` lists what it drops.

Examples:
  ovl clean box")]
pub(in crate::cli) struct CleanArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Give a workspace another name
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ovl rename box-1 fix-login")]
pub(in crate::cli) struct RenameArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// The new name
    pub(super) to: WorkspaceName,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Remove a snapshot. The state of the workspace does not change
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ovl remove box good
  ovl remove box failed          drop what a failed step has left")]
pub(in crate::cli) struct RemoveArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// The snapshot
    pub(super) snapshot: StateName,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Remove workspaces with all their snapshots
#[derive(Debug, Args)]
#[command(
    after_help = "It does not ask, except with --store. The directory of a copy is not touched. If one of the workspaces cannot be
removed, none is.

Examples:
  ovl scrub box
  ovl scrub box-1 box-2
  ovl scrub --store --yes        all workspaces"
)]
pub(in crate::cli) struct ScrubArgs {
    /// The workspaces
    #[arg(
        required_unless_present = "whole_store",
        conflicts_with = "whole_store",
        value_name = "NAME"
    )]
    pub(super) names: Vec<WorkspaceName>,
    /// Remove all workspaces of the store
    #[arg(long = "store")]
    whole_store: bool,
    /// Do not ask before all workspaces are removed
    #[arg(long, short)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Make workspaces that start as another one is, and print their names
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing is copied if the workspace is not mounted. All forks are made, or none.

Examples:
  ovl fork box try-a try-b      two forks with these names
  ovl fork box 10               ten forks with free names: box-1, box-2, …"
)]
pub(in crate::cli) struct ForkArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// The names of the forks, or their number
    #[arg(required = true, value_name = "NEW | NUMBER")]
    pub(super) forks: Vec<String>,
    /// The format of the names
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}

/// Remove images and layers that no workspace needs
#[derive(Debug, Args)]
#[command(after_help = "The results of steps stay, unless it has --older-than.

Examples:
  ovl gc --dry-run
  ovl gc --older-than 24h        also the results of steps that were not used for a day")]
pub(in crate::cli) struct GcArgs {
    /// Keep images that were used more recently than this, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) older_than: Option<Duration>,
    /// Only print what would be removed
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The format of the result
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) store: StoreArgs,
}
