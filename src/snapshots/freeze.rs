//! A pod that stands still, and the note on disk that says so.
//!
//! The note is there before the pod is frozen and goes after it goes on, so that the next process finds whom a kill left frozen.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::SnapshotId;
use crate::sys::{
    durable::{self, at},
    freezer::{Frozen, Group, Stood},
};

#[derive(Debug, Serialize, Deserialize)]
struct FreezeRecord {
    groups: Vec<Group>,
}

/// The pods that are being stopped, one cut at a time for each: whoever is done first would thaw the pod under the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Freezes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By uid; `None` before they are told to stand still.
    pods: HashMap<String, Option<Arc<Frozen>>>,
    /// Nobody is stopped any more.
    closed: bool,
}

impl Freezes {
    /// The right to stop a pod, once nobody else has it; `None` where nobody is stopped any more. Blocks, for as long as another
    /// cut may stop it.
    pub(super) fn turn(&self, pod_uid: &str) -> Option<PodTurn> {
        let waits = |state: &mut State| !state.closed && state.pods.contains_key(pod_uid);
        let mut state = self.0.changed.wait_while(self.0.state(), waits);
        let state = state.as_deref_mut().unwrap_or_else(|poisoned| poisoned.get_mut());
        if state.closed {
            return None;
        }
        state.pods.insert(pod_uid.to_owned(), None);
        Some(PodTurn { pod_uid: pod_uid.to_owned(), all: self.clone() })
    }

    /// From here on nobody is stopped.
    pub(super) fn close(&self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }

    /// Lets all go on, and stops nobody any more.
    pub(super) fn abort_all(&self) {
        self.close();
        let pods: Vec<_> = self.0.state().pods.values().flatten().cloned().collect();
        for pod in pods {
            if let Err(error) = pod.give_up() {
                tracing::error!(%error, "a pod may stand still: it is told to go on at the next start");
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is one step, so it is whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to stop one pod, given back when dropped.
#[derive(Debug)]
pub(super) struct PodTurn {
    pod_uid: String,
    all: Freezes,
}

impl PodTurn {
    /// Makes everybody in these cgroups of the pod stand still; `None` where nobody is stopped any more.
    ///
    /// Errors: `TimedOut` where they do not within that time.
    pub(super) fn stop(
        self,
        notes: &Path,
        id: &SnapshotId,
        groups: Vec<Group>,
        within: Duration,
    ) -> io::Result<Option<Freeze>> {
        let note = notes.join(format!("{id}.json"));
        let text = serde_json::to_vec_pretty(&FreezeRecord { groups: groups.clone() })?;
        durable::write_atomic(&note, &text)?;
        let frozen = Frozen::new(&groups, within).map(Arc::new);
        let frozen = frozen.inspect_err(|_| drop(durable::remove_file(&note)))?;
        // From here on the note goes with it.
        let standstill = Freeze { frozen, note, turn: self };
        if !standstill.turn.report(&standstill.frozen) {
            return Ok(None);
        }
        standstill.frozen.hold()?;
        Ok(Some(standstill))
    }

    /// Tells whom to give up; answers whether the pod may be stopped.
    fn report(&self, frozen: &Arc<Frozen>) -> bool {
        let mut state = self.all.0.state();
        if !state.closed {
            state.pods.insert(self.pod_uid.clone(), Some(frozen.clone()));
        }
        !state.closed
    }
}

impl Drop for PodTurn {
    fn drop(&mut self) {
        self.all.0.state().pods.remove(&self.pod_uid);
        self.all.0.changed.notify_all();
    }
}

/// A pod that stands still until this is dropped, or its time is up.
#[derive(Debug)]
pub(super) struct Freeze {
    frozen: Arc<Frozen>,
    note: PathBuf,
    /// Given back last of all.
    turn: PodTurn,
}

impl Freeze {
    /// Whether the time is up.
    pub(super) fn is_late(&self) -> bool {
        self.frozen.is_late()
    }

    /// Lets everybody go on; answers for how long they stood still.
    pub(super) fn end(self) -> io::Result<Stood> {
        self.frozen.thaw()
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        // Where they cannot be thawed the note stays, for the next start.
        let thawed = self.frozen.thaw().and_then(|_| durable::remove_file(&self.note));
        if let Err(error) = thawed {
            tracing::error!(note = %self.note.display(), %error, "the note of a frozen pod is left");
        }
    }
}

/// Lets everybody go on whom a process before this one has frozen. One that cannot be thawed is told, and keeps its note: it must not
/// keep the node from serving. Without a directory of notes there is nobody.
pub(super) fn thaw_all(notes: &Path) -> io::Result<()> {
    if !notes.try_exists().map_err(at("look at", notes))? {
        return Ok(());
    }
    durable::sweep(notes)?;
    for entry in fs::read_dir(notes).map_err(at("list", notes))? {
        let path = entry.map_err(at("list", notes))?.path();
        match thaw(&path).and_then(|()| durable::remove_file(&path)) {
            // Whoever wrote it was done meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !path.exists() => {}
            Ok(()) => tracing::warn!(note = %path.display(), "a pod that was left frozen goes on"),
            Err(error) => {
                tracing::error!(note = %path.display(), %error, "a pod may stand still: thaw its cgroup")
            }
        }
    }
    Ok(())
}

fn thaw(note: &Path) -> io::Result<()> {
    let note: FreezeRecord = serde_json::from_slice(&fs::read(note)?)?;
    // Each of them, whatever becomes of another.
    let done: Vec<_> = note.groups.iter().map(Group::thaw).collect();
    done.into_iter().collect()
}
