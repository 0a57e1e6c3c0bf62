//! Private images: who may have layers that are here (HAZARDS 29).

use std::time::Duration;

use super::{
    tests::{Node, claim, layer},
    *,
};
use crate::image::fake::{ALWAYS, FakeRegistry, Misdeed, Pushed, Scheme, registries};

const HOUR: Duration = Duration::from_secs(3600);

/// A registry that gives `team/tool` to ann alone, and its image.
async fn registry() -> (FakeRegistry, Reference, Pushed) {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("team/tool", "1", &[layer("private")], true);
    registry.protect("team/tool", Scheme::Basic, "ann", "right");
    let image = registry.reference("team/tool", "1");
    (registry, image, pushed)
}

fn class(done: Result<Pulled, PullError>) -> Option<Class> {
    done.err().map(|error| error.class())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_secret_outlasts_the_registry_and_no_other_does() {
    let (registry, image, pushed) = registry().await;
    let node = Node::new(registry.registries(), HOUR);
    let [ann, wrong] = ["right", "wrong"].map(|password| registry.keyring("ann", password));
    let nobody = Keyring::default();
    drop(node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap());
    assert!(!node.store().origins(&pushed.diff_ids[0])[0].public);
    let asked = registry.seen("").len();
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
    node.pull(&image, PullPolicy::Never, &ann).await.unwrap();
    assert_eq!(registry.seen("").len(), asked, "accepted within the hour");

    for keyring in [&wrong, &nobody] {
        for policy in [PullPolicy::IfNotPresent, PullPolicy::Always, PullPolicy::Never] {
            let done = node.pull(&image, policy, keyring).await;
            assert_eq!(class(done), Some(Class::Denied), "{policy:?}");
        }
    }
    assert_eq!(registry.seen(&pushed.layers[0].to_string()).len(), 1);
    drop(registry);
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
    for keyring in [&wrong, &nobody] {
        let done = node.pull(&image, PullPolicy::IfNotPresent, keyring).await;
        assert_eq!(class(done), Some(Class::Unavailable));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_given_at_once_to_whom_it_may_be_given() {
    let (registry, image, _) = registry().await;
    registry.push_image("public", "1", &[layer("public")], true);
    let public = registry.reference("public", "1");
    let node = Node::new(registry.registries(), HOUR);
    let (ann, nobody) = (registry.keyring("ann", "right"), Keyring::default());
    let here = |images: &[&Reference], policy, keyring| {
        let images: Vec<_> = images.iter().map(|image| (*image).clone()).collect();
        node.pulls.here(&images, Some(policy), keyring).map(|pulled| pulled.stack.len())
    };
    assert_eq!(here(&[], PullPolicy::Always, &nobody), Some(0));
    assert_eq!(here(&[&image], PullPolicy::IfNotPresent, &ann), None, "it is not here yet");
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
    assert_eq!(here(&[&public, &image], PullPolicy::IfNotPresent, &ann), None, "one of them");
    node.pull(&public, PullPolicy::IfNotPresent, &nobody).await.unwrap();
    let asked = registry.seen("").len();
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert_eq!(here(&[&public, &image], policy, &ann), Some(2));
        assert_eq!(here(&[&public], policy, &nobody), Some(1));
        assert_eq!(here(&[&public, &image], policy, &nobody), None);
    }
    assert_eq!(here(&[&public], PullPolicy::Always, &ann), None, "its registry is to be asked");
    assert_eq!(registry.seen("").len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_time_a_secret_has_to_be_accepted_again() {
    for trust_for in [Duration::ZERO, Duration::from_millis(1)] {
        let (registry, image, pushed) = registry().await;
        let node = Node::new(registry.registries(), trust_for);
        let ann = registry.keyring("ann", "right");
        node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let done = node.pull(&image, PullPolicy::Never, &ann).await;
        assert_eq!(class(done), Some(Class::Denied));
        let asked = registry.seen("/manifests/").len();
        node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
        assert!(registry.seen("/manifests/").len() > asked);
        assert_eq!(registry.seen(&pushed.layers[0].to_string()).len(), 1, "it was here");
        tokio::time::sleep(Duration::from_millis(5)).await;
        registry.misbehave("manifests", ALWAYS, Misdeed::Answer(503, vec![]));
        let done = node.pull(&image, PullPolicy::IfNotPresent, &ann).await;
        assert_eq!(class(done), Some(Class::Unavailable));
    }
}

/// Bob has ann run his image, which names her layer and does not have it, and then runs it himself.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_a_layer_passes_it_to_nobody() {
    let (registry, image, pushed) = registry().await;
    let evil = FakeRegistry::start().await;
    let hosts = [&registry, &evil].map(|r| (r.host(), format!("server = \"http://{}\"", r.host())));
    let hosts = hosts.each_ref().map(|(host, text)| (host.as_str(), text.as_str()));
    let node = Node::new(registries(&hosts), HOUR);
    let ann = registry.keyring("ann", "right");
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();

    let trap = claim(&evil, "x", &[pushed.diff_ids[0]], &[&layer("anything")]);
    node.pull(&trap, PullPolicy::IfNotPresent, &ann).await.unwrap();
    assert_eq!(node.store().origins(&pushed.diff_ids[0]).len(), 1);
    let bob = Keyring::default();
    let done = node.pull(&trap, PullPolicy::Never, &bob).await;
    assert_eq!(class(done), Some(Class::Denied));
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Always] {
        let done = node.pull(&trap, policy, &bob).await;
        assert_eq!(class(done), Some(Class::Corrupt), "{policy:?}");
    }
}
