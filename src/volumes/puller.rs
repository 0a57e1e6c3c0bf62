//! References in, layers in the store out.
//!
//! A layer that is here is given to a pod without a download only where the pod could have pulled it (`rights.rs`). Anyone else
//! brings the bytes first, for a registry may claim any diff id.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use futures::{
    StreamExt, TryStreamExt,
    future::{BoxFuture, ready, try_join_all},
    stream,
};
use tokio_util::sync::CancellationToken;

use super::{
    ImagePolicy, Progress, PullError, PullPolicy, Reference,
    auth_cache::AuthCache,
    authorization::{Authorization, Given, Requester},
    blocking,
    cross_layer_links::chains,
    gc::GarbageCollector,
    lanes::{Crowded, Lanes},
    local_images::{LocalImages, present, present_as},
    negative_cache::NegativeCache,
    single_flight::{InFlight, LayerRequest, Source, key_of},
};
use crate::{
    budget::{Budget, Share},
    changeset::Format,
    digest::Digest,
    error::Class,
    image::{Access, Image, Known, Registries, Repository},
    layers::{ImageDetails, Lease, Place, SnapshotId, Store},
    overlay::LAYER_LIMIT,
};

/// How many layers of one volume are fetched and written at a time: enough to use the wait for the network.
const AT_ONCE: usize = 4;

/// Bytes of what images consist of that every pull may hold: common images have less.
const KEPT: u64 = 64 << 10;
/// Bytes held for each layer of an image until all are here.
const LAYER: usize = 512;

/// Brings images to this node.
#[derive(Debug)]
pub(super) struct ImagePuller {
    pub(super) registries: Arc<Registries>,
    pub(super) store: Arc<Store>,
    pub(super) collector: Arc<GarbageCollector>,
    grants: AuthCache,
    policy: ImagePolicy,
    pub(super) failures: NegativeCache<Source>,
    pub(super) making: Mutex<HashMap<Source, Weak<InFlight>>>,
    /// Questions what images consist of, each of which holds documents.
    finds: Lanes,
    /// What images consist of, held as long as the volume's pull goes on: each has a share.
    kept: Arc<Budget>,
    /// Layers that are fetched and written, each of which holds threads and buffers.
    pub(super) fetches: Lanes,
}

/// The layers of a volume, all of them here.
#[derive(Debug)]
pub(super) struct PulledLayers {
    /// Their keys, bottom first.
    pub(super) stack: Vec<Digest>,
    /// How many of these, at the top, snapshots have put above the images.
    pub(super) own: usize,
    /// The manifests of the images, in the order of the stack.
    pub(super) manifests: Vec<Digest>,
    /// The snapshot that they are of.
    pub(super) snapshot: Option<SnapshotId>,
    /// Keeps them until the volume's record does.
    #[allow(dead_code, reason = "dropping it is what lets them go")]
    pub(super) lease: Lease,
}

/// An image whose layers are known, and kept if they are here.
struct Found {
    /// The digest of its manifest.
    manifest: Digest,
    /// Keys, or what they may be where the registry was asked.
    layers: Vec<Digest>,
    /// As the registry has it; `None` where it was not asked, and then all layers are here.
    image: Option<Image>,
    _lease: Lease,
}

/// What the layers of one call have in common.
pub(super) struct PullContext<'a> {
    pub(super) asker: Requester<'a>,
    /// The images that the volume names.
    named: &'a [Reference],
    /// Those that their registries have just given to the asker.
    given: Vec<Given<'a>>,
    pub(super) stop: &'a CancellationToken,
}

impl ImagePuller {
    pub(super) fn new(
        registries: Arc<Registries>,
        collector: Arc<GarbageCollector>,
        trust_for: Duration,
        policy: ImagePolicy,
    ) -> Self {
        Self {
            registries,
            store: collector.store.clone(),
            collector,
            grants: AuthCache::new(trust_for),
            policy,
            failures: NegativeCache::default(),
            making: Mutex::default(),
            finds: Lanes::default(),
            kept: Arc::new(Budget::new(KEPT, 12 << 20, 24 << 20)),
            fetches: Lanes::default(),
        }
    }

