//! `kubectl ovl fork`: makes copies of a running pod or of a workload, whose volume starts from a snapshot of the
//! source's volume.

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::{
    args::{PodVolume, TimeoutArgs, object_name, value, volume_name},
    failure::Failure,
    fork_node::Obstacle,
    fork_output::ForkFormat,
    pod::{self, Fork, LABEL_MAX, forked_spec},
    print,
    session::Session,
    snapshot::{manifest, new_name, random},
    snapshot_view::Snapshot,
    wait::OnFailure,
    workload::{self, Kind, Workload},
};
use crate::{
    cluster::{JsonKind, Selection, snapshot_api::VolumeSnapshot},
    dns_name::SUBDOMAIN_MAX,
};

/// The last lines of `fork --help`.
const EXAMPLES: &str = "\
Examples:
  # Three copies of pod demo, with the present content of its volume work
  kubectl ovl fork demo work --replicas 3 --apply
  # Of an existing snapshot, on another node
  kubectl ovl fork demo work --snapshot demo-1 --node worker-2 --apply
  # Print the objects to change them first. Nothing is created
  kubectl ovl fork demo work > fork.yaml
  # A copy of a Deployment
  kubectl ovl fork --of deployment/web work --apply
  # Delete the forks of demo, and with them the snapshot that was taken for them
  kubectl delete pods -l ovl.csi.dev/fork-of=demo";

/// Make copies of a running pod. Their volume starts with the current content of the pod's volume.
///
/// Takes a snapshot of the volume first, unless --snapshot names one. The snapshot is deleted with the last fork, unless
/// --keep-snapshot is given. Each fork has the spec of the source, without the fields that the cluster added, and with
/// `snapshot: NAME` instead of the volume's images. `owner` and all other attributes are kept. All forks share the
/// layers of the snapshot, and each has its own writes.
///
/// Without --apply, the pods are printed for `kubectl apply -f -`, with the VolumeSnapshot from which they start. Nothing
/// is created.
///
/// With --of, the fork is another Deployment, StatefulSet or Job. The snapshot is taken of one of the source's pods.
///
/// Forks do not get the labels and annotations of the source, because controllers and Services would take them for
/// their own pods. Each fork has the label `ovl.csi.dev/fork-of=POD`. Forks of a snapshot that is in no registry must
/// run on the node that has it.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "kubectl ovl fork [OPTIONS] <POD>[/VOLUME] [VOLUME]\n       \
                      kubectl ovl fork [OPTIONS] --of <KIND/NAME> [VOLUME]"
)]
pub(super) struct ForkArgs {
    /// The pod, or POD/VOLUME
    #[arg(required_unless_present = "of")]
    pod: Option<String>,
    /// The volume's name in the pod [default: the only volume of the driver]
    volume: Option<String>,
    /// A workload instead of a pod: deployment/NAME, statefulset/NAME or job/NAME
    #[arg(long, value_name = "KIND/NAME")]
    of: Option<Workload>,
    /// The number of forks; with --of, the replicas of the fork
    #[arg(short, long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    replicas: u16,
    /// The names of the forks are PREFIX-1, PREFIX-2 and so on; with --of, PREFIX [default: NAME-fork]
    #[arg(long, value_name = "PREFIX", value_parser = object_name)]
    name_prefix: Option<String>,
    /// The node on which the forks must run
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    node: Option<String>,
    /// An existing snapshot, instead of a new one
    #[arg(long, value_name = "NAME", value_parser = object_name, conflicts_with = "class")]
    snapshot: Option<String>,
    /// Keep the new snapshot when the forks are deleted
    #[arg(long, conflicts_with = "snapshot")]
    keep_snapshot: bool,
    /// The VolumeSnapshotClass of the new snapshot [default: the driver's default class]
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    class: Option<String>,
    /// Create the forks; without it they are printed, for `kubectl apply -f -`
    #[arg(long)]
    apply: bool,
    /// Keep the labels, except those by which controllers select their pods
    #[arg(long)]
    keep_labels: bool,
    /// Keep the annotations
    #[arg(long)]
    keep_annotations: bool,
    #[command(flatten)]
    timeout_args: TimeoutArgs,
    /// The output format. With --apply, `yaml` prints one line for each created object
    #[arg(short, long, default_value = "yaml", value_name = "FORMAT")]
    output: ForkFormat,
}

/// What is forked.
struct Source {
    /// The pod whose volume the new snapshot captures. `None` where an existing snapshot is used, and no pod is needed.
    pod: Option<Value>,
    /// The workload, if it is no pod that is forked.
    workload: Option<(Kind, Value)>,
    volume: String,
}

