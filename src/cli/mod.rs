//! The command line of `ovl`: parses arguments, wires the modules of each command, and returns exit codes.
//!
//! | exit code | what happened | what to do |
//! |---|---|---|
//! | 0 | done; `ovl node` or `ovl controller` stopped after a signal; `ovl check`: the directory can hold a store | |
//! | 1 | the command failed; `ovl check`: the directory cannot hold a store | read stderr; another try may help |
//! | 2 | arguments or settings cannot be used, or changes would be lost; nothing was started | fix them first; `--yes` |
//! | 3 | with `--no-wait`: another command uses the workspace | try again |
//! | 4 | `ovl fsck`: faults remain | the output says what to do about each |
//!
//! An error of one volume or image never ends the process. It is the response to its own call.
//!
//! May use: agent, changeset, cluster, controller, csi, kubectl, volumes, workspaces, snapshots, image, layers, overlay, sys
//!
//! Most commands only decide which modules work together. Two have code of their own: `check` (the report of
//! `ovl check`) and `registry_secrets` (the Secrets of the chart's registry).
//!
//! Deliberately absent: code that another edge could need.

mod check;
mod complete;
mod controller;
mod crd;
mod failure;
mod help;
mod manual;
#[cfg(test)]
mod manual_tests;
mod node;
mod output;
mod registry_secrets;
mod snapshot;
mod uninstall;
mod values;
mod volume_attributes;
mod workspaces;

use std::{env, process::ExitCode};

use anyhow::anyhow;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::{
    kubectl,
    telemetry::{self, Filter},
};
use failure::Failure;
use workspaces::WorkspaceCommand;

/// The command whose words are those of `kubectl ovl`. It has a parser of its own.
const KUBECTL: &str = "kubectl";

/// The exit code for arguments or settings that cannot be used.
const UNUSABLE: u8 = 2;
/// The exit code for a workspace that another command uses.
const BUSY: u8 = 3;

/// The last lines of `--help`.
const EXAMPLES: &str = "\
Workspaces need root. `ovl COMMAND --help` has all options and examples of a command.

Exit codes: 0 done; 1 failed; 2 the arguments cannot be used, or changes would be lost; 3 with --no-wait: another
command uses the workspace; 4 `ovl fsck` found faults. `ovl run` has the exit code of its command.

Examples:
  ovl create box --over ~/project     a copy of a directory, without copying it
  ovl run box -- make test            a command in it
  ovl changes box                     what it changed
  ovl apply box                       carry that into the directory
  ovl scrub box                       remove the copy";

#[derive(Debug, Parser)]
#[command(name = "ovl", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: Log,
}

// All arguments of all commands together would take longer than most commands, so they are deferred.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    Node(Box<node::NodeArgs>),
    Controller(Box<controller::ControllerArgs>),
    Check(check::CheckArgs),
    #[command(flatten)]
    Workspace(WorkspaceCommand),
    NodeSnapshot(snapshot::SnapshotArgs),
    Completion(manual::CompletionArgs),
    Man(manual::ManArgs),
    /// The names for the completion scripts
    #[command(name = complete::COMMAND, hide = true)]
    Complete(complete::CompleteArgs),
    #[command(hide = true)]
    Crd(crd::CrdArgs),
    /// The commands of the kubectl plugin, for Jobs that run the driver's image
    #[command(name = KUBECTL, disable_help_flag = true)]
    Kubectl,
    /// Print the checks of volume attributes for the chart's admission policies
    #[command(hide = true)]
    VolumeAttributes,
    #[command(hide = true)]
    BeforeUninstall(uninstall::BeforeUninstallArgs),
    #[command(hide = true)]
    RegistrySecrets(registry_secrets::RegistrySecretsArgs),
}

