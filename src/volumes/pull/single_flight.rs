//! The fetch of a layer, once for all volumes that need it (single flight).
//!
//! The first pull fetches the layer. The others wait for their turn and then find it in the store. A fetch holds the
//! turn until all of its tasks have ended.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::{
    authorization::{Authorization, Given},
    error::PullError,
    lanes::{Crowded, Lane, Lanes},
    negative_cache::NegativeCache,
    progress::Item,
    progress_reader::{CancellableReader, StallTimer},
};
use crate::{
    digest::BlobDigest,
    image::{Access, Image, LayerBlob, Registries},
    layers::{AddError, LayerKey, NewLayer, Origin, PackedBlob, Place, Reservation, Store},
    media_type::Format,
    metrics::Metrics,
    sys::blocking::blocking,
};

/// The source of a layer: its key, registry, repository and blob. Fetches of one layer from different sources run
/// independently, because a registry may claim any diff ID for bytes that it never delivers.
pub(super) type Source = (LayerKey, String, String, BlobDigest);

/// The key of a layer that is unpacked alone.
pub(super) fn key_of(layer: &LayerBlob) -> LayerKey {
    LayerKey::alone(&layer.diff_id, layer.format)
}

/// A fetch in flight, shared by all pulls that wait for it.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    turn: Arc<AsyncMutex<()>>,
    arrived: Arc<AtomicU64>,
    /// The layer was fetched, and cannot be unpacked without the layers below it.
    needs_below: AtomicBool,
}

/// A request for a layer of an image.
#[derive(Clone, Copy)]
pub(super) struct LayerRequest<'a> {
    pub(super) image: &'a Image,
    pub(super) layer: &'a LayerBlob,
    pub(super) key: LayerKey,
    /// The keys of the layers below it, with which it is unpacked. Empty for the lowest layer of an image. `None` to
    /// unpack it alone.
    pub(super) below: Option<&'a [LayerKey]>,
}

impl LayerRequest<'_> {
    /// The place in the stack for which the layer is unpacked.
    pub(super) fn place(&self) -> Place {
        match self.below {
            None => Place::Any,
            Some([]) => Place::Bottom,
            Some(_) => Place::Chain,
        }
    }

    /// Whether the layer may need the layers below it. A native layer never does: its overlay xattrs describe what it
    /// needs.
    fn may_need_below(&self) -> bool {
        self.layer.format == Format::Portable
    }

    pub(super) fn source(&self) -> Source {
        let reference = &self.image.reference;
        let (registry, repository) = (reference.registry(), reference.repository());
        (self.key, registry.to_owned(), repository.to_owned(), self.layer.digest)
    }
}

/// The context of a pull, which all of its layers share.
pub(super) struct PullContext<'a> {
    pub(super) authorization: Authorization<'a>,
    /// The images that their registries have just given to the requester.
    pub(super) given: Vec<Given<'a>>,
    pub(super) stop: &'a CancellationToken,
}

/// Fetches layers into the store.
#[derive(Debug)]
pub(super) struct LayerFetcher {
    registries: Arc<Registries>,
    store: Arc<Store>,
    metrics: Metrics,
    /// The layers that were fetched lately and are bad.
    pub(super) failures: NegativeCache<Source>,
    in_flight: Mutex<HashMap<Source, Weak<InFlight>>>,
    /// Limits the fetches, each of which holds threads and buffers.
    pub(super) lanes: Lanes,
}

impl LayerFetcher {
    pub(super) fn new(registries: Arc<Registries>, store: Arc<Store>, metrics: Metrics) -> Self {
        let (failures, in_flight, lanes) = Default::default();
        Self { registries, store, metrics, failures, in_flight, lanes }
    }

    /// Whether the layer is in the store, fits that place in a stack, and the requester may use it.
    pub(super) async fn may_use(
        &self,
        key: &LayerKey,
        place: Place,
        context: &PullContext<'_>,
    ) -> bool {
        let (store, layer) = (self.store.clone(), *key);
        let known =
            blocking(move || store.layers.fits(&layer, place).then(|| store.origins.of(&layer)))
                .await;
        known.is_some_and(|origins| context.authorization.allow(&origins, &context.given))
    }

