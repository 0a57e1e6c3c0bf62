//! Around every call: it runs to its end, whoever waits for it, is counted, and leaves one line in the log.
//!
//! A caller that gives up (the kubelet after two minutes) must not stop a call between two of its steps, so each is a task of
//! its own. What takes long, the pull of a volume's layers, is a task beside it (`volumes`): the call is answered UNAVAILABLE in
//! time, and the next one joins the pull.
//!
//! The span of a call gives every line that is written on its behalf the volume and the pod, and is what a trace shows; a
//! caller's own trace (W3C `traceparent`) goes on in it. The last line has the method, the code, how long it took, and the volume
//! and pod where there are any. A request is never formatted, here or anywhere: those with secrets have no `Debug` (see build.rs).

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

/// Every method of every service here. A metric or a trace names no other: a caller may invent as many as it likes.
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

/// A gRPC service whose calls are tasks.
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    inner: S,
    tasks: TaskTracker,
    metrics: Metrics,
}

impl<S> Calls<S> {
    /// Wraps `inner`; `tasks` knows what still runs, `metrics` what was answered.
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
        // Of the highest level, so that no filter takes the volume from the lines within.
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
        let begun = Instant::now();
        let answer = self.inner.call(request);
        let metrics = self.metrics.clone();
        let task = self.tasks.spawn(
            async move {
                let Ok(answer) = answer.await;
                let code = log(method, &answer, begun);
                Span::current().record("code", code);
                metrics.answered(Call { method, code }, begun.elapsed().as_secs_f64());
                answer
            }
            .instrument(span.clone()),
        );
        let metrics = self.metrics.clone();
        Box::pin(async move {
            Ok(task.await.unwrap_or_else(|e| {
                span.in_scope(|| error!(error = %e, "the call did not end"));
                metrics.answered(
                    Call { method, code: word(Code::Internal) },
                    begun.elapsed().as_secs_f64(),
                );
                Status::internal("a fault of the driver: its log has the details").into_http()
            }))
        })
    }
}

/// The method that a path names, of those there are.
fn method(path: &str) -> &'static str {
    let name = path.rsplit('/').next();
    METHODS.into_iter().find(|method| Some(*method) == name).unwrap_or("other")
}

/// Names the volume that the current call is about. Escaped, because nobody has checked the text yet.
pub(super) fn about_volume(id: &str) {
    Span::current().record("volume", field::display(id.escape_debug()));
}

/// Names the snapshot that the current call is about, by its handle or by the name that it is to be made of.
pub(super) fn about_snapshot(id: &str) {
    if !id.is_empty() {
        Span::current().record("snapshot", field::display(id.escape_debug()));
    }
}

/// Names the pod that the current call is about, if the kubelet told.
pub(super) fn about_pod(context: &HashMap<String, String>) {
    if let Some((namespace, name)) = request::pod_name(context) {
        let pod = format_args!("{}/{}", namespace.escape_debug(), name.escape_debug());
        Span::current().record("pod", field::display(pod));
    }
}

/// Answers the code.
fn log(method: &str, answer: &Response<Body>, begun: Instant) -> &'static str {
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    // An answer with a message has its code in the trailers, and that code is OK; any other code is in the headers.
    let status = Status::from_header_map(answer.headers()).unwrap_or_else(|| Status::ok(""));
    let code = word(status.code());
    match status.code() {
        Code::Ok if changes(method) => info!(code, ms, "answered"),
        Code::Ok => debug!(code, ms, "answered"),
        Code::Internal | Code::DataLoss | Code::Unknown => {
            error!(code, ms, error = status.message(), "answered");
        }
        _ => warn!(code, ms, error = status.message(), "answered"),
    }
    code
}

/// A code's name, as gRPC's libraries write it.
fn word(code: Code) -> &'static str {
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

/// Whether a call that went well is news. The others are asked several times a minute for every volume and snapshot.
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
