//! The kubelet's plugin registration service, in place of the sidecar node-driver-registrar.
//!
//! The kubelet finds the socket in its `plugins_registry` and calls GetInfo. It then calls NodeGetInfo on the returned
//! endpoint, and reports the result by NotifyRegistrationStatus. After a restart, the kubelet reads that directory
//! again, so the driver only has to keep the socket there.

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

/// The plugin type of a CSI driver (`k8s.io/kubelet`, pluginregistration v1, `CSIPlugin`).
const TYPE: &str = "CSIPlugin";

/// The supported CSI version. The kubelet takes the highest version that it knows, and compares only the major version.
const CSI_VERSION: &str = "1.0.0";

/// Serves the registration of the driver.
#[derive(Debug)]
pub(super) struct RegistrationService {
    pub(super) driver: DriverName,
    pub(super) endpoint: Endpoint,
    pub(super) refusal: KubeletRefusal,
}

/// Set once the kubelet has refused to register the driver. That ends the process: an unregistered driver looks healthy
/// but gets no calls, so it must fail visibly. The restart is the retry.
#[derive(Debug, Clone)]
pub(super) struct KubeletRefusal {
    why: Arc<OnceLock<String>>,
    stop: CancellationToken,
}

impl KubeletRefusal {
    /// Cancels `stop` when set.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { why: Arc::default(), stop }
    }

    /// The error message of the kubelet, if it has refused.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    fn set(&self, why: String) {
        // Only the first reason is kept: later ones follow from it.
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
