//! The room as a whole against a registry that misbehaves: one test a behaviour, nothing but loopback.

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
    changeset::{Compression, Format},
    fault::Class,
    image::fake::{
        self, ALWAYS, FakeRegistry, Misdeed, OCI_INDEX, OCI_MANIFEST, Pushed, TOKEN, descriptor,
        soon,
    },
    image::{error, platform::Machine},
};

/// A registry with the image `team/tool:1` of one layer, the reference to it and a client.
struct Scene {
    registry: FakeRegistry,
    registries: Registries,
    reference: Reference,
    pushed: Pushed,
    tar: Vec<u8>,
}

async fn scene() -> Scene {
    let registry = FakeRegistry::start().await;
    let tar: Vec<u8> = (0..600_000_u32).map(|i| (i % 251) as u8).collect();
    let pushed = registry.push_image("team/tool", "1", std::slice::from_ref(&tar), false);
    let registries = registry.registries();
    let reference = registry.reference("team/tool", "1");
    Scene { registry, registries, reference, pushed, tar }
}

impl Scene {
    async fn resolve(&self) -> Result<Image, ImageError> {
        soon(self.registries.resolve(&self.reference, &without())).await
    }

    /// The error of a resolve, as its class and its sentence. No secret may be in it.
    async fn refused(&self) -> (Class, String) {
        let error = self.resolve().await.expect_err("an image that should have been refused");
        let shown = format!("{error} {error:?} {:?}", self.registries);
        for secret in ["must-not-be-shown", "sig="] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(error.to_string().starts_with(&format!("image {}: ", self.reference)), "{error}");
        (error.class(), error.to_string())
    }

    /// The layer read to its end.
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
        let error = self
            .read()
            .await
            .map(|bytes| bytes.len())
            .expect_err("a layer that should have been refused");
        let inner = error::find::<ImageError>(&error).unwrap();
        (error.kind(), inner.class(), inner.to_string())
    }

    /// Puts an index under the tag.
    fn index(&self, entries: &[Value]) -> Digest {
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        self.registry.put_manifest("team/tool", "1", &index.to_string(), OCI_INDEX)
    }

    fn count(&self, part: &str) -> usize {
        self.registry.seen(part).len()
    }
}

/// More than any layer here has: a reader that gives more has lost its bound.
const TAKEN_MAX: u64 = 4 << 20;

async fn read(mut reader: BlobReader) -> io::Result<Vec<u8>> {
    let reading = move || {
        let mut bytes = Vec::new();
        let end = reader.by_ref().take(TAKEN_MAX).read_to_end(&mut bytes);
        assert!((bytes.len() as u64) < TAKEN_MAX, "a layer without an end");
        if let Err(error) = &end {
            let again = reader.read(&mut [0]).unwrap_err();
            assert_eq!(again.to_string(), error.to_string(), "an error stays an error");
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
    let s = scene().await;
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
async fn layers_come_bottom_first_repeated_and_compressed() {
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
async fn a_pinned_reference_is_asked_by_digest_and_checked() {
    let mut s = scene().await;
    let pinned = format!("{}/team/tool:9@{}", s.registry.host(), s.pushed.manifest);
    s.reference = pinned.parse().unwrap();
    assert_eq!(s.resolve().await.unwrap().digest, s.pushed.manifest);
    assert_eq!(s.count("/manifests/9"), 0, "the tag is a comment");

    s.registry.misbehave("/manifests/", 1, Misdeed::Flip);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt);
    assert!(words.contains("its manifest is not what its digest promises"), "{words}");
}

#[tokio::test]
async fn a_tag_whose_digest_header_contradicts_it_is_refused() {
    let s = scene().await;
    let other = Digest::of(b"other").to_string();
    s.registry.misbehave("/manifests/", 1, Misdeed::Header("docker-content-digest", other));
    assert_eq!(s.refused().await.0, Class::Corrupt);
}

#[tokio::test]
async fn a_missing_image_is_not_found_and_asked_for_once() {
    let mut s = scene().await;
    s.reference = s.registry.reference("team/tool", "2");
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::NotFound);
    assert!(words.contains("there is no such manifest"), "{words}");
    assert!(words.contains(&s.registry.host()), "{words}");
    assert_eq!(s.count("/manifests/2"), 1);
}

#[tokio::test]
async fn an_index_leads_to_this_machines_manifest() {
    let mut s = scene().await;
    let other = s.registry.push_image("team/tool", "other", &[b"other".to_vec()], false);
    let entry = |digest: Digest, size: usize| json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": size });
    let size = s.pushed.manifest_size;
    let index = s.index(&[
        platform(entry(other.manifest, size), "linux/made-up"),
        platform(entry(s.pushed.manifest, size), &Machine::this().name()),
    ]);
    assert_eq!(s.resolve().await.unwrap().digest, s.pushed.manifest);
    assert_eq!(s.count(&other.manifest.to_string()), 0);

    s.reference = format!("{}/team/tool@{index}", s.registry.host()).parse().unwrap();
    assert_eq!(s.resolve().await.unwrap().digest, s.pushed.manifest, "pinned to the index");

    let part = s.pushed.manifest.to_string();
    s.registry.misbehave(&part, 1, Misdeed::Flip);
    assert_eq!(s.refused().await.0, Class::Corrupt, "the manifest's bytes");
    s.registry.misbehave(&part, 1, Misdeed::Header("content-type", OCI_INDEX.to_owned()));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt, "the manifest's kind");
    assert!(words.contains("not the one that the index promises"), "{words}");
    s.index(&[platform(entry(s.pushed.manifest, size + 1), &Machine::this().name())]);
    s.reference = s.registry.reference("team/tool", "1");
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt, "the manifest's size");
    assert!(words.contains("bytes where"), "{words}");
}

