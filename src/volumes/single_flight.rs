//! One layer's way here.
//!
//! A layer is fetched once however many volumes ask for it: the first fetches, the others wait and find it there. Whoever
//! fetches gives the turn back only when nothing of it is going on any more.

use std::{
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::{
    PullError, blocking,
    lanes::{Crowded, Lane},
    progress::Item,
    progress_reader::{CancellableReader, StallTimer},
    puller::{ImagePuller, PullContext},
};
use crate::{
    digest::Digest,
    image::{Access, Image, LayerBlob},
    layers::{AddError, NewLayer, Origin, Packed, Place, Reservation, layer_key},
};

/// Which bytes are to become which layer: its key, registry, repository, blob. A registry may claim any diff id for what it
/// never delivers, so the same layer from elsewhere does not wait for it.
pub(super) type Source = (Digest, String, String, Digest);

/// The key of a layer of an image, where it is made alone.
pub(super) fn key_of(layer: &LayerBlob) -> Digest {
    layer_key(&layer.diff_id, layer.format)
}

/// A layer on its way.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    turn: Arc<Turn<()>>,
    arrived: Arc<AtomicU64>,
    /// It was fetched, and cannot be made alone.
    needs_below: AtomicBool,
}

/// A layer of an image that is wanted.
#[derive(Clone, Copy)]
pub(super) struct LayerRequest<'a> {
    pub(super) image: &'a Image,
    pub(super) layer: &'a LayerBlob,
    pub(super) key: Digest,
    /// The keys of the layers that it is made onto, none of them for the lowest of an image; `None` where it is made alone.
    pub(super) below: Option<&'a [Digest]>,
}

impl LayerRequest<'_> {
    /// Where it is to lie.
    pub(super) fn place(&self) -> Place {
        match self.below {
            None => Place::Any,
            Some([]) => Place::Bottom,
            Some(_) => Place::Chain,
        }
    }

    /// Whether it may need the layers below: a native layer has overlay's marks for that.
    fn may_need_below(&self) -> bool {
        self.below.is_some() || self.key == self.layer.diff_id
    }

    pub(super) fn source(&self) -> Source {
        let reference = &self.image.reference;
        let (registry, repository) = (reference.registry(), reference.repository());
        (self.key, registry.to_owned(), repository.to_owned(), self.layer.digest)
    }
}

impl ImagePuller {
    /// Waits for the turn to make a layer, and makes it if nobody else has; answers whether it is here. If not, it cannot be made
    /// alone.
    pub(super) async fn bring(
        &self,
        wanted: LayerRequest<'_>,
        making: &Arc<InFlight>,
        asked: &PullContext<'_>,
        item: &Item,
    ) -> Result<bool, PullError> {
        let source = wanted.source();
        item.fetched(&making.arrived);
        let turn = making.turn.clone().lock_owned().await;
        if self.may_use(&wanted.key, wanted.place(), asked).await? {
            return Ok(true);
        }
        if let Some(known) = self.failures.of(&source, &wanted.image.reference, Instant::now()) {
            return Err(known);
        }
        if wanted.below.is_none() && making.needs_below.load(Relaxed) {
            return Ok(false);
        }
        making.arrived.store(0, Relaxed);
        match self.fetch(wanted, asked, (source, making.clone(), turn)).await {
            Err(PullError::Add { source, .. })
                if wanted.may_need_below() && source.needs_layers_below() =>
            {
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    /// Fetches one layer and writes it.
    async fn fetch(
        &self,
        wanted: LayerRequest<'_>,
        asked: &PullContext<'_>,
        (source, making, turn): (Source, Arc<InFlight>, OwnedMutexGuard<()>),
    ) -> Result<(), PullError> {
        let LayerRequest { image, layer, key, .. } = wanted;
        let reference = &image.reference;
        let failed = |source| PullError::Add { reference: reference.clone(), source };
        let namespace = asked.asker.namespace;
        let lane = self.fetches.enter(namespace).await;
        let room = self.reserve(layer).await.map_err(failed)?;
        tracing::info!(image = %reference, layer = %key, bytes = layer.size, "fetching a layer");
        let began = Instant::now();
        let waits = Arc::<StallTimer>::default();
        let creeps = waits.watch(&making.arrived);
        let work = self.write(wanted, asked, room, waits, (making, turn, lane.clone()));
        let added = match self.fetches.watch(namespace, &lane, work, creeps).await {
            Ok(added) => added?,
            Err(Crowded) => return Err(PullError::Crowded(reference.clone())),
        };
        let (added, turn) = added;
        let Err(why) = added else {
            self.collector.metrics.pulled(layer.size, began.elapsed().as_secs_f64());
            return Ok(());
        };
        self.failures.remember(source, &why, Instant::now());
        // Only now: whoever waits is to know.
        drop(turn);
        Err(failed(why))
    }

    /// Opens a layer's blob, and writes what comes. Dropped, it ends soon, and with it the turn and the place in the lane, which
    /// the work itself holds.
    async fn write(
        &self,
        wanted: LayerRequest<'_>,
        asked: &PullContext<'_>,
        room: Reservation,
        waits: Arc<StallTimer>,
        (making, turn, lane): (Arc<InFlight>, OwnedMutexGuard<()>, Arc<Lane>),
    ) -> Result<(Result<(), AddError>, OwnedMutexGuard<()>), PullError> {
        let LayerRequest { image, layer, below, .. } = wanted;
        let (reference, may_need_below) = (&image.reference, wanted.may_need_below());
        let blob = self.registries.blob(image, layer, asked.asker.keyring).await?;
        let _end = blob.end_when_dropped();
        let origin = Origin {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            blob: layer.digest,
            public: image.access == Access::Anonymous && *blob.access() == Access::Anonymous,
            packed: Some(Packed {
                media_type: layer.media_type.clone(),
                size: layer.size,
                diff_id: layer.diff_id,
            }),
            namespace: None,
        };
        let LayerBlob { diff_id, format, .. } = *layer;
        let new = NewLayer { diff_id, format, origin };
        let (store, stop) = (self.store.clone(), asked.stop.clone());
        let below = below.map(<[Digest]>::to_vec);
        let added = blocking(move || {
            let _lane = lane;
            let blob = CancellableReader { blob, stop, arrived: making.arrived.clone(), waits };
            let added = match below {
                None => store.add(&new, room, blob),
                Some(below) => store.add_onto(&new, &below, room, blob).map(drop),
            };
            if may_need_below && added.as_ref().is_err_and(AddError::needs_layers_below) {
                making.needs_below.store(true, Relaxed);
            }
            (added, turn)
        });
        Ok(added.await)
    }

    /// Room for a layer.
    async fn reserve(&self, layer: &LayerBlob) -> Result<Reservation, AddError> {
        let (store, diff_id, size) = (self.store.clone(), layer.diff_id, layer.size);
        blocking(move || store.reserve(&diff_id, size)).await
    }

    /// Whose turn it is to make a layer. The entry lives as long as somebody makes or waits.
    pub(super) fn making(&self, source: &Source) -> Arc<InFlight> {
        let mut all = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, making| making.strong_count() > 0);
        if let Some(making) = all.get(source).and_then(Weak::upgrade) {
            return making;
        }
        let making = Arc::default();
        all.insert(source.clone(), Arc::downgrade(&making));
        making
    }
}
