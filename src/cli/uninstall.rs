//! `ovl before-uninstall`: the chart's hook before `helm uninstall`. It stops the uninstallation if VolumeSnapshots of the
//! driver are left: the release's csi-snapshotter is the only program that removes the finalizer of their contents, so
//! their deletion would never end without it.
//!
//! With `--retain` it lets the uninstallation continue, and makes the VolumeSnapshots independent of the release:
//!
//! - Contents get the policy `Retain`. The snapshot-controller then deletes a VolumeSnapshot without its content.
//! - Contents that are being deleted lose the finalizer, so their deletion ends. The snapshot-controller would add it
//!   again to the others.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;
use tokio::runtime::Runtime;

use super::failure::Failure;
use crate::{
    cluster::{
        Client, ClusterError, Kind,
        annotation_keys::DRIVER,
        snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    },
    error::Class,
};

/// The finalizer of a content. The snapshot-controller adds it, and the csi-snapshotter of the driver removes it.
const FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";

/// The most names in a message.
const SHOWN: usize = 20;

/// Check that no VolumeSnapshot of the driver is left
#[derive(Debug, Args)]
pub(super) struct BeforeUninstallArgs {
    /// The name of the driver
    #[arg(long, value_name = "NAME")]
    driver_name: String,
    /// Keep the snapshots that are left, and let the release be uninstalled
    #[arg(long)]
    retain: bool,
    /// The name of the release, for the message
    #[arg(long, value_name = "NAME")]
    release: String,
    /// The namespace of the release, for the message
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// The revision of the release, for the message
    #[arg(long, value_name = "NUMBER")]
    revision: u32,
}

/// A namespace and a name in it.
type Name = (String, String);

/// Stops the uninstallation if VolumeSnapshots are left, or makes them independent of the release.
pub(super) fn run(args: &BeforeUninstallArgs) -> Result<(), Failure> {
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let (text, stops) = runtime.block_on(async {
        let client = Client::in_cluster().await.context("this command needs a cluster")?;
        args.check(&client).await
    })?;
    // Helm shows this output where the hook fails.
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    match stops {
        true => Err(anyhow!("the release is not uninstalled").into()),
        false => Ok(()),
    }
}

impl BeforeUninstallArgs {
    /// The message for the user, and whether the uninstallation is stopped.
    async fn check(&self, client: &Client) -> anyhow::Result<(String, bool)> {
        let mut contents = all::<VolumeSnapshotContent>(client).await?;
        contents.retain(|content| content.spec.driver == self.driver_name);
        if self.retain {
            for content in &contents {
                retain(client, content).await?;
            }
            return Ok((retained(contents.len()), false));
        }
        let left = self.left(&all::<VolumeSnapshot>(client).await?, &contents);
        match left.is_empty() {
            true => Ok((String::new(), false)),
            false => Ok((self.stopped(&left), true)),
        }
    }

    /// The VolumeSnapshots of the driver: those with a content of it, and those that it has claimed.
    fn left(
        &self,
        snapshots: &[VolumeSnapshot],
        contents: &[VolumeSnapshotContent],
    ) -> BTreeSet<Name> {
        let with_content: BTreeSet<_> = contents
            .iter()
            .filter_map(|content| content.spec.volume_snapshot_ref.uid.as_deref())
            .collect();
        let is_ours = |snapshot: &&VolumeSnapshot| {
            let metadata = &snapshot.metadata;
            let claimed = metadata.annotations.as_ref().and_then(|a| a.get(DRIVER));
            claimed == Some(&self.driver_name)
                || metadata.uid.as_deref().is_some_and(|uid| with_content.contains(uid))
        };
        let name = |snapshot: &VolumeSnapshot| {
            let metadata = &snapshot.metadata;
            Some((metadata.namespace.clone()?, metadata.name.clone()?))
        };
        snapshots.iter().filter(is_ours).filter_map(name).collect()
    }

    fn stopped(&self, left: &BTreeSet<Name>) -> String {
        let Self { driver_name, release, namespace, revision, .. } = self;
        let shown = left.iter().take(SHOWN).map(|(namespace, name)| {
            format!("  kubectl --namespace {namespace} delete volumesnapshot {name}\n")
        });
        let more = match left.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("  ... and {more} more\n"),
        };
        format!(
            "The release is not uninstalled, and nothing is changed: {} of {driver_name} would be left, and could not be \
             deleted without it.\n\n\
             Either delete them, and run helm uninstall again:\n\n{}{more}\n\
             Or keep their contents: they can be deleted without the driver then, and work again when it is installed \
             again. Helm has noted that the uninstallation has begun, so it needs a rollback to the same revision first:\n\n  \
             helm --namespace {namespace} rollback {release} {revision}\n  \
             helm --namespace {namespace} upgrade {release} CHART --reuse-values --set snapshots.onUninstall=retain\n  \
             helm --namespace {namespace} uninstall {release}\n",
            match left.len() {
                1 => "1 VolumeSnapshot".to_owned(),
                count => format!("{count} VolumeSnapshots"),
            },
            shown.collect::<String>(),
        )
    }
}

/// All objects of a kind; none if the cluster does not have the kind.
async fn all<T: Kind>(client: &Client) -> Result<Vec<T>, ClusterError> {
    match client.list().await {
        Err(error) if error.class() == Class::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// Makes a content independent of the release.
async fn retain(client: &Client, content: &VolumeSnapshotContent) -> Result<(), ClusterError> {
    let metadata = &content.metadata;
    let mut changes = json!({
        "metadata": {"uid": metadata.uid},
        "spec": {"deletionPolicy": "Retain"},
    });
    if metadata.deletion_timestamp.is_some() {
        let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        changes["metadata"]["finalizers"] = json!(finalizers);
    }
    let name = metadata.name.as_deref().unwrap_or_default();
    match client.patch::<VolumeSnapshotContent>(None, name, &changes).await {
        // Another content has the name now: the one of the list is gone.
        Err(error) if error.class() == Class::Conflict => Ok(()),
        result => result.map(drop),
    }
}

fn retained(contents: usize) -> String {
    format!(
        "{} retained. Their VolumeSnapshots can be deleted without the driver. To delete such a content as long as the \
         driver is not installed:\n\n  \
         kubectl delete volumesnapshotcontent NAME --wait=false\n  \
         kubectl patch volumesnapshotcontent NAME --type=merge --patch '{{\"metadata\":{{\"finalizers\":null}}}}'\n",
        match contents {
            1 => "1 VolumeSnapshotContent is".to_owned(),
            count => format!("{count} VolumeSnapshotContents are"),
        }
    )
}

#[cfg(test)]
#[path = "uninstall_tests.rs"]
mod tests;
