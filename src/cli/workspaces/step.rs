//! `ovl step`: a command whose result is a layer.

use clap::Args;

use super::run::{RunArgs, failure};
use crate::{
    cli::{failure::Failure, output::say},
    error::Explained,
    workspaces::{StepError, Stepped},
};

/// Run a command in a tree and keep the result as a layer. The same command on the same state is not run again
#[derive(Debug, Args)]
#[command(
    after_help = "The workspace must not have changes since its last state. Binds are read-only. A step is run again if
the state, the command, its variables, working directory, user or network, or a path, mode, link or content of
its binds is different. Its layer stays until `ovl gc --older-than`.

What a failed step has left is NAME@failed: look at it with `ovl changes NAME@failed`, or run a command in it.
The steps before it are not run again.

Examples:
  ovl step box -- apt-get install -y gcc
  ovl step box --bind ~/src:/src --input 'Cargo.*' -- cargo fetch --manifest-path /src/Cargo.toml"
)]
pub(in crate::cli) struct StepArgs {
    #[command(flatten)]
    pub(super) run: RunArgs,
    /// Of the binds, only files that match are a part of the key; can be repeated
    #[arg(long = "input", value_name = "GLOB")]
    inputs: Vec<String>,
}

/// Runs the step. Returns the exit code of the command.
pub(super) fn run(args: &StepArgs) -> Result<u8, Failure> {
    let (all, on) = args.run.open()?;
    let workspace = all.lock(args.run.workspace()?, on)?;
    match workspace.step(args.run.options()?, &args.inputs) {
        Ok(Stepped::Reused) => {
            say("note: an earlier result was used");
            Ok(0)
        }
        Ok(Stepped::Ran) => Ok(0),
        Ok(Stepped::Failed(code)) => {
            let name = args.run.workspace()?;
            let failed = Explained::new(format!("the step failed with exit code {code}")).fix(format!(
                "look at what it has left with `ovl changes {name}@failed` or `ovl run {name}@failed -- CMD`"
            ));
            Err(Failure::Code(failed.into(), code))
        }
        Err(StepError::Run(error)) => Err(failure(error)),
        Err(
            error @ (StepError::HasChanges(_)
            | StepError::Copy(_)
            | StepError::Dropped(_)
            | StepError::Pattern { .. }
            | StepError::NoMatch(_)),
        ) => Err(Failure::Unusable(error.explained().into())),
        Err(error @ StepError::Input(_)) => Err(Failure::Failed(error.explained().into())),
    }
}
