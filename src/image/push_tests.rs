//! Tests of pushes apart from uploads: secrets, mounts, manifests, deletes, hosts files.

use std::{
    io::{Read, Write},
    sync::LazyLock,
};

use serde_json::{Value, json};

use super::{
    BlobReader, ImageError, Keyring, Registries, Repository,
    fake::{
        self, ALWAYS, FakeRegistry, Fault, IDENTITY, OCI_MANIFEST, Scheme, TOKEN, descriptor, soon,
    },
};
use crate::{
    digest::{BlobDigest, Digest, ManifestDigest},
    error::Class,
    media_type::Format,
};

const PASSWORD: &str = "password-that-must-not-be-shown";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A registry with the repository `team/base`, which has one layer. `team/ws`, the target of pushes, does not exist
/// yet.
struct Fixture {
    registry: FakeRegistry,
    registries: Registries,
    to: Repository,
    base: Repository,
    layer: BlobDigest,
    tar: Vec<u8>,
}

async fn fixture() -> Fixture {
    let registry = FakeRegistry::start().await;
    let registries = registry.registries();
    let (to, base) = (place(&registry, "team/ws"), place(&registry, "team/base"));
    let tar: Vec<u8> = (0..300_000_u32).map(|i| (i % 241) as u8).collect();
    let s = Fixture { layer: BlobDigest::of(&tar), registry, registries, to, base, tar };
    s.upload(&s.base, &s.tar, &Keyring::default()).await.unwrap();
    s
}

fn place(registry: &FakeRegistry, repository: &str) -> Repository {
    format!("{}/{repository}", registry.host()).parse().unwrap()
}

impl Fixture {
    async fn upload(
        &self,
        to: &Repository,
        bytes: &[u8],
        keyring: &Keyring,
    ) -> Result<BlobDigest, ImageError> {
        upload(&self.registries, to, bytes, keyring).await
    }

    async fn tag(&self, manifest: &Value, keyring: &Keyring) -> Result<ManifestDigest, ImageError> {
        let text = manifest.to_string();
        let putting = self.registries.push_manifest(
            &self.to,
            "snap-1",
            OCI_MANIFEST,
            text.as_bytes(),
            keyring,
        );
        soon(putting).await
    }

    async fn mount(&self, keyring: &Keyring) -> bool {
        let mounting = self.registries.mount_blob(&self.to, &self.layer, &self.base, keyring);
        soon(mounting).await.unwrap()
    }

    async fn delete(
        &self,
        manifest: &ManifestDigest,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        soon(self.registries.delete_manifest(&self.to, manifest, keyring)).await
    }

    async fn has(&self, manifest: &ManifestDigest, keyring: &Keyring) -> Result<bool, ImageError> {
        soon(self.registries.has_manifest(&self.to, manifest, keyring)).await
    }

    /// Pushes the image `team/ws:snap-1` with that layer, and returns its manifest's digest.
    async fn push(
        &self,
        media_type: &str,
        keyring: &Keyring,
    ) -> Result<ManifestDigest, ImageError> {
        let config = json!({ "rootfs": { "diff_ids": [self.layer] } }).to_string();
        self.upload(&self.to, &self.tar, keyring).await?;
        self.upload(&self.to, config.as_bytes(), keyring).await?;
        self.tag(&manifest(config.as_bytes(), &[(media_type, &self.tar)]), keyring).await
    }

    fn refused<T>(&self, done: Result<T, ImageError>) -> (Class, String) {
        let error = done.err().expect("the push must be refused");
        let shown = format!("{error} {error:?} {:?}", self.registries);
        assert!(!shown.contains("must-not-be-shown"), "{shown}");
        (error.class(), error.to_string())
    }
}

pub(super) async fn upload(
    registries: &Registries,
    to: &Repository,
    bytes: &[u8],
    keyring: &Keyring,
) -> Result<BlobDigest, ImageError> {
    let (digest, mut file) = (BlobDigest::of(bytes), tempfile::tempfile().unwrap());
    file.write_all(bytes).unwrap();
    let size = bytes.len() as u64;
    soon(registries.push_blob(to, &digest, size, &file, keyring, &|_| ())).await.map(|()| digest)
}

