//! Layers that cannot be made alone: hard links of theirs lead to files of the layers below them in their image, or what they hold
//! lies in directories that those describe.
//!
//! That is only found out when such a layer is fetched, so it is fetched twice: the second time after all others are here, from
//! the bottom up. For directories the first time ends at the first of them. The lowest layer of an image has nothing below it, and
//! is made so at once. A layer on others is kept by the ChainID of the stack up to it, and that key stands for it in the volume's stack and in the
//! image's record; by it the next pull finds it without a fetch.
//!
//! The images of one volume are made each for itself: a directory that no layer of an image names is root's, 0755, also over another
//! image that has it otherwise (docs/volumes.md). Made onto those below, an image would be fetched and stored once for each set of
//! images that it is ever laid over.
//!
//! It holds bytes of the layers below, which its own origins do not vouch for. So it is given only together with all of these, each
//! of them to a pod that may have it: as a layer of an image, never because an image claims its key for a diff id.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::{
    PullError,
    progress::Item,
    puller::{ImagePuller, PullContext},
    single_flight::{InFlight, LayerRequest, key_of},
};
use crate::{
    digest::Digest,
    image::{Image, LayerBlob},
    layers::{Place, chain_id},
};

/// A layer that waits for those below it.
pub(super) struct Linked<'a> {
    /// The key that it cannot have.
    pub(super) key: Digest,
    pub(super) item: &'a Item,
    /// As long as it is kept, others that want this layer learn from it that they need not fetch it to find out.
    pub(super) _making: Option<Arc<InFlight>>,
}

/// The ChainID up to each layer of an image, of keys instead of diff ids: what a native layer stands for is not what a portable one
/// of the same tar does.
pub(super) fn chains(layers: &[LayerBlob]) -> impl Iterator<Item = Digest> {
    layers.iter().scan(None, |below, layer| {
        *below = Some(chain_id(below.as_ref(), &key_of(layer)));
        *below
    })
}

impl ImagePuller {
    /// Brings one layer here; answers it where it cannot be made alone.
    pub(super) async fn alone<'a>(
        &self,
        wanted: LayerRequest<'_>,
        chain: Digest,
        asked: &PullContext<'_>,
        item: &'a Item,
    ) -> Result<Option<Linked<'a>>, PullError> {
        let key = wanted.key;
        let is_here = self.may_use(&key, wanted.place(), asked).await?;
        if !is_here && chain != key {
            if self.may_use(&chain, Place::Chain, asked).await? {
                return Ok(Some(Linked { key, item, _making: None }));
            }
            let onto = LayerRequest { key: chain, ..wanted };
            if let Some(known) =
                self.failures.of(&onto.source(), &wanted.image.reference, Instant::now())
            {
                return Err(known);
            }
        }
        let making = self.making(&wanted.source());
        let is_here = is_here || self.bring(wanted, &making, asked, item).await?;
        if is_here {
            item.done();
            return Ok(None);
        }
        Ok(Some(Linked { key, item, _making: Some(making) }))
    }

    /// Makes those layers of an image that are `linked`, by the key that they cannot have, when all others are here; answers the keys of all.
    pub(super) async fn onto(
        &self,
        image: &Image,
        linked: &HashMap<Digest, &Item>,
        asked: &PullContext<'_>,
    ) -> Result<Vec<Digest>, PullError> {
        let mut keys = Vec::new();
        for (layer, key) in image.layers.iter().zip(chains(&image.layers)) {
            let alone = key_of(layer);
            let Some(item) = linked.get(&alone) else {
                keys.push(alone);
                continue;
            };
            let wanted = LayerRequest { image, layer, key, below: Some(&keys) };
            let making = self.making(&wanted.source());
            if !self.may_use(&key, wanted.place(), asked).await? {
                self.bring(wanted, &making, asked, item).await?;
            }
            item.done();
            keys.push(key);
        }
        Ok(keys)
    }
}