    /// The layers of `images`; every one of them is in the store when this returns, and the asker may have it.
    /// Dropped before that, it stops what it began.
    pub(super) async fn stack(
        &self,
        images: &[Reference],
        policy: Option<PullPolicy>,
        asker: Requester<'_>,
        progress: &Progress,
    ) -> Result<PulledLayers, PullError> {
        let kept = self.kept.share();
        let finds: Vec<_> = images
            .iter()
            .map(|image| self.find_in_turn(image, policy, asker, images, &kept))
            .collect();
        let found = try_join_all(finds).await?;
        // When one layer fails, or nobody wants the volume any more, the others stop as well.
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let given = found.iter().filter_map(|found| found.image.as_ref()).map(Given::from);
        let asked = PullContext { asker, named: images, given: given.collect(), stop: &stop };

        let (wanted, present) = distinct(&found);
        let sizes =
            wanted.iter().map(|(wanted, _)| wanted.layer.size).chain(present.iter().map(|_| 0));
        let items = progress.begin(sizes);
        items.iter().skip(wanted.len()).for_each(|item| item.done());
        // Collected first: as a lazy `map` the compiler cannot see that the whole future may move between threads.
        let fetches: Vec<_> = (wanted.iter().zip(&items))
            .map(|((wanted, chain), item)| self.alone(*wanted, *chain, &asked, item))
            .collect();
        let fetched =
            stream::iter(fetches).buffer_unordered(AT_ONCE).try_filter_map(|it| ready(Ok(it)));
        let waiting: Vec<_> = fetched.try_collect().await?;
        let linked = waiting.iter().map(|linked| (linked.key, linked.item)).collect();

        let mut stack = Vec::new();
        for found in &found {
            let Some(image) = &found.image else {
                stack.extend(&found.layers);
                continue;
            };
            let layers = self.onto(image, &linked, &asked).await?;
            stack.extend(&layers);
            let (store, name, manifest) =
                (self.store.clone(), image.reference.to_string(), image.digest);
            let details = ImageDetails {
                index: image.index,
                config_digest: Some(image.config_digest),
                config: Some(image.config.clone()),
            };
            blocking(move || store.put_image(&name, manifest, &layers, &details)).await?;
        }
        let manifests = found.iter().map(|found| found.manifest).collect();
        let lease = self.hold(&stack).await;
        Ok(PulledLayers { stack, own: 0, manifests, snapshot: None, lease })
    }

    /// The same where nobody has to be asked and nothing fetched: every layer is here, and may be given. Blocks.
    pub(super) fn here(
        &self,
        images: &[Reference],
        policy: Option<PullPolicy>,
        asker: Requester<'_>,
    ) -> Option<PulledLayers> {
        let mut found = Vec::new();
        for reference in images {
            let is_asked_for = policy_for(reference, policy) == PullPolicy::Always;
            let present = if is_asked_for { None } else { present(&self.store, reference) }?;
            if !present.is_allowed(&self.rights(asker, images), &[]) {
                return None;
            }
            found.push(present);
        }
        found.iter().for_each(|present| self.store.use_image(&present.image.manifest));
        let stack: Vec<_> =
            found.iter().flat_map(|present| &present.image.layers).copied().collect();
        let manifests = found.iter().map(|present| present.image.manifest).collect();
        let lease = self.store.hold(&stack);
        Some(PulledLayers { stack, own: 0, manifests, snapshot: None, lease })
    }