impl Command {
    /// Whether people run it at a terminal, or helm shows them its output. Its error is then a line for them, and not a
    /// line of a log.
    fn is_by_hand(&self) -> bool {
        match self {
            Self::Check(_)
            | Self::Workspace(_)
            | Self::NodeSnapshot(_)
            | Self::Complete(_)
            | Self::Completion(_)
            | Self::Man(_)
            | Self::Crd(_)
            | Self::Kubectl
            | Self::VolumeAttributes
            | Self::BeforeUninstall(_) => true,
            Self::Node(_) | Self::Controller(_) | Self::RegistrySecrets(_) => false,
        }
    }
}

#[derive(Debug, Args)]
struct Log {
    /// The log level (off, error, warn, info, debug, trace), or levels by module as in `info,ovl::volumes=debug`
    /// [default: info; warn for commands on workspaces]
    #[arg(long = "log", global = true, env = "OVL_LOG", value_name = "FILTER")]
    filter: Option<Filter>,
    /// The format of log lines
    #[arg(long = "log-format", help_heading = "Logging", global = true, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Plain text
    Text,
    /// One JSON object per line
    Json,
}

/// Runs `ovl` and returns its exit code.
pub fn main() -> ExitCode {
    let mut words: Vec<_> = env::args_os().collect();
    if words.get(1).is_some_and(|word| word == KUBECTL) {
        words.remove(0);
        return kubectl::main(words);
    }
    let command = help::command_for(&words, Cli::command());
    let cli: Cli = match kubectl::parsed_by(command, words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let format = match cli.log.format {
        Format::Text => telemetry::Format::Text,
        Format::Json => telemetry::Format::Json,
    };
    let traces = match &cli.command {
        Command::Node(args) => args.traces(),
        Command::Controller(_)
        | Command::Check(_)
        | Command::Workspace(_)
        | Command::NodeSnapshot(_)
        | Command::Complete(_)
        | Command::Completion(_)
        | Command::Man(_)
        | Command::Crd(_)
        | Command::Kubectl
        | Command::VolumeAttributes
        | Command::BeforeUninstall(_)
        | Command::RegistrySecrets(_) => Ok(None),
    };
    let filter = cli.log.filter.unwrap_or_else(|| match cli.command {
        Command::Workspace(_) => Filter::warnings(),
        _ => Filter::default(),
    });
    telemetry::init(&filter, format, traces.as_ref().ok().and_then(Option::as_ref));
    if let Err(error) = &traces {
        tracing::warn!(%error, "the process runs without traces");
    }
    let is_by_hand = cli.command.is_by_hand();
    let result = match cli.command {
        Command::Node(args) => node::run(&args),
        Command::Controller(args) => controller::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Workspace(command) => match workspaces::run(&command) {
            Ok(code) => return ExitCode::from(code),
            Err(failure) => Err(failure),
        },
        Command::NodeSnapshot(args) => snapshot::run(&args),
        Command::Complete(args) => complete::run(&args, Cli::command()),
        Command::Completion(args) => manual::completion(&args, Cli::command()),
        Command::Man(args) => manual::man(&args, Cli::command()),
        Command::Crd(args) => crd::run(&args),
        Command::Kubectl => {
            Err(Failure::Unusable(anyhow!("options come after `ovl kubectl`, not before it")))
        }
        Command::VolumeAttributes => volume_attributes::run(),
        Command::BeforeUninstall(args) => uninstall::run(&args),
        Command::RegistrySecrets(args) => registry_secrets::run(&args),
    };
    if let Ok(Some(traces)) = traces {
        traces.end();
    }
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Unusable(error)) => (error, ExitCode::from(UNUSABLE)),
        Err(Failure::Failed(error)) => (error, ExitCode::FAILURE),
        Err(Failure::Busy(error)) => (error, ExitCode::from(BUSY)),
        Err(Failure::Code(error, code)) => (error, ExitCode::from(code)),
    };
    match is_by_hand {
        true => failure::report(&error),
        false => tracing::error!("{error:#}"),
    }
    code
}
