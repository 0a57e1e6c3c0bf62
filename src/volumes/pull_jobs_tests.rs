//! Tests of volumes that wait for their images, with the fake of the kernel and a registry on loopback.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{pull_jobs::PullTimeouts, tests::Node, *};
use crate::{
    error::Class,
    image::{
        Registries,
        fake::{ALWAYS, FakeRegistry, Fault, Pushed},
    },
};

/// A registry with an image whose only layer it holds back until `release`.
async fn registry_with_held_layer() -> (FakeRegistry, Pushed) {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("a", "1", &[vec![0; 1_024]], false);
    registry.inject(pushed.layers[0].to_string(), ALWAYS, Fault::Hold);
    (registry, pushed)
}

fn request_for_a(node: &Node, registry: &FakeRegistry, patience: Duration) -> PublishRequest {
    let mut request = node.request("a", "t");
    request.spec.images = vec![registry.reference("a", "1")];
    request.deadline = Some(Instant::now() + patience);
    request
}

pub(super) fn impatient_node(registries: Registries) -> Node {
    impatient_node_with(registries, Duration::from_secs(60))
}

fn impatient_node_with(registries: Registries, patience: Duration) -> Node {
    let ms = Duration::from_millis;
    let timeouts =
        PullTimeouts { margin: ms(50), patience, first_event: ms(20), next_event: ms(40) };
    Node::with_timeouts(registries, |_| {}, timeouts)
}

