//! The commands of workspaces: `ovl create`, `mount`, `snapshot` and the others.
//!
//! Deliberately absent: what the commands do, which is in the module `workspaces`.

mod apply;
mod args;
mod changes;
mod create;
mod export;
mod fsck;
mod image;
mod layer;
mod list;
mod metadata;
mod notes;
mod patch;
mod place;
mod question;
mod run;
mod status;
mod step;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    failure::{self, Failure},
    output::{counted, print},
};
use crate::{
    error::Explained,
    format,
    layers::WorkspaceName,
    workspaces::{ScrubError, WorkspaceError},
};
use args::{
    CleanArgs, ForkArgs, GcArgs, MountArgs, RemoveArgs, RenameArgs, RollbackArgs, ScrubArgs,
    SnapshotArgs, UmountArgs, parsed,
};
use place::new_path;

/// The commands.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(super) enum WorkspaceCommand {
    Create(create::CreateArgs),
    Mount(MountArgs),
    Umount(UmountArgs),
    Snapshot(SnapshotArgs),
    Rollback(RollbackArgs),
    Clean(CleanArgs),
    List(list::ListArgs),
    Rename(RenameArgs),
    Remove(RemoveArgs),
    Scrub(ScrubArgs),
    Fork(ForkArgs),
    Changes(changes::ChangesArgs),
    Diff(patch::DiffArgs),
    Apply(apply::ApplyArgs),
    Export(export::ExportArgs),
    Run(Box<run::RunArgs>),
    Shell(Box<run::ShellArgs>),
    Step(Box<step::StepArgs>),
    Gc(GcArgs),
    Fsck(fsck::FsckArgs),
    Image(image::ImageArgs),
    Layer(layer::LayerArgs),
    Status(status::StatusArgs),
    Metadata(metadata::MetadataArgs),
}

impl WorkspaceCommand {
    /// What a command that failed could not do: the first line of an error that only has a reason.
    fn about(&self) -> String {
        let all = "workspaces of the store";
        match self {
            Self::Create(args) => format!("cannot create workspace {}", args.name),
            Self::Mount(args) => format!("cannot mount workspace {}", args.name),
            Self::Umount(args) => match &args.name {
                Some(name) => format!("cannot unmount workspace {name}"),
                None => format!("cannot unmount all {all}"),
            },
            Self::Snapshot(args) => {
                format!("cannot take snapshot {} of workspace {}", args.snapshot, args.name)
            }
            Self::Rollback(args) => {
                format!("cannot roll workspace {} back to {}", args.name, args.snapshot)
            }
            Self::Clean(args) => format!("cannot clean workspace {}", args.name),
            Self::List(args) => match &args.name {
                Some(name) => format!("cannot list workspace {name}"),
                None => format!("cannot list the {all}"),
            },
            Self::Rename(args) => {
                format!("cannot rename workspace {} to {}", args.name, args.to)
            }
            Self::Remove(args) => {
                format!("cannot remove snapshot {} of workspace {}", args.snapshot, args.name)
            }
            Self::Scrub(args) => match &args.names[..] {
                [] => format!("cannot remove all {all}"),
                names => {
                    let names: Vec<_> = names.iter().map(WorkspaceName::as_str).collect();
                    format!("cannot remove workspace {}", names.join(", "))
                }
            },
            Self::Fork(args) => format!("cannot fork workspace {}", args.name),
            Self::Changes(args) => {
                format!("cannot list the changes of workspace {}", args.states.name)
            }
            Self::Diff(args) => {
                format!("cannot write the patch of workspace {}", args.states.name)
            }
            Self::Apply(args) => format!("cannot apply workspace {}", args.name),
            Self::Export(args) => format!("cannot export workspace {}", args.name),
            Self::Run(args) => {
                format!("cannot run a command in workspace {}", args.name)
            }
            Self::Shell(args) => format!("cannot start a shell in workspace {}", args.name),
            Self::Step(args) => {
                format!("cannot run a step in workspace {}", args.run.name)
            }
            Self::Gc(_) => "cannot remove unused images and layers".to_owned(),
            Self::Fsck(_) => "cannot check the store".to_owned(),
            Self::Image(args) => args.about(),
            Self::Layer(args) => args.about(),
            Self::Status(_) => "cannot show the status of the store".to_owned(),
            Self::Metadata(args) => format!("cannot show the metadata of {}", args.name),
        }
    }
}

/// Runs a command. Returns its exit code.
pub(super) fn run(command: &WorkspaceCommand) -> Result<u8, Failure> {
    run_command(command).map_err(|failure| failure.about(|| command.about()))
}

fn run_command(command: &WorkspaceCommand) -> Result<u8, Failure> {
    let done = match command {
        WorkspaceCommand::Create(args) => return create::run(args),
        WorkspaceCommand::Mount(args) => mount(args),
        WorkspaceCommand::Umount(args) => umount(args),
        WorkspaceCommand::Snapshot(args) => snapshot(args),
        WorkspaceCommand::Rollback(args) => rollback(args),
        WorkspaceCommand::Clean(args) => clean(args),
        WorkspaceCommand::List(args) => list::run(args),
        WorkspaceCommand::Rename(args) => rename(args),
        WorkspaceCommand::Remove(args) => remove(args),
        WorkspaceCommand::Scrub(args) => scrub(args),
        WorkspaceCommand::Fork(args) => fork(args),
        WorkspaceCommand::Changes(args) => changes::run(args),
        WorkspaceCommand::Diff(args) => patch::run(args),
        WorkspaceCommand::Apply(args) => apply::run(args),
        WorkspaceCommand::Export(args) => export::run(args),
        WorkspaceCommand::Gc(args) => gc(args),
        WorkspaceCommand::Image(args) => image::run(args),
        WorkspaceCommand::Layer(args) => layer::run(args),
        WorkspaceCommand::Fsck(args) => return fsck::run(args),
        WorkspaceCommand::Status(args) => status::run(args),
        WorkspaceCommand::Metadata(args) => metadata::run(args),
        WorkspaceCommand::Run(args) => return run::run(args),
        WorkspaceCommand::Shell(args) => return run::shell(args),
        WorkspaceCommand::Step(args) => return step::run(args),
    };
    done.map(|()| 0)
}

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Self {
        let explained = error.explained().into();
        match error {
            WorkspaceError::Busy { .. } => Self::Busy(explained),
            // A question without a yes.
            WorkspaceError::WouldLose(_) | WorkspaceError::Reserved(_) => Self::Unusable(explained),
            _ => Self::Failed(explained),
        }
    }
}

