//! What is asked and changed in a repository, apart from uploads: secrets, mounts, manifests, deletes, hosts.

use std::{
    io::{Read, Write},
    sync::LazyLock,
};

use serde_json::{Value, json};

use super::{
    BlobReader, ImageError, Keyring, Registries, Repository,
    fake::{
        self, ALWAYS, FakeRegistry, IDENTITY, Misdeed, OCI_MANIFEST, Scheme, TOKEN, descriptor,
        soon,
    },
};
use crate::{changeset::Format, digest::Digest, fault::Class};

const PASSWORD: &str = "password-that-must-not-be-shown";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A registry with the repository `team/base`, which has an image of one layer; `team/ws` is to be.
struct Scene {
    registry: FakeRegistry,
    registries: Registries,
    to: Repository,
    base: Repository,
    layer: Digest,
    tar: Vec<u8>,
}

async fn scene() -> Scene {
    let registry = FakeRegistry::start().await;
    let registries = registry.registries();
    let (to, base) = (place(&registry, "team/ws"), place(&registry, "team/base"));
    let tar: Vec<u8> = (0..300_000_u32).map(|i| (i % 241) as u8).collect();
    let s = Scene { layer: Digest::of(&tar), registry, registries, to, base, tar };
    s.upload(&s.base, &s.tar, &Keyring::default()).await.unwrap();
    s
}

fn place(registry: &FakeRegistry, repository: &str) -> Repository {
    format!("{}/{repository}", registry.host()).parse().unwrap()
}

impl Scene {
    async fn upload(
        &self,
        to: &Repository,
        bytes: &[u8],
        keyring: &Keyring,
    ) -> Result<Digest, ImageError> {
        upload(&self.registries, to, bytes, keyring).await
    }

    async fn tag(&self, manifest: &Value, keyring: &Keyring) -> Result<Digest, ImageError> {
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

    async fn delete(&self, manifest: &Digest, keyring: &Keyring) -> Result<bool, ImageError> {
        soon(self.registries.delete_manifest(&self.to, manifest, keyring)).await
    }

    /// As whom the image `team/ws:snap-1` of that layer gets there; its manifest's digest.
    async fn push(&self, media_type: &str, keyring: &Keyring) -> Result<Digest, ImageError> {
        let config = json!({ "rootfs": { "diff_ids": [self.layer] } }).to_string();
        self.upload(&self.to, &self.tar, keyring).await?;
        self.upload(&self.to, config.as_bytes(), keyring).await?;
        self.tag(&manifest(config.as_bytes(), &[(media_type, &self.tar)]), keyring).await
    }

    fn refused<T>(&self, done: Result<T, ImageError>) -> (Class, String) {
        let error = done.err().expect("a push that should have been refused");
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
) -> Result<Digest, ImageError> {
    let (digest, mut file) = (Digest::of(bytes), tempfile::tempfile().unwrap());
    file.write_all(bytes).unwrap();
    let size = bytes.len() as u64;
    soon(registries.push_blob(to, &digest, size, &file, keyring, &|_| ())).await.map(|()| digest)
}

pub(super) fn manifest(config: &[u8], layers: &[(&str, &[u8])]) -> Value {
    let layers: Vec<_> = layers.iter().map(|(kind, bytes)| descriptor(kind, bytes)).collect();
    json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
            "config": descriptor(CONFIG, config) })
}

