//! The image puller: resolves references and pulls their layers into the store.
//!
//! A pod uses a layer of the store without a download only if the pod could have pulled it (`authorization.rs`). For
//! all others the bytes are pulled first, because a registry may claim any diff ID.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt, TryStreamExt,
    future::{BoxFuture, ready, try_join_all},
    stream,
};
use tokio_util::sync::CancellationToken;

use super::{
    auth_cache::AuthCache,
    authorization::{Authorization, Given, Requester},
    cross_layer_links::chains,
    error::PullError,
    image_policy::ImagePolicy,
    lanes::{Crowded, Lanes},
    local_images::{LocalImages, present, present_as},
    progress::Progress,
    single_flight::{LayerFetcher, LayerRequest, PullContext, key_of},
};
use crate::{
    budget::{Budget, Share},
    digest::{BlobDigest, ManifestDigest},
    error::Class,
    image::{Access, Image, KnownImage, PullPolicy, Registries},
    layers::{ImageDetails, LayerKey, Lease, Store},
    media_type::Format,
    metrics::Metrics,
    overlay::LAYER_LIMIT,
    reference::{Reference, Repository},
    sys::blocking::blocking,
};

/// How many layers of one pull are fetched and written at a time. That is enough to use the time of waiting for the
/// network.
const FETCHES_PER_PULL: usize = 4;

/// The bytes of image documents that every pull may hold in any case. Common images have less.
const FREE_BYTES: u64 = 64 << 10;
/// The bytes held for each layer of an image until all layers are in the store.
const LAYER_BYTES: usize = 512;

/// Pulls images to this node.
#[derive(Debug)]
pub struct ImagePuller {
    registries: Arc<Registries>,
    store: Arc<Store>,
    fetcher: LayerFetcher,
    auth_cache: AuthCache,
    policy: ImagePolicy,
    /// Limits the resolutions of images, each of which holds documents in memory.
    resolutions: Lanes,
    /// The memory for the documents of images, which a pull holds until its end. Each pull has a share. It is not a
    /// part of the node's budget: a pull holds it while it waits for layers, whose unpacking waits for that budget.
    documents: Arc<Budget>,
}

/// The layers of some images, all of them in the store.
#[derive(Debug)]
pub struct PulledLayers {
    /// Their keys, bottom first.
    pub stack: Vec<LayerKey>,
    /// The manifests of the images, in the order of the stack.
    pub manifests: Vec<ManifestDigest>,
    /// Keeps the layers in the store.
    pub lease: Lease,
}

/// An image whose layers are known. Those in the store are kept.
struct FoundImage {
    /// The digest of its manifest.
    manifest: ManifestDigest,
    /// The keys of the layers. If the image was resolved at the registry, all keys that the layers may get.
    layers: Vec<LayerKey>,
    /// The image as the registry returned it. `None` if the registry was not used; then all layers are in the store.
    image: Option<Image>,
    _lease: Lease,
}

impl ImagePuller {
    pub fn new(
        registries: Arc<Registries>,
        store: Arc<Store>,
        metrics: Metrics,
        trust_for: Duration,
        policy: ImagePolicy,
    ) -> Self {
        Self {
            fetcher: LayerFetcher::new(registries.clone(), store.clone(), metrics),
            registries,
            store,
            auth_cache: AuthCache::new(trust_for),
            policy,
            resolutions: Lanes::default(),
            documents: Arc::new(Budget::new(FREE_BYTES, 12 << 20, 24 << 20)),
        }
    }

    /// Pulls the layers of `images`. When this returns, every layer is in the store, and the requester may use it. A
    /// drop stops the fetches.
    pub async fn pull(
        &self,
        images: &[Reference],
        policy: Option<PullPolicy>,
        requester: Requester<'_>,
        progress: &Progress,
    ) -> Result<PulledLayers, PullError> {
        let documents = self.documents.share();
        let finds: Vec<_> = images
            .iter()
            .map(|image| self.find_in_turn(image, policy, requester, images, &documents))
            .collect();
        let found = try_join_all(finds).await?;
        // When one layer fails, or the pull is cancelled, the other fetches stop too.
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let given = found.iter().filter_map(|found| found.image.as_ref()).map(Given::from);
        let authorization = self.authorization(requester, images);
        let context = PullContext { authorization, given: given.collect(), stop: &stop };

        let (wanted, present) = distinct(&found);
        let sizes =
            wanted.iter().map(|(wanted, _)| wanted.layer.size).chain(present.iter().map(|_| 0));
        let items = progress.begin(sizes);
        items.iter().skip(wanted.len()).for_each(|item| item.done());
        // Collected first: with a lazy `map` the compiler cannot prove that the whole future is `Send`.
        let fetches: Vec<_> = (wanted.iter().zip(&items))
            .map(|((wanted, chain), item)| self.fetcher.pull_alone(*wanted, *chain, &context, item))
            .collect();
        let fetched = stream::iter(fetches)
            .buffer_unordered(FETCHES_PER_PULL)
            .try_filter_map(|it| ready(Ok(it)));
        let waiting: Vec<_> = fetched.try_collect().await?;
        let linked = waiting.iter().map(|linked| (linked.key, linked.item)).collect();

        let mut stack = Vec::new();
        for found in &found {
            let Some(image) = &found.image else {
                stack.extend(&found.layers);
                continue;
            };
            let layers = self.fetcher.pull_linked(image, &linked, &context).await?;
            stack.extend(&layers);
            let (store, name, manifest) =
                (self.store.clone(), image.reference.to_string(), image.digest);
            let details = ImageDetails {
                index: image.index,
                config_digest: Some(image.config_digest),
                config: Some(image.config.clone()),
            };
            blocking(move || store.images.put(&name, manifest, &layers, &details)).await?;
        }
        let manifests = found.iter().map(|found| found.manifest).collect();
        let lease = self.hold(&stack).await?;
        Ok(PulledLayers { stack, manifests, lease })
    }

