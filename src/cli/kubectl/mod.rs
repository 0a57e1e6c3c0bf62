//! `kubectl ovl`: snapshots of pods' volumes, and forks made of them, for users of one namespace.
//!
//! Everything it knows comes from VolumeSnapshots, their annotations ([`known`]) and Pods: its users may read neither
//! OverlaySnapshots nor nodes.
//!
//! | exit code | what happened | what to do |
//! |---|---|---|
//! | 0 | done; the snapshot is ready | |
//! | 1 | it failed, or the snapshot did | read stderr |
//! | 2 | arguments cannot be used, and nothing was begun | mend them first |
//! | 3 | it was not done in time; it still goes on in the cluster | `kubectl ovl describe` |
//!
//! Results go to stdout, everything else to stderr. Deliberately absent: whatever the cluster decides. What may be snapshotted, and
//! where it is pushed, is the controller's business; here only obvious mistakes are told early.

mod compare;
mod completion;
mod delete;
mod describe;
mod diff;
mod fork;
mod known;
mod list;
mod pod;
mod print;
mod progress;
mod registry;
mod sides;
mod take;
#[cfg(test)]
mod tests;
mod wait;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::anyhow;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cluster::{Client, ClusterError},
    controller::is_subdomain,
    telemetry::{self, Filter},
    units,
};

/// What stands below `--help`.
const EXIT_CODES: &str = "\
Exit codes: 0 done (the snapshot is ready), 1 failed, 2 arguments that cannot be used, 3 not done in time (it goes on in the cluster).";

/// Snapshots of pods' ovl-csi volumes, and forks of pods made of them.
///
/// Works with the rights to read and write VolumeSnapshots and Pods of one namespace. The cluster, the user and the namespace are
/// kubectl's: --kubeconfig, --context, --namespace, KUBECONFIG, ~/.kube/config, or the pod that this runs in.
#[derive(Debug, Parser)]
#[command(name = "kubectl-ovl", bin_name = "kubectl ovl", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    whom: Whom,
}

#[derive(Debug, Subcommand)]
enum Command {
    Snapshot(take::SnapshotArgs),
    Fork(fork::ForkArgs),
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    Delete(delete::DeleteArgs),
    Diff(diff::DiffArgs),
    Completion(completion::CompletionArgs),
    /// Say which version this is
    Version(VersionArgs),
    #[command(name = completion::COMMAND, hide = true)]
    Complete(completion::CompleteArgs),
}

/// Which cluster is asked, and as whom.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
struct Whom {
    /// The kubeconfig; else those in KUBECONFIG, else ~/.kube/config, else this pod's ServiceAccount
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; else its current one
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace; else the context's
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// The name of the cluster's CSI driver
    #[arg(
        long,
        global = true,
        env = "OVL_DRIVER_NAME",
        default_value = "ovl.csi.dev",
        value_name = "NAME"
    )]
    driver: String,
    /// What is logged
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

/// How a command's result is said.
#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// How the result is said
    #[arg(short, long, default_value = "text", value_name = "HOW")]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// For programs
    Json,
}

/// How long is waited.
#[derive(Debug, Clone, Copy, Args)]
struct Patience {
    /// How long to wait, as in 90s or 1h30m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// A namespace of a cluster, and the driver there.
struct Here {
    client: Client,
    namespace: String,
    driver: String,
}

/// Why a command ends without success, by exit code.
#[derive(Debug)]
enum Failure {
    /// 1.
    Failed(anyhow::Error),
    /// 2.
    Usage(anyhow::Error),
    /// 3.
    Late(anyhow::Error),
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

/// Runs the plugin.
pub fn main() -> ExitCode {
    let cli = match super::parsed::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    telemetry::init(&cli.whom.filter, telemetry::Format::Text, None);
    let result = match Runtime::new() {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli));
            // What still blocks then is a download that nobody waits for.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(anyhow!("cannot start the runtime: {error}").into()),
    };
    let (code, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (1, error),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::Late(error)) => (3, error),
    };
    print::note(&format!("error: {error:#}"));
    ExitCode::from(code)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, whom } = cli;
    match command {
        Command::Snapshot(args) => take::run(&whom.connect().await?, &args).await,
        Command::Fork(args) => fork::run(&whom.connect().await?, &args).await,
        Command::List(args) => list::run(&whom.connect().await?, &args).await,
        Command::Describe(args) => describe::run(&whom.connect().await?, &args).await,
        Command::Delete(args) => delete::run(&whom.connect().await?, &args).await,
        Command::Diff(args) => diff::run(&whom.connect().await?, &args).await,
        Command::Completion(args) => completion::run(args),
        Command::Complete(args) => completion::complete(&args).await,
        Command::Version(args) => Ok(version(args.output.output)?),
    }
}

impl Whom {
    async fn connect(&self) -> Result<Here, Failure> {
        let (file, context) = (self.kubeconfig.as_deref(), self.context.as_deref());
        let (client, namespace) = Client::of_user(file, context).await?;
        let namespace = self.namespace.clone().unwrap_or(namespace);
        Ok(Here { client, namespace, driver: self.driver.clone() })
    }
}

fn version(form: Form) -> anyhow::Result<()> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    match form {
        Form::Text => print::out(&format!("kubectl-ovl {VERSION}\n")),
        Form::Json => print::json(&json!({ "version": VERSION })),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "expected a duration such as 90s or 1h30m".to_owned())
}

/// What an object's name may look like: RFC 1123 labels, joined by dots.
fn object_name(text: &str) -> Result<String, String> {
    match is_subdomain(text) {
        true => Ok(text.to_owned()),
        false => Err("expected lower-case letters, digits, - and ., as in ws-1".to_owned()),
    }
}