fn answer(status: u16) -> Misdeed {
    Misdeed::Answer(status, Vec::new())
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
async fn what_is_pushed_is_pulled_again() {
    for (media_type, format) in [(NATIVE, Format::Native), (PORTABLE, Format::Portable)] {
        let (s, nobody) = (scene().await, Keyring::default());
        let digest = s.push(media_type, &nobody).await.unwrap();
        assert_eq!(s.push(media_type, &nobody).await.unwrap(), digest, "and again the same");
        for reference in [s.to.at(&digest), format!("{}:snap-1", s.to).parse().unwrap()] {
            let image = s.registries.resolve(&reference, &nobody).await.unwrap();
            assert_eq!((image.digest, image.layers[0].format), (digest, format));
            assert_eq!(image.config, json!({ "rootfs": { "diff_ids": [s.layer] } }).to_string());
            let blob = s.registries.blob(&image, &image.layers[0], &nobody).await.unwrap();
            assert!(read(blob).await == s.tar);
        }
    }
}

#[tokio::test]
async fn a_blob_is_streamed_from_where_it_is_known_to_be() {
    let (s, nobody) = (scene().await, Keyring::default());
    let size = s.tar.len() as u64;
    s.registry.misbehave(s.layer, 1, Misdeed::Cut);
    let blob = s.registries.blob_of(&s.base, &s.layer, size, &nobody).await.unwrap();
    assert!(read(blob).await == s.tar, "taken up where it broke");
    let gone = s.registries.blob_of(&s.to, &s.layer, size, &nobody).await;
    assert_eq!(s.refused(gone).0, Class::NotFound);

    s.registry.protect("team/base", Scheme::Bearer, "u", PASSWORD);
    let keyring = s.registry.keyring("u", PASSWORD);
    let blob = s.registries.blob_of(&s.base, &s.layer, size, &keyring).await.unwrap();
    assert_eq!([blob.access().clone()], keyring.accesses(&s.base.at(&s.layer))[..]);
    assert!(read(blob).await == s.tar);
}

#[tokio::test]
async fn a_repository_is_asked_for_its_own_blobs() {
    let (s, nobody) = (scene().await, Keyring::default());
    assert!(s.registries.has_blob(&s.base, &s.layer, &nobody).await.unwrap());
    assert!(!s.registries.has_blob(&s.to, &s.layer, &nobody).await.unwrap());
    s.registry.misbehave("HEAD", 3, answer(502));
    assert!(s.registries.has_blob(&s.base, &s.layer, &nobody).await.unwrap());
    s.registry.misbehave("HEAD", ALWAYS, answer(502));
    let (class, shown) = s.refused(s.registries.has_blob(&s.base, &s.layer, &nobody).await);
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains("answered blob with HTTP 502; try again later"), "{shown}");
}

#[tokio::test]
async fn a_blob_is_mounted_or_the_upload_that_comes_instead_let_go() {
    let (s, nobody) = (scene().await, Keyring::default());
    assert!(s.mount(&nobody).await);
    assert!(s.registry.blob("team/ws", &s.layer).unwrap() == s.tar);
    assert!(s.mount(&nobody).await, "twice is once");

    for misdeed in [Misdeed::NoMount, answer(405), answer(404), answer(403), answer(401)] {
        let s = scene().await;
        s.registry.misbehave("POST", ALWAYS, misdeed.clone());
        assert!(!s.mount(&nobody).await, "{misdeed:?}");
        assert_eq!((s.registry.blob("team/ws", &s.layer), s.registry.uploads()), (None, 0));
    }
    let s = scene().await;
    s.registry.misbehave("POST", 1, answer(503));
    s.registry.misbehave("POST", 1, Misdeed::NoMount);
    s.registry.misbehave("DELETE", 1, answer(405));
    assert!(!s.mount(&nobody).await);
    assert_eq!(s.registry.uploads(), 1, "that it cannot be let go is nobody's trouble");

    let elsewhere: Repository = "r.io/team/base".parse().unwrap();
    let asked = s.registry.requests();
    assert!(!s.registries.mount_blob(&s.to, &s.layer, &elsewhere, &nobody).await.unwrap());
    assert_eq!(s.registry.requests(), asked, "registries have no blobs of one another");
    s.registry.misbehave("POST", ALWAYS, answer(500));
    let down = s.registries.mount_blob(&s.to, &s.layer, &s.base, &nobody).await;
    assert_eq!(s.refused(down).0, Class::Unavailable);
}

#[tokio::test]
async fn a_mount_asks_for_a_token_for_both_repositories() {
    let s = scene().await;
    for repository in ["team/ws", "team/base"] {
        s.registry.protect(repository, Scheme::Bearer, "u", PASSWORD);
    }
    assert!(s.mount(&s.registry.keyring("u", PASSWORD)).await);
    let query = "scope=repository%3Ateam%2Fws%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull\
                 &service=fake";
    assert_eq!(s.registry.seen("/token")[0].query, query);

    let s = scene().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    s.registry.protect("team/base", Scheme::Bearer, "v", PASSWORD);
    assert!(!s.mount(&s.registry.keyring("u", PASSWORD)).await, "what u may not read");
    assert_eq!(s.registry.uploads(), 0);
}

#[tokio::test]
async fn a_manifest_is_put_once_its_blobs_are_there() {
    let (s, nobody) = (scene().await, Keyring::default());
    let early = manifest(b"{}", &[(PORTABLE, &s.tar)]);
    let (class, shown) = s.refused(s.tag(&early, &nobody).await);
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("answered manifest with HTTP 400"), "{shown}");

    for misdeed in
        [answer(503), Misdeed::Lost, Misdeed::Answer(429, vec![("retry-after", "0".to_owned())])]
    {
        s.registry.misbehave("PUT", 1, misdeed);
        let digest = s.push(PORTABLE, &nobody).await.unwrap();
        let (content_type, text) = s.registry.manifest("team/ws", "snap-1").unwrap();
        assert_eq!((content_type.as_str(), Digest::of(&text)), (OCI_MANIFEST, digest));
    }
    let empty = json!({ "schemaVersion": 2 });
    let other = Digest::of(b"other").to_string();
    s.registry.misbehave("/manifests/", 1, Misdeed::Header("docker-content-digest", other));
    let (class, shown) = s.refused(s.tag(&empty, &nobody).await);
    assert_eq!(class, Class::Corrupt);
    assert!(shown.contains("its manifest is not what its digest promises"), "{shown}");
    s.registry.misbehave(
        "/manifests/",
        1,
        Misdeed::Header("docker-content-digest", "sha512:00".to_owned()),
    );
    assert!(s.tag(&empty, &nobody).await.is_ok(), "another algorithm says nothing");
}