    /// The same without a registry: returns the layers if all of them are in the store and the requester may use them.
    /// Blocks.
    pub fn local(
        &self,
        images: &[Reference],
        policy: Option<PullPolicy>,
        requester: Requester<'_>,
    ) -> Option<PulledLayers> {
        let mut found = Vec::new();
        for reference in images {
            let must_resolve = PullPolicy::for_image(reference, policy) == PullPolicy::Always;
            let present = if must_resolve { None } else { present(&self.store, reference) }?;
            if !present.is_allowed(&self.authorization(requester, images), &[]) {
                return None;
            }
            found.push(present);
        }
        found.iter().for_each(|present| self.store.images.mark_used(&present.image.manifest));
        let stack: Vec<_> =
            found.iter().flat_map(|present| &present.image.layers).copied().collect();
        let manifests = found.iter().map(|present| present.image.manifest).collect();
        // An error is reported by the pull that follows.
        let lease = self.store.leases.take(&stack).ok()?;
        Some(PulledLayers { stack, manifests, lease })
    }

    /// [`Self::find`] within the node's limits: in the namespace's turn and within the memory of the pull.
    async fn find_in_turn(
        &self,
        reference: &Reference,
        policy: Option<PullPolicy>,
        requester: Requester<'_>,
        named: &[Reference],
        documents: &Share,
    ) -> Result<FoundImage, PullError> {
        let find = self.find(reference, policy, requester, named);
        let found = self.resolutions.run(requester.namespace, find).await;
        let found = found.unwrap_or_else(|Crowded| Err(PullError::Crowded(reference.clone())))?;
        if let Some(image) = &found.image {
            let bytes = image.config.len() + image.layers.len() * LAYER_BYTES;
            let taken = documents.try_take(bytes as u64);
            taken.map_err(|why| PullError::Memory { reference: reference.clone(), why })?;
        }
        Ok(found)
    }

    /// Finds the layers of an image: from its record if that is enough, otherwise from its registry.
    async fn find(
        &self,
        reference: &Reference,
        policy: Option<PullPolicy>,
        requester: Requester<'_>,
        named: &[Reference],
    ) -> Result<FoundImage, PullError> {
        let policy = PullPolicy::for_image(reference, policy);
        let (store, name) = (self.store.clone(), reference.clone());
        let known = blocking(move || present(&store, &name)).await;
        let is_known = known.is_some();
        let may = |present: &LocalImages| {
            policy != PullPolicy::Always
                && present.is_allowed(&self.authorization(requester, named), &[])
        };
        if let Some(present) = known.filter(may) {
            return self.use_local(reference, present).await;
        }
        if policy == PullPolicy::Never {
            return Err(PullError::NotPresent(reference.clone()));
        }
        // One HEAD request can be enough only for an image that is in the store.
        let current =
            if is_known { self.current_digest(reference, requester).await? } else { None };
        if let Some((digest, access)) = &current {
            let (store, place, digest) = (self.store.clone(), reference.clone(), *digest);
            let same = blocking(move || present_as(&store, &place, &digest)).await;
            let given = [Given { reference, access }];
            let authorization = self.authorization(requester, named);
            if let Some(present) = same.filter(|same| same.is_allowed(&authorization, &given)) {
                return self.use_local(reference, present).await;
            }
        }
        let image = self.resolve(reference, current.map(|(digest, _)| digest), requester).await?;
        let layers: Vec<LayerKey> = image.layers.iter().map(key_of).collect();
        let count = layers.iter().collect::<BTreeSet<_>>().len();
        if count > LAYER_LIMIT {
            return Err(PullError::TooManyLayers { reference: reference.clone(), count });
        }
        let layers: Vec<_> = layers.into_iter().chain(chains(&image.layers)).collect();
        let _lease = self.hold(&layers).await?;
        Ok(FoundImage { manifest: image.digest, layers, image: Some(image), _lease })
    }

