//! The two passes of a pull. The second one is for layers that can be unpacked only with the layers below them.
//!
//! Such a layer has hard links to files of the layers below, or entries in directories that only those layers describe.
//! Neither manifest nor config says so.
//!
//! 1. `pull_alone` fetches each layer of the image, several at a time, and unpacks it alone. For such a layer this
//!    fails: at the end, or at the first entry whose directory is missing. The lowest layer has nothing below it, so it
//!    always succeeds.
//! 2. `pull_linked` fetches those layers again when all others are in the store, from the bottom up. The store unpacks
//!    each with copies of the files below that it links to (`layers/add_with_layers_below.rs`).
//!
//! A layer of the second pass is stored under the ChainID of the stack up to it. That key stands for the layer in the
//! volume's stack and in the image's record. With it the next pull finds the layer without a fetch.
//!
//! Each image of a volume is unpacked for itself: a directory that no layer of an image names belongs to root with
//! mode 0755, also over another image that has different metadata for it (docs/volumes.md). Otherwise an image would
//! be fetched and stored once for each set of images below it.
//!
//! Such a layer holds bytes of the layers below, for which its own origins prove nothing. So it is used only together
//! with all of these, and only if the pod may have each of them: as a layer of an image, never because an image claims
//! its key for a diff ID.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::{
    error::PullError,
    progress::Item,
    single_flight::{InFlight, LayerFetcher, LayerRequest, PullContext, key_of},
};
use crate::{
    image::{Image, LayerBlob},
    layers::{ChainId, LayerKey, Place},
};

/// A layer that waits for the layers below it.
pub(super) struct Linked<'a> {
    /// The key of the layer if it could be unpacked alone.
    pub(super) key: LayerKey,
    pub(super) item: &'a Item,
    /// While it is kept, other pulls of this layer learn from it, without a fetch, that the layer depends on others.
    pub(super) _in_flight: Option<Arc<InFlight>>,
}

/// The key that each layer of an image has if it is unpacked with the layers below it.
pub(super) fn chains(layers: &[LayerBlob]) -> impl Iterator<Item = LayerKey> {
    layers.iter().scan(None, |below, layer| {
        let chain = ChainId::new(below.as_ref(), &key_of(layer));
        *below = Some(chain);
        Some(LayerKey::of_chain(&chain))
    })
}

impl LayerFetcher {
    /// Pulls one layer into the store. Returns the layer if it depends on the layers below it.
    pub(super) async fn pull_alone<'a>(
        &self,
        wanted: LayerRequest<'_>,
        chain: LayerKey,
        context: &PullContext<'_>,
        item: &'a Item,
    ) -> Result<Option<Linked<'a>>, PullError> {
        let key = wanted.key;
        let is_here = self.may_use(&key, wanted.place(), context).await;
        if !is_here && chain != key {
            if self.may_use(&chain, Place::Chain, context).await {
                return Ok(Some(Linked { key, item, _in_flight: None }));
            }
            let linked = LayerRequest { key: chain, ..wanted };
            if let Some(known) =
                self.failures.of(&linked.source(), &wanted.image.reference, Instant::now())
            {
                return Err(known);
            }
        }
        let in_flight = self.in_flight(&wanted.source());
        let is_here = is_here || self.fetch_once(wanted, &in_flight, context, item).await?;
        if is_here {
            item.done();
            return Ok(None);
        }
        Ok(Some(Linked { key, item, _in_flight: Some(in_flight) }))
    }

    /// Unpacks the layers of an image that depend on others, when all other layers are in the store. `linked` has them
    /// by the key that each would have alone. Returns the keys of all layers of the image, bottom first.
    pub(super) async fn pull_linked(
        &self,
        image: &Image,
        linked: &HashMap<LayerKey, &Item>,
        context: &PullContext<'_>,
    ) -> Result<Vec<LayerKey>, PullError> {
        let mut keys = Vec::new();
        for (layer, key) in image.layers.iter().zip(chains(&image.layers)) {
            let alone = key_of(layer);
            let Some(item) = linked.get(&alone) else {
                keys.push(alone);
                continue;
            };
            let wanted = LayerRequest { image, layer, key, below: Some(&keys) };
            let in_flight = self.in_flight(&wanted.source());
            if !self.may_use(&key, wanted.place(), context).await {
                self.fetch_once(wanted, &in_flight, context, item).await?;
            }
            item.done();
            keys.push(key);
        }
        Ok(keys)
    }
}
