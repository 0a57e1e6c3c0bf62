//! The metrics of the process, in the text format of OpenMetrics.
//!
//! Label values are bounded: methods, codes and a few fixed words, never a volume, an image or a pod. Deliberately
//! absent: the HTTP server of the metrics (an edge has it), and globals: each module that counts is given a
//! [`Metrics`].

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry, Unit},
};

/// The labels of one call of an edge. Both values are constants of the program, so their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// The method, as its gRPC service names it.
    pub method: &'static str,
    /// The gRPC status code of the response.
    pub code: &'static str,
}

/// The result of an operation: a constant of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// The labels of one reconcile of the controller.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: &'static str,
    result: &'static str,
}

/// The label of the snapshots in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: &'static str,
}

/// All metrics of the process. Cheap to clone: clones share their values.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    calls: Family<Call, Counter>,
    call_seconds: Family<Call, Histogram>,
    pulls: Counter,
    pull_bytes: Counter,
    pull_seconds: Histogram,
    pushes: Counter,
    push_bytes: Counter,
    push_seconds: Histogram,
    layers: Gauge,
    store_bytes: Gauge,
    volumes: Gauge,
    open_layers: Gauge,
    collected_layers: Counter,
    collected_bytes: Counter,
    collections: Counter,
    collections_skipped: Counter,
    unenforced: Counter,
    limit_findings: Family<Outcome, Counter>,
    captures: Family<Outcome, Counter>,
    frozen_seconds: Histogram,
    reconciles: Family<Reconcile, Counter>,
    reconcile_seconds: Histogram,
    snapshots: Family<InPhase, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let latency: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 18));
        let mut registry = Registry::with_prefix("ovl");
        let r = &mut registry;
        let (bytes, seconds) = (Some(Unit::Bytes), Some(Unit::Seconds));
        let call_seconds = Family::new_with_constructor(latency);
        let pull_seconds = Histogram::new(exponential_buckets(0.05, 2.0, 16));
        let push_seconds = Histogram::new(exponential_buckets(0.05, 2.0, 16));
        let reconcile_seconds = latency();
        let frozen_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let inner = Inner {
            calls: new(r, "operations", "Calls, by method and code", None),
            call_seconds: add(
                r,
                "operation_duration",
                "Duration of calls, by method and code",
                seconds.clone(),
                call_seconds,
            ),
            pulls: new(r, "pulls", "Layers pulled", None),
            pull_bytes: new(r, "pull", "Bytes pulled from registries", bytes.clone()),
            pull_seconds: add(
                r,
                "pull_duration",
                "Duration of a layer's pull, from the first byte until it is on disk",
                seconds.clone(),
                pull_seconds,
            ),
            pushes: new(r, "pushes", "Snapshots pushed", None),
            push_bytes: new(r, "push", "Bytes sent to registries", bytes.clone()),
            push_seconds: add(
                r,
                "push_duration",
                "Duration of pushes, including those whose layers the registry had already",
                seconds.clone(),
                push_seconds,
            ),
            layers: new(r, "layers", "Layers in the store", None),
            store_bytes: new(r, "store", "Bytes of all layers in the store", bytes.clone()),
            volumes: new(r, "volumes", "Volumes recorded on this node", None),
            open_layers: new(
                r,
                "open_layers",
                "Layers that this process has mounted; volumes of an earlier process have their own mounts",
                None,
            ),
            collections: new(r, "gc_rounds", "Rounds of garbage collection", None),
            collections_skipped: new(
                r,
                "gc_skipped_rounds",
                "Rounds of garbage collection that removed nothing because a record could not be read",
                None,
            ),
            collected_layers: new(r, "gc_layers", "Layers removed by garbage collection", None),
            collected_bytes: new(r, "gc", "Bytes removed by garbage collection", bytes),
            unenforced: new(
                r,
                "unenforced_limits",
                "Volumes published without the default limit, which this node cannot enforce",
                None,
            ),
            limit_findings: new(
                r,
                "limit_findings",
                "Volumes whose files do not match their quota: they passed the limit, or other files are charged to it",
                None,
            ),
            captures: new(r, "captures", "Captures of volumes for snapshots, by result", None),
            frozen_seconds: add(
                r,
                "capture_frozen",
                "How long pods were frozen while their volumes were captured",
                seconds.clone(),
                frozen_seconds,
            ),
            reconciles: new(
                r,
                "reconciles",
                "Reconciles of the controller, by kind of object and result",
                None,
            ),
            reconcile_seconds: add(
                r,
                "reconcile_duration",
                "Duration of one reconcile of the controller",
                seconds,
                reconcile_seconds,
            ),
            snapshots: new(
                r,
                "snapshots",
                "OverlaySnapshots by phase, as the leading controller knows them",
                None,
            ),
            registry,
        };
        Self(Arc::new(inner))
    }
}

