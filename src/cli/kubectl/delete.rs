//! `kubectl ovl delete`.

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::{Failure, Form, Here, Output, Patience, known::Snapshot, object_name, print};
use crate::cluster::snapshot_api::VolumeSnapshot;

/// Delete snapshots.
///
/// Whether the registry's copy goes too is the class's deletionPolicy. Pods that were made of a snapshot keep what they have, and
/// layers that other snapshots share stay.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The snapshots
    #[arg(required = true, value_name = "NAME", value_parser = object_name)]
    names: Vec<String>,
    /// Wait until they are gone
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(here: &Here, args: &DeleteArgs) -> Result<(), Failure> {
    // All of them are looked at before the first one goes: a mistyped name is seen in time.
    let mut snapshots = Vec::new();
    for name in &args.names {
        snapshots.push(here.snapshot(name).await?);
    }
    let (mut deleted, mut failure) = (Vec::new(), None);
    for snapshot in &snapshots {
        match here.delete(snapshot, args).await {
            Ok(()) => deleted.push(snapshot.name.as_str()),
            Err(Failure::Late(error)) => failure = Some(failure.unwrap_or(Failure::Late(error))),
            Err(other) => failure = Some(other),
        }
    }
    if args.output.output == Form::Json {
        print::json(&json!({ "deleted": deleted, "waited": args.wait }))?;
    }
    failure.map_or(Ok(()), Err)
}

impl Here {
    async fn delete(&self, snapshot: &Snapshot, args: &DeleteArgs) -> Result<(), Failure> {
        let Snapshot { name, uid, .. } = snapshot;
        self.client
            .delete::<VolumeSnapshot>(Some(&self.namespace), name, uid)
            .await
            .map_err(|error| anyhow!(error).context(format!("snapshot {name} was not deleted")))?;
        if args.wait {
            self.until_gone(snapshot, args.patience.timeout).await?;
        }
        if args.output.output == Form::Text {
            let what = if args.wait { "is gone" } else { "is being deleted" };
            print::out(&format!("snapshot {name} {what}\n"))?;
        }
        Ok(())
    }
}