/// buildx writes an index of indexes where images are joined; jib and buildpacks leave the platform to the config.
#[tokio::test]
async fn an_index_in_an_index_and_one_without_platforms_lead_to_this_machines_image() {
    let s = scene().await;
    let entry = |media_type: &str, digest: Digest, size: usize| json!({ "mediaType": media_type, "digest": digest, "size": size });
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
    let ours = Machine::this().name();
    let [mine, other] = [ours.as_str(), "windows/amd64"].map(image);
    let unsaid = |(digest, size): (Digest, usize)| entry(OCI_MANIFEST, digest, size);
    let missing = (Digest::of(b"missing"), 7);

    put(json!([unsaid(missing), unsaid(other), unsaid(mine)]));
    assert_eq!(s.resolve().await.unwrap().digest, mine.0, "the config says what it is for");
    let inner = put(json!([platform(unsaid(mine), &ours)]));
    let middle = put(json!([platform(inner.clone(), &ours)]));
    put(json!([unsaid(other), middle]));
    let image = s.resolve().await.unwrap();
    assert_eq!(image.digest, mine.0, "three deep, the outer one without a platform");
    assert_ne!(image.index, None);
    put(json!([put(json!([put(json!([put(json!([platform(unsaid(mine), &ours)]))]))]))]));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(words.contains("too deep in one another"), "{words}");
    put(json!([unsaid(other)]));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::NotFound);
    assert!(words.contains("only for windows/amd64"), "{words}");
}

