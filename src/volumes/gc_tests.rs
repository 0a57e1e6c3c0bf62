//! Tests of what volumes keep from garbage collection, and of rounds that remove nothing.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{
    digest::ManifestDigest,
    image::{Keyring, PullPolicy, fake::FakeRegistry},
    layers::ImageDetails,
    overlay::KernelFeatures,
    sys::{mounts::FakeMounts, statfs::Space},
    volumes::{
        Parts, Pod, PublishRequest, Settings, Target, VolumeSpec, Volumes,
        fake_snapshot_lookup::{record, snapshot_layer},
    },
};

struct Node {
    dir: TempDir,
    volumes: Volumes,
    registry: FakeRegistry,
    layers: usize,
}

impl Node {
    /// A node with one volume, `a`, whose image is no longer recorded.
    async fn new() -> Self {
        let (dir, kernel) = (TempDir::new().unwrap(), Arc::new(FakeMounts::default()));
        fs::create_dir_all(dir.path().join("kubelet/pods/pod-1")).unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store"), kernel.clone()).unwrap());
        let registry = FakeRegistry::start().await;
        registry.push_image("a", "1", &[vec![0; 1_024], vec![0; 2_048]], true);
        let image = registry.reference("a", "1");
        let parts =
            Parts::new(store.clone(), registry.registries(), kernel, KernelFeatures::lacking([]));
        let volumes = Volumes::open(parts, Settings::new(dir.path().join("kubelet"))).unwrap();
        let node = Self { dir, volumes, registry, layers: 2 };
        node.volumes.publish(node.request()).await.unwrap();
        store
            .images
            .put(&image.to_string(), ManifestDigest::of(b"other"), &[], &ImageDetails::default())
            .unwrap();
        node
    }

    fn target(&self) -> Target {
        self.dir.path().join("kubelet/pods/pod-1/mount").try_into().unwrap()
    }

    fn request(&self) -> PublishRequest {
        PublishRequest {
            id: "a".parse().unwrap(),
            target: self.target(),
            pod: Pod {
                namespace: "default".to_owned(),
                name: "one".to_owned(),
                uid: "pod-1".parse().unwrap(),
            },
            spec: VolumeSpec {
                images: vec![self.registry.reference("a", "1")],
                pull_policy: Some(PullPolicy::IfNotPresent),
                ..VolumeSpec::default()
            },
            keyring: Keyring::default(),
            deadline: None,
        }
    }

    /// Runs a round without a grace period.
    fn collect(&self) -> Result<GcStats, CollectError> {
        let GarbageCollector { store, records, mounts, metrics, .. } = &*self.volumes.0.collector;
        let (store, records, mounts) = (store.clone(), records.clone(), mounts.clone());
        let watermarks = Watermarks { high: 100, low: 100, grace: Duration::ZERO };
        GarbageCollector { store, records, mounts, watermarks, metrics: metrics.clone() }.collect()
    }

    fn record(&self) -> std::path::PathBuf {
        self.dir.path().join("store/volumes/a/record.json")
    }

    fn assert_skipped(&self, why: &str) {
        let error = self.collect().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        let layers = fs::read_dir(self.dir.path().join("store/layers")).unwrap();
        assert_eq!(layers.count(), self.layers);
        let text = self.volumes.0.collector.metrics.text().unwrap();
        assert!(text.contains("ovl_gc_skipped_rounds_total 1"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layers_of_a_volume_are_kept_until_it_is_unpublished() {
    let node = Node::new().await;
    let done = node.collect().unwrap();
    assert_eq!((done.images, done.layers, done.kept_layers), (0, 0, 2));
    node.volumes.unpublish(&"a".parse().unwrap(), &node.target()).await.unwrap();
    let done = node.volumes.collect().unwrap();
    assert_eq!((done.images, done.layers), (1, 0), "its layers may be needed again");
    assert_eq!(node.collect().unwrap().layers, 2);
    let text = node.volumes.0.collector.metrics.text().unwrap();
    for line in ["ovl_gc_layers_total 2", "ovl_layers 0", "ovl_store_bytes 0"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_reports_the_disk_and_its_watermarks() {
    let node = Node::new().await;
    let disk = |_: &std::path::Path| Ok(Space::with_available(1000, 400));
    node.volumes.0.collector.store.disk.set_fake(disk);
    node.volumes.collect().unwrap();
    let text = node.volumes.0.collector.metrics.text().unwrap();
    let watermarks = node.volumes.0.collector.watermarks;
    for line in [
        "ovl_disk_size_bytes 1000\n".to_owned(),
        "ovl_disk_available_bytes 400\n".to_owned(),
        format!("ovl_disk_high_watermark_bytes {}\n", 10 * u64::from(watermarks.high)),
        format!("ovl_disk_low_watermark_bytes {}\n", 10 * u64::from(watermarks.low)),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
}

/// The image of a snapshot is based on the images of its volume, so a snapshot keeps their configs too.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_layers_and_images_after_its_volume_is_unpublished() {
    let node = Node::new().await;
    let store = &node.volumes.0.store;
    let guard = node.volumes.guard(&"a".parse().unwrap(), Some(&node.request().pod)).unwrap();
    let layer = snapshot_layer(store, "s", (false, false), |_| {});
    let stack = guard.stack().iter().copied().chain([layer]).collect();
    store.snapshots.put(record("s", stack, guard.manifests().to_vec())).unwrap();
    let manifest = guard.manifests()[0];
    drop(guard);
    node.volumes.unpublish(&"a".parse().unwrap(), &node.target()).await.unwrap();
    let done = node.collect().unwrap();
    assert_eq!((done.images, done.layers, done.kept_layers), (0, 0, 3));
    let image = node.dir.path().join(format!("store/images/{}.json", manifest.digest().hex()));
    assert!(image.exists());
    store.snapshots.remove(&"s".parse().unwrap()).unwrap();
    let done = node.collect().unwrap();
    assert_eq!((done.images, done.layers, done.kept_layers), (1, 3, 0));
    assert!(!image.exists());
}

/// docs/hazards.md, 34.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_stops_the_round() {
    let node = Node::new().await;
    fs::write(node.record(), "{").unwrap();
    node.assert_skipped("volume a: ");
}

/// docs/hazards.md, 34: otherwise one torn record would stop all rounds of its node for as long as it exists.
#[tokio::test(flavor = "multi_thread")]
async fn an_unmounted_volume_with_a_torn_record_keeps_no_layers() {
    let node = Node::new().await;
    node.volumes.0.mounts.unmount(node.target().as_path()).unwrap();
    fs::write(node.record(), r#"{"format":99}"#).unwrap();
    node.assert_skipped("volume a: ");
    fs::write(node.record(), "{").unwrap();
    assert_eq!(node.collect().unwrap().layers, 2);
    assert!(node.record().exists(), "the upper still belongs to the pod");
}

/// docs/hazards.md, 34.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_volume_whose_record_is_torn_stops_the_round() {
    let node = Node::new().await;
    node.volumes.unpublish(&"a".parse().unwrap(), &node.target()).await.unwrap();
    let mut request = node.request();
    request.spec.read_only = true;
    node.volumes.publish(request).await.unwrap();
    fs::write(node.record(), "{").unwrap();
    node.assert_skipped("volume a: ");
}

/// docs/hazards.md, 34.
#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_without_a_record_stops_the_round() {
    let node = Node::new().await;
    node.volumes.0.records.lose(&"a".parse().unwrap());
    node.assert_skipped("volume a is mounted and has no record");
}
