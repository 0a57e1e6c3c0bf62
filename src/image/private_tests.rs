//! Private repositories and broken downloads, against a registry that has both.

use std::io::Read;

use serde_json::json;

use super::{
    Access, BlobReader, Image, ImageError, Keyring, LayerBlob, Reference, Registries,
    fake::{self, ALWAYS, FakeRegistry, IDENTITY, Misdeed, Scheme, TOKEN, soon},
};
use crate::{digest::Digest, fault::Class};

const PASSWORD: &str = "password-that-must-not-be-shown";

/// A registry with the image `team/secret:1` of one layer.
struct Scene {
    registry: FakeRegistry,
    registries: Registries,
    reference: Reference,
    layer: Digest,
    tar: Vec<u8>,
}

async fn scene(scheme: Option<Scheme>) -> Scene {
    let registry = FakeRegistry::start().await;
    let tar: Vec<u8> = (0..600_000_u32).map(|i| (i % 249) as u8).collect();
    let pushed = registry.push_image("team/secret", "1", std::slice::from_ref(&tar), false);
    if let Some(scheme) = scheme {
        registry.protect("team/secret", scheme, "u", PASSWORD);
    }
    let (registries, reference) = (registry.registries(), registry.reference("team/secret", "1"));
    Scene { registry, registries, reference, layer: pushed.layers[0], tar }
}

impl Scene {
    async fn resolve(&self, keyring: &Keyring) -> Result<Image, ImageError> {
        soon(self.registries.resolve(&self.reference, keyring)).await
    }

