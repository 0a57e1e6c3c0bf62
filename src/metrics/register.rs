//! The registration of one metric.

use prometheus_client::{
    metrics::histogram::{Histogram, exponential_buckets},
    registry::{Metric, Registry, Unit},
};

/// A histogram that begins with this many seconds.
pub(super) fn seconds_from(start: f64, buckets: u16) -> Histogram {
    Histogram::new(exponential_buckets(start, 2.0, buckets))
}

/// Registers a metric with its default value under this name.
pub(super) fn new<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
) -> M {
    add(registry, name, help, unit, M::default())
}

/// Registers a metric under this name, with its unit where it has one.
pub(super) fn add<M: Metric + Clone>(
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
