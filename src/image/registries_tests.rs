//! Tests of the whole module against a faulty registry on loopback: one test per behaviour.

use std::{
    io::{self, Read},
    time::Duration,
};

use serde_json::{Value, json};

use super::*;

fn without() -> Keyring {
    Keyring::default()
}

use crate::{
    digest::{DiffId, Digest, ManifestDigest},
    error::Class,
    image::{
        error,
        fake::{
            self, ALWAYS, FakeRegistry, Fault, OCI_INDEX, OCI_MANIFEST, Pushed, TOKEN, descriptor,
            soon,
        },
        platform::HostPlatform,
    },
    media_type::{Compression, Format},
};

/// A registry with the image `team/tool:1` of one layer, the reference to it and a client.
struct Fixture {
    registry: FakeRegistry,
    registries: Registries,
    reference: Reference,
    pushed: Pushed,
    tar: Vec<u8>,
}

async fn fixture() -> Fixture {
    let registry = FakeRegistry::start().await;
    let tar: Vec<u8> = (0..600_000_u32).map(|i| (i % 251) as u8).collect();
    let pushed = registry.push_image("team/tool", "1", std::slice::from_ref(&tar), false);
    let registries = registry.registries();
    let reference = registry.reference("team/tool", "1");
    Fixture { registry, registries, reference, pushed, tar }
}

impl Fixture {
    async fn resolve(&self) -> Result<Image, ImageError> {
        soon(self.registries.resolve(&self.reference, &without())).await
    }

    /// Class and message of the error of a resolve. No secret may be in it.
    async fn refused(&self) -> (Class, String) {
        let error = self.resolve().await.expect_err("the image must be rejected");
        let shown = format!("{error} {error:?} {:?}", self.registries);
        for secret in ["must-not-be-shown", "sig="] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(error.to_string().starts_with(&format!("image {}: ", self.reference)), "{error}");
        (error.class(), error.to_string())
    }

    /// Reads the layer to its end.
    async fn read(&self) -> io::Result<Vec<u8>> {
        let image = self.resolve().await.unwrap();
        let reader = self
            .registries
            .blob(&image, &image.layers[0], &without())
            .await
            .map_err(io::Error::other)?;
        read(reader).await
    }

    async fn read_fails(&self) -> (io::ErrorKind, Class, String) {
        let error =
            self.read().await.map(|bytes| bytes.len()).expect_err("the layer must be rejected");
        let inner = error::find::<ImageError>(&error).unwrap();
        (error.kind(), inner.class(), inner.to_string())
    }

    /// Adds an index under the tag.
    fn index(&self, entries: &[Value]) -> ManifestDigest {
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        self.registry.put_manifest("team/tool", "1", &index.to_string(), OCI_INDEX)
    }

    fn count(&self, part: &str) -> usize {
        self.registry.requests_to(part).len()
    }
}

/// More bytes than any layer here has: a reader that returns more has lost its limit.
const TAKEN_MAX: u64 = 4 << 20;

async fn read(mut reader: BlobReader) -> io::Result<Vec<u8>> {
    let reading = move || {
        let mut bytes = Vec::new();
        let end = reader.by_ref().take(TAKEN_MAX).read_to_end(&mut bytes);
        assert!((bytes.len() as u64) < TAKEN_MAX, "the layer must end");
        if let Err(error) = &end {
            let again = reader.read(&mut [0]).unwrap_err();
            assert_eq!(again.to_string(), error.to_string(), "the same error again");
        }
        end.map(|_| bytes)
    };
    soon(tokio::task::spawn_blocking(reading)).await.unwrap()
}

fn platform(of: Value, platform: &str) -> Value {
    let mut words = platform.split('/');
    let (os, architecture) = (words.next().unwrap(), words.next().unwrap());
    let mut entry = of;
    entry["platform"] = json!({ "os": os, "architecture": architecture });
    entry
}

#[tokio::test]
async fn an_image_is_resolved_and_read() {
    let s = fixture().await;
    let image = s.resolve().await.unwrap();
    assert_eq!((image.digest, &image.reference), (s.pushed.manifest, &s.reference));
    let layer = LayerBlob {
        digest: s.pushed.layers[0],
        size: s.tar.len() as u64,
        media_type: image.layers[0].media_type.clone(),
        format: Format::Portable,
        compression: Compression::None,
        diff_id: s.pushed.diff_ids[0],
    };
    assert_eq!(image.layers, [layer]);
    assert!(s.read().await.unwrap() == s.tar, "the layer's bytes");
    assert_eq!(s.registry.requests()["/v2/team/tool/manifests/1"], 2);
}

