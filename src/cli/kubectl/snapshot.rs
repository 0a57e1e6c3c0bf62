//! `kubectl ovl snapshot`: creates a VolumeSnapshot and waits until it is ready.

use std::collections::BTreeMap;

use anyhow::anyhow;
use clap::Args;

use super::{
    args::{Format, Output, TimeoutArgs, object_name},
    failure::Failure,
    pod, print,
    session::Session,
    snapshot_view::{PENDING, Snapshot},
};
use crate::{
    cluster::snapshot_api::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec},
    controller::SOURCE,
    error::Class,
};

/// Take a snapshot of a pod's volume.
///
/// Creates a VolumeSnapshot in the namespace and waits until it is ready. The pod keeps running. It is frozen for the
/// moment of the capture, unless the class sets `consistency: live`. Another pod gets the content with
/// `volumeAttributes: {snapshot: NAME}`.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    /// The name of the pod
    #[arg(value_parser = object_name)]
    pod: String,
    /// The volume's name in the pod
    #[arg(value_parser = object_name)]
    volume: String,
    /// The name of the snapshot
    #[arg(value_parser = object_name)]
    name: String,
    /// The VolumeSnapshotClass [default: the driver's default class]
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    class: Option<String>,
    /// Wait until the snapshot is ready (default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Create the VolumeSnapshot and do not wait
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    #[command(flatten)]
    timeout_args: TimeoutArgs,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(session: &Session, args: &SnapshotArgs) -> Result<(), Failure> {
    let SnapshotArgs { pod, volume, name, class, .. } = args;
    session.checked_pod(pod, volume).await?;
    let mut snapshot = session.take(pod, volume, name, class.as_deref()).await?;
    if !args.no_wait {
        snapshot = session.until_ready(&snapshot, args.timeout_args.timeout).await?;
    }
    match args.output.output {
        Format::Json => print::json(&snapshot)?,
        Format::Text => print::out(&summary(&snapshot))?,
    }
    Ok(())
}

/// The result on one line.
pub(super) fn summary(snapshot: &Snapshot) -> String {
    let Snapshot { name, phase, frozen, image, node, .. } = snapshot;
    if phase == PENDING {
        return format!("snapshot {name} was requested\n");
    }
    let mut parts: Vec<_> = snapshot.amount().into_iter().collect();
    parts.extend(frozen.as_ref().map(|frozen| format!("the pod was frozen for {frozen}")));
    parts.extend(match (image, node) {
        (Some(image), _) => Some(format!("pushed as {image}")),
        (None, Some(node)) if phase == "Ready" => Some(format!("only on node {node}")),
        _ => None,
    });
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("snapshot {name} is {}{parts}\n", phase.to_lowercase())
}

impl Session {
    /// Reads a pod, and checks that its volume can be snapshotted.
    pub(super) async fn checked_pod(
        &self,
        name: &str,
        volume: &str,
    ) -> Result<serde_json::Value, Failure> {
        let (namespace, driver) = (&self.namespace, &self.driver);
        let found = self.client.pod_json(namespace, name).await?;
        let found = found.ok_or_else(|| anyhow!("there is no pod {name} in namespace {namespace}"));
        let found = found?;
        pod::check(&found, volume, driver)?;
        Ok(found)
    }

    /// Creates the VolumeSnapshot.
    pub(super) async fn take(
        &self,
        pod: &str,
        volume: &str,
        name: &str,
        class: Option<&str>,
    ) -> Result<Snapshot, Failure> {
        let source = VolumeSnapshotSource {
            volume_snapshot_content_name: Some(format!("ovl-{}", random()?)),
            ..VolumeSnapshotSource::default()
        };
        let class = class.map(str::to_owned);
        let spec = VolumeSnapshotSpec { source, volume_snapshot_class_name: class };
        let mut object = VolumeSnapshot::new(name, spec);
        object.metadata.namespace = Some(self.namespace.clone());
        let annotation = (SOURCE.to_owned(), format!("{pod}/{volume}"));
        object.metadata.annotations = Some(BTreeMap::from([annotation]));
        let created = match self.client.create(&object).await {
            Err(error) if error.class() == Class::Conflict => {
                return Err(anyhow!(
                    "VolumeSnapshot {name} exists already in namespace {}; use another name, or delete it first",
                    self.namespace
                )
                .into());
            }
            Err(error) if error.class() == Class::NotFound => {
                return Err(anyhow!(
                    "the cluster has no kind VolumeSnapshot (an administrator must install the snapshot CRDs), or there is no namespace {}",
                    self.namespace
                )
                .into());
            }
            created => created?,
        };
        Snapshot::of(&created, &self.driver).ok_or_else(|| {
            anyhow!("the cluster changed the annotations of VolumeSnapshot {name}").into()
        })
    }
}

/// 32 random hexadecimal digits.
pub(super) fn random() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| anyhow!("the system returns no random numbers"))?;
    Ok(hex::encode(bytes))
}
