//! What goes when it is not needed: layers that nothing reaches, and above the disk's high water mark the images that nobody
//! has used for longest.
//!
//! ```text
//! leases are watched ─► roots are read ─► for each layer to go: no lease since the first step? renamed away ─► its bytes
//! ```
//!
//! Whoever makes a volume holds a lease from before it looks for a layer until its record is on disk. So a layer in use either
//! had a lease at some time after the first step, or its record was there at the second.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{CollectError, ImageRecord, Store, layer_meta::LayerMeta, store::discard};
use crate::{
    digest::Digest,
    sys::{durable, statfs::Space},
};

/// When something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// How full the disk may be, in percent, before images go.
    pub high: u8,
    /// How full it is when no more go.
    pub low: u8,
    /// For how long a layer that nothing reaches is kept, counted from when it came: its image may still be on its way.
    pub grace: Duration,
}

/// What a round did, and what the store holds after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcStats {
    /// Images forgotten.
    pub images: u64,
    /// Layers removed.
    pub layers: u64,
    /// Bytes they took.
    pub bytes: u64,
    /// Layers that are left.
    pub kept_layers: u64,
    /// Bytes these take.
    pub kept_bytes: u64,
}

/// One round.
struct Round<'s> {
    store: &'s Store,
    _watched: Watched<'s>,
    /// Layers that records name.
    roots: HashSet<Digest>,
    /// What is here: bytes, and since when.
    here: HashMap<Digest, (u64, Duration)>,
    /// The disk. What is removed is counted rather than asked again: some file systems take their time to give it back.
    space: Space,
    done: GcStats,
}

impl Store {
    /// Removes what nothing reaches. Then, where the disk is fuller than the high water mark, forgets images and removes their
    /// layers, the least recently used first, until it is below the low one.
    ///
    /// `roots` answers every layer, and every manifest of an image, that anything but a lease, a snapshot or an image needs; it is asked after leases are watched. One
    /// that is not sure of all of them answers [`CollectError::Doubt`], and nothing is removed. Blocks.
    pub fn collect(
        &self,
        roots: impl Fn() -> Result<HashSet<Digest>, CollectError>,
        marks: &Watermarks,
    ) -> Result<GcStats, CollectError> {
        let _turn = self.rounds.turn();
        let mut round = Round::begin(self, roots)?;
        round.sweep(marks.grace, None)?;
        if round.space.used_percent() > marks.high {
            round.forget_until(|space| space.used_percent() <= marks.low)?;
        }
        Ok(round.end())
    }

    /// Has `need` bytes free on the disk, if that can be, and removes no more than it takes: first what nothing reaches, for
    /// `grace` at least, then images, the least recently used first. Returns `None` where no round was needed: the room was there, or
    /// another round found out meanwhile that it cannot be. `roots` as in [`Store::collect`]. Blocks.
    pub fn free_space(
        &self,
        roots: impl Fn() -> Result<HashSet<Digest>, CollectError>,
        grace: Duration,
        need: u64,
    ) -> Result<Option<GcStats>, CollectError> {
        let is_there = || self.space().is_ok_and(|space| space.available >= need);
        let Some(turn) = self.rounds.turn_for(need, is_there) else { return Ok(None) };
        let mut round = Round::begin(self, roots)?;
        round.sweep(grace, Some(need))?;
        // A layer may claim any size: for one that cannot fit, nobody else's images go.
        let most = round.space.available.saturating_add(round.idle_bytes());
        if most >= need {
            round.forget_until(|space| space.available >= need)?;
        }
        if round.space.available < need {
            turn.in_vain(if most < need { most } else { round.space.available });
        }
        Ok(Some(round.end()))
    }
}

/// Leases are watched until this is dropped.
struct Watched<'s>(&'s Store);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.leases.end_round();
    }
}

impl<'s> Round<'s> {
    fn begin(
        store: &'s Store,
        roots: impl Fn() -> Result<HashSet<Digest>, CollectError>,
    ) -> Result<Self, CollectError> {
        store.leases.begin_round();
        let _watched = Watched(store);
        if let Some(path) = store.snapshots.unreadable() {
            let why =
                format!("{} is not a snapshot's record that this version can read", path.display());
            return Err(CollectError::IncompleteRoots(why));
        }
        let mut roots = roots()?;
        store.close_idle(&roots);
        for snapshot in store.snapshots() {
            roots.extend(snapshot.stack);
            roots.extend(snapshot.manifests);
        }
        let mut here = HashMap::new();
        for diff_id in store.layers()? {
            let known = match LayerMeta::read(&store.layer(&diff_id)) {
                // A cut belongs to no image that could be on its way.
                Ok(cut) if cut.diff_id.is_none() => (cut.image_bytes, Duration::MAX),
                Ok(layer) => (layer.image_bytes, store.ages.of(&diff_id, layer.added)),
                // It cannot be mounted; its size is not known and matters less.
                Err(_) => (0, Duration::MAX),
            };
            here.insert(diff_id, known);
        }
        let space = store.space()?;
        Ok(Self { store, _watched, roots, here, space, done: GcStats::default() })
    }

