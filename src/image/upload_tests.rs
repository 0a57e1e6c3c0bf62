//! Uploads that break off, stall, get lost or are redirected: docs/hazards.md, 39, one test per row.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    ImageError, Keyring, Registries, Repository,
    fake::{self, ALWAYS, FakeRegistry, Fault, ReceivedRequest, Scheme, soon},
    retry::RetryPolicy,
};
use crate::{digest::BlobDigest, error::Class};

const PASSWORD: &str = "password-that-must-not-be-shown";
const CHUNK: u64 = 100_000;
const SIZE: usize = 250_000;
const UPLOADS: &str = "/blobs/uploads/";

struct Fixture {
    registry: Arc<FakeRegistry>,
    registries: Registries,
    to: Repository,
    keyring: Keyring,
    bytes: Vec<u8>,
    digest: BlobDigest,
    file: File,
    /// The numbers that `sent` received.
    reported: Mutex<Vec<u64>>,
}

fn retry() -> RetryPolicy {
    RetryPolicy { first: Duration::from_millis(1), chunk: CHUNK, ..RetryPolicy::default() }
}

fn hosts(registry: &FakeRegistry) -> String {
    format!("server = \"http://{}\"", registry.host())
}

/// A registry, and a blob of three chunks that it does not have.
async fn fixture() -> Fixture {
    fixture_of(SIZE, retry()).await
}

