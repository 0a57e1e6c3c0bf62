//! `ovl node`: the engine of one node behind its CSI socket.

pub(super) mod args;
mod networks;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::{
    agent::{self, Agent, Local, LocalLookup, LocalParts, SnapshotsByName},
    budget::Budget,
    cluster::{Client, Events},
    csi::{self, LocalSocket},
    image::{Network, Registries, Repository},
    layers::{Claim, DiskLimits, Form, Store},
    metrics::Metrics,
    overlay::{Feature, Features, root_usable},
    snapshots::{self, Snapshots},
    sys::{freezer::Freezer, limits, memory, mounts::LinuxMounts},
    telemetry::{Traces, TracesError},
    volumes::{
        GRACE, NoNotices, NoSnapshots, Notices, OpenError, Parts, Settings, SnapshotLookup, Volumes,
    },
};
pub(super) use args::NodeArgs;

/// How long work that blocks may take after the last answer; what is not done then is left as by a crash.
const LAST_WORK: Duration = Duration::from_secs(5);
/// How long Events that were told last may take to be written.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Everything that was read from the arguments and can be used.
struct Node {
    config: csi::Config,
    registries: Registries,
    /// Where no registry is contacted, beside the cluster's own networks.
    refused: Vec<Network>,
    settings: Settings,
    root: PathBuf,
    /// Checks of the root that are not to be believed.
    overridden: Vec<String>,
    /// `None` for what the kernel takes.
    form: Option<Form>,
    disk: DiskLimits,
    cluster: bool,
    /// The namespace of push Secrets, where there are snapshots.
    secrets_in: Option<String>,
    /// Where snapshots are asked for without a cluster.
    local: Option<csi::Endpoint>,
    /// Where they are pushed then.
    repository: Option<Repository>,
}