    fn end(mut self) -> GcStats {
        self.done.kept_layers = self.here.len() as u64;
        self.done.kept_bytes = self.here.values().map(|(bytes, _)| bytes).sum();
        self.done
    }

    /// Forgets images that no reference means any more or that are too many, and removes the layers that nothing reaches, until
    /// there are `need` bytes free.
    fn sweep(&mut self, grace: Duration, need: Option<u64>) -> Result<(), CollectError> {
        for image in
            self.store.images().into_iter().filter(|image| {
                image.references.is_empty() && !self.roots.contains(&image.manifest)
            })
        {
            self.done.images += u64::from(self.store.drop_image(&image)?);
        }
        self.done.images += self.store.trim_images(&self.roots)?;
        let mut reached = self.roots.clone();
        reached.extend(self.store.images().iter().flat_map(|image| &image.layers).copied());
        let lost = |(diff_id, (_, age)): (&Digest, &(u64, Duration))| {
            (*age >= grace && !reached.contains(diff_id)).then_some(*diff_id)
        };
        for diff_id in self.here.iter().filter_map(lost).collect::<Vec<_>>() {
            if need.is_some_and(|need| self.space.available >= need) {
                break;
            }
            self.remove(&diff_id);
        }
        Ok(())
    }

    /// Forgets images until the disk is as it should be.
    fn forget_until(&mut self, enough: impl Fn(&Space) -> bool) -> Result<(), CollectError> {
        let mut images = self.store.images().into_iter();
        while !enough(&self.space) {
            let Some(image) = images.next() else { break };
            self.forget(&image)?;
        }
        Ok(())
    }

    /// Bytes of the layers that only images keep.
    fn idle_bytes(&self) -> u64 {
        let held = self.store.leases.locked();
        let idle = |d: &Digest| !self.roots.contains(d) && !held.keeps(d);
        self.here.iter().filter(|(d, _)| idle(d)).map(|(_, (bytes, _))| bytes).sum()
    }

    /// Forgets an image with the layers that only it has. One that would free nothing stays.
    fn forget(&mut self, image: &ImageRecord) -> Result<(), CollectError> {
        let images = self.store.images();
        let others = images.iter().filter(|other| other.manifest != image.manifest);
        let shared: HashSet<Digest> = others.flat_map(|other| &other.layers).copied().collect();
        let held = |diff_id: &Digest| self.store.leases.locked().keeps(diff_id);
        let mut idle: Vec<Digest> = image.layers.clone();
        idle.retain(|d| self.here.contains_key(d) && !shared.contains(d));
        idle.retain(|d| !self.roots.contains(d) && !held(d));
        // A snapshot of a volume that is made of it would go on from its config.
        let needed = self.roots.contains(&image.manifest);
        if idle.is_empty() || needed || !self.store.drop_image(image)? {
            return Ok(());
        }
        self.done.images += 1;
        tracing::info!(image = %image.manifest, references = ?image.references, "image removed to make room");
        idle.iter().for_each(|diff_id| self.remove(diff_id));
        Ok(())
    }

    /// Removes a layer unless somebody has, or had in this round, a lease of it. What cannot be removed is told and left for the
    /// next round.
    fn remove(&mut self, diff_id: &Digest) {
        let Some((bytes, _)) = self.here.get(diff_id).copied() else { return };
        match self.store.remove_layer(diff_id) {
            Ok(true) => {
                self.here.remove(diff_id);
                self.done.layers += 1;
                self.done.bytes += bytes;
                self.space.available = self.space.available.saturating_add(bytes);
                tracing::info!(layer = %diff_id, bytes, "layer removed");
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(layer = %diff_id, %error, "layer cannot be removed"),
        }
    }
}

impl Store {
    fn remove_layer(&self, diff_id: &Digest) -> std::io::Result<bool> {
        let staged = self.stage();
        {
            // Nobody gets a lease between the look and the rename.
            let held = self.leases.locked();
            if held.keeps(diff_id) {
                return Ok(false);
            }
            durable::rename(&self.layer(diff_id), &staged)?;
            self.origins.forget(diff_id);
            self.ages.gone(diff_id);
            // Volumes that are made of it would have kept it from here.
            self.lowers.close(diff_id);
        }
        discard(&staged)?;
        Ok(true)
    }
}
