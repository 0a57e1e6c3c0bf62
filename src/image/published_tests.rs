//! Pushes and pulls against other projects' registries, through a proxy that breaks connections.
//!
//! `cargo xtask test proto` runs these tests. It passes the path of each registry's program in an environment variable.

use std::{
    net::TcpListener,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{
    Keyring, Registries, Repository,
    fake::{self, OCI_MANIFEST, soon},
    push_tests::{NATIVE, manifest, read, upload},
    retry::RetryPolicy,
};
use crate::{digest::BlobDigest, error::Class};

/// A running registry of another project, for one test.
struct Published {
    /// The `host:port` at which it listens, without the breaker.
    address: String,
    _child: Child,
    _place: tempfile::TempDir,
}

/// A registry's program, with its peculiarities.
#[derive(Clone, Copy, PartialEq)]
enum Program {
    /// `registry serve CONFIG`, of the distribution project.
    Distribution3,
    /// Version 2 of the same program. After a chunk breaks off, its stored offset does not include the bytes that
    /// arrived; it ends such an upload at the next request for the offset.
    Distribution2,
    /// `crane registry serve`, of go-containerregistry: all in memory. It does not report the offset of an upload, and
    /// starts an upload instead of a mount.
    Crane,
}

impl Program {
    fn resumes(self) -> bool {
        self == Self::Distribution3
    }

    fn mounts(self) -> bool {
        self != Self::Crane
    }
}

impl Published {
    /// Starts the program that `variable` names.
    fn start(program: Program, variable: &str) -> Self {
        let binary = std::env::var_os(variable)
            .unwrap_or_else(|| panic!("{variable} must be the path of the registry's program"));
        let place = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut command = Command::new(binary);
        match program {
            Program::Distribution2 | Program::Distribution3 => {
                let config = json!({
                    "version": 0.1, "log": { "level": "error" }, "http": { "addr": address },
                    "storage": {
                        "filesystem": { "rootdirectory": place.path() },
                        "delete": { "enabled": true },
                    },
                });
                let file = place.path().join("config.yml");
                std::fs::write(&file, config.to_string()).unwrap();
                command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
            }
            Program::Crane => {
                command.args(["registry", "serve", "--address", &address]);
            }
        }
        let child = Child(command.spawn().unwrap());
        Self { address, _child: child, _place: place }
    }
}

#[tokio::test]
#[ignore = "needs the program of distribution 3 in OVL_REGISTRY"]
async fn the_registry_distribution_3_accepts_pushes_pulls_mounts_and_deletes() {
    accepts_all_requests(Program::Distribution3, "OVL_REGISTRY").await;
}

#[tokio::test]
#[ignore = "needs the program of distribution 2.8 in OVL_REGISTRY_2"]
async fn the_registry_distribution_2_accepts_pushes_pulls_mounts_and_deletes() {
    accepts_all_requests(Program::Distribution2, "OVL_REGISTRY_2").await;
}

#[tokio::test]
#[ignore = "needs the program crane in OVL_CRANE"]
async fn the_registry_of_go_containerregistry_accepts_pushes_pulls_mounts_and_deletes() {
    accepts_all_requests(Program::Crane, "OVL_CRANE").await;
}

/// A push whose connection breaks twice, a pull, a mount from another repository, and a deletion; some of them
/// repeated.
async fn accepts_all_requests(program: Program, variable: &str) {
    let published = Published::start(program, variable);
    let breaker = Breaker::start(published.address.clone()).await;
    let host = breaker.host.clone();
    let retry =
        RetryPolicy { first: Duration::from_millis(100), chunk: 1 << 20, ..RetryPolicy::default() };
    let registries = fake::with_retry(&[(&host, &format!("server = \"http://{host}\""))], retry);
    let (to, base): (Repository, Repository) =
        (format!("{host}/team/ws").parse().unwrap(), format!("{host}/team/base").parse().unwrap());
    let anonymous = Keyring::default();
    soon(up(&registries, &to)).await;

    let tar: Vec<u8> =
        (0..5_500_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // Bytes over both tries: the first break is in the second chunk, the second one after the upload resumed, in the
    // third or fourth chunk.
    let breaks = [1_500_000, 3_000_000];
    breaker.after.lock().unwrap().extend(breaks);
    let layer = upload(&registries, &base, &tar, &anonymous).await.unwrap();
    assert!(breaker.after.lock().unwrap().is_empty(), "both breaks happened");
    let passed = breaker.passed.load(Ordering::Relaxed);
    // A registry that does not resume gets the bytes before the breaks again. The rest is for what was in flight at a
    // break.
    let again = if program.resumes() { 0 } else { breaks[1] } + (1 << 20);
    assert!(passed < tar.len() + again, "only lost bytes are sent again: {passed}");
    assert!(!registries.has_blob(&to, &BlobDigest::of(b"elsewhere"), &anonymous).await.unwrap());
    let mounted = registries.mount_blob(&to, &layer, &base, &anonymous).await.unwrap();
    assert_eq!(mounted, program.mounts());
    let absent = BlobDigest::of(b"absent");
    assert!(!registries.mount_blob(&to, &absent, &base, &anonymous).await.unwrap());
    upload(&registries, &to, b"", &anonymous).await.unwrap();
    upload(&registries, &to, &tar, &anonymous).await.unwrap();

    let config = json!({ "architecture": "amd64", "os": "linux",
                         "rootfs": { "type": "layers", "diff_ids": [layer] } })
    .to_string();
    upload(&registries, &to, config.as_bytes(), &anonymous).await.unwrap();
    let text = manifest(config.as_bytes(), &[(NATIVE, &tar)]).to_string();
    let putting =
        registries.push_manifest(&to, "snap-1", OCI_MANIFEST, text.as_bytes(), &anonymous);
    let digest = putting.await.unwrap();
    for reference in [to.at(&digest), format!("{to}:snap-1").parse().unwrap()] {
        let image = registries.resolve(&reference, &anonymous).await.unwrap();
        assert_eq!(image.digest, digest);
        let blob = registries.blob(&image, &image.layers[0], &anonymous).await.unwrap();
        assert!(read(blob).await == tar);
    }
    assert!(registries.delete_manifest(&to, &digest, &anonymous).await.unwrap());
    assert!(registries.delete_manifest(&to, &digest, &anonymous).await.unwrap());
    let error = registries.resolve(&to.at(&digest), &anonymous).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

/// Waits until the registry responds.
async fn up(registries: &Registries, to: &Repository) {
    while registries.has_blob(to, &BlobDigest::of(b""), &Keyring::default()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A proxy that breaks a connection each time that the total of bytes reaches the next number in `after`.
struct Breaker {
    host: String,
    after: Arc<Mutex<Vec<usize>>>,
    passed: Arc<AtomicUsize>,
    _listening: tokio_util::task::AbortOnDropHandle<()>,
}

impl Breaker {
    async fn start(behind: String) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (after, passed) = (Arc::<Mutex<Vec<usize>>>::default(), Arc::<AtomicUsize>::default());
        let shared = (Arc::clone(&after), Arc::clone(&passed));
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (behind, (after, passed)) = (behind.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(server) = tokio::net::TcpStream::connect(behind).await else { return };
                    let ((mut from, mut back), (mut responses, mut to)) =
                        (client.into_split(), server.into_split());
                    let up = async {
                        let mut piece = vec![0; 16 << 10];
                        while let Ok(count @ 1..) = from.read(&mut piece).await {
                            if to.write_all(&piece[..count]).await.is_err() {
                                return;
                            }
                            let all = passed.fetch_add(count, Ordering::Relaxed);
                            let mut after = after.lock().unwrap();
                            if after.first().is_some_and(|after| all + count >= *after) {
                                after.remove(0);
                                return;
                            }
                        }
                    };
                    let down = tokio::io::copy(&mut responses, &mut back);
                    tokio::select! { () = up => (), _ = down => () }
                });
            }
        });
        let _listening = tokio_util::task::AbortOnDropHandle::new(listening);
        Self { host, after, passed, _listening }
    }
}