    /// Records that the reference means an image of the store, and returns its layers.
    async fn use_local(
        &self,
        reference: &Reference,
        present: LocalImages,
    ) -> Result<FoundImage, PullError> {
        let LocalImages { image, lease, .. } = present;
        let (store, known, name) = (self.store.clone(), image.clone(), reference.to_string());
        blocking(move || match store.images.named(&name) {
            Some(current) if current.manifest == known.manifest => {
                store.images.mark_used(&known.manifest);
                Ok(())
            }
            _ => store.images.put(&name, known.manifest, &known.layers, &ImageDetails::default()),
        })
        .await?;
        let (manifest, layers) = (image.manifest, image.layers.clone());
        Ok(FoundImage { manifest, layers, image: None, _lease: lease })
    }

    /// Requests the current digest of a reference from the registry, and records which credential the registry
    /// accepted.
    async fn current_digest(
        &self,
        reference: &Reference,
        requester: Requester<'_>,
    ) -> Result<Option<(ManifestDigest, Access)>, PullError> {
        let current = self.registries.digest_of(reference, requester.keyring).await;
        match &current {
            Ok(Some((_, access))) => self.auth_cache.remember(reference, access, Instant::now()),
            Ok(None) => {}
            Err(error) => self.forget_refused(reference, requester, error.class()),
        }
        Ok(current?)
    }

    /// Resolves an image at the registry, and records which credential the registry accepted.
    async fn resolve(
        &self,
        reference: &Reference,
        digest: Option<ManifestDigest>,
        requester: Requester<'_>,
    ) -> Result<Image, PullError> {
        let (store, place) = (self.store.clone(), Repository::of(reference).to_string());
        let config = &|digest: BlobDigest| -> BoxFuture<'static, Option<String>> {
            let (store, place) = (store.clone(), place.clone());
            Box::pin(blocking(move || store.images.config_at(&place, &digest)))
        };
        let known = KnownImage { digest, config };
        let resolved = self.registries.resolve_knowing(reference, requester.keyring, known).await;
        match &resolved {
            Ok(image) => self.auth_cache.remember(reference, &image.access, Instant::now()),
            Err(error) => self.forget_refused(reference, requester, error.class()),
        }
        Ok(resolved?)
    }

    fn forget_refused(&self, reference: &Reference, requester: Requester<'_>, class: Class) {
        if class == Class::Denied {
            self.auth_cache.forget(reference, &requester.keyring.accesses(reference));
        }
    }

    pub async fn hold(&self, layers: &[LayerKey]) -> Result<Lease, PullError> {
        let (store, layers) = (self.store.clone(), layers.to_vec());
        blocking(move || store.leases.take(&layers)).await.map_err(PullError::Lease)
    }

    fn authorization<'a>(
        &'a self,
        requester: Requester<'a>,
        named: &'a [Reference],
    ) -> Authorization<'a> {
        Authorization { requester, policy: &self.policy, auth_cache: &self.auth_cache, named }
    }
}

/// The distinct layers of all images. First the layers that a registry offers, each from the first registry that does
/// and with the ChainID up to it. Second the layers that are in the store. A layer that is the lowest of one image and
/// lies on others in another image counts as two.
fn distinct(found: &[FoundImage]) -> (Vec<(LayerRequest<'_>, LayerKey)>, BTreeSet<LayerKey>) {
    let here = || found.iter().filter(|found| found.image.is_none()).map(|found| &found.layers);
    let present: BTreeSet<_> = here().flatten().copied().collect();
    let upper: BTreeSet<_> = here().flat_map(|layers| layers.iter().skip(1)).copied().collect();
    let mut added = BTreeSet::new();
    let mut wanted = Vec::new();
    for image in found.iter().filter_map(|found| found.image.as_ref()) {
        let layers = image.layers.iter().zip(chains(&image.layers));
        for (depth, (layer, chain)) in layers.enumerate() {
            let is_lowest = depth == 0 && layer.format == Format::Portable;
            let key = key_of(layer);
            let is_here = if is_lowest { &present } else { &upper }.contains(&key);
            if !is_here && added.insert((key, is_lowest)) {
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
#[path = "native_tests.rs"]
mod native_tests;

#[cfg(test)]
#[path = "cross_layer_tests.rs"]
mod cross_layer_tests;

#[cfg(test)]
#[path = "private_tests.rs"]
mod private_tests;

#[cfg(test)]
#[path = "slow_tests.rs"]
mod slow_tests;