/// Registers a metric with its default value under this name.
fn new<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
) -> M {
    add(registry, name, help, unit, M::default())
}

/// Registers a metric under this name, with its unit where it has one.
fn add<M: Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    metric: M,
) -> M {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
        None => registry.register(name, help, metric.clone()),
    }
    metric
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Counts a call that got its response, after this many seconds.
    pub fn observe_call(&self, call: Call, seconds: f64) {
        self.0.call_seconds.get_or_create(&call).observe(seconds);
        self.0.calls.get_or_create(&call).inc();
    }

    /// Counts a layer that was pulled into the store: the bytes that were transferred and the duration.
    pub fn pulled(&self, bytes: u64, seconds: f64) {
        self.0.pulls.inc();
        self.0.pull_bytes.inc_by(bytes);
        self.0.pull_seconds.observe(seconds);
    }

    /// Counts a snapshot that was pushed: the bytes that had to be sent and the duration.
    pub fn pushed(&self, bytes: u64, seconds: f64) {
        self.0.pushes.inc();
        self.0.push_bytes.inc_by(bytes);
        self.0.push_seconds.observe(seconds);
    }

    /// Sets the number of layers in the store and their size in bytes.
    pub fn store(&self, layers: u64, bytes: u64) {
        self.0.layers.set(layers.cast_signed());
        self.0.store_bytes.set(bytes.cast_signed());
    }

    /// Sets the number of volumes that are recorded on this node.
    pub fn volumes(&self, count: u64) {
        self.0.volumes.set(count.cast_signed());
    }

    /// Sets the number of layers that this process has open for its volumes.
    pub fn open_layers(&self, count: u64) {
        self.0.open_layers.set(count.cast_signed());
    }

    /// Counts a round of garbage collection, with the layers and bytes that it removed.
    pub fn collected(&self, layers: u64, bytes: u64) {
        self.0.collections.inc();
        self.0.collected_layers.inc_by(layers);
        self.0.collected_bytes.inc_by(bytes);
    }

    /// Counts a round of garbage collection that removed nothing, because it could not read what is in use.
    pub fn collection_skipped(&self) {
        self.0.collections_skipped.inc();
    }

    /// Counts a volume that was published without the default limit, because this node cannot enforce it.
    pub fn unenforced(&self) {
        self.0.unenforced.inc();
    }

    /// Counts a volume whose files do not match its quota. `result` is `passed` (the volume is over its limit) or
    /// `charged` (other files are charged to it).
    pub fn limit_found(&self, result: &'static str) {
        self.0.limit_findings.get_or_create(&Outcome { result }).inc();
    }

    /// Counts a capture of a volume. `result` is `frozen`, `live`, `not_frozen` or `failed`; `frozen` is the number of
    /// seconds for which its pod was frozen, `None` where it was not.
    pub fn capture(&self, result: &'static str, frozen: Option<f64>) {
        self.0.captures.get_or_create(&Outcome { result }).inc();
        if let Some(seconds) = frozen {
            self.0.frozen_seconds.observe(seconds);
        }
    }

    /// Counts a reconcile of an object of this kind, with its duration. `result` is `done`, `error`, or `conflict`
    /// where another client changed or deleted the object meanwhile.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, seconds: f64) {
        self.0.reconciles.get_or_create(&Reconcile { kind, result }).inc();
        self.0.reconcile_seconds.observe(seconds);
    }

    /// Sets the number of snapshots in each phase.
    pub fn snapshots(&self, counts: impl IntoIterator<Item = (&'static str, usize)>) {
        for (phase, count) in counts {
            let gauge = self.0.snapshots.get_or_create(&InPhase { phase });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// All metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// The error of the formatter. A `String` never returns one.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