async fn fixture_of(size: usize, retry: RetryPolicy) -> Fixture {
    let registry = Arc::new(FakeRegistry::start().await);
    let registries = fake::with_retry(&[(&registry.host(), &hosts(&registry))], retry);
    let to = format!("{}/team/ws", registry.host()).parse().unwrap();
    let bytes: Vec<u8> = (0..size as u32).map(|i| (i % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    // The file position is at the end, and does not matter.
    file.write_all(&bytes).unwrap();
    let (digest, reported) = (BlobDigest::of(&bytes), Mutex::default());
    Fixture { registry, registries, to, keyring: Keyring::default(), bytes, digest, file, reported }
}

impl Fixture {
    async fn push_as(
        &self,
        digest: BlobDigest,
        size: u64,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ImageError> {
        let Self { registries, to, file, keyring, .. } = self;
        let done = soon(registries.push_blob(to, &digest, size, file, keyring, sent)).await;
        if let Err(error) = &done {
            let shown = format!("{error} {error:?} {registries:?}");
            assert!(!shown.contains("must-not-be-shown"), "{shown}");
            assert!(error.to_string().starts_with(&format!("image {to}: ")), "{error}");
        }
        done
    }

    /// Pushes the blob, and calls `then` for every reported number of bytes.
    async fn push_and(&self, then: impl Fn(u64) + Sync) -> Result<(), ImageError> {
        let sent = |bytes| {
            self.reported.lock().unwrap().push(bytes);
            then(bytes);
        };
        self.push_as(self.digest, self.bytes.len() as u64, &sent).await
    }

    /// Pushes the blob, checks that the registry has it, and returns the methods of the requests.
    async fn pushed(&self) -> Vec<String> {
        self.push_and(|_| ()).await.unwrap();
        self.is_there();
        self.registry.methods("/blobs/")
    }

    fn is_there(&self) {
        assert!(self.registry.blob("team/ws", &self.digest).unwrap() == self.bytes, "the bytes");
        assert_eq!(self.reported.lock().unwrap().last(), Some(&(self.bytes.len() as u64)));
        assert_eq!(self.registry.uploads(), 0, "no upload remains");
    }

    async fn refused(&self) -> (Class, String) {
        let error = self.push_and(|_| ()).await.expect_err("the upload must fail");
        (error.class(), error.to_string())
    }

    /// The `Content-Range` of every chunk.
    fn chunks(&self) -> Vec<String> {
        let range = |request: ReceivedRequest| request.headers.get("content-range").cloned();
        let ranges = self.registry.requests_to(UPLOADS).into_iter().filter_map(range);
        ranges.map(|range| range.to_str().unwrap().to_owned()).collect()
    }
}

fn later(seconds: &str) -> Fault {
    Fault::Respond(429, vec![("retry-after", seconds.to_owned())])
}

fn respond(status: u16) -> Fault {
    Fault::Respond(status, Vec::new())
}

#[tokio::test]
async fn a_small_blob_is_uploaded_in_one_request() {
    for size in [0, 1, CHUNK as usize] {
        let s = fixture_of(size, retry()).await;
        assert_eq!(s.pushed().await, ["POST", "PUT"], "{size}");
        let requests = s.registry.requests_to(UPLOADS);
        let lengths: Vec<_> =
            requests.iter().map(|request| &request.headers["content-length"]).collect();
        assert_eq!(lengths, ["0", &size.to_string()], "both have a Content-Length");
        assert_eq!(s.pushed().await.len(), 4, "a second call uploads it again");
    }
}

#[tokio::test]
async fn a_large_blob_is_uploaded_in_chunks() {
    let s = fixture().await;
    assert_eq!(s.pushed().await, ["POST", "PATCH", "PATCH", "PATCH", "PUT"]);
    assert_eq!(s.chunks(), ["0-99999", "100000-199999", "200000-249999"]);
    assert_eq!(*s.reported.lock().unwrap(), [0, 100_000, 200_000, 250_000, 250_000]);
    let put = &s.registry.requests_to(UPLOADS)[4];
    assert_eq!(put.headers["content-length"], "0");
    let digest = format!("state=250000&digest=sha256%3A{}", s.digest.digest().hex());
    assert_eq!(put.query, digest, "the query of the Location is kept");
}

#[tokio::test]
async fn after_a_break_in_a_chunk_only_the_missing_bytes_are_sent_again() {
    let s = fixture().await;
    s.registry.inject("PATCH", 1, Fault::Header("x-nothing", String::new()));
    s.registry.inject("PATCH", 1, Fault::BreakAfter(40_000));
    let methods = ["POST", "PATCH", "PATCH", "GET", "PATCH", "PATCH", "PUT"];
    assert_eq!(s.pushed().await, methods);
    let chunks = ["0-99999", "100000-199999", "140000-239999", "240000-249999"];
    assert_eq!(s.chunks(), chunks);
}

#[tokio::test]
async fn an_upload_of_which_almost_nothing_arrived_starts_again() {
    for (kept, then) in [
        (0, &["PATCH", "PATCH", "PATCH", "PUT"][..]),
        // The registry reports one byte and none in the same way.
        (1, &["PATCH", "DELETE", "HEAD", "POST", "PUT"]),
    ] {
        let s = fixture().await;
        s.registry.inject("PATCH", 1, Fault::BreakAfter(kept));
        let methods = s.pushed().await;
        assert_eq!(methods[..3], ["POST", "PATCH", "GET"]);
        assert_eq!(methods[3..], *then, "{kept}");
    }
    let s = fixture_of(CHUNK as usize, retry()).await;
    s.registry.inject("PUT", 1, Fault::BreakAfter(50_000));
    s.push_and(|_| ()).await.unwrap();
    assert_eq!(s.registry.methods("/blobs/"), ["POST", "PUT", "HEAD", "POST", "PUT"]);
}

#[tokio::test]
async fn a_retry_after_of_the_registry_is_respected() {
    let s = fixture().await;
    for step in ["POST", "PATCH", "GET", "PUT"] {
        s.registry.inject(step, 1, later("0"));
    }
    s.pushed().await;
    let s = fixture().await;
    for step in ["POST", "PATCH", "PUT"] {
        s.registry.inject(step, 1, respond(503));
    }
    s.pushed().await;
    assert_eq!(s.registry.methods(UPLOADS).iter().filter(|it| *it == "PUT").count(), 2);

    let s = fixture().await;
    s.registry.inject("PATCH", 1, later("3600"));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains("the upload with HTTP 429; try again in 1h"), "{shown}");
    assert_eq!(s.registry.uploads(), 0, "an upload that fails is cancelled");
    s.pushed().await;
}

#[tokio::test]
async fn an_upload_that_always_fails_ends_after_some_tries() {
    for (step, misdeed) in [
        ("POST", respond(500)),
        ("PATCH", respond(503)),
        ("PATCH", Fault::BreakAfter(0)),
        ("PATCH", Fault::BreakAfter(10)),
        ("PUT", respond(503)),
        ("PUT", Fault::BreakAfter(0)),
        ("PUT", respond(404)),
    ] {
        let s = fixture().await;
        s.registry.inject(step, ALWAYS, misdeed.clone());
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Unavailable, "{step} {misdeed:?}: {shown}");
        let tries = s.registry.methods(UPLOADS).iter().filter(|it| *it == step).count();
        assert!((4..=8).contains(&tries), "{step} {misdeed:?}: {tries}");
    }
}

#[tokio::test]
async fn each_new_chunk_resets_the_number_of_failed_tries() {
    let s = fixture().await;
    // Three failures between two chunks are allowed, whatever their total.
    for _ in 0..3 {
        s.registry.inject("PATCH", 3, respond(503));
        s.registry.inject("PATCH", 1, Fault::Header("x-nothing", String::new()));
    }
    s.pushed().await;
}

#[tokio::test]
async fn a_blob_whose_last_response_is_lost_is_found_at_the_registry() {
    let s = fixture().await;
    s.registry.inject("PUT", 1, Fault::Lost);
    let methods = s.pushed().await;
    assert_eq!(methods[4..], ["PUT", "GET", "HEAD"], "no byte is sent twice");
    let s = fixture_of(10, retry()).await;
    s.registry.inject("PUT", 1, Fault::Lost);
    assert_eq!(s.pushed().await, ["POST", "PUT", "HEAD"]);
    let s = fixture().await;
    s.registry.inject("PATCH", 1, Fault::Lost);
    assert_eq!(s.pushed().await, ["POST", "PATCH", "GET", "PATCH", "PATCH", "PUT"]);
}

#[tokio::test]
async fn a_token_that_expires_during_an_upload_is_renewed() {
    let mut s = fixture().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    s.keyring = s.registry.keyring("u", PASSWORD);
    let registry = Arc::clone(&s.registry);
    s.push_and(|at| {
        if at == CHUNK {
            registry.expire_tokens()
        }
    })
    .await
    .unwrap();
    s.is_there();
    assert_eq!(s.registry.requests_to("/token").len(), 2);
    assert_eq!(
        s.chunks()[1..3],
        ["100000-199999", "100000-199999"],
        "the same chunk is sent again"
    );
}

#[tokio::test]
async fn no_chunk_is_sent_with_a_token_that_is_known_to_have_expired() {
    let mut s = fixture().await;
    s.registry.protect("team/ws", Scheme::Bearer, "u", PASSWORD);
    s.keyring = s.registry.keyring("u", PASSWORD);
    let once = Mutex::new(true);
    s.push_and(|at| {
        if at == CHUNK && std::mem::take(&mut *once.lock().unwrap()) {
            s.registries.transport.forget_tokens();
        }
    })
    .await
    .unwrap();
    s.is_there();
    assert_eq!(s.chunks().len(), 3);
    let methods = s.registry.methods(UPLOADS);
    let expected = ["POST", "POST", "PATCH", "GET", "GET", "PATCH", "PATCH", "PUT"];
    assert_eq!(methods, expected, "POST and GET without a token, then with one");
}

#[tokio::test]
async fn a_slow_response_to_the_last_request_is_awaited_up_to_its_limit() {
    // The other requests have this limit too, on a machine that may be busy.
    let response = Duration::from_secs(1);
    let s = fixture_of(SIZE, RetryPolicy { response, ..retry() }).await;
    s.registry.inject("PUT", 1, Fault::Hold);
    let registry = Arc::clone(&s.registry);
    let release = tokio::spawn(async move {
        tokio::time::sleep(response * 2).await;
        registry.release();
    });
    let methods = s.pushed().await;
    release.await.unwrap();
    assert_eq!(methods, ["POST", "PATCH", "PATCH", "PATCH", "PUT"]);

    let upload_response = Duration::from_millis(50);
    let s = fixture_of(SIZE, RetryPolicy { upload_response, ..retry() }).await;
    s.registry.inject("PUT", ALWAYS, Fault::Hold);
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains("the server cannot be reached"), "not for ever: {shown}");
}

