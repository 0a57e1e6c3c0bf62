//! What the process counts, for Prometheus.
//!
//! Labels are bounded: methods, codes and a few fixed words, never a volume, an image or a pod. Deliberately absent: where they
//! are served (an edge does that), and any global: whoever counts is given a [`Metrics`].

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

/// One call of an edge. Its words are the program's own, so there are only so many.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// The method, as its service names it.
    pub method: &'static str,
    /// The code of the answer.
    pub code: &'static str,
}

/// What came of something, in a word of the program's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// One look of the controller at an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Look {
    kind: &'static str,
    result: &'static str,
}

/// Objects by how far they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: &'static str,
}

/// Everything that is counted. Cheap to clone: clones count together.
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
    cuts: Family<Outcome, Counter>,
    cut_frozen_seconds: Histogram,
    reconciles: Family<Look, Counter>,
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
        let cut_frozen_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let inner = Inner {
            calls: new(r, "operations", "Calls answered, by method and code", None),
            call_seconds: add(
                r,
                "operation_duration",
                "How long calls took",
                seconds.clone(),
                call_seconds,
            ),
            pulls: new(r, "pulls", "Layers fetched", None),
            pull_bytes: new(r, "pull", "Bytes fetched from registries", bytes.clone()),
            pull_seconds: add(
                r,
                "pull_duration",
                "How long a layer took from the first byte to the disk",
                seconds.clone(),
                pull_seconds,
            ),
            pushes: new(r, "pushes", "Snapshots pushed", None),
            push_bytes: new(r, "push", "Bytes sent to registries", bytes.clone()),
            push_seconds: add(
                r,
                "push_duration",
                "How long a push took, whatever the registry had already",
                seconds.clone(),
                push_seconds,
            ),
            layers: new(r, "layers", "Layers in the store", None),
            store_bytes: new(r, "store", "Bytes of the layers in the store", bytes.clone()),
            volumes: new(r, "volumes", "Volumes recorded on this node", None),
            open_layers: new(
                r,
                "open_layers",
                "Layers that this process has mounted: volumes of an earlier one have mounts of their own",
                None,
            ),
            collections: new(r, "gc_rounds", "Rounds of garbage collection", None),
            collections_skipped: new(
                r,
                "gc_skipped_rounds",
                "Rounds of garbage collection that removed nothing because something could not be read",
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
                "Volumes whose files do not agree with their quota: they passed their limit, or others are charged to it",
                None,
            ),
            cuts: new(r, "cuts", "Volumes cut for snapshots, by what came of it", None),
            cut_frozen_seconds: add(
                r,
                "cut_frozen",
                "For how long pods stood still while their volumes were cut",
                seconds.clone(),
                cut_frozen_seconds,
            ),
            reconciles: new(
                r,
                "reconciles",
                "Looks of the controller at objects, by their kind and what came of it",
                None,
            ),
            reconcile_seconds: add(
                r,
                "reconcile_duration",
                "How long the controller looked at an object",
                seconds,
                reconcile_seconds,
            ),
            snapshots: new(
                r,
                "snapshots",
                "OverlaySnapshots by phase, as the controller that leads knows them",
                None,
            ),
            registry,
        };
        Self(Arc::new(inner))
    }
}

/// Something counted from zero, and shown by this name.
fn new<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
) -> M {
    add(registry, name, help, unit, M::default())
}

/// Something counted, and shown by this name, with its unit where it has one.
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
    /// A call was answered.
    pub fn answered(&self, call: Call, seconds: f64) {
        self.0.call_seconds.get_or_create(&call).observe(seconds);
        self.0.calls.get_or_create(&call).inc();
    }

    /// A layer was fetched and is in the store: bytes that travelled, and how long it took.
    pub fn pulled(&self, bytes: u64, seconds: f64) {
        self.0.pulls.inc();
        self.0.pull_bytes.inc_by(bytes);
        self.0.pull_seconds.observe(seconds);
    }

    /// A snapshot was pushed: bytes that had to be sent, and how long it took.
    pub fn pushed(&self, bytes: u64, seconds: f64) {
        self.0.pushes.inc();
        self.0.push_bytes.inc_by(bytes);
        self.0.push_seconds.observe(seconds);
    }

    /// What the store holds now.
    pub fn store(&self, layers: u64, bytes: u64) {
        self.0.layers.set(layers.cast_signed());
        self.0.store_bytes.set(bytes.cast_signed());
    }

    /// How many volumes are recorded now.
    pub fn volumes(&self, count: u64) {
        self.0.volumes.set(count.cast_signed());
    }

    /// How many layers this process has open for its volumes now.
    pub fn open_layers(&self, count: u64) {
        self.0.open_layers.set(count.cast_signed());
    }

    /// A round of garbage collection ended.
    pub fn collected(&self, layers: u64, bytes: u64) {
        self.0.collections.inc();
        self.0.collected_layers.inc_by(layers);
        self.0.collected_bytes.inc_by(bytes);
    }

    /// A round of garbage collection was not sure enough to remove anything.
    pub fn collection_skipped(&self) {
        self.0.collections_skipped.inc();
    }

    /// A volume was published without the default limit, because this node cannot enforce it.
    pub fn unenforced(&self) {
        self.0.unenforced.inc();
    }

    /// A volume's files do not agree with its quota (`passed`, `charged`).
    pub fn limit_found(&self, result: &'static str) {
        self.0.limit_findings.get_or_create(&Outcome { result }).inc();
    }

    /// A volume was cut, or was not (`frozen`, `live`, `not_frozen`, `failed`), and for how many seconds its pod stood still.
    pub fn cut(&self, result: &'static str, frozen: Option<f64>) {
        self.0.cuts.get_or_create(&Outcome { result }).inc();
        if let Some(seconds) = frozen {
            self.0.cut_frozen_seconds.observe(seconds);
        }
    }

    /// The controller has looked at an object of this kind, for so many seconds: `done`; `conflict` where somebody changed it or took
    /// it away meanwhile; `error`.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, seconds: f64) {
        self.0.reconciles.get_or_create(&Look { kind, result }).inc();
        self.0.reconcile_seconds.observe(seconds);
    }

    /// How many snapshots are in each phase now.
    pub fn snapshots(&self, counts: impl IntoIterator<Item = (&'static str, usize)>) {
        for (phase, count) in counts {
            let gauge = self.0.snapshots.get_or_create(&InPhase { phase });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// All of it in the text format of OpenMetrics.
    ///
    /// # Errors
    /// The formatter's, which a `String` never raises.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