pub(super) async fn run(session: &Session, args: &ForkArgs) -> Result<(), Failure> {
    let source = args.source(session).await?;
    let names = args.names(&source)?;
    if args.apply {
        session.check_free(source.kind(), &names).await?;
    }
    if let Some(node) = &args.node {
        args.check_node(session, &source, node).await?;
    }
    for claim in pod::claims(source.spec()) {
        print::note(&format!("note: the forks mount the same claim {claim} as {}", source.name()));
    }
    match (&args.snapshot, args.apply) {
        (None, false) => args.print_with_snapshot(&source, &names),
        (snapshot, apply) => {
            let (snapshot, on_failure) = match snapshot {
                Some(name) => (session.snapshot(name).await?, OnFailure::Keep),
                None => (session.take(args.manifest(&source)?).await?, OnFailure::Delete),
            };
            let limit = args.timeout_args.timeout;
            let snapshot = session.until_ready(&snapshot, on_failure, limit).await?;
            let node = args.node(&snapshot)?;
            if let (None, Some(only)) = (&args.node, node) {
                args.check_node(session, &source, only).await?;
            }
            let forks = args.forks(&source, &names, &snapshot.name, node);
            if !apply {
                return args.output.print(forks);
            }
            let made = session.apply(source.kind(), &forks, args.output).await?;
            if on_failure == OnFailure::Delete && !args.keep_snapshot {
                session.delete_with(&snapshot, &made).await;
            }
            Ok(())
        }
    }
}

impl Source {
    /// The metadata of the pod or of the workload.
    fn metadata(&self) -> &Value {
        let object = self.workload.as_ref().map(|(_, workload)| workload).or(self.pod.as_ref());
        object.map_or(&Value::Null, |object| &object["metadata"])
    }

    /// The name of the pod or of the workload.
    fn name(&self) -> &str {
        self.metadata()["name"].as_str().unwrap_or_default()
    }

    fn kind(&self) -> JsonKind {
        self.workload.as_ref().map_or(JsonKind::Pod, |(kind, _)| kind.json())
    }

    /// The spec of the pod, or of the pods of the workload.
    fn spec(&self) -> &Value {
        match (&self.workload, &self.pod) {
            (Some((_, workload)), _) => &workload["spec"]["template"]["spec"],
            (None, Some(pod)) => &pod["spec"],
            (None, None) => &Value::Null,
        }
    }
}

impl ForkArgs {
    /// The name of the pod, and the name of the volume. With --of, the only word is the volume.
    pub(super) fn given(&self) -> Result<(Option<String>, Option<String>), Failure> {
        let usage = |why: &str| Failure::Usage(anyhow!("{why}"));
        let volume = |word: &Option<String>| {
            word.as_ref().map(|word| value("[VOLUME]", word, volume_name)).transpose()
        };
        match (&self.of, &self.pod) {
            (Some(_), _) if self.volume.is_some() => {
                Err(usage("with --of, give only the name of the volume"))
            }
            (Some(_), word) => Ok((None, volume(word)?)),
            (None, Some(word)) => match value("<POD>", word, str::parse)? {
                PodVolume { volume: Some(_), .. } if self.volume.is_some() => {
                    Err(usage("the volume is given twice: write POD/VOLUME, or POD VOLUME"))
                }
                PodVolume { pod, volume: Some(volume) } => Ok((Some(pod), Some(volume))),
                PodVolume { pod, volume: None } => Ok((Some(pod), volume(&self.volume)?)),
            },
            (None, None) => Err(usage("name a pod, or a workload with --of")),
        }
    }

    /// Reads the pod or the workload, and finds the volume.
    async fn source(&self, session: &Session) -> Result<Source, Failure> {
        let new = self.snapshot.is_none();
        let (pod, volume) = self.given()?;
        if let Some(of) = &self.of {
            let (kind, namespace) = (of.kind, &session.namespace);
            let workload = session.client.json(kind.json(), Some(namespace), &of.name).await?;
            let workload = workload.ok_or_else(|| {
                anyhow!("there is no {}/{} in namespace {namespace}", kind.word(), of.name)
            })?;
            // For messages, the pod of a workload has the name of the workload.
            let template = json!({
                "metadata": { "name": of.name },
                "spec": workload["spec"]["template"]["spec"],
            });
            let volume = session.volume(&template, volume.as_deref())?;
            let pod = match new {
                true => Some(session.pod_of(of, &workload).await?),
                false => None,
            };
            return Ok(Source { pod, workload: Some((kind, workload)), volume });
        }
        let pod = session.pod(&pod.unwrap_or_default()).await?;
        let volume = session.volume(&pod, volume.as_deref())?;
        if new {
            pod::check_running(&pod)?;
        }
        Ok(Source { pod: Some(pod), workload: None, volume })
    }

    /// The names of the forks.
    fn names(&self, source: &Source) -> Result<Vec<String>, Failure> {
        let prefix = self.name_prefix.clone().unwrap_or_else(|| format!("{}-fork", source.name()));
        let (names, most) = match &source.workload {
            None => {
                let names = (1..=self.replicas).map(|i| format!("{prefix}-{i}"));
                (names.collect::<Vec<_>>(), SUBDOMAIN_MAX)
            }
            Some((Kind::Job, _)) if self.replicas > 1 => {
                return Err(Failure::Usage(anyhow!("a Job has no replicas: leave out --replicas")));
            }
            // It is also the value of a label.
            Some(_) => (vec![prefix], LABEL_MAX),
        };
        match names.last().filter(|name| name.len() > most) {
            Some(name) => Err(Failure::Usage(anyhow!(
                "{name} is longer than the {most} characters of such a name: use a shorter --name-prefix"
            ))),
            None => Ok(names),
        }
    }