/// What KEP-4639 shows, and what tools write of images without layers.
#[tokio::test]
async fn images_of_nothing_and_of_plain_files_are_taken() {
    let s = scene().await;
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

/// A digest of each algorithm that the image-spec registers.
#[tokio::test]
async fn an_image_may_be_named_by_sha512_in_every_place() {
    let registry = FakeRegistry::start().await;
    let registries = registry.registries();
    let empty = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap();
    let wide = |bytes: &[u8]| empty.again(bytes);
    let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": wide(bytes), "size": bytes.len() });
    let tar = b"not yet unpacked".to_vec();
    let config = json!({ "architecture": Machine::this().name().split('/').nth(1).unwrap(), "os": "linux",
                         "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar)] } });
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
    assert_eq!((image.index, image.digest), (Some(wide(&index)), wide(&manifest)));
    assert_eq!((image.layers[0].digest, image.layers[0].diff_id), (wide(&tar), Digest::of(&tar)));
    let blob = registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    assert!(read(blob).await.unwrap() == tar);

    registry.misbehave(format!("/blobs/{}", wide(&tar)), 1, Misdeed::Flip);
    let blob = registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    let error = read(blob).await.unwrap_err();
    assert!(error.to_string().contains("is not what its digest promises"), "{error}");
    registry.put_as(&format!("a/manifests/{}", wide(&manifest)), b"{}".to_vec(), OCI_MANIFEST);
    assert!(registries.resolve(&reference, &without()).await.is_err(), "other bytes");
}

#[tokio::test]
async fn an_index_without_this_machine_names_what_it_has() {
    let s = scene().await;
    let entry = descriptor(OCI_MANIFEST, b"");
    s.index(&[platform(entry.clone(), "windows/amd64"), platform(entry, "unknown/unknown")]);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::NotFound);
    assert!(words.ends_with("only for windows/amd64"), "{words}");
}

#[tokio::test]
async fn manifests_that_are_not_what_they_say_are_refused() {
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
        (image(layer(gzip)), OCI_INDEX, Class::Corrupt, "an index has manifests"),
        (large, OCI_MANIFEST, Class::Precondition, "larger than the 4194304 bytes"),
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
        let s = scene().await;
        s.registry.put_manifest("team/tool", "1", &manifest.to_string(), content_type);
        let (found, shown) = s.refused().await;
        assert_eq!(found, class, "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.count("/blobs/"), 0, "nothing of it was fetched: {shown}");
    }
}

#[tokio::test]
async fn an_endless_manifest_is_left() {
    let s = scene().await;
    s.registry.misbehave("/manifests/", 1, Misdeed::Endless);
    assert_eq!(s.refused().await.0, Class::Precondition);
    s.registry.hung_up().await;
}

#[tokio::test]
async fn a_document_waits_for_memory_that_others_hold() {
    let mut s = scene().await;
    let budget = Arc::new(Budget::new(0, 0, 1 << 20));
    s.registries = s.registries.within(budget.clone());
    let other = budget.share();
    let resolved = async {
        let (class, words) = s.refused().await;
        assert_eq!(class, Class::Unavailable);
        assert!(words.contains("its manifest is not read: the memory for it is taken"), "{words}");
    };
    resolved.await;
    drop(other);
    s.resolve().await.unwrap();
    assert_eq!(budget.held(), 0);
    s.registries = s.registries.within(Arc::new(Budget::new(0, 0, 10)));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(words.contains("more than 10 bytes of memory"), "{words}");
}

#[tokio::test]
async fn an_image_of_more_layers_than_any_kernel_takes_is_refused_before_its_config() {
    let s = scene().await;
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", b"x");
    let layers = vec![layer; 1_025];
    let config = descriptor("application/vnd.oci.image.config.v1+json", b"{}");
    let manifest = json!({ "schemaVersion": 2, "layers": layers, "config": config });
    s.registry.put_manifest("team/tool", "1", &manifest.to_string(), OCI_MANIFEST);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(words.contains("it has more than 1024 layers"), "{words}");
    assert_eq!(s.count("/blobs/"), 0);
}

#[tokio::test]
async fn a_config_is_checked() {
    let s = scene().await;
    for (misdeed, words) in [
        (Misdeed::Flip, "its config is not what its digest promises"),
        (Misdeed::Half, "bytes where"),
        (Misdeed::Endless, "larger than the 1048576 bytes"),
    ] {
        s.registry.misbehave(s.pushed.config, 1, misdeed);
        let (_, shown) = s.refused().await;
        assert!(shown.contains(words), "{shown}");
    }
}

#[tokio::test]
async fn a_config_with_other_diff_ids_than_layers_is_refused() {
    let s = scene().await;
    let other = Digest::of(b"other");
    let config = json!({ "rootfs": { "diff_ids": [other, other] } }).to_string().into_bytes();
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", b"x");
    let manifest = json!({ "schemaVersion": 2, "layers": [layer],
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config) });
    s.registry.put_blob(config);
    s.registry.put_manifest("team/tool", "1", &manifest.to_string(), OCI_MANIFEST);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Corrupt);
    assert!(words.contains("2 diff ids for the manifest's 1 layers"), "{words}");
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for() {
    let later = |seconds: &str| Misdeed::Answer(429, vec![("retry-after", seconds.to_owned())]);
    let s = scene().await;
    s.registry.misbehave("/manifests/", 2, Misdeed::Answer(500, Vec::new()));
    s.registry.misbehave("/blobs/", 1, later("0"));
    s.registry.misbehave("/blobs/", 1, Misdeed::Cut);
    assert!(s.resolve().await.is_ok());
    assert_eq!((s.count("/manifests/"), s.count("/blobs/")), (3, 3));

    s.registry.misbehave("/blobs/", 1, Misdeed::Answer(503, Vec::new()));
    assert!(s.read().await.unwrap() == s.tar, "a layer, too");
}

#[tokio::test]
async fn trouble_that_stays_is_told() {
    let s = scene().await;
    s.registry.misbehave("/manifests/", 4, Misdeed::Answer(502, Vec::new()));
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(words.contains("answered manifest with HTTP 502; try again later"), "{words}");
    assert_eq!(s.count("/manifests/"), 4);

    let later = Misdeed::Answer(429, vec![("retry-after", "3600".to_owned())]);
    s.registry.misbehave("/manifests/", 1, later);
    let (class, words) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(words.contains("HTTP 429; try again in 3600 s"), "{words}");
    assert_eq!(s.count("/manifests/"), 5, "an hour is not waited for");

    s.registry.misbehave("/manifests/", 1, Misdeed::Answer(400, Vec::new()));
    assert_eq!(s.refused().await.0, Class::Precondition);
    assert_eq!(s.count("/manifests/"), 6, "a 4xx is not asked again");
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registries =
        fake::registries(&[(&nobody.to_string(), &format!("server = \"http://{nobody}\""))]);
    let reference = format!("{nobody}/a").parse().unwrap();
    let error = registries.resolve(&reference, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.to_string().contains("it cannot be reached; check its name"), "{error}");
}

#[tokio::test]
async fn a_registry_whose_settings_cannot_be_used_is_not_asked() {
    let s = scene().await;
    let (host, plain) = (s.registry.host(), format!("server = \"http://{}\"", s.registry.host()));
    let registries = fake::registries(&[(&host, &format!("{plain}\nca = 1"))]);
    let error = registries.resolve(&s.reference, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition);
    let shown = error.to_string();
    assert!(shown.contains("must mend them") && shown.contains("ca must be the name"), "{shown}");
    assert!(s.registry.requests().is_empty(), "{:?}", s.registry.requests());
}

#[tokio::test]
async fn an_anonymous_token_is_got_and_kept() {
    let s = scene().await;
    s.registry.misbehave("/v2/", ALWAYS, Misdeed::NeedsToken(String::new()));
    assert!(s.read().await.unwrap() == s.tar);
    let token = &s.registry.seen("/token");
    assert_eq!(token.len(), 1, "one token for manifest, config and layer");
    assert_eq!(token[0].query, "scope=repository%3Ateam%2Ftool%3Apull&service=fake");
    assert_eq!(token[0].authorization, None);
    assert!(!format!("{:?}", s.registries).contains(TOKEN));
}

#[tokio::test]
async fn a_refusal_after_the_token_is_a_denial() {
    let unauthorized = Misdeed::Answer(401, Vec::new());
    let basic = Misdeed::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())]);
    for (misdeeds, words) in [
        (vec![Misdeed::NeedsToken(String::new()), unauthorized.clone()], "(HTTP 401)"),
        (vec![Misdeed::NeedsToken(String::new()), Misdeed::Answer(403, Vec::new())], "(HTTP 403)"),
        (vec![Misdeed::Answer(403, Vec::new())], "(HTTP 403)"),
        (vec![unauthorized], "(HTTP 401)"),
        (vec![basic], "(it asks for a user name and password)"),
    ] {
        let s = scene().await;
        for misdeed in misdeeds {
            s.registry.misbehave("/v2/", 1, misdeed);
        }
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Denied);
        assert!(shown.contains(words), "{shown}");
    }
}

