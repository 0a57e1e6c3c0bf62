//! How the kubelet comes to know us, without a side-car.
//!
//! The kubelet finds our socket in its `plugins_registry`, asks who we are, calls NodeGetInfo on the endpoint we name,
//! and tells us how it went. After a restart it looks through that folder again, so there is nothing to do then but to
//! have kept the socket there.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::{
    config::{DriverName, Endpoint},
    proto::pluginregistration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
        registration_server::Registration,
    },
};

/// What the kubelet calls a CSI driver (`k8s.io/kubelet`, pluginregistration v1, `CSIPlugin`).
const TYPE: &str = "CSIPlugin";

/// The kubelet takes the highest version it knows, and knows versions of CSI by their first number only.
const CSI_VERSION: &str = "1.0.0";

/// Answers the kubelet's questions about the driver.
#[derive(Debug)]
pub(super) struct RegistrationService {
    pub(super) driver: DriverName,
    pub(super) endpoint: Endpoint,
    pub(super) refusal: Refusal,
}

/// Set once the kubelet will not have us. That ends the process: a driver that is not registered serves nobody while it
/// looks well, so it had better be seen to fail; the restart is the next try.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    why: Arc<OnceLock<String>>,
    stop: CancellationToken,
}

impl Refusal {
    /// Cancels `stop` when set.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { why: Arc::default(), stop }
    }

    /// The kubelet's words.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    fn set(&self, why: String) {
        // The first reason is the one to tell; others follow from it.
        let _ = self.why.set(why);
        self.stop.cancel();
    }
}

#[async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: TYPE.to_owned(),
            name: self.driver.to_string(),
            // The kubelet wants the bare path.
            endpoint: self.endpoint.path().display().to_string(),
            supported_versions: vec![CSI_VERSION.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = status.into_inner();
        if status.plugin_registered {
            tracing::info!(driver = %self.driver, "registered with the kubelet");
        } else {
            self.refusal.set(status.error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
