//! The metrics of the process, in the text format of OpenMetrics.
//!
//! Label values are bounded: methods, codes and a few fixed words, never a volume, an image or a pod. A test compares
//! `docs/metrics.md` with this file.
//!
//! Deliberately absent: the HTTP server of the metrics (an edge has it), and globals: each module that counts is given a
//! [`Metrics`].

mod controller;
mod node;
mod register;

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use controller::{Controller, InPhase, Reconcile};
use node::{Node, Outcome};
use register::{add, new, seconds_from};

/// The labels of one call of an edge. Both values are constants of the program, so their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// The method, as its gRPC service names it.
    pub method: &'static str,
    /// The gRPC status code of the response.
    pub code: &'static str,
}

/// The label of the program itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// All metrics of the process. Cheap to clone: clones share their values.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    calls: Family<Call, Counter>,
    call_seconds: Family<Call, Histogram>,
    node: Node,
    controller: Controller,
}

/// The metrics of a node.
impl Default for Metrics {
    fn default() -> Self {
        Self::of_node()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The metrics of `ovl node`.
    pub fn of_node() -> Self {
        Self::with(|registry, unused| (Node::register(registry), Controller::register(unused)))
    }

    /// The metrics of `ovl controller`.
    pub fn of_controller() -> Self {
        Self::with(|registry, unused| (Node::register(unused), Controller::register(registry)))
    }

    /// Gives `parts` the registry that is served, and one that is not.
    fn with(parts: impl FnOnce(&mut Registry, &mut Registry) -> (Node, Controller)) -> Self {
        let mut registry = Registry::with_prefix("ovl");
        let version = env!("CARGO_PKG_VERSION");
        registry.register("build", "The version of the program", Info::new(Build { version }));
        let latency: fn() -> Histogram = || seconds_from(0.001, 18);
        let r = &mut registry;
        let calls = new(r, "operations", "Calls, by method and code", None);
        let call_seconds = add(
            r,
            "operation_duration",
            "Duration of calls, by method and code",
            Some(Unit::Seconds),
            Family::new_with_constructor(latency),
        );
        let (node, controller) = parts(r, &mut Registry::default());
        Self(Arc::new(Inner { registry, calls, call_seconds, node, controller }))
    }

    /// Counts a call that got its response, after this many seconds.
    pub fn observe_call(&self, call: Call, seconds: f64) {
        self.0.call_seconds.get_or_create(&call).observe(seconds);
        self.0.calls.get_or_create(&call).inc();
    }

    /// Counts a layer that was pulled into the store: the bytes that were transferred and the duration.
    pub fn pulled(&self, bytes: u64, seconds: f64) {
        self.0.node.pulls.inc();
        self.0.node.pull_bytes.inc_by(bytes);
        self.0.node.pull_seconds.observe(seconds);
    }

    /// Counts a snapshot that was pushed: the bytes that had to be sent and the duration.
    pub fn pushed(&self, bytes: u64, seconds: f64) {
        self.0.node.pushes.inc();
        self.0.node.push_bytes.inc_by(bytes);
        self.0.node.push_seconds.observe(seconds);
    }

    /// Sets the number of layers in the store and their size in bytes.
    pub fn store(&self, layers: u64, bytes: u64) {
        self.0.node.layers.set(layers.cast_signed());
        self.0.node.store_bytes.set(bytes.cast_signed());
    }

    /// Sets the size of the store's disk, what can still be written to it, and both watermarks, all in bytes.
    pub fn disk(&self, size: u64, available: u64, high: u64, low: u64) {
        let Node { disk_size, disk_available, disk_high, disk_low, .. } = &self.0.node;
        for (gauge, bytes) in
            [(disk_size, size), (disk_available, available), (disk_high, high), (disk_low, low)]
        {
            gauge.set(bytes.cast_signed());
        }
    }

    /// Sets the number of volumes that are recorded on this node.
    pub fn volumes(&self, count: u64) {
        self.0.node.volumes.set(count.cast_signed());
    }

    /// Sets the number of layers that this process has open for its volumes.
    pub fn open_layers(&self, count: u64) {
        self.0.node.open_layers.set(count.cast_signed());
    }

    /// Counts a round of garbage collection, with the layers and bytes that it removed.
    pub fn collected(&self, layers: u64, bytes: u64) {
        self.0.node.collections.inc();
        self.0.node.collected_layers.inc_by(layers);
        self.0.node.collected_bytes.inc_by(bytes);
    }

    /// Counts a round of garbage collection that removed nothing, because it could not read what is in use.
    pub fn collection_skipped(&self) {
        self.0.node.collections_skipped.inc();
    }

    /// Counts a volume that was published without the default limit, because this node cannot enforce it.
    pub fn unenforced(&self) {
        self.0.node.unenforced.inc();
    }

    /// Counts a volume whose files do not match its quota. `result` is `passed` (the volume is over its limit) or
    /// `charged` (other files are charged to it).
    pub fn limit_found(&self, result: &'static str) {
        self.0.node.limit_findings.get_or_create(&Outcome { result }).inc();
    }

    /// Counts a capture of a volume. `result` is `frozen`, `live`, `not_frozen` or `failed`; `frozen` is the number of
    /// seconds for which its pod was frozen, `None` where it was not.
    pub fn capture(&self, result: &'static str, frozen: Option<f64>) {
        self.0.node.captures.get_or_create(&Outcome { result }).inc();
        if let Some(seconds) = frozen {
            self.0.node.frozen_seconds.observe(seconds);
        }
    }

    /// Counts a reconcile of an object of this kind, with its duration. `result` is `done`, `error`, or `conflict`
    /// where another client changed or deleted the object meanwhile.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, seconds: f64) {
        self.0.controller.reconciles.get_or_create(&Reconcile { kind, result }).inc();
        self.0.controller.reconcile_seconds.observe(seconds);
    }

    /// Sets the number of snapshots in each phase.
    pub fn snapshots(&self, counts: impl IntoIterator<Item = (&'static str, usize)>) {
        for (phase, count) in counts {
            let gauge = self.0.controller.snapshots.get_or_create(&InPhase { phase });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets the time at which the oldest snapshot was captured whose push is not complete, in seconds of Unix time.
    pub fn oldest_unpushed(&self, captured: Option<i64>) {
        self.0.controller.oldest_unpushed.set(captured.unwrap_or_default());
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