#[tokio::test]
async fn a_range_that_lags_behind_is_ignored() {
    for range in ["0-99999", "0-0", "nonsense", "0-18446744073709551615"] {
        let s = fixture().await;
        s.registry.inject("PATCH", ALWAYS, Fault::Header("range", range.to_owned()));
        assert_eq!(s.pushed().await, ["POST", "PATCH", "PATCH", "PATCH", "PUT"], "{range}");
    }
}

#[tokio::test]
async fn a_wrong_reported_offset_does_not_damage_the_blob() {
    for range in ["0-149999", "0-49999", "0-249999", "0-250000", "1-99999", "bytes", ""] {
        let s = fixture().await;
        s.registry.inject("PATCH", 1, Fault::Header("x-nothing", String::new()));
        s.registry.inject("PATCH", 1, respond(500));
        s.registry.inject("GET", ALWAYS, Fault::Header("range", range.to_owned()));
        s.push_and(|_| ()).await.unwrap_or_else(|error| panic!("{range}: {error}"));
        assert!(s.registry.blob("team/ws", &s.digest).unwrap() == s.bytes, "{range}");
    }
    let s = fixture().await;
    s.registry.inject("PATCH", 1, Fault::BreakAfter(10));
    s.registry.inject("GET", ALWAYS, respond(405));
    s.push_and(|_| ()).await.unwrap();
    assert!(s.registry.blob("team/ws", &s.digest).unwrap() == s.bytes, "no offset at all");
}

