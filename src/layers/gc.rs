//! Garbage collection: removes unreachable layers and, above the disk's high watermark, the least recently used images.
//!
//! ```text
//! leases are watched ─► roots are read ─► each unreachable layer without a lease since step 1: renamed away ─► deleted
//! ```
//!
//! A call that creates a volume holds a lease from before it looks for a layer until the volume's record is on disk. So
//! a layer in use either had a lease at some time after the first step, or its record existed at the second.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    error::CollectError,
    gc_stats::{GcStats, RemovedImage},
    image_record::ImageRecord,
    key::LayerKey,
    layer_meta::LayerMeta,
    mounted_layer::IDLE,
    staging::discard,
    store::Store,
};
use crate::{digest::ManifestDigest, sys::statfs::Space};

/// The thresholds of garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Images are removed when the disk is fuller than this, in percent.
    pub high: u8,
    /// Images are removed until the disk is no fuller than this, in percent.
    pub low: u8,
    /// The time for which an unreachable layer is kept after it was added: the pull of its image may still be in
    /// flight.
    pub grace: Duration,
}

/// What must not be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// The layers that records name.
    pub layers: HashSet<LayerKey>,
    /// The manifests of the images that records name: their configs are needed for a snapshot of a volume that was
    /// created from these images.
    pub manifests: HashSet<ManifestDigest>,
}

/// One garbage collection round.
struct Round<'s> {
    store: &'s Store,
    _watch: LeaseWatch<'s>,
    /// What the records of volumes, snapshots and workspaces name.
    roots: Roots,
    /// All layers of the store, with their bytes and their age.
    present: HashMap<LayerKey, (u64, Duration)>,
    /// The space of the disk. Removed bytes are added to it instead of querying it again, because some file systems
    /// free space with a delay.
    space: Space,
    done: GcStats,
}

impl Store {
    /// Removes unreachable layers. Then, if the disk is fuller than the high watermark, removes images and their
    /// layers, the least recently used first, until the disk is no fuller than the low watermark. Also writes the last
    /// uses of images to the disk. Blocks.
    ///
    /// `roots` returns what is needed by anything except leases, snapshots, workspaces and images. It is called after the
    /// store has begun to watch leases.
    ///
    /// # Errors
    /// `roots` failed, or the record of a snapshot or a workspace cannot be read ([`CollectError::IncompleteRoots`]): no layer is removed.
    /// Or a file system operation failed.
    pub fn collect(
        &self,
        roots: impl Fn() -> Result<Roots, CollectError>,
        watermarks: &Watermarks,
    ) -> Result<GcStats, CollectError> {
        // Before the round, because it waits for the disk.
        self.images.write_uses();
        let _turn = self.rounds.turn()?;
        let mut round = Round::begin(self, roots, Timestamp::MIN)?;
        round.sweep(watermarks.grace, None)?;
        if round.space.used_percent() > watermarks.high {
            round.remove_images_until(|space| space.used_percent() <= watermarks.low)?;
        }
        Ok(round.end())
    }

    /// Removes those of `layers` that no record needs. They are a workspace's own layers, which no volume has. An image can
    /// have one: a layer was applied on top of it. Blocks.
    ///
    /// # Errors
    /// A record cannot be read: no layer is removed. Or a file system operation failed.
    pub fn collect_layers(&self, layers: &[LayerKey]) -> Result<GcStats, CollectError> {
        let _turn = self.rounds.turn()?;
        let mut round = Round::begin(self, || Ok(Roots::default()), Timestamp::MIN)?;
        let images = self.images.by_last_use()?;
        let kept: HashSet<LayerKey> =
            images.iter().flat_map(|image| &image.layers).copied().collect();
        for key in layers {
            if !round.roots.layers.contains(key) && !kept.contains(key) {
                round.remove(key);
            }
        }
        Ok(round.end())
    }

    /// Removes the record of an image, and those of its layers that nothing else needs. With `force` also an image from
    /// which a workspace or a snapshot was made: that one keeps the layers. Blocks.
    ///
    /// # Errors
    /// A record cannot be read: nothing is removed. Or a file system operation failed.
    pub fn remove_image(
        &self,
        manifest: &ManifestDigest,
        force: bool,
    ) -> Result<RemovedImage, CollectError> {
        let _turn = self.rounds.turn()?;
        let mut round = Round::begin(self, || Ok(Roots::default()), Timestamp::MIN)?;
        if round.roots.manifests.contains(manifest) && !force {
            return Ok(RemovedImage::Needed);
        }
        let Some(image) = self.images.remove(manifest)? else { return Ok(RemovedImage::Absent) };
        round.done.images += 1;
        let others: HashSet<LayerKey> =
            self.images.by_last_use()?.iter().flat_map(|other| &other.layers).copied().collect();
        for key in &image.layers {
            if !others.contains(key) && !round.roots.layers.contains(key) {
                round.remove(key);
            }
        }
        Ok(RemovedImage::Removed(round.end()))
    }

