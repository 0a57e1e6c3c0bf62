//! `ovl node`: wires the modules of one node and serves its CSI socket.

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

use super::failure::Failure;
use crate::{
    agent::{self, Agent, LocalAgent, LocalLookup, LocalParts, SnapshotsByName},
    budget::Budget,
    cluster::{Client, Events},
    csi::{self, LocalSocket},
    image::{Network, Registries},
    layers::{DiskLimits, LayerStorage, Store, StoreLock, StoreSettings},
    metrics::Metrics,
    overlay::{Feature, KernelFeatures, root_usable},
    reference::Repository,
    snapshots::{self, Snapshots},
    sys::{freezer::Freezer, limits, memory, mounts::LinuxMounts},
    telemetry::{Traces, TracesError},
    volumes::{
        EventRecorder, NoEvents, NoSnapshots, ORPHAN_GRACE, OpenError, Parts, Settings,
        SnapshotLookup, Volumes,
    },
    workspaces::remember_features,
};
pub(super) use args::NodeArgs;

/// How long blocking work can take after the last response. Work that is not done then is lost as in a crash.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two rounds of garbage collection and recovery, and between two rounds that empty staging.
const ROUND_INTERVAL: Duration = Duration::from_secs(60);
/// How long the process waits at its end until its last Events are written.
pub(super) const EVENT_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The checked arguments.
struct CheckedArgs {
    config: csi::Config,
    registries: Registries,
    /// Networks in which no registry is contacted, in addition to the cluster's own networks.
    refused: Vec<Network>,
    settings: Settings,
    root: PathBuf,
    /// The checks of the root whose failure is ignored.
    ignored: Vec<String>,
    /// The storage of new layers. `None`: EROFS where the kernel has it.
    storage: Option<LayerStorage>,
    disk: DiskLimits,
    cluster: bool,
    /// Whether the node emits Events on pods.
    events: bool,
    /// The namespace of the push Secrets. `None` where snapshots are off.
    secrets_in: Option<String>,
    /// The socket of `ovl node-snapshot`. `None` with a cluster or where snapshots are off.
    local: Option<csi::Endpoint>,
    /// The repository for snapshots of a node without a cluster.
    repository: Option<Repository>,
}

