//! The snapshot API of a node without a cluster: the server on its socket, and the client for `ovl node-snapshot`.
//!
//! Like the driver's CSI socket, it is for root only, and each call is a task that runs to its end: a client that stops
//! waiting for a push does not stop the push.

use std::{fmt::Display, str::FromStr, time::Duration};

use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, async_trait,
    service::Routes,
    transport::{Channel, Endpoint as Dial},
};

use super::{
    ServeError,
    config::Endpoint,
    middleware::{self, Calls},
    proto::local::{
        CaptureVolumeRequest, CaptureVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse,
        ListSnapshotsRequest, ListSnapshotsResponse, PushSnapshotRequest, PushSnapshotResponse,
        Snapshot,
        snapshots_client::SnapshotsClient,
        snapshots_server::{Snapshots, SnapshotsServer},
    },
    server::{SHUTDOWN_GRACE, grpc},
    socket::Socket,
    status::status,
};
use crate::{
    agent::{Failure, LocalAgent, LocalSnapshot},
    error::Class,
    media_type::{Compression, Format},
    metrics::Metrics,
    snapshots::{CaptureRequest, Consistency},
};

/// The default freeze timeout: the same as the default of a VolumeSnapshotClass.
const WITHIN: Duration = Duration::from_secs(5);

/// The claimed socket. Callers can connect from here on, and wait until they are served.
#[derive(Debug)]
pub struct LocalSocket {
    endpoint: Endpoint,
    socket: Socket,
}

impl LocalSocket {
    /// Claims the socket, for root only.
    ///
    /// # Errors
    /// Another process serves on the socket, or the file cannot be created.
    pub async fn open(endpoint: Endpoint) -> Result<Self, ServeError> {
        let socket = Socket::claim(endpoint.path()).await?;
        Ok(Self { endpoint, socket })
    }

    /// Serves until `shutdown`, and then waits at most 10 seconds for running calls.
    ///
    /// # Errors
    /// The gRPC server failed.
    pub async fn serve(
        self,
        local: LocalAgent,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        tracing::info!(endpoint = %self.endpoint, "serving snapshots");
        let routes = Routes::new(SnapshotsServer::new(Service { local }));
        let tasks = TaskTracker::new();
        let ended = async {
            let calls = Calls::new(routes, tasks.clone(), metrics);
            let served = grpc(calls, self.socket, &shutdown).await;
            tasks.close();
            tasks.wait().await;
            served
        };
        tokio::select! {
            served = ended => served,
            // Finished work stays done. The caller requests the rest again.
            () = async { shutdown.cancelled().await; sleep(SHUTDOWN_GRACE).await } => Ok(()),
        }
    }
}

/// Serves the snapshots of a node without a cluster.
#[derive(Debug)]
struct Service {
    local: LocalAgent,
}

#[async_trait]
impl Snapshots for Service {
    async fn capture_volume(
        &self,
        request: Request<CaptureVolumeRequest>,
    ) -> Result<Response<CaptureVolumeResponse>, Status> {
        let request = request.into_inner();
        middleware::about_snapshot(&request.name);
        let progress = self.local.capture(capture(&request)?).await.map_err(refused)?;
        Ok(Response::new(CaptureVolumeResponse { snapshot: Some(shown(progress)) }))
    }

    async fn push_snapshot(
        &self,
        request: Request<PushSnapshotRequest>,
    ) -> Result<Response<PushSnapshotResponse>, Status> {
        let PushSnapshotRequest { name, repository, format, compression } = request.into_inner();
        middleware::about_snapshot(&name);
        let to = (!repository.is_empty()).then(|| repository.parse()).transpose();
        let (format, compression) =
            (one_of(&format, &FORMATS)?, one_of(&compression, &COMPRESSIONS)?);
        let (id, to) = (parsed(&name)?, to.map_err(invalid)?);
        let pushed = self.local.push(&id, to, format, compression).await;
        let (progress, pushed) = pushed.map_err(refused)?;
        let response = PushSnapshotResponse { snapshot: Some(shown(progress)), sent: pushed.sent };
        Ok(Response::new(response))
    }

