//! Traces: sends the spans of calls to a collector by OTLP over gRPC.
//!
//! The exporter has its own thread, its own runtime and a bounded queue that drops the spans that do not fit. So a
//! collector that is slow, gone or hostile costs spans and nothing else. The spans are those of level info, with the
//! same fields as in the log.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator as _,
    trace::{SpanKind, TracerProvider as _},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::runtime::{self, Runtime};
use tracing::{Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

/// How long the process waits at its end until the last spans are sent.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The address of a collector's OTLP/gRPC receiver: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector(String);

/// A text that is not the address of a collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a collector's address: expected http://HOST:PORT of an OTLP/gRPC receiver, without TLS (for TLS, send to a \
     collector on this node that forwards with TLS)"
)]
pub struct CollectorError(String);

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let refused = || CollectorError(text.chars().take(100).collect());
        let rest = text.strip_prefix("http://").ok_or_else(refused)?;
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(refused());
        }
        Ok(Self(format!("http://{host}")))
    }
}

/// The exporter of traces cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot send traces: {0}")]
pub struct TracesError(String);

/// The exporter of spans. End it with [`Traces::end`], which sends the last ones.
pub struct Traces {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces")
    }
}

impl Traces {
    /// Sends to a collector, which need not run yet. `node` becomes the attribute `k8s.node.name`; `None` for a process
    /// that belongs to no node.
    ///
    /// # Errors
    /// No thread can be started, or the client refuses the collector's address.
    pub fn to(collector: &Collector, node: Option<&str>) -> Result<Self, TracesError> {
        let traces_error = |e: &dyn fmt::Display| TracesError(e.to_string());
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(|e| traces_error(&e))?;
        // The connection lives on the runtime that is entered when it is made.
        let entered = runtime.enter();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&collector.0)
            .build()
            .map_err(|e| traces_error(&e))?;
        drop(entered);
        let node = node.map(|node| KeyValue::new("k8s.node.name", node.to_owned()));
        let resource = Resource::builder()
            .with_service_name("ovl-csi")
            .with_attributes([KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))])
            .with_attributes(node)
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_batch_exporter(Calls { to: exporter, failing: AtomicBool::new(false) })
            .build();
        Ok(Self { provider, runtime })
    }

    /// The layer that takes the spans of this program. It leaves out those of libraries: the exporter's own spans would
    /// cause new ones without end.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("ovl"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target("ovl", LevelFilter::INFO))
    }

    /// Sends the spans that are left, within three seconds.
    pub fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last traces were not sent");
        }
        self.runtime.shutdown_background();
    }
}

/// Makes `span` a part of the caller's trace, which the header `traceparent` names (W3C Trace Context). Without a valid
/// header the span starts a new trace.
pub fn follow(span: &Span, parent: Option<&str>) {
    let Some(parent) = parent else { return };
    let header = HashMap::from([("traceparent".to_owned(), parent.to_owned())]);
    // Fails only where no traces are sent.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&header));
}

/// An exporter that gives the spans of calls their method as name and the kind `Server`. It logs once that a collector
/// does not take spans.
#[derive(Debug)]
struct Calls<E> {
    to: E,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Calls<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for span in batch.iter_mut().filter(|span| span.name == "call") {
            span.span_kind = SpanKind::Server;
            if let Some(method) = span.attributes.iter().find(|a| a.key.as_str() == "method") {
                span.name = method.value.to_string().into();
            }
        }
        let sent = self.to.export(batch).await;
        let failed_before = self.failing.swap(sent.is_err(), Ordering::Relaxed);
        if let Err(error) = &sent
            && !failed_before
        {
            tracing::warn!(%error, "the collector does not take traces; the driver tries on without further log lines");
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.to.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.to.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.to.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collectors_address_has_no_tls_no_user_and_no_path() {
        for good in
            ["http://127.0.0.1:4317", "http://collector.monitoring:4317/", "http://[::1]:4317"]
        {
            assert!(good.parse::<Collector>().is_ok(), "{good:?}");
        }
        for bad in
            ["", "collector:4317", "https://c:4317", "http://", "http://u:p@c", "http://c/v1?x"]
        {
            let error = bad.parse::<Collector>().unwrap_err().to_string();
            assert!(error.contains("expected http://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_collector_that_is_not_there_does_not_delay_calls() {
        use tracing_subscriber::layer::SubscriberExt as _;
        // Port 9 of loopback: no process listens there.
        let traces = Traces::to(&"http://127.0.0.1:9".parse().unwrap(), None).unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..10_000 {
                let span = tracing::info_span!("call", method = "Probe");
                follow(&span, Some("00-nonsense"));
            }
        });
        let start = std::time::Instant::now();
        traces.end();
        assert!(start.elapsed() < SHUTDOWN_TIMEOUT + Duration::from_secs(2));
    }
}