#[tokio::test]
async fn a_token_service_is_not_followed_everywhere() {
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
        let s = scene().await;
        s.registry.misbehave("/v2/", ALWAYS, Misdeed::NeedsToken(realm.to_owned()));
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Denied);
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.count("/v2/"), 1, "not asked again");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_token_service_in_trouble_is_unavailable_and_a_refusing_one_a_denial() {
    for (status, class) in [(503, Class::Unavailable), (401, Class::Denied), (404, Class::Denied)] {
        let s = scene().await;
        s.registry.misbehave("/v2/", ALWAYS, Misdeed::NeedsToken(String::new()));
        s.registry.misbehave("/token", ALWAYS, Misdeed::Answer(status, Vec::new()));
        assert_eq!(s.refused().await.0, class, "{status}");
    }
}

#[tokio::test]
async fn a_token_that_never_comes_does_not_hold_a_layer() {
    let s = scene().await;
    let image = s.resolve().await.unwrap();
    let host = s.registry.host();
    let moment = Duration::from_millis(20);
    let registries = fake::paced(
        &[(&host, &format!("server = \"http://{host}\""))],
        Pace { first: moment, answer: moment, ..Pace::default() },
    );
    s.registry.misbehave("/v2/", ALWAYS, Misdeed::NeedsToken(String::new()));
    s.registry.misbehave("/token", ALWAYS, Misdeed::Hold);
    let error = soon(registries.blob(&image, &image.layers[0], &without())).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.to_string().contains("it cannot be reached"), "{error}");
}

