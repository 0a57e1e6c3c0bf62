//! The CSI controller calls, as far as they are about snapshots. Every replica answers them: all there is to know is in the cluster.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    Controller, ControllerError,
    class::Parameters,
    follow::name_of,
    leftovers::Removal,
    names::{id_of_csi, is_label, volume_handle},
    requests::{cuttable, is_taken},
};
use crate::cluster::{
    Pod, PodVolume,
    overlay_snapshot::{OverlaySnapshot, Phase, SnapshotOf},
};

/// The name of the VolumeSnapshot, where csi-snapshotter runs with `--extra-create-metadata`.
const ASKED_BY: &str = "csi.storage.k8s.io/volumesnapshot/name";
/// What a token to go on with begins with.
const AFTER: &str = "after:";

/// A snapshot, as CSI knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its handle.
    pub id: String,
    /// The handle of its volume.
    pub volume: String,
    /// When it was cut; before that, when it was asked for.
    pub created: Timestamp,
    /// It can be restored wherever it is to be.
    pub ready: bool,
    /// Bytes of its newest layer; 0 while nobody knows.
    pub bytes: i64,
}

/// Which snapshots are to be listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Of this handle only.
    pub id: Option<String>,
    /// Of the volume of this handle only.
    pub volume: Option<String>,
    /// What the last page said to go on with.
    pub token: Option<String>,
    /// So many at most; 0: all.
    pub most: i32,
}

/// Snapshots by name, and what to go on with where there are more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// These.
    pub snapshots: Vec<Snapshot>,
    /// For [`Query::token`].
    pub next: Option<String>,
}

impl Controller {
    /// Whether a pod has the volume of this handle.
    ///
    /// # Errors
    /// By class.
    pub async fn has_volume(&self, handle: &str) -> Result<bool, ControllerError> {
        Ok(self.find_volume(handle).await?.is_some())
    }

