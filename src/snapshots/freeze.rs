//! Freezes the cgroups of a pod, and keeps a record of the freeze on disk.
//!
//! The record is written before the freeze and removed after the thaw, so the next process finds the pods that a kill
//! left frozen.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::SnapshotId;
use crate::sys::{
    durable::{self, at},
    freezer::{FreezeResult, Frozen, Group},
};

/// The interval at which a waiting capture checks whether it goes on.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The record of a freeze on disk.
#[derive(Debug, Serialize, Deserialize)]
struct FreezeRecord {
    groups: Vec<Group>,
}

/// The pods that captures freeze. One capture at a time freezes a pod: of two, the first to end would thaw it under the
/// other.
#[derive(Debug, Clone, Default)]
pub(super) struct Freezes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By pod uid. `None` before the freeze begins.
    pods: HashMap<String, Option<Arc<Frozen>>>,
    /// No further pod may be frozen.
    closed: bool,
}

impl Freezes {
    /// The right to freeze a pod, which one capture has at a time. Blocks while another capture has it and `go_on`
    /// returns true. `None` if it then does not, and after [`Freezes::close`].
    pub(super) fn turn(&self, pod_uid: &str, go_on: &dyn Fn() -> bool) -> Option<PodTurn> {
        let mut state = self.0.state.lock();
        while !state.closed && state.pods.contains_key(pod_uid) {
            if !go_on() {
                return None;
            }
            self.0.changed.wait_for(&mut state, POLL_INTERVAL);
        }
        if state.closed {
            return None;
        }
        state.pods.insert(pod_uid.to_owned(), None);
        Some(PodTurn { pod_uid: pod_uid.to_owned(), all: self.clone() })
    }

    /// Refuses all further freezes.
    pub(super) fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
    }

    /// Thaws all pods, and refuses all further freezes.
    pub(super) fn abort_all(&self) {
        self.close();
        let pods: Vec<_> = self.0.state.lock().pods.values().flatten().cloned().collect();
        for pod in pods {
            if let Err(error) = pod.abort() {
                tracing::error!(%error, "a pod may still be frozen; the driver thaws it at its next start");
            }
        }
    }
}

/// The right to freeze one pod, given back when dropped.
#[derive(Debug)]
pub(super) struct PodTurn {
    pod_uid: String,
    all: Freezes,
}

impl PodTurn {
    /// Freezes all processes in these cgroups of the pod. `None` after [`Freezes::close`].
    ///
    /// # Errors
    /// `TimedOut` if they are not frozen within that time.
    pub(super) fn freeze(
        self,
        records: &Path,
        id: &SnapshotId,
        groups: Vec<Group>,
        within: Duration,
    ) -> io::Result<Option<Freeze>> {
        let record = records.join(format!("{id}.json"));
        let text = serde_json::to_vec_pretty(&FreezeRecord { groups: groups.clone() })?;
        durable::write_atomic(&record, &text)?;
        let frozen = Frozen::new(&groups, within).map(Arc::new);
        let frozen = frozen.inspect_err(|_| drop(durable::remove_file(&record)))?;
        // From here on the drop of the freeze removes the record.
        let freeze = Freeze { frozen, record, turn: self };
        if !freeze.turn.register(&freeze.frozen) {
            return Ok(None);
        }
        freeze.frozen.freeze()?;
        Ok(Some(freeze))
    }

    /// Registers the processes for [`Freezes::abort_all`]. Returns whether the pod may be frozen.
    fn register(&self, frozen: &Arc<Frozen>) -> bool {
        let mut state = self.all.0.state.lock();
        if !state.closed {
            state.pods.insert(self.pod_uid.clone(), Some(frozen.clone()));
        }
        !state.closed
    }
}

impl Drop for PodTurn {
    fn drop(&mut self) {
        self.all.0.state.lock().pods.remove(&self.pod_uid);
        self.all.0.changed.notify_all();
    }
}

/// A frozen pod. It is thawed when this is dropped, or at the deadline.
#[derive(Debug)]
pub(super) struct Freeze {
    frozen: Arc<Frozen>,
    /// The record on disk.
    record: PathBuf,
    /// Given back last.
    turn: PodTurn,
}

impl Freeze {
    /// Whether the deadline has passed.
    pub(super) fn is_late(&self) -> bool {
        self.frozen.is_late()
    }

    /// Thaws the pod. Returns for how long it was frozen.
    pub(super) fn end(self) -> io::Result<FreezeResult> {
        self.frozen.thaw()
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        // If the thaw fails, the record stays for the next start.
        let thawed = self.frozen.thaw().and_then(|_| durable::remove_file(&self.record));
        if let Err(error) = thawed {
            let record = self.record.display();
            tracing::error!(%record, %error, "cannot thaw a pod or remove its record");
        }
    }
}

/// Thaws all pods that an earlier process left frozen. A pod that cannot be thawed is logged and keeps its record: it
/// must not keep the node from serving. Without a directory of records no pod is frozen.
pub(super) fn thaw_all(records: &Path) -> io::Result<()> {
    if !records.try_exists().map_err(at("look at", records))? {
        return Ok(());
    }
    durable::remove_temp_files(records)?;
    for entry in fs::read_dir(records).map_err(at("list", records))? {
        let path = entry.map_err(at("list", records))?.path();
        match thaw(&path).and_then(|()| durable::remove_file(&path)) {
            // The process that wrote the record removed it in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !path.exists() => {}
            Ok(()) => {
                tracing::warn!(record = %path.display(), "thawed a pod that was left frozen")
            }
            Err(error) => {
                let record = path.display();
                tracing::error!(%record, %error, "a pod may still be frozen; thaw its cgroup");
            }
        }
    }
    Ok(())
}

fn thaw(path: &Path) -> io::Result<()> {
    let record: FreezeRecord = serde_json::from_slice(&fs::read(path)?)?;
    // All of them, also after an error.
    let results: Vec<_> = record.groups.iter().map(Group::thaw).collect();
    results.into_iter().collect()
}
