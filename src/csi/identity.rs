//! The CSI Identity service: name, version, health.

use tonic::{Request, Response, Status, async_trait};

use super::{
    proto::csi::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
        GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
        identity_server::Identity,
        plugin_capability::{Service, Type as Kind, service::Type as Ability},
    },
    role::Role,
};

/// Serves the identity of the driver.
#[derive(Debug)]
pub(super) struct IdentityService {
    pub(super) role: Role,
}

#[async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.role.driver().to_string(),
            vendor_version: self.role.version().to_owned(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        // A node's socket has no controller service: inline volumes need none.
        let capabilities = match self.role {
            Role::Node(..) => Vec::new(),
            Role::Controller(..) => {
                let service = Service { r#type: Ability::ControllerService.into() };
                vec![PluginCapability { r#type: Some(Kind::Service(service)) }]
            }
        };
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        match self.role.ready().await {
            Ok(()) => Ok(Response::new(ProbeResponse { ready: Some(true) })),
            // For every class: the specification has one code for a plugin that is not healthy.
            Err(why) => Err(Status::failed_precondition(why)),
        }
    }
}