pub(super) fn manifest(config: &[u8], layers: &[(&str, &[u8])]) -> Value {
    let layers: Vec<_> = layers.iter().map(|(kind, bytes)| descriptor(kind, bytes)).collect();
    json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
            "config": descriptor(CONFIG, config) })
}

fn respond(status: u16) -> Fault {
    Fault::Respond(status, Vec::new())
}

pub(super) async fn read(mut blob: BlobReader) -> Vec<u8> {
    let reading = move || {
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map(|_| bytes)
    };
    soon(tokio::task::spawn_blocking(reading)).await.unwrap().unwrap()
}

pub(super) const NATIVE: &str = "application/vnd.ovl-csi.layer.v1.native.tar";
const PORTABLE: &str = "application/vnd.oci.image.layer.v1.tar";

#[tokio::test]
async fn a_pushed_image_can_be_pulled() {
    for (media_type, format) in [(NATIVE, Format::Native), (PORTABLE, Format::Portable)] {
        let (s, anonymous) = (fixture().await, Keyring::default());
        let digest = s.push(media_type, &anonymous).await.unwrap();
        assert_eq!(
            s.push(media_type, &anonymous).await.unwrap(),
            digest,
            "a second push changes nothing"
        );
        for reference in [s.to.at(&digest), format!("{}:snap-1", s.to).parse().unwrap()] {
            let image = s.registries.resolve(&reference, &anonymous).await.unwrap();
            assert_eq!((image.digest, image.layers[0].format), (digest, format));
            assert_eq!(image.config, json!({ "rootfs": { "diff_ids": [s.layer] } }).to_string());
            let blob = s.registries.blob(&image, &image.layers[0], &anonymous).await.unwrap();
            assert!(read(blob).await == s.tar);
        }
    }
}

#[tokio::test]
async fn a_blob_is_pulled_from_a_repository_without_an_image() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    let size = s.tar.len() as u64;
    s.registry.inject(s.layer, 1, Fault::Truncate);
    let blob = s.registries.blob_in(&s.base, &s.layer, size, &anonymous).await.unwrap();
    assert!(read(blob).await == s.tar, "resumed where it broke");
    let gone = s.registries.blob_in(&s.to, &s.layer, size, &anonymous).await;
    assert_eq!(s.refused(gone).0, Class::NotFound);

    s.registry.protect("team/base", Scheme::Bearer, "u", PASSWORD);
    let keyring = s.registry.keyring("u", PASSWORD);
    let blob = s.registries.blob_in(&s.base, &s.layer, size, &keyring).await.unwrap();
    assert_eq!([blob.access().clone()], keyring.accesses(&s.base.at(&ManifestDigest::of(b"")))[..]);
    assert!(read(blob).await == s.tar);
}

#[tokio::test]
async fn a_blob_exists_only_in_its_own_repository() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    assert!(s.registries.has_blob(&s.base, &s.layer, &anonymous).await.unwrap());
    assert!(!s.registries.has_blob(&s.to, &s.layer, &anonymous).await.unwrap());
    s.registry.inject("HEAD", 3, respond(502));
    assert!(s.registries.has_blob(&s.base, &s.layer, &anonymous).await.unwrap());
    s.registry.inject("HEAD", ALWAYS, respond(502));
    let (class, shown) = s.refused(s.registries.has_blob(&s.base, &s.layer, &anonymous).await);
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains("the blob with HTTP 502; try again later"), "{shown}");
}

