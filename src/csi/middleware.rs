//! The middleware around every gRPC call: runs the call to its end, counts it and logs one line about it.
//!
//! A caller that gives up (the kubelet does after two minutes) must not stop a call between two of its steps. So each
//! call is a task of its own. The pull of a volume's layers takes long, so it is a further task (in `volumes`): the
//! call returns UNAVAILABLE in time, and the next call joins the pull.
//!
//! The span of a call adds the volume and the pod to every log line of the call. It is also the span in a trace, and
//! continues the caller's trace (W3C `traceparent`). The last line has the method, the code, the duration and, if any,
//! the volume and the pod. No code formats a request, here or elsewhere: requests with secrets have no `Debug` (see
//! build.rs).

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio_util::task::TaskTracker;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
};
use tracing::{Instrument as _, Span, debug, error, field, info, warn};

use super::request;
use crate::{
    metrics::{Call, Metrics},
    telemetry,
};

/// All methods of all services of this module. Metrics and traces name no other method, because a caller may invent any
/// number of names.
const METHODS: [&str; 18] = [
    "GetPluginInfo",
    "GetPluginCapabilities",
    "Probe",
    "NodePublishVolume",
    "NodeUnpublishVolume",
    "NodeGetVolumeStats",
    "NodeGetCapabilities",
    "NodeGetInfo",
    "ControllerGetCapabilities",
    "ValidateVolumeCapabilities",
    "CreateSnapshot",
    "DeleteSnapshot",
    "ListSnapshots",
    "GetSnapshot",
    "CaptureVolume",
    "PushSnapshot",
    "GetInfo",
    "NotifyRegistrationStatus",
];

/// A gRPC service that runs each call as a task.
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    inner: S,
    tasks: TaskTracker,
    metrics: Metrics,
}

impl<S> Calls<S> {
    /// Wraps `inner`. `tasks` tracks the running calls, and `metrics` counts the finished ones.
    pub(super) fn new(inner: S, tasks: TaskTracker, metrics: Metrics) -> Self {
        Self { inner, tasks, metrics }
    }
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        // The span has the highest level, so that no filter removes the volume from the log lines within it.
        let span = tracing::error_span!(
            "call",
            method,
            volume = field::Empty,
            snapshot = field::Empty,
            pod = field::Empty,
            code = field::Empty
        );
        let parent = request.headers().get("traceparent").and_then(|parent| parent.to_str().ok());
        telemetry::follow(&span, parent);
        let start = Instant::now();
        let response = self.inner.call(request);
        let metrics = self.metrics.clone();
        let task = self.tasks.spawn(
            async move {
                let Ok(response) = response.await;
                let code = log(method, &response, start);
                Span::current().record("code", code);
                metrics.observe_call(Call { method, code }, start.elapsed().as_secs_f64());
                response
            }
            .instrument(span.clone()),
        );
        let metrics = self.metrics.clone();
        Box::pin(async move {
            Ok(task.await.unwrap_or_else(|e| {
                span.in_scope(|| error!(error = %e, "the task of the call failed"));
                metrics.observe_call(
                    Call { method, code: code_name(Code::Internal) },
                    start.elapsed().as_secs_f64(),
                );
                Status::internal("the driver failed: see its log for details").into_http()
            }))
        })
    }
}

/// The method of a path; `other` for an unknown method.
fn method(path: &str) -> &'static str {
    let name = path.rsplit('/').next();
    METHODS.into_iter().find(|method| Some(*method) == name).unwrap_or("other")
}

/// Adds the volume to the span of the current call. The text is escaped, because it is not checked yet.
pub(super) fn about_volume(id: &str) {
    Span::current().record("volume", field::display(id.escape_debug()));
}

/// Adds the snapshot to the span of the current call: its handle, or the name in a CreateSnapshot request.
pub(super) fn about_snapshot(id: &str) {
    if !id.is_empty() {
        Span::current().record("snapshot", field::display(id.escape_debug()));
    }
}

/// Adds the pod to the span of the current call, if the kubelet names it.
pub(super) fn about_pod(context: &HashMap<String, String>) {
    if let Some((namespace, name)) = request::pod_name(context) {
        let pod = format_args!("{}/{}", namespace.escape_debug(), name.escape_debug());
        Span::current().record("pod", field::display(pod));
    }
}

/// Logs a finished call and returns the name of its code.
fn log(method: &str, response: &Response<Body>, start: Instant) -> &'static str {
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    // A response with a message has its code in the trailers, and that code is OK. Any other code is in the headers.
    let status = Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""));
    let code = code_name(status.code());
    match status.code() {
        Code::Ok if changes(method) => info!(code, ms, "call finished"),
        Code::Ok => debug!(code, ms, "call finished"),
        Code::Internal | Code::DataLoss | Code::Unknown => {
            error!(code, ms, error = status.message(), "call finished");
        }
        _ => warn!(code, ms, error = status.message(), "call finished"),
    }
    code
}

/// The name of a code, as the gRPC libraries write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Whether a method changes something, so that a successful call is logged at INFO. The other methods are called
/// several times a minute for every volume and snapshot.
fn changes(method: &str) -> bool {
    matches!(
        method,
        "NodePublishVolume"
            | "NodeUnpublishVolume"
            | "CreateSnapshot"
            | "DeleteSnapshot"
            | "CaptureVolume"
            | "PushSnapshot"
    )
}

#[cfg(test)]
mod tests;
