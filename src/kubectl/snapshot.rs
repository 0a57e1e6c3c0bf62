//! `kubectl ovl snapshot`: creates a VolumeSnapshot and waits until it is ready.

use std::collections::BTreeMap;

use anyhow::anyhow;
use clap::Args;

use super::{
    args::{
        DryRun, DryRunArgs, NamedFormat, NamedOutput, PodVolume, TimeoutArgs, name_prefix,
        object_name, value, volume_name,
    },
    failure::Failure,
    pod, print,
    session::Session,
    snapshot_view::{Snapshot, resource},
    wait::OnFailure,
};
use crate::{
    cluster::{
        Client, JsonKind,
        annotation_keys::{PENDING, SOURCE},
        snapshot_api::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec},
    },
    dns_name::SUBDOMAIN_MAX,
    error::Class,
};

/// The last lines of `snapshot --help`.
const EXAMPLES: &str = "\
Examples:
  # Keep what pod demo has written to its volume work
  kubectl ovl snapshot demo work demo-1
  kubectl ovl snapshot demo/work demo-1
  # The pod has one volume of this driver
  kubectl ovl snapshot demo demo-1
  # A new name each time, as a CronJob needs it
  kubectl ovl snapshot demo work --generate-name nightly-
  # Show the VolumeSnapshot that would be created, after the API server has checked it
  kubectl ovl snapshot demo work demo-2 --dry-run=server -o yaml
  # Do not wait, and print only the name
  kubectl ovl snapshot demo work demo-2 --no-wait -o name";

/// Take a snapshot of a pod's volume.
///
/// Creates a VolumeSnapshot in the namespace and waits until it is ready. The pod keeps running. It is frozen for the
/// moment of the capture, unless the class sets `consistency: live`. Another pod gets the content with
/// `volumeAttributes: {snapshot: NAME}`.
///
/// VOLUME can be left out if the pod has one volume of the driver: a single word after the pod is the NAME. A snapshot that is refused, or fails before the capture, is deleted again.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "kubectl ovl snapshot [OPTIONS] <POD>[/VOLUME] [VOLUME] [NAME]"
)]
pub(super) struct SnapshotArgs {
    /// The pod, or POD/VOLUME
    #[arg(value_name = "POD")]
    target: PodVolume,
    /// The volume's name in the pod [default: the only volume of the driver]
    volume: Option<String>,
    /// The name of the snapshot [default: POD-VOLUME-XXXXXXXX with 8 random digits]
    name: Option<String>,
    /// Make the name of this text and 8 random digits
    #[arg(long, value_name = "PREFIX", value_parser = name_prefix)]
    generate_name: Option<String>,
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
    dry_run: DryRunArgs,
    #[command(flatten)]
    timeout_args: TimeoutArgs,
    #[command(flatten)]
    output: NamedOutput,
}

/// The volume and the name of a new snapshot, as far as the command line has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    volume: Option<String>,
    name: Option<String>,
}

pub(super) async fn run(session: &Session, args: &SnapshotArgs) -> Result<(), Failure> {
    let given = args.given()?;
    let pod = session.pod(&args.target.pod).await?;
    if let (None, Some(name)) = (&given.volume, &given.name)
        && pod::volumes(&pod, &session.driver).contains(&name.as_str())
    {
        return Err(Failure::Usage(anyhow!(
            "{name} is a volume of pod {}; add a name for the snapshot, or use --generate-name",
            args.target.pod
        )));
    }
    let volume = session.volume(&pod, given.volume.as_deref())?;
    pod::check_running(&pod)?;
    let name = match (given.name, &args.generate_name) {
        (Some(name), _) => name,
        (None, Some(prefix)) => generated(prefix)?,
        (None, None) => new_name(&args.target.pod, &volume, &random()?),
    };
    let new = manifest(&args.target.pod, &volume, &name, args.class.as_deref())?;
    if args.dry_run.dry_run != DryRun::None {
        return args.show(session, new).await;
    }
    let mut snapshot = session.take(new).await?;
    if !args.no_wait {
        let limit = args.timeout_args.timeout;
        snapshot = session.until_ready(&snapshot, OnFailure::Delete, limit).await?;
    }
    match args.output.output {
        NamedFormat::Json => print::json(&snapshot)?,
        NamedFormat::Yaml => print::yaml(&snapshot)?,
        NamedFormat::Name => print::out(&(snapshot.resource() + "\n"))?,
        NamedFormat::Text => print::out(&summary(&snapshot))?,
    }
    Ok(())
}

impl SnapshotArgs {
    /// Prints the VolumeSnapshot that would be created.
    async fn show(&self, session: &Session, mut new: VolumeSnapshot) -> Result<(), Failure> {
        new.metadata.namespace = Some(session.namespace.clone());
        let dry_run = self.dry_run.dry_run;
        if dry_run == DryRun::Server {
            new = session.create(&session.client.dry_run(), &new).await?;
        }
        let name = resource(new.metadata.name.as_deref().unwrap_or_default());
        match self.output.output {
            NamedFormat::Json => print::json(&new)?,
            NamedFormat::Yaml => print::yaml(&new)?,
            NamedFormat::Name => print::out(&(name + "\n"))?,
            NamedFormat::Text => print::out(&format!("{name} created{}\n", dry_run.suffix()))?,
        }
        Ok(())
    }