#[tokio::test]
async fn a_registry_that_does_not_accept_chunks_gets_the_blob_in_one_request() {
    for status in [416, 400, 405, 411] {
        let s = fixture().await;
        s.registry.inject("PATCH", ALWAYS, respond(status));
        let methods = ["POST", "PATCH", "DELETE", "HEAD", "POST", "PUT"];
        assert_eq!(s.pushed().await, methods, "{status}");
    }
    // A registry that loses chunks.
    let s = fixture().await;
    s.registry.inject("PATCH", ALWAYS, respond(404));
    s.push_and(|_| ()).await.unwrap();
    assert!(s.registry.blob("team/ws", &s.digest).unwrap() == s.bytes);
    // A registry that accepts chunks, but fails to join them.
    let s = fixture().await;
    s.registry.inject("PUT", 1, respond(400));
    assert_eq!(s.pushed().await[5..], ["DELETE", "HEAD", "POST", "PUT"]);

    let s = fixture().await;
    s.registry.inject("PATCH", 1, respond(413));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("HTTP 413; the proxy in front of the registry must"), "{shown}");
}

#[tokio::test]
async fn an_upload_that_the_registry_lost_starts_again() {
    let s = fixture().await;
    let registry = Arc::clone(&s.registry);
    let once = Mutex::new(true);
    s.push_and(|at| {
        if at == 2 * CHUNK && std::mem::take(&mut *once.lock().unwrap()) {
            registry.forget_uploads();
        }
    })
    .await
    .unwrap();
    s.is_there();
    let reported = s.reported.lock().unwrap().clone();
    assert_eq!(reported[..4], [0, 100_000, 200_000, 0], "the loss is reported");

    let s = fixture().await;
    let registry = Arc::clone(&s.registry);
    s.push_and(|at| {
        if at == CHUNK {
            registry.forget_uploads()
        }
    })
    .await
    .unwrap();
    s.is_there();
    assert_eq!(s.chunks().len(), 4, "after the second loss the blob is sent in one request");
}

#[tokio::test]
async fn a_location_may_be_a_path_or_a_url() {
    let s = fixture().await;
    s.pushed().await;
    let s = fixture().await;
    s.registry.locate_absolutely();
    s.pushed().await;
    assert!(
        s.registry.requests_to(UPLOADS).iter().all(|it| it.headers["host"] == s.registry.host())
    );
}

