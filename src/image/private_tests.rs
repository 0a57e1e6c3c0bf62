//! Tests of private repositories and of downloads that break.

use std::io::Read;

use serde_json::json;

use super::{
    Access, BlobReader, Image, ImageError, Keyring, LayerBlob, Reference, Registries,
    fake::{self, ALWAYS, FakeRegistry, Fault, IDENTITY, Scheme, TOKEN, soon},
};
use crate::{
    digest::{BlobDigest, Digest},
    error::Class,
};

const PASSWORD: &str = "password-that-must-not-be-shown";

/// A registry with the image `team/secret:1` of one layer.
struct Fixture {
    registry: FakeRegistry,
    registries: Registries,
    reference: Reference,
    layer: BlobDigest,
    tar: Vec<u8>,
}

async fn fixture(scheme: Option<Scheme>) -> Fixture {
    let registry = FakeRegistry::start().await;
    let tar: Vec<u8> = (0..600_000_u32).map(|i| (i % 249) as u8).collect();
    let pushed = registry.push_image("team/secret", "1", std::slice::from_ref(&tar), false);
    if let Some(scheme) = scheme {
        registry.protect("team/secret", scheme, "u", PASSWORD);
    }
    let (registries, reference) = (registry.registries(), registry.reference("team/secret", "1"));
    Fixture { registry, registries, reference, layer: pushed.layers[0], tar }
}

impl Fixture {
    async fn resolve(&self, keyring: &Keyring) -> Result<Image, ImageError> {
        soon(self.registries.resolve(&self.reference, keyring)).await
    }

    async fn refused(&self, keyring: &Keyring) -> String {
        let error = self.resolve(keyring).await.expect_err("the private image must be refused");
        assert_eq!(error.class(), Class::Denied, "{error}");
        let shown = format!("{error} {error:?} {keyring:?} {:?}", self.registries);
        assert!(!shown.contains("must-not-be-shown"), "{shown}");
        error.to_string()
    }

    /// Resolves and reads the layer.
    async fn pull(&self, keyring: &Keyring) -> Image {
        let image = self.resolve(keyring).await.unwrap();
        let blob = self.registries.blob(&image, &image.layers[0], keyring).await.unwrap();
        assert!(read(blob).await.unwrap() == self.tar, "the layer's bytes");
        image
    }
}

async fn read(mut blob: BlobReader) -> std::io::Result<Vec<u8>> {
    let reading = move || {
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map(|_| bytes)
    };
    soon(tokio::task::spawn_blocking(reading)).await.unwrap()
}

#[tokio::test]
async fn a_pull_of_a_private_image_needs_its_secret() {
    for scheme in [Scheme::Basic, Scheme::Bearer] {
        let s = fixture(Some(scheme)).await;
        let shown = s.refused(&Keyring::default()).await;
        assert!(shown.contains("give credentials for it"), "{shown}");
        let shown = s.refused(&s.registry.keyring("u", "wrong")).await;
        assert!(shown.contains("the registry refused the secret"), "{shown}");
        let elsewhere =
            fake::keyring(&json!({ "r.io": { "username": "u", "password": PASSWORD } }));
        assert!(s.refused(&elsewhere).await.contains("give credentials for it"));

        let keyring = s.registry.keyring("u", PASSWORD);
        let image = s.pull(&keyring).await;
        assert_eq!([image.access], keyring.accesses(&s.reference)[..], "{scheme:?}");

        let shown = s.refused(&Keyring::default()).await;
        assert!(
            shown.contains("give credentials for it"),
            "a pull with a secret does not open the image for others: {shown}"
        );
        s.refused(&s.registry.keyring("u", "wrong")).await;
    }
}

#[tokio::test]
async fn one_token_is_requested_per_secret_and_repository() {
    let s = fixture(Some(Scheme::Bearer)).await;
    let keyring = s.registry.keyring("u", PASSWORD);
    s.pull(&keyring).await;
    s.pull(&keyring).await;
    let requests = s.registry.requests_to("/token");
    assert_eq!(requests.len(), 1);
    assert!(requests[0].authorization.as_ref().unwrap().starts_with("Basic "));
    let content = s.registry.requests_to("/v2/");
    assert!(content.iter().all(|request| {
        request.authorization.as_ref().is_none_or(|it| it.starts_with(&format!("Bearer {TOKEN}-")))
    }));
}

