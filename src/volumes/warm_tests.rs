//! Tests of volumes whose layers are in the store already: what a publish needs, and which checks it must not skip.

use std::fs;

use super::{tests::Node, *};
use crate::{
    error::Class,
    image::fake::FakeRegistry,
    reference::Reference,
    sys::mounts::{Mounts as _, tmpfs},
};

/// A node with an image in its store, whose registry is gone.
async fn node() -> (Node, Vec<Reference>) {
    let registry = FakeRegistry::start().await;
    registry.push_image("a", "1", &[vec![0; 1_024], vec![0; 2_048]], true);
    let node = Node::with(registry.registries());
    let images = vec![registry.reference("a", "1")];
    let mut request = node.request("first", "t");
    request.spec.images = images.clone();
    node.volumes.publish(request).await.unwrap();
    node.unpublish("first", "t").await.unwrap();
    (node, images)
}

/// docs/hazards.md, 23: otherwise a table of thousands of mounts is read for each of a hundred pods that start.
#[tokio::test(flavor = "multi_thread")]
async fn the_mount_table_is_not_read_for_a_new_volume() {
    let (node, images) = node().await;
    let (tables, events) = (node.kernel.tables_read(), node.events().len());
    for spec in [images, Vec::new()].map(|images| VolumeSpec { images, ..VolumeSpec::default() }) {
        let id = format!("of-{}", spec.images.len());
        node.volumes.publish(PublishRequest { spec, ..node.request(&id, &id) }).await.unwrap();
    }
    assert_eq!((node.kernel.tables_read(), node.events().len()), (tables, events));
    assert_eq!(node.mounted().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_local_layers_starts_no_pull() {
    let (node, images) = node().await;
    let mut request = node.request("a", "t");
    request.spec.images = images;
    let inner = &node.volumes.0;
    let lock = inner.locks.try_lock(&request.id).unwrap();
    let (lock, _, done) = inner.clone().publish_here(lock, request).await.unwrap();
    assert!(done && !inner.pull_jobs.has(&lock));
    assert_eq!(node.mounted(), [node.target("t").as_path()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_incomplete_volume_do_not_appear_in_a_new_one() {
    let (node, images) = node().await;
    let upper = node.volume("a").join("upper");
    fs::create_dir_all(upper.join("deep")).unwrap();
    let mut request = node.request("a", "t");
    request.spec.images = images;
    node.volumes.publish(request).await.unwrap();
    assert_eq!(fs::read_dir(upper).unwrap().count(), 0);
    node.unpublish("a", "t").await.unwrap();
    node.assert_nothing_left();
}

/// docs/hazards.md, 18: nothing is deleted through a mount.
#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_volume_that_is_in_use_is_not_replaced() {
    let (node, images) = node().await;
    let used = node.volume("a").join("used");
    fs::create_dir_all(&used).unwrap();
    let kernel = &node.kernel;
    kernel.attach(kernel.create(&tmpfs("other", None, None)).unwrap(), &used).unwrap();
    for images in [images, Vec::new()] {
        let mut request = node.request("a", "t");
        request.spec.images = images;
        let error = node.volumes.publish(request).await.unwrap_err();
        assert_eq!(error.class(), Class::Precondition, "{error}");
        assert!(used.is_dir());
    }
    assert_eq!(node.mounted(), [used]);
}
