//! Chooses the node that compares for an OverlayDiff: the node of its pod, or one that has its snapshot.

use super::{error::Refusal, names::volume_handle};
use crate::{
    cluster::{
        Client, ClusterError, NodeState,
        overlay_diff::{OverlayDiff, OverlayDiffStatus, PodVolumeRef},
        overlay_snapshot::OverlaySnapshot,
        snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    },
    dns_name::is_subdomain,
};

/// Why no node is chosen.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssignError {
    /// A request to the API server failed. A later try may succeed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// It cannot be carried out.
    #[error(transparent)]
    Refused(#[from] DiffRefusal),
}

/// Why an OverlayDiff cannot be carried out, as a message for its creator.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiffRefusal {
    #[error(
        "this namespace has {0} other OverlayDiffs already; wait until some of them are gone, or delete some"
    )]
    TooMany(usize),
    #[error("set either volumeSnapshotName or pod")]
    Spec,
    #[error("{0:?} is not a valid name of an object")]
    Name(String),
    #[error("there is no VolumeSnapshot {name} in namespace {namespace}")]
    NoSnapshot { namespace: String, name: String },
    #[error("VolumeSnapshot {0} is not captured yet; wait until it is ready")]
    NotReady(String),
    #[error("VolumeSnapshot {name} cannot be used: {why}")]
    Foreign { name: String, why: &'static str },
    #[error(
        "node {node}, which has snapshot {name}, is not Ready, and no other node has it; wait until the node is back"
    )]
    NoNode { node: String, name: String },
    #[error(transparent)]
    Pod(#[from] Refusal),
    #[error("volume {volume} of pod {pod} is read-only, so nothing in it has changed")]
    ReadOnly { pod: String, volume: String },
    #[error("pod {0} has ended, and its volumes are gone")]
    Ended(String),
    #[error("pod {0} is on no node yet; wait until it runs")]
    NotScheduled(String),
    #[error("node {node} of pod {pod} is not Ready; wait until the node is back")]
    PodNodeNotReady { node: String, pod: String },
}

/// Where a snapshot is.
struct Place {
    name: String,
    /// The node that has captured it.
    node: String,
    is_pushed: bool,
}

/// The status that assigns a request to a node.
pub(super) async fn status_of(
    client: &Client,
    request: &OverlayDiff,
) -> Result<OverlayDiffStatus, AssignError> {
    let spec = &request.spec;
    let namespace = request.metadata.namespace.as_deref().unwrap_or_default();
    let base = match &spec.base_volume_snapshot_name {
        Some(name) => Some(place(client, &spec.driver, namespace, name).await?),
        None => None,
    };
    match (&spec.volume_snapshot_name, &spec.pod) {
        (Some(name), None) => {
            let snapshot = place(client, &spec.driver, namespace, name).await?;
            let node = node_of(client, snapshot, base).await?;
            Ok(OverlayDiffStatus { node_name: Some(node), ..OverlayDiffStatus::default() })
        }
        (None, Some(pod)) => pod_status(client, &spec.driver, namespace, pod).await,
        _ => Err(DiffRefusal::Spec.into()),
    }
}

/// The node that has the snapshots, or can pull those that it lacks.
async fn node_of(
    client: &Client,
    snapshot: Place,
    base: Option<Place>,
) -> Result<String, AssignError> {
    let mut places = vec![snapshot];
    places.extend(base);
    // A snapshot that was not pushed is on one node only.
    places.sort_by_key(|place| place.is_pushed);
    let can_move = places.iter().all(|place| place.is_pushed);
    let most = if can_move { places.len() } else { 1 };
    for place in &places[..most] {
        if client.node(&place.node).await? == NodeState::Ready {
            return Ok(place.node.clone());
        }
    }
    let Place { name, node, .. } = places.swap_remove(0);
    Err(DiffRefusal::NoNode { node, name }.into())
}

/// Finds the node of a snapshot: from the VolumeSnapshot to its content to its OverlaySnapshot.
async fn place(
    client: &Client,
    driver: &str,
    namespace: &str,
    name: &str,
) -> Result<Place, AssignError> {
    let name = checked(name)?;
    let not_ready = || DiffRefusal::NotReady(name.to_owned());
    let foreign = |why| DiffRefusal::Foreign { name: name.to_owned(), why };
    let snapshot = client.get::<VolumeSnapshot>(Some(namespace), name).await?;
    let snapshot = snapshot.ok_or_else(|| DiffRefusal::NoSnapshot {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })?;
    let content = snapshot.status.and_then(|status| status.bound_volume_snapshot_content_name);
    let content = content.ok_or_else(not_ready)?;
    let content = client.get::<VolumeSnapshotContent>(None, checked(&content)?).await?;
    let content = content.ok_or_else(not_ready)?;
    if content.spec.driver != driver {
        return Err(foreign("it belongs to another driver").into());
    }
    let in_status = content.status.and_then(|status| status.snapshot_handle);
    let handle = content.spec.source.snapshot_handle.or(in_status).ok_or_else(not_ready)?;
    let overlay = client.get::<OverlaySnapshot>(None, checked(&handle)?).await?;
    let overlay = overlay.ok_or_else(not_ready)?;
    if overlay.spec.source.namespace != namespace {
        return Err(foreign("its content is for another namespace").into());
    }
    let is_pushed = overlay.status.is_some_and(|status| status.image.is_some());
    Ok(Place { name: name.to_owned(), node: overlay.spec.node_name, is_pushed })
}

/// The status for a pod's volume, which only the pod's node can read.
async fn pod_status(
    client: &Client,
    driver: &str,
    namespace: &str,
    wanted: &PodVolumeRef,
) -> Result<OverlayDiffStatus, AssignError> {
    let name = checked(&wanted.name)?;
    let refused = |refusal: Refusal| AssignError::from(DiffRefusal::from(refusal));
    let pod = client.pod(namespace, name).await?;
    let pod = pod.ok_or_else(|| refused(Refusal::NoPod(name.to_owned())))?;
    let (of_pod, volume) = (name.to_owned(), wanted.volume.clone());
    let found = pod.volumes.iter().find(|found| found.name == volume);
    let found = found.ok_or_else(|| refused(Refusal::no_volume(&pod, &volume)))?;
    match found.driver.as_deref() {
        None => return Err(refused(Refusal::NotCsi { pod: of_pod, volume })),
        Some(other) if other != driver => {
            let driver = driver.to_owned();
            return Err(refused(Refusal::NotOurs { pod: of_pod, volume, driver }));
        }
        Some(_) if found.read_only => {
            return Err(DiffRefusal::ReadOnly { pod: of_pod, volume }.into());
        }
        Some(_) => {}
    }
    if pod.ended {
        return Err(DiffRefusal::Ended(of_pod).into());
    }
    let node = pod.node.ok_or_else(|| DiffRefusal::NotScheduled(of_pod.clone()))?;
    if client.node(&node).await? != NodeState::Ready {
        return Err(DiffRefusal::PodNodeNotReady { node, pod: of_pod }.into());
    }
    Ok(OverlayDiffStatus {
        node_name: Some(node),
        volume_handle: Some(volume_handle(&pod.uid, &volume)),
        pod_uid: Some(pod.uid),
    })
}

/// A name that is safe as a part of a request path. Users may write any text.
fn checked(name: &str) -> Result<&str, AssignError> {
    match is_subdomain(name) {
        true => Ok(name),
        false => Err(DiffRefusal::Name(name.chars().take(300).collect()).into()),
    }
}
