//! `ovl node`: the engine of one node behind its CSI socket.

pub(super) mod args;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::{
    agent::Events,
    cluster::Client,
    csi,
    image::Registries,
    layers::{Claim, Form, Store},
    metrics::Metrics,
    overlay::{Feature, Features, root_usable},
    sys::{limits, mounts::LinuxMounts},
    telemetry::{Traces, TracesError},
    volumes::{GRACE, NoNotices, Notices, OpenError, Parts, Settings, Volumes},
};
pub(super) use args::NodeArgs;

/// How long work that blocks may take after the last answer; what is not done then is left as by a crash.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Everything that was read from the arguments and can be used.
struct Node {
    config: csi::Config,
    registries: Registries,
    settings: Settings,
    root: PathBuf,
    /// Checks of the root that are not to be believed.
    overridden: Vec<String>,
    /// `None` for what the kernel takes.
    form: Option<Form>,
    cluster: bool,
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
    let served = runtime.block_on(serve(node));
    runtime.shutdown_timeout(LAST_WORK);
    Ok(served?)
}

fn node(args: &NodeArgs) -> anyhow::Result<Node> {
    args.usable()?;
    Ok(Node {
        config: args.config()?,
        registries: args.registries()?,
        settings: args.settings()?,
        root: args.root(),
        overridden: args.overridden.clone(),
        form: args.form(),
        cluster: !args.no_cluster,
    })
}

async fn serve(node: Node) -> anyhow::Result<()> {
    // Before anything that takes long, so that no signal is lost.
    let shutdown = on_signal()?;
    let Node { config, registries, settings, root, overridden, form, cluster } = node;
    tracing::info!(version = config.version, driver = %config.driver, root = %root.display(), cluster, "starting");

    if let Err(error) = limits::raise_open_files() {
        tracing::warn!(%error, "cannot have more open files; each layer in use needs one");
    }
    let claim = Claim::on(&root)?;
    let features = features(&root, &overridden)?;
    let mounts = features.mounts(&root.join("lowers"))?;
    let form = form.unwrap_or(match features.has(Feature::Erofs) {
        true => Form::Erofs,
        false => Form::Dir,
    });
    tracing::info!(way = ?features.way(), ?form, "this kernel was tried");
    let store = Arc::new(Store::open_claimed(claim, mounts.clone())?.keeping(form));
    let metrics = Metrics::default();
    let notices: Arc<dyn Notices> = match cluster {
        true => {
            let client = Client::in_cluster().await.context(
                "cannot tell pods anything (their Events); use --no-cluster outside a cluster",
            )?;
            Arc::new(Events::start(client, &config.node.to_string(), &config.driver.to_string()))
        }
        false => Arc::new(NoNotices),
    };
    let parts = Parts { store, registries, mounts, features, notices, metrics: metrics.clone() };
    let volumes = Volumes::open(parts, settings)?;
    volumes.recover(GRACE)?;
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(tidy_forever(volumes.clone())));
    csi::serve(config, volumes, metrics, shutdown).await?;
    tracing::info!("stopped; volumes stay mounted");
    Ok(())
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

/// Cancelled by the first SIGTERM (Kubernetes) or SIGINT (a person).
fn on_signal() -> anyhow::Result<CancellationToken> {
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
