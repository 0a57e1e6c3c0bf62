//! Tests of pulls from registries that lie, refuse access or are unavailable.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    digest::DiffId,
    image::{
        Keyring,
        fake::{ALWAYS, FakeRegistry, Fault, OCI_MANIFEST, Pushed, descriptor, gzipped},
    },
    layers::{NewLayer, Origin, Watermarks, testing::keys},
    media_type::Format,
    metrics::Metrics,
    sys::{mounts::FakeMounts, statfs::Space},
    volumes::{gc::GarbageCollector, records::Records},
};

/// The image puller of one node, on a disk of which `free` bytes are free while the store has no layer.
pub(super) struct Node {
    dir: TempDir,
    free: Arc<AtomicU64>,
    collector: Arc<GarbageCollector>,
    pub(super) puller: ImagePuller,
}

impl Node {
    pub(super) fn new(registries: Registries, trust_for: Duration) -> Self {
        Self::with_policy(registries, trust_for, ImagePolicy::default())
    }

    pub(super) fn with_policy(
        registries: Registries,
        trust_for: Duration,
        policy: ImagePolicy,
    ) -> Self {
        let (dir, mounts) = (TempDir::new().unwrap(), Arc::new(FakeMounts::default()));
        let store = Store::open(dir.path(), mounts.clone()).unwrap();
        let free = Arc::new(AtomicU64::new(1 << 30));
        store.disk.set_fake({
            let free = free.clone();
            move |root| {
                let used = layer_bytes(root);
                let available = free.load(Relaxed).saturating_sub(used);
                Ok(Space::with_available(1 << 30, available))
            }
        });
        let store = Arc::new(store);
        let records = Records::new(store.volumes());
        let watermarks = Watermarks { high: 100, low: 100, grace: Duration::ZERO };
        let metrics = Metrics::default();
        let puller =
            ImagePuller::new(registries.into(), store.clone(), metrics.clone(), trust_for, policy);
        let collector = GarbageCollector { store, records, mounts, watermarks, metrics }.start();
        Self { dir, free, collector, puller }
    }

    pub(super) async fn pull(
        &self,
        image: &Reference,
        policy: PullPolicy,
        keyring: &Keyring,
    ) -> Result<PulledLayers, PullError> {
        self.pull_as(Requester { namespace: "default", keyring }, image, policy).await
    }

    pub(super) async fn pull_as(
        &self,
        requester: Requester<'_>,
        image: &Reference,
        policy: PullPolicy,
    ) -> Result<PulledLayers, PullError> {
        let (progress, images) = (Progress::default(), std::slice::from_ref(image));
        let here = self.puller.local(images, Some(policy), requester);
        let pulled = self.puller.pull(images, Some(policy), requester, &progress).await;
        // The local path returns nothing that the full pull would not return.
        if let Some(here) = here {
            let full = pulled
                .as_ref()
                .unwrap_or_else(|error| panic!("{image} is local, but its pull fails: {error}"));
            assert_eq!(here.stack, full.stack);
        }
        pulled
    }

    async fn pull_anonymously(
        &self,
        image: &Reference,
        policy: PullPolicy,
    ) -> Result<PulledLayers, PullError> {
        self.pull(image, policy, &Keyring::default()).await
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.puller.store
    }

    /// Adds the only layer of an image to the store, as a pull with a credential would.
    fn add_private(&self, image: &Reference, pushed: &Pushed, tar: &[u8]) {
        let (diff_id, blob) = (pushed.diff_ids[0], pushed.layers[0]);
        let (registry, repository) = (image.registry().to_owned(), image.repository().to_owned());
        let origin =
            Origin { registry, repository, blob, public: false, packed: None, namespace: None };
        let new = NewLayer { diff_id, format: Format::Portable, origin };
        self.store().layers.add(&new, self.store().disk.reserve(1).unwrap(), tar).unwrap();
        self.store()
            .images
            .put(&image.to_string(), pushed.manifest, &[new.key_alone()], &ImageDetails::default())
            .unwrap();
    }
}

fn layer_bytes(root: &Path) -> u64 {
    let layers = std::fs::read_dir(root.join("layers")).unwrap().map(|entry| entry.unwrap().path());
    layers.filter_map(|layer| Some(layer.join("layer.erofs").metadata().ok()?.len())).sum()
}

