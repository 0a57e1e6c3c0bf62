//! The CSI Identity service: name, version, health.

use tonic::{Request, Response, Status, async_trait};

use super::{
    config::DriverName,
    proto::csi::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
        GetPluginInfoResponse, ProbeRequest, ProbeResponse, identity_server::Identity,
    },
};
use crate::volumes::Volumes;

/// Answers who we are.
#[derive(Debug)]
pub(super) struct IdentityService {
    pub(super) volumes: Volumes,
    pub(super) driver: DriverName,
    pub(super) version: &'static str,
}

#[async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.driver.to_string(),
            vendor_version: self.version.to_owned(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        match self.volumes.ready().await {
            Ok(()) => Ok(Response::new(ProbeResponse { ready: Some(true) })),
            // Whatever the class: the specification has one code for a plugin that is not well.
            Err(why) => Err(Status::failed_precondition(why.to_string())),
        }
    }
}