/// docs/hazards.md, 28: otherwise a pull that is longer than the call starts from the beginning each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_pull_continues_and_the_retry_joins_it() {
    let (registry, pushed) = registry_with_held_layer().await;
    let node = impatient_node(registry.registries());
    for _ in 0..3 {
        let call = Duration::from_millis(200);
        let error = node.volumes.publish(request_for_a(&node, &registry, call)).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(error.to_string().contains("the pull goes on"), "{error}");
        node.assert_nothing_left();
    }
    registry.release();
    let long = Duration::from_secs(60);
    node.volumes.publish(request_for_a(&node, &registry, long)).await.unwrap();
    assert_eq!(node.mounted().len(), 1);
    assert_eq!(registry.requests_to(&pushed.layers[0].to_string()).len(), 1, "one pull");
    let events = node.events();
    let (last, others) = events.split_last().unwrap();
    assert!(others.len() > 1 && others.iter().all(|r| *r == "Pulling"), "{events:?}");
    assert_eq!(*last, "Pulled");
    assert!(node.volumes.0.pull_jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_pull_that_ends_between_two_calls_is_kept_for_the_second() {
    let (registry, pushed) = registry_with_held_layer().await;
    let node = impatient_node(registry.registries());
    let request = || request_for_a(&node, &registry, Duration::from_millis(200));
    node.volumes.publish(request()).await.unwrap_err();
    registry.release();
    while node.events().last() != Some(&"Pulled") {
        tokio::task::yield_now().await;
    }
    node.volumes.publish(request()).await.unwrap();
    assert_eq!(registry.requests_to(&pushed.layers[0].to_string()).len(), 1);
    assert!(node.volumes.0.pull_jobs.is_empty(), "the second call took the result");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_no_longer_requested_is_cancelled() {
    let (registry, _) = registry_with_held_layer().await;
    let node = impatient_node_with(registry.registries(), Duration::from_millis(600));
    let request = request_for_a(&node, &registry, Duration::from_millis(200));
    node.volumes.publish(request).await.unwrap_err();
    assert!(!node.volumes.0.pull_jobs.is_empty());
    while !node.volumes.0.pull_jobs.is_empty() {
        tokio::task::yield_now().await;
    }
    registry.release();
    node.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_request_cancels_the_old_pull() {
    let (registry, _) = registry_with_held_layer().await;
    registry.push_image("b", "1", &[vec![0; 2_048]], false);
    let node = impatient_node(registry.registries());
    let slow = request_for_a(&node, &registry, Duration::from_secs(60));
    let first = tokio::spawn({
        let volumes = node.volumes.clone();
        async move { volumes.publish(slow).await }
    });
    while node.volumes.0.pull_jobs.is_empty() {
        tokio::task::yield_now().await;
    }
    let mut other = request_for_a(&node, &registry, Duration::from_secs(60));
    other.spec.images = vec![registry.reference("b", "1")];
    // The first call has started its pull, and releases the lock right after that.
    while let Err(error) = node.volumes.publish(other.clone()).await {
        assert!(matches!(error, PublishError::Failed { cause: PublishCause::Busy, .. }), "{error}");
    }
    let error = first.await.unwrap().unwrap_err();
    assert!(
        matches!(error, PublishError::Failed { cause: PublishCause::Cancelled, .. }),
        "{error}"
    );
    registry.release();
    assert_eq!(node.mounted().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_is_reported_once_and_retried() {
    let registry = FakeRegistry::start().await;
    let node = impatient_node(registry.registries());
    for _ in 0..2 {
        let request = request_for_a(&node, &registry, Duration::from_secs(60));
        let error = node.volumes.publish(request).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{error}");
    }
    registry.push_image("a", "1", &[vec![0; 1_024]], false);
    let request = request_for_a(&node, &registry, Duration::from_secs(60));
    node.volumes.publish(request).await.unwrap();
}

#[tokio::test]
async fn a_volume_can_be_unpublished_during_its_pull() {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("a", "1", &[vec![0; 1_024]], false);
    registry.inject(pushed.layers[0].to_string(), ALWAYS, Fault::Hold);
    let node = Node::with(registry.registries());
    let mut request = node.request("a", "t");
    request.spec.images = vec![registry.reference("a", "1")];
    let publish = tokio::spawn({
        let volumes = node.volumes.clone();
        async move { volumes.publish(request).await }
    });
    while registry.requests_to(&pushed.layers[0].to_string()).is_empty() {
        tokio::task::yield_now().await;
    }
    node.unpublish("a", "t").await.unwrap();
    let error = publish.await.unwrap().unwrap_err();
    assert!(
        matches!(error, PublishError::Failed { cause: PublishCause::Cancelled, .. }),
        "{error}"
    );
    registry.release();
    node.assert_nothing_left();
}

/// docs/hazards.md, 20: otherwise ten pods that start at once fetch each layer ten times.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_volumes_fetch_a_layer_once() {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("a", "1", &[vec![0; 1_024], vec![0; 2_048]], true);
    let node = Node::with(registry.registries());
    let all = (0..50).map(|n| {
        let mut request = node.request(&format!("v{n}"), &format!("t{n}"));
        request.spec.images = vec![registry.reference("a", "1")];
        node.volumes.publish(request)
    });
    for done in futures::future::join_all(all).await {
        done.unwrap();
    }
    for layer in &pushed.layers {
        assert_eq!(registry.requests_to(&layer.to_string()).len(), 1, "{layer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_layer_cancels_the_others_and_leaves_nothing() {
    let registry = FakeRegistry::start().await;
    let noise: Vec<u8> =
        (0..8_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(noise.len() as u64);
    tar.append_data(&mut header, "noise", &noise[..]).unwrap();
    let pushed = registry.push_image("a", "1", &[tar.into_inner().unwrap(), vec![0; 2_048]], false);
    registry.inject(pushed.layers[1].to_string(), ALWAYS, Fault::Flip);
    let node = Node::with(registry.registries());
    for _ in 0..3 {
        let mut request = node.request("a", "t");
        request.spec.images = vec![registry.reference("a", "1")];
        let error = node.volumes.publish(request).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
    }
    node.assert_nothing_left();
    let staging = node.dir.path().join("store/staging");
    while fs::read_dir(&staging).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(registry.requests_to(&pushed.layers[0].to_string()).len() <= 3);
}