    /// The VolumeSnapshot from which the forks start.
    fn manifest(&self, source: &Source) -> anyhow::Result<VolumeSnapshot> {
        let pod = source.pod.as_ref().map_or(&Value::Null, |pod| &pod["metadata"]["name"]);
        let (pod, volume) = (pod.as_str().unwrap_or_default(), &source.volume);
        manifest(pod, volume, &new_name(pod, volume, &random()?), self.class.as_deref())
    }

    /// The node on which the forks must run.
    fn node<'a>(&'a self, snapshot: &'a Snapshot) -> Result<Option<&'a str>, Failure> {
        let Snapshot { name, .. } = snapshot;
        match (bound(snapshot), self.node.as_deref()) {
            (None, node) => Ok(node),
            (Some(only), Some(node)) if node != only => Err(Failure::Usage(anyhow!(
                "snapshot {name} is only on node {only}, so its forks cannot run on node {node}; set `repository` in the VolumeSnapshotClass"
            ))),
            (Some(only), _) => {
                print::note(&format!(
                    "note: snapshot {name} is only on node {only}, so the forks must run there"
                ));
                Ok(Some(only))
            }
        }
    }

    /// Refuses a node of --node on which the forks would never run. Warns of what they would wait for, and of the only
    /// node that has their snapshot.
    async fn check_node(
        &self,
        session: &Session,
        source: &Source,
        node: &str,
    ) -> Result<(), Failure> {
        let fork = self.fork(source, source.name(), "", Some(node));
        let spec = forked_spec(source.spec(), source.name(), &fork);
        match session.obstacle(node, &spec).await? {
            Some(Obstacle::Never(why)) if self.apply && self.node.is_some() => {
                Err(Failure::Usage(anyhow!(why)))
            }
            Some(obstacle) => {
                print::note(&format!("warning: {}", obstacle.text()));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn fork<'a>(
        &self,
        source: &'a Source,
        name: &'a str,
        snapshot: &'a str,
        node: Option<&'a str>,
    ) -> Fork<'a> {
        Fork {
            name,
            volume: &source.volume,
            snapshot,
            node,
            keep_labels: self.keep_labels,
            keep_annotations: self.keep_annotations,
        }
    }

    fn forks(
        &self,
        source: &Source,
        names: &[String],
        snapshot: &str,
        node: Option<&str>,
    ) -> Vec<Value> {
        let fork = |name: &String| {
            let fork = self.fork(source, name, snapshot, node);
            match (&source.workload, &source.pod) {
                (Some((kind, workload)), _) => {
                    workload::fork(workload, *kind, self.replicas, &fork)
                }
                (None, pod) => pod::fork(pod.as_ref().unwrap_or(&Value::Null), &fork),
            }
        };
        names.iter().map(fork).collect()
    }

    /// Prints the forks and the VolumeSnapshot from which they start, and creates nothing.
    fn print_with_snapshot(&self, source: &Source, names: &[String]) -> Result<(), Failure> {
        let snapshot = self.manifest(source)?;
        let name = snapshot.metadata.name.clone().unwrap_or_default();
        let pod = source.pod.as_ref().map_or(&Value::Null, |pod| &pod["spec"]["nodeName"]);
        let node = pod.as_str().unwrap_or("NODE");
        print::note(&format!(
            "note: nothing is created. The forks wait for VolumeSnapshot {name}, which is taken when you apply it. If its class has no `repository`, add --node {node}"
        ));
        let mut objects =
            vec![serde_json::to_value(&snapshot).context("a VolumeSnapshot is not JSON")?];
        objects[0]["metadata"]["namespace"] = source.metadata()["namespace"].clone();
        objects.extend(self.forks(source, names, &name, self.node.as_deref()));
        self.output.print(objects)
    }
}

impl Session {
    /// A running pod of a workload.
    async fn pod_of(&self, of: &Workload, workload: &Value) -> Result<Value, Failure> {
        let source = format!("{}/{}", of.kind.word(), of.name);
        let labels = workload::selector(workload)
            .ok_or_else(|| anyhow!("{source} does not select its pods by labels alone"))?;
        let selection = Selection { labels: Some(&labels), ..Selection::default() };
        let pods = self.client.json_list(JsonKind::Pod, Some(&self.namespace), selection).await?;
        let running = pods.into_iter().find(|pod| pod["status"]["phase"] == "Running");
        Ok(running.ok_or_else(|| {
            anyhow!("{source} has no running pod; use --snapshot with an existing snapshot")
        })?)
    }
}

/// The node on which the forks of a snapshot must run. `None` for a pushed snapshot.
fn bound(snapshot: &Snapshot) -> Option<&str> {
    snapshot.node.as_deref().filter(|_| snapshot.image.is_none())
}
