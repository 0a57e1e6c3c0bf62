//! Garbage collection for volumes: finds the roots that the volumes' records name, and runs the rounds of the store.

use std::{
    collections::BTreeSet,
    path::{Component, Path},
    sync::Arc,
    time::Duration,
};

use super::{RecordError, VolumeId, mount_name::is_named, records::Records};
use crate::{
    layers::{CollectError, GcStats, Roots, Store, Watermarks},
    metrics::Metrics,
    sys::mounts::{Mount, Mounts},
};

/// How long a layer stays that nothing needs. A pull that was interrupted can then continue with the layers it has.
pub(super) const LAYER_GRACE: Duration = Duration::from_secs(600);

/// Runs rounds of the store with the roots of all volumes.
#[derive(Debug)]
pub(super) struct GarbageCollector {
    pub(super) store: Arc<Store>,
    pub(super) records: Records,
    pub(super) mounts: Arc<dyn Mounts>,
    pub(super) watermarks: Watermarks,
    pub(super) metrics: Metrics,
}

impl GarbageCollector {
    /// Registers the collector with the store, which calls it when the disk is full.
    pub(super) fn start(self) -> Arc<Self> {
        let collector = Arc::new(self);
        let weak = Arc::downgrade(&collector);
        collector.store.disk.on_full(move |bytes| {
            // `free_space` has logged its error, and the writer that needs the space gets an error of its own.
            let _ = weak.upgrade().map(|collector| collector.free_space(bytes));
        });
        collector
    }

    /// Runs a whole round.
    pub(super) fn collect(&self) -> Result<GcStats, CollectError> {
        let done = self.store.collect(|| self.roots(), &self.watermarks);
        self.count(done.as_ref());
        done
    }

    /// Runs a round that ends as soon as `need` bytes are free.
    fn free_space(&self, need: u64) -> Result<(), CollectError> {
        let done = self.store.free_space(|| self.roots(), self.watermarks.grace, need);
        if let Some(done) = done.as_ref().map(Option::as_ref).transpose() {
            self.count(done);
        }
        done.map(drop)
    }

    fn count(&self, done: Result<&GcStats, &CollectError>) {
        self.metrics.open_layers(self.store.layers.open_count());
        if let Ok(space) = self.store.disk.space() {
            let percent = |part: u8| space.total / 100 * u64::from(part);
            let Watermarks { high, low, .. } = self.watermarks;
            self.metrics.disk(space.total, space.available, percent(high), percent(low));
        }
        match done {
            Ok(done) => {
                self.metrics.collected(done.layers, done.bytes);
                self.metrics.store(done.kept_layers, done.kept_bytes);
            }
            Err(error) => {
                self.metrics.collection_skipped();
                tracing::warn!(%error, "garbage collection skipped");
            }
        }
    }

    /// The layers of all volumes, and the manifests of their images.
    ///
    /// A record is written before its mount is made, and removed after the mount. So the mount table is read first:
    /// each overlay in it still has its record, or was unmounted meanwhile. A read-only volume shows no upper; only
    /// its name identifies it.
    fn roots(&self) -> Result<Roots, CollectError> {
        let table = self.table()?;
        let before = self.mounted(&table);
        let (mut roots, mut recorded) = (Roots::default(), BTreeSet::new());
        for id in self.records.list()? {
            match self.records.read(&id) {
                Ok(Some(record)) => {
                    roots.layers.extend(record.stack);
                    roots.manifests.extend(record.manifests);
                    recorded.insert(id);
                }
                Ok(None) => {}
                // The volume cannot be mounted again, so it needs no layer. Unpublish removes the rest of it.
                Err(RecordError::Unreadable { is_later: false, .. })
                    if !before.contains(&id) && !self.shows(&table, &id) => {}
                Err(error) => return Err(CollectError::IncompleteRoots(error.to_string())),
            }
        }
        let mut lost = before.difference(&recorded).peekable();
        if lost.peek().is_some() {
            let now = self.mounted(&self.table()?);
            if let Some(id) = lost.find(|id| now.contains(id)) {
                let why = format!("volume {id} is mounted and has no record; delete its pod");
                return Err(CollectError::IncompleteRoots(why));
            }
        }
        Ok(roots)
    }

    fn table(&self) -> Result<Vec<Mount>, CollectError> {
        self.mounts.table().map_err(|e| CollectError::IncompleteRoots(e.to_string()))
    }

    /// Whether the mount table shows the name of a volume.
    fn shows(&self, table: &[Mount], id: &VolumeId) -> bool {
        table.iter().any(|mount| is_named(mount, &self.store, id))
    }

    /// The volumes whose uppers are in the mount table.
    fn mounted(&self, table: &[Mount]) -> BTreeSet<VolumeId> {
        let volumes = self.store.volumes();
        table.iter().filter_map(|mount| volume_of(mount, &volumes)).collect()
    }
}

/// The volume below `volumes` whose upper the mount uses, if the mount is an overlay of such a volume.
fn volume_of(mount: &Mount, volumes: &Path) -> Option<VolumeId> {
    let upper = (mount.fs_type == "overlay").then(|| mount.super_option("upperdir"))??;
    match Path::new(&upper).strip_prefix(volumes).ok()?.components().next()? {
        Component::Normal(name) => name.to_str()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
