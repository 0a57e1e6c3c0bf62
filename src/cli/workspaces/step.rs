//! `ovl step`: a command whose result is a layer.

use clap::Args;
use serde_json::{Value, json};

use super::run::{RunArgs, failure};
use crate::{
    cli::{
        failure::Failure,
        output::{Format, say},
    },
    error::Explained,
    layers::WorkspaceName,
    workspaces::{How, StepError, Stepped},
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
    /// The format of the result. With json and yaml, the standard output of the command goes to standard error
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

/// Runs the step. Returns the exit code of the command.
pub(super) fn run(args: &StepArgs) -> Result<u8, Failure> {
    let (all, on) = args.run.open()?;
    let name = args.run.workspace()?;
    let workspace = all.lock(name, on)?;
    let mut options = args.run.options()?;
    options.stdio.output_on_stderr = args.output != Format::Table;
    let stepped = match workspace.step(options, &args.inputs) {
        Ok(stepped) => stepped,
        Err(StepError::Run(error)) => return Err(failure(error)),
        Err(error @ StepError::Input(_)) => return Err(Failure::Failed(error.explained().into())),
        Err(
            error @ (StepError::HasChanges(_)
            | StepError::Copy(_)
            | StepError::Dropped(_)
            | StepError::Pattern { .. }
            | StepError::NoMatch(_)),
        ) => return Err(Failure::Unusable(error.explained().into())),
    };
    args.output.print(&value(name, &stepped), String::new)?;
    match stepped.how {
        How::Reused => {
            say("note: an earlier result was used");
            Ok(0)
        }
        How::Ran => Ok(0),
        How::Failed(code) => {
            let failed = Explained::new(format!("the step failed with exit code {code}")).fix(format!(
                "look at what it has left with `ovl changes {name}@failed` or `ovl run {name}@failed -- CMD`"
            ));
            Err(Failure::Code(failed.into(), code))
        }
    }
}

fn value(name: &WorkspaceName, stepped: &Stepped) -> Value {
    let exit_code = match stepped.how {
        How::Failed(code) => code,
        How::Reused | How::Ran => 0,
    };
    json!({
        "name": name,
        "key": stepped.key,
        "layer": stepped.layer,
        "reused": stepped.how == How::Reused,
        "exitCode": exit_code,
    })
}