#[tokio::test]
async fn an_upload_at_another_server_gets_neither_token_nor_headers() {
    for scheme in [Scheme::Basic, Scheme::Bearer] {
        let mut s = fixture().await;
        s.registry.protect("team/ws", scheme, "u", PASSWORD);
        s.keyring = s.registry.keyring("u", PASSWORD);
        let (elsewhere, _listening) = s.registry.uploads_elsewhere().await;
        let (ours, header) = (s.registry.host(), "\nheader = { x-key = \"k\" }");
        let text = format!("server = \"http://{elsewhere}\"");
        let ours = (ours.as_str(), format!("{}{header}", hosts(&s.registry)));
        let files = [(ours.0, ours.1.as_str()), (elsewhere.as_str(), text.as_str())];
        s.registries = fake::with_retry(&files, retry());
        s.registry.inject("PATCH", 1, respond(503));
        s.push_and(|_| ()).await.unwrap();
        s.is_there();
        let requests = s.registry.requests_to(UPLOADS);
        let (there, here): (Vec<_>, Vec<_>) =
            requests.iter().partition(|request| request.headers["host"] == elsewhere);
        assert_eq!((there.len(), here.len()), (6, 2), "{scheme:?}");
        let bare =
            |it: &&ReceivedRequest| it.authorization.is_none() && !it.headers.contains_key("x-key");
        assert!(there.iter().all(bare), "{scheme:?}");
        assert!(here[1].authorization.is_some() && here[1].headers.contains_key("x-key"));

        // A server there that requires a secret gets none.
        let s = Fixture { reported: Mutex::default(), ..s };
        s.registry.inject("PATCH", 1, respond(401));
        assert_eq!(s.refused().await.0, Class::Denied);
        let patches = s.registry.requests_to(UPLOADS).into_iter().filter(|it| it.method == "PATCH");
        assert!(patches.last().unwrap().authorization.is_none());
    }
}

#[tokio::test]
async fn upload_locations_at_loopback_and_link_local_addresses_are_not_followed() {
    let other = FakeRegistry::start().await;
    for (host, words) in [
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        (&other.host(), " is a loopback address"),
        ("u:must-not-be-shown@10.0.0.1", "with a user name or password"),
        ("localhost:1", " is a loopback address"),
    ] {
        let s = fixture().await;
        s.registry.locate_at(host);
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Denied, "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.registry.methods(UPLOADS), ["POST"], "not retried");
    }
    assert!(other.requests().is_empty());

    let s = fixture().await;
    s.registry.inject("POST", 1, Fault::Header("location", "http://".to_owned()));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Corrupt);
    assert!(shown.contains("the upload is invalid: the Location header is not a URL"), "{shown}");
}

#[tokio::test]
async fn a_redirected_upload_is_not_followed() {
    let thief = FakeRegistry::start().await;
    for (step, status) in [("POST", 307), ("PATCH", 308), ("PUT", 302)] {
        let s = fixture().await;
        let to = format!("http://{}/x", thief.host());
        s.registry.inject(step, 1, Fault::Respond(status, vec![("location", to)]));
        assert_eq!(s.refused().await.0, Class::Precondition, "{step}");
    }
    assert!(thief.requests().is_empty());
}

#[tokio::test]
async fn a_file_with_wrong_size_or_content_is_not_stored() {
    let s = fixture().await;
    s.file.set_len(120_000).unwrap();
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Internal);
    assert!(shown.contains("cannot be read: it ends after 120000 bytes"), "{shown}");
    assert_eq!(s.registry.blob("team/ws", &s.digest), None);

    for size in [SIZE, 10] {
        let s = fixture_of(size, retry()).await;
        s.file.write_all_at(b"other", 0).unwrap();
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Precondition, "{shown}");
        assert!(shown.contains("the upload with HTTP 400"), "{shown}");
        assert_eq!(s.registry.blob("team/ws", &s.digest), None);
    }
}
