//! `kubectl ovl tree`: shows the descent of snapshots, as text or as one HTML page.

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::{
    failure::Failure,
    lineage::{Node, tree},
    page, print,
    session::Session,
};

/// The last lines of `tree --help`.
const EXAMPLES: &str = "\
Examples:
  kubectl ovl tree
  # One page with sizes, and the pods on each node
  kubectl ovl tree -o html > snapshots.html";

/// Show the descent of snapshots.
///
/// The page of `-o html` has no scripts and needs no network. It shows each snapshot below its parent, what it shares
/// with its ancestors and its own size, the pods and workloads that use it, and the pods on each node.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TreeArgs {
    /// Show the snapshots of all namespaces, if you have the right to read them
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The format of the result
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    output: TreeFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TreeFormat {
    /// The names
    Text,
    /// An HTML page
    Html,
}

pub(super) async fn run(session: &Session, args: &TreeArgs) -> Result<(), Failure> {
    let snapshots = session.snapshots(args.all_namespaces, None).await?;
    let text = match args.output {
        TreeFormat::Text => {
            let line = |(branch, node): (String, Node<'_>)| match node {
                Node::Snapshot(snapshot) => format!("{branch}{}\n", snapshot.name),
                Node::Missing(_, name) => format!("{branch}({name}, deleted)\n"),
            };
            tree(&snapshots).into_iter().map(line).collect()
        }
        TreeFormat::Html => {
            let users = session.users(args.all_namespaces).await?;
            let place = match args.all_namespaces {
                true => "all namespaces".to_owned(),
                false => format!("namespace {}", session.namespace),
            };
            let title = format!("Snapshots of {place}");
            page::page(&title, &snapshots, &users, Timestamp::now())
        }
    };
    Ok(print::out(&text)?)
}
