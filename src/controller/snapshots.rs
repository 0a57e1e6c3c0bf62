//! The CSI controller calls about snapshots. Every replica can serve them, because all state is in the API server.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    Controller, ControllerError,
    cached::Overlay,
    names::{id_of_csi, volume_handle},
    parameters::Parameters,
    volume_snapshot::{capturable, is_taken},
};
use crate::{
    backoff::Backoff,
    cluster::{
        Pod, PodVolume,
        overlay_snapshot::{OverlaySnapshot, Phase, SnapshotSource},
    },
    dns_name::is_label,
    error::Class,
};

/// The parameter with the name of the VolumeSnapshot, which csi-snapshotter sets with `--extra-create-metadata`.
const REQUESTED_BY: &str = "csi.storage.k8s.io/volumesnapshot/name";
/// The pause before the second look at a removal.
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const REMOVAL_PAUSE_MAX: Duration = Duration::from_secs(2);
/// The prefix of a page token.
const AFTER: &str = "after:";

/// A snapshot with the fields of CSI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsiSnapshot {
    /// The CSI handle of the snapshot.
    pub id: String,
    /// The CSI handle of its volume.
    pub volume: String,
    /// The time of the capture; before the capture, the time of the request.
    pub created: Timestamp,
    /// Whether the snapshot is complete, and pushed if a repository is set.
    pub ready: bool,
    /// The bytes of its newest layer; 0 while unknown.
    pub bytes: i64,
}

/// The filters and the page of a list of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only the snapshot of this handle.
    pub id: Option<String>,
    /// Only snapshots of the volume of this handle.
    pub volume: Option<String>,
    /// The token of the last page; `None` starts the list.
    pub token: Option<String>,
    /// The most snapshots of the page; 0 for all.
    pub limit: i32,
}

/// A page of snapshots, sorted by handle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The snapshots of the page.
    pub snapshots: Vec<CsiSnapshot>,
    /// The [`Query::token`] of the next page; `None` after the last one.
    pub next: Option<String>,
}