    /// Waits for the turn of a layer, and fetches the layer if no other pull has. Returns whether it is in the store.
    /// If not, it cannot be unpacked alone.
    pub(super) async fn fetch_once(
        &self,
        wanted: LayerRequest<'_>,
        in_flight: &Arc<InFlight>,
        context: &PullContext<'_>,
        item: &Item,
    ) -> Result<bool, PullError> {
        let source = wanted.source();
        item.fetched(&in_flight.arrived);
        let turn = in_flight.turn.clone().lock_owned().await;
        if self.may_use(&wanted.key, wanted.place(), context).await {
            return Ok(true);
        }
        if let Some(known) = self.failures.of(&source, &wanted.image.reference, Instant::now()) {
            return Err(known);
        }
        if wanted.below.is_none() && in_flight.needs_below.load(Relaxed) {
            return Ok(false);
        }
        in_flight.arrived.store(0, Relaxed);
        match self.fetch(wanted, context, (source, in_flight.clone(), turn)).await {
            Err(PullError::Add { source, .. })
                if wanted.may_need_below() && source.needs_layers_below() =>
            {
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    /// Fetches one layer, and unpacks it into the store.
    async fn fetch(
        &self,
        wanted: LayerRequest<'_>,
        context: &PullContext<'_>,
        (source, in_flight, turn): (Source, Arc<InFlight>, OwnedMutexGuard<()>),
    ) -> Result<(), PullError> {
        let LayerRequest { image, layer, key, .. } = wanted;
        let reference = &image.reference;
        let failed = |source| PullError::Add { reference: reference.clone(), source };
        let namespace = context.authorization.requester.namespace;
        let lane = self.lanes.enter(namespace).await;
        let reserved = self.reserve(layer).await.map_err(failed)?;
        tracing::info!(image = %reference, layer = %key, bytes = layer.size, "fetching a layer");
        let began = Instant::now();
        let waits = Arc::<StallTimer>::default();
        let is_slow = waits.watch(&in_flight.arrived);
        let work = self.write(wanted, context, reserved, waits, (in_flight, turn, lane.clone()));
        let added = match self.lanes.watch(namespace, &lane, work, is_slow).await {
            Ok(added) => added?,
            Err(Crowded) => return Err(PullError::Crowded(reference.clone())),
        };
        let (added, turn) = added;
        let Err(why) = added else {
            self.metrics.pulled(layer.size, began.elapsed().as_secs_f64());
            return Ok(());
        };
        self.failures.remember(source, &why, Instant::now());
        // Only now, so that the next pull in turn finds the remembered error.
        drop(turn);
        Err(failed(why))
    }

    /// Opens a layer's blob, and unpacks it. When the future is dropped, the blocking task ends soon. Only then the
    /// turn and the permit of the lane are released, which that task holds.
    async fn write(
        &self,
        wanted: LayerRequest<'_>,
        context: &PullContext<'_>,
        reserved: Reservation,
        waits: Arc<StallTimer>,
        (in_flight, turn, lane): (Arc<InFlight>, OwnedMutexGuard<()>, Arc<Lane>),
    ) -> Result<(Result<(), AddError>, OwnedMutexGuard<()>), PullError> {
        let LayerRequest { image, layer, below, .. } = wanted;
        let (reference, may_need_below) = (&image.reference, wanted.may_need_below());
        let blob =
            self.registries.blob(image, layer, context.authorization.requester.keyring).await?;
        let _end = blob.end_when_dropped();
        let origin = Origin {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            blob: layer.digest,
            public: image.access == Access::Anonymous && *blob.access() == Access::Anonymous,
            packed: Some(PackedBlob {
                media_type: layer.media_type.clone(),
                size: layer.size,
                diff_id: layer.diff_id,
            }),
            namespace: None,
        };
        let LayerBlob { diff_id, format, .. } = *layer;
        let new = NewLayer { diff_id, format, origin };
        let (store, stop) = (self.store.clone(), context.stop.clone());
        let below = below.map(<[LayerKey]>::to_vec);
        let added = blocking(move || {
            let _lane = lane;
            let blob = CancellableReader { blob, stop, arrived: in_flight.arrived.clone(), waits };
            let added = match below {
                None => store.layers.add(&new, reserved, blob),
                Some(below) => {
                    store.layers.add_with_layers_below(&new, &below, reserved, blob).map(drop)
                }
            };
            if may_need_below && added.as_ref().is_err_and(AddError::needs_layers_below) {
                in_flight.needs_below.store(true, Relaxed);
            }
            (added, turn)
        });
        Ok(added.await)
    }

    /// Reserves disk space for a layer.
    async fn reserve(&self, layer: &LayerBlob) -> Result<Reservation, AddError> {
        let (store, diff_id, size) = (self.store.clone(), layer.diff_id, layer.size);
        let reserved = blocking(move || store.disk.reserve(size)).await;
        reserved.map_err(|source| AddError::NoSpace { diff_id, source })
    }

    /// The fetch in flight of a source. The entry lives while a pull fetches the layer or waits for it.
    pub(super) fn in_flight(&self, source: &Source) -> Arc<InFlight> {
        let mut all = self.in_flight.lock();
        all.retain(|_, in_flight| in_flight.strong_count() > 0);
        if let Some(in_flight) = all.get(source).and_then(Weak::upgrade) {
            return in_flight;
        }
        let in_flight = Arc::default();
        all.insert(source.clone(), Arc::downgrade(&in_flight));
        in_flight
    }
}