#[tokio::test]
async fn a_blob_is_mounted_or_the_upload_that_starts_instead_is_cancelled() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    assert!(s.mount(&anonymous).await);
    assert!(s.registry.blob("team/ws", &s.layer).unwrap() == s.tar);
    assert!(s.mount(&anonymous).await, "a second mount changes nothing");

    for misdeed in [Fault::NoMount, respond(405), respond(404), respond(403), respond(401)] {
        let s = fixture().await;
        s.registry.inject("POST", ALWAYS, misdeed.clone());
        assert!(!s.mount(&anonymous).await, "{misdeed:?}");
        assert_eq!((s.registry.blob("team/ws", &s.layer), s.registry.uploads()), (None, 0));
    }
    let s = fixture().await;
    s.registry.inject("POST", 1, respond(503));
    s.registry.inject("POST", 1, Fault::NoMount);
    s.registry.inject("DELETE", 1, respond(405));
    assert!(!s.mount(&anonymous).await);
    assert_eq!(s.registry.uploads(), 1, "a failed cancel is ignored");

    let elsewhere: Repository = "r.io/team/base".parse().unwrap();
    let before = s.registry.requests();
    assert!(!s.registries.mount_blob(&s.to, &s.layer, &elsewhere, &anonymous).await.unwrap());
    assert_eq!(s.registry.requests(), before, "a mount from another registry is not possible");
    s.registry.inject("POST", ALWAYS, respond(500));
    let down = s.registries.mount_blob(&s.to, &s.layer, &s.base, &anonymous).await;
    assert_eq!(s.refused(down).0, Class::Unavailable);
}

#[tokio::test]
async fn a_mount_requests_a_token_for_both_repositories() {
    let s = fixture().await;
    for repository in ["team/ws", "team/base"] {
        s.registry.protect(repository, Scheme::Bearer, "u", PASSWORD);
    }
    assert!(s.mount(&s.registry.keyring("u", PASSWORD)).await);
    let query = "scope=repository%3Ateam%2Fws%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull\
                 &service=fake";
    assert_eq!(s.registry.requests_to("/token")[0].query, query);

    let s = fixture().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    s.registry.protect("team/base", Scheme::Bearer, "v", PASSWORD);
    assert!(!s.mount(&s.registry.keyring("u", PASSWORD)).await, "u may not read team/base");
    assert_eq!(s.registry.uploads(), 0);
}

#[tokio::test]
async fn a_manifest_is_accepted_once_its_blobs_exist() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    let early = manifest(b"{}", &[(PORTABLE, &s.tar)]);
    let (class, shown) = s.refused(s.tag(&early, &anonymous).await);
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("the manifest with HTTP 400"), "{shown}");

    for misdeed in
        [respond(503), Fault::Lost, Fault::Respond(429, vec![("retry-after", "0".to_owned())])]
    {
        s.registry.inject("PUT", 1, misdeed);
        let digest = s.push(PORTABLE, &anonymous).await.unwrap();
        let (content_type, text) = s.registry.manifest("team/ws", "snap-1").unwrap();
        assert_eq!((content_type.as_str(), ManifestDigest::of(&text)), (OCI_MANIFEST, digest));
    }
    let empty = json!({ "schemaVersion": 2 });
    let other = Digest::of(b"other").to_string();
    s.registry.inject("/manifests/", 1, Fault::Header("docker-content-digest", other));
    let (class, shown) = s.refused(s.tag(&empty, &anonymous).await);
    assert_eq!(class, Class::Corrupt);
    assert!(shown.contains("the manifest does not match its digest"), "{shown}");
    s.registry.inject(
        "/manifests/",
        1,
        Fault::Header("docker-content-digest", "sha512:00".to_owned()),
    );
    assert!(s.tag(&empty, &anonymous).await.is_ok(), "a digest of an unknown algorithm is ignored");
}

