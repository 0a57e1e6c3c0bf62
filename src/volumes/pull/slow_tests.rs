//! Tests that slow registries do not delay pods that use other registries.

use super::{
    tests::{Node, layer},
    *,
};
use crate::image::{
    Keyring,
    fake::{ALWAYS, FakeRegistry, Fault, registries, soon},
};

const HOUR: Duration = Duration::from_secs(3600);
/// More namespaces than there are permits for one kind of work.
const SLOW: usize = 17;

/// Starts pulls in namespaces of their own that are held back at `part`. Then another namespace must be able to pull.
async fn others_are_served(part: fn(&str) -> String) {
    let (bad, good) = (FakeRegistry::start().await, FakeRegistry::start().await);
    good.push_image("good", "1", &[layer("good")], false);
    let hosts =
        [bad.host(), good.host()].map(|host| (host.clone(), format!("server = \"http://{host}\"")));
    let files = hosts.each_ref().map(|(host, text)| (host.as_str(), text.as_str()));
    let node = Arc::new(Node::new(registries(&files), HOUR));
    let mut slow = Vec::new();
    for n in 0..SLOW {
        let name = format!("slow{n}");
        let pushed = bad.push_image(&name, "1", &[layer(&name)], false);
        bad.inject(part(&pushed.layers[0].to_string()), ALWAYS, Fault::Hold);
        let (node, image) = (node.clone(), bad.reference(&name, "1"));
        slow.push(tokio::spawn(async move {
            let keyring = Keyring::default();
            let requester = Requester { namespace: &name, keyring: &keyring };
            node.pull_as(requester, &image, PullPolicy::IfNotPresent).await.map(drop)
        }));
    }
    let lanes = || node.puller.resolutions.in_use().0 + node.puller.fetcher.lanes.in_use().0;
    soon(async {
        while lanes() < 16 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (keyring, image) = (Keyring::default(), good.reference("good", "1"));
    let requester = Requester { namespace: "good", keyring: &keyring };
    soon(node.pull_as(requester, &image, PullPolicy::IfNotPresent)).await.unwrap();
    assert!(slow.iter().all(|pull| !pull.is_finished()), "slow pulls go on");
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    soon(async {
        while node.puller.resolutions.in_use() != (0, 0)
            || node.puller.fetcher.lanes.in_use() != (0, 0)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_hold_layers_back_do_not_delay_other_pods() {
    others_are_served(str::to_owned).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_hold_manifests_back_do_not_delay_other_pods() {
    others_are_served(|_| "/manifests/".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_refused_when_its_images_exceed_the_memory_budget() {
    let registry = FakeRegistry::start().await;
    registry.push_image("a", "1", &[layer("a")], false);
    let mut node = Node::new(registry.registries(), HOUR);
    node.puller.documents = Arc::new(Budget::new(0, 0, 1 << 20));
    let other = node.puller.documents.share();
    other.take(1).unwrap();
    let pull = async || {
        node.pull(&registry.reference("a", "1"), PullPolicy::Always, &Keyring::default()).await
    };
    let error = pull().await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(
        error.to_string().contains("other operations hold the memory that it needs; it is retried"),
        "{error}"
    );
    drop(other);
    pull().await.unwrap();
    assert_eq!(node.puller.documents.used(), 0);
}