    /// Removes images that no record needs and that were last used at least `older_than` ago, and all layers that nothing
    /// needs then. Layers of steps are removed only with an `older_than`. With `dry_run` only counts them. For a store without volumes. Blocks.
    ///
    /// # Errors
    /// A record cannot be read: no layer is removed. Or a file system operation failed.
    pub fn collect_unused(
        &self,
        older_than: Option<Duration>,
        dry_run: bool,
    ) -> Result<GcStats, CollectError> {
        let _turn = self.rounds.turn()?;
        let now = Timestamp::now();
        let steps_since = match older_than {
            None => Timestamp::MIN,
            Some(age) => now.checked_sub(age).unwrap_or(Timestamp::MIN),
        };
        let mut round = Round::begin(self, || Ok(Roots::default()), steps_since)?;
        self.steps.remove_unused(steps_since, dry_run)?;
        let older_than = older_than.unwrap_or_default();
        let mut kept: HashSet<LayerKey> = round.roots.layers.clone();
        for image in self.images.by_last_use()? {
            let is_old = image.last_use().checked_add(older_than).is_ok_and(|end| end <= now);
            let is_needed = round.roots.manifests.contains(&image.manifest);
            if is_needed || !is_old || !dry_run && !self.images.remove_unchanged(&image)? {
                kept.extend(&image.layers);
            } else {
                round.done.images += 1;
            }
        }
        let unused: Vec<LayerKey> =
            round.present.keys().filter(|key| !kept.contains(key)).copied().collect();
        for key in unused {
            match dry_run {
                true => round.count_removed(&key),
                false => round.remove(&key),
            }
        }
        Ok(round.end())
    }

    /// Frees space until `need` bytes are free on the disk, if that is possible, and removes no more than necessary:
    /// first layers that are unreachable and at least `grace` old, then images, the least recently used first. Returns
    /// `None` if no round ran: enough space was free, or another round found meanwhile that it cannot be freed. `roots`
    /// is as in [`Store::collect`]. Blocks.
    pub fn free_space(
        &self,
        roots: impl Fn() -> Result<Roots, CollectError>,
        grace: Duration,
        need: u64,
    ) -> Result<Option<GcStats>, CollectError> {
        let is_free = || self.disk.space().is_ok_and(|space| space.available >= need);
        let Some(turn) = self.rounds.turn_for(need, is_free)? else { return Ok(None) };
        let mut round = Round::begin(self, roots, Timestamp::MIN)?;
        round.sweep(grace, Some(need))?;
        // A layer may claim any size: for a layer that cannot fit, no images are removed.
        let most = round.space.available.saturating_add(round.idle_bytes());
        if most >= need {
            round.remove_images_until(|space| space.available >= need)?;
        }
        if round.space.available < need {
            turn.record_insufficient(if most < need { most } else { round.space.available });
        }
        Ok(Some(round.end()))
    }
}

/// Ends the watch of leases when it is dropped.
struct LeaseWatch<'s>(&'s Store);

impl Drop for LeaseWatch<'_> {
    fn drop(&mut self) {
        self.0.leases.end_round();
    }
}

impl<'s> Round<'s> {
    /// `steps_since`: layers of steps that were last used before this are not needed.
    fn begin(
        store: &'s Store,
        roots: impl Fn() -> Result<Roots, CollectError>,
        steps_since: Timestamp,
    ) -> Result<Self, CollectError> {
        store.leases.begin_round()?;
        let _watch = LeaseWatch(store);
        let mut roots = roots()?;
        store.close_idle(&roots.layers);
        for snapshot in store.snapshots.roots()? {
            roots.layers.extend(snapshot.stack);
            roots.manifests.extend(snapshot.manifests);
        }
        for workspace in store.workspaces.roots()? {
            roots.layers.extend(workspace.layers().copied());
            roots.manifests.extend(workspace.manifests());
        }
        roots.layers.extend(store.steps.roots(steps_since)?);
        let mut present = HashMap::new();
        for key in store.layers.dirs.keys()? {
            let size_and_age = match LayerMeta::read(&store.layers.dirs.of(&key)) {
                // A snapshot layer has no image whose pull could be in flight.
                Ok(layer) if layer.is_snapshot() => (layer.image_bytes, Duration::MAX),
                Ok(layer) => (layer.image_bytes, store.layers.ages.of(&key, layer.added)),
                // It cannot be mounted. Its size is unknown and does not matter much.
                Err(_) => (0, Duration::MAX),
            };
            present.insert(key, size_and_age);
        }
        let space = store.disk.space()?;
        Ok(Self { store, _watch, roots, present, space, done: GcStats::default() })
    }

    fn end(mut self) -> GcStats {
        self.done.kept_layers = self.present.len() as u64;
        self.done.kept_bytes = self.present.values().map(|(bytes, _)| bytes).sum();
        self.done
    }

