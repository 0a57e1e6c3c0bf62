//! `kubectl ovl delete`: deletes VolumeSnapshots of this driver.

use std::io::{IsTerminal as _, Write as _, stderr, stdin};

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::{
    args::{DryRun, DryRunArgs, NamedFormat, NamedOutput, TimeoutArgs, object_name},
    failure::Failure,
    print,
    session::Session,
    snapshot_view::Snapshot,
};
use crate::cluster::snapshot_api::VolumeSnapshot;

/// The last lines of `delete --help`.
const EXAMPLES: &str = "\
Examples:
  kubectl ovl delete demo-1 demo-2
  # Wait until it is deleted
  kubectl ovl delete demo-1 --wait
  # Although a Deployment starts from it
  kubectl ovl delete demo-1 --force";

/// Delete snapshots.
///
/// The deletionPolicy of the class decides whether the image in the registry is deleted too. If it is Retain, the command
/// names what stays, and how to delete that. Pods that started from a snapshot keep their files. Layers that other
/// snapshots share are kept.
///
/// If pods or workloads use a snapshot, the command names them and asks: their next pods could not start. Without a
/// terminal it ends with exit code 2, unless --force is given.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeleteArgs {
    /// The names of the snapshots
    #[arg(required = true, value_name = "NAME", value_parser = object_name)]
    names: Vec<String>,
    /// Delete snapshots that are in use, too
    #[arg(long)]
    force: bool,
    /// Wait until they are deleted
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    timeout_args: TimeoutArgs,
    #[command(flatten)]
    output: NamedOutput,
}

/// Asks the user a question. `None` if there is no terminal.
pub(super) type Ask = fn(&str) -> Option<bool>;

pub(super) async fn run(session: &Session, args: &DeleteArgs, ask: Ask) -> Result<(), Failure> {
    // All of them are read before the first one is deleted, so a mistyped name deletes nothing.
    let mut snapshots = Vec::new();
    for name in &args.names {
        snapshots.push(session.snapshot(name).await?);
    }
    let dry_run = args.dry_run.dry_run;
    if !args.force {
        // Nothing is deleted by a dry run, so it asks nothing: it fails as without a terminal.
        let ask = if dry_run == DryRun::None { ask } else { |_: &str| None };
        session.check_unused(&snapshots, ask).await?;
    }
    let (mut deleted, mut failure) = (Vec::new(), None);
    for snapshot in &snapshots {
        match session.delete(snapshot, args).await {
            Ok(()) => deleted.push(snapshot.name.as_str()),
            Err(Failure::TimedOut(error)) => {
                failure = Some(failure.unwrap_or(Failure::TimedOut(error)));
            }
            Err(other) => failure = Some(other),
        }
    }
    let result = json!({ "deleted": deleted, "waited": args.wait });
    match args.output.output {
        NamedFormat::Json => print::json(&result)?,
        NamedFormat::Yaml => print::yaml(&result)?,
        NamedFormat::Text | NamedFormat::Name => {}
    }
    failure.map_or(Ok(()), Err)
}

/// Asks on the terminal.
pub(super) fn ask_on_terminal(question: &str) -> Option<bool> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return None;
    }
    let _ = write!(stderr(), "{} [y/N] ", print::clean(question));
    let mut line = String::new();
    stdin().read_line(&mut line).ok()?;
    Some(is_yes(&line))
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

impl Session {
    /// Asks the user if a snapshot is in use.
    async fn check_unused(&self, snapshots: &[Snapshot], ask: Ask) -> Result<(), Failure> {
        let users = self.users(false).await?;
        let mut used = Vec::new();
        for snapshot in snapshots {
            let users = users.names(snapshot);
            if !users.is_empty() {
                used.push(format!("snapshot {} is used by {}", snapshot.name, users.join(", ")));
            }
        }
        if used.is_empty() {
            return Ok(());
        }
        let used = used.join("; ");
        match ask(&format!("{used}.\nPods that start from it later will fail. Delete it?")) {
            Some(true) => Ok(()),
            Some(false) => Err(anyhow!("nothing was deleted").into()),
            None => Err(Failure::Usage(anyhow!(
                "{used}; pods that start from it later would fail: use --force to delete it"
            ))),
        }
    }

    async fn delete(&self, snapshot: &Snapshot, args: &DeleteArgs) -> Result<(), Failure> {
        let Snapshot { name, uid, .. } = snapshot;
        let dry_run = args.dry_run.dry_run;
        let client = match dry_run {
            DryRun::None => Some(self.client.clone()),
            DryRun::Client => None,
            DryRun::Server => Some(self.client.dry_run()),
        };
        if let Some(client) = client {
            let deleted = client.delete::<VolumeSnapshot>(Some(&self.namespace), name, uid).await;
            deleted.map_err(|error| {
                anyhow!(error).context(format!("snapshot {name} was not deleted"))
            })?;
        }
        if args.wait && dry_run == DryRun::None {
            self.until_gone(snapshot, args.timeout_args.timeout).await?;
        }
        match args.output.output {
            NamedFormat::Text => {
                let state = match (dry_run, args.wait) {
                    (DryRun::None, true) => "is deleted",
                    (DryRun::None, false) => "is being deleted",
                    (DryRun::Client | DryRun::Server, _) => "would be deleted",
                };
                print::out(&format!("snapshot {name} {state}{}\n", dry_run.suffix()))?;
            }
            NamedFormat::Name => print::out(&(snapshot.resource() + "\n"))?,
            NamedFormat::Json | NamedFormat::Yaml => {}
        }
        if let Some(retained) = snapshot.retained() {
            print::note(&format!("note: {retained}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (line, yes) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("no\n", false), ("", false)]
        {
            assert_eq!(is_yes(line), yes, "{line:?}");
        }
    }
}
