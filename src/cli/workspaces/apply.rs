//! `ovl apply`: carries the changes of a workspace into a directory.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::args::StoreArgs;
use crate::{
    cli::{
        failure::Failure,
        output::{print, say},
    },
    format,
    layers::WorkspaceName,
    workspaces::{ApplyFailure, ApplyOptions, OnConflict},
};

/// Carry the changes of a workspace into the directory that it was made over
#[derive(Debug, Args)]
#[command(
    after_help = "What `ovl changes` lists is carried. If a path was also changed in the directory since the workspace was
created, or since the last apply, nothing is written and all such paths are listed.

Examples:
  ovl apply box --dry-run        what would be written
  ovl apply box                  write it
  ovl apply box --theirs         where both have changed a file, the directory keeps its own"
)]
pub(in crate::cli) struct ApplyArgs {
    /// The workspace
    pub(super) name: WorkspaceName,
    /// Carry them into this directory [default: the one that the workspace was made over]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Where both have changed a path, take that of the workspace
    #[arg(long, conflicts_with = "theirs")]
    ours: bool,
    /// Where both have changed a path, keep that of the directory
    #[arg(long)]
    theirs: bool,
    /// Carry what is below `.git` too
    #[arg(long)]
    git: bool,
    /// Carry set-user-id and set-group-id files, capabilities, devices, and links that lead out of the directory too
    #[arg(long)]
    special: bool,
    /// Write through all names of a file that has several, instead of replacing this one
    #[arg(long)]
    in_place: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &ApplyArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let to = args
        .to
        .as_ref()
        .map(|to| to.canonicalize().with_context(|| format!("cannot apply to {}", to.display())));
    let to = to.transpose()?;
    let options = ApplyOptions {
        dry_run: args.dry_run,
        on_conflict: match (args.ours, args.theirs) {
            (true, _) => OnConflict::Ours,
            (_, true) => OnConflict::Theirs,
            _ => OnConflict::Refuse,
        },
        git: args.git,
        special: args.special,
        in_place: args.in_place,
    };
    let mut workspace = all.lock(&args.name, args.store.on_locked())?;
    let applied = workspace.apply(to.as_deref(), options).map_err(|error| match error {
        ApplyFailure::Workspace(error) => error.into(),
        ApplyFailure::NoDirectory(_) => Failure::Unusable(error.explained().into()),
        ApplyFailure::Apply(_) => Failure::Failed(error.explained().into()),
    })?;
    for kept in &applied.kept {
        say(&format!("kept: /{}: {}", format::path(&kept.path), kept.reason));
    }
    for path in &applied.lost_links {
        say(&format!(
            "note: /{} had other names, which keep the former content (--in-place writes through all of them)",
            format::path(path)
        ));
    }
    if !applied.left_out.is_empty() {
        say(&format!(
            "note: {} paths below .git were left out (--git carries them)",
            applied.left_out.len()
        ));
    }
    let paths: String =
        applied.carried.iter().map(|path| format!("/{}\n", format::path(path))).collect();
    Ok(print(&paths)?)
}
