//! References in, layers in the store out.
//!
//! A layer that is here is given to a pod without a download only where the pod could have pulled it: some origin of it gave it
//! to anybody, or gives it to this pod's credentials, as the registry says now or said not long ago. Anyone else brings the
//! bytes first, for a registry may claim any diff id.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use futures::{
    StreamExt, TryStreamExt,
    future::{ready, try_join_all},
    stream,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Progress, PullError, PullPolicy, Reference, blocking,
    failures::Failures,
    fetch::{Making, Source, Wanted, key_of},
    grants::Grants,
    onto::chains,
    roots::Collector,
};
use crate::{
    digest::Digest,
    fault::Class,
    image::{Access, Image, Keyring, Registries},
    layers::{ImageRecord, Lease, Origin, SnapshotId, Store},
    overlay::LAYER_LIMIT,
};

/// How many layers of one volume are fetched and written at a time: enough to use the wait for the network.
const AT_ONCE: usize = 4;

/// How many layers are fetched and written at a time on this node, whatever asks for them. Each holds a thread and up to some
/// tens of MiB; other work must find threads too.
pub(super) const ON_NODE: usize = 8;

/// Brings images to this node.
#[derive(Debug)]
pub(super) struct Pulls {
    pub(super) registries: Arc<Registries>,
    pub(super) store: Arc<Store>,
    pub(super) collector: Arc<Collector>,
    grants: Grants,
    pub(super) failures: Failures<Source>,
    pub(super) making: Mutex<HashMap<Source, Weak<Making>>>,
    pub(super) room: Arc<Semaphore>,
    /// The same for each registry that something is fetched from.
    pub(super) registries_room: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// The layers of a volume, all of them here.
#[derive(Debug)]
pub(super) struct Pulled {
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

/// An image that was resolved before, all of whose layers are here.
struct Present {
    image: ImageRecord,
    /// Keeps them.
    lease: Lease,
    /// Where each has come from.
    origins: Vec<Arc<Vec<Origin>>>,
}

/// What the layers of one call have in common.
pub(super) struct Asked<'a> {
    pub(super) keyring: &'a Keyring,
    /// Those that their registries have just given to the keyring.
    images: Vec<&'a Image>,
    pub(super) stop: &'a CancellationToken,
}

impl Pulls {
    pub(super) fn new(
        registries: Arc<Registries>,
        collector: Arc<Collector>,
        trust_for: Duration,
    ) -> Self {
        Self {
            registries,
            store: collector.store.clone(),
            collector,
            grants: Grants::new(trust_for),
            failures: Failures::default(),
            registries_room: Mutex::default(),
            making: Mutex::default(),
            room: Arc::new(Semaphore::new(ON_NODE)),
        }
    }

    /// The layers of `images`; every one of them is in the store when this returns, and the keyring's owner may have it.
    /// Dropped before that, it stops what it began.
    pub(super) async fn stack(
        &self,
        images: &[Reference],
        policy: Option<PullPolicy>,
        keyring: &Keyring,
        progress: &Progress,
    ) -> Result<Pulled, PullError> {
        let finds: Vec<_> = images.iter().map(|image| self.find(image, policy, keyring)).collect();
        let found = try_join_all(finds).await?;
        // When one layer fails, or nobody wants the volume any more, the others stop as well.
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let images = found.iter().filter_map(|found| found.image.as_ref()).collect();
        let asked = Asked { keyring, images, stop: &stop };

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
            let (store, image) = (self.store.clone(), image.clone());
            let name = image.reference.to_string();
            blocking(move || store.put_image(&name, image.digest, &layers, &image.config)).await?;
        }
        let manifests = found.iter().map(|found| found.manifest).collect();
        let lease = self.hold(&stack).await;
        Ok(Pulled { stack, own: 0, manifests, snapshot: None, lease })
    }

    /// The same where nobody has to be asked and nothing fetched: every layer is here, and may be given. Blocks.
    pub(super) fn here(
        &self,
        images: &[Reference],
        policy: Option<PullPolicy>,
        keyring: &Keyring,
    ) -> Option<Pulled> {
        let mut found = Vec::new();
        for reference in images {
            let is_asked_for = policy_for(reference, policy) == PullPolicy::Always;
            let present = if is_asked_for { None } else { present(&self.store, reference) }?;
            if !present.origins.iter().all(|origins| self.entitled(origins, keyring)) {
                return None;
            }
            found.push(present);
        }
        found.iter().for_each(|present| self.store.use_image(&present.image.manifest));
        let stack: Vec<_> =
            found.iter().flat_map(|present| &present.image.layers).copied().collect();
        let manifests = found.iter().map(|present| present.image.manifest).collect();
        let lease = self.store.hold(&stack);
        Some(Pulled { stack, own: 0, manifests, snapshot: None, lease })
    }