    async fn refused(&self, keyring: &Keyring) -> String {
        let error = self.resolve(keyring).await.expect_err("an image that is not for everybody");
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
async fn a_private_image_is_had_with_its_secret_and_not_without() {
    for scheme in [Scheme::Basic, Scheme::Bearer] {
        let s = scene(Some(scheme)).await;
        let shown = s.refused(&Keyring::default()).await;
        assert!(shown.contains("give a secret for it (nodePublishSecretRef)"), "{shown}");
        let shown = s.refused(&s.registry.keyring("u", "wrong")).await;
        assert!(shown.contains("the secret was refused"), "{shown}");
        let elsewhere =
            fake::keyring(&json!({ "r.io": { "username": "u", "password": PASSWORD } }));
        assert!(s.refused(&elsewhere).await.contains("nodePublishSecretRef"));

        let keyring = s.registry.keyring("u", PASSWORD);
        let image = s.pull(&keyring).await;
        assert_eq!([image.access], keyring.accesses(&s.reference)[..], "{scheme:?}");

        let shown = s.refused(&Keyring::default()).await;
        assert!(shown.contains("nodePublishSecretRef"), "what one got, another does not: {shown}");
        s.refused(&s.registry.keyring("u", "wrong")).await;
    }
}

#[tokio::test]
async fn a_token_is_got_once_for_a_secret_and_a_repository() {
    let s = scene(Some(Scheme::Bearer)).await;
    let keyring = s.registry.keyring("u", PASSWORD);
    s.pull(&keyring).await;
    s.pull(&keyring).await;
    let asked = s.registry.seen("/token");
    assert_eq!(asked.len(), 1);
    assert!(asked[0].authorization.as_ref().unwrap().starts_with("Basic "));
    let content = s.registry.seen("/v2/");
    assert!(content.iter().all(|seen| {
        seen.authorization.as_ref().is_none_or(|it| it.starts_with(&format!("Bearer {TOKEN}-")))
    }));
}

#[tokio::test]
async fn several_secrets_are_tried_in_turn() {
    let s = scene(Some(Scheme::Bearer)).await;
    let bad = fake::keyring(&json!({ format!("{}/team", s.registry.host()):
        { "username": "u", "password": "wrong" } }));
    let keyring = bad.and(&s.registry.keyring("u", PASSWORD));
    let image = s.pull(&keyring).await;
    let [refused, accepted] = &keyring.accesses(&s.reference)[..] else { panic!() };
    assert_eq!((&image.access, refused == accepted), (accepted, false));
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_registry_token_used_as_it_is() {
    let s = scene(Some(Scheme::Bearer)).await;
    let host = s.registry.host();
    s.pull(&fake::keyring(&json!({ &host: { "identitytoken": IDENTITY } }))).await;
    let asked = &s.registry.seen("/token")[0];
    assert!(asked.body.contains("grant_type=refresh_token&"), "{}", asked.body);
    assert_eq!((asked.query.as_str(), asked.authorization.as_ref()), ("", None));

    let private = format!("{TOKEN}-{}", Digest::of(b"team/secret").hex());
    s.pull(&fake::keyring(&json!({ &host: { "registrytoken": private } }))).await;
    assert_eq!(s.registry.seen("/token").len(), 1);

    let s = scene(Some(Scheme::Basic)).await;
    let identity = fake::keyring(&json!({ s.registry.host(): { "identitytoken": IDENTITY } }));
    assert!(s.refused(&identity).await.contains("it asks for a user name and password"));
}

#[tokio::test]
async fn a_secret_that_nobody_asks_for_is_not_sent() {
    let s = scene(None).await;
    let image = s.pull(&s.registry.keyring("u", PASSWORD)).await;
    assert_eq!(image.access, Access::Anonymous);
    assert!(s.registry.seen("").iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_mirror_gets_only_what_is_for_itself() {
    for known in [false, true] {
        let s = scene(Some(Scheme::Basic)).await;
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
        let sent = mirror.seen("").iter().filter(|seen| seen.authorization.is_some()).count();
        assert_eq!(sent > 0, known);
    }
}

#[tokio::test]
async fn a_secret_does_not_follow_a_redirect_or_a_realm_elsewhere() {
    let s = scene(Some(Scheme::Basic)).await;
    let thief = FakeRegistry::start().await;
    let (ours, theirs) = (s.registry.host(), thief.host());
    let server = |host: &str| format!("server = \"http://{host}\"");
    let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
    let keyring = s.registry.keyring("u", PASSWORD);
    let image = registries.resolve(&s.reference, &keyring).await.unwrap();
    thief.put_blob(s.tar.clone());
    let to = format!("http://{theirs}/blobs/{}", s.layer);
    s.registry.misbehave(s.layer, 1, Misdeed::Answer(307, vec![("location", to)]));
    let blob = registries.blob(&image, &image.layers[0], &keyring).await.unwrap();
    assert!(read(blob).await.unwrap() == s.tar);
    assert_eq!(thief.seen("/blobs/")[0].authorization, None);

    // A realm by plain http that no file names would read the secret, and whoever listens.
    let s = scene(None).await;
    s.registry.misbehave("/v2/", 1, Misdeed::NeedsToken("http://192.0.2.1/token".to_owned()));
    let shown = s.refused(&s.registry.keyring("u", PASSWORD)).await;
    assert!(shown.contains("by http, by which no secret is sent"), "{shown}");
}

#[tokio::test]
async fn a_hosts_files_headers_stay_with_its_server() {
    let s = scene(None).await;
    let storage = FakeRegistry::start().await;
    storage.put_blob(s.tar.clone());
    let (ours, theirs) = (s.registry.host(), storage.host());
    let header = format!("server = \"http://{ours}\"\nheader = {{ x-key = \"k\" }}");
    let server = format!("server = \"http://{theirs}\"");
    let registries = fake::registries(&[(&ours, &header), (&theirs, &server)]);
    let image = registries.resolve(&s.reference, &Keyring::default()).await.unwrap();
    let to = format!("http://{theirs}/blobs/{}", s.layer);
    s.registry.misbehave(s.layer, 1, Misdeed::Answer(307, vec![("location", to)]));
    registries.blob(&image, &image.layers[0], &Keyring::default()).await.unwrap();
    assert!(s.registry.seen("/v2/").iter().all(|seen| seen.headers["x-key"] == "k"));
    assert!(storage.seen("").iter().all(|seen| !seen.headers.contains_key("x-key")));
}

async fn layer_read(s: &Scene) -> Result<Vec<u8>, String> {
    let image = s.resolve(&Keyring::default()).await.unwrap();
    let layer: &LayerBlob = &image.layers[0];
    let blob = s.registries.blob(&image, layer, &Keyring::default()).await.unwrap();
    read(blob).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_broken_download_goes_on_at_its_byte() {
    let s = scene(None).await;
    s.registry.misbehave(s.layer, 2, Misdeed::Cut);
    assert!(layer_read(&s).await.unwrap() == s.tar);
    let asked = s.registry.seen(&s.layer.to_string());
    let ranges: Vec<_> = asked.iter().map(|seen| seen.headers.get("range")).collect();
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
    assert_eq!(asked.len(), 3);
}

#[tokio::test]
async fn what_cannot_go_on_ends_with_the_first_error() {
    let s = scene(None).await;
    let wrong = Misdeed::Header("content-range", "bytes 0-1/2".to_owned());
    for (then, requests) in [(Misdeed::NoParts, 2), (wrong, 2), (Misdeed::Cut, 4)] {
        let before = s.registry.seen(&s.layer.to_string()).len();
        s.registry.misbehave(s.layer, 1, Misdeed::Cut);
        s.registry.misbehave(s.layer, requests - 1, then.clone());
        let shown = layer_read(&s).await.unwrap_err();
        assert!(shown.contains("it cannot be reached"), "{then:?}: {shown}");
        let asked = s.registry.seen(&s.layer.to_string()).len() - before;
        assert_eq!(asked, requests, "{then:?}");
    }
}

#[tokio::test]
async fn the_digest_is_over_the_whole_of_what_came_in_parts() {
    let s = scene(None).await;
    s.registry.misbehave(s.layer, 1, Misdeed::Cut);
    s.registry.misbehave(s.layer, 1, Misdeed::Flip);
    let shown = layer_read(&s).await.unwrap_err();
    assert!(shown.contains("not what its digest promises"), "{shown}");
}

#[tokio::test]
async fn a_broken_private_download_goes_on_with_its_secret() {
    let s = scene(Some(Scheme::Bearer)).await;
    s.registry.misbehave(s.layer, 1, Misdeed::Cut);
    // The first request for the blob already carries the token of the manifest.
    s.pull(&s.registry.keyring("u", PASSWORD)).await;
    assert_eq!(s.registry.seen(&s.layer.to_string()).len(), 2);
    s.registry.misbehave("/v2/", ALWAYS, Misdeed::Answer(403, Vec::new()));
    s.refused(&s.registry.keyring("u", PASSWORD)).await;
}

/// A name that leads to a registry elsewhere, which wants a token itself.
#[tokio::test]
async fn a_registry_that_a_name_redirects_to_is_asked_for_a_token_of_its_own() {
    for scheme in [None, Some(Scheme::Basic), Some(Scheme::Bearer)] {
        let name = scene(scheme).await;
        let registry = FakeRegistry::start().await;
        registry.push_image("team/secret", "1", std::slice::from_ref(&name.tar), false);
        registry.misbehave("/v2/", ALWAYS, Misdeed::NeedsToken(String::new()));
        let (ours, theirs) = (name.registry.host(), registry.host());
        let server = |host: &str| format!("server = \"http://{host}\"");
        let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
        let keyring = name.registry.keyring("u", PASSWORD);
        name.registry.lead_to(&theirs);
        let image = registries.resolve(&name.reference, &keyring).await.unwrap();
        let blob = registries.blob(&image, &image.layers[0], &keyring).await.unwrap();
        assert!(read(blob).await.unwrap() == name.tar);

        let tokens = registry.seen("/token");
        assert_eq!(tokens.len(), 1, "one for all of it");
        assert_eq!(tokens[0].authorization, None, "an anonymous one");
        let own = format!("Bearer {TOKEN}");
        let shown = registry.seen("").into_iter().filter_map(|seen| seen.authorization);
        assert!(shown.into_iter().all(|shown| shown == own), "{scheme:?}");
    }
}

#[tokio::test]
async fn a_registry_elsewhere_that_wants_a_password_gets_none() {
    let name = scene(Some(Scheme::Basic)).await;
    let registry = FakeRegistry::start().await;
    registry.push_image("team/secret", "1", std::slice::from_ref(&name.tar), false);
    registry.protect("team/secret", Scheme::Basic, "u", PASSWORD);
    let (ours, theirs) = (name.registry.host(), registry.host());
    let server = |host: &str| format!("server = \"http://{host}\"");
    let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
    name.registry.lead_to(&theirs);
    let keyring = name.registry.keyring("u", PASSWORD);
    let error = registries.resolve(&name.reference, &keyring).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    assert!(registry.seen("").iter().all(|seen| seen.authorization.is_none()));
}