#[tokio::test]
async fn layers_are_bottom_first_and_empty_and_repeated_ones_are_kept() {
    let registry = FakeRegistry::start().await;
    let tars = [b"bottom".to_vec(), Vec::new(), Vec::new(), b"top".to_vec()];
    let pushed = registry.push_image("a", "1", &tars, true);
    let image =
        registry.registries().resolve(&registry.reference("a", "1"), &without()).await.unwrap();
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
    assert_eq!(diff_ids, pushed.diff_ids);
    assert!(image.layers.iter().all(|layer| layer.compression == Compression::Gzip));
}

#[tokio::test]
async fn a_pinned_reference_is_requested_by_digest_and_verified() {
    let mut s = fixture().await;
    let pinned = format!("{}/team/tool:9@{}", s.registry.host(), s.pushed.manifest);
    s.reference = pinned.parse().unwrap();
    assert_eq!(s.resolve().await.unwrap().digest, s.pushed.manifest);
    assert_eq!(s.count("/manifests/9"), 0, "the tag is a comment");

    s.registry.inject("/manifests/", 1, Fault::Flip);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt);
    assert!(words.contains("the manifest does not match its digest"), "{words}");
}

#[tokio::test]
async fn a_manifest_that_contradicts_its_digest_header_is_rejected() {
    let s = fixture().await;
    let other = Digest::of(b"other").to_string();
    s.registry.inject("/manifests/", 1, Fault::Header("docker-content-digest", other));
    assert_eq!(s.refused().await.0, Class::Corrupt);
}

#[tokio::test]
async fn a_missing_image_is_not_found_and_not_retried() {
    let mut s = fixture().await;
    s.reference = s.registry.reference("team/tool", "2");
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::NotFound);
    assert!(words.contains("the manifest does not exist"), "{words}");
    assert!(words.contains(&s.registry.host()), "{words}");
    assert_eq!(s.count("/manifests/2"), 1);
}

#[tokio::test]
async fn an_index_leads_to_the_manifest_for_this_host() {
    let mut s = fixture().await;
    let other = s.registry.push_image("team/tool", "other", &[b"other".to_vec()], false);
    let entry = |digest: ManifestDigest, size: usize| json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": size });
    let size = s.pushed.manifest_size;
    let index = s.index(&[
        platform(entry(other.manifest, size), "linux/made-up"),
        platform(entry(s.pushed.manifest, size), &HostPlatform::this().name()),
    ]);
    assert_eq!(s.resolve().await.unwrap().digest, s.pushed.manifest);
    assert_eq!(s.count(&other.manifest.to_string()), 0);

    s.reference = format!("{}/team/tool@{index}", s.registry.host()).parse().unwrap();
    assert_eq!(s.resolve().await.unwrap().digest, s.pushed.manifest, "pinned to the index");

    let part = s.pushed.manifest.to_string();
    s.registry.inject(&part, 1, Fault::Flip);
    assert_eq!(s.refused().await.0, Class::Corrupt, "the manifest's bytes");
    s.registry.inject(&part, 1, Fault::Header("content-type", OCI_INDEX.to_owned()));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt, "the manifest's kind");
    assert!(words.contains("differs from the media type in the index"), "{words}");
    s.index(&[platform(entry(s.pushed.manifest, size + 1), &HostPlatform::this().name())]);
    s.reference = s.registry.reference("team/tool", "1");
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt, "the manifest's size");
    assert!(words.contains("bytes instead of"), "{words}");
}

/// buildx writes an index of indexes when it joins images; jib and buildpacks write the platform only into the config.
#[tokio::test]
async fn nested_indexes_and_indexes_without_platforms_lead_to_the_image_for_this_host() {
    let s = fixture().await;
    let entry = |media_type: &str, digest: ManifestDigest, size: usize| json!({ "mediaType": media_type, "digest": digest, "size": size });
    let put = |entries: Value| {
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        let digest = s.registry.put_manifest("team/tool", "1", &index.to_string(), OCI_INDEX);
        entry(OCI_INDEX, digest, index.to_string().len())
    };
    let image = |platform: &str| {
        let (os, architecture) = platform.split_once('/').unwrap();
        let config = json!({ "os": os, "architecture": architecture,
                             "rootfs": { "diff_ids": s.pushed.diff_ids } });
        let config = config.to_string().into_bytes();
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &s.tar);
        let manifest = json!({ "schemaVersion": 2, "layers": [layer],
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config) });
        s.registry.put_blob(config);
        let text = manifest.to_string();
        (s.registry.put_manifest("team/tool", "x", &text, OCI_MANIFEST), text.len())
    };
    let ours = HostPlatform::this().name();
    let [mine, other] = [ours.as_str(), "windows/amd64"].map(image);
    let bare = |(digest, size): (ManifestDigest, usize)| entry(OCI_MANIFEST, digest, size);
    let missing = (ManifestDigest::of(b"missing"), 7);

    put(json!([bare(missing), bare(other), bare(mine)]));
    assert_eq!(s.resolve().await.unwrap().digest, mine.0, "the config names the platform");
    let inner = put(json!([platform(bare(mine), &ours)]));
    let middle = put(json!([platform(inner.clone(), &ours)]));
    put(json!([bare(other), middle]));
    let image = s.resolve().await.unwrap();
    assert_eq!(image.digest, mine.0, "three deep, the outer one without a platform");
    assert_ne!(image.index, None);
    put(json!([put(json!([put(json!([put(json!([platform(bare(mine), &ours)]))]))]))]));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(words.contains("nested too deeply"), "{words}");
    put(json!([bare(other)]));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::NotFound);
    assert!(words.contains("only for windows/amd64"), "{words}");
}