impl Controller {
    /// Whether a pod has the volume of this handle.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn has_volume(&self, handle: &str) -> Result<bool, ControllerError> {
        Ok(self.find_volume(handle).await?.is_some())
    }

    /// Requests the capture of the volume of this handle, under the name of a CreateSnapshot call. The same call again
    /// returns the progress.
    ///
    /// # Errors
    /// Any [`ControllerError`]; of class [`Precondition`](crate::error::Class::Precondition) once the snapshot has
    /// failed for good.
    pub async fn create_snapshot(
        &self,
        name: &str,
        volume: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<CsiSnapshot, ControllerError> {
        let id = id_of_csi(name);
        let checked = Parameters::parse(parameters)?;
        if let Some(object) = self.client().get::<OverlaySnapshot>(None, &id).await? {
            return self.same(&object, volume);
        }
        let (node, of) = self.volume(volume).await?;
        let requested_by = parameters.get(REQUESTED_BY).map_or(id.as_str(), String::as_str);
        let spec = self.new_spec(checked, node, of, requested_by)?.spec;
        match self.client().create(&OverlaySnapshot::new(&id, spec)).await {
            Ok(object) => self.same(&object, volume),
            // Another call has just created it. If it is gone again, the caller's next call starts anew.
            Err(error) if is_taken(&error) => {
                match self.client().get::<OverlaySnapshot>(None, &id).await? {
                    Some(object) => self.same(&object, volume),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a snapshot, and waits for its node for as long as `limit`. Nodes are mostly done within a second, and
    /// csi-snapshotter emits a warning for each call that returns before.
    ///
    /// # Errors
    /// As [`Self::delete_snapshot`].
    pub async fn delete_snapshot_within(
        &self,
        id: &str,
        limit: Duration,
    ) -> Result<(), ControllerError> {
        let end = Instant::now() + limit;
        let mut backoff = Backoff::new(REMOVAL_PAUSE, REMOVAL_PAUSE_MAX);
        loop {
            let deleted = self.delete_snapshot(id).await;
            let waits = matches!(&deleted, Err(error) if error.class() == Class::Busy);
            let pause = backoff.next_pause();
            if !waits || Instant::now() + pause > end {
                return deleted;
            }
            sleep(pause).await;
        }
    }

    /// Removes a snapshot. It is no error if there is none of this handle.
    ///
    /// # Errors
    /// Of class [`Busy`](crate::error::Class::Busy) while its node removes it; else the error of the API server.
    pub async fn delete_snapshot(&self, id: &str) -> Result<(), ControllerError> {
        let Some(overlay) = self.snapshot(id).await?.map(Overlay::from) else { return Ok(()) };
        let marked = match overlay.is_deleted {
            true => Some(overlay),
            false => self.mark_deleted(&overlay).await?,
        };
        let Some(marked) = marked else { return Ok(()) };
        let node = self.client().node(&marked.node).await?;
        match self.finish_removal(&marked, node).await? {
            true => Ok(()),
            false => {
                let name = marked.reference.map_or(marked.name, |reference| reference.name);
                Err(ControllerError::Removing { name, node: marked.node })
            }
        }
    }

    /// The snapshot of this handle.
    ///
    /// # Errors
    /// Of class [`NotFound`](crate::error::Class::NotFound) if there is none, of class
    /// [`Precondition`](crate::error::Class::Precondition) if it has failed; else the error of the API server.
    pub async fn get_snapshot(&self, id: &str) -> Result<CsiSnapshot, ControllerError> {
        let object = self.snapshot(id).await?.filter(|object| !object.spec.deleted);
        let object =
            object.ok_or_else(|| ControllerError::NoSnapshot(id.chars().take(130).collect()))?;
        usable(&object)?;
        Ok(shown(&object))
    }

    /// A page of snapshots, sorted by handle. If the query has a handle, a failed snapshot is an error, so that its
    /// message reaches the VolumeSnapshot.
    ///
    /// # Errors
    /// An invalid query, a failed snapshot that is queried by handle, or the error of the API server.
    pub async fn list_snapshots(&self, query: &Query) -> Result<Page, ControllerError> {
        let limit =
            usize::try_from(query.limit).map_err(|_| ControllerError::MaxEntries(query.limit))?;
        let after = query.token.as_deref().map(after).transpose()?;
        let mut all = match &query.id {
            Some(id) => {
                let found = self.snapshot(id).await?;
                found.iter().filter(|object| !object.spec.deleted).try_for_each(usable)?;
                Vec::from_iter(found)
            }
            None => self.client().list::<OverlaySnapshot>().await?,
        };
        all.retain(|object| {
            let of_volume =
                query.volume.as_ref().is_none_or(|volume| *volume == object.spec.volume_handle);
            object.spec.driver == self.0.driver && !object.spec.deleted && of_volume
        });
        let mut snapshots: Vec<_> = all.iter().map(shown).collect();
        snapshots.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(page(snapshots, after, limit))
    }

    /// The OverlaySnapshot of this handle, if it belongs to this driver.
    async fn snapshot(&self, id: &str) -> Result<Option<OverlaySnapshot>, ControllerError> {
        if !is_label(id) {
            // This driver gives no such handle, and it must not become a part of a request path.
            return Ok(None);
        }
        let found = self.client().get::<OverlaySnapshot>(None, id).await?;
        Ok(found.filter(|object| object.spec.driver == self.0.driver))
    }

    /// The response for an existing snapshot of the requested name.
    fn same(&self, object: &OverlaySnapshot, volume: &str) -> Result<CsiSnapshot, ControllerError> {
        let id = name_of(object);
        if object.spec.volume_handle != volume || object.spec.driver != self.0.driver {
            let existing = object.spec.volume_handle.clone();
            let requested = volume.to_owned();
            return Err(ControllerError::OtherSource { id, existing, requested });
        }
        if object.spec.deleted {
            let (name, node) = (known_name(object), object.spec.node_name.clone());
            return Err(ControllerError::Removing { name, node });
        }
        usable(object)?;
        Ok(shown(object))
    }

    /// The node and the pod of a volume that can be captured.
    async fn volume(&self, handle: &str) -> Result<(String, SnapshotSource), ControllerError> {
        let Some((pod, volume)) = self.find_volume(handle).await? else {
            let handle = handle.chars().take(130).collect();
            return Err(ControllerError::NoVolume { driver: self.0.driver.clone(), handle });
        };
        let node = capturable(&pod, &volume)?.to_owned();
        let (namespace, pod_uid) = (pod.namespace, pod.uid);
        Ok((node, SnapshotSource { namespace, pod: pod.name, pod_uid, volume: volume.name }))
    }

    async fn find_volume(&self, handle: &str) -> Result<Option<(Pod, PodVolume)>, ControllerError> {
        let driver = &self.0.driver;
        let is_it = |uid: &str, volume: &PodVolume| {
            volume.driver.as_ref() == Some(driver) && volume_handle(uid, &volume.name) == handle
        };
        let found =
            self.client().find_pod(|pod| pod.volumes.iter().any(|v| is_it(&pod.uid, v))).await?;
        Ok(found.and_then(|pod| {
            let volume = pod.volumes.iter().find(|v| is_it(&pod.uid, v)).cloned()?;
            Some((pod, volume))
        }))
    }
}

fn name_of(object: &OverlaySnapshot) -> String {
    object.metadata.name.clone().unwrap_or_default()
}

/// The name by which the user knows the snapshot: that of its VolumeSnapshot, or that of a CreateSnapshot call.
fn known_name(object: &OverlaySnapshot) -> String {
    let named = object.spec.volume_snapshot.as_ref().map(|named| named.name.clone());
    named.unwrap_or_else(|| name_of(object))
}

fn usable(object: &OverlaySnapshot) -> Result<(), ControllerError> {
    let status = object.status.clone().unwrap_or_default();
    match status.phase {
        Some(Phase::Failed) => {
            let why = status.message.unwrap_or_else(|| "its node gives no reason".to_owned());
            Err(ControllerError::Failed { name: known_name(object), why })
        }
        _ => Ok(()),
    }
}

fn shown(object: &OverlaySnapshot) -> CsiSnapshot {
    let status = object.status.clone().unwrap_or_default();
    let captured = status.captured_at().and_then(|time| time.parse().ok());
    let requested = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    CsiSnapshot {
        id: name_of(object),
        volume: object.spec.volume_handle.clone(),
        created: captured.or(requested).unwrap_or_default(),
        ready: status.phase == Some(Phase::Ready),
        bytes: status.bytes.unwrap_or_default().max(0),
    }
}

/// The handle after which the page of a token starts.
fn after(token: &str) -> Result<&str, ControllerError> {
    let name = token.strip_prefix(AFTER).filter(|name| !name.is_empty());
    name.ok_or_else(|| ControllerError::Token(token.chars().take(130).collect()))
}

/// The page after a handle, of snapshots that are sorted by handle.
fn page(mut snapshots: Vec<CsiSnapshot>, after: Option<&str>, limit: usize) -> Page {
    if let Some(after) = after {
        snapshots.retain(|snapshot| snapshot.id.as_str() > after);
    }
    let more = limit > 0 && snapshots.len() > limit;
    if more {
        snapshots.truncate(limit);
    }
    let next = snapshots.last().filter(|_| more).map(|last| format!("{AFTER}{}", last.id));
    Page { snapshots, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(names: &[&str]) -> Vec<CsiSnapshot> {
        let snapshot = |id: &&str| CsiSnapshot {
            id: (*id).to_owned(),
            volume: String::new(),
            created: Timestamp::UNIX_EPOCH,
            ready: true,
            bytes: 0,
        };
        names.iter().map(snapshot).collect()
    }

    #[test]
    fn pages_have_each_snapshot_once_while_others_are_deleted() {
        let all = ["a", "b", "c", "d", "e"];
        for limit in 1..=6 {
            let (mut seen, mut token): (Vec<String>, Option<String>) = (Vec::new(), None);
            loop {
                let behind = token.as_deref().map(|token| after(token).unwrap());
                let page = page(snapshots(&all), behind, limit);
                assert!(page.snapshots.len() <= limit);
                seen.extend(page.snapshots.into_iter().map(|snapshot| snapshot.id));
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
            assert_eq!(seen, all, "{limit}");
        }
        // The last snapshot of a page was deleted meanwhile.
        let rest = page(snapshots(&["a", "c"]), Some("b"), 5);
        assert_eq!((rest.snapshots, rest.next), (snapshots(&["c"]), None));
        assert_eq!(page(snapshots(&all), None, 0).snapshots.len(), 5);
    }

    #[test]
    fn a_token_that_no_page_returned_is_refused() {
        for token in ["", "b", "after:", "invalid-token"] {
            assert!(after(token).is_err(), "{token:?}");
        }
    }
}