    /// The same as [`Self::find`] with its part of the node.
    async fn find_in_turn(
        &self,
        reference: &Reference,
        policy: Option<PullPolicy>,
        asker: Requester<'_>,
        named: &[Reference],
        kept: &Share,
    ) -> Result<Found, PullError> {
        let find = self.find(reference, policy, asker, named);
        let found = self.finds.run(asker.namespace, find).await;
        let found = found.unwrap_or_else(|Crowded| Err(PullError::Crowded(reference.clone())))?;
        if let Some(image) = &found.image {
            let bytes = image.config.len() + image.layers.len() * LAYER;
            let taken = kept.try_take(bytes as u64);
            taken.map_err(|why| PullError::Memory { reference: reference.clone(), why })?;
        }
        Ok(found)
    }

    /// Finds out which layers an image has: from its record where that will do, else from its registry.
    async fn find(
        &self,
        reference: &Reference,
        policy: Option<PullPolicy>,
        asker: Requester<'_>,
        named: &[Reference],
    ) -> Result<Found, PullError> {
        let policy = policy_for(reference, policy);
        let (store, name) = (self.store.clone(), reference.clone());
        let known = blocking(move || present(&store, &name)).await;
        let is_known = known.is_some();
        let may = |present: &LocalImages| {
            policy != PullPolicy::Always && present.is_allowed(&self.rights(asker, named), &[])
        };
        if let Some(present) = known.filter(may) {
            return self.found(reference, present).await;
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(reference.clone()));
        }
        // Only of an image that was here one question may do.
        let meant = if is_known { self.meant(reference, asker).await? } else { None };
        if let Some((digest, access)) = &meant {
            let (store, place, digest) = (self.store.clone(), reference.clone(), *digest);
            let same = blocking(move || present_as(&store, &place, &digest)).await;
            let given = [Given { reference, access }];
            let rights = self.rights(asker, named);
            if let Some(present) = same.filter(|same| same.is_allowed(&rights, &given)) {
                return self.found(reference, present).await;
            }
        }
        let image = self.resolve(reference, meant.map(|(digest, _)| digest), asker).await?;
        let layers: Vec<Digest> = image.layers.iter().map(key_of).collect();
        let count = layers.iter().collect::<BTreeSet<_>>().len();
        if count > LAYER_LIMIT {
            return Err(PullError::TooManyLayers { reference: reference.clone(), count });
        }
        let layers: Vec<_> = layers.into_iter().chain(chains(&image.layers)).collect();
        let _lease = self.hold(&layers).await;
        Ok(Found { manifest: image.digest, layers, image: Some(image), _lease })
    }

    /// An image that is here and that the reference means.
    async fn found(&self, reference: &Reference, present: LocalImages) -> Result<Found, PullError> {
        let LocalImages { image, lease, .. } = present;
        let (store, known, name) = (self.store.clone(), image.clone(), reference.to_string());
        blocking(move || match store.image(&name) {
            Some(meant) if meant.manifest == known.manifest => {
                store.use_image(&known.manifest);
                Ok(())
            }
            _ => store.put_image(&name, known.manifest, &known.layers, &ImageDetails::default()),
        })
        .await?;
        let (manifest, layers) = (image.manifest, image.layers.clone());
        Ok(Found { manifest, layers, image: None, _lease: lease })
    }

    /// Asks the registry what a reference means now, and remembers as whom it answered.
    async fn meant(
        &self,
        reference: &Reference,
        asker: Requester<'_>,
    ) -> Result<Option<(Digest, Access)>, PullError> {
        let meant = self.registries.digest_of(reference, asker.keyring).await;
        match &meant {
            Ok(Some((_, access))) => self.grants.remember(reference, access, Instant::now()),
            Ok(None) => {}
            Err(error) => self.refused(reference, asker, error.class()),
        }
        Ok(meant?)
    }

    /// Asks the registry for an image, and remembers as whom it answered.
    async fn resolve(
        &self,
        reference: &Reference,
        digest: Option<Digest>,
        asker: Requester<'_>,
    ) -> Result<Image, PullError> {
        let (store, place) = (self.store.clone(), Repository::of(reference).to_string());
        let config = &|digest: Digest| -> BoxFuture<'static, Option<String>> {
            let (store, place) = (store.clone(), place.clone());
            Box::pin(blocking(move || store.config_at(&place, &digest)))
        };
        let known = Known { digest, config };
        let resolved = self.registries.resolve_knowing(reference, asker.keyring, known).await;
        match &resolved {
            Ok(image) => self.grants.remember(reference, &image.access, Instant::now()),
            Err(error) => self.refused(reference, asker, error.class()),
        }
        Ok(resolved?)
    }

    fn refused(&self, reference: &Reference, asker: Requester<'_>, class: Class) {
        if class == Class::Denied {
            self.grants.forget(reference, &asker.keyring.accesses(reference));
        }
    }

    pub(super) async fn hold(&self, layers: &[Digest]) -> Lease {
        let (store, layers) = (self.store.clone(), layers.to_vec());
        // A round of collection may be in the way.
        blocking(move || store.hold(&layers)).await
    }

    fn rights<'a>(&'a self, asker: Requester<'a>, named: &'a [Reference]) -> Authorization<'a> {
        Authorization { asker, policy: &self.policy, grants: &self.grants, named }
    }

    /// Whether the layer is here, for that place in a stack, and may be given.
    pub(super) async fn may_use(
        &self,
        key: &Digest,
        place: Place,
        asked: &PullContext<'_>,
    ) -> Result<bool, PullError> {
        let (store, layer) = (self.store.clone(), *key);
        let known =
            blocking(move || store.fits(&layer, place).then(|| store.origins(&layer))).await;
        let Some(origins) = known else { return Ok(false) };
        Ok(self.rights(asked.asker, asked.named).allow(&origins, &asked.given))
    }
}