/// The images of KEP-4639, and images without layers as tools write them.
#[tokio::test]
async fn images_without_layers_and_images_of_plain_files_are_accepted() {
    let s = fixture().await;
    let tar = descriptor("application/vnd.oci.image.layer.v1.tar", &s.tar);
    let oci = "application/vnd.oci.image.config.v1+json";
    for (config_type, config, layers, count) in [
        (oci, r#"{"rootfs":{"type":"layers"}}"#, json!([]), 0),
        (oci, r#"{"rootfs":{"type":"layers","diff_ids":null}}"#, json!(null), 0),
        ("application/octet-stream", "{}", json!([]), 0),
        ("application/vnd.oci.empty.v1+json", "{}", json!([tar]), 1),
        ("application/json", "{}", json!([tar]), 1),
        (oci, "{}", json!([tar]), 1),
    ] {
        let manifest = json!({ "schemaVersion": 2, "layers": layers,
            "config": descriptor(config_type, config.as_bytes()) });
        s.registry.put_blob(config.as_bytes().to_vec());
        s.registry.put_manifest("team/tool", "1", &manifest.to_string(), OCI_MANIFEST);
        let image = s.resolve().await.unwrap_or_else(|e| panic!("{config_type} {config}: {e}"));
        let ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
        assert_eq!(ids, s.pushed.diff_ids[..count], "{config_type} {config}");
    }
}

/// The image-spec registers two digest algorithms, SHA-256 and SHA-512.
#[tokio::test]
async fn every_document_of_an_image_may_have_a_sha512_digest() {
    let registry = FakeRegistry::start().await;
    let registries = registry.registries();
    let empty = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap();
    let wide = |bytes: &[u8]| empty.again(bytes);
    let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": wide(bytes), "size": bytes.len() });
    let tar = b"not yet unpacked".to_vec();
    let config = json!({ "architecture": HostPlatform::this().name().split('/').nth(1).unwrap(), "os": "linux",
                         "rootfs": { "type": "layers", "diff_ids": [DiffId::of(&tar)] } });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &tar)],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
                        "manifests": [descriptor(OCI_MANIFEST, &manifest)] });
    let index = index.to_string().into_bytes();
    registry.put_as(&format!("blobs/{}", wide(&tar)), tar.clone(), "application/octet-stream");
    registry.put_as(&format!("blobs/{}", wide(&config)), config, "application/octet-stream");
    registry.put_as(&format!("a/manifests/{}", wide(&manifest)), manifest.clone(), OCI_MANIFEST);
    registry.put_as(&format!("a/manifests/{}", wide(&index)), index.clone(), OCI_INDEX);
    let reference: Reference = format!("{}/a@{}", registry.host(), wide(&index)).parse().unwrap();
    let image = registries.resolve(&reference, &without()).await.unwrap();
    let digests = [&index, &manifest].map(|bytes| ManifestDigest::new(wide(bytes)));
    assert_eq!([image.index, Some(image.digest)], digests.map(Some));
    let (blob, diff_id) = (BlobDigest::new(wide(&tar)), DiffId::of(&tar));
    assert_eq!((image.layers[0].digest, image.layers[0].diff_id), (blob, diff_id));
    let blob = registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    assert!(read(blob).await.unwrap() == tar);

    registry.inject(format!("/blobs/{}", wide(&tar)), 1, Fault::Flip);
    let blob = registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    let error = read(blob).await.unwrap_err();
    assert!(error.to_string().contains("does not match its digest"), "{error}");
    registry.put_as(&format!("a/manifests/{}", wide(&manifest)), b"{}".to_vec(), OCI_MANIFEST);
    assert!(registries.resolve(&reference, &without()).await.is_err(), "other bytes");
}

#[tokio::test]
async fn an_index_without_this_platform_is_an_error_with_the_available_ones() {
    let s = fixture().await;
    let entry = descriptor(OCI_MANIFEST, b"");
    s.index(&[platform(entry.clone(), "windows/amd64"), platform(entry, "unknown/unknown")]);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::NotFound);
    assert!(words.ends_with("only for windows/amd64"), "{words}");
}

