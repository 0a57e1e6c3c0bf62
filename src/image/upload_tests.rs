//! Uploads that are cut, slowed down, lost and misled: HAZARDS 39, a row a test.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    ImageError, Keyring, Registries, Repository,
    fake::{self, ALWAYS, FakeRegistry, Misdeed, Scheme, Seen, soon},
    pace::Pace,
};
use crate::{digest::Digest, fault::Class};

const PASSWORD: &str = "password-that-must-not-be-shown";
const CHUNK: u64 = 100_000;
const SIZE: usize = 250_000;
const UPLOADS: &str = "/blobs/uploads/";

struct Scene {
    registry: Arc<FakeRegistry>,
    registries: Registries,
    to: Repository,
    keyring: Keyring,
    bytes: Vec<u8>,
    digest: Digest,
    file: File,
    /// What `sent` was told.
    told: Mutex<Vec<u64>>,
}

fn pace() -> Pace {
    Pace { first: Duration::from_millis(1), chunk: CHUNK, ..Pace::default() }
}

fn hosts(registry: &FakeRegistry) -> String {
    format!("server = \"http://{}\"", registry.host())
}

/// A registry, and a blob that it lacks, of three chunks.
async fn scene() -> Scene {
    scene_of(SIZE, pace()).await
}

async fn scene_of(size: usize, pace: Pace) -> Scene {
    let registry = Arc::new(FakeRegistry::start().await);
    let registries = fake::paced(&[(&registry.host(), &hosts(&registry))], pace);
    let to = format!("{}/team/ws", registry.host()).parse().unwrap();
    let bytes: Vec<u8> = (0..size as u32).map(|i| (i % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    // The position of the file is at its end, and of no account.
    file.write_all(&bytes).unwrap();
    let (digest, told) = (Digest::of(&bytes), Mutex::default());
    Scene { registry, registries, to, keyring: Keyring::default(), bytes, digest, file, told }
}

impl Scene {
    async fn push_as(
        &self,
        digest: Digest,
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

    /// Pushes the blob; `then` happens at every count of bytes that are there.
    async fn push_and(&self, then: impl Fn(u64) + Sync) -> Result<(), ImageError> {
        let sent = |bytes| {
            self.told.lock().unwrap().push(bytes);
            then(bytes);
        };
        self.push_as(self.digest, self.bytes.len() as u64, &sent).await
    }

    /// Pushes the blob, which must be there then; answers the methods of the requests.
    async fn pushed(&self) -> Vec<String> {
        self.push_and(|_| ()).await.unwrap();
        self.is_there();
        self.registry.methods("/blobs/")
    }

    fn is_there(&self) {
        assert!(self.registry.blob("team/ws", &self.digest).unwrap() == self.bytes, "the bytes");
        assert_eq!(self.told.lock().unwrap().last(), Some(&(self.bytes.len() as u64)));
        assert_eq!(self.registry.uploads(), 0, "nothing is left under way");
    }

    async fn refused(&self) -> (Class, String) {
        let error = self.push_and(|_| ()).await.expect_err("an upload that should have failed");
        (error.class(), error.to_string())
    }

    /// The `Content-Range` of every chunk.
    fn chunks(&self) -> Vec<String> {
        let range = |seen: Seen| seen.headers.get("content-range").cloned();
        let ranges = self.registry.seen(UPLOADS).into_iter().filter_map(range);
        ranges.map(|range| range.to_str().unwrap().to_owned()).collect()
    }
}

fn later(seconds: &str) -> Misdeed {
    Misdeed::Answer(429, vec![("retry-after", seconds.to_owned())])
}

fn answer(status: u16) -> Misdeed {
    Misdeed::Answer(status, Vec::new())
}

#[tokio::test]
async fn what_fits_into_one_request_goes_in_one() {
    for size in [0, 1, CHUNK as usize] {
        let s = scene_of(size, pace()).await;
        assert_eq!(s.pushed().await, ["POST", "PUT"], "{size}");
        let seen = s.registry.seen(UPLOADS);
        let lengths: Vec<_> = seen.iter().map(|seen| &seen.headers["content-length"]).collect();
        assert_eq!(lengths, ["0", &size.to_string()], "both say how long they are");
        assert_eq!(s.pushed().await.len(), 4, "and again, if somebody wants it");
    }
}

#[tokio::test]
async fn a_large_blob_goes_in_chunks() {
    let s = scene().await;
    assert_eq!(s.pushed().await, ["POST", "PATCH", "PATCH", "PATCH", "PUT"]);
    assert_eq!(s.chunks(), ["0-99999", "100000-199999", "200000-249999"]);
    assert_eq!(*s.told.lock().unwrap(), [0, 100_000, 200_000, 250_000, 250_000]);
    let put = &s.registry.seen(UPLOADS)[4];
    assert_eq!(put.headers["content-length"], "0");
    let digest = format!("state=250000&digest=sha256%3A{}", s.digest.hex());
    assert_eq!(put.query, digest, "the query of the Location is kept");
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_chunk_costs_what_did_not_arrive() {
    let s = scene().await;
    s.registry.misbehave("PATCH", 1, Misdeed::Header("x-nothing", String::new()));
    s.registry.misbehave("PATCH", 1, Misdeed::CutAfter(40_000));
    let methods = ["POST", "PATCH", "PATCH", "GET", "PATCH", "PATCH", "PUT"];
    assert_eq!(s.pushed().await, methods);
    let chunks = ["0-99999", "100000-199999", "140000-239999", "240000-249999"];
    assert_eq!(s.chunks(), chunks);
}

#[tokio::test]
async fn where_next_to_nothing_arrived_it_begins_again() {
    for (kept, then) in [
        (0, &["PATCH", "PATCH", "PATCH", "PUT"][..]),
        // One byte and none look the same.
        (1, &["PATCH", "DELETE", "HEAD", "POST", "PUT"]),
    ] {
        let s = scene().await;
        s.registry.misbehave("PATCH", 1, Misdeed::CutAfter(kept));
        let methods = s.pushed().await;
        assert_eq!(methods[..3], ["POST", "PATCH", "GET"]);
        assert_eq!(methods[3..], *then, "{kept}");
    }
    let s = scene_of(CHUNK as usize, pace()).await;
    s.registry.misbehave("PUT", 1, Misdeed::CutAfter(50_000));
    s.push_and(|_| ()).await.unwrap();
    assert_eq!(s.registry.methods("/blobs/"), ["POST", "PUT", "HEAD", "POST", "PUT"]);
}

#[tokio::test]
async fn a_registry_that_wants_a_pause_gets_it() {
    let s = scene().await;
    for step in ["POST", "PATCH", "GET", "PUT"] {
        s.registry.misbehave(step, 1, later("0"));
    }
    s.pushed().await;
    let s = scene().await;
    for step in ["POST", "PATCH", "PUT"] {
        s.registry.misbehave(step, 1, answer(503));
    }
    s.pushed().await;
    assert_eq!(s.registry.methods(UPLOADS).iter().filter(|it| *it == "PUT").count(), 2);

    let s = scene().await;
    s.registry.misbehave("PATCH", 1, later("3600"));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains("answered upload with HTTP 429; try again in 3600 s"), "{shown}");
    assert_eq!(s.registry.uploads(), 0, "what is given up is let go");
    s.pushed().await;
}

#[tokio::test]
async fn trouble_without_end_comes_to_one() {
    for (step, misdeed) in [
        ("POST", answer(500)),
        ("PATCH", answer(503)),
        ("PATCH", Misdeed::CutAfter(0)),
        ("PATCH", Misdeed::CutAfter(10)),
        ("PUT", answer(503)),
        ("PUT", Misdeed::CutAfter(0)),
        ("PUT", answer(404)),
    ] {
        let s = scene().await;
        s.registry.misbehave(step, ALWAYS, misdeed.clone());
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Unavailable, "{step} {misdeed:?}: {shown}");
        let tries = s.registry.methods(UPLOADS).iter().filter(|it| *it == step).count();
        assert!((4..=8).contains(&tries), "{step} {misdeed:?}: {tries}");
    }
}

#[tokio::test]
async fn each_new_chunk_is_a_success_and_each_break_a_try() {
    let s = scene().await;
    // Three breaks between any two chunks are few enough, however many they are in all.
    for _ in 0..3 {
        s.registry.misbehave("PATCH", 3, answer(503));
        s.registry.misbehave("PATCH", 1, Misdeed::Header("x-nothing", String::new()));
    }
    s.pushed().await;
}

#[tokio::test]
async fn an_end_whose_answer_is_lost_is_found_to_be_there() {
    let s = scene().await;
    s.registry.misbehave("PUT", 1, Misdeed::Lost);
    let methods = s.pushed().await;
    assert_eq!(methods[4..], ["PUT", "GET", "HEAD"], "not a byte is sent twice");
    let s = scene_of(10, pace()).await;
    s.registry.misbehave("PUT", 1, Misdeed::Lost);
    assert_eq!(s.pushed().await, ["POST", "PUT", "HEAD"]);
    let s = scene().await;
    s.registry.misbehave("PATCH", 1, Misdeed::Lost);
    assert_eq!(s.pushed().await, ["POST", "PATCH", "GET", "PATCH", "PATCH", "PUT"]);
}

#[tokio::test]
async fn a_token_that_runs_out_on_the_way_is_renewed() {
    let mut s = scene().await;
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
    assert_eq!(s.registry.seen("/token").len(), 2);
    assert_eq!(s.chunks()[1..3], ["100000-199999", "100000-199999"], "the same chunk again");
}

#[tokio::test]
async fn a_token_known_to_have_run_out_is_not_sent_a_chunk_for() {
    let mut s = scene().await;
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
    let asked = ["POST", "POST", "PATCH", "GET", "GET", "PATCH", "PATCH", "PUT"];
    assert_eq!(methods, asked, "without a token, and with one");
}

#[tokio::test]
async fn a_registry_that_takes_long_over_the_end_is_waited_for() {
    let moment = Duration::from_millis(50);
    let s = scene_of(SIZE, Pace { answer: moment, ..pace() }).await;
    s.registry.misbehave("PUT", 1, Misdeed::Hold);
    let registry = Arc::clone(&s.registry);
    let release = tokio::spawn(async move {
        tokio::time::sleep(moment * 10).await;
        registry.release();
    });
    let methods = s.pushed().await;
    release.await.unwrap();
    assert_eq!(methods, ["POST", "PATCH", "PATCH", "PATCH", "PUT"]);

    let s = scene_of(SIZE, Pace { settle: moment, ..pace() }).await;
    s.registry.misbehave("PUT", ALWAYS, Misdeed::Hold);
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Unavailable);
    assert!(shown.contains("it cannot be reached"), "not for ever: {shown}");
}

#[tokio::test]
async fn a_range_that_lags_behind_is_of_no_account() {
    for range in ["0-99999", "0-0", "nonsense", "0-18446744073709551615"] {
        let s = scene().await;
        s.registry.misbehave("PATCH", ALWAYS, Misdeed::Header("range", range.to_owned()));
        assert_eq!(s.pushed().await, ["POST", "PATCH", "PATCH", "PATCH", "PUT"], "{range}");
    }
}

#[tokio::test]
async fn a_wrong_answer_to_how_far_it_is_costs_time_and_no_byte() {
    for range in ["0-149999", "0-49999", "0-249999", "0-250000", "1-99999", "bytes", ""] {
        let s = scene().await;
        s.registry.misbehave("PATCH", 1, Misdeed::Header("x-nothing", String::new()));
        s.registry.misbehave("PATCH", 1, answer(500));
        s.registry.misbehave("GET", ALWAYS, Misdeed::Header("range", range.to_owned()));
        s.push_and(|_| ()).await.unwrap_or_else(|error| panic!("{range}: {error}"));
        assert!(s.registry.blob("team/ws", &s.digest).unwrap() == s.bytes, "{range}");
    }
    let s = scene().await;
    s.registry.misbehave("PATCH", 1, Misdeed::CutAfter(10));
    s.registry.misbehave("GET", ALWAYS, answer(405));
    s.push_and(|_| ()).await.unwrap();
    assert!(s.registry.blob("team/ws", &s.digest).unwrap() == s.bytes, "no answer at all");
}

#[tokio::test]
async fn a_registry_that_takes_no_chunks_gets_the_whole() {
    for status in [416, 400, 405, 411] {
        let s = scene().await;
        s.registry.misbehave("PATCH", ALWAYS, answer(status));
        let methods = ["POST", "PATCH", "DELETE", "HEAD", "POST", "PUT"];
        assert_eq!(s.pushed().await, methods, "{status}");
    }
    // One that loses them.
    let s = scene().await;
    s.registry.misbehave("PATCH", ALWAYS, answer(404));
    s.push_and(|_| ()).await.unwrap();
    assert!(s.registry.blob("team/ws", &s.digest).unwrap() == s.bytes);
    // One that takes them and cannot put them together.
    let s = scene().await;
    s.registry.misbehave("PUT", 1, answer(400));
    assert_eq!(s.pushed().await[5..], ["DELETE", "HEAD", "POST", "PUT"]);

    let s = scene().await;
    s.registry.misbehave("PATCH", 1, answer(413));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Precondition);
    assert!(shown.contains("HTTP 413; what stands before the registry must let larger"), "{shown}");
}