#[tokio::test]
async fn an_invalid_tag_or_a_manifest_that_is_too_large_is_not_sent() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    let before = s.registry.requests();
    for tag in ["", "../x", "a/b", "a?b", ".a", "sha256:00"] {
        let done = s.registries.push_manifest(&s.to, tag, OCI_MANIFEST, b"{}", &anonymous).await;
        let (class, shown) = s.refused(done);
        assert_eq!(class, Class::Precondition);
        assert!(shown.contains("the tag to push is not a valid tag"), "{tag}: {shown}");
    }
    let large = json!({ "annotations": { "x": "y".repeat(4 << 20) } });
    let (class, shown) = s.refused(s.tag(&large, &anonymous).await);
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("larger than the limit of 4.0 MiB"), "{shown}");
    assert_eq!(s.registry.requests(), before);
}

#[tokio::test]
async fn a_push_to_a_repository_that_must_be_created_first_is_an_error() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    s.registry.inject("team/ws", ALWAYS, respond(404));
    for done in [s.push(PORTABLE, &anonymous).await, s.tag(&json!({}), &anonymous).await] {
        let (class, shown) = s.refused(done);
        assert_eq!(class, Class::Precondition);
        assert!(shown.contains("the repository does not exist at the registry"), "{shown}");
    }
}

#[tokio::test]
async fn a_manifest_is_missing_only_if_the_registry_says_so() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    let manifest = s.push(PORTABLE, &anonymous).await.unwrap();
    assert!(s.has(&manifest, &anonymous).await.unwrap());
    let request = s.registry.requests_to(&format!("/manifests/{manifest}")).pop().unwrap();
    let accept = request.headers["accept"].to_str().unwrap();
    assert_eq!(request.method, "HEAD");
    assert!(accept.contains("application/vnd.oci.image.manifest.v1+json"), "{accept}");
    assert!(!s.has(&ManifestDigest::of(b"another"), &anonymous).await.unwrap());

    s.registry.inject("HEAD", 3, respond(502));
    assert!(s.has(&manifest, &anonymous).await.unwrap(), "it is tried again");
    s.registry.inject("HEAD", ALWAYS, respond(502));
    assert_eq!(s.refused(s.has(&manifest, &anonymous).await).0, Class::Unavailable);

    let s = fixture().await;
    let manifest = s.push(PORTABLE, &anonymous).await.unwrap();
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    assert_eq!(s.refused(s.has(&manifest, &anonymous).await).0, Class::Denied);
    assert_eq!(
        s.refused(s.has(&manifest, &s.registry.keyring("u", "wrong")).await).0,
        Class::Denied
    );
    assert!(s.has(&manifest, &s.registry.keyring("u", PASSWORD)).await.unwrap());
}

#[tokio::test]
async fn a_manifest_is_deleted_if_the_registry_supports_it() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    let digest = s.push(PORTABLE, &anonymous).await.unwrap();
    for status in [405, 501, 400] {
        s.registry.inject("DELETE", 1, respond(status));
        assert!(!s.delete(&digest, &anonymous).await.unwrap(), "{status}");
    }
    s.registry.inject("DELETE", 1, respond(503));
    s.registry.inject("DELETE", 1, Fault::Lost);
    assert!(s.delete(&digest, &anonymous).await.unwrap());
    assert_eq!(s.registry.manifest("team/ws", "snap-1"), None);
    assert!(s.delete(&digest, &anonymous).await.unwrap(), "a second delete changes nothing");
    s.registry.inject("DELETE", 1, respond(403));
    assert_eq!(s.refused(s.delete(&digest, &anonymous).await).0, Class::Denied);
}

#[tokio::test]
async fn a_push_to_a_private_repository_needs_its_secret() {
    for scheme in [Scheme::Basic, Scheme::Bearer] {
        let s = fixture().await;
        s.registry.protect("team/ws", scheme, "u", PASSWORD);
        let (class, shown) = s.refused(s.push(PORTABLE, &Keyring::default()).await);
        assert_eq!(class, Class::Denied);
        assert!(shown.contains("does not allow anonymous pushes to this repository"), "{shown}");
        assert!(shown.contains("(pushSecretName)"), "{shown}");
        let (class, shown) = s.refused(s.push(PORTABLE, &s.registry.keyring("u", "wrong")).await);
        assert_eq!(class, Class::Denied);
        assert!(shown.contains("that they may push to this repository"), "{shown}");
        let elsewhere =
            fake::keyring(&json!({ "r.io": { "username": "u", "password": PASSWORD } }));
        assert_eq!(s.refused(s.push(PORTABLE, &elsewhere).await).0, Class::Denied);

        let keyring = s.registry.keyring("u", "wrong").and(&s.registry.keyring("u", PASSWORD));
        let digest = s.push(PORTABLE, &keyring).await.unwrap();
        assert!(s.delete(&digest, &keyring).await.unwrap(), "{scheme:?}");
        assert_eq!(s.registry.manifest("team/ws", "snap-1"), None);
    }
}