/// A layer of one file.
pub(super) fn layer(content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "file", content.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

/// Pushes an image whose config claims `diff_ids` for these tars. The tars are compressed, because the digest of a
/// plain tar shows its diff ID.
pub(super) fn claim(
    registry: &FakeRegistry,
    repository: &str,
    diff_ids: &[DiffId],
    tars: &[&[u8]],
) -> Reference {
    let blobs: Vec<_> = tars.iter().map(|tar| gzipped(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let packed = |blob: &Vec<u8>| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": blobs.iter().map(packed).collect::<Vec<_>>(),
    });
    registry.put_blob(config);
    for blob in blobs {
        registry.put_blob(blob);
    }
    registry.put_manifest(repository, "1", &manifest.to_string(), OCI_MANIFEST);
    registry.reference(repository, "1")
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn the_images_of_a_volume_make_one_stack_with_a_lease() {
    let registry = FakeRegistry::start().await;
    let [base, tool, own] = ["base", "tool", "own"].map(layer);
    let base = registry.push_image("base", "1", std::slice::from_ref(&base), false).layers[0];
    let tools = registry.push_image("tools", "1", &[layer("base"), tool, own], true);
    let node = Node::new(registry.registries(), HOUR);
    let images = [registry.reference("base", "1"), registry.reference("tools", "1")];
    let progress = Progress::default();
    let requester = Requester { namespace: "default", keyring: &Keyring::default() };
    let pulled = node.puller.pull(&images, None, requester, &progress).await.unwrap();
    let layers = keys(&tools.diff_ids);
    let stack: Vec<_> = layers[..1].iter().chain(&layers).copied().collect();
    assert_eq!(pulled.stack, stack);
    assert_eq!(registry.requests_to(&base.to_string()).len(), 1);
    assert_eq!(
        registry.requests_to(&tools.layers[0].to_string()).len(),
        0,
        "the same layer, packed again"
    );
    assert_eq!((progress.layers_done(), progress.layers()), (3, 3));
    assert_eq!(progress.bytes_done(), progress.bytes_wanted());
    let text = node.collector.metrics.text().unwrap();
    assert!(text.contains("ovl_pulls_total 3"), "{text}");

    // Only the lease keeps the layers once their images are gone.
    for image in &images {
        node.store()
            .images
            .put(&image.to_string(), ManifestDigest::of(b"other"), &[], &ImageDetails::default())
            .unwrap();
    }
    assert_eq!(node.collector.collect().unwrap().layers, 0);
    drop(pulled);
    assert_eq!(node.collector.collect().unwrap().layers, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pull_policy_decides_when_the_registry_is_contacted() {
    let registry = FakeRegistry::start().await;
    registry.push_image("a", "1", &[layer("one")], false);
    let image = registry.reference("a", "1");
    let node = Node::new(registry.registries(), HOUR);
    let error = node.pull_anonymously(&image, PullPolicy::Never).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    let manifest_requests = || registry.requests_to("/manifests/").len();
    assert_eq!(manifest_requests(), 0);
    node.pull_anonymously(&image, PullPolicy::IfNotPresent).await.unwrap();
    let once = manifest_requests();
    assert!(once > 0);
    let resolved = node.store().images.named(&image.to_string()).unwrap();
    assert_eq!(resolved.used, None);
    // A public image: no registry has to confirm that this pod may use it.
    node.pull_anonymously(&image, PullPolicy::IfNotPresent).await.unwrap();
    node.pull_anonymously(&image, PullPolicy::Never).await.unwrap();
    assert_eq!(manifest_requests(), once);
    assert!(node.store().images.named(&image.to_string()).unwrap().used.is_some());
    node.pull_anonymously(&image, PullPolicy::Always).await.unwrap();
    assert!(manifest_requests() > once);
    registry.inject("manifests", ALWAYS, Fault::Respond(503, vec![]));
    let error = node.pull_anonymously(&image, PullPolicy::Always).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    node.pull_anonymously(&image, PullPolicy::IfNotPresent).await.unwrap();
}

/// docs/hazards.md, 29: the layers are in the store, and the pod could not have pulled them.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_the_credential_gets_no_private_layer_of_the_store() {
    let registry = FakeRegistry::start().await;
    let tar = layer("private");
    let pushed = registry.push_image("team/tool", "1", std::slice::from_ref(&tar), false);
    let image = registry.reference("team/tool", "1");
    let node = Node::new(registry.registries(), HOUR);
    node.add_private(&image, &pushed, &tar);

    let error = node.pull_anonymously(&image, PullPolicy::Never).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    let absent = registry.reference("team/other", "1");
    let other = node.pull_anonymously(&absent, PullPolicy::Never).await.unwrap_err().to_string();
    let same = other.replace(&absent.to_string(), &image.to_string());
    assert_eq!(
        error.to_string(),
        same,
        "the error does not show whether the image is in the store"
    );
    assert_eq!(registry.requests_to("").len(), 0, "Never sends no request");
    registry.inject("manifests", 2, Fault::Respond(403, vec![]));
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Always] {
        let error = node.pull_anonymously(&image, policy).await.unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{policy:?}: {error}");
        assert!(error.to_string().contains("(nodePublishSecretRef of the volume)"), "{error}");
    }
    registry.inject("manifests", ALWAYS, Fault::Respond(503, vec![]));
    let error = node.pull_anonymously(&image, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert_eq!(registry.requests_to("/blobs/").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_became_public_is_fetched_once_more() {
    let registry = FakeRegistry::start().await;
    let tar = layer("private");
    let pushed = registry.push_image("team/tool", "1", std::slice::from_ref(&tar), false);
    let image = registry.reference("team/tool", "1");
    let node = Node::new(registry.registries(), HOUR);
    node.add_private(&image, &pushed, &tar);
    node.pull_anonymously(&image, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(registry.requests_to(&pushed.layers[0].to_string()).len(), 1, "only bytes prove it");
    assert!(node.store().origins.of(&keys(&pushed.diff_ids)[0])[0].public);
    node.pull_anonymously(&image, PullPolicy::Never).await.unwrap();
}

/// docs/hazards.md, 29: a tenant's own registry may claim any diff ID.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_names_a_private_layer_must_deliver_it() {
    let (registry, evil) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let tar = layer("private");
    let pushed = registry.push_image("team/tool", "1", std::slice::from_ref(&tar), false);
    let (claimed, private) = (pushed.diff_ids[0], keys(&pushed.diff_ids)[0]);
    let hosts = [&registry, &evil].map(|r| (r.host(), format!("server = \"http://{}\"", r.host())));
    let hosts = hosts.each_ref().map(|(host, text)| (host.as_str(), text.as_str()));
    let node = Node::new(crate::image::fake::registries(&hosts), HOUR);
    node.add_private(&registry.reference("team/tool", "1"), &pushed, &tar);
    let origins = node.store().origins.of(&private);

    let other = layer("anything");
    let image = claim(&evil, "x", &[claimed], &[&other]);
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Always] {
        let error = node.pull_anonymously(&image, policy).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
    }
    // Another repository of the registry that has the layer must not get it either.
    let image = claim(&registry, "evil/x", &[claimed], &[&other]);
    let error = node.pull_anonymously(&image, PullPolicy::Always).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert_eq!(node.store().origins.of(&private), origins);
    assert_eq!(node.store().images.named(&image.to_string()), None);

    // A registry that delivers the bytes may use the layer.
    let image = claim(&evil, "y", &[claimed], &[&tar]);
    node.pull_anonymously(&image, PullPolicy::Always).await.unwrap();
    assert_eq!(evil.requests_to(&BlobDigest::of(&gzipped(&tar)).to_string()).len(), 1);
    assert_eq!(node.store().origins.of(&private).len(), 2);
    assert_eq!(std::fs::read_dir(node.dir.path().join("staging")).unwrap().count(), 0);
}

/// Thirty pods of one Deployment do not fetch a bad layer thirty times.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_layer_is_fetched_once() {
    let registry = FakeRegistry::start().await;
    let (claimed, other) = (DiffId::of(b"claimed"), layer("other"));
    let image = claim(&registry, "a", &[claimed], &[&other]);
    let node = Node::new(registry.registries(), HOUR);
    let pods = (0..30).map(|_| node.pull_anonymously(&image, PullPolicy::Always));
    let mut remembered = 0;
    for done in futures::future::join_all(pods).await {
        let error = done.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        assert!(error.to_string().contains(&claimed.to_string()), "{error}");
        remembered += usize::from(matches!(error, PullError::Known { .. }));
    }
    assert_eq!(remembered, 29);
    assert_eq!(registry.requests_to(&BlobDigest::of(&gzipped(&other)).to_string()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_transit_is_not_remembered() {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("a", "1", &[layer("one")], false);
    let image = registry.reference("a", "1");
    let node = Node::new(registry.registries(), HOUR);
    registry.inject(pushed.layers[0], 1, Fault::Flip);
    let error = node.pull_anonymously(&image, PullPolicy::Always).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    node.pull_anonymously(&image, PullPolicy::Always).await.unwrap();
}

/// docs/hazards.md, 17: unused layers are removed before a pull is refused, and the error names the directory and the
/// bytes.
#[tokio::test(flavor = "multi_thread")]
async fn space_is_freed_before_a_layer_is_refused() {
    let registry = FakeRegistry::start().await;
    for (name, size) in [("old", 10_000), ("new", 40_000), ("huge", 400_000)] {
        registry.push_image(name, "1", &[layer(&"x".repeat(size))], false);
    }
    let [old, new, huge] = ["old", "new", "huge"].map(|name| registry.reference(name, "1"));
    let node = Node::new(registry.registries(), HOUR);
    let pull = async |image: &Reference| node.pull_anonymously(image, PullPolicy::Always).await;
    drop(pull(&old).await.unwrap());
    node.free.store(50_000, Relaxed);
    let error = pull(&huge).await.unwrap_err();
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    assert!(error.to_string().contains(&node.dir.path().display().to_string()), "{error}");
    assert!(
        node.store().images.named(&old.to_string()).is_some(),
        "removing it would not have helped"
    );
    drop(pull(&new).await.unwrap());
    assert!(node.store().images.named(&old.to_string()).is_none());
    assert!(node.store().images.named(&new.to_string()).is_some());
    assert_eq!(std::fs::read_dir(node.dir.path().join("layers")).unwrap().count(), 1);
}
