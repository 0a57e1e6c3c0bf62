//! The kubelet's probes over HTTP: `/healthz` says what Probe would say, `/livez` only that the process answers.
//!
//! They differ because a full disk makes the driver not ready, and starting it anew would not make room; it would only keep it
//! from the unpublishes that do.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{guests::Guests, role::Role};

/// Serves both until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    role: Role,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(async || "ok\n"))
        .with_state(role);
    axum::serve(Guests::of(listener), router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn healthz(State(role): State<Role>) -> (StatusCode, String) {
    match role.ready().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
