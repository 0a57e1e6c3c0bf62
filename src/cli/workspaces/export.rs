//! `ovl export`: a state of a workspace as a plain directory.

use std::path::PathBuf;

use clap::Args;

use super::{args::StoreArgs, place::new_path};
use crate::{
    cli::failure::Failure,
    workspaces::{ExportFailure, NameAt},
};

/// Write a workspace into a plain directory
#[derive(Debug, Args)]
#[command(after_help = "Owners, modes, times, attributes, hard links and holes are kept.

Examples:
  ovl export box --to /tmp/box          the present state
  ovl export box@good --to /tmp/good    a snapshot")]
pub(in crate::cli) struct ExportArgs {
    /// The workspace, or a snapshot of it
    #[arg(value_name = "NAME[@SNAPSHOT]")]
    pub(super) name: NameAt,
    /// The directory: a new one, or an empty one
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &ExportArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let to = new_path(&args.to)?;
    let mut workspace = all.lock(&args.name.workspace, args.store.on_locked())?;
    workspace.export(args.name.state.as_ref(), &to).map_err(|error| match error {
        ExportFailure::Workspace(error) => error.into(),
        ExportFailure::Export(_) => Failure::Failed(error.explained().into()),
    })
}