fn redirect(to: String) -> Misdeed {
    Misdeed::Answer(307, vec![("location", to)])
}

#[tokio::test]
async fn a_blob_is_followed_to_its_storage_without_the_token() {
    let s = scene().await;
    let storage = FakeRegistry::start().await;
    storage.put_blob(s.tar.clone());
    let server = |host: &str| format!("server = \"http://{host}\"");
    let (ours, theirs) = (s.registry.host(), storage.host());
    let registries = fake::registries(&[(&ours, &server(&ours)), (&theirs, &server(&theirs))]);
    s.registry.misbehave("/v2/", 1, Misdeed::NeedsToken(String::new()));
    let image = registries.resolve(&s.reference, &without()).await.unwrap();
    let path = format!("/blobs/{}", s.pushed.layers[0]);
    let back = format!("http://{ours}/v2/team/tool{path}");
    s.registry.misbehave(&path, 1, redirect(format!("http://{theirs}{path}?sig=1")));
    storage.misbehave(&path, 1, redirect(back));
    let reader = registries.blob(&image, &image.layers[0], &without()).await.unwrap();
    assert!(read(reader).await.unwrap() == s.tar);

    let (first, second) = (&s.registry.seen(&path)[0], &s.registry.seen(&path)[1]);
    assert_eq!(first.authorization, Some(format!("Bearer {TOKEN}")));
    let foreign = &storage.seen(&path)[0];
    assert_eq!((foreign.authorization.as_ref(), foreign.query.as_str()), (None, "sig=1"));
    assert_eq!(second.authorization, None, "not even when it is sent back");
}

