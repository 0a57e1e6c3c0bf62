//! `kubectl ovl delete`: deletes VolumeSnapshots of this driver.

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::{
    args::{Format, Output, TimeoutArgs, object_name},
    failure::Failure,
    print,
    session::Session,
    snapshot_view::Snapshot,
};
use crate::cluster::snapshot_api::VolumeSnapshot;

/// Delete snapshots.
///
/// The deletionPolicy of the class decides whether the copy in the registry is deleted too. Pods that started from a
/// snapshot keep their files. Layers that other snapshots share are kept.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The names of the snapshots
    #[arg(required = true, value_name = "NAME", value_parser = object_name)]
    names: Vec<String>,
    /// Wait until they are deleted
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    timeout_args: TimeoutArgs,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(session: &Session, args: &DeleteArgs) -> Result<(), Failure> {
    // All of them are read before the first one is deleted, so a mistyped name deletes nothing.
    let mut snapshots = Vec::new();
    for name in &args.names {
        snapshots.push(session.snapshot(name).await?);
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
    if args.output.output == Format::Json {
        print::json(&json!({ "deleted": deleted, "waited": args.wait }))?;
    }
    failure.map_or(Ok(()), Err)
}

impl Session {
    async fn delete(&self, snapshot: &Snapshot, args: &DeleteArgs) -> Result<(), Failure> {
        let Snapshot { name, uid, .. } = snapshot;
        self.client
            .delete::<VolumeSnapshot>(Some(&self.namespace), name, uid)
            .await
            .map_err(|error| anyhow!(error).context(format!("snapshot {name} was not deleted")))?;
        if args.wait {
            self.until_gone(snapshot, args.timeout_args.timeout).await?;
        }
        if args.output.output == Format::Text {
            let state = if args.wait { "is deleted" } else { "is being deleted" };
            print::out(&format!("snapshot {name} {state}\n"))?;
        }
        Ok(())
    }
}
