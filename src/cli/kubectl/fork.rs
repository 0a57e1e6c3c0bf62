//! `kubectl ovl fork`: makes copies of a running pod whose volume starts from a snapshot of the pod's volume.

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{
    args::{TimeoutArgs, object_name},
    failure::Failure,
    pod::{self, Fork},
    print,
    session::Session,
    snapshot::random,
    snapshot_view::Snapshot,
};
use crate::dns_name::SUBDOMAIN_MAX;

/// Make copies of a running pod. Their volume starts with the current content of the pod's volume.
///
/// Takes a snapshot of the volume first, unless --snapshot names one. Each fork has the spec of the source pod, without
/// the fields that the cluster added, and with `snapshot: NAME` instead of the volume's images. `owner` and all other
/// attributes are kept. All forks share the layers of the snapshot, and each has its own writes.
///
/// Forks do not get the labels and annotations of the source pod, because controllers and Services would take them for
/// their own pods. Each fork has the label `ovl.csi.dev/fork-of=POD`. Forks of a snapshot that is in no registry must
/// run on the node that has it.
#[derive(Debug, Args)]
pub(super) struct ForkArgs {
    /// The name of the pod
    #[arg(value_parser = object_name)]
    pod: String,
    /// The volume's name in the pod
    #[arg(value_parser = object_name)]
    volume: String,
    /// The number of forks
    #[arg(short, long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    replicas: u16,
    /// The names of the forks are PREFIX-1, PREFIX-2 and so on [default: POD-fork]
    #[arg(long, value_name = "PREFIX", value_parser = object_name)]
    name_prefix: Option<String>,
    /// An existing snapshot, instead of a new one
    #[arg(long, value_name = "NAME", value_parser = object_name, conflicts_with = "class")]
    snapshot: Option<String>,
    /// The VolumeSnapshotClass of the new snapshot [default: the driver's default class]
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    class: Option<String>,
    /// Create the pods; without it they are printed, for `kubectl apply -f -`
    #[arg(long)]
    apply: bool,
    /// Keep the pod's labels, except those by which controllers select their pods
    #[arg(long)]
    keep_labels: bool,
    /// Keep the pod's annotations
    #[arg(long)]
    keep_annotations: bool,
    #[command(flatten)]
    timeout_args: TimeoutArgs,
    /// The output format. With --apply, `yaml` prints one line for each created pod
    #[arg(short, long, default_value = "yaml", value_name = "FORMAT")]
    output: PodFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PodFormat {
    /// One YAML document per pod
    Yaml,
    /// One JSON list
    Json,
}

pub(super) async fn run(session: &Session, args: &ForkArgs) -> Result<(), Failure> {
    let pod = session.checked_pod(&args.pod, &args.volume).await?;
    let names = args.names()?;
    if args.apply {
        session.check_free(&names).await?;
    }
    for claim in pod::claims(&pod) {
        print::note(&format!("note: the forks mount the same claim {claim} as pod {}", args.pod));
    }
    let snapshot = match &args.snapshot {
        Some(name) => session.snapshot(name).await?,
        None => {
            let name = snapshot_name(&args.pod, &args.volume, &random()?);
            session.take(&args.pod, &args.volume, &name, args.class.as_deref()).await?
        }
    };
    let snapshot = session.until_ready(&snapshot, args.timeout_args.timeout).await?;
    let node = bound(&snapshot);
    if let Some(node) = node {
        print::note(&format!(
            "note: snapshot {} is only on node {node}, so the forks must run there",
            snapshot.name
        ));
    }
    let forks: Vec<_> = names.iter().map(|name| args.fork(&pod, name, &snapshot, node)).collect();
    match (args.apply, args.output) {
        (false, PodFormat::Yaml) => print::out(&yaml(&forks)?)?,
        (false, PodFormat::Json) => print::json(&pod_list(forks))?,
        (true, output) => session.apply(&forks, output).await?,
    }
    Ok(())
}

impl ForkArgs {
    /// The names of the forks.
    fn names(&self) -> Result<Vec<String>, Failure> {
        let prefix = self.name_prefix.clone().unwrap_or_else(|| format!("{}-fork", self.pod));
        let names: Vec<_> = (1..=self.replicas).map(|i| format!("{prefix}-{i}")).collect();
        match names.last().is_some_and(|name| name.len() > SUBDOMAIN_MAX) {
            true => Err(Failure::Usage(anyhow!(
                "{prefix}-{} is longer than the {SUBDOMAIN_MAX} characters of a pod's name: use a shorter --name-prefix",
                self.replicas
            ))),
            false => Ok(names),
        }
    }