#[tokio::test]
async fn contradictory_or_unsupported_manifests_are_rejected() {
    let layer = |media_type: &str| json!([descriptor(media_type, b"x")]);
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let image = |layers: Value| {
        json!({ "schemaVersion": 2, "layers": layers,
                "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}") })
    };
    let mut both = image(layer(gzip));
    both["manifests"] = json!([]);
    let mut large = image(layer(gzip));
    large["annotations"] = json!({ "x": "y".repeat(4 << 20) });
    for (manifest, content_type, class, words) in [
        (image(layer(gzip)), "text/html", Class::Corrupt, "Content-Type"),
        (both, OCI_MANIFEST, Class::Corrupt, "both layers and manifests"),
        (image(layer(gzip)), OCI_INDEX, Class::Corrupt, "an index must have manifests"),
        (large, OCI_MANIFEST, Class::Precondition, "larger than the limit of 4.0 MiB"),
        (
            image(layer("application/vnd.oci.image.layer.v1.tar+lzma")),
            OCI_MANIFEST,
            Class::Precondition,
            "not a tar of a file system",
        ),
        (
            json!({ "schemaVersion": 1, "fsLayers": [] }),
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            Class::Precondition,
            "push the image again with a current tool",
        ),
    ] {
        let s = fixture().await;
        s.registry.put_manifest("team/tool", "1", &manifest.to_string(), content_type);
        let (found, shown) = s.refused().await;
        assert_eq!(found, class, "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.count("/blobs/"), 0, "nothing of it was fetched: {shown}");
    }
}

#[tokio::test]
async fn an_endless_manifest_is_cancelled() {
    let s = fixture().await;
    s.registry.inject("/manifests/", 1, Fault::Endless);
    assert_eq!(s.refused().await.0, Class::Precondition);
    s.registry.hung_up().await;
}

#[tokio::test]
async fn a_document_is_rejected_while_other_documents_use_the_memory_budget() {
    let mut s = fixture().await;
    let budget = Arc::new(Budget::new(0, 0, 1 << 20));
    s.registries = s.registries.with_budget(budget.clone());
    let other = budget.share();
    let resolved = async {
        let (class, words) = s.refused().await;
        assert_eq!(class, Class::Unavailable);
        assert!(
            words
                .contains("cannot read the manifest into memory: other operations hold the memory"),
            "{words}"
        );
    };
    resolved.await;
    drop(other);
    s.resolve().await.unwrap();
    assert_eq!(budget.used(), 0);
    s.registries = s.registries.with_budget(Arc::new(Budget::new(0, 0, 10)));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(words.contains("more than 10 B of memory"), "{words}");
}

#[tokio::test]
async fn an_image_with_too_many_layers_is_rejected_before_its_config_is_fetched() {
    let s = fixture().await;
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", b"x");
    let layers = vec![layer; 1_025];
    let config = descriptor("application/vnd.oci.image.config.v1+json", b"{}");
    let manifest = json!({ "schemaVersion": 2, "layers": layers, "config": config });
    s.registry.put_manifest("team/tool", "1", &manifest.to_string(), OCI_MANIFEST);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(words.contains("the image has more than 1024 layers"), "{words}");
    assert_eq!(s.count("/blobs/"), 0);
}

#[tokio::test]
async fn a_config_is_verified() {
    let s = fixture().await;
    for (misdeed, words) in [
        (Fault::Flip, "the config does not match its digest"),
        (Fault::Half, "bytes instead of"),
        (Fault::Endless, "larger than the limit of 1.0 MiB"),
    ] {
        s.registry.inject(s.pushed.config, 1, misdeed);
        let (_, shown) = s.refused().await;
        assert!(shown.contains(words), "{shown}");
    }
}

#[tokio::test]
async fn a_config_with_a_wrong_number_of_diff_ids_is_rejected() {
    let s = fixture().await;
    let other = Digest::of(b"other");
    let config = json!({ "rootfs": { "diff_ids": [other, other] } }).to_string().into_bytes();
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", b"x");
    let manifest = json!({ "schemaVersion": 2, "layers": [layer],
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config) });
    s.registry.put_blob(config);
    s.registry.put_manifest("team/tool", "1", &manifest.to_string(), OCI_MANIFEST);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt);
    assert!(words.contains("2 diff IDs for the manifest's 1 layers"), "{words}");
}