    /// Has the volume of this handle cut, under a name of CSI's; the same again answers how far it is.
    ///
    /// # Errors
    /// By class; [`Precondition`](crate::fault::Class::Precondition) once the snapshot has failed for good.
    pub async fn create_snapshot(
        &self,
        name: &str,
        volume: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Snapshot, ControllerError> {
        let id = id_of_csi(name);
        let checked = Parameters::parse(parameters)?;
        if let Some(made) = self.client().get::<OverlaySnapshot>(None, &id).await? {
            return self.same(&made, volume);
        }
        let (node, of) = self.volume(volume).await?;
        let asked_by = parameters.get(ASKED_BY).map_or(id.as_str(), String::as_str);
        let spec = self.asked(checked, node, of, asked_by)?.spec;
        match self.client().create(&OverlaySnapshot::new(&id, spec)).await {
            Ok(made) => self.same(&made, volume),
            // By another call, a moment ago: the caller's next one finds it.
            Err(error) if is_taken(&error) => {
                match self.client().get::<OverlaySnapshot>(None, &id).await? {
                    Some(made) => self.same(&made, volume),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a snapshot; that there is none is fine.
    ///
    /// # Errors
    /// [`Busy`](crate::fault::Class::Busy) while its node works on it.
    pub async fn delete_snapshot(&self, id: &str) -> Result<(), ControllerError> {
        let Some(made) = self.snapshot(id).await? else { return Ok(()) };
        match self.remove(&made).await? {
            Removal::Gone => Ok(()),
            Removal::Waiting => {
                Err(ControllerError::Removing { id: id.to_owned(), node: made.spec.node_name })
            }
        }
    }

    /// The snapshot of this handle.
    ///
    /// # Errors
    /// [`NotFound`](crate::fault::Class::NotFound); [`Precondition`](crate::fault::Class::Precondition) for one that failed.
    pub async fn get_snapshot(&self, id: &str) -> Result<Snapshot, ControllerError> {
        let made = self.snapshot(id).await?.filter(|made| !made.spec.deleted);
        let made =
            made.ok_or_else(|| ControllerError::NoSnapshot(id.chars().take(130).collect()))?;
        usable(&made)?;
        Ok(shown(&made))
    }

    /// Snapshots, by name. Asked for by handle, one that has failed is an error: so its sentence reaches the VolumeSnapshot.
    ///
    /// # Errors
    /// By class.
    pub async fn list_snapshots(&self, query: &Query) -> Result<Page, ControllerError> {
        let most = usize::try_from(query.most).map_err(|_| ControllerError::Most(query.most))?;
        let after = query.token.as_deref().map(after).transpose()?;
        let mut all = match &query.id {
            Some(id) => {
                let found = self.snapshot(id).await?;
                found.iter().filter(|made| !made.spec.deleted).try_for_each(usable)?;
                Vec::from_iter(found)
            }
            None => self.client().list::<OverlaySnapshot>().await?,
        };
        all.retain(|made| {
            let of_volume =
                query.volume.as_ref().is_none_or(|volume| *volume == made.spec.volume_handle);
            made.spec.driver == self.0.driver && !made.spec.deleted && of_volume
        });
        let mut snapshots: Vec<_> = all.iter().map(shown).collect();
        snapshots.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(page(snapshots, after, most))
    }

    /// The snapshot of this handle, if it is one of ours.
    async fn snapshot(&self, id: &str) -> Result<Option<OverlaySnapshot>, ControllerError> {
        if !is_label(id) {
            // No name of ours, and perhaps no part of a path.
            return Ok(None);
        }
        let found = self.client().get::<OverlaySnapshot>(None, id).await?;
        Ok(found.filter(|made| made.spec.driver == self.0.driver))
    }

    /// The answer for a snapshot that is there under the name that was asked for.
    fn same(&self, made: &OverlaySnapshot, volume: &str) -> Result<Snapshot, ControllerError> {
        let id = name_of(made);
        if made.spec.volume_handle != volume || made.spec.driver != self.0.driver {
            let theirs = made.spec.volume_handle.clone();
            return Err(ControllerError::OtherSource { id, theirs, ours: volume.to_owned() });
        }
        if made.spec.deleted {
            return Err(ControllerError::Removing { id, node: made.spec.node_name.clone() });
        }
        usable(made)?;
        Ok(shown(made))
    }

    /// The node and the pod of a volume that can be cut.
    async fn volume(&self, handle: &str) -> Result<(String, SnapshotOf), ControllerError> {
        let Some((pod, volume)) = self.find_volume(handle).await? else {
            let handle = handle.chars().take(130).collect();
            return Err(ControllerError::NoVolume { driver: self.0.driver.clone(), handle });
        };
        let node = cuttable(&pod, &volume)?.to_owned();
        let (namespace, pod_uid) = (pod.namespace, pod.uid);
        Ok((node, SnapshotOf { namespace, pod: pod.name, pod_uid, volume: volume.name }))
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

fn usable(made: &OverlaySnapshot) -> Result<(), ControllerError> {
    let status = made.status.clone().unwrap_or_default();
    match status.phase {
        Some(Phase::Failed) => {
            let why = status.message.unwrap_or_else(|| "its node does not say why".to_owned());
            Err(ControllerError::Failed { id: name_of(made), why })
        }
        _ => Ok(()),
    }
}

fn shown(made: &OverlaySnapshot) -> Snapshot {
    let status = made.status.clone().unwrap_or_default();
    let cut = status.cut_time.and_then(|time| time.parse().ok());
    let asked = made.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Snapshot {
        id: name_of(made),
        volume: made.spec.volume_handle.clone(),
        created: cut.or(asked).unwrap_or_default(),
        ready: status.phase == Some(Phase::Ready),
        bytes: status.bytes.unwrap_or_default().max(0),
    }
}

/// Behind which name a token says to go on.
fn after(token: &str) -> Result<&str, ControllerError> {
    let name = token.strip_prefix(AFTER).filter(|name| !name.is_empty());
    name.ok_or_else(|| ControllerError::Token(token.chars().take(130).collect()))
}

/// The page behind a name, of snapshots by name.
fn page(mut snapshots: Vec<Snapshot>, after: Option<&str>, most: usize) -> Page {
    if let Some(after) = after {
        snapshots.retain(|snapshot| snapshot.id.as_str() > after);
    }
    let more = most > 0 && snapshots.len() > most;
    if more {
        snapshots.truncate(most);
    }
    let next = snapshots.last().filter(|_| more).map(|last| format!("{AFTER}{}", last.id));
    Page { snapshots, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(names: &[&str]) -> Vec<Snapshot> {
        let snapshot = |id: &&str| Snapshot {
            id: (*id).to_owned(),
            volume: String::new(),
            created: Timestamp::UNIX_EPOCH,
            ready: true,
            bytes: 0,
        };
        names.iter().map(snapshot).collect()
    }

    #[test]
    fn pages_have_all_snapshots_once_also_while_some_come_and_go() {
        let all = ["a", "b", "c", "d", "e"];
        for most in 1..=6 {
            let (mut seen, mut token): (Vec<String>, Option<String>) = (Vec::new(), None);
            loop {
                let behind = token.as_deref().map(|token| after(token).unwrap());
                let page = page(snapshots(&all), behind, most);
                assert!(page.snapshots.len() <= most);
                seen.extend(page.snapshots.into_iter().map(|snapshot| snapshot.id));
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
            assert_eq!(seen, all, "{most}");
        }
        // The one at which a page ended is gone.
        let rest = page(snapshots(&["a", "c"]), Some("b"), 5);
        assert_eq!((rest.snapshots, rest.next), (snapshots(&["c"]), None));
        assert_eq!(page(snapshots(&all), None, 0).snapshots.len(), 5);
    }

    #[test]
    fn a_token_is_one_that_was_given() {
        for token in ["", "b", "after:", "invalid-token"] {
            assert!(after(token).is_err(), "{token:?}");
        }
    }
}