    /// Removes image records to which no reference resolves any more, and the least recently used of too many. Then
    /// removes unreachable layers: all, or until `need` bytes are free.
    fn sweep(&mut self, grace: Duration, need: Option<u64>) -> Result<(), CollectError> {
        for image in self.store.images.by_last_use()?.into_iter().filter(|image| {
            image.references.is_empty() && !self.roots.manifests.contains(&image.manifest)
        }) {
            self.done.images += u64::from(self.store.images.remove_unchanged(&image)?);
        }
        self.done.images += self.store.images.trim(&self.roots.manifests)?;
        let mut reached = self.roots.layers.clone();
        reached.extend(
            self.store.images.by_last_use()?.iter().flat_map(|image| &image.layers).copied(),
        );
        let unreachable = |(key, (_, age)): (&LayerKey, &(u64, Duration))| {
            (*age >= grace && !reached.contains(key)).then_some(*key)
        };
        for key in self.present.iter().filter_map(unreachable).collect::<Vec<_>>() {
            if need.is_some_and(|need| self.space.available >= need) {
                break;
            }
            self.remove(&key);
        }
        Ok(())
    }

    /// Removes images, the least recently used first, until `enough` space is free.
    fn remove_images_until(&mut self, enough: impl Fn(&Space) -> bool) -> Result<(), CollectError> {
        let mut images = self.store.images.by_last_use()?;
        for image in images.clone() {
            if enough(&self.space) {
                break;
            }
            if self.remove_image(&image, &images)? {
                images.retain(|other| other.manifest != image.manifest);
            }
        }
        Ok(())
    }

    /// Bytes of the layers that neither records nor leases keep.
    fn idle_bytes(&self) -> u64 {
        let leases = self.store.leases.locked();
        let idle = |key: &LayerKey| !self.roots.layers.contains(key) && !leases.keeps(key);
        self.present.iter().filter(|(key, _)| idle(key)).map(|(_, (bytes, _))| bytes).sum()
    }

    /// Removes an image record and the layers that only this one of `images` has. Keeps the image if that would free
    /// nothing. Returns whether it was removed. The layers of an image that was recorded meanwhile have a lease, or had
    /// one in this round.
    fn remove_image(
        &mut self,
        image: &ImageRecord,
        images: &[Arc<ImageRecord>],
    ) -> Result<bool, CollectError> {
        let others = images.iter().filter(|other| other.manifest != image.manifest);
        let shared: HashSet<LayerKey> = others.flat_map(|other| &other.layers).copied().collect();
        let is_leased = |key: &LayerKey| self.store.leases.locked().keeps(key);
        let mut idle: Vec<LayerKey> = image.layers.clone();
        idle.retain(|key| self.present.contains_key(key) && !shared.contains(key));
        idle.retain(|key| !self.roots.layers.contains(key) && !is_leased(key));
        let needed = self.roots.manifests.contains(&image.manifest);
        if idle.is_empty() || needed || !self.store.images.remove_unchanged(image)? {
            return Ok(false);
        }
        self.done.images += 1;
        tracing::info!(image = %image.manifest, references = ?image.references, "image removed to free space");
        idle.iter().for_each(|key| self.remove(key));
        Ok(true)
    }

    /// The bytes of a layer. Those of an upper that was renamed were not recorded.
    fn measured(&self, key: &LayerKey, recorded: u64) -> u64 {
        match recorded {
            0 => self.store.layers.dirs.tree_bytes(key).unwrap_or(0),
            recorded => recorded,
        }
    }

    /// Counts a layer as removed that [`Self::remove`] would remove.
    fn count_removed(&mut self, key: &LayerKey) {
        let is_leased = self.store.leases.locked().keeps(key);
        if let Some((bytes, _)) = self.present.remove(key).filter(|_| !is_leased) {
            let bytes = self.measured(key, bytes);
            self.done.layers += 1;
            self.done.bytes += bytes;
        }
    }

    /// Removes a layer unless it has a lease or had one in this round. If that fails, logs the error; the next round
    /// tries again.
    fn remove(&mut self, key: &LayerKey) {
        let Some((bytes, _)) = self.present.get(key).copied() else { return };
        let bytes = self.measured(key, bytes);
        match self.store.remove_layer(key) {
            Ok(true) => {
                self.present.remove(key);
                self.done.layers += 1;
                self.done.bytes += bytes;
                self.space.available = self.space.available.saturating_add(bytes);
                tracing::info!(layer = %key, bytes, "layer removed");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(layer = %key, %error, "cannot remove a layer: the next round tries again")
            }
        }
    }
}

impl Store {
    /// Closes idle layers that are not in `roots` and had no lease in this round, except for the [`IDLE`] that were
    /// requested last.
    fn close_idle(&self, roots: &HashSet<LayerKey>) {
        let leased = self.leases.locked();
        let idle =
            self.layers.mounted.remove_idle(IDLE, |key| roots.contains(key) || leased.keeps(key));
        drop(leased);
        drop(idle);
    }

    /// Removes a layer, unless it has a lease or had one in this round. Returns whether it was removed.
    fn remove_layer(&self, key: &LayerKey) -> std::io::Result<bool> {
        let staged = {
            // It prevents new leases between the check and the rename. A publish waits for it, so the disk is waited
            // for without it.
            let Some(_claim) = self.leases.claim(key)? else { return Ok(false) };
            self.layers.unlink_unsynced(key)?
        };
        // Before a file of the layer is deleted: a power cut must not bring back an incomplete layer.
        self.layers.sync_unlinked()?;
        discard(&staged)?;
        Ok(true)
    }
}
