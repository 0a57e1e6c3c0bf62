//! Pushes and pulls against registries that others wrote, through something that breaks connections.
//!
//! What `cargo xtask test proto` starts them from is in the environment, one variable a registry.

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
    pace::Pace,
    push_tests::{NATIVE, manifest, read, upload},
};
use crate::{digest::Digest, fault::Class};

/// A registry of somebody else's, on this machine for one test.
struct Published {
    /// Where it listens, past the breaker.
    address: String,
    _child: Child,
    _place: tempfile::TempDir,
}

/// A registry's program, and what it does in a way of its own.
#[derive(Clone, Copy, PartialEq)]
enum Program {
    /// `registry serve CONFIG`, of the distribution project.
    Distribution3,
    /// The same of the series before. A chunk that breaks off leaves bytes that its own note of the offset does not know;
    /// it answers the next question about such an upload with an end of it.
    Distribution2,
    /// `crane registry serve`, of go-containerregistry: all in memory. It cannot be asked how far an upload is, and
    /// answers a mount with an upload.
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
            .unwrap_or_else(|| panic!("{variable} has to be the path of the registry's program"));
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
async fn the_registry_distribution_3_takes_all_of_it() {
    takes_all_of_it(Program::Distribution3, "OVL_REGISTRY").await;
}

#[tokio::test]
#[ignore = "needs the program of distribution 2.8 in OVL_REGISTRY_2"]
async fn the_registry_distribution_2_takes_all_of_it() {
    takes_all_of_it(Program::Distribution2, "OVL_REGISTRY_2").await;
}

#[tokio::test]
#[ignore = "needs the program crane in OVL_CRANE"]
async fn the_registry_of_go_containerregistry_takes_all_of_it() {
    takes_all_of_it(Program::Crane, "OVL_CRANE").await;
}

/// A push whose connection breaks twice, a pull, a mount from another repository, a deletion, each as often as it likes.
async fn takes_all_of_it(program: Program, variable: &str) {
    let published = Published::start(program, variable);
    let breaker = Breaker::start(published.address.clone()).await;
    let host = breaker.host.clone();
    let pace = Pace { first: Duration::from_millis(100), chunk: 1 << 20, ..Pace::default() };
    let registries = fake::paced(&[(&host, &format!("server = \"http://{host}\""))], pace);
    let (to, base): (Repository, Repository) =
        (format!("{host}/team/ws").parse().unwrap(), format!("{host}/team/base").parse().unwrap());
    let nobody = Keyring::default();
    soon(up(&registries, &to)).await;

    let tar: Vec<u8> =
        (0..5_500_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // Counted over both tries: in the second chunk, and where the upload goes on, in the third or fourth.
    let breaks = [1_500_000, 3_000_000];
    breaker.after.lock().unwrap().extend(breaks);
    let layer = upload(&registries, &base, &tar, &nobody).await.unwrap();
    assert!(breaker.after.lock().unwrap().is_empty(), "it was broken");
    let passed = breaker.passed.load(Ordering::Relaxed);
    // Up to the first break, up to the second, and the whole; or what was not yet counted at each break.
    let again = if program.resumes() { 0 } else { breaks[1] } + (1 << 20);
    assert!(passed < tar.len() + again, "no byte more than the registry lost: {passed}");
    assert!(!registries.has_blob(&to, &Digest::of(b"elsewhere"), &nobody).await.unwrap());
    let mounted = registries.mount_blob(&to, &layer, &base, &nobody).await.unwrap();
    assert_eq!(mounted, program.mounts());
    let absent = Digest::of(b"absent");
    assert!(!registries.mount_blob(&to, &absent, &base, &nobody).await.unwrap());
    upload(&registries, &to, b"", &nobody).await.unwrap();
    upload(&registries, &to, &tar, &nobody).await.unwrap();

    let config = json!({ "architecture": "amd64", "os": "linux",
                         "rootfs": { "type": "layers", "diff_ids": [layer] } })
    .to_string();
    upload(&registries, &to, config.as_bytes(), &nobody).await.unwrap();
    let text = manifest(config.as_bytes(), &[(NATIVE, &tar)]).to_string();
    let putting = registries.push_manifest(&to, "snap-1", OCI_MANIFEST, text.as_bytes(), &nobody);
    let digest = putting.await.unwrap();
    for reference in [to.at(&digest), format!("{to}:snap-1").parse().unwrap()] {
        let image = registries.resolve(&reference, &nobody).await.unwrap();
        assert_eq!(image.digest, digest);
        let blob = registries.blob(&image, &image.layers[0], &nobody).await.unwrap();
        assert!(read(blob).await == tar);
    }
    assert!(registries.delete_manifest(&to, &digest, &nobody).await.unwrap());
    assert!(registries.delete_manifest(&to, &digest, &nobody).await.unwrap());
    let error = registries.resolve(&to.at(&digest), &nobody).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

/// Waits until it answers.
async fn up(registries: &Registries, to: &Repository) {
    while registries.has_blob(to, &Digest::of(b""), &Keyring::default()).await.is_err() {
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

/// Passes bytes on, and breaks a connection where it has passed on so many.
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
                    let ((mut from, mut back), (mut answers, mut to)) =
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
                    let down = tokio::io::copy(&mut answers, &mut back);
                    tokio::select! { () = up => (), _ = down => () }
                });
            }
        });
        let _listening = tokio_util::task::AbortOnDropHandle::new(listening);
        Self { host, after, passed, _listening }
    }
}
