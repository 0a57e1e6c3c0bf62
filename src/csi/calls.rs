//! Around every call: it runs to its end, whoever waits for it, and leaves one line in the log.
//!
//! The kubelet gives up after two minutes and asks again. A publish that stopped wherever it was then would start a pull
//! from zero each time; in a task of its own it goes on, the next try is told ABORTED while it does, and OK afterwards.
//!
//! The line has the method, the code, how long it took, and the volume and pod where there are any. A request is never
//! formatted, here or anywhere: those with secrets have no `Debug` (see build.rs).

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

/// A gRPC service whose calls are tasks.
#[derive(Debug, Clone)]
pub(super) struct Calls<S> {
    inner: S,
    tasks: TaskTracker,
}

impl<S> Calls<S> {
    /// Wraps `inner`; `tasks` knows what still runs.
    pub(super) fn new(inner: S, tasks: TaskTracker) -> Self {
        Self { inner, tasks }
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
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or_default().to_owned();
        // Of the highest level, so that no filter takes the volume from the lines within.
        let span = tracing::error_span!("call", %method, volume = field::Empty, pod = field::Empty);
        let answer = self.inner.call(request);
        let task = self.tasks.spawn(
            async move {
                let begun = Instant::now();
                let Ok(answer) = answer.await;
                log(&method, &answer, begun);
                answer
            }
            .instrument(span.clone()),
        );
        Box::pin(async move {
            Ok(task.await.unwrap_or_else(|e| {
                span.in_scope(|| error!(error = %e, "the call did not end"));
                Status::internal("a fault of the driver: its log has the details").into_http()
            }))
        })
    }
}

/// Names the volume that the current call is about. Escaped, because nobody has checked the text yet.
pub(super) fn about_volume(id: &str) {
    Span::current().record("volume", field::display(id.escape_debug()));
}

/// Names the pod that the current call is about, if the kubelet told.
pub(super) fn about_pod(context: &HashMap<String, String>) {
    if let Some((namespace, name)) = request::pod_name(context) {
        let pod = format_args!("{}/{}", namespace.escape_debug(), name.escape_debug());
        Span::current().record("pod", field::display(pod));
    }
}

fn log(method: &str, answer: &Response<Body>, begun: Instant) {
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    // An answer with a message has its code in the trailers, and that code is OK; any other code is in the headers.
    let status = Status::from_header_map(answer.headers()).unwrap_or_else(|| Status::ok(""));
    let code = status.code();
    match code {
        Code::Ok if changes(method) => info!(?code, ms, "answered"),
        Code::Ok => debug!(?code, ms, "answered"),
        Code::Internal | Code::DataLoss | Code::Unknown => {
            error!(?code, ms, error = status.message(), "answered");
        }
        _ => warn!(?code, ms, error = status.message(), "answered"),
    }
}

/// Whether a call that went well is news. The kubelet asks the others several times a minute for every volume.
fn changes(method: &str) -> bool {
    matches!(method, "NodePublishVolume" | "NodeUnpublishVolume")
}

#[cfg(test)]
mod tests;