#[tokio::test]
async fn pull_push_and_delete_use_different_tokens() {
    let s = fixture().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    let identity = fake::keyring(&json!({ s.registry.host(): { "identitytoken": IDENTITY } }));
    for keyring in [s.registry.keyring("u", PASSWORD), identity] {
        let before = s.registry.requests_to("/token").len();
        let digest = s.push(PORTABLE, &keyring).await.unwrap();
        s.registries.resolve(&s.to.at(&digest), &keyring).await.unwrap();
        s.push(PORTABLE, &keyring).await.unwrap();
        assert!(s.delete(&digest, &keyring).await.unwrap());
        let requests = &s.registry.requests_to("/token")[before..];
        let scope = |may: &str| format!("scope=repository%3Ateam%2Fws%3A{may}&");
        let scopes = [scope("pull%2Cpush"), scope("pull"), scope("delete")];
        let texts = requests.iter().map(|request| format!("{}&{}", request.query, request.body));
        assert!(texts.zip(&scopes).all(|(text, scope)| text.contains(scope)), "{requests:?}");
        assert_eq!(requests.len(), 3, "each token is requested once");
    }
    assert!(!format!("{:?}", s.registries).contains(TOKEN));
}

#[tokio::test]
async fn a_push_goes_to_a_mirror_only_if_its_capabilities_include_push() {
    let (s, mirror) = (fixture().await, FakeRegistry::start().await);
    let (ours, theirs) = (s.registry.host(), mirror.host());
    let to: Repository = "registry.example/team/ws".parse().unwrap();
    s.registry.protect("team/ws", Scheme::Basic, "u", PASSWORD);
    mirror.protect("team/ws", Scheme::Basic, "m", "mirrors");
    let keyring = fake::keyring(&json!({
        "registry.example": { "username": "u", "password": PASSWORD },
        &theirs: { "username": "m", "password": "mirrors" },
    }));
    for (capabilities, goes_there) in [
        ("", false),
        ("capabilities = [\"pull\", \"resolve\"]", false),
        ("capabilities = [\"push\"]", true),
    ] {
        let text =
            format!("server = \"http://{ours}\"\n[host.\"http://{theirs}\"]\n{capabilities}");
        let registries = fake::registries(&[("registry.example", &text)]);
        let blob = upload(&registries, &to, capabilities.as_bytes(), &keyring).await.unwrap();
        let has = |at: &FakeRegistry| at.blob("team/ws", &blob).is_some();
        assert_eq!((has(&s.registry), has(&mirror)), (!goes_there, goes_there), "{capabilities}");
    }
    let queries = mirror.requests_to("/blobs/uploads/").into_iter().map(|request| request.query);
    assert_eq!(queries.take(1).collect::<Vec<_>>(), ["ns=registry.example"]);

    // After a refusal of one server no other is tried: all parts of a push must be at one server.
    let text = format!(
        "server = \"http://{ours}\"\n[host.\"http://{theirs}\"]\ncapabilities = [\"push\"]"
    );
    let registries = fake::registries(&[("registry.example", &text)]);
    mirror.inject("POST", ALWAYS, respond(500));
    let (class, shown) = s.refused(upload(&registries, &to, b"x", &keyring).await);
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains(&theirs) && !shown.contains(&ours), "{shown}");

    let registries = fake::registries(&[(
        "registry.example",
        &format!("server = \"http://{ours}\"\ncapabilities = [\"pull\"]"),
    )]);
    let (class, shown) = s.refused(upload(&registries, &to, b"x", &keyring).await);
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("no server of the registry accepts pushes"), "{shown}");
}

