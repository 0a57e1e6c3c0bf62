//! What the controller knows of the cluster, from watches: the snapshots by id, and what they refer to.
//!
//! A cache may be old. So a reconcile that reads it creates only what may exist already, changes only the object that it
//! has seen (by uid or resource version), and reads the API server again before it deletes or gives up anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{
    cached::{CachedVolumeSnapshot, Content, Overlay},
    names::id_of,
};
use crate::cluster::{
    Change, NodeState, Values, overlay_snapshot::Phase, snapshot_api::VolumeSnapshotClass,
};

/// Everything about one snapshot id.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotObjects {
    /// The VolumeSnapshot whose uid is in the id.
    pub(super) request: Option<Arc<CachedVolumeSnapshot>>,
    /// The contents of this driver with this handle.
    pub(super) contents: Vec<Arc<Content>>,
    /// The OverlaySnapshot of this name, of any driver.
    pub(super) overlay: Option<Arc<Overlay>>,
    /// The phase for which this process has just recorded Events, until the watch brings it in the OverlaySnapshot.
    pub(super) reported: Option<Phase>,
}

impl SnapshotObjects {
    fn is_empty(&self) -> bool {
        self.request.is_none() && self.contents.is_empty() && self.overlay.is_none()
    }

    /// The namespace whose work this is.
    pub(super) fn namespace(&self) -> &str {
        let request = self.request.as_ref().map(|request| &request.reference);
        let content = || self.contents.iter().find_map(|content| content.reference.as_ref());
        match (request.or_else(content), &self.overlay) {
            (Some(reference), _) => &reference.namespace,
            (None, Some(overlay)) => &overlay.namespace,
            (None, None) => "",
        }
    }
}

/// The caches of one leader.
#[derive(Debug, Default)]
pub(super) struct Caches {
    pub(super) snapshots: Values<SnapshotObjects>,
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    /// The contents of all drivers by name.
    contents: HashMap<String, Arc<Content>>,
    classes: BTreeMap<String, VolumeSnapshotClass>,
    nodes: HashMap<String, NodeState>,
    /// The number of this driver's snapshots in each phase. A snapshot without a report of its node has `None`.
    phases: BTreeMap<Option<Phase>, usize>,
    /// This driver's snapshots that are captured and whose push is not complete, by the time of their capture.
    unpushed: BTreeSet<(Timestamp, String)>,
}

impl Caches {
    /// The content of a name, of any driver.
    pub(super) fn content(&self, name: &str) -> Option<Arc<Content>> {
        self.others.lock().contents.get(name).cloned()
    }

    pub(super) fn class(&self, name: &str) -> Option<VolumeSnapshotClass> {
        self.others.lock().classes.get(name).cloned()
    }

    /// The classes that `wanted` accepts.
    pub(super) fn classes(
        &self,
        wanted: impl Fn(&VolumeSnapshotClass) -> bool,
    ) -> Vec<VolumeSnapshotClass> {
        self.others.lock().classes.values().filter(|class| wanted(class)).cloned().collect()
    }

    pub(super) fn node(&self, name: &str) -> NodeState {
        self.others.lock().nodes.get(name).copied().unwrap_or(NodeState::Gone)
    }

    /// The number of this driver's snapshots in each phase.
    pub(super) fn phases(&self) -> Vec<(&'static str, usize)> {
        let others = self.others.lock();
        let all = [None].into_iter().chain(Phase::ALL.map(Some)).chain([Some(Phase::Unknown)]);
        all.map(|phase| {
            let count = others.phases.get(&phase).copied().unwrap_or_default();
            (phase.map_or("Pending", Phase::word), count)
        })
        .collect()
    }

    /// When the oldest snapshot of this driver was captured whose push is not complete.
    pub(super) fn oldest_unpushed(&self) -> Option<Timestamp> {
        self.others.lock().unpushed.first().map(|(captured, _)| *captured)
    }

    /// Remembers that Events were recorded for a phase.
    pub(super) fn set_reported(&self, id: &str, phase: Phase) {
        self.change(id, |snapshot| snapshot.reported = Some(phase));
    }