#[tokio::test]
async fn an_upload_that_the_registry_forgets_begins_again() {
    let s = scene().await;
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
    let told = s.told.lock().unwrap().clone();
    assert_eq!(told[..4], [0, 100_000, 200_000, 0], "it says so");

    let s = scene().await;
    let registry = Arc::clone(&s.registry);
    s.push_and(|at| {
        if at == CHUNK {
            registry.forget_uploads()
        }
    })
    .await
    .unwrap();
    s.is_there();
    assert_eq!(s.chunks().len(), 4, "after the second time all of it goes at once");
}

#[tokio::test]
async fn a_location_may_be_a_path_or_a_url() {
    let s = scene().await;
    s.pushed().await;
    let s = scene().await;
    s.registry.locate_absolutely();
    s.pushed().await;
    assert!(s.registry.seen(UPLOADS).iter().all(|it| it.headers["host"] == s.registry.host()));
}

#[tokio::test]
async fn an_upload_elsewhere_gets_neither_token_nor_headers() {
    for scheme in [Scheme::Basic, Scheme::Bearer] {
        let mut s = scene().await;
        s.registry.protect("team/ws", scheme, "u", PASSWORD);
        s.keyring = s.registry.keyring("u", PASSWORD);
        let (elsewhere, _listening) = s.registry.uploads_elsewhere().await;
        let (ours, header) = (s.registry.host(), "\nheader = { x-key = \"k\" }");
        let text = format!("server = \"http://{elsewhere}\"");
        let ours = (ours.as_str(), format!("{}{header}", hosts(&s.registry)));
        let files = [(ours.0, ours.1.as_str()), (elsewhere.as_str(), text.as_str())];
        s.registries = fake::paced(&files, pace());
        s.registry.misbehave("PATCH", 1, answer(503));
        s.push_and(|_| ()).await.unwrap();
        s.is_there();
        let seen = s.registry.seen(UPLOADS);
        let (there, here): (Vec<_>, Vec<_>) =
            seen.iter().partition(|seen| seen.headers["host"] == elsewhere);
        assert_eq!((there.len(), here.len()), (6, 2), "{scheme:?}");
        let bare = |it: &&Seen| it.authorization.is_none() && !it.headers.contains_key("x-key");
        assert!(there.iter().all(bare), "{scheme:?}");
        assert!(here[1].authorization.is_some() && here[1].headers.contains_key("x-key"));

        // One that asks for a secret gets none.
        let s = Scene { told: Mutex::default(), ..s };
        s.registry.misbehave("PATCH", 1, answer(401));
        assert_eq!(s.refused().await.0, Class::Denied);
        let patches = s.registry.seen(UPLOADS).into_iter().filter(|it| it.method == "PATCH");
        assert!(patches.last().unwrap().authorization.is_none());
    }
}

