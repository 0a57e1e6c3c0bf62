//! The socket on which a node without a cluster is asked for snapshots: the server, and the client that `ovl snapshot` is.
//!
//! As the driver's own socket it is root's alone, and each call on it is a task that runs to its end: who gives up waiting for a
//! push has not stopped it.

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
    calls::{self, Calls},
    config::Endpoint,
    proto::local::{
        CaptureVolumeRequest, CaptureVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse,
        ListSnapshotsRequest, ListSnapshotsResponse, PushSnapshotRequest, PushSnapshotResponse,
        Snapshot,
        snapshots_client::SnapshotsClient,
        snapshots_server::{Snapshots, SnapshotsServer},
    },
    server::{GRACE, grpc},
    socket::Socket,
    status::status,
};
use crate::{
    agent::{Failure, Local, Told},
    changeset::{Compression, Format},
    fault::Class,
    metrics::Metrics,
    snapshots::{Consistency, CutRequest},
};

/// For how long a pod may stand still where nobody says: as a VolumeSnapshotClass that does not.
const WITHIN: Duration = Duration::from_secs(5);

/// The socket, claimed: from here on callers are heard, and wait until they are served.
#[derive(Debug)]
pub struct LocalSocket {
    endpoint: Endpoint,
    socket: Socket,
}

impl LocalSocket {
    /// Claims it, for root only.
    ///
    /// # Errors
    /// Somebody serves there, or the file cannot be made.
    pub async fn open(endpoint: Endpoint) -> Result<Self, ServeError> {
        let socket = Socket::claim(endpoint.path()).await?;
        Ok(Self { endpoint, socket })
    }

    /// Serves until `shutdown`, and gives calls under way a moment then.
    ///
    /// # Errors
    /// The gRPC server broke.
    pub async fn serve(
        self,
        local: Local,
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
            // What is done by then stays done; the rest is asked for again.
            () = async { shutdown.cancelled().await; sleep(GRACE).await } => Ok(()),
        }
    }
}

/// Answers for the snapshots of a node without a cluster.
#[derive(Debug)]
struct Service {
    local: Local,
}

#[async_trait]
impl Snapshots for Service {
    async fn capture_volume(
        &self,
        request: Request<CaptureVolumeRequest>,
    ) -> Result<Response<CaptureVolumeResponse>, Status> {
        let request = request.into_inner();
        calls::about_snapshot(&request.name);
        let told = self.local.capture(capture(&request)?).await.map_err(refused)?;
        Ok(Response::new(CaptureVolumeResponse { snapshot: Some(shown(told)) }))
    }

    async fn push_snapshot(
        &self,
        request: Request<PushSnapshotRequest>,
    ) -> Result<Response<PushSnapshotResponse>, Status> {
        let PushSnapshotRequest { name, repository, format, compression } = request.into_inner();
        calls::about_snapshot(&name);
        let to = (!repository.is_empty()).then(|| repository.parse()).transpose();
        let (format, compression) = (one_of(&format, &FORMATS)?, one_of(&compression, &PACKINGS)?);
        let (id, to) = (parsed(&name)?, to.map_err(invalid)?);
        let pushed = self.local.push(&id, to, format, compression).await;
        let (told, pushed) = pushed.map_err(refused)?;
        let answer = PushSnapshotResponse { snapshot: Some(shown(told)), sent: pushed.sent };
        Ok(Response::new(answer))
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
        calls::about_snapshot(&name);
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

/// What is to be captured.
fn capture(request: &CaptureVolumeRequest) -> Result<CutRequest, Status> {
    let within = match request.within_millis {
        0 => WITHIN,
        millis => Duration::from_millis(millis.into()),
    };
    let consistency = match request.live {
        true => Consistency::Live,
        false => Consistency::Frozen { within, or_live: request.or_live },
    };
    let (id, volume) = (parsed(&request.name)?, parsed(&request.volume)?);
    // Whoever may ask here owns the node, and all pods on it.
    Ok(CutRequest { id, volume, pod: None, consistency })
}

/// The words for a layer's form and for what is around it; the first one is meant where nobody says.
const FORMATS: [(&str, Format); 2] = [("portable", Format::Portable), ("native", Format::Native)];
const PACKINGS: [(&str, Compression); 3] =
    [("zstd", Compression::Zstd), ("gzip", Compression::Gzip), ("none", Compression::None)];

fn one_of<T: Copy>(word: &str, known: &[(&str, T)]) -> Result<T, Status> {
    let meant = known.iter().find(|(name, _)| *name == word || word.is_empty());
    meant.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        invalid(format!("{word:?} is none of {}", names.join(", ")))
    })
}