impl NodeArgs {
    /// The exporter of traces, if the arguments name a collector.
    pub(super) fn traces(&self) -> Result<Option<Traces>, TracesError> {
        let node = self.node_name.to_string();
        self.otlp_endpoint.as_ref().map(|to| Traces::to(to, Some(&node))).transpose()
    }
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(args: &NodeArgs) -> Result<(), Failure> {
    let node = node(args).map_err(Failure::Unusable)?;
    // Before the runtime starts threads, whose stacks could use huge pages.
    if let Err(error) = limits::refuse_huge_pages() {
        tracing::warn!(%error, "cannot turn huge pages off; many calls at once take more memory");
    }
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let mut engine = None;
    let served = runtime.block_on(serve(node, &mut engine));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    // A capture that did not end in that time may have left its pod frozen.
    if let Some(Err(error)) = engine.as_ref().map(Snapshots::abort) {
        tracing::error!(%error, "pods may be frozen still; the next start thaws them");
    }
    Ok(served?)
}

fn node(args: &NodeArgs) -> anyhow::Result<CheckedArgs> {
    args.usable()?;
    let config = args.config()?;
    let local = (args.no_cluster && args.snapshots)
        .then(|| args.local_endpoint(&config.endpoint))
        .transpose()?;
    Ok(CheckedArgs {
        config,
        local,
        repository: args.snapshot_repository.clone(),
        registries: args.registries()?,
        refused: args.refused_networks.clone(),
        settings: args.settings()?,
        root: args.root(),
        ignored: args.ignored_checks.clone(),
        storage: args.storage(),
        disk: args.disk()?,
        cluster: !args.no_cluster,
        events: args.events,
        secrets_in: args.snapshots.then(|| args.namespace.clone()),
    })
}

/// Serves the node. Puts the snapshots into `engine`, because the caller must thaw pods at the end of the process.
async fn serve(node: CheckedArgs, engine: &mut Option<Snapshots>) -> anyhow::Result<()> {
    // Before everything that takes long, so no signal is lost.
    let shutdown = on_signal()?;
    let CheckedArgs { config, registries, settings, root, ignored, storage, disk, cluster, .. } =
        node;
    let CheckedArgs { secrets_in, local, repository, refused, events, .. } = node;
    tracing::info!(version = config.version, driver = %config.driver, root = %root.display(), cluster, "starting");

    if let Err(error) = limits::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files; each layer in use needs one");
    }
    let lock = StoreLock::exclusive(&root)?;
    // First, because a capture of an earlier process may have left pods frozen.
    snapshots::thaw_frozen(&lock).context("cannot look for frozen pods")?;
    let features = features(&lock.staging(), &root, &ignored)?;
    let mounts = features.mounts(&lock.lowers())?;
    let storage = storage.unwrap_or(match features.has(Feature::Erofs) {
        true => LayerStorage::Erofs,
        false => LayerStorage::Dir,
    });
    tracing::info!(mount_api = ?features.mount_api(), ?storage, "the kernel's features were probed");
    let memory = memory::limit();
    tracing::info!(bytes = memory, "the memory limit of this process");
    let budget = Arc::new(Budget::of_limit(memory));
    let settings_of_store = StoreSettings { storage, limits: disk, budget: budget.clone() };
    let store = Arc::new(Store::open_locked(lock, mounts.clone(), settings_of_store)?);
    let metrics = Metrics::of_node();
    let cluster = match cluster {
        true => Some(Cluster::of(&config, events).await?),
        false => None,
    };
    let (recorder, mut lookup) = recorder_and_lookup(cluster.as_ref(), secrets_in.is_some());
    let events = cluster.as_ref().and_then(|cluster| cluster.events.clone());
    let (registries, keyring) =
        (Arc::new(registries.with_budget(budget)), settings.keyring.clone());
    networks::refuse_own_addresses(&registries);
    let keep = networks::keep_refusing_own_addresses(registries.clone());
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(keep));
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
        events: recorder.clone(),
        metrics: metrics.clone(),
    };
    let volumes = Volumes::open(parts, settings)?;
    let snapshots = Snapshots::open(snapshots::Parts {
        store: store.clone(),
        volumes: volumes.clone(),
        registries,
        freezer: if local.is_some() { Freezer::of_machine() } else { Freezer::of_node() },
        metrics: metrics.clone(),
    })
    .context("cannot look for frozen pods")?;
    *engine = Some(snapshots.clone());
    volumes.recover(ORPHAN_GRACE)?;
    if let Some(known) = known {
        // Before the driver contacts a registry for a pod.
        let wait = networks::wait(&known, networks::Pace::default());
        shutdown.run_until_cancelled(wait).await;
    }
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(collect_forever(volumes.clone())));
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(empty_staging_forever(store.clone())));
    if let (Some(cluster), Some(namespace)) = (cluster, secrets_in) {
        let Cluster { client, node, driver, .. } = cluster;
        let parts = agent::Parts {
            client,
            node,
            driver,
            namespace,
            keyring: keyring.clone(),
            snapshots: snapshots.clone(),
            store: store.clone(),
            events: recorder,
        };
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(Agent::new(parts).run()));
    }
    let parts = LocalParts { snapshots: snapshots.clone(), store, keyring, repository };
    let local =
        serve_local(local, LocalAgent::new(parts), metrics.clone(), shutdown.clone()).await?;
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        snapshots.close();
    });
    let served = csi::serve(config, volumes, metrics, shutdown.clone()).await;
    shutdown.cancel();
    let local_served = local.await.context("the socket of `ovl node-snapshot`")?;
    if let Some(events) = events {
        let _ = timeout(EVENT_FLUSH_TIMEOUT, events.flush()).await;
    }
    served.and(local_served)?;
    tracing::info!("stopped; volumes stay mounted");
    Ok(())
}

/// Serves `ovl node-snapshot` on a node without a cluster until `shutdown`. An error of this socket ends the process,
/// because its users have no other way to reach the node.
async fn serve_local(
    endpoint: Option<csi::Endpoint>,
    local: LocalAgent,
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

/// Makes `registries` refuse the cluster's own networks in addition to `given`. Returns a token that is cancelled when they are known.
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
    let refuse = move |networks| registries.refuse_networks(networks);
    let keep = networks::keep(read, given, refuse, known.clone(), networks::Pace::default());
    tokio::spawn(shutdown.run_until_cancelled_owned(keep));
    known
}