#[tokio::test]
async fn a_registry_on_the_node_itself_is_pushed_to_only_if_configured() {
    let s = fixture().await;
    let before = s.registry.requests();
    let registries = fake::registries(&[]);
    let (class, shown) = s.refused(upload(&registries, &s.to, b"x", &Keyring::default()).await);
    assert_eq!(class, Class::Denied);
    assert!(shown.contains("to allow it, add a hosts.toml"), "{shown}");
    assert_eq!(s.registry.requests(), before);
}

#[tokio::test]
async fn a_config_that_is_not_utf8_is_rejected() {
    let (s, anonymous) = (fixture().await, Keyring::default());
    let mut config =
        format!("{{\"rootfs\":{{\"diff_ids\":[\"{}\"]}},\"x\":\"?\"}}", s.layer).into_bytes();
    let at = config.iter().position(|byte| *byte == b'?').unwrap();
    config[at] = 0xff;
    s.upload(&s.to, &s.tar, &anonymous).await.unwrap();
    s.upload(&s.to, &config, &anonymous).await.unwrap();
    s.tag(&manifest(&config, &[(PORTABLE, &s.tar)]), &anonymous).await.unwrap();
    let reference = format!("{}:snap-1", s.to).parse().unwrap();
    let (class, shown) = s.refused(s.registries.resolve(&reference, &anonymous).await);
    assert_eq!(class, Class::Corrupt);
    assert!(shown.contains("the config is invalid"), "{shown}");
}

#[test]
fn the_futures_of_pushes_are_send() {
    fn send<T: Send>(
        _: impl FnOnce(&'static Registries, &'static Repository, &'static Keyring) -> T,
    ) {
    }
    static DIGEST: LazyLock<BlobDigest> = LazyLock::new(|| BlobDigest::of(b""));
    static MANIFEST: LazyLock<ManifestDigest> = LazyLock::new(|| ManifestDigest::of(b""));
    static FILE: LazyLock<std::fs::File> = LazyLock::new(|| tempfile::tempfile().unwrap());
    send(|registries, to, keyring| registries.has_blob(to, &DIGEST, keyring));
    send(|registries, to, keyring| registries.mount_blob(to, &DIGEST, to, keyring));
    send(|registries, to, keyring| registries.push_blob(to, &DIGEST, 0, &FILE, keyring, &|_| ()));
    send(|registries, to, keyring| registries.push_manifest(to, "", "", b"", keyring));
    send(|registries, to, keyring| registries.has_manifest(to, &MANIFEST, keyring));
    send(|registries, to, keyring| registries.delete_manifest(to, &MANIFEST, keyring));
    send(|registries, to, keyring| registries.blob_in(to, &DIGEST, 0, keyring));
}

#[tokio::test]
async fn an_upload_is_cancelled_with_the_token_of_its_start_first() {
    let s = fixture().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    s.registry.inject("POST", 1, Fault::NoMount);
    let keyring = s.registry.keyring("u", PASSWORD);
    assert!(!s.registries.mount_blob(&s.to, &s.layer, &s.base, &keyring).await.unwrap());
    let uploads = s.registry.requests_to("/v2/team/ws/blobs/uploads/");
    let of = |method: &str| -> Vec<_> {
        let requests = uploads.iter().filter(|request| request.method == method);
        requests.map(|request| request.authorization.clone()).collect()
    };
    let (started, cancelled) = (of("POST"), of("DELETE"));
    assert!(started.last().unwrap().is_some());
    assert_eq!(
        cancelled.first(),
        started.last(),
        "a user who may push may not be allowed to delete"
    );
    assert_eq!(s.registry.uploads(), 0, "the second try has the delete permission");
}