#[tokio::test]
async fn temporary_errors_are_retried() {
    let later = |seconds: &str| Fault::Respond(429, vec![("retry-after", seconds.to_owned())]);
    let s = fixture().await;
    s.registry.inject("/manifests/", 2, Fault::Respond(500, Vec::new()));
    s.registry.inject("/blobs/", 1, later("0"));
    s.registry.inject("/blobs/", 1, Fault::Truncate);
    assert!(s.resolve().await.is_ok());
    assert_eq!((s.count("/manifests/"), s.count("/blobs/")), (3, 3));

    s.registry.inject("/blobs/", 1, Fault::Respond(503, Vec::new()));
    assert!(s.read().await.unwrap() == s.tar, "also for a layer");
}

#[tokio::test]
async fn a_permanent_error_is_reported_with_its_status_and_a_fix() {
    let s = fixture().await;
    s.registry.inject("/manifests/", 4, Fault::Respond(502, Vec::new()));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(words.contains("the manifest with HTTP 502; try again later"), "{words}");
    assert_eq!(s.count("/manifests/"), 4);

    let later = Fault::Respond(429, vec![("retry-after", "3600".to_owned())]);
    s.registry.inject("/manifests/", 1, later);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(words.contains("HTTP 429; try again in 1h"), "{words}");
    assert_eq!(s.count("/manifests/"), 5, "no wait of an hour");

    s.registry.inject("/manifests/", 1, Fault::Respond(400, Vec::new()));
    assert_eq!(s.refused().await.0, Class::Precondition);
    assert_eq!(s.count("/manifests/"), 6, "a 400 is not retried");
}

#[tokio::test]
async fn a_registry_that_does_not_listen_is_unavailable() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registries =
        fake::registries(&[(&unused.to_string(), &format!("server = \"http://{unused}\""))]);
    let reference = format!("{unused}/a").parse().unwrap();
    let error = registries.resolve(&reference, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.to_string().contains("the server cannot be reached; check its name"), "{error}");
}

#[tokio::test]
async fn a_registry_with_invalid_settings_is_not_contacted() {
    let s = fixture().await;
    let (host, plain) = (s.registry.host(), format!("server = \"http://{}\"", s.registry.host()));
    let registries = fake::registries(&[(&host, &format!("{plain}\nca = 1"))]);
    let error = registries.resolve(&s.reference, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition);
    let shown = error.to_string();
    assert!(shown.contains("must fix them") && shown.contains("ca must be the name"), "{shown}");
    assert!(s.registry.requests().is_empty(), "{:?}", s.registry.requests());
}

#[tokio::test]
async fn an_anonymous_token_is_requested_once_and_cached() {
    let s = fixture().await;
    s.registry.inject("/v2/", ALWAYS, Fault::NeedsToken(String::new()));
    assert!(s.read().await.unwrap() == s.tar);
    let token = &s.registry.requests_to("/token");
    assert_eq!(token.len(), 1, "one token for manifest, config and layer");
    assert_eq!(token[0].query, "scope=repository%3Ateam%2Ftool%3Apull&service=fake");
    assert_eq!(token[0].authorization, None);
    assert!(!format!("{:?}", s.registries).contains(TOKEN));
}

#[tokio::test]
async fn a_refusal_with_or_without_a_token_is_a_denial() {
    let unauthorized = Fault::Respond(401, Vec::new());
    let basic = Fault::Respond(401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())]);
    for (misdeeds, words) in [
        (vec![Fault::NeedsToken(String::new()), unauthorized.clone()], "(HTTP 401)"),
        (vec![Fault::NeedsToken(String::new()), Fault::Respond(403, Vec::new())], "(HTTP 403)"),
        (vec![Fault::Respond(403, Vec::new())], "(HTTP 403)"),
        (vec![unauthorized], "(HTTP 401)"),
        (vec![basic], "(it requires a user name and password)"),
    ] {
        let s = fixture().await;
        for misdeed in misdeeds {
            s.registry.inject("/v2/", 1, misdeed);
        }
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Denied);
        assert!(shown.contains(words), "{shown}");
    }
}

#[tokio::test]
async fn a_token_realm_at_a_refused_address_is_not_contacted() {
    let elsewhere = FakeRegistry::start().await;
    for (realm, words) in [
        (
            "http://169.254.169.254/latest/meta-data?sig=1",
            "169.254.169.254 is a link-local address",
        ),
        (&format!("http://{}/token?sig=1", elsewhere.host()), "is a loopback address"),
        ("http://u:must-not-be-shown@10.0.0.1/", "with a user name or password"),
        ("gopher://10.0.0.1/", "by gopher"),
    ] {
        let s = fixture().await;
        s.registry.inject("/v2/", ALWAYS, Fault::NeedsToken(realm.to_owned()));
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Denied);
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.count("/v2/"), 1, "not retried");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_failing_token_service_is_unavailable_and_a_refusing_one_is_a_denial() {
    for (status, class) in [(503, Class::Unavailable), (401, Class::Denied), (404, Class::Denied)] {
        let s = fixture().await;
        s.registry.inject("/v2/", ALWAYS, Fault::NeedsToken(String::new()));
        s.registry.inject("/token", ALWAYS, Fault::Respond(status, Vec::new()));
        assert_eq!(s.refused().await.0, class, "{status}");
    }
}