/// The cluster that this node belongs to, and the node's name in it.
struct Cluster {
    client: Client,
    node: String,
    driver: String,
    /// `None` with `--events=false`.
    events: Option<Events>,
}

impl Cluster {
    async fn of(config: &csi::Config, events: bool) -> anyhow::Result<Self> {
        let client = Client::in_cluster()
            .await
            .context("the node needs a cluster; use --no-cluster outside a cluster")?;
        let (node, driver) = (config.node.to_string(), config.driver.to_string());
        let events = events.then(|| Events::start(client.clone(), &node, &driver));
        Ok(Self { client, node, driver, events })
    }
}

/// The recorder of Events and the lookup of snapshots, for volumes.
fn recorder_and_lookup(
    cluster: Option<&Cluster>,
    snapshots: bool,
) -> (Arc<dyn EventRecorder>, Arc<dyn SnapshotLookup>) {
    let Some(Cluster { client, node, driver, events }) = cluster else {
        return (Arc::new(NoEvents), Arc::new(NoSnapshots));
    };
    let lookup: Arc<dyn SnapshotLookup> = match snapshots {
        true => Arc::new(SnapshotsByName::new(client.clone(), driver, node)),
        false => Arc::new(NoSnapshots),
    };
    let recorder: Arc<dyn EventRecorder> = match events {
        Some(events) => Arc::new(events.clone()),
        None => Arc::new(NoEvents),
    };
    (recorder, lookup)
}

/// Probes the features of the kernel in the staging directory of the store at `root`. Fails if a required one is missing.
fn features(staging: &Path, root: &Path, ignored: &[String]) -> anyhow::Result<KernelFeatures> {
    let features = KernelFeatures::probe(&LinuxMounts, staging)
        .with_context(|| format!("cannot probe the kernel's features in {}", root.display()))?;
    let unusable = root_usable(root, &features, ignored)?;
    if let Some(first) = unusable.first() {
        bail!(
            "{} cannot hold a store: {}: {}; {} (`ovl check --root` reports all)",
            root.display(),
            first.name,
            first.why,
            first.fix
        );
    }
    if let Err(error) = remember_features(root, staging, &features) {
        tracing::warn!(%error, "`ovl status` cannot show the features of the kernel");
    }
    Ok(features)
}

/// Repeatedly removes the volumes of pods that are gone without an unpublish call, and layers that are not in use. The
/// first round runs while the first calls are served.
async fn collect_forever(volumes: Volumes) {
    loop {
        let volumes = volumes.clone();
        let collect = move || {
            volumes.recover(ORPHAN_GRACE)?;
            // It logs its errors itself.
            let _ = volumes.collect();
            Ok::<_, OpenError>(())
        };
        match spawn_blocking(collect).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot look for volumes without a pod"),
            Err(error) => {
                tracing::error!(%error, "the task that looks for volumes without a pod failed")
            }
        }
        sleep(ROUND_INTERVAL).await;
    }
}

/// Repeatedly empties the staging directory of the store: what an earlier process left unfinished, and what could not
/// be removed before. The first round runs while the first calls are served.
async fn empty_staging_forever(store: Arc<Store>) {
    loop {
        let store = store.clone();
        match spawn_blocking(move || store.staging.remove_abandoned()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot read the store's staging directory"),
            Err(error) => {
                tracing::error!(%error, "the task that empties the staging directory failed")
            }
        }
        sleep(ROUND_INTERVAL).await;
    }
}

/// Returns a token that the first SIGTERM (from Kubernetes) or SIGINT (from a terminal) cancels.
pub(super) fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "stopping");
        cancelled.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::FakeApi;

    #[tokio::test]
    async fn a_node_without_events_records_none_and_still_finds_snapshots() {
        let api = FakeApi::default();
        let (node, driver) = ("n".to_owned(), "d".to_owned());
        let cluster = Cluster { client: api.client(), node, driver, events: None };
        let (recorder, lookup) = recorder_and_lookup(Some(&cluster), true);
        assert_eq!(format!("{recorder:?}"), "NoEvents");
        assert!(format!("{lookup:?}").starts_with("SnapshotsByName"), "{lookup:?}");
    }
}