impl NodeArgs {
    /// Sends traces where the arguments say so.
    pub(super) fn traces(&self) -> Result<Option<Traces>, TracesError> {
        let node = self.node_name.to_string();
        self.otlp_endpoint.as_ref().map(|to| Traces::to(to, Some(&node))).transpose()
    }
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(args: &NodeArgs) -> Result<(), Failure> {
    let node = node(args).map_err(Failure::Unusable)?;
    // Before there are threads that take some.
    if let Err(error) = limits::refuse_huge_pages() {
        tracing::warn!(%error, "cannot do without huge pages; many calls at once take more memory");
    }
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let mut engine = None;
    let served = runtime.block_on(serve(node, &mut engine));
    runtime.shutdown_timeout(LAST_WORK);
    // A cut that did not end in that time may have stopped its pod.
    if let Some(Err(error)) = engine.as_ref().map(Snapshots::give_up) {
        tracing::error!(%error, "pods may stand still: they are told to go on at the next start");
    }
    Ok(served?)
}

fn node(args: &NodeArgs) -> anyhow::Result<Node> {
    args.usable()?;
    let config = args.config()?;
    let local = (args.no_cluster && args.snapshots)
        .then(|| args.local_endpoint(&config.endpoint))
        .transpose()?;
    Ok(Node {
        config,
        local,
        repository: args.snapshot_repository.clone(),
        registries: args.registries()?,
        refused: args.refused_networks.clone(),
        settings: args.settings()?,
        root: args.root(),
        overridden: args.overridden.clone(),
        form: args.form(),
        disk: args.disk()?,
        cluster: !args.no_cluster,
        secrets_in: args.snapshots.then(|| args.namespace.clone()),
    })
}

/// Tells what pods may be stopped by, for whoever ends this process.
async fn serve(node: Node, stopper: &mut Option<Snapshots>) -> anyhow::Result<()> {
    // Before anything that takes long, so that no signal is lost.
    let shutdown = on_signal()?;
    let Node { config, registries, settings, root, overridden, form, disk, cluster, .. } = node;
    let Node { secrets_in, local, repository, refused, .. } = node;
    tracing::info!(version = config.version, driver = %config.driver, root = %root.display(), cluster, "starting");

    if let Err(error) = limits::raise_open_files() {
        tracing::warn!(%error, "cannot have more open files; each layer in use needs one");
    }
    let claim = Claim::on(&root)?;
    // First of all: pods may stand still that an earlier process was about to cut.
    snapshots::thaw_left(&claim).context("cannot look for pods that stand still")?;
    let features = features(&root, &overridden)?;
    let mounts = features.mounts(&root.join("lowers"))?;
    let form = form.unwrap_or(match features.has(Feature::Erofs) {
        true => Form::Erofs,
        false => Form::Dir,
    });
    tracing::info!(way = ?features.way(), ?form, "this kernel was tried");
    let memory = memory::limit();
    tracing::info!(bytes = memory, "this process's limit of memory");
    let budget = Arc::new(Budget::of_limit(memory));
    let store = Store::open_claimed(claim, mounts.clone())?;
    let store = Arc::new(store.keeping(form).leaving(disk).within(budget.clone()));
    let metrics = Metrics::default();
    let cluster = match cluster {
        true => Some(Cluster::of(&config).await?),
        false => None,
    };
    let (notices, mut lookup) = told(cluster.as_ref(), secrets_in.is_some());
    let events = cluster.as_ref().map(|cluster| cluster.events.clone());
    let (registries, keyring) = (Arc::new(registries.within(budget)), settings.keyring.clone());
    let known = cluster.as_ref().map(|Cluster { client, .. }| {
        keep_refusing(client.clone(), registries.clone(), refused, shutdown.clone())
    });
    if local.is_some() {
        lookup = Arc::new(LocalLookup {
            store: store.clone(),
            registries: registries.clone(),
            keyring: keyring.clone(),
            node: config.node.to_string(),
            repository: repository.clone(),
        });
    }
    let parts = Parts {
        store: store.clone(),
        registries: registries.clone(),
        mounts,
        features,
        snapshots: lookup,
        notices: notices.clone(),
        metrics: metrics.clone(),
    };
    let volumes = Volumes::open(parts, settings)?;
    let engine = Snapshots::open(snapshots::Parts {
        store: store.clone(),
        volumes: volumes.clone(),
        registries,
        freezer: if local.is_some() { Freezer::of_machine() } else { Freezer::of_node() },
        metrics: metrics.clone(),
    })
    .context("cannot look for pods that stand still")?;
    *stopper = Some(engine.clone());
    volumes.recover(GRACE)?;
    if let Some(known) = known {
        // Before anything asks a registry for a pod.
        let wait = networks::wait(&known, networks::Pace::default());
        shutdown.run_until_cancelled(wait).await;
    }
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(tidy_forever(volumes.clone())));
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(empty_staging_forever(store.clone())));
    if let (Some(cluster), Some(namespace)) = (cluster, secrets_in) {
        let Cluster { client, node, driver, .. } = cluster;
        let parts = agent::Parts {
            client,
            node,
            driver,
            namespace,
            keyring: keyring.clone(),
            snapshots: engine.clone(),
            store: store.clone(),
            notices,
        };
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(Agent::new(parts).run()));
    }
    let asked = LocalParts { snapshots: engine.clone(), store, keyring, repository };
    let asked = alone(local, Local::new(asked), metrics.clone(), shutdown.clone()).await?;
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        engine.close();
    });
    let served = csi::serve(config, volumes, metrics, shutdown.clone()).await;
    shutdown.cancel();
    let asked = asked.await.context("the socket of `ovl snapshot`")?;
    if let Some(events) = events {
        let _ = timeout(LAST_WORDS, events.flush()).await;
    }
    served.and(asked)?;
    tracing::info!("stopped; volumes stay mounted");
    Ok(())
}