    async fn list_snapshots(
        &self,
        _: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        let snapshots = self.local.list().into_iter().map(shown).collect();
        Ok(Response::new(ListSnapshotsResponse { snapshots }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let name = request.into_inner().name;
        middleware::about_snapshot(&name);
        let gone = self.local.delete(&parsed(&name)?).await.map_err(refused)?;
        Ok(Response::new(DeleteSnapshotResponse { manifest_stays: !gone }))
    }
}

fn refused(failure: Failure) -> Status {
    status(failure.class, failure.message)
}

fn invalid(why: impl Display) -> Status {
    status(Class::Invalid, why)
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(invalid)
}

/// Parses a request for a capture.
pub(super) fn capture(request: &CaptureVolumeRequest) -> Result<CaptureRequest, Status> {
    let within = match request.freeze_timeout_millis {
        0 => WITHIN,
        millis => Duration::from_millis(millis.into()),
    };
    let consistency = match request.live {
        true => Consistency::Live,
        false => Consistency::Frozen { within, or_live: request.live_on_timeout },
    };
    let (id, volume) = (parsed(&request.name)?, parsed(&request.volume)?);
    // The caller is root on the node, so it may capture the volumes of all pods.
    Ok(CaptureRequest { id, volume, pod: None, consistency })
}

/// The names of layer formats and compressions. The first one is the default.
const FORMATS: [(&str, Format); 2] = [("portable", Format::Portable), ("native", Format::Native)];
const COMPRESSIONS: [(&str, Compression); 3] =
    [("zstd", Compression::Zstd), ("gzip", Compression::Gzip), ("none", Compression::None)];

fn one_of<T: Copy>(word: &str, known: &[(&str, T)]) -> Result<T, Status> {
    let meant = known.iter().find(|(name, _)| *name == word || word.is_empty());
    meant.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        invalid(format!("{word:?} is not one of {}", names.join(", ")))
    })
}

/// A snapshot as a message of the API.
fn shown(LocalSnapshot { record, pushing }: LocalSnapshot) -> Snapshot {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Snapshot {
        name: record.id.to_string(),
        namespace: record.source.namespace,
        pod: record.source.pod,
        volume: record.source.volume_id,
        captured: record.captured_at.to_string(),
        frozen_micros: record.frozen_micros,
        entries: record.entries,
        bytes: record.bytes,
        layers: count(record.stack.len()),
        own_layers: count(record.own_layers),
        parent: record.parent.map(|id| id.to_string()).unwrap_or_default(),
        image: record.pushed.unwrap_or_default(),
        pushing: pushing.unwrap_or_default(),
    }
}

/// A failed call of [`LocalClient`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No server responds on the socket.
    #[error(
        "no `ovl node` responds at {endpoint}: {source}; `ovl node` serves snapshots there only with --no-cluster"
    )]
    Unreachable {
        /// The socket.
        endpoint: Endpoint,
        /// The error of the connection.
        source: tonic::transport::Error,
    },
    /// The node returned an error; its message.
    #[error("{0}")]
    Refused(String),
}

/// A client of the snapshot API of a node without a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LocalClient(SnapshotsClient<Channel>);

impl LocalClient {
    /// Connects to the socket of a node.
    ///
    /// # Errors
    /// No server responds on the socket.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { endpoint: endpoint.clone(), source };
        let dial = Dial::from_shared(endpoint.to_string()).map_err(unreachable)?;
        let channel = dial.connect().await.map_err(unreachable)?;
        Ok(Self(SnapshotsClient::new(channel)))
    }

    /// Captures a volume.
    ///
    /// # Errors
    /// The message of the node, as for all these calls.
    pub(crate) async fn capture(
        &mut self,
        request: CaptureVolumeRequest,
    ) -> Result<Snapshot, ClientError> {
        let response = self.0.capture_volume(request).await.map_err(client_error)?;
        response.into_inner().snapshot.ok_or_else(no_snapshot)
    }

    /// Pushes a snapshot. Also returns how many bytes were sent.
    pub(crate) async fn push(
        &mut self,
        request: PushSnapshotRequest,
    ) -> Result<(Snapshot, u64), ClientError> {
        let response = self.0.push_snapshot(request).await.map_err(client_error)?.into_inner();
        Ok((response.snapshot.ok_or_else(no_snapshot)?, response.sent))
    }

    /// All snapshots of the node, by name.
    pub(crate) async fn list(&mut self) -> Result<Vec<Snapshot>, ClientError> {
        let response =
            self.0.list_snapshots(ListSnapshotsRequest {}).await.map_err(client_error)?;
        Ok(response.into_inner().snapshots)
    }

    /// Removes a snapshot. Returns false if its manifest stays in a registry that does not support deletion.
    pub(crate) async fn delete(&mut self, name: String) -> Result<bool, ClientError> {
        let request = DeleteSnapshotRequest { name };
        let response = self.0.delete_snapshot(request).await.map_err(client_error)?;
        Ok(!response.into_inner().manifest_stays)
    }
}

fn no_snapshot() -> ClientError {
    ClientError::Refused("the response of the node has no snapshot".into())
}

fn client_error(status: Status) -> ClientError {
    ClientError::Refused(status.message().to_owned())
}
