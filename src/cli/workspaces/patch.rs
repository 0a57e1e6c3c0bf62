//! `ovl diff`: the changes of a workspace as a patch.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
};

use clap::Args;

use super::{
    args::{ComparedArgs, StoreArgs},
    place::path_inside,
};
use crate::{
    cli::{
        failure::Failure,
        output::{counted, say},
    },
    error::Explained,
    workspaces::{ChangesOptions, PatchError, patch},
};

/// Print the changes of a workspace as a patch that `git apply` takes
#[derive(Debug, Args)]
#[command(
    after_help = "A binary file, and one of more than 8 MiB, is a note in the patch. Owners, attributes, times and empty
directories are left out, and what lies in `.git`.

Examples:
  ovl diff box                          since it was created
  ovl diff box --against current src    in one directory, since the last snapshot
  ovl diff box | git apply --check      whether it can be applied here"
)]
pub(in crate::cli) struct DiffArgs {
    #[command(flatten)]
    pub(super) states: ComparedArgs,
    /// Only these paths, and what is below them
    paths: Vec<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &DiffArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let compared = args.states.open(&all, &args.store)?;
    let (trees, directory) = (&compared.trees, compared.directory());
    let changes = all.changes(trees, ChangesOptions::default())?;
    let paths = args.paths.iter().map(|path| path_inside(path, directory));
    let paths = paths.collect::<Result<Vec<_>, Failure>>()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = patch(&trees.before, &trees.after, &changes.list, &paths, &mut out, &|| false);
    match written {
        Ok(0) => Ok(()),
        Ok(left_out) => {
            say(&format!(
                "warning: the patch does not carry {} (binary, special, or larger than 8 MiB); `ovl apply` does",
                counted(left_out, "file")
            ));
            Ok(())
        }
        // The reader has enough, as `head`.
        Err(PatchError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(Explained::because(error.to_string()).into())),
    }
}