#[tokio::test]
async fn uploads_to_the_node_or_its_link_are_not_followed() {
    let other = FakeRegistry::start().await;
    for (host, words) in [
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        (&other.host(), " is a loopback address"),
        ("u:must-not-be-shown@10.0.0.1", "with a user name or password"),
        ("localhost:1", " is a loopback address"),
    ] {
        let s = scene().await;
        s.registry.locate_at(host);
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Denied, "{shown}");
        assert!(shown.contains(words), "{shown}");
        assert_eq!(s.registry.methods(UPLOADS), ["POST"], "not asked again");
    }
    assert!(other.requests().is_empty());

    let s = scene().await;
    s.registry.misbehave("POST", 1, Misdeed::Header("location", "http://".to_owned()));
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Corrupt);
    assert!(shown.contains("its upload is refused: its Location is not a URL"), "{shown}");
}

#[tokio::test]
async fn a_redirected_upload_is_not_followed() {
    let thief = FakeRegistry::start().await;
    for (step, status) in [("POST", 307), ("PATCH", 308), ("PUT", 302)] {
        let s = scene().await;
        let to = format!("http://{}/x", thief.host());
        s.registry.misbehave(step, 1, Misdeed::Answer(status, vec![("location", to)]));
        assert_eq!(s.refused().await.0, Class::Precondition, "{step}");
    }
    assert!(thief.requests().is_empty());
}

#[tokio::test]
async fn a_file_that_is_not_what_it_should_be_is_not_taken() {
    let s = scene().await;
    s.file.set_len(120_000).unwrap();
    let (class, shown) = s.refused().await;
    assert_eq!(class, Class::Internal);
    assert!(shown.contains("cannot be read: it ends after 120000 bytes"), "{shown}");
    assert_eq!(s.registry.blob("team/ws", &s.digest), None);

    for size in [SIZE, 10] {
        let s = scene_of(size, pace()).await;
        s.file.write_all_at(b"other", 0).unwrap();
        let (class, shown) = s.refused().await;
        assert_eq!(class, Class::Precondition, "{shown}");
        assert!(shown.contains("answered upload with HTTP 400"), "{shown}");
        assert_eq!(s.registry.blob("team/ws", &s.digest), None);
    }
}
