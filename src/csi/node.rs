//! The CSI Node service: each handler parses, calls, and looks the code up.

use tonic::{Request, Response, Status, async_trait};

use super::{
    calls,
    config::NodeName,
    proto::csi::{
        NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, node_server::Node,
    },
    request::{self, BadRequest},
    status::status,
};
use crate::volumes::Volumes;

/// Answers for the volumes of this node.
#[derive(Debug)]
pub(super) struct NodeService {
    pub(super) volumes: Volumes,
    pub(super) node: NodeName,
}

#[async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        calls::about_volume(&request.volume_id);
        calls::about_pod(&request.volume_context);
        let request = request::publish(request).map_err(refused)?;
        self.volumes.publish(request).await.map_err(|e| status(e.class(), &e))?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        calls::about_volume(&request.volume_id);
        let (id, target) = request::unpublish(&request).map_err(refused)?;
        self.volumes.unpublish(&id, &target).await.map_err(|e| status(e.class(), &e))?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse {}))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse { node_id: self.node.to_string() }))
    }
}

fn refused(why: BadRequest) -> Status {
    status(why.class(), why)
}
