//! What only a node counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::register::{add, new, seconds_from};

/// The result of an operation: a constant of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    pub(super) result: &'static str,
}

/// The metrics of a node.
pub(super) struct Node {
    pub(super) pulls: Counter,
    pub(super) pull_bytes: Counter,
    pub(super) pull_seconds: Histogram,
    pub(super) pushes: Counter,
    pub(super) push_bytes: Counter,
    pub(super) push_seconds: Histogram,
    pub(super) layers: Gauge,
    pub(super) store_bytes: Gauge,
    pub(super) disk_size: Gauge,
    pub(super) disk_available: Gauge,
    pub(super) disk_high: Gauge,
    pub(super) disk_low: Gauge,
    pub(super) volumes: Gauge,
    pub(super) open_layers: Gauge,
    pub(super) collected_layers: Counter,
    pub(super) collected_bytes: Counter,
    pub(super) collections: Counter,
    pub(super) collections_skipped: Counter,
    pub(super) unenforced: Counter,
    pub(super) limit_findings: Family<Outcome, Counter>,
    pub(super) captures: Family<Outcome, Counter>,
    pub(super) frozen_seconds: Histogram,
}

impl Node {
    /// Registers all of them. Each counter with a result begins at 0: a query sees no increase in the first sample of a
    /// series.
    pub(super) fn register(r: &mut Registry) -> Self {
        let node = Self::register_all(r);
        for result in ["passed", "charged"] {
            node.limit_findings.get_or_create(&Outcome { result }).inc_by(0);
        }
        for result in ["frozen", "live", "not_frozen", "failed"] {
            node.captures.get_or_create(&Outcome { result }).inc_by(0);
        }
        node
    }

    fn register_all(r: &mut Registry) -> Self {
        let (bytes, seconds) = (Some(Unit::Bytes), Some(Unit::Seconds));
        Self {
            pulls: new(r, "pulls", "Layers pulled", None),
            pull_bytes: new(r, "pull", "Bytes pulled from registries", bytes.clone()),
            pull_seconds: add(
                r,
                "pull_duration",
                "Duration of a layer's pull, from the first byte until it is on disk",
                seconds.clone(),
                seconds_from(0.05, 16),
            ),
            pushes: new(r, "pushes", "Snapshots pushed", None),
            push_bytes: new(r, "push", "Bytes sent to registries", bytes.clone()),
            push_seconds: add(
                r,
                "push_duration",
                "Duration of pushes, including those whose layers the registry had already",
                seconds.clone(),
                seconds_from(0.05, 16),
            ),
            layers: new(r, "layers", "Layers in the store", None),
            store_bytes: new(r, "store", "Bytes of all layers in the store", bytes.clone()),
            disk_size: new(r, "disk_size", "Size of the store's disk", bytes.clone()),
            disk_available: new(
                r,
                "disk_available",
                "Bytes of the store's disk that can still be written",
                bytes.clone(),
            ),
            disk_high: new(
                r,
                "disk_high_watermark",
                "Use of the disk above which images that nothing uses are deleted (disk.highPercent)",
                bytes.clone(),
            ),
            disk_low: new(
                r,
                "disk_low_watermark",
                "Use of the disk at which this deletion stops (disk.lowPercent)",
                bytes.clone(),
            ),
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
                seconds,
                seconds_from(0.000_5, 16),
            ),
        }
    }
}
