//! Volumes that wait for their images, against the twin and a registry on loopback.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{tests::Node, *};
use crate::{
    error::Class,
    image::{
        Registries,
        fake::{ALWAYS, FakeRegistry, Fault, Pushed},
    },
};

/// An image whose only layer does not come before the registry is told to release it.
async fn held() -> (FakeRegistry, Pushed) {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("a", "1", &[vec![0; 1_024]], false);
    registry.inject(pushed.layers[0].to_string(), ALWAYS, Fault::Hold);
    (registry, pushed)
}

fn wants_a(node: &Node, registry: &FakeRegistry, patience: Duration) -> PublishRequest {
    let mut request = node.request("a", "t");
    request.spec.images = vec![registry.reference("a", "1")];
    request.deadline = Some(Instant::now() + patience);
    request
}

pub(super) fn hurried(registries: Registries) -> Node {
    hurried_for(registries, Duration::from_secs(60))
}

fn hurried_for(registries: Registries, patience: Duration) -> Node {
    let ms = Duration::from_millis;
    let pace = PullTimeouts { margin: ms(50), patience, first_word: ms(20), next_word: ms(40) };
    Node::at_pace(registries, |_| {}, pace)
}

/// HAZARDS: a pull longer than the call began from zero each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_pull_goes_on_and_the_retry_joins_it() {
    let (registry, pushed) = held().await;
    let node = hurried(registry.registries());
    for _ in 0..3 {
        let call = Duration::from_millis(200);
        let error = node.volumes.publish(wants_a(&node, &registry, call)).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(error.to_string().contains("the pull goes on"), "{error}");
        node.assert_nothing_left();
    }
    registry.release();
    let long = Duration::from_secs(60);
    node.volumes.publish(wants_a(&node, &registry, long)).await.unwrap();
    assert_eq!(node.mounted().len(), 1);
    assert_eq!(registry.requests_to(&pushed.layers[0].to_string()).len(), 1, "one pull");
    let told = node.told();
    assert!(told.len() > 2 && told[..told.len() - 1].iter().all(|r| *r == "Pulling"), "{told:?}");
    assert_eq!(told.last(), Some(&"Pulled"));
    assert!(node.volumes.0.pending.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_ended_between_two_calls_waits_for_the_second() {
    let (registry, pushed) = held().await;
    let node = hurried(registry.registries());
    let request = || wants_a(&node, &registry, Duration::from_millis(200));
    node.volumes.publish(request()).await.unwrap_err();
    registry.release();
    while node.told().last() != Some(&"Pulled") {
        tokio::task::yield_now().await;
    }
    node.volumes.publish(request()).await.unwrap();
    assert_eq!(registry.requests_to(&pushed.layers[0].to_string()).len(), 1);
    assert!(node.volumes.0.pending.is_empty(), "what it brought was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_nobody_asks_for_is_given_up() {
    let (registry, _) = held().await;
    let node = hurried_for(registry.registries(), Duration::from_millis(600));
    let request = wants_a(&node, &registry, Duration::from_millis(200));
    node.volumes.publish(request).await.unwrap_err();
    assert!(!node.volumes.0.pending.is_empty());
    while !node.volumes.0.pending.is_empty() {
        tokio::task::yield_now().await;
    }
    registry.release();
    node.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_asked_for_otherwise_drops_the_old_pull() {
    let (registry, _) = held().await;
    registry.push_image("b", "1", &[vec![0; 2_048]], false);
    let node = hurried(registry.registries());
    let slow = wants_a(&node, &registry, Duration::from_secs(60));
    let first = tokio::spawn({
        let volumes = node.volumes.clone();
        async move { volumes.publish(slow).await }
    });
    while node.volumes.0.pending.is_empty() {
        tokio::task::yield_now().await;
    }
    let mut other = wants_a(&node, &registry, Duration::from_secs(60));
    other.spec.images = vec![registry.reference("b", "1")];
    // The first call has begun its pull, and gives the lock back right after that.
    while let Err(error) = node.volumes.publish(other.clone()).await {
        assert!(matches!(error, PublishError::Busy(_)), "{error}");
    }
    let error = first.await.unwrap().unwrap_err();
    assert!(matches!(error, PublishError::CalledOff(_)), "{error}");
    registry.release();
    assert_eq!(node.mounted().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_told_once_and_tried_anew() {
    let registry = FakeRegistry::start().await;
    let node = hurried(registry.registries());
    for _ in 0..2 {
        let request = wants_a(&node, &registry, Duration::from_secs(60));
        let error = node.volumes.publish(request).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{error}");
    }
    registry.push_image("a", "1", &[vec![0; 1_024]], false);
    let request = wants_a(&node, &registry, Duration::from_secs(60));
    node.volumes.publish(request).await.unwrap();
}

#[tokio::test]
async fn a_volume_can_go_while_its_image_comes() {
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
    assert!(matches!(error, PublishError::CalledOff(_)), "{error}");
    registry.release();
    node.assert_nothing_left();
}

/// HAZARDS: ten pods that start at once fetched each layer ten times.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_fetched_once_however_many_want_it() {
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
async fn a_layer_that_fails_stops_the_others_and_leaves_nothing() {
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