#[tokio::test]
async fn a_token_service_that_never_responds_does_not_block_a_layer() {
    let s = fixture().await;
    let image = s.resolve().await.unwrap();
    let host = s.registry.host();
    let moment = Duration::from_millis(20);
    let registries = fake::with_retry(
        &[(&host, &format!("server = \"http://{host}\""))],
        RetryPolicy { first: moment, response: moment, ..RetryPolicy::default() },
    );
    s.registry.inject("/v2/", ALWAYS, Fault::NeedsToken(String::new()));
    s.registry.inject("/token", ALWAYS, Fault::Hold);
    let error = soon(registries.blob(&image, &image.layers[0], &without())).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.to_string().contains("the server cannot be reached"), "{error}");
}

fn redirect(to: String) -> Fault {
    Fault::Respond(307, vec![("location", to)])
}

#[tokio::test]
async fn a_redirect_to_blob_storage_is_followed_without_the_token() {
    let s = fixture().await;
    let storage = FakeRegistry::start().await;
    storage.put_blob(s.tar.clone());
    let server = |host: &str| format!("server = \"http://{host}\"");
    let (ours, theirs) = (s.registry.host(), storage.host());
    let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
    s.registry.inject("/v2/", 1, Fault::NeedsToken(String::new()));
    let image = registries.resolve(&s.reference, &without()).await.unwrap();
    let path = format!("/blobs/{}", s.pushed.layers[0]);
    let back = format!("http://{ours}/v2/team/tool{path}");
    s.registry.inject(&path, 1, redirect(format!("http://{theirs}{path}?sig=1")));
    storage.inject(&path, 1, redirect(back));
    let reader = registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    assert!(read(reader).await.unwrap() == s.tar);

    let (first, second) = (&s.registry.requests_to(&path)[0], &s.registry.requests_to(&path)[1]);
    assert_eq!(first.authorization, Some(format!("Bearer {TOKEN}")));
    let foreign = &storage.requests_to(&path)[0];
    assert_eq!((foreign.authorization.as_ref(), foreign.query.as_str()), (None, "sig=1"));
    assert_eq!(second.authorization, None, "not even when the storage redirects back");
}

