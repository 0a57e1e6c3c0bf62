//! Concurrent publishes, retries, unpublishes and rounds of garbage collection with one image, on the in-memory fake
//! of the kernel.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{tests::Node, *};
use crate::{
    error::Class,
    image::fake::{FakeRegistry, Pushed, soon},
};

/// The number of volumes. One task publishes and unpublishes each of them.
const CROWD: usize = 12;
/// How often each task does so.
const ROUNDS: usize = 6;

struct Crowd {
    registry: FakeRegistry,
    pushed: Pushed,
    node: Node,
}

impl Crowd {
    async fn new() -> Self {
        let registry = FakeRegistry::start().await;
        let layers: Vec<_> = (1..=3).map(|n| vec![0; n * 1_024]).collect();
        let pushed = registry.push_image("crowd", "1", &layers, true);
        // Always above the watermarks: each round removes every unused layer.
        let node = Node::with_settings(registry.registries(), |settings| {
            (settings.disk_high, settings.disk_low) = (0, 0);
        });
        Self { registry, pushed, node }
    }

    fn request(&self, n: usize) -> PublishRequest {
        let mut request = self.node.request(&format!("v{n}"), &format!("t{n}"));
        request.spec.images = vec![self.registry.reference("crowd", "1")];
        request
    }

    /// Publishes as the kubelet does: it repeats the call, also while an earlier call runs. Each error must be one
    /// that the kubelet retries.
    async fn publish(&self, n: usize) {
        loop {
            let (one, other) = futures::future::join(
                self.node.volumes.publish(self.request(n)),
                self.node.volumes.publish(self.request(n)),
            )
            .await;
            let results = [one, other];
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                let retryable = matches!(error.class(), Class::Busy | Class::Unavailable);
                assert!(retryable, "{error}");
            }
            if results.iter().any(Result::is_ok) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn unpublish(&self, n: usize) {
        while let Err(error) = self.node.unpublish(&format!("v{n}"), &format!("t{n}")).await {
            assert_eq!(error.class(), Class::Busy, "{error}");
            tokio::task::yield_now().await;
        }
    }

    /// Collects garbage until `done`. Returns the number of removed layers.
    fn collect(&self, done: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
        let (volumes, done) = (self.node.volumes.clone(), done.clone());
        tokio::task::spawn_blocking(move || {
            let mut layers = 0;
            while !done.load(Relaxed) {
                layers += volumes.collect().unwrap().layers;
                std::thread::sleep(Duration::from_millis(1));
            }
            layers
        })
    }

    /// The number of layer downloads.
    fn fetches(&self) -> usize {
        let requests = self.registry.requests();
        let of = |layer| requests.iter().filter(move |(path, _)| path.ends_with(layer));
        let layers: BTreeSet<_> = self.pushed.layers.iter().map(ToString::to_string).collect();
        layers.iter().flat_map(|layer| of(layer.as_str())).map(|(_, count)| count).sum()
    }

    async fn assert_clean(&self) {
        self.node.assert_nothing_left();
        let store = &self.node.volumes.0.store;
        assert_eq!(store.verify().unwrap(), []);
        // A cancelled fetch ends a moment later.
        let staging = self.node.dir.path().join("store/staging");
        soon(async {
            while std::fs::read_dir(&staging).unwrap().next().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Runs one task for each volume while garbage is collected. Returns the number of layers that the collection
/// removed.
async fn run<F>(crowd: &Arc<Crowd>, each: impl Fn(Arc<Crowd>, usize) -> F) -> u64
where
    F: Future<Output = ()> + Send + 'static,
{
    let done = Arc::default();
    let collecting = crowd.collect(&done);
    let tasks: Vec<_> = (0..CROWD).map(|n| tokio::spawn(each(crowd.clone(), n))).collect();
    let results = futures::future::join_all(tasks).await;
    done.store(true, Relaxed);
    let removed = collecting.await.unwrap();
    results.into_iter().for_each(Result::unwrap);
    removed
}

/// docs/hazards.md, 20.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_volumes_fetch_each_layer_once_and_leave_nothing() {
    let crowd = Arc::new(Crowd::new().await);
    let mut removed = 0;
    for _ in 0..ROUNDS / 2 {
        removed += run(&crowd, |crowd, n| async move {
            for _ in 0..2 {
                crowd.publish(n).await;
                crowd.unpublish(n).await;
            }
        })
        .await;
        // No volume uses a layer now, so all of them are removed.
        removed += crowd.node.volumes.collect().unwrap().layers;
    }
    let (fetches, layers) = (crowd.fetches() as u64, crowd.pushed.layers.len() as u64);
    assert!(fetches <= removed + layers, "{fetches} fetches of {layers} layers, {removed} removed");
    assert!(fetches > layers, "no layer was ever fetched again");
    crowd.assert_clean().await;
}

/// docs/hazards.md, 20: the pods are deleted before their volumes are published.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn volumes_that_are_unpublished_early_leave_nothing() {
    let crowd = Arc::new(Crowd::new().await);
    run(&crowd, |crowd, n| async move {
        for round in 0..ROUNDS {
            let publish = tokio::spawn({
                let crowd = crowd.clone();
                async move { crowd.node.volumes.publish(crowd.request(n)).await }
            });
            tokio::time::sleep(Duration::from_millis(((n + round) % 7) as u64)).await;
            crowd.unpublish(n).await;
            if let Err(error) = publish.await.unwrap() {
                assert!(matches!(error.class(), Class::Busy | Class::Unavailable), "{error}");
            }
            crowd.unpublish(n).await;
        }
    })
    .await;
    crowd.assert_clean().await;
    crowd.publish(0).await;
    crowd.unpublish(0).await;
    crowd.assert_clean().await;
}