    /// Applies a change of VolumeSnapshots. Returns the ids of the snapshots that changed.
    pub(super) fn apply_volume_snapshots(
        &self,
        change: Change<Option<CachedVolumeSnapshot>>,
    ) -> BTreeSet<String> {
        let vanished = |kept: &HashSet<String>| {
            let has_request = |snapshot: &SnapshotObjects| snapshot.request.is_some();
            let known = self.snapshots.names(has_request).into_iter();
            known.filter(|id| !kept.contains(id)).map(|id| (id, None)).collect()
        };
        let changes = by_name(change, |request| Some(request.as_ref()?.id()), vanished);
        let mut changed = BTreeSet::new();
        for (id, request) in changes {
            let request = request.flatten().map(Arc::new);
            if self.change(&id, |snapshot| {
                let differs = snapshot.request != request;
                snapshot.request = request;
                differs
            }) {
                changed.insert(id);
            }
        }
        changed
    }

    /// Applies a change of OverlaySnapshots, and counts those of `driver`. Returns the ids of the snapshots that
    /// changed.
    pub(super) fn apply_overlays(&self, change: Change<Overlay>, driver: &str) -> BTreeSet<String> {
        let vanished = |kept: &HashSet<String>| {
            let known = self.snapshots.names(|snapshot| snapshot.overlay.is_some()).into_iter();
            known.filter(|id| !kept.contains(id)).map(|id| (id, None)).collect()
        };
        let changes = by_name(change, |overlay| Some(overlay.name.clone()), vanished);
        let mut changed = BTreeSet::new();
        for (id, overlay) in changes {
            let overlay = overlay.map(Arc::new);
            let counted = |overlay: &Option<Arc<Overlay>>| {
                let ours = overlay.as_ref().filter(|overlay| overlay.driver == driver)?;
                Some((ours.status.phase, ours.status.captured_at))
            };
            let (after, mut before) = (counted(&overlay), None);
            if self.change(&id, |snapshot| {
                before = counted(&snapshot.overlay);
                let differs = snapshot.overlay != overlay;
                let reported = overlay.as_ref().map(|overlay| overlay.reported.as_deref());
                if reported.is_none_or(|word| word == snapshot.reported.map(Phase::word)) {
                    snapshot.reported = None;
                }
                snapshot.overlay = overlay;
                differs
            }) {
                self.others.lock().count(&id, before, after);
                changed.insert(id);
            }
        }
        changed
    }

    /// Applies a change of contents. Returns the ids of the snapshots to reconcile: those of the handle, and the
    /// VolumeSnapshot that a content refers to.
    pub(super) fn apply_contents(&self, change: Change<Content>) -> BTreeSet<String> {
        let vanished = |kept: &HashSet<String>| {
            let known = self.others.lock().contents.keys().cloned().collect::<Vec<_>>().into_iter();
            known.filter(|name| !kept.contains(name)).map(|name| (name, None)).collect()
        };
        let changes = by_name(change, |content| Some(content.name.clone()), vanished);
        let mut changed = BTreeSet::new();
        for (name, content) in changes {
            let content = content.map(Arc::new);
            let before = match &content {
                Some(content) => self.others.lock().contents.insert(name.clone(), content.clone()),
                None => self.others.lock().contents.remove(&name),
            };
            if before == content {
                continue;
            }
            for old in before.iter().filter(|old| old.has_our_driver) {
                changed.extend(related(old));
                if let Some(id) = &old.handle {
                    self.change(id, |snapshot| {
                        snapshot.contents.retain(|known| known.name != name)
                    });
                }
            }
            for new in content.iter().filter(|new| new.has_our_driver) {
                changed.extend(related(new));
                if let Some(id) = &new.handle {
                    self.change(id, |snapshot| snapshot.contents.push(new.clone()));
                }
            }
        }
        changed
    }