/// A snapshot as it is said.
fn shown(Told { record, pushing }: Told) -> Snapshot {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Snapshot {
        name: record.id.to_string(),
        namespace: record.source.namespace,
        pod: record.source.pod,
        volume: record.source.volume,
        captured: record.cut.to_string(),
        frozen_micros: record.frozen_micros,
        entries: record.entries,
        bytes: record.bytes,
        layers: count(record.stack.len()),
        own_layers: count(record.own),
        parent: record.parent.map(|id| id.to_string()).unwrap_or_default(),
        image: record.pushed.unwrap_or_default(),
        pushing: pushing.unwrap_or_default(),
    }
}

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody answers there.
    #[error(
        "no `ovl node` answers at {endpoint}: {source}; it serves snapshots where it runs with --no-cluster"
    )]
    Unreachable {
        /// The socket.
        endpoint: Endpoint,
        /// The system's words.
        source: tonic::transport::Error,
    },
    /// It says why.
    #[error("{0}")]
    Refused(String),
}

/// Asks a node without a cluster for snapshots. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LocalClient(SnapshotsClient<Channel>);

impl LocalClient {
    /// Connects to a node's socket.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self, AskError> {
        let unreachable = |source| AskError::Unreachable { endpoint: endpoint.clone(), source };
        let dial = Dial::from_shared(endpoint.to_string()).map_err(unreachable)?;
        let channel = dial.connect().await.map_err(unreachable)?;
        Ok(Self(SnapshotsClient::new(channel)))
    }

    /// Captures a volume.
    ///
    /// # Errors
    /// The node's own sentence, as for all of these.
    pub(crate) async fn capture(
        &mut self,
        request: CaptureVolumeRequest,
    ) -> Result<Snapshot, AskError> {
        let answer = self.0.capture_volume(request).await.map_err(said)?;
        answer.into_inner().snapshot.ok_or_else(|| AskError::Refused("it says nothing".into()))
    }

    /// Pushes a snapshot; also how many bytes had to be sent.
    pub(crate) async fn push(
        &mut self,
        request: PushSnapshotRequest,
    ) -> Result<(Snapshot, u64), AskError> {
        let answer = self.0.push_snapshot(request).await.map_err(said)?.into_inner();
        let snapshot =
            answer.snapshot.ok_or_else(|| AskError::Refused("it says nothing".into()))?;
        Ok((snapshot, answer.sent))
    }

    /// All snapshots of the node, by name.
    pub(crate) async fn list(&mut self) -> Result<Vec<Snapshot>, AskError> {
        let answer = self.0.list_snapshots(ListSnapshotsRequest {}).await.map_err(said)?;
        Ok(answer.into_inner().snapshots)
    }

    /// Removes a snapshot; returns false where its manifest stays in a registry that deletes nothing.
    pub(crate) async fn delete(&mut self, name: String) -> Result<bool, AskError> {
        let answer = self.0.delete_snapshot(DeleteSnapshotRequest { name }).await.map_err(said)?;
        Ok(!answer.into_inner().manifest_stays)
    }
}

fn said(status: Status) -> AskError {
    AskError::Refused(status.message().to_owned())
}