    /// What the words after the pod mean. A single word is the name, unless the name is generated.
    pub(super) fn given(&self) -> Result<Given, Failure> {
        let words: Vec<_> = [&self.volume, &self.name].into_iter().flatten().collect();
        let volume = self.target.volume.clone();
        let (volume, name) = match (volume, &words[..], self.generate_name.is_some()) {
            (volume, [], _) => (volume, None),
            (volume, [name], false) => (volume, Some(*name)),
            (None, [volume], true) => (Some(value("[VOLUME]", volume, volume_name)?), None),
            (None, [volume, name], false) => {
                (Some(value("[VOLUME]", volume, volume_name)?), Some(*name))
            }
            (_, _, true) => {
                return Err(Failure::Usage(anyhow!(
                    "--generate-name makes the name of the snapshot: give no other name"
                )));
            }
            _ => {
                return Err(Failure::Usage(anyhow!(
                    "the volume is given twice: write POD/VOLUME NAME, or POD VOLUME NAME"
                )));
            }
        };
        let name = name.map(|name| value("[NAME]", name, object_name)).transpose()?;
        Ok(Given { volume, name })
    }
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

/// The VolumeSnapshot of a pod's volume.
pub(super) fn manifest(
    pod: &str,
    volume: &str,
    name: &str,
    class: Option<&str>,
) -> anyhow::Result<VolumeSnapshot> {
    let source = VolumeSnapshotSource {
        volume_snapshot_content_name: Some(format!("ovl-{}", random()?)),
        ..VolumeSnapshotSource::default()
    };
    let class = class.map(str::to_owned);
    let spec = VolumeSnapshotSpec { source, volume_snapshot_class_name: class };
    let mut object = VolumeSnapshot::new(name, spec);
    let annotation = (SOURCE.to_owned(), format!("{pod}/{volume}"));
    object.metadata.annotations = Some(BTreeMap::from([annotation]));
    Ok(object)
}

impl Session {
    /// Reads a pod.
    pub(super) async fn pod(&self, name: &str) -> Result<serde_json::Value, Failure> {
        let found = self.client.json(JsonKind::Pod, Some(&self.namespace), name).await?;
        let absent = || anyhow!("there is no pod {name} in namespace {}", self.namespace);
        Ok(found.ok_or_else(absent)?)
    }

    /// The volume of a pod that this name selects, or the only one of the driver.
    pub(super) fn volume(
        &self,
        pod: &serde_json::Value,
        name: Option<&str>,
    ) -> Result<String, Failure> {
        match name {
            Some(name) => {
                pod::check(pod, name, &self.driver)?;
                Ok(name.to_owned())
            }
            None => pod::only_volume(pod, &self.driver).map_err(Failure::Usage),
        }
    }

    /// Creates a VolumeSnapshot.
    pub(super) async fn take(&self, mut object: VolumeSnapshot) -> Result<Snapshot, Failure> {
        object.metadata.namespace = Some(self.namespace.clone());
        let created = self.create(&self.client, &object).await?;
        Snapshot::of(&created, &self.driver).ok_or_else(|| {
            let name = object.metadata.name.unwrap_or_default();
            anyhow!("the cluster changed the annotations of VolumeSnapshot {name}").into()
        })
    }

    /// Creates a VolumeSnapshot with a client, which may only try it.
    async fn create(
        &self,
        client: &Client,
        object: &VolumeSnapshot,
    ) -> Result<VolumeSnapshot, Failure> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let namespace = &self.namespace;
        Ok(match client.create(object).await {
            Err(error) if error.class() == Class::Conflict => Err(anyhow!(
                "VolumeSnapshot {name} exists already in namespace {namespace}; use another name, or delete it first"
            ))?,
            Err(error) if error.class() == Class::NotFound => Err(anyhow!(
                "the cluster has no kind VolumeSnapshot (an administrator must install the snapshot CRDs), or there is no namespace {namespace}"
            ))?,
            created => created?,
        })
    }
}

/// A name of a prefix and 8 random digits.
fn generated(prefix: &str) -> Result<String, Failure> {
    let name = format!("{prefix}{}", &random()?[..8]);
    match object_name(&name) {
        Ok(name) => Ok(name),
        Err(_) => Err(Failure::Usage(anyhow!(
            "--generate-name {prefix} is too long: a name has at most {SUBDOMAIN_MAX} characters"
        ))),
    }
}

/// A readable name for a snapshot, with 8 random digits to make it unique.
pub(super) fn new_name(pod: &str, volume: &str, random: &str) -> String {
    let (volume, random) = (&volume[..volume.len().min(63)], &random[..8]);
    let most = SUBDOMAIN_MAX - volume.len() - random.len() - 2;
    let pod = pod[..pod.len().min(most)].trim_end_matches(['.', '-']);
    format!("{pod}-{volume}-{random}")
}

/// 32 random hexadecimal digits.
pub(super) fn random() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| anyhow!("the system returns no random numbers"))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_new_snapshot_is_a_valid_object_name() {
        assert_eq!(new_name("dev-0", "ws", "0123456789"), "dev-0-ws-01234567");
        let long = new_name(&format!("{}.{}", "a".repeat(180), "b".repeat(72)), "ws", "01234567");
        assert!(long.len() <= SUBDOMAIN_MAX && object_name(&long).is_ok(), "{long}");
        let dotted = new_name(&format!("{}.b", "a".repeat(240)), "ws", "01234567");
        assert!(object_name(&dotted).is_ok(), "{dotted}");
        assert!(generated("nightly-").unwrap().starts_with("nightly-"));
        assert!(matches!(generated(&"a".repeat(250)), Err(Failure::Usage(_))));
    }
}