#[tokio::test]
async fn several_secrets_are_tried_in_order() {
    let s = fixture(Some(Scheme::Bearer)).await;
    let bad = fake::keyring(&json!({ format!("{}/team", s.registry.host()):
        { "username": "u", "password": "wrong" } }));
    let keyring = bad.and(&s.registry.keyring("u", PASSWORD));
    let image = s.pull(&keyring).await;
    let [refused, accepted] = &keyring.accesses(&s.reference)[..] else { panic!() };
    assert_eq!((&image.access, refused == accepted), (accepted, false));
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_registry_token_is_sent_unchanged() {
    let s = fixture(Some(Scheme::Bearer)).await;
    let host = s.registry.host();
    s.pull(&fake::keyring(&json!({ &host: { "identitytoken": IDENTITY } }))).await;
    let request = &s.registry.requests_to("/token")[0];
    assert!(request.body.contains("grant_type=refresh_token&"), "{}", request.body);
    assert_eq!((request.query.as_str(), request.authorization.as_ref()), ("", None));

    let private = format!("{TOKEN}-{}", Digest::of(b"team/secret").hex());
    s.pull(&fake::keyring(&json!({ &host: { "registrytoken": private } }))).await;
    assert_eq!(s.registry.requests_to("/token").len(), 1);

    let s = fixture(Some(Scheme::Basic)).await;
    let identity = fake::keyring(&json!({ s.registry.host(): { "identitytoken": IDENTITY } }));
    assert!(s.refused(&identity).await.contains("it requires a user name and password"));
}

#[tokio::test]
async fn a_secret_is_not_sent_to_a_server_that_does_not_require_one() {
    let s = fixture(None).await;
    let image = s.pull(&s.registry.keyring("u", PASSWORD)).await;
    assert_eq!(image.access, Access::Anonymous);
    assert!(s.registry.requests_to("").iter().all(|request| request.authorization.is_none()));
}

#[tokio::test]
async fn a_mirror_receives_only_its_own_credentials() {
    for known in [false, true] {
        let s = fixture(Some(Scheme::Basic)).await;
        let mirror = FakeRegistry::start().await;
        mirror.push_image("team/secret", "1", std::slice::from_ref(&s.tar), false);
        mirror.protect("team/secret", Scheme::Basic, "m", "mirrors");
        let (ours, theirs) = (s.registry.host(), mirror.host());
        let text = format!("server = \"http://{ours}\"\n[host.\"http://{theirs}\"]");
        let registries = fake::registries(&[("registry.example", &text)]);
        let reference: Reference = "registry.example/team/secret:1".parse().unwrap();
        let mut auths = json!({ "registry.example": { "username": "u", "password": PASSWORD } });
        if known {
            auths[&theirs] = json!({ "username": "m", "password": "mirrors" });
        }
        let keyring = fake::keyring(&auths);
        let image = registries.resolve(&reference, &keyring).await.unwrap();
        assert_ne!(image.access, Access::Anonymous);
        assert_eq!(s.registry.requests().is_empty(), known, "the server is the registry itself");
        let sent =
            mirror.requests_to("").iter().filter(|request| request.authorization.is_some()).count();
        assert_eq!(sent > 0, known);
    }
}

#[tokio::test]
async fn a_secret_is_not_sent_to_a_redirect_target_or_a_realm_by_plain_http() {
    let s = fixture(Some(Scheme::Basic)).await;
    let thief = FakeRegistry::start().await;
    let (ours, theirs) = (s.registry.host(), thief.host());
    let server = |host: &str| format!("server = \"http://{host}\"");
    let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
    let keyring = s.registry.keyring("u", PASSWORD);
    let image = registries.resolve(&s.reference, &keyring).await.unwrap();
    thief.put_blob(s.tar.clone());
    let to = format!("http://{theirs}/blobs/{}", s.layer);
    s.registry.inject(s.layer, 1, Fault::Respond(307, vec![("location", to)]));
    let blob = registries.blob(&image, &image.layers[0], &keyring).await.unwrap();
    assert!(read(blob).await.unwrap() == s.tar);
    assert_eq!(thief.requests_to("/blobs/")[0].authorization, None);

    // By plain http, every listener on the network could read the secret.
    let s = fixture(None).await;
    s.registry.inject("/v2/", 1, Fault::NeedsToken("http://192.0.2.1/token".to_owned()));
    let shown = s.refused(&s.registry.keyring("u", PASSWORD)).await;
    assert!(shown.contains("by http, and secrets are not sent by http"), "{shown}");
}

#[tokio::test]
async fn the_headers_of_a_hosts_file_are_sent_only_to_their_server() {
    let s = fixture(None).await;
    let storage = FakeRegistry::start().await;
    storage.put_blob(s.tar.clone());
    let (ours, theirs) = (s.registry.host(), storage.host());
    let header = format!("server = \"http://{ours}\"\nheader = {{ x-key = \"k\" }}");
    let server = format!("server = \"http://{theirs}\"");
    let registries = fake::registries(&[(&ours, &header), (&theirs, &server)]);
    let image = registries.resolve(&s.reference, &Keyring::default()).await.unwrap();
    let to = format!("http://{theirs}/blobs/{}", s.layer);
    s.registry.inject(s.layer, 1, Fault::Respond(307, vec![("location", to)]));
    registries.blob(&image, &image.layers[0], &Keyring::default()).await.unwrap();
    assert!(s.registry.requests_to("/v2/").iter().all(|request| request.headers["x-key"] == "k"));
    assert!(storage.requests_to("").iter().all(|request| !request.headers.contains_key("x-key")));
}

async fn layer_read(s: &Fixture) -> Result<Vec<u8>, String> {
    let image = s.resolve(&Keyring::default()).await.unwrap();
    let layer: &LayerBlob = &image.layers[0];
    let blob = s.registries.blob(&image, layer, &Keyring::default()).await.unwrap();
    read(blob).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_broken_download_resumes_at_the_byte_where_it_broke() {
    let s = fixture(None).await;
    s.registry.inject(s.layer, 2, Fault::Truncate);
    assert!(layer_read(&s).await.unwrap() == s.tar);
    let requests = s.registry.requests_to(&s.layer.to_string());
    let ranges: Vec<_> = requests.iter().map(|request| request.headers.get("range")).collect();
    assert_eq!(ranges[0], None);
    let from = |i: usize| -> u64 {
        let range: &reqwest::header::HeaderValue = ranges[i].unwrap();
        let range = range.to_str().unwrap();
        range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
    };
    assert!(
        (1..=300_000).contains(&from(1)) && (from(1)..=450_000).contains(&from(2)),
        "{ranges:?}"
    );
    assert_eq!(requests.len(), 3);
}

#[tokio::test]
async fn a_download_that_cannot_resume_fails_with_the_first_error() {
    let s = fixture(None).await;
    let wrong = Fault::Header("content-range", "bytes 0-1/2".to_owned());
    for (then, requests) in [(Fault::NoParts, 2), (wrong, 2), (Fault::Truncate, 4)] {
        let before = s.registry.requests_to(&s.layer.to_string()).len();
        s.registry.inject(s.layer, 1, Fault::Truncate);
        s.registry.inject(s.layer, requests - 1, then.clone());
        let shown = layer_read(&s).await.unwrap_err();
        assert!(shown.contains("the server cannot be reached"), "{then:?}: {shown}");
        let sent = s.registry.requests_to(&s.layer.to_string()).len() - before;
        assert_eq!(sent, requests, "{then:?}");
    }
}

#[tokio::test]
async fn the_digest_of_a_resumed_download_is_over_the_complete_blob() {
    let s = fixture(None).await;
    s.registry.inject(s.layer, 1, Fault::Truncate);
    s.registry.inject(s.layer, 1, Fault::Flip);
    let shown = layer_read(&s).await.unwrap_err();
    assert!(shown.contains("does not match its digest"), "{shown}");
}

#[tokio::test]
async fn a_broken_private_download_resumes_with_its_secret() {
    let s = fixture(Some(Scheme::Bearer)).await;
    s.registry.inject(s.layer, 1, Fault::Truncate);
    // The first request for the blob already has the token of the manifest.
    s.pull(&s.registry.keyring("u", PASSWORD)).await;
    assert_eq!(s.registry.requests_to(&s.layer.to_string()).len(), 2);
    s.registry.inject("/v2/", ALWAYS, Fault::Respond(403, Vec::new()));
    s.refused(&s.registry.keyring("u", PASSWORD)).await;
}

/// A registry that redirects to another one, which requires a token too.
#[tokio::test]
async fn the_target_of_a_redirect_gets_an_anonymous_token_of_its_own_realm() {
    for scheme in [None, Some(Scheme::Basic), Some(Scheme::Bearer)] {
        let name = fixture(scheme).await;
        let registry = FakeRegistry::start().await;
        registry.push_image("team/secret", "1", std::slice::from_ref(&name.tar), false);
        registry.inject("/v2/", ALWAYS, Fault::NeedsToken(String::new()));
        let (ours, theirs) = (name.registry.host(), registry.host());
        let server = |host: &str| format!("server = \"http://{host}\"");
        let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
        let keyring = name.registry.keyring("u", PASSWORD);
        name.registry.redirect_to(&theirs);
        let image = registries.resolve(&name.reference, &keyring).await.unwrap();
        let blob = registries.blob(&image, &image.layers[0], &keyring).await.unwrap();
        assert!(read(blob).await.unwrap() == name.tar);

        let tokens = registry.requests_to("/token");
        assert_eq!(tokens.len(), 1, "one token for all requests");
        assert_eq!(tokens[0].authorization, None, "an anonymous one");
        let own = format!("Bearer {TOKEN}");
        let shown =
            registry.requests_to("").into_iter().filter_map(|request| request.authorization);
        assert!(shown.into_iter().all(|shown| shown == own), "{scheme:?}");
    }
}

#[tokio::test]
async fn a_redirect_target_that_requires_a_password_gets_none() {
    let name = fixture(Some(Scheme::Basic)).await;
    let registry = FakeRegistry::start().await;
    registry.push_image("team/secret", "1", std::slice::from_ref(&name.tar), false);
    registry.protect("team/secret", Scheme::Basic, "u", PASSWORD);
    let (ours, theirs) = (name.registry.host(), registry.host());
    let server = |host: &str| format!("server = \"http://{host}\"");
    let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
    name.registry.redirect_to(&theirs);
    let keyring = name.registry.keyring("u", PASSWORD);
    let error = registries.resolve(&name.reference, &keyring).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    assert!(registry.requests_to("").iter().all(|request| request.authorization.is_none()));
}