#[tokio::test]
async fn a_manifest_that_no_registry_takes_is_not_sent() {
    let (s, nobody) = (scene().await, Keyring::default());
    let asked = s.registry.requests();
    for tag in ["", "../x", "a/b", "a?b", ".a", "sha256:00"] {
        let done = s.registries.push_manifest(&s.to, tag, OCI_MANIFEST, b"{}", &nobody).await;
        let (class, shown) = s.refused(done);
        assert_eq!(class, Class::Precondition);
        assert!(shown.contains("a tag that no registry takes"), "{tag}: {shown}");
    }
    let large = json!({ "annotations": { "x": "y".repeat(4 << 20) } });
    let (class, shown) = s.refused(s.tag(&large, &nobody).await);
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("larger than the 4194304 bytes"), "{shown}");
    assert_eq!(s.registry.requests(), asked);
}

#[tokio::test]
async fn a_repository_that_must_be_made_first_is_told() {
    let (s, nobody) = (scene().await, Keyring::default());
    s.registry.misbehave("team/ws", ALWAYS, answer(404));
    for done in [s.push(PORTABLE, &nobody).await, s.tag(&json!({}), &nobody).await] {
        let (class, shown) = s.refused(done);
        assert_eq!(class, Class::Precondition);
        assert!(shown.contains("it has no such repository to push to"), "{shown}");
    }
}

#[tokio::test]
async fn a_manifest_is_deleted_where_that_can_be() {
    let (s, nobody) = (scene().await, Keyring::default());
    let digest = s.push(PORTABLE, &nobody).await.unwrap();
    for status in [405, 501, 400] {
        s.registry.misbehave("DELETE", 1, answer(status));
        assert!(!s.delete(&digest, &nobody).await.unwrap(), "{status}");
    }
    s.registry.misbehave("DELETE", 1, answer(503));
    s.registry.misbehave("DELETE", 1, Misdeed::Lost);
    assert!(s.delete(&digest, &nobody).await.unwrap());
    assert_eq!(s.registry.manifest("team/ws", "snap-1"), None);
    assert!(s.delete(&digest, &nobody).await.unwrap(), "twice is once");
    s.registry.misbehave("DELETE", 1, answer(403));
    assert_eq!(s.refused(s.delete(&digest, &nobody).await).0, Class::Denied);
}

#[tokio::test]
async fn a_private_repository_is_pushed_to_with_its_secret_and_not_without() {
    for scheme in [Scheme::Basic, Scheme::Bearer] {
        let s = scene().await;
        s.registry.protect("team/ws", scheme, "u", PASSWORD);
        let (class, shown) = s.refused(s.push(PORTABLE, &Keyring::default()).await);
        assert_eq!(class, Class::Denied);
        assert!(shown.contains("does not let anonymous users push to this repository"), "{shown}");
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
async fn a_token_to_pull_is_not_one_to_push_nor_one_to_delete() {
    let s = scene().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    let identity = fake::keyring(&json!({ s.registry.host(): { "identitytoken": IDENTITY } }));
    for keyring in [s.registry.keyring("u", PASSWORD), identity] {
        let before = s.registry.seen("/token").len();
        let digest = s.push(PORTABLE, &keyring).await.unwrap();
        s.registries.resolve(&s.to.at(&digest), &keyring).await.unwrap();
        s.push(PORTABLE, &keyring).await.unwrap();
        assert!(s.delete(&digest, &keyring).await.unwrap());
        let asked = &s.registry.seen("/token")[before..];
        let scope = |may: &str| format!("scope=repository%3Ateam%2Fws%3A{may}&");
        let scopes = [scope("pull%2Cpush"), scope("pull"), scope("delete")];
        let texts = asked.iter().map(|seen| format!("{}&{}", seen.query, seen.body));
        assert!(texts.zip(&scopes).all(|(text, scope)| text.contains(scope)), "{asked:?}");
        assert_eq!(asked.len(), 3, "each once");
    }
    assert!(!format!("{:?}", s.registries).contains(TOKEN));
}

#[tokio::test]
async fn a_push_goes_to_the_registry_and_to_no_mirror_that_does_not_say_so() {
    let (s, mirror) = (scene().await, FakeRegistry::start().await);
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
    let queries = mirror.seen("/blobs/uploads/").into_iter().map(|seen| seen.query);
    assert_eq!(queries.take(1).collect::<Vec<_>>(), ["ns=registry.example"]);

    // What one server refuses is not tried at another: half of a push there would be of no use.
    let text = format!(
        "server = \"http://{ours}\"\n[host.\"http://{theirs}\"]\ncapabilities = [\"push\"]"
    );
    let registries = fake::registries(&[("registry.example", &text)]);
    mirror.misbehave("POST", ALWAYS, answer(500));
    let (class, shown) = s.refused(upload(&registries, &to, b"x", &keyring).await);
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains(&theirs) && !shown.contains(&ours), "{shown}");

    let registries = fake::registries(&[(
        "registry.example",
        &format!("server = \"http://{ours}\"\ncapabilities = [\"pull\"]"),
    )]);
    let (class, shown) = s.refused(upload(&registries, &to, b"x", &keyring).await);
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("no server of it takes pushes"), "{shown}");
}