#[tokio::test]
async fn redirects_to_the_node_or_its_link_are_not_followed() {
    let elsewhere = FakeRegistry::start().await;
    for (to, words) in [
        ("http://169.254.169.254/x?sig=1", "169.254.169.254 is a link-local address"),
        ("//169.254.169.254/x?sig=1", "169.254.169.254 is a link-local address"),
        (&format!("http://{}/x?sig=1", elsewhere.host()), " is a loopback address"),
        ("http://localhost:1/x?sig=1", " is a loopback address"),
        ("file:///etc/shadow", "by file"),
        ("http://", "Location is not a URL"),
    ] {
        let s = scene().await;
        s.registry.misbehave("/blobs/", ALWAYS, redirect(to.to_owned()));
        let (class, shown) = s.refused().await;
        assert!(matches!(class, Class::Denied | Class::Corrupt), "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.count("/blobs/"), 1, "not asked again");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_configured_name_opens_no_other_port() {
    let s = scene().await;
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
    s.registry.misbehave("/blobs/", 1, redirect(to));
    let error = registries.resolve(&reference, &without()).await.unwrap_err();
    assert!(error.to_string().contains(" is a loopback address"), "{error}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn redirects_come_to_an_end() {
    let s = scene().await;
    s.registry.misbehave("/blobs/", ALWAYS, redirect("again/blobs/".to_owned()));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("redirects more than 5 times"), "{shown}");
    assert_eq!(s.count("/blobs/"), 6);
}

#[tokio::test]
async fn a_registry_on_the_node_itself_is_contacted_only_where_configured() {
    let s = scene().await;
    let registries = fake::registries(&[]);
    let error = registries.resolve(&s.reference, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    assert!(error.to_string().contains("only if the node's registry hosts folder"), "{error}");
    assert!(s.registry.requests().is_empty());
}

#[tokio::test]
async fn a_layer_ends_cleanly_only_when_it_is_what_was_promised() {
    let s = scene().await;
    for (misdeed, kind, class, words) in [
        (Misdeed::Flip, io::ErrorKind::InvalidData, Class::Corrupt, "not what its digest promises"),
        (Misdeed::Half, io::ErrorKind::InvalidData, Class::Corrupt, "300000 bytes where 600000"),
        (Misdeed::Endless, io::ErrorKind::InvalidData, Class::Corrupt, "bytes where 600000"),
    ] {
        s.registry.misbehave(s.pushed.layers[0], 1, misdeed.clone());
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
async fn a_slow_layer_does_not_hold_up_another() {
    let registry = FakeRegistry::start().await;
    let pushed = registry.push_image("a", "1", &[b"slow".to_vec(), b"quick".to_vec()], false);
    registry.misbehave(pushed.layers[0], 1, Misdeed::Hold);
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
async fn a_layer_that_is_gone_is_told_before_reading() {
    let s = scene().await;
    let image = s.resolve().await.unwrap();
    s.registry.misbehave("/blobs/", 1, Misdeed::Answer(404, Vec::new()));
    let error = s.registries.blob(&image, &image.layers[0], &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
}

#[tokio::test]
async fn dropping_the_reader_ends_the_download() {
    let s = scene().await;
    let mut image = s.resolve().await.unwrap();
    image.layers[0].size = u64::MAX;
    s.registry.misbehave(s.pushed.layers[0], 1, Misdeed::Endless);
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
async fn a_runtime_that_goes_away_does_not_look_like_an_end() {
    let other = tokio::runtime::Runtime::new().unwrap();
    let (s, reader) = std::thread::spawn(move || {
        let (s, reader) = other.block_on(async {
            let s = scene().await;
            let image = s.resolve().await.unwrap();
            let reader = s.registries.blob(&image, &image.layers[0], &without()).await.unwrap();
            (s, reader)
        });
        drop(other);
        (s, reader)
    })
    .join()
    .unwrap();
    // Whether all of it had arrived by then is chance.
    match read(reader).await {
        Ok(bytes) => assert!(bytes == s.tar, "a clean end is the whole layer"),
        Err(error) => {
            let inner = error::find::<ImageError>(&error).unwrap();
            assert_eq!(inner.class(), Class::Unavailable, "{error}");
        }
    }
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_then_the_server() {
    let s = scene().await;
    let (empty, wrong) = (FakeRegistry::start().await, FakeRegistry::start().await);
    wrong.push_image("team/tool", "1", std::slice::from_ref(&s.tar), false);
    wrong.misbehave("/v2/", ALWAYS, Misdeed::Header("content-type", "text/html".to_owned()));
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
    let asked = |registry: &FakeRegistry, part: &str| registry.seen(part).len();
    assert_eq!((asked(&empty, "/manifests/"), asked(&wrong, "/manifests/")), (1, 1));
    assert_eq!(
        (asked(&empty, "/blobs/"), asked(&wrong, "/blobs/")),
        (1, 0),
        "resolve alone is no pull"
    );
    assert_eq!(empty.seen("/manifests/")[0].query, "ns=registry.example");

    let missing: Reference = "registry.example/team/tool:2".parse().unwrap();
    let error = registries.resolve(&missing, &without()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.to_string().contains(&format!("(before it: {}: ", empty.host())), "{error}");
}

/// A mirror of the scene's registry that has the same layer, and a client that asks it first.
async fn mirrored(s: &mut Scene) -> FakeRegistry {
    let mirror = FakeRegistry::start().await;
    mirror.push_image("team/tool", "1", std::slice::from_ref(&s.tar), false);
    let text =
        format!("server = \"http://{}\"\n[host.\"http://{}\"]", s.registry.host(), mirror.host());
    s.registries = fake::registries(&[("registry.example", &text)]);
    s.reference = "registry.example/team/tool:1".parse().unwrap();
    mirror
}

#[tokio::test]
async fn a_mirrors_bad_layer_is_had_from_the_server_next_time() {
    for misdeed in [Misdeed::Flip, Misdeed::Half, Misdeed::Cut, Misdeed::Endless] {
        let mut s = scene().await;
        let mirror = mirrored(&mut s).await;
        let layer = s.pushed.layers[0];
        mirror.misbehave(layer, ALWAYS, misdeed.clone());
        let (_, _, shown) = s.read_fails().await;
        assert!(shown.contains(&mirror.host()), "{misdeed:?}: {shown}");
        assert!(s.read().await.unwrap() == s.tar, "{misdeed:?}");
        let tries = if matches!(misdeed, Misdeed::Cut) { 4 } else { 1 };
        let asked = (mirror.seen(&layer.to_string()).len(), s.count(&layer.to_string()));
        assert_eq!(asked, (tries, 1), "{misdeed:?}");
    }
}

#[tokio::test]
async fn a_layer_that_is_left_early_is_had_from_the_server_next_time() {
    let mut s = scene().await;
    let mirror = mirrored(&mut s).await;
    mirror.misbehave(s.pushed.layers[0], 1, Misdeed::Flip);
    let image = s.resolve().await.unwrap();
    drop(s.registries.blob(&image, &image.layers[0], &without()).await.unwrap());
    assert!(s.read().await.unwrap() == s.tar);
    assert_eq!(s.count(&s.pushed.layers[0].to_string()), 1);
}

#[tokio::test]
async fn a_mirror_in_doubt_is_asked_where_nobody_else_gives_the_layer() {
    let mut s = scene().await;
    let mirror = mirrored(&mut s).await;
    let layer = s.pushed.layers[0];
    mirror.misbehave(layer, 2, Misdeed::Flip);
    s.registry.misbehave(layer, ALWAYS, Misdeed::Answer(404, Vec::new()));
    s.read_fails().await;
    let (_, _, shown) = s.read_fails().await;
    let before = format!("(before it: {}: there is no such layer", s.registry.host());
    assert!(shown.contains(&mirror.host()) && shown.contains(&before), "{shown}");
    assert!(s.read().await.unwrap() == s.tar, "the mirror has mended");
    assert!(s.read().await.unwrap() == s.tar, "and is trusted again");
    assert_eq!((mirror.seen(&layer.to_string()).len(), s.count(&layer.to_string())), (4, 2));
}

#[tokio::test]
async fn servers_in_doubt_take_turns() {
    let mut s = scene().await;
    let mirror = mirrored(&mut s).await;
    let layer = s.pushed.layers[0];
    mirror.misbehave(layer, ALWAYS, Misdeed::Flip);
    s.registry.misbehave(layer, 1, Misdeed::Half);
    for host in [mirror.host(), s.registry.host(), mirror.host()] {
        let (_, _, shown) = s.read_fails().await;
        assert!(shown.contains(&host), "{shown}");
    }
    assert!(s.read().await.unwrap() == s.tar);
}

#[test]
fn what_the_rooms_above_await_can_move_between_threads() {
    static NOBODY: std::sync::OnceLock<Keyring> = std::sync::OnceLock::new();
    fn send<T: Send + 'static>(_: fn(&'static Registries, &'static Image) -> T) {}
    send(|registries, image| {
        registries.resolve(&image.reference, NOBODY.get_or_init(Keyring::default))
    });
    send(|registries, image| {
        registries.blob(image, &image.layers[0], NOBODY.get_or_init(Keyring::default))
    });
    fn reader<T: Read + Send + 'static>() {}
    reader::<BlobReader>();
}
