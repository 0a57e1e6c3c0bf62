//! Tests of private images: which pods may use layers that are in the store (docs/hazards.md, 29).

use std::time::Duration;

use super::{
    tests::{Node, claim, layer},
    *,
};
use crate::image::Keyring;
use crate::image::architecture;
use crate::image::fake::{
    ALWAYS, FakeRegistry, Fault, OCI_INDEX, OCI_MANIFEST, Pushed, Scheme, registries,
};
use crate::layers::testing::keys;

const HOUR: Duration = Duration::from_secs(3600);

/// A registry that gives `team/tool` to ann only, and its image.
async fn registry() -> (FakeRegistry, Reference, Pushed) {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("team/tool", "1", &[layer("private")], true);
    registry.protect("team/tool", Scheme::Basic, "ann", "right");
    let image = registry.reference("team/tool", "1");
    (registry, image, pushed)
}

fn class(done: Result<PulledLayers, PullError>) -> Option<Class> {
    done.err().map(|error| error.class())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_credential_works_without_the_registry_and_no_other_does() {
    let (registry, image, pushed) = registry().await;
    let node = Node::new(registry.registries(), HOUR);
    let [ann, wrong] = ["right", "wrong"].map(|password| registry.keyring("ann", password));
    let anonymous = Keyring::default();
    drop(node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap());
    assert!(!node.store().origins.of(&keys(&pushed.diff_ids)[0])[0].public);
    let requests = registry.requests_to("").len();
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
    node.pull(&image, PullPolicy::Never, &ann).await.unwrap();
    assert_eq!(registry.requests_to("").len(), requests, "accepted within the hour");

    for keyring in [&wrong, &anonymous] {
        for (policy, expected) in [
            (PullPolicy::IfNotPresent, Class::Denied),
            (PullPolicy::Always, Class::Denied),
            (PullPolicy::Never, Class::NotFound),
        ] {
            let done = node.pull(&image, policy, keyring).await;
            assert_eq!(class(done), Some(expected), "{policy:?}");
        }
    }
    assert_eq!(registry.requests_to(&pushed.layers[0].to_string()).len(), 1);
    drop(registry);
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
    for keyring in [&wrong, &anonymous] {
        let done = node.pull(&image, PullPolicy::IfNotPresent, keyring).await;
        assert_eq!(class(done), Some(Class::Unavailable));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn local_images_are_used_at_once_by_authorized_pods() {
    let (registry, image, _) = registry().await;
    registry.push_image("public", "1", &[layer("public")], true);
    let public = registry.reference("public", "1");
    let node = Node::new(registry.registries(), HOUR);
    let (ann, anonymous) = (registry.keyring("ann", "right"), Keyring::default());
    let here = |images: &[&Reference], policy, keyring| {
        let images: Vec<_> = images.iter().map(|image| (*image).clone()).collect();
        let requester = Requester { namespace: "default", keyring };
        node.puller.local(&images, Some(policy), requester).map(|pulled| pulled.stack.len())
    };
    assert_eq!(here(&[], PullPolicy::Always, &anonymous), Some(0));
    assert_eq!(here(&[&image], PullPolicy::IfNotPresent, &ann), None, "it is not in the store yet");
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
    assert_eq!(here(&[&public, &image], PullPolicy::IfNotPresent, &ann), None, "one of them");
    node.pull(&public, PullPolicy::IfNotPresent, &anonymous).await.unwrap();
    let requests = registry.requests_to("").len();
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert_eq!(here(&[&public, &image], policy, &ann), Some(2));
        assert_eq!(here(&[&public], policy, &anonymous), Some(1));
        assert_eq!(here(&[&public, &image], policy, &anonymous), None);
    }
    assert_eq!(here(&[&public], PullPolicy::Always, &ann), None, "its registry must be contacted");
    assert_eq!(registry.requests_to("").len(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_credential_must_be_accepted_again() {
    for trust_for in [Duration::ZERO, Duration::from_millis(1)] {
        let (registry, image, pushed) = registry().await;
        let node = Node::new(registry.registries(), trust_for);
        let ann = registry.keyring("ann", "right");
        node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let done = node.pull(&image, PullPolicy::Never, &ann).await;
        assert_eq!(class(done), Some(Class::NotFound));
        let requests = registry.requests_to("/manifests/").len();
        node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
        assert!(registry.requests_to("/manifests/").len() > requests);
        assert_eq!(
            registry.requests_to(&pushed.layers[0].to_string()).len(),
            1,
            "it was in the store"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
        registry.inject("manifests", ALWAYS, Fault::Respond(503, vec![]));
        let done = node.pull(&image, PullPolicy::IfNotPresent, &ann).await;
        assert_eq!(class(done), Some(Class::Unavailable));
    }
}

/// Bob makes ann run his image, which names her layer and does not contain it. Then he runs it himself.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_access_to_a_layer_passes_it_to_no_other_pod() {
    let (registry, image, pushed) = registry().await;
    let evil = FakeRegistry::start().await;
    let hosts = [&registry, &evil].map(|r| (r.host(), format!("server = \"http://{}\"", r.host())));
    let hosts = hosts.each_ref().map(|(host, text)| (host.as_str(), text.as_str()));
    let node = Node::new(registries(&hosts), HOUR);
    let ann = registry.keyring("ann", "right");
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();

    let trap = claim(&evil, "x", &[pushed.diff_ids[0]], &[&layer("anything")]);
    node.pull(&trap, PullPolicy::IfNotPresent, &ann).await.unwrap();
    assert_eq!(node.store().origins.of(&keys(&pushed.diff_ids)[0]).len(), 1);
    let bob = Keyring::default();
    let done = node.pull(&trap, PullPolicy::Never, &bob).await;
    assert_eq!(class(done), Some(Class::NotFound));
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Always] {
        let done = node.pull(&trap, policy, &bob).await;
        assert_eq!(class(done), Some(Class::Corrupt), "{policy:?}");
    }
}

/// Two teams share a node whose credentials open every repository. The image policy keeps them apart, and no pod may
/// name an image of the registry of snapshots.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_no_layer_of_an_image_that_it_may_not_name() {
    let (registry, secret, pushed) = registry().await;
    let (evil, chart) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let all = [&registry, &evil, &chart];
    let hosts = all.map(|r| (r.host(), format!("server = \"http://{}\"", r.host())));
    let hosts = hosts.each_ref().map(|(host, text)| (host.as_str(), text.as_str()));
    let patterns = |patterns: &[String]| patterns.to_vec();
    let blue = (
        "blue".to_owned(),
        patterns(&[format!("{}/*", evil.host()), format!("{}/blue/*", registry.host())]),
    );
    let policy = ImagePolicy::new(&["*".to_owned()], &[blue].into()).unwrap();
    let policy = policy.refusing(&[format!("{}/*", chart.host())]).unwrap();
    let node = Node::with_policy(registries(&hosts), HOUR, policy);

    // Every pod has the node's own credentials. A snapshot of the namespace `red` was pushed and pulled with them.
    let saved = chart.push_image("red/pod", "snap-1", &[layer("saved")], true);
    chart.protect("red/pod", Scheme::Basic, "ann", "right");
    let keyring = registry.keyring("ann", "right").and(&chart.keyring("ann", "right"));
    let [red, blue, other] =
        ["red", "blue", "other"].map(|namespace| Requester { namespace, keyring: &keyring });
    let snapshot = chart.reference("red/pod", "snap-1");
    for image in [&secret, &snapshot] {
        node.pull_as(red, image, PullPolicy::IfNotPresent).await.unwrap();
    }

    let anything = layer("anything");
    let to_red = claim(&evil, "x", &pushed.diff_ids, &[&anything]);
    let to_saved = claim(&evil, "y", &saved.diff_ids, &[&anything]);
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Always] {
        let done = node.pull_as(blue, &to_red, policy).await;
        assert_eq!(
            class(done),
            Some(Class::Corrupt),
            "{policy:?}: the registry must deliver the bytes"
        );
        for requester in [red, blue, other] {
            let done = node.pull_as(requester, &to_saved, policy).await;
            assert_eq!(class(done), Some(Class::Corrupt), "{policy:?}, {requester:?}");
        }
    }
    // A namespace that may name the image may use its layers under another name too.
    node.pull_as(other, &to_red, PullPolicy::IfNotPresent).await.unwrap();
    let done = node.pull_as(blue, &to_red, PullPolicy::Never).await;
    assert_eq!(class(done), Some(Class::NotFound));
    // The image that a snapshot of the cluster names is pulled under its own name.
    let fetched = chart.requests_to(&saved.layers[0].to_string()).len();
    node.pull_as(red, &snapshot, PullPolicy::Never).await.unwrap();
    assert_eq!(chart.requests_to(&saved.layers[0].to_string()).len(), fetched);
}

/// Registries count GETs of manifests. A pod whose image has not changed sends one HEAD and no GET.
#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_image_costs_one_head_request() {
    let registry = FakeRegistry::start().await;
    let one = registry.push_image("a", "latest", &[layer("one")], true);
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        { "mediaType": OCI_MANIFEST, "digest": one.manifest, "size": one.manifest_size,
          "platform": { "os": "linux", "architecture": architecture() } } ] });
    let index = registry.put_manifest("a", "latest", &index.to_string(), OCI_INDEX);
    let image = registry.reference("a", "latest");
    let node = Node::new(registry.registries(), HOUR);
    let anonymous = Keyring::default();
    let methods =
        || registry.requests_to("").into_iter().map(|request| request.method).collect::<String>();
    let pull = async |image: &Reference| {
        let before = methods().len();
        node.pull(image, PullPolicy::Always, &anonymous).await.unwrap();
        methods().split_off(before)
    };
    assert_eq!(pull(&image).await, "GETGETGETGET", "index, manifest, config, layer");
    assert_eq!(pull(&image).await, "HEAD");
    assert_eq!(pull(&image).await, "HEAD");
    for digest in [index, one.manifest] {
        let pinned = format!("{}/a@{digest}", registry.host()).parse().unwrap();
        assert_eq!(pull(&pinned).await, "", "what a digest means cannot change");
    }

    // Another index, and another tag, of the same image.
    let manifest = registry.requests_to(&one.manifest.to_string()).len();
    registry.push_image("a", "latest", &[layer("one")], true);
    assert_eq!(pull(&image).await, "HEAD", "the manifest itself");
    assert_eq!(registry.requests_to(&one.manifest.to_string()).len(), manifest);
    let two = registry.push_image("a", "latest", &[layer("one"), layer("two")], true);
    assert_eq!(pull(&image).await, "HEADGETGETGET", "manifest, config, layer");
    assert_eq!(node.store().images.named(&image.to_string()).unwrap().manifest, two.manifest);
    registry.push_image("a", "latest", &[layer("one")], true);
    assert_eq!(pull(&image).await, "HEAD", "back to an image that is in the store");
    assert_eq!(node.store().images.named(&image.to_string()).unwrap().manifest, one.manifest);

    // The same config under another manifest.
    let text = registry.text("a", &one.manifest).replacen('{', r#"{"annotations":{"a":"b"},"#, 1);
    registry.put_manifest("a", "latest", &text, OCI_MANIFEST);
    assert_eq!(pull(&image).await, "HEADGET", "no config, no layer");
    registry.inject("HEAD /v2/a/manifests/", 1, Fault::Respond(405, vec![]));
    assert_eq!(pull(&image).await, "HEADGET", "a registry that knows no HEAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_private_image_is_not_read_again_but_its_credential_is_checked() {
    let (registry, image, _) = registry().await;
    let node = Node::new(registry.registries(), Duration::ZERO);
    let [ann, wrong] = ["right", "wrong"].map(|password| registry.keyring("ann", password));
    node.pull(&image, PullPolicy::Always, &ann).await.unwrap();
    let gets = || registry.requests_to("").iter().filter(|request| request.method == "GET").count();
    let before = gets();
    for policy in [PullPolicy::Always, PullPolicy::IfNotPresent] {
        node.pull(&image, policy, &ann).await.unwrap();
        for keyring in [&wrong, &Keyring::default()] {
            let done = node.pull(&image, policy, keyring).await;
            assert_eq!(class(done), Some(Class::Denied), "{policy:?}");
        }
    }
    assert_eq!(gets(), before);
}

/// A config says who made an image and how it runs, so its digest alone gives no access to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_read_only_from_the_record_of_its_own_repository() {
    let (registry, image, pushed) = registry().await;
    let node = Node::new(registry.registries(), HOUR);
    let ann = registry.keyring("ann", "right");
    node.pull(&image, PullPolicy::IfNotPresent, &ann).await.unwrap();
    let config_requests = || registry.requests_to(&pushed.config.to_string()).len();
    assert_eq!(config_requests(), 1);
    let text = registry.text("team/tool", &pushed.manifest);
    registry.put_manifest("evil/x", "1", &text, OCI_MANIFEST);
    let trap = registry.reference("evil/x", "1");
    node.pull(&trap, PullPolicy::IfNotPresent, &ann).await.unwrap();
    assert_eq!(config_requests(), 2);
}
