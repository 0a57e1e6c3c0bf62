//! The HTTP endpoints for the kubelet's probes: `/healthz` reports the same as the CSI call Probe, `/livez` only that
//! the process responds.
//!
//! They differ because a full disk makes the driver not ready. A restart would not free space. It would only delay the
//! unpublish calls that do.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{connections::LimitedListener, role::Role};

/// Serves both endpoints until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    role: Role,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(async || "ok\n"))
        .with_state(role);
    axum::serve(LimitedListener::of(listener), router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn healthz(State(role): State<Role>) -> (StatusCode, String) {
    match role.ready().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
