//! The kubectl plugin `kubectl ovl`: takes snapshots of pods' volumes and forks pods, for users of one namespace.
//!
//! It reads VolumeSnapshots, their annotations (`snapshot_view`) and Pods only, because its users may have no right to read
//! OverlaySnapshots or nodes.
//!
//! | exit code | what happened | what to do |
//! |---|---|---|
//! | 0 | done; the snapshot is ready | |
//! | 1 | the command or the snapshot failed | read stderr |
//! | 2 | arguments cannot be used, and nothing was started | fix them first |
//! | 3 | timeout: the snapshot is still being taken or deleted | `kubectl ovl describe` |
//!
//! Results go to stdout, everything else to stderr. Deliberately absent: decisions of the cluster. The controller
//! decides which volumes can be snapshotted and where snapshots are pushed. This module only reports obvious mistakes
//! early.

mod args;
mod compare;
mod completion;
mod delete;
mod describe;
mod diff;
mod failure;
mod fork;
mod list;
mod pod;
mod print;
mod progress;
mod registry;
mod session;
mod snapshot;
mod snapshot_view;
#[cfg(test)]
mod tests;
mod tree;
mod wait;

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::telemetry;
use args::{ClusterArgs, Format, Output};
use failure::Failure;

/// The last lines of `--help`.
const EXIT_CODES: &str = "\
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
    Fork(fork::ForkArgs),
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    Delete(delete::DeleteArgs),
    Diff(diff::DiffArgs),
    Completion(completion::CompletionArgs),
    /// Print the version
    Version(VersionArgs),
    #[command(name = completion::COMMAND, hide = true)]
    Complete(completion::CompleteArgs),
}

#[derive(Debug, Args)]
struct VersionArgs {
    #[command(flatten)]
    output: Output,
}

/// Runs the plugin and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match super::parsed::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
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
        Err(Failure::Failed(error)) => (1, error),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::TimedOut(error)) => (3, error),
    };
    print::note(&format!("error: {error:#}"));
    ExitCode::from(code)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, cluster } = cli;
    match command {
        Command::Snapshot(args) => snapshot::run(&cluster.connect().await?, &args).await,
        Command::Fork(args) => fork::run(&cluster.connect().await?, &args).await,
        Command::List(args) => list::run(&cluster.connect().await?, &args).await,
        Command::Describe(args) => describe::run(&cluster.connect().await?, &args).await,
        Command::Delete(args) => delete::run(&cluster.connect().await?, &args).await,
        Command::Diff(args) => diff::run(&cluster.connect().await?, &args).await,
        Command::Completion(args) => completion::run(args, Cli::command()),
        Command::Complete(args) => completion::complete(&args, Cli::command()).await,
        Command::Version(args) => Ok(version(args.output.output)?),
    }
}

fn version(form: Format) -> anyhow::Result<()> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    match form {
        Format::Text => print::out(&format!("kubectl-ovl {VERSION}\n")),
        Format::Json => print::json(&json!({ "version": VERSION })),
    }
}