fn mount(args: &MountArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let path = args.path.as_deref().map(new_path).transpose()?;
    let at = all.lock(&args.name, args.store.on_locked())?.mount(path.as_deref())?;
    Ok(print(&format!("{}\n", at.display()))?)
}

fn umount(args: &UmountArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let on = args.store.on_locked();
    if let Some(name) = &args.name {
        return Ok(all.lock(name, on)?.umount()?);
    }
    let mut failed = None;
    for workspace in all.list(None)?.into_iter().filter(|listed| !listed.mounted.is_empty()) {
        let unmounted = all.lock(&workspace.name, on).and_then(|mut one| one.umount());
        if let Err(error) = unmounted {
            // Each of them is reported, and the last one decides.
            if let Some(before) = failed.replace(error) {
                failure::report(&before.explained().into());
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn snapshot(args: &SnapshotArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    all.lock(&args.name, args.store.on_locked())?.snapshot(&args.snapshot)?;
    Ok(())
}

fn rollback(args: &RollbackArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let mut workspace = all.lock(&args.name, args.store.on_locked())?;
    // Before anything is kept or asked.
    let would_lose = workspace.check_rollback(&args.snapshot)?;
    if let Some(keep) = &args.keep {
        workspace.snapshot(keep)?;
    } else if would_lose && !args.yes {
        let question = format!(
            "Roll {} back to {}? All changes since its last snapshot are lost",
            args.name, args.snapshot
        );
        if !question::ask(&question) {
            return Err(WorkspaceError::WouldLose(args.name.clone()).into());
        }
    }
    Ok(workspace.rollback(&args.snapshot)?)
}

fn clean(args: &CleanArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    Ok(all.lock(&args.name, args.store.on_locked())?.clean()?)
}

fn rename(args: &RenameArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    Ok(all.lock(&args.name, args.store.on_locked())?.rename(&args.to)?)
}

fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    Ok(all.lock(&args.name, args.store.on_locked())?.remove(&args.snapshot)?)
}

fn scrub(args: &ScrubArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let on = args.store.on_locked();
    if !args.names.is_empty() {
        return all.scrub(&args.names, on).map_err(not_removed);
    }
    let names: Vec<WorkspaceName> = all.list(None)?.into_iter().map(|listed| listed.name).collect();
    if !args.yes && !names.is_empty() {
        let question =
            format!("Remove all {} workspaces of {}?", names.len(), all.root().display());
        if !question::ask(&question) {
            let why = Explained::because("nothing was removed: this needs a yes");
            return Err(Failure::Unusable(why.fix("repeat it with --yes to remove all").into()));
        }
    }
    all.scrub(&names, on).map_err(not_removed)
}

fn not_removed(error: ScrubError) -> Failure {
    let explained = error.explained().into();
    let is_busy = |(_, error): &(_, WorkspaceError)| matches!(error, WorkspaceError::Busy { .. });
    match error.reasons.iter().all(is_busy) {
        true => Failure::Busy(explained),
        false => Failure::Failed(explained),
    }
}

fn fork(args: &ForkArgs) -> Result<(), Failure> {
    let (all, on) = (args.store.open()?, args.store.on_locked());
    let names = match &args.forks[..] {
        [count] if count.bytes().all(|byte| byte.is_ascii_digit()) => {
            let most = args::MOST_FORKS;
            let count = count.parse().ok().filter(|count| (1..=most).contains(count));
            let refused = || {
                let why = Explained::because(format!(
                    "{} is not a number from 1 to {most}",
                    args.forks[0]
                ));
                Failure::Unusable(why.into())
            };
            all.fork_numbered(&args.name, count.ok_or_else(refused)?, on)?
        }
        names => {
            let names = names.iter().map(|name| parsed("NEW", name));
            let names = names.collect::<Result<Vec<WorkspaceName>, Failure>>()?;
            all.fork(&args.name, &names, on)?;
            names
        }
    };
    let made = "the forks were made, but their names were not printed";
    let values: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let text = || names.iter().map(|name| format!("{name}\n")).collect();
    Ok(args.output.print(&values, text).context(made)?)
}

fn gc(args: &GcArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let done = all.collect(args.older_than, args.dry_run)?;
    let text = || {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        format!(
            "{verb} {} and {} of {}; {} kept\n",
            counted(done.images, "image"),
            counted(done.layers, "layer"),
            format::bytes(done.bytes),
            counted(done.kept_layers, "layer")
        )
    };
    let value = json!({
        "images": done.images, "layers": done.layers, "bytes": done.bytes,
        "keptLayers": done.kept_layers,
    });
    Ok(args.output.print(&value, text)?)
}