/// Serves `ovl snapshot`, where a node has no cluster, until `shutdown`. What breaks there ends the process: who asks there has no
/// other way.
async fn alone(
    endpoint: Option<csi::Endpoint>,
    local: Local,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> anyhow::Result<JoinHandle<Result<(), csi::ServeError>>> {
    let socket = match endpoint {
        Some(endpoint) => Some(LocalSocket::open(endpoint).await?),
        None => None,
    };
    Ok(tokio::spawn(async move {
        let Some(socket) = socket else { return Ok(()) };
        let served = socket.serve(local, metrics, shutdown.clone()).await;
        shutdown.cancel();
        served
    }))
}

/// Has `registries` refuse the cluster's own networks beside `given`. Returns what is cancelled when they are known.
fn keep_refusing(
    client: Client,
    registries: Arc<Registries>,
    given: Vec<Network>,
    shutdown: CancellationToken,
) -> CancellationToken {
    let known = CancellationToken::new();
    let read = move || {
        let client = client.clone();
        async move { client.own_networks().await }
    };
    let refuse = move |networks| registries.refuse(networks);
    let keep = networks::keep(read, given, refuse, known.clone(), networks::Pace::default());
    tokio::spawn(shutdown.run_until_cancelled_owned(keep));
    known
}

/// The cluster that this node is of, and what it is called there.
struct Cluster {
    client: Client,
    node: String,
    driver: String,
    events: Events,
}

impl Cluster {
    async fn of(config: &csi::Config) -> anyhow::Result<Self> {
        let client = Client::in_cluster().await.context(
            "cannot tell pods anything (their Events); use --no-cluster outside a cluster",
        )?;
        let (node, driver) = (config.node.to_string(), config.driver.to_string());
        let events = Events::start(client.clone(), &node, &driver);
        Ok(Self { client, node, driver, events })
    }
}

/// Whom volumes tell, and ask for snapshots.
fn told(cluster: Option<&Cluster>, snapshots: bool) -> (Arc<dyn Notices>, Arc<dyn SnapshotLookup>) {
    let Some(Cluster { client, node, driver, events }) = cluster else {
        return (Arc::new(NoNotices), Arc::new(NoSnapshots));
    };
    let lookup: Arc<dyn SnapshotLookup> = match snapshots {
        true => Arc::new(SnapshotsByName::new(client.clone(), driver, node)),
        false => Arc::new(NoSnapshots),
    };
    (Arc::new(events.clone()), lookup)
}

/// What this kernel can do with the store at `root`; an error where that is not enough.
fn features(root: &Path, overridden: &[String]) -> anyhow::Result<Features> {
    let features = Features::probe(&LinuxMounts, &root.join("staging"))
        .with_context(|| format!("cannot try this kernel in {}", root.display()))?;
    let unusable = root_usable(root, &features, overridden)?;
    if let Some(first) = unusable.first() {
        bail!(
            "{} cannot hold a store: {}: {}; {} (`ovl check --root` says all)",
            root.display(),
            first.name,
            first.why,
            first.cure
        );
    }
    Ok(features)
}

/// Removes the volumes of pods that went without a word, and layers that nobody needs: at once, beside the first calls, and then
/// again and again.
async fn tidy_forever(volumes: Volumes) {
    loop {
        let volumes = volumes.clone();
        let tidy = move || {
            volumes.recover(GRACE)?;
            // What stands in its way it has told itself.
            let _ = volumes.collect();
            Ok::<_, OpenError>(())
        };
        match spawn_blocking(tidy).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot look for volumes without a pod"),
            Err(error) => tracing::error!(%error, "looking for volumes without a pod broke"),
        }
        sleep(GRACE).await;
    }
}

/// Removes what an earlier process left half made, beside the first calls, and what could not be removed, again and again.
async fn empty_staging_forever(store: Arc<Store>) {
    loop {
        let store = store.clone();
        match spawn_blocking(move || store.empty_staging()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot look for what is left in staging"),
            Err(error) => tracing::error!(%error, "emptying staging broke"),
        }
        sleep(GRACE).await;
    }
}

/// Cancelled by the first SIGTERM (Kubernetes) or SIGINT (a person).
pub(super) fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "stopping");
        told.cancel();
    });
    Ok(token)
}