    /// Finds out which layers an image has: from its record where that will do, else from its registry.
    async fn find(
        &self,
        reference: &Reference,
        policy: Option<PullPolicy>,
        keyring: &Keyring,
    ) -> Result<Found, PullError> {
        let policy = policy_for(reference, policy);
        let present = match policy {
            PullPolicy::Always => None,
            _ => {
                let (store, reference) = (self.store.clone(), reference.clone());
                blocking(move || present(&store, &reference)).await
            }
        };
        match present {
            Some(Present { image, lease, origins })
                if origins.iter().all(|origins| self.entitled(origins, keyring)) =>
            {
                let (store, manifest) = (self.store.clone(), image.manifest);
                blocking(move || store.use_image(&manifest)).await;
                return Ok(Found {
                    manifest: image.manifest,
                    layers: image.layers,
                    image: None,
                    _lease: lease,
                });
            }
            Some(_) if policy == PullPolicy::Never => {
                return Err(PullError::NotEntitled(reference.clone()));
            }
            None if policy == PullPolicy::Never => {
                return Err(PullError::NotPresent(reference.clone()));
            }
            _ => {}
        }
        let image = self.resolve(reference, keyring).await?;
        let layers: Vec<Digest> = image.layers.iter().map(key_of).collect();
        let count = layers.iter().collect::<BTreeSet<_>>().len();
        if count > LAYER_LIMIT {
            return Err(PullError::TooManyLayers { reference: reference.clone(), count });
        }
        let layers: Vec<_> = layers.into_iter().chain(chains(&image.layers)).collect();
        let _lease = self.hold(&layers).await;
        Ok(Found { manifest: image.digest, layers, image: Some(image), _lease })
    }

    /// Asks the registry, and remembers as whom it answered.
    async fn resolve(&self, reference: &Reference, keyring: &Keyring) -> Result<Image, PullError> {
        let resolved = self.registries.resolve(reference, keyring).await;
        match &resolved {
            Ok(image) => self.grants.remember(reference, &image.access, Instant::now()),
            Err(error) if error.class() == Class::Denied => {
                self.grants.forget(reference, &keyring.accesses(reference));
            }
            Err(_) => {}
        }
        Ok(resolved?)
    }

    pub(super) async fn hold(&self, layers: &[Digest]) -> Lease {
        let (store, layers) = (self.store.clone(), layers.to_vec());
        // A round of collection may be in the way.
        blocking(move || store.hold(&layers)).await
    }

    /// Whether a layer with these origins may be given to the keyring's owner without asking anybody.
    fn entitled(&self, origins: &[Origin], keyring: &Keyring) -> bool {
        let now = Instant::now();
        let accepted = |origin: &Origin| {
            // What is no reference came from a file of the node's owner.
            let reference = format!("{}/{}", origin.registry, origin.repository).parse();
            let accesses = reference.map_or_else(|_| Vec::new(), |r| keyring.accesses(&r));
            let place = (origin.registry.as_str(), origin.repository.as_str());
            self.grants.accepted(place, &accesses, now)
        };
        origins.iter().any(|origin| origin.public || accepted(origin))
    }

    /// Whether the layer is here, made alone or not, and may be given.
    pub(super) async fn may_use(
        &self,
        key: &Digest,
        is_alone: bool,
        asked: &Asked<'_>,
    ) -> Result<bool, PullError> {
        let (store, layer) = (self.store.clone(), *key);
        let known = blocking(move || {
            let is_here = store.has(&layer) && store.is_alone(&layer) == is_alone;
            is_here.then(|| store.origins(&layer))
        })
        .await;
        let Some(origins) = known else { return Ok(false) };
        let now_given = origins.iter().find_map(|origin| {
            let same = |image: &&&Image| {
                image.reference.registry() == origin.registry
                    && image.reference.repository() == origin.repository
            };
            asked.images.iter().find(same).map(|image| (origin, image))
        });
        match now_given {
            // A manifest that anybody can read says nothing of the layer: its bytes have to come as to anybody.
            Some((origin, image)) if image.access == Access::Anonymous && !origin.public => {
                Ok(false)
            }
            Some(_) => Ok(true),
            None => Ok(self.entitled(&origins, asked.keyring)),
        }
    }
}

fn policy_for(reference: &Reference, policy: Option<PullPolicy>) -> PullPolicy {
    policy.unwrap_or_else(|| PullPolicy::default_for(reference))
}

/// An image that is here, whoever may have it. Blocks.
fn present(store: &Arc<Store>, reference: &Reference) -> Option<Present> {
    let image = store.image(&reference.to_string())?;
    let lease = store.lease(&image.layers)?;
    let origins = image.layers.iter().map(|layer| store.origins(layer)).collect();
    Some(Present { image, lease, origins })
}

/// The different layers of all images: those that a registry offers, the first of them that does, and those that are here.
/// Of the former with the ChainID up to it.
fn distinct(found: &[Found]) -> (Vec<(Wanted<'_>, Digest)>, BTreeSet<Digest>) {
    let here = found.iter().filter(|found| found.image.is_none());
    let present: BTreeSet<_> = here.flat_map(|found| found.layers.iter().copied()).collect();
    let mut seen = present.clone();
    let mut wanted = Vec::new();
    for image in found.iter().filter_map(|found| found.image.as_ref()) {
        let layers = image.layers.iter().zip(chains(&image.layers));
        let new = layers.filter(|(layer, _)| seen.insert(key_of(layer)));
        wanted.extend(new.map(|(layer, chain)| {
            (Wanted { image, layer, key: key_of(layer), below: None }, chain)
        }));
    }
    (wanted, present)
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "pull_native_tests.rs"]
mod native_tests;

#[cfg(test)]
#[path = "pull_onto_tests.rs"]
mod onto_tests;

#[cfg(test)]
#[path = "pull_private_tests.rs"]
mod private_tests;