#[tokio::test]
async fn redirects_to_loopback_and_link_local_addresses_are_not_followed() {
    let elsewhere = FakeRegistry::start().await;
    for (to, words) in [
        ("http://169.254.169.254/x?sig=1", "169.254.169.254 is a link-local address"),
        ("//169.254.169.254/x?sig=1", "169.254.169.254 is a link-local address"),
        (&format!("http://{}/x?sig=1", elsewhere.host()), " is a loopback address"),
        ("http://localhost:1/x?sig=1", " is a loopback address"),
        ("file:///etc/shadow", "by file"),
        ("http://", "the Location header is not a URL"),
    ] {
        let s = fixture().await;
        s.registry.inject("/blobs/", ALWAYS, redirect(to.to_owned()));
        let (class, shown) = s.refused().await;
        assert!(matches!(class, Class::Denied | Class::Corrupt), "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.count("/blobs/"), 1, "not retried");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_configured_host_name_does_not_allow_its_other_ports() {
    let s = fixture().await;
    let elsewhere = FakeRegistry::start().await;
    let by_name = |host: String| host.replace("127.0.0.1", "localhost");
    let host = by_name(s.registry.host());
    let registries = fake::registries(&[(&host, &format!("server = \"http://{host}\""))]);
    let reference: Reference = format!("{host}/team/tool:1").parse().unwrap();
    assert!(
        registries.resolve(&reference, &without()).await.is_ok(),
        "localhost, because it is configured"
    );
    let to = format!("http://{}/x", by_name(elsewhere.host()));
    s.registry.inject("/blobs/", 1, redirect(to));
    let error = registries.resolve(&reference, &without()).await.unwrap_err();
    assert!(error.to_string().contains(" is a loopback address"), "{error}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn the_number_of_redirects_is_limited() {
    let s = fixture().await;
    s.registry.inject("/blobs/", ALWAYS, redirect("again/blobs/".to_owned()));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("redirects more than 5 times"), "{shown}");
    assert_eq!(s.count("/blobs/"), 6);
}

#[tokio::test]
async fn a_registry_on_the_node_itself_is_contacted_only_if_configured() {
    let s = fixture().await;
    let registries = fake::registries(&[]);
    let error = registries.resolve(&s.reference, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    let words = "to allow it, add a hosts.toml with its URL to the node's registry hosts directory";
    assert!(error.to_string().contains(words), "{error}");
    assert!(s.registry.requests().is_empty());
}

#[tokio::test]
async fn a_layer_ends_without_an_error_only_if_size_and_digest_are_right() {
    let s = fixture().await;
    for (misdeed, kind, class, words) in [
        (Fault::Flip, io::ErrorKind::InvalidData, Class::Corrupt, "does not match its digest"),
        (Fault::Half, io::ErrorKind::InvalidData, Class::Corrupt, "300000 bytes instead of 600000"),
        (Fault::Endless, io::ErrorKind::InvalidData, Class::Corrupt, "bytes instead of 600000"),
    ] {
        s.registry.inject(s.pushed.layers[0], 1, misdeed.clone());
        let (found, inner, shown) = s.read_fails().await;
        assert_eq!((found, inner), (kind, class), "{misdeed:?}: {shown}");
        assert!(shown.contains(words), "{misdeed:?}: {shown}");
    }
    s.registry.hung_up().await;
}

#[tokio::test]
async fn an_empty_layer_ends_at_once() {
    let registry = FakeRegistry::start().await;
    registry.push_image("a", "1", &[Vec::new()], false);
    let registries = registry.registries();
    let image = registries.resolve(&registry.reference("a", "1"), &without()).await.unwrap();
    let reader = registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    assert_eq!(read(reader).await.unwrap(), b"");
}

#[tokio::test]
async fn a_slow_layer_does_not_delay_another_one() {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("a", "1", &[b"slow".to_vec(), b"quick".to_vec()], false);
    registry.inject(pushed.layers[0], 1, Fault::Hold);
    let registries = registry.registries();
    let image = registries.resolve(&registry.reference("a", "1"), &without()).await.unwrap();
    let fetch = async |layer: usize| {
        read(registries.blob(&image, &image.layers[layer], &without()).await.unwrap()).await
    };
    let quick_then_release = async {
        assert_eq!(fetch(1).await.unwrap(), b"quick");
        registry.release();
    };
    let (slow, ()) = tokio::join!(fetch(0), quick_then_release);
    assert_eq!(slow.unwrap(), b"slow");
}

#[tokio::test]
async fn a_missing_layer_is_an_error_before_reading() {
    let s = fixture().await;
    let image = s.resolve().await.unwrap();
    s.registry.inject("/blobs/", 1, Fault::Respond(404, Vec::new()));
    let error = s.registries.blob(&image, &image.layers[0], &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
}

#[tokio::test]
async fn dropping_the_reader_ends_the_download() {
    let s = fixture().await;
    let mut image = s.resolve().await.unwrap();
    image.layers[0].size = u64::MAX;
    s.registry.inject(s.pushed.layers[0], 1, Fault::Endless);
    let mut reader = s.registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    let reader = tokio::task::spawn_blocking(move || {
        let mut start = vec![0; 1000];
        reader.read_exact(&mut start).unwrap();
        (reader, start)
    });
    let (reader, start) = soon(reader).await.unwrap();
    assert_eq!(start, s.tar[..1000]);
    drop(reader);
    s.registry.hung_up().await;
}

#[tokio::test]
async fn a_dropped_runtime_does_not_look_like_the_end_of_a_layer() {
    let other = tokio::runtime::Runtime::new().unwrap();
    let (s, reader) = std::thread::spawn(move || {
        let (s, reader) = other.block_on(async {
            let s = fixture().await;
            let image = s.resolve().await.unwrap();
            let reader = s.registries.blob(&image, &image.layers[0], &without()).await.unwrap();
            (s, reader)
        });
        drop(other);
        (s, reader)
    })
    .join()
    .unwrap();
    // Depending on the timing, the layer may have arrived completely.
    match read(reader).await {
        Ok(bytes) => assert!(bytes == s.tar, "a clean end is the whole layer"),
        Err(error) => {
            let inner = error::find::<ImageError>(&error).unwrap();
            assert_eq!(inner.class(), Class::Unavailable, "{error}");
        }
    }
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_then_the_server() {
    let s = fixture().await;
    let (empty, wrong) = (FakeRegistry::start().await, FakeRegistry::start().await);
    wrong.push_image("team/tool", "1", std::slice::from_ref(&s.tar), false);
    wrong.inject("/v2/", ALWAYS, Fault::Header("content-type", "text/html".to_owned()));
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\ncapabilities = [\"resolve\"]",
        s.registry.host(),
        empty.host(),
        wrong.host(),
    );
    let registries = fake::registries(&[("registry.example", &text)]);
    let reference: Reference = "registry.example/team/tool:1".parse().unwrap();
    let image = registries.resolve(&reference, &without()).await.unwrap();
    assert_eq!(image.digest, s.pushed.manifest);
    let count = |registry: &FakeRegistry, part: &str| registry.requests_to(part).len();
    assert_eq!((count(&empty, "/manifests/"), count(&wrong, "/manifests/")), (1, 1));
    assert_eq!(
        (count(&empty, "/blobs/"), count(&wrong, "/blobs/")),
        (1, 0),
        "a mirror with only resolve is not pulled from"
    );
    assert_eq!(empty.requests_to("/manifests/")[0].query, "ns=registry.example");

    let missing: Reference = "registry.example/team/tool:2".parse().unwrap();
    let error = registries.resolve(&missing, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.to_string().contains(&format!("(tried before: {}: ", empty.host())), "{error}");
}

/// Starts a mirror of the fixture's registry with the same layer, and sets a client that tries it first.
async fn mirrored(s: &mut Fixture) -> FakeRegistry {
    let mirror = FakeRegistry::start().await;
    mirror.push_image("team/tool", "1", std::slice::from_ref(&s.tar), false);
    let text =
        format!("server = \"http://{}\"\n[host.\"http://{}\"]", s.registry.host(), mirror.host());
    s.registries = fake::registries(&[("registry.example", &text)]);
    s.reference = "registry.example/team/tool:1".parse().unwrap();
    mirror
}

#[tokio::test]
async fn after_a_bad_layer_of_a_mirror_the_next_pull_uses_the_server() {
    for misdeed in [Fault::Flip, Fault::Half, Fault::Truncate, Fault::Endless] {
        let mut s = fixture().await;
        let mirror = mirrored(&mut s).await;
        let layer = s.pushed.layers[0];
        mirror.inject(layer, ALWAYS, misdeed.clone());
        let (_, _, shown) = s.read_fails().await;
        assert!(shown.contains(&mirror.host()), "{misdeed:?}: {shown}");
        assert!(s.read().await.unwrap() == s.tar, "{misdeed:?}");
        let tries = if matches!(misdeed, Fault::Truncate) { 4 } else { 1 };
        let requests = (mirror.requests_to(&layer.to_string()).len(), s.count(&layer.to_string()));
        assert_eq!(requests, (tries, 1), "{misdeed:?}");
    }
}

#[tokio::test]
async fn after_an_aborted_read_from_a_mirror_the_next_pull_uses_the_server() {
    let mut s = fixture().await;
    let mirror = mirrored(&mut s).await;
    mirror.inject(s.pushed.layers[0], 1, Fault::Flip);
    let image = s.resolve().await.unwrap();
    drop(s.registries.blob(&image, &image.layers[0], &without()).await.unwrap());
    assert!(s.read().await.unwrap() == s.tar);
    assert_eq!(s.count(&s.pushed.layers[0].to_string()), 1);
}

#[tokio::test]
async fn a_suspect_mirror_is_tried_if_no_other_server_has_the_layer() {
    let mut s = fixture().await;
    let mirror = mirrored(&mut s).await;
    let layer = s.pushed.layers[0];
    mirror.inject(layer, 2, Fault::Flip);
    s.registry.inject(layer, ALWAYS, Fault::Respond(404, Vec::new()));
    s.read_fails().await;
    let (_, _, shown) = s.read_fails().await;
    let before = format!("(tried before: {}: the layer does not exist", s.registry.host());
    assert!(shown.contains(&mirror.host()) && shown.contains(&before), "{shown}");
    assert!(s.read().await.unwrap() == s.tar, "the mirror works again");
    assert!(s.read().await.unwrap() == s.tar, "the mirror is trusted again");
    assert_eq!((mirror.requests_to(&layer.to_string()).len(), s.count(&layer.to_string())), (4, 2));
}

#[tokio::test]
async fn suspect_servers_take_turns() {
    let mut s = fixture().await;
    let mirror = mirrored(&mut s).await;
    let layer = s.pushed.layers[0];
    mirror.inject(layer, ALWAYS, Fault::Flip);
    s.registry.inject(layer, 1, Fault::Half);
    for host in [mirror.host(), s.registry.host(), mirror.host()] {
        let (_, _, shown) = s.read_fails().await;
        assert!(shown.contains(&host), "{shown}");
    }
    assert!(s.read().await.unwrap() == s.tar);
}

#[test]
fn the_futures_of_pulls_are_send() {
    static ANONYMOUS: std::sync::OnceLock<Keyring> = std::sync::OnceLock::new();
    fn send<T: Send + 'static>(_: fn(&'static Registries, &'static Image) -> T) {}
    send(|registries, image| {
        registries.resolve(&image.reference, ANONYMOUS.get_or_init(Keyring::default))
    });
    send(|registries, image| {
        registries.blob(image, &image.layers[0], ANONYMOUS.get_or_init(Keyring::default))
    });
    fn reader<T: Read + Send + 'static>() {}
    reader::<BlobReader>();
}
