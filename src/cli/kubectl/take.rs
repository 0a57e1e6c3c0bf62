//! `kubectl ovl snapshot`: writes the VolumeSnapshot, and waits for what becomes of it.

use std::collections::BTreeMap;

use anyhow::anyhow;
use clap::Args;

use super::{Failure, Form, Here, Output, Patience, known::Snapshot, object_name, pod, print};
use crate::{
    cluster::snapshot_api::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec},
    controller::SOURCE,
    fault::Class,
};

/// Snapshot a pod's volume.
///
/// Writes a VolumeSnapshot into the namespace and waits until it is ready. The pod goes on; it stands still for the moment of the
/// cut, unless the class says otherwise. Another pod gets the volume's content by `volumeAttributes: {snapshot: NAME}`.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    /// The pod
    #[arg(value_parser = object_name)]
    pod: String,
    /// The volume's name in the pod
    #[arg(value_parser = object_name)]
    volume: String,
    /// The snapshot's name
    #[arg(value_parser = object_name)]
    name: String,
    /// The VolumeSnapshotClass; else the driver's default
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    class: Option<String>,
    /// Wait until it is ready, which is the default
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only ask for it
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(here: &Here, args: &SnapshotArgs) -> Result<(), Failure> {
    let SnapshotArgs { pod, volume, name, class, .. } = args;
    here.checked_pod(pod, volume).await?;
    let mut snapshot = here.take(pod, volume, name, class.as_deref()).await?;
    if !args.no_wait {
        snapshot = here.until_ready(&snapshot, args.patience.timeout).await?;
    }
    match args.output.output {
        Form::Json => print::json(&snapshot)?,
        Form::Text => print::out(&said(&snapshot))?,
    }
    Ok(())
}

/// What became of it, on one line.
pub(super) fn said(snapshot: &Snapshot) -> String {
    let Snapshot { name, phase, frozen, image, node, .. } = snapshot;
    let mut parts: Vec<_> = snapshot.amount().into_iter().collect();
    parts.extend(frozen.as_ref().map(|frozen| format!("the pod stood still for {frozen}")));
    parts.extend(match (image, node) {
        (Some(image), _) => Some(format!("pushed as {image}")),
        (None, Some(node)) if phase == "Ready" => Some(format!("on node {node} only")),
        _ => None,
    });
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("snapshot {name} is {}{parts}\n", phase.to_lowercase())
}

impl Here {
    /// The pod, with a volume that can be snapshotted.
    pub(super) async fn checked_pod(
        &self,
        name: &str,
        volume: &str,
    ) -> Result<serde_json::Value, Failure> {
        let (namespace, driver) = (&self.namespace, &self.driver);
        let found = self.client.whole_pod(namespace, name).await?;
        let found = found.ok_or_else(|| anyhow!("there is no pod {name} in namespace {namespace}"));
        let found = found?;
        pod::check(&found, volume, driver)?;
        Ok(found)
    }

    /// Asks for a snapshot.
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
        let made = match self.client.create(&object).await {
            Err(error) if error.class() == Class::Conflict => {
                return Err(anyhow!(
                    "there is a VolumeSnapshot {name} in namespace {} already: take another name, or delete it first",
                    self.namespace
                )
                .into());
            }
            Err(error) if error.class() == Class::NotFound => {
                return Err(anyhow!(
                    "the cluster has no VolumeSnapshots, or no namespace {}: its administrator has to install the snapshot CRDs",
                    self.namespace
                )
                .into());
            }
            made => made?,
        };
        Snapshot::of(&made).ok_or_else(|| {
            anyhow!("the cluster dropped the annotation {SOURCE} of VolumeSnapshot {name}").into()
        })
    }
}

/// 32 digits that nobody has had yet.
pub(super) fn random() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| anyhow!("the machine gives no random numbers"))?;
    Ok(hex::encode(bytes))
}
