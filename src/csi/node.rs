//! The CSI Node service. Each handler parses a request, makes one call and looks up the code of its error.

use tonic::{Request, Response, Status, async_trait};

use super::{
    config::{Defaults, NodeName},
    middleware,
    proto::csi::{
        NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
        NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, VolumeUsage,
        node_server::Node,
        node_service_capability::{Rpc, Type as Kind, rpc::Type as Ability},
        volume_usage::Unit,
    },
    request::{self, BadRequest},
    status::status,
};
use crate::volumes::{Usage, Volumes};

/// Serves the volumes of this node.
#[derive(Debug)]
pub(super) struct NodeService {
    pub(super) volumes: Volumes,
    pub(super) node: NodeName,
    pub(super) defaults: Defaults,
}

#[async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let deadline = request::deadline(request.metadata());
        let request = request.into_inner();
        middleware::about_volume(&request.volume_id);
        middleware::about_pod(&request.volume_context);
        let request = request::publish(request, &self.defaults, deadline).map_err(refused)?;
        let (id, target) = (request.id.clone(), request.target.clone());
        self.volumes.publish(request).await.map_err(|e| match target.volume_name() {
            Some(name) => status(e.class(), id.named(name, &e.to_string())),
            None => status(e.class(), e),
        })?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        middleware::about_volume(&request.volume_id);
        let (id, target) = request::unpublish(&request).map_err(refused)?;
        self.volumes.unpublish(&id, &target).await.map_err(|e| status(e.class(), &e))?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        middleware::about_volume(&request.volume_id);
        let (id, target) = request::stats(&request).map_err(refused)?;
        let stats = self.volumes.stats(&id, &target).await.map_err(|e| status(e.class(), &e))?;
        let usage = vec![usage(Unit::Bytes, stats.bytes), usage(Unit::Inodes, stats.inodes)];
        Ok(Response::new(NodeGetVolumeStatsResponse { usage }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        // Not SINGLE_NODE_MULTI_WRITER: it would promise to refuse a second target of a volume with a single writer.
        // Without it, the kubelet sends SINGLE_NODE_WRITER, which an inline volume has anyway.
        let capabilities = [Ability::GetVolumeStats, Ability::VolumeMountGroup]
            .map(|ability| NodeServiceCapability {
                r#type: Some(Kind::Rpc(Rpc { r#type: ability.into() })),
            })
            .into();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
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

fn usage(unit: Unit, usage: Usage) -> VolumeUsage {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    VolumeUsage {
        available: number(usage.available),
        total: number(usage.total),
        used: number(usage.used),
        unit: unit.into(),
    }
}
