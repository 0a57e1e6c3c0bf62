//! What only the controller counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::register::{add, new, seconds_from};

/// The labels of one reconcile of the controller.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reconcile {
    pub(super) kind: &'static str,
    pub(super) result: &'static str,
}

/// The label of the snapshots in one phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct InPhase {
    pub(super) phase: &'static str,
}

/// The metrics of the controller.
pub(super) struct Controller {
    pub(super) reconciles: Family<Reconcile, Counter>,
    pub(super) reconcile_seconds: Histogram,
    pub(super) snapshots: Family<InPhase, Gauge>,
    pub(super) oldest_unpushed: Gauge,
}

impl Controller {
    /// Registers all of them.
    pub(super) fn register(r: &mut Registry) -> Self {
        let seconds = Some(Unit::Seconds);
        Self {
            reconciles: new(r, "reconciles", "Reconciles, by kind of object and result", None),
            reconcile_seconds: add(
                r,
                "reconcile_duration",
                "Duration of one reconcile",
                seconds.clone(),
                seconds_from(0.001, 18),
            ),
            snapshots: new(
                r,
                "snapshots",
                "OverlaySnapshots by phase, as the leading controller knows them",
                None,
            ),
            oldest_unpushed: new(
                r,
                "oldest_unpushed_snapshot_timestamp",
                "Unix time of the capture of the oldest snapshot whose push is not complete; 0 if there is none",
                seconds,
            ),
        }
    }
}
