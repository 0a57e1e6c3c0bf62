//! The CSI Controller service: the calls for snapshots, and ValidateVolumeCapabilities. Each handler parses a request,
//! makes one call and looks up the code of its error.
//!
//! csi-snapshotter treats the same codes as final as the kubelet (8.6, `isCSIFinalError`), so there is one table, in
//! `status`.

use std::time::Duration;

use tonic::{Request, Response, Status, async_trait};

use super::{
    middleware,
    proto::csi::{
        ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
        ControllerServiceCapability, CreateSnapshotRequest, CreateSnapshotResponse,
        DeleteSnapshotRequest, DeleteSnapshotResponse, GetSnapshotRequest, GetSnapshotResponse,
        ListSnapshotsRequest, ListSnapshotsResponse, Snapshot as ProtoSnapshot,
        ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, VolumeCapability,
        controller_server::Controller as Service,
        controller_service_capability::{Rpc, Type as Kind, rpc::Type as Ability},
        list_snapshots_response::Entry,
        validate_volume_capabilities_response::Confirmed,
        volume_capability::{AccessType, access_mode::Mode},
    },
    status::status,
};
use crate::{
    controller::{Controller, ControllerError, CsiSnapshot, Query},
    error::Class,
};

/// The longest text of a request (CSI spec, "Size Limits").
const TEXT_MAX: usize = 128;

/// Serves the snapshots of the cluster.
#[derive(Debug)]
pub(super) struct ControllerService {
    pub(super) controller: Controller,
    /// How long a call of DeleteSnapshot waits for the node.
    pub(super) removal_timeout: Duration,
}

#[async_trait]
impl Service for ControllerService {
    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capabilities =
            [Ability::CreateDeleteSnapshot, Ability::ListSnapshots, Ability::GetSnapshot]
                .map(|ability| ControllerServiceCapability {
                    r#type: Some(Kind::Rpc(Rpc { r#type: ability.into() })),
                })
                .into();
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let ValidateVolumeCapabilitiesRequest { volume_id, volume_capabilities } =
            request.into_inner();
        middleware::about_volume(&volume_id);
        let volume = text("volume_id", volume_id)?;
        if volume_capabilities.is_empty() {
            let why = "volume_capabilities is missing from the request";
            return Err(status(Class::Invalid, why));
        }
        if !self.controller.has_volume(&volume).await.map_err(failed)? {
            return Err(status(Class::NotFound, format_args!("no pod has the volume {volume}")));
        }
        let response = match volume_capabilities.iter().all(is_ours) {
            true => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed { volume_capabilities }),
                message: String::new(),
            },
            false => ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message: "a volume is a directory on one node: use ReadWriteOnce or ReadWriteOncePod, and volumeMode: \
                          Filesystem"
                    .to_owned(),
            },
        };
        Ok(Response::new(response))
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        let CreateSnapshotRequest { source_volume_id, name, parameters } = request.into_inner();
        middleware::about_volume(&source_volume_id);
        middleware::about_snapshot(&name);
        let volume = text("source_volume_id", source_volume_id)?;
        let name = text("name", name)?;
        let parameters = parameters.into_iter().collect();
        let made = self.controller.create_snapshot(&name, &volume, &parameters).await;
        let snapshot = Some(to_proto(made.map_err(failed)?));
        Ok(Response::new(CreateSnapshotResponse { snapshot }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let id = request.into_inner().snapshot_id;
        middleware::about_snapshot(&id);
        let id = text("snapshot_id", id)?;
        self.controller.delete_snapshot_within(&id, self.removal_timeout).await.map_err(failed)?;
        Ok(Response::new(DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        let request = request.into_inner();
        middleware::about_snapshot(&request.snapshot_id);
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let query = Query {
            id: given(request.snapshot_id),
            volume: given(request.source_volume_id),
            token: given(request.starting_token),
            limit: request.max_entries,
        };
        let page = self.controller.list_snapshots(&query).await.map_err(failed)?;
        let entry = |snapshot| Entry { snapshot: Some(to_proto(snapshot)) };
        Ok(Response::new(ListSnapshotsResponse {
            entries: page.snapshots.into_iter().map(entry).collect(),
            next_token: page.next.unwrap_or_default(),
        }))
    }

    async fn get_snapshot(
        &self,
        request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        let id = request.into_inner().snapshot_id;
        middleware::about_snapshot(&id);
        let id = text("snapshot_id", id)?;
        let snapshot = self.controller.get_snapshot(&id).await.map_err(failed)?;
        Ok(Response::new(GetSnapshotResponse { snapshot: Some(to_proto(snapshot)) }))
    }
}

/// Whether a volume supports a capability, as far as that does not depend on its node.
pub(super) fn is_ours(capability: &VolumeCapability) -> bool {
    let mode = capability.access_mode.and_then(|mode| Mode::try_from(mode.mode).ok());
    let one_node = matches!(
        mode,
        Some(
            Mode::SingleNodeWriter
                | Mode::SingleNodeReaderOnly
                | Mode::SingleNodeSingleWriter
                | Mode::SingleNodeMultiWriter
        )
    );
    one_node
        && matches!(&capability.access_type, Some(AccessType::Mount(mount)) if matches!(mount.fs_type.as_str(), "" | "overlay"))
}

/// Checks a required string of a request.
pub(super) fn text(field: &str, text: String) -> Result<String, Status> {
    if text.is_empty() {
        return Err(status(Class::Invalid, format_args!("{field} is missing from the request")));
    }
    if text.len() > TEXT_MAX {
        let length = text.len();
        let why =
            format_args!("{field} is {length} bytes long, and at most {TEXT_MAX} are allowed");
        return Err(status(Class::Invalid, why));
    }
    if text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        return Err(status(Class::Invalid, format_args!("{field} has control characters")));
    }
    Ok(text)
}

fn to_proto(snapshot: CsiSnapshot) -> ProtoSnapshot {
    ProtoSnapshot {
        size_bytes: snapshot.bytes,
        snapshot_id: snapshot.id,
        source_volume_id: snapshot.volume,
        creation_time: Some(prost_types::Timestamp {
            seconds: snapshot.created.as_second(),
            nanos: snapshot.created.subsec_nanosecond(),
        }),
        ready_to_use: snapshot.ready,
    }
}

fn failed(error: ControllerError) -> Status {
    status(error.class(), error)
}
