//! The commands of workspaces: `ovl create`, `mount`, `snapshot` and the others.
//!
//! Deliberately absent: what the commands do, which is in the module `workspaces`.

mod apply;
mod args;
mod changes;
mod create;
mod export;
mod image;
mod layer;
mod list;
mod output;
mod patch;
mod place;
mod question;
mod run;
mod step;

use anyhow::{Context as _, anyhow};
use clap::Subcommand;

use super::failure::Failure;
use crate::{layers::WorkspaceName, workspaces::WorkspaceError};
use args::{
    CleanArgs, ForkArgs, GcArgs, MountArgs, RemoveArgs, RenameArgs, RollbackArgs, ScrubArgs,
    SnapshotArgs, UmountArgs,
};
use output::{counted, message, print, say};
use place::new_path;

/// The commands.
#[derive(Debug, Subcommand)]
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
    Image(image::ImageArgs),
    Layer(layer::LayerArgs),
}

/// Runs a command. Returns its exit code.
pub(super) fn run(command: &WorkspaceCommand) -> Result<u8, Failure> {
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
        WorkspaceCommand::Run(args) => return run::run(args),
        WorkspaceCommand::Shell(args) => return run::shell(args),
        WorkspaceCommand::Step(args) => return step::run(args),
    };
    done.map(|()| 0)
}

impl From<WorkspaceError> for Failure {
    fn from(error: WorkspaceError) -> Self {
        match error {
            WorkspaceError::Busy { .. } => Self::Busy(message(error)),
            // A question without a yes.
            WorkspaceError::WouldLose(_) | WorkspaceError::Reserved(_) => {
                Self::Unusable(message(error))
            }
            error => Self::Failed(message(error)),
        }
    }
}

fn mount(args: &MountArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let path = args.path.as_deref().map(new_path).transpose()?;
    let at = all.lock(&args.name, args.store.on_locked())?.mount(path.as_deref())?;
    print(&format!("{}\n", at.display()))
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
                say(&format!("error: {before}"));
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
    if let Some(name) = &args.name {
        return Ok(all.scrub(name, on)?);
    }
    let names: Vec<WorkspaceName> = all.list(None)?.into_iter().map(|listed| listed.name).collect();
    if !args.yes && !names.is_empty() {
        let question =
            format!("Remove all {} workspaces of {}?", names.len(), all.root().display());
        if !question::ask(&question) {
            let why = anyhow!("nothing was removed; repeat it with --yes to remove all workspaces");
            return Err(Failure::Unusable(why));
        }
    }
    for name in &names {
        all.scrub(name, on)?;
    }
    Ok(())
}

fn fork(args: &ForkArgs) -> Result<(), Failure> {
    let (all, on) = (args.store.open()?, args.store.on_locked());
    let names = match &args.forks[..] {
        [count] if count.bytes().all(|byte| byte.is_ascii_digit()) => {
            let count = count.parse().context("the number of forks")?;
            if !(1..=args::MOST_FORKS).contains(&count) {
                let most = args::MOST_FORKS;
                return Err(Failure::Unusable(anyhow!(
                    "expected a number of forks from 1 to {most}"
                )));
            }
            all.fork_numbered(&args.name, count, on)?
        }
        names => {
            let parsed = names.iter().map(|name| name.parse());
            let parsed: Result<Vec<WorkspaceName>, _> = parsed.collect();
            let names = parsed.map_err(|e| Failure::Unusable(anyhow::Error::new(e)))?;
            all.fork(&args.name, &names, on)?;
            names
        }
    };
    print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())
}

fn gc(args: &GcArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let done = all.collect(args.older_than, args.dry_run)?;
    let verb = if args.dry_run { "would remove" } else { "removed" };
    print(&format!(
        "{verb} {} and {}; {} kept\n",
        counted(done.images, "image"),
        counted(done.layers, "layer"),
        counted(done.kept_layers, "layer")
    ))
}
