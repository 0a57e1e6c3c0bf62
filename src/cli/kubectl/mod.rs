//! The kubectl plugin `kubectl ovl`: takes snapshots of pods' volumes and forks pods, for users of one namespace.
//!
//! It reads VolumeSnapshots, their annotations ([`snapshot_view`]) and Pods only, because its users may have no right to read
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

mod compare;
mod completion;
mod delete;
mod describe;
mod diff;
mod fork;
mod list;
mod pod;
mod print;
mod progress;
mod registry;
mod snapshot;
mod snapshot_view;
#[cfg(test)]
mod tests;
mod tree;
mod wait;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::anyhow;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cluster::{Client, ClusterError},
    dns_name::is_subdomain,
    format,
    telemetry::{self, Filter},
};

/// The last lines of `--help`.
const EXIT_CODES: &str = "\
Exit codes: 0 done (the snapshot is ready), 1 failed, 2 arguments cannot be used, 3 timeout (the snapshot is still being taken or deleted).";

/// Take snapshots of pods' ovl-csi volumes, and fork pods.
///
/// Needs the rights to read and write VolumeSnapshots and Pods of one namespace. The cluster, the user and the
/// namespace are those of kubectl: --kubeconfig, --context, --namespace, KUBECONFIG, ~/.kube/config, or the pod in
/// which this runs.
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

/// The cluster, the user, the namespace and the driver.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
struct ClusterArgs {
    /// The kubeconfig [default: those in KUBECONFIG, else ~/.kube/config, else this pod's ServiceAccount]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current context]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace [default: the namespace of the context]
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// The driver name of the ovl-csi release
    #[arg(
        long,
        global = true,
        env = "OVL_DRIVER_NAME",
        default_value = "ovl.csi.dev",
        value_name = "NAME"
    )]
    driver: String,
    /// The log level, or levels by module
    #[arg(
        long = "log",
        global = true,
        hide = true,
        env = "OVL_LOG",
        default_value = "ovl=warn",
        value_name = "FILTER"
    )]
    filter: Filter,
}

#[derive(Debug, Args)]
struct VersionArgs {
    #[command(flatten)]
    output: Output,
}

/// The output format of a command.
#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// The format of the result
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Plain text
    Text,
    /// JSON
    Json,
}

/// The timeout of a command.
#[derive(Debug, Clone, Copy, Args)]
struct TimeoutArgs {
    /// How long to wait, such as 90s or 1h30m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// The client of a cluster, with the namespace and the driver of this command.
struct Session {
    client: Client,
    namespace: String,
    driver: String,
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 2.
    Usage(anyhow::Error),
    /// Exit code 3.
    TimedOut(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        Self::Failed(error.into())
    }
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
        Command::Completion(args) => completion::run(args),
        Command::Complete(args) => completion::complete(&args).await,
        Command::Version(args) => Ok(version(args.output.output)?),
    }
}

impl ClusterArgs {
    async fn connect(&self) -> Result<Session, Failure> {
        let (file, context) = (self.kubeconfig.as_deref(), self.context.as_deref());
        let (client, namespace) = Client::from_kubeconfig(file, context).await?;
        let namespace = self.namespace.clone().unwrap_or(namespace);
        Ok(Session { client, namespace, driver: self.driver.clone() })
    }
}

fn version(form: Format) -> anyhow::Result<()> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    match form {
        Format::Text => print::out(&format!("kubectl-ovl {VERSION}\n")),
        Format::Json => print::json(&json!({ "version": VERSION })),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    format::duration(text).ok_or_else(|| "expected a duration such as 90s or 1h30m".to_owned())
}

/// Parses the name of an object: labels of RFC 1123, joined by dots.
fn object_name(text: &str) -> Result<String, String> {
    match is_subdomain(text) {
        true => Ok(text.to_owned()),
        false => Err("expected lower-case letters, digits, - and ., as in ws-1".to_owned()),
    }
}
