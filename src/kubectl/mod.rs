//! The kubectl plugin `kubectl ovl`: takes snapshots of pods' volumes and forks pods, for users of one namespace.
//!
//! It needs VolumeSnapshots, their annotations (`snapshot_view`) and Pods only, because its users may have no right to read
//! OverlaySnapshots or nodes. Where a user may read nodes, `fork` checks the node (`fork_node`).
//!
//! | exit code | what happened | what to do |
//! |---|---|---|
//! | 0 | done; the snapshot is ready | |
//! | 1 | the command or the snapshot failed | read stderr |
//! | 2 | arguments cannot be used, and nothing was started | fix them first |
//! | 3 | timeout: the snapshot is still being taken or deleted | `kubectl ovl describe` |
//!
//! Results go to stdout, everything else to stderr.
//!
//! May use: cluster
//!
//! Deliberately absent: code that needs Linux, because the plugin also runs on macOS and Windows. And decisions of the
//! cluster: the controller decides which volumes can be snapshotted and where snapshots are pushed. This module only
//! reports obvious mistakes early.

mod args;
mod completion;
mod delete;
mod describe;
mod diff;
mod failure;
mod fork;
mod fork_node;
mod fork_output;
mod graph;
mod lineage;
mod list;
mod page;
mod parse;
mod pod;
mod print;
mod progress;
mod session;
mod snapshot;
mod snapshot_view;
mod table;
#[cfg(test)]
mod tests;
mod users;
mod wait;
mod workload;

use std::{ffi::OsString, path::Path, process::ExitCode};

use anyhow::anyhow;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::json;
use tokio::runtime::Runtime;

pub use parse::{parsed, parsed_by};
// Used by `cli`, which only Linux has.
#[cfg(target_os = "linux")]
pub(crate) use {
    completion::{ShellName, option},
    print::clean,
    progress::Progress,
    table::plain as plain_table,
};

use crate::telemetry;
use args::{ClusterArgs, Output};
use failure::Failure;

/// The last lines of `--help`.
const EXIT_CODES: &str = "\
Examples:
  kubectl ovl snapshot demo work demo-1
  kubectl ovl list
  kubectl ovl fork demo work --snapshot demo-1 --replicas 3 --apply

Exit codes: 0 done (the snapshot is ready), 1 failed, 2 arguments cannot be used, 3 timeout (the snapshot is still being taken or deleted).";

/// Take snapshots of pods' ovl-csi volumes, and fork pods.
///
/// Needs the rights to read Pods and to read, create and delete VolumeSnapshots of one namespace; `fork --apply` also
/// creates pods. The cluster, the user and the namespace are those of kubectl: --kubeconfig, --context, --namespace,
/// KUBECONFIG, ~/.kube/config, or the pod in which this runs.
#[derive(Debug, Parser)]
#[command(name = "kubectl-ovl", bin_name = "kubectl ovl", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Snapshot(snapshot::SnapshotArgs),
    Fork(Box<fork::ForkArgs>),
    List(list::ListArgs),
    Tree(graph::TreeArgs),
    Describe(describe::DescribeArgs),
    Delete(delete::DeleteArgs),
    Diff(diff::DiffArgs),
    Completion(completion::CompletionArgs),
    /// Print the version
    Version(VersionArgs),
    #[command(name = completion::COMMAND, hide = true)]
    Complete(completion::CompleteArgs),
}

impl Command {
    /// Checks the words that clap takes as text, before anything is requested.
    fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Snapshot(args) => args.given().map(drop),
            Self::Fork(args) => args.given().map(drop),
            Self::Diff(args) => args.targets().map(drop),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
struct VersionArgs {
    #[command(flatten)]
    output: Output,
}

/// Runs the plugin with the words of a command line, of which the first is the name of the program. Returns its exit
/// code. Under the name `kubectl_complete-ovl` it completes the words for kubectl.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words: Vec<_> = words.into_iter().collect();
    let program = words.first().and_then(|program| Path::new(program).file_stem());
    if program.is_some_and(|name| name == completion::PROGRAM) {
        // The words after `--` are no options of this command line.
        words.splice(1..1, [completion::COMMAND.into(), "--".into()]);
    }
    let cli = match parsed::<Cli>(words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    cli.cluster.color.apply();
    telemetry::init(&cli.cluster.filter, telemetry::Format::Text, None);
    let result = match Runtime::new() {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli));
            // A blocking task that still runs is a download whose result is not needed.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(anyhow!("cannot start the runtime: {error}").into()),
    };
    let (code, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure.code(),
    };
    print::error(&format!("{error:#}"));
    ExitCode::from(code)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, cluster } = cli;
    command.check()?;
    match command {
        Command::Snapshot(args) => snapshot::run(&cluster.connect().await?, &args).await,
        Command::Fork(args) => fork::run(&cluster.connect().await?, &args).await,
        Command::List(args) => list::run(&cluster.connect().await?, &args).await,
        Command::Tree(args) => graph::run(&cluster.connect().await?, &args).await,
        Command::Describe(args) => describe::run(&cluster.connect().await?, &args).await,
        Command::Delete(args) => {
            delete::run(&cluster.connect().await?, &args, delete::ask_on_terminal).await
        }
        Command::Diff(args) => diff::run(&cluster.connect().await?, &args).await,
        Command::Completion(args) => completion::run(args, Cli::command()),
        Command::Complete(args) => completion::complete(&args, Cli::command()).await,
        Command::Version(args) => Ok(version(args.output)?),
    }
}

fn version(Output { output }: Output) -> anyhow::Result<()> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    output.print(&json!({ "version": VERSION }), || format!("kubectl-ovl {VERSION}\n"))
}
