//! The HTTP endpoint `/metrics`. It has its own listener, because the clients that may scrape are often not the ones
//! that may probe.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections::LimitedListener;
use crate::metrics::Metrics;

/// The content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves the endpoint until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    axum::serve(LimitedListener::of(listener), router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], error.to_string())
        }
    }
}
