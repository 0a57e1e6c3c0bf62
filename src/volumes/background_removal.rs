//! What is left to do when nobody sees a volume any more, on threads of its own.
//!
//! ```text
//! unpublish: detach ──► rename into staging ──► answer
//!                                  └──► empty it ──► let go of the mounts
//! ```
//!
//! When the last mount of an overlay goes, the kernel writes out every unwritten byte of the *whole file system* that its upper
//! is on (fs/super.c, `generic_shutdown_super`; fs/overlayfs/super.c, `ovl_sync_fs`): the volume's own, which nobody wants any
//! more, and everybody else's. So the mount is held while the upper is emptied from below, which takes its bytes out of memory
//! before they reach a disk, and what the kernel then waits for holds nobody up.
//!
//! A process that ends in between leaves a tree in staging, which the next start removes, and closes what it holds. What cannot be
//! removed (something is mounted in it) is tried again every minute. Deliberately absent: any decision that a volume may go.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
};

use super::project_quota::Projects;
use crate::sys::{durable, mounts::Detached};

/// A volume that is gone for everybody else.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Its tree, in staging.
    pub(super) tree: Option<PathBuf>,
    /// The project that limited it: what the tree holds counts for it until the end.
    pub(super) project: Option<u32>,
    /// Mounts that keep its overlay, and its tmpfs, alive.
    pub(super) mounts: Vec<Detached>,
}

/// The two threads.
#[derive(Debug)]
pub(super) struct Removal {
    remover: Sender<Gone>,
    closer: Sender<Vec<Detached>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    projects: Arc<Projects>,
    /// What could not be removed.
    left: Mutex<Vec<Gone>>,
    under_way: AtomicUsize,
}

impl Removal {
    pub(super) fn begin(projects: Arc<Projects>) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { projects, left: Mutex::default(), under_way: AtomicUsize::new(0) });
        let (closer, to_close) = channel::<Vec<Detached>>();
        let (remover, to_remove) = channel::<Gone>();
        let (remove, close, next) = (shared.clone(), shared.clone(), closer.clone());
        thread::Builder::new().name("volume-remover".to_owned()).spawn(move || {
            for gone in to_remove {
                remove.remove(gone, &next);
            }
        })?;
        thread::Builder::new().name("volume-closer".to_owned()).spawn(move || {
            for mounts in to_close {
                // Here the kernel syncs, for as long as the disk takes.
                drop(mounts);
                close.under_way.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { remover, closer, shared })
    }

    /// Removes a volume that nobody sees any more.
    pub(super) fn take(&self, gone: Gone) {
        self.shared.under_way.fetch_add(1, Ordering::Relaxed);
        // The threads end when this is dropped, so there is one.
        let _ = self.remover.send(gone);
    }

    /// Lets go of mounts whose volume stays, or was removed before.
    pub(super) fn close(&self, mounts: Vec<Detached>) {
        if !mounts.is_empty() {
            self.shared.under_way.fetch_add(1, Ordering::Relaxed);
            let _ = self.closer.send(mounts);
        }
    }

    /// Tries what could not be removed again.
    pub(super) fn retry(&self) {
        let left = std::mem::take(&mut *self.shared.left());
        left.into_iter().for_each(|gone| self.take(gone));
    }

    /// Whether there is nothing left to do but what has to be tried again.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.shared.under_way.load(Ordering::Relaxed) == 0
    }
}

impl Shared {
    fn remove(&self, mut gone: Gone, closer: &Sender<Vec<Detached>>) {
        let mounts = std::mem::take(&mut gone.mounts);
        match gone.tree.as_deref().map_or(Ok(()), durable::remove_tree) {
            Ok(()) => {
                if let Some(project) = gone.project {
                    self.projects.give_back(project);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what a volume held cannot be removed: tried again in a minute");
                self.left().push(gone);
            }
        }
        // It has counted for the other thread from here on.
        let _ = closer.send(mounts);
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Vec<Gone>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tempfile::TempDir;

    use super::*;

    fn wait(removal: &Removal) {
        while !removal.is_idle() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_cannot_be_removed_is_tried_again() {
        let dir = TempDir::new().unwrap();
        let (staging, tree) = (dir.path().join("staging"), dir.path().join("staging/1"));
        // A staging directory that is none fails every removal, as a mount in the tree would.
        fs::write(&staging, "").unwrap();
        let projects = Arc::new(Projects::open(dir.path(), Default::default));
        let removal = Removal::begin(projects).unwrap();
        removal.take(Gone { tree: Some(tree.clone()), ..Gone::default() });
        wait(&removal);
        fs::remove_file(&staging).unwrap();
        fs::create_dir_all(tree.join("deep")).unwrap();
        removal.retry();
        wait(&removal);
        assert!(!tree.exists() && staging.is_dir());
        assert!(removal.shared.left().is_empty());
    }
}
