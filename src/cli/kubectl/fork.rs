//! `kubectl ovl fork`: pods like one that runs, which begin with what it has written.

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{
    Failure, Here, Patience,
    known::Snapshot,
    object_name,
    pod::{self, Fork},
    print,
    take::random,
};

/// Bytes of an object's name.
const NAME_MAX: usize = 253;

/// Make pods like one that runs, whose volume begins with what it has in that one now.
///
/// Snapshots the volume first, unless a snapshot is given. Then each fork is the source pod as its author wrote it, with
/// `snapshot: NAME` in the place of the volume's images; `owner` and every other attribute stays. All forks share the snapshot's
/// layers and differ only in what they write.
///
/// Labels and annotations of the source are left out, so that no controller and no Service takes a fork for a pod of its own;
/// each fork has the label `ovl.csi.dev/fork-of=POD`. A snapshot that is in no registry binds its forks to the node that has it.
#[derive(Debug, Args)]
pub(super) struct ForkArgs {
    /// The pod
    #[arg(value_parser = object_name)]
    pod: String,
    /// The volume's name in the pod
    #[arg(value_parser = object_name)]
    volume: String,
    /// How many forks
    #[arg(short, long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    replicas: u16,
    /// Forks are called PREFIX-1, PREFIX-2 and so on; else POD-fork-1 ...
    #[arg(long, value_name = "PREFIX", value_parser = object_name)]
    name_prefix: Option<String>,
    /// A snapshot that is there, instead of a new one
    #[arg(long, value_name = "NAME", value_parser = object_name, conflicts_with = "class")]
    snapshot: Option<String>,
    /// The VolumeSnapshotClass of the new snapshot; else the driver's default
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    class: Option<String>,
    /// Make the pods; without it they are printed, for `kubectl apply -f -`
    #[arg(long)]
    apply: bool,
    /// Keep the pod's labels, but for those by which controllers know their pods
    #[arg(long)]
    keep_labels: bool,
    /// Keep the pod's annotations
    #[arg(long)]
    keep_annotations: bool,
    #[command(flatten)]
    patience: Patience,
    /// How the pods are printed; with --apply, yaml is one line for each
    #[arg(short, long, default_value = "yaml", value_name = "HOW")]
    output: Printed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Printed {
    /// A document for each
    Yaml,
    /// One list
    Json,
}

pub(super) async fn run(here: &Here, args: &ForkArgs) -> Result<(), Failure> {
    let pod = here.checked_pod(&args.pod, &args.volume).await?;
    let names = args.names()?;
    if args.apply {
        here.free(&names).await?;
    }
    for claim in pod::claims(&pod) {
        print::note(&format!("note: the forks mount the same claim {claim} as pod {}", args.pod));
    }
    let snapshot = match &args.snapshot {
        Some(name) => here.snapshot(name).await?,
        None => {
            let name = snapshot_name(&args.pod, &args.volume, &random()?);
            here.take(&args.pod, &args.volume, &name, args.class.as_deref()).await?
        }
    };
    let snapshot = here.until_ready(&snapshot, args.patience.timeout).await?;
    let node = bound(&snapshot);
    if let Some(node) = node {
        print::note(&format!(
            "note: snapshot {} is in no registry, so the forks run on node {node}",
            snapshot.name
        ));
    }
    let forks: Vec<_> = names.iter().map(|name| args.fork(&pod, name, &snapshot, node)).collect();
    match (args.apply, args.output) {
        (false, Printed::Yaml) => print::out(&yaml(&forks)?)?,
        (false, Printed::Json) => print::json(&listed(forks))?,
        (true, output) => here.apply(&forks, output).await?,
    }
    Ok(())
}

impl ForkArgs {
    /// The forks' names.
    fn names(&self) -> Result<Vec<String>, Failure> {
        let prefix = self.name_prefix.clone().unwrap_or_else(|| format!("{}-fork", self.pod));
        let names: Vec<_> = (1..=self.replicas).map(|i| format!("{prefix}-{i}")).collect();
        match names.last().is_some_and(|name| name.len() > NAME_MAX) {
            true => Err(Failure::Usage(anyhow!(
                "{prefix}-{} is longer than the {NAME_MAX} characters of a pod's name: use a shorter --name-prefix",
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

impl Here {
    /// Finds out, before anything is begun, whether the names can be had.
    async fn free(&self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            if self.client.whole_pod(&self.namespace, name).await?.is_some() {
                return Err(anyhow!(
                    "there is a pod {name} in namespace {} already: take another --name-prefix, or delete it first",
                    self.namespace
                )
                .into());
            }
        }
        Ok(())
    }

    async fn apply(&self, forks: &[Value], output: Printed) -> Result<(), Failure> {
        let mut made = Vec::new();
        for fork in forks {
            let name = fork["metadata"]["name"].as_str().unwrap_or_default();
            let pod = self.client.create_pod(&self.namespace, fork).await;
            let pod = pod.with_context(|| {
                format!("pod {name} was not made, after {} of {}", made.len(), forks.len())
            })?;
            if output == Printed::Yaml {
                print::out(&format!("pod/{name} created\n"))?;
            }
            made.push(pod);
        }
        if output == Printed::Json {
            print::json(&listed(made))?;
        }
        Ok(())
    }
}

/// The node that a snapshot's forks have to run on.
fn bound(snapshot: &Snapshot) -> Option<&str> {
    snapshot.node.as_deref().filter(|_| snapshot.image.is_none())
}

/// As unique as it can be read.
fn snapshot_name(pod: &str, volume: &str, random: &str) -> String {
    let (volume, random) = (&volume[..volume.len().min(63)], &random[..8]);
    let most = NAME_MAX - volume.len() - random.len() - 2;
    let pod = pod[..pod.len().min(most)].trim_end_matches(['.', '-']);
    format!("{pod}-{volume}-{random}")
}

fn listed(pods: Vec<Value>) -> Value {
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
    fn a_snapshots_name_is_a_name() {
        assert_eq!(snapshot_name("dev-0", "ws", "0123456789"), "dev-0-ws-01234567");
        let long =
            snapshot_name(&format!("{}.{}", "a".repeat(180), "b".repeat(72)), "ws", "01234567");
        assert!(long.len() <= NAME_MAX && object_name(&long).is_ok(), "{long}");
        let dotted = snapshot_name(&format!("{}.b", "a".repeat(240)), "ws", "01234567");
        assert!(object_name(&dotted).is_ok(), "{dotted}");
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
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