#[tokio::test]
async fn a_registry_on_the_node_itself_is_pushed_to_only_where_configured() {
    let s = scene().await;
    let asked = s.registry.requests();
    let registries = fake::registries(&[]);
    let (class, shown) = s.refused(upload(&registries, &s.to, b"x", &Keyring::default()).await);
    assert_eq!(class, Class::Denied);
    assert!(shown.contains("only if the node's registry hosts folder"), "{shown}");
    assert_eq!(s.registry.requests(), asked);
}

#[tokio::test]
async fn a_config_that_is_no_text_is_refused() {
    let (s, nobody) = (scene().await, Keyring::default());
    let mut config =
        format!("{{\"rootfs\":{{\"diff_ids\":[\"{}\"]}},\"x\":\"?\"}}", s.layer).into_bytes();
    let at = config.iter().position(|byte| *byte == b'?').unwrap();
    config[at] = 0xff;
    s.upload(&s.to, &s.tar, &nobody).await.unwrap();
    s.upload(&s.to, &config, &nobody).await.unwrap();
    s.tag(&manifest(&config, &[(PORTABLE, &s.tar)]), &nobody).await.unwrap();
    let reference = format!("{}:snap-1", s.to).parse().unwrap();
    let (class, shown) = s.refused(s.registries.resolve(&reference, &nobody).await);
    assert_eq!(class, Class::Corrupt);
    assert!(shown.contains("its config is refused"), "{shown}");
}

#[test]
fn what_the_rooms_above_await_can_move_between_threads() {
    fn send<T: Send>(
        _: impl FnOnce(&'static Registries, &'static Repository, &'static Keyring) -> T,
    ) {
    }
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| Digest::of(b""));
    static FILE: LazyLock<std::fs::File> = LazyLock::new(|| tempfile::tempfile().unwrap());
    send(|registries, to, keyring| registries.has_blob(to, &DIGEST, keyring));
    send(|registries, to, keyring| registries.mount_blob(to, &DIGEST, to, keyring));
    send(|registries, to, keyring| registries.push_blob(to, &DIGEST, 0, &FILE, keyring, &|_| ()));
    send(|registries, to, keyring| registries.push_manifest(to, "", "", b"", keyring));
    send(|registries, to, keyring| registries.delete_manifest(to, &DIGEST, keyring));
    send(|registries, to, keyring| registries.blob_of(to, &DIGEST, 0, keyring));
}

#[tokio::test]
async fn an_upload_is_cancelled_with_the_token_that_it_was_begun_with() {
    let s = scene().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    s.registry.misbehave("POST", 1, Misdeed::NoMount);
    let keyring = s.registry.keyring("u", PASSWORD);
    assert!(!s.registries.mount_blob(&s.to, &s.layer, &s.base, &keyring).await.unwrap());
    let uploads = s.registry.seen("/v2/team/ws/blobs/uploads/");
    let of = |method: &str| -> Vec<_> {
        let seen = uploads.iter().filter(|seen| seen.method == method);
        seen.map(|seen| seen.authorization.clone()).collect()
    };
    let (begun, cancelled) = (of("POST"), of("DELETE"));
    assert!(begun.last().unwrap().is_some());
    assert_eq!(cancelled.first(), begun.last(), "who may push need not be one who may delete");
    assert_eq!(s.registry.uploads(), 0, "and where the registry asks for more, with more");
}
