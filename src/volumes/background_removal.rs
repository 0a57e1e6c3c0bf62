//! The background removal of volumes: two threads remove the data of unpublished volumes and release their mounts.
//!
//! ```text
//! unpublish: detach ──► rename into staging ──► return
//!                                  └──► remove the tree ──► release the mounts
//! ```
//!
//! When the last mount of an overlay is released, the kernel writes all dirty data of the *whole file system* of its
//! upper to disk (fs/super.c, `generic_shutdown_super`; fs/overlayfs/super.c, `ovl_sync_fs`): the data of the volume,
//! which is not needed any more, and the data of all others. Therefore the mount is kept while the upper is removed
//! from below. That drops its dirty pages before they reach the disk. The kernel's sync of the rest then delays no
//! call.
//!
//! A process that ends in between closes its mounts and leaves a tree in staging, which the next process removes while
//! it serves. A tree that cannot be removed (something is mounted in it) is tried again every minute. Deliberately absent: the decision
//! to remove a volume.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
};

use parking_lot::Mutex;

use super::project_quota::Projects;
use crate::sys::{durable, mounts::Detached};

/// A volume that was moved into staging and is to be removed.
#[derive(Debug, Default)]
pub(super) struct RemovedVolume {
    /// Its tree in staging, if there is one.
    pub(super) tree: Option<PathBuf>,
    /// The project of its quota. The files of the tree are charged to it until they are removed.
    pub(super) project: Option<u32>,
    /// Mounts that keep its overlay and its tmpfs alive.
    pub(super) mounts: Vec<Detached>,
}

/// The senders to the two threads. The threads end when it is dropped.
#[derive(Debug)]
pub(super) struct BackgroundRemoval {
    remover: Sender<RemovedVolume>,
    closer: Sender<Vec<Detached>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    projects: Arc<Projects>,
    /// Volumes whose tree could not be removed.
    failed: Mutex<Vec<RemovedVolume>>,
    /// Requests that the two threads have not finished.
    in_flight: AtomicUsize,
}

impl BackgroundRemoval {
    pub(super) fn start(projects: Arc<Projects>) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { projects, failed: Mutex::default(), in_flight: AtomicUsize::new(0) });
        let (closer, to_close) = channel::<Vec<Detached>>();
        let (remover, to_remove) = channel::<RemovedVolume>();
        let (remove, close, next) = (shared.clone(), shared.clone(), closer.clone());
        thread::Builder::new().name("volume-remover".to_owned()).spawn(move || {
            for volume in to_remove {
                remove.remove(volume, &next);
            }
        })?;
        thread::Builder::new().name("volume-closer".to_owned()).spawn(move || {
            for mounts in to_close {
                // The kernel syncs here, which takes as long as the disk needs.
                drop(mounts);
                close.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { remover, closer, shared })
    }

    /// Removes a volume in the background.
    pub(super) fn remove(&self, volume: RemovedVolume) {
        self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        // The send cannot fail: the thread ends only when `self` is dropped.
        let _ = self.remover.send(volume);
    }

    /// Releases mounts in the background. Their volume stays, or was removed before.
    pub(super) fn close(&self, mounts: Vec<Detached>) {
        if !mounts.is_empty() {
            self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
            let _ = self.closer.send(mounts);
        }
    }

    /// Tries again to remove the volumes that could not be removed.
    pub(super) fn retry(&self) {
        let failed = std::mem::take(&mut *self.shared.failed.lock());
        failed.into_iter().for_each(|volume| self.remove(volume));
    }

    /// Whether both threads are idle. Volumes that could not be removed may wait for a retry.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.shared.in_flight.load(Ordering::Relaxed) == 0
    }
}

impl Shared {
    fn remove(&self, mut volume: RemovedVolume, closer: &Sender<Vec<Detached>>) {
        let mounts = std::mem::take(&mut volume.mounts);
        match volume.tree.as_deref().map_or(Ok(()), durable::remove_tree) {
            Ok(()) => {
                if let Some(project) = volume.project {
                    self.projects.give_back(project);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot remove the data of an unpublished volume; trying again in a minute");
                self.failed.lock().push(volume);
            }
        }
        // From here on `in_flight` counts the request of the other thread.
        let _ = closer.send(mounts);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tempfile::TempDir;

    use super::*;

    fn wait(removal: &BackgroundRemoval) {
        while !removal.is_idle() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_volume_that_cannot_be_removed_is_tried_again() {
        let dir = TempDir::new().unwrap();
        let (staging, tree) = (dir.path().join("staging"), dir.path().join("staging/1"));
        // A file in the place of the staging directory fails every removal, as a mount in the tree would.
        fs::write(&staging, "").unwrap();
        let projects = Arc::new(Projects::open(dir.path(), Default::default));
        let removal = BackgroundRemoval::start(projects).unwrap();
        removal.remove(RemovedVolume { tree: Some(tree.clone()), ..RemovedVolume::default() });
        wait(&removal);
        fs::remove_file(&staging).unwrap();
        fs::create_dir_all(tree.join("deep")).unwrap();
        removal.retry();
        wait(&removal);
        assert!(!tree.exists() && staging.is_dir());
        assert!(removal.shared.failed.lock().is_empty());
    }
}