    /// Applies a change of classes.
    pub(super) fn apply_classes(&self, change: Change<VolumeSnapshotClass>) {
        let name = |class: &VolumeSnapshotClass| class.metadata.name.clone();
        let vanished = |kept: &HashSet<String>| {
            let known = self.others.lock().classes.keys().cloned().collect::<Vec<_>>().into_iter();
            known.filter(|name| !kept.contains(name)).map(|name| (name, None)).collect()
        };
        let changes = by_name(change, name, vanished);
        let mut others = self.others.lock();
        for (name, class) in changes {
            match class {
                Some(class) => drop(others.classes.insert(name, class)),
                None => drop(others.classes.remove(&name)),
            }
        }
    }

    /// Applies a change of nodes. Returns the ids of the snapshots that wait for a node whose state changed.
    pub(super) fn apply_nodes(&self, change: Change<(String, NodeState)>) -> BTreeSet<String> {
        let vanished = |kept: &HashSet<String>| {
            let known = self.others.lock().nodes.keys().cloned().collect::<Vec<_>>().into_iter();
            known.filter(|name| !kept.contains(name)).map(|name| (name, None)).collect()
        };
        let changes = by_name(change, |(name, _)| Some(name.clone()), vanished);
        let mut changed = HashSet::new();
        for (name, node) in changes {
            let state = node.map(|(_, state)| state);
            let before = match state {
                Some(state) => self.others.lock().nodes.insert(name.clone(), state),
                None => self.others.lock().nodes.remove(&name),
            };
            if before != state {
                changed.insert(name);
            }
        }
        if changed.is_empty() {
            return BTreeSet::new();
        }
        let waits = |snapshot: &SnapshotObjects| {
            let overlay = snapshot.overlay.as_ref();
            overlay.is_some_and(|overlay| {
                changed.contains(&overlay.node) && (overlay.is_deleted || overlay.needs_node())
            })
        };
        self.snapshots.names(waits).into_iter().collect()
    }

    /// Changes what is known of an id.
    fn change<R>(&self, id: &str, change: impl FnOnce(&mut SnapshotObjects) -> R) -> R {
        self.snapshots.update(id, |known| {
            let mut snapshot = known.unwrap_or_default();
            let result = change(&mut snapshot);
            ((!snapshot.is_empty()).then_some(snapshot), result)
        })
    }
}

/// What is counted of a snapshot: its phase, and the time of its capture.
type Counted = (Option<Phase>, Option<Timestamp>);

impl Others {
    /// Counts a snapshot anew. `None`: it is not a snapshot of this driver, or is gone.
    fn count(&mut self, id: &str, before: Option<Counted>, after: Option<Counted>) {
        let unpushed = |(phase, captured): Counted| {
            (phase == Some(Phase::Pushing)).then_some((captured?, id.to_owned()))
        };
        if let Some(counted) = before {
            let count = self.phases.entry(counted.0).or_default();
            *count = count.saturating_sub(1);
            if let Some(known) = unpushed(counted) {
                self.unpushed.remove(&known);
            }
        }
        if let Some(counted) = after {
            *self.phases.entry(counted.0).or_default() += 1;
            self.unpushed.extend(unpushed(counted));
        }
    }
}

/// The ids that a content concerns.
fn related(content: &Content) -> impl Iterator<Item = String> {
    let of_request = content.reference.as_ref().map(|reference| id_of(&reference.uid));
    content.handle.clone().into_iter().chain(of_request)
}

/// The new state of each object of a change; `None` for one that is gone. `vanished` adds the known objects that a
/// complete list no longer has.
fn by_name<T>(
    change: Change<T>,
    name: impl Fn(&T) -> Option<String>,
    vanished: impl FnOnce(&HashSet<String>) -> Vec<(String, Option<T>)>,
) -> Vec<(String, Option<T>)> {
    match change {
        Change::Applied(object) => {
            name(&object).map(|name| (name, Some(object))).into_iter().collect()
        }
        Change::Gone(object) => name(&object).map(|name| (name, None)).into_iter().collect(),
        Change::All(all) => {
            let listed: Vec<_> =
                all.into_iter().filter_map(|one| Some((name(&one)?, one))).collect();
            let mut changes = vanished(&listed.iter().map(|(name, _)| name.clone()).collect());
            changes.extend(listed.into_iter().map(|(name, object)| (name, Some(object))));
            changes
        }
    }
}

#[cfg(test)]
#[path = "caches_tests.rs"]
mod tests;