/// What a digest means cannot change, so there is never a reason to ask for one that is here.
fn policy_for(reference: &Reference, policy: Option<PullPolicy>) -> PullPolicy {
    match policy.unwrap_or_else(|| PullPolicy::default_for(reference)) {
        PullPolicy::Always if reference.digest().is_some() => PullPolicy::IfNotPresent,
        policy => policy,
    }
}

/// The different layers of all images: those that a registry offers, the first of them that does, and those that are here.
/// Of the former with the ChainID up to it. One that is the lowest of an image and lies on others in another is two.
fn distinct(found: &[Found]) -> (Vec<(LayerRequest<'_>, Digest)>, BTreeSet<Digest>) {
    let here = || found.iter().filter(|found| found.image.is_none()).map(|found| &found.layers);
    let present: BTreeSet<_> = here().flatten().copied().collect();
    let upper: BTreeSet<_> = here().flat_map(|layers| layers.iter().skip(1)).copied().collect();
    let mut seen = BTreeSet::new();
    let mut wanted = Vec::new();
    for image in found.iter().filter_map(|found| found.image.as_ref()) {
        let layers = image.layers.iter().zip(chains(&image.layers));
        for (depth, (layer, chain)) in layers.enumerate() {
            let is_lowest = depth == 0 && layer.format == Format::Portable;
            let key = key_of(layer);
            let is_here = if is_lowest { &present } else { &upper }.contains(&key);
            if !is_here && seen.insert((key, is_lowest)) {
                let below = is_lowest.then_some(&[][..]);
                wanted.push((LayerRequest { image, layer, key, below }, chain));
            }
        }
    }
    (wanted, present)
}

#[cfg(test)]
#[path = "puller_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "pull_native_tests.rs"]
mod native_tests;

#[cfg(test)]
#[path = "pull_cross_layer_tests.rs"]
mod onto_tests;

#[cfg(test)]
#[path = "pull_private_tests.rs"]
mod private_tests;

#[cfg(test)]
#[path = "pull_slow_tests.rs"]
mod slow_tests;
