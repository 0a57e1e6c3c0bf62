//! References in, layers in the store out.
//!
//! A layer is fetched once however many volumes ask for it: the first fetches, the others wait and find it there. Whoever
//! fetches gives the turn back only when nothing of it is going on any more.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Mutex as Turn, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{PullError, PullPolicy, Reference, blocking};
use crate::{
    digest::Digest,
    image::{Image, LayerBlob, Registries},
    layers::{NewLayer, Origin, Store},
    overlay::LAYER_LIMIT,
};

/// How many layers of one image are fetched and written at a time: enough to use the wait for the network.
const AT_ONCE: usize = 4;

/// How many layers are fetched and written at a time on this node, whatever asks for them. Each holds a thread and up to some
/// tens of MiB; other work must find threads too.
const ON_NODE: usize = 8;

/// Brings images to this node.
#[derive(Debug)]
pub(super) struct Pulls {
    registries: Registries,
    store: Arc<Store>,
    making: Mutex<HashMap<Source, Weak<Turn<()>>>>,
    room: Arc<Semaphore>,
}

/// Which bytes are to become which layer. A registry may claim any diff id for what it never delivers, so the same layer from
/// elsewhere does not wait for it.
type Source = (Digest, Origin);

impl Pulls {
    pub(super) fn new(registries: Registries, store: Arc<Store>) -> Self {
        let room = Arc::new(Semaphore::new(ON_NODE));
        Self { registries, store, making: Mutex::default(), room }
    }

    /// The diff ids of all layers of `images`, bottom first; every one of them is in the store when this returns. Dropped before
    /// that, it stops what it began.
    pub(super) async fn stack(
        &self,
        images: &[Reference],
        policy: Option<PullPolicy>,
    ) -> Result<Vec<Digest>, PullError> {
        let mut stack = Vec::new();
        for reference in images {
            stack.extend(self.layers(reference, policy).await?);
        }
        Ok(stack)
    }

    async fn layers(
        &self,
        reference: &Reference,
        policy: Option<PullPolicy>,
    ) -> Result<Vec<Digest>, PullError> {
        let policy = policy.unwrap_or_else(|| PullPolicy::default_for(reference));
        if policy != PullPolicy::Always
            && let Some(layers) = self.present(reference).await
        {
            return Ok(layers);
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(reference.clone()));
        }
        let image = self.registries.resolve(reference).await?;
        let layers: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id).collect();
        let count = layers.iter().collect::<BTreeSet<_>>().len();
        if count > LAYER_LIMIT {
            return Err(PullError::TooManyLayers { reference: reference.clone(), count });
        }
        // When one layer fails, or nobody wants the image any more, the others stop as well.
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        // Collected first: as a lazy `map` the compiler cannot see that the whole future may move between threads.
        let fetches: Vec<_> =
            image.layers.iter().map(|layer| self.layer(&image, layer, &stop)).collect();
        stream::iter(fetches).buffer_unordered(AT_ONCE).try_collect::<()>().await?;

        let (store, name, kept) = (self.store.clone(), reference.to_string(), layers.clone());
        blocking(move || store.put_image(&name, image.digest, &kept)).await?;
        Ok(layers)
    }

    /// The layers of an image that was resolved before, if all of them are here.
    async fn present(&self, reference: &Reference) -> Option<Vec<Digest>> {
        let (store, name) = (self.store.clone(), reference.to_string());
        blocking(move || {
            let image = store.image(&name)?;
            image.layers.iter().all(|layer| store.has(layer)).then_some(image.layers)
        })
        .await
    }

    async fn layer(
        &self,
        image: &Image,
        layer: &LayerBlob,
        stop: &CancellationToken,
    ) -> Result<(), PullError> {
        let reference = &image.reference;
        let diff_id = layer.diff_id;
        let origin = Origin {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            blob: layer.digest,
        };
        let turn = self.turn((diff_id, origin.clone())).lock_owned().await;
        let store = self.store.clone();
        if blocking(move || store.has(&diff_id)).await {
            return Ok(());
        }
        // Never closed.
        let room = self.room.clone().acquire_owned().await.ok();
        tracing::info!(image = %reference, layer = %diff_id, bytes = layer.size, "fetching a layer");
        let blob = self.registries.blob(image, layer).await?;
        let new = NewLayer { diff_id, compression: layer.compression, origin };
        let (store, stop) = (self.store.clone(), stop.clone());
        blocking(move || {
            // Turn and room are held by the work itself: it goes on when nobody waits for it any more.
            let _held = (turn, room);
            store.add(&new, Stoppable { blob, stop })
        })
        .await
        .map_err(|source| PullError::Add { reference: reference.clone(), source })
    }

    /// Whose turn it is to make a layer. The entry lives as long as somebody makes or waits.
    fn turn(&self, source: Source) -> Arc<Turn<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = making.get(&source).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        making.insert(source, Arc::downgrade(&turn));
        turn
    }
}

/// A blob that breaks off when nobody wants it any more.
struct Stoppable<R> {
    blob: R,
    stop: CancellationToken,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "not wanted any more"));
        }
        self.blob.read(buf)
    }
}