    fn fork(&self, pod: &Value, name: &str, snapshot: &Snapshot, node: Option<&str>) -> Value {
        let fork = Fork {
            name,
            volume: &self.volume,
            snapshot: &snapshot.name,
            node,
            keep_labels: self.keep_labels,
            keep_annotations: self.keep_annotations,
        };
        pod::fork(pod, &fork)
    }
}

impl Session {
    /// Checks that no pod has one of the names, before a snapshot is taken.
    async fn check_free(&self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            if self.client.pod_json(&self.namespace, name).await?.is_some() {
                return Err(anyhow!(
                    "pod {name} exists already in namespace {}; use another --name-prefix, or delete the pod first",
                    self.namespace
                )
                .into());
            }
        }
        Ok(())
    }

    async fn apply(&self, forks: &[Value], output: PodFormat) -> Result<(), Failure> {
        let mut made = Vec::new();
        for fork in forks {
            let name = fork["metadata"]["name"].as_str().unwrap_or_default();
            let pod = self.client.create_pod(&self.namespace, fork).await;
            let pod = pod.with_context(|| {
                let total = forks.len();
                format!("cannot create pod {name}; {} of {total} were created", made.len())
            })?;
            if output == PodFormat::Yaml {
                print::out(&format!("pod/{name} created\n"))?;
            }
            made.push(pod);
        }
        if output == PodFormat::Json {
            print::json(&pod_list(made))?;
        }
        Ok(())
    }
}

/// The node on which the forks of a snapshot must run. `None` for a pushed snapshot.
fn bound(snapshot: &Snapshot) -> Option<&str> {
    snapshot.node.as_deref().filter(|_| snapshot.image.is_none())
}

/// A readable name for a snapshot, with 8 random digits to make it unique.
fn snapshot_name(pod: &str, volume: &str, random: &str) -> String {
    let (volume, random) = (&volume[..volume.len().min(63)], &random[..8]);
    let most = SUBDOMAIN_MAX - volume.len() - random.len() - 2;
    let pod = pod[..pod.len().min(most)].trim_end_matches(['.', '-']);
    format!("{pod}-{volume}-{random}")
}

fn pod_list(pods: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": pods })
}

fn yaml(pods: &[Value]) -> anyhow::Result<String> {
    let documents = pods.iter().map(|pod| {
        let text = serde_saphyr::to_string(pod).context("a fork cannot be written as YAML")?;
        Ok(format!("---\n{text}"))
    });
    documents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_new_snapshot_is_a_valid_object_name() {
        assert_eq!(snapshot_name("dev-0", "ws", "0123456789"), "dev-0-ws-01234567");
        let long =
            snapshot_name(&format!("{}.{}", "a".repeat(180), "b".repeat(72)), "ws", "01234567");
        assert!(long.len() <= SUBDOMAIN_MAX && object_name(&long).is_ok(), "{long}");
        let dotted = snapshot_name(&format!("{}.b", "a".repeat(240)), "ws", "01234567");
        assert!(object_name(&dotted).is_ok(), "{dotted}");
    }

    #[test]
    fn printed_yaml_reads_back_as_the_same_pods() {
        let odd = [
            "true",
            "1",
            "1e3",
            "null",
            "~",
            "",
            "a: b",
            "- a",
            "#c",
            "0x1f",
            "on",
            "a\nb\n",
            " x",
            "'",
            "\"",
            "2026-01-02",
        ];
        let pods: Vec<_> = odd.iter().map(|text| json!({ "metadata": { "name": text }, *text: [text, { "k": text }], "n": [1, true, null, []], "m": {} })).collect();
        let text = yaml(&pods).unwrap();
        let read: Vec<Value> = text
            .split_inclusive("---\n")
            .map(|document| document.trim_end_matches("---\n"))
            .filter(|document| !document.is_empty())
            .map(|document| serde_saphyr::from_str(document).unwrap())
            .collect();
        assert_eq!(read, pods);
    }
}
