//! Kills `ovl node` at random moments: while it pulls, unpacks layers, publishes, unpublishes, and frees space on a
//! disk that is too small for all images. The next process must find nothing unfinished, and must serve all requests.

// A test fails by panicking. It prints its seed, and what the kills left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "support/node.rs"]
mod support;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    http::{Uri, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, node_client::NodeClient};
use futures::{StreamExt as _, stream};
use ovl::{
    digest::Digest,
    layers::{Store, StoreReader},
    sys::mounts::LinuxMounts,
};
use serde_json::json;
use support::{Driver, Node, OVL, TIMEOUT, until_done};
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, transport::Channel};

#[allow(dead_code, missing_docs, reason = "the server's half is not called here")]
mod csi {
    tonic::include_proto!("csi.v1");
}

const ROUNDS: u64 = 12;
/// Volumes of each round.
const VOLUMES: u64 = 4;
/// Bytes of a layer that only one image has.
const LAYER: usize = 1 << 20;
/// Bytes of the store's disk, which is too small for all images.
const DISK: u64 = 24 << 20;
/// The namespace of all volumes.
const NAMESPACE: &str = "ci";
/// The prefix of temporary files, which are renamed when they are complete.
const TEMP_PREFIX: &str = ".ovl-tmp.";

/// Xorshift random numbers. A seed gives the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        self.0 % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count / 8).flat_map(|_| self.below(u64::MAX).to_le_bytes()).collect()
    }
}

/// A slow registry, so kills come in the middle of blobs.
#[derive(Clone, Default)]
struct Registry(Arc<Mutex<HashMap<String, (String, Bytes)>>>);

impl Registry {
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let registry = self.clone();
        let app =
            Router::new().fallback(move |uri: Uri| async move { registry.respond(uri.path()) });
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        host
    }

    fn respond(&self, path: &str) -> Response {
        let found = self.0.lock().unwrap().get(path).cloned();
        let Some((kind, bytes)) = found else {
            return Response::builder().status(404).body(Body::empty()).unwrap();
        };
        let pieces: Vec<_> = bytes.chunks(64 << 10).map(|piece| bytes.slice_ref(piece)).collect();
        let body = stream::iter(pieces).then(|piece| async {
            sleep(Duration::from_millis(1)).await;
            Ok::<_, std::io::Error>(piece)
        });
        Response::builder().header(CONTENT_TYPE, kind).body(Body::from_stream(body)).unwrap()
    }

    fn put(&self, path: &str, kind: &str, bytes: Vec<u8>) {
        self.0.lock().unwrap().insert(path.to_owned(), (kind.to_owned(), bytes.into()));
    }

    /// Adds an image of these plain tars.
    fn push(&self, tag: &str, layers: &[Vec<u8>]) {
        let blob = |kind: &str, bytes: Vec<u8>| {
            let (digest, size) = (Digest::of(&bytes), bytes.len());
            self.put(&format!("/v2/killed/blobs/{digest}"), "application/octet-stream", bytes);
            json!({ "mediaType": kind, "digest": digest, "size": size })
        };
        let ids: Vec<_> = layers.iter().map(|tar| Digest::of(tar)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().into());
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let layers: Vec<_> = layers.iter().map(|layer| blob(tar, layer.clone())).collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        for name in [tag.to_owned(), digest.to_string()] {
            self.put(&format!("/v2/killed/manifests/{name}"), kind, manifest.clone());
        }
    }
}

fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

fn start(node: &Node, form: &str) -> Driver {
    let watermarks = ["--disk-high-percent", "60", "--disk-low-percent", "30"];
    node.start(Command::new(OVL), &[&["--layer-storage", form], &watermarks[..]].concat())
}

impl Node {
    /// Files that a kill may leave only until the next start: staging and temporary files.
    fn unfinished(&self) -> Vec<PathBuf> {
        let store = self.path("disk/store");
        let mut found = entries(&store.join("staging"));
        let mut dirs = vec![store.clone(), store.join("images")];
        for part in ["layers", "volumes"] {
            dirs.extend(entries(&store.join(part)));
        }
        let is_temp =
            |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(TEMP_PREFIX);
        found.extend(dirs.iter().flat_map(|dir| entries(dir)).filter(is_temp));
        found
    }

    /// Waits until the running driver has removed all unfinished files.
    async fn wait_until_clean(&self) {
        let start = Instant::now();
        while !self.unfinished().is_empty() {
            assert!(start.elapsed() < TIMEOUT, "not removed: {:?}", self.unfinished());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Loop devices of files of this node, without that of its disk.
    fn loops(&self) -> Vec<String> {
        let files = entries(Path::new("/sys/block")).into_iter();
        let files = files.filter_map(|d| fs::read_to_string(d.join("loop/backing_file")).ok());
        let image = self.path("disk.img");
        let ours = |file: &String| {
            Path::new(file.trim()).starts_with(self.path("")) && Path::new(file.trim()) != image
        };
        files.filter(ours).collect()
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Publishes and unpublishes one volume in a loop, also after the driver was killed.
async fn publish_and_unpublish(
    mut client: NodeClient<Channel>,
    publish: NodePublishVolumeRequest,
    unpublish: NodeUnpublishVolumeRequest,
) {
    loop {
        let published = client.node_publish_volume(publish.clone()).await;
        sleep(Duration::from_millis(20)).await;
        let unpublished = client.node_unpublish_volume(unpublish.clone()).await;
        for code in [published.err(), unpublished.err()].into_iter().flatten().map(|s| s.code()) {
            // The codes of a broken connection.
            let is_disconnected =
                matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled);
            assert!(
                is_disconnected || code == Code::Aborted || code == Code::ResourceExhausted,
                "{code}"
            );
            if is_disconnected {
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// docs/hazards.md, 15.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, and a disk on a loop device"]
async fn privileged_a_node_that_is_killed_at_any_moment_recovers_at_the_next_start() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = std::env::var("OVL_TEST_SEED").map_or(now | 1, |seed| seed.parse().unwrap());
    eprintln!("OVL_TEST_SEED={seed}");
    let mut random = Random(seed);
    let registry = Registry::default();
    let host = registry.serve().await;
    let node = Node::new(DISK, &[], &[&host]);
    let base = layer("base", &random.bytes(LAYER / 2));
    let (mut tag, mut own) = (String::new(), Vec::new());
    for round in 0..ROUNDS {
        // Each third round pulls no new image, so its kills come during mounts.
        if round % 3 != 1 {
            (tag, own) = (format!("r{round}"), random.bytes(LAYER));
            let [one, two] = [0, 1].map(|_| layer("other", &random.bytes(LAYER)));
            registry.push(&tag, &[base.clone(), one, two, layer("own", &own)]);
        }
        let form = if round % 2 == 0 { "erofs" } else { "dir" };
        let image = format!("{host}/killed:{tag}");
        let publish = |id: &str| node.publish(NAMESPACE, id, &[("image", &image)]);
        let ids: Vec<_> = (0..VOLUMES).map(|n| format!("v{round}-{n}")).collect();

        let mut driver = start(&node, form);
        let client = node.connect().await;
        let mut calls = JoinSet::new();
        for id in &ids {
            let (publish, unpublish) = (publish(id), node.unpublish(NAMESPACE, id));
            calls.spawn(publish_and_unpublish(client.clone(), publish, unpublish));
        }
        sleep(Duration::from_millis(random.below(1_500))).await;
        driver.0.kill().unwrap();
        driver.0.wait().unwrap();
        calls.abort_all();
        while let Some(ended) = calls.join_next().await {
            assert!(ended.unwrap_err().is_cancelled(), "round {round}: a wrong response");
        }
        eprintln!(
            "round {round}: {} mounts, unfinished: {:?}",
            node.mounts().len(),
            node.unfinished()
        );
        // The next processes are killed during recovery.
        for _ in 0..round % 3 {
            let driver = start(&node, form);
            sleep(Duration::from_millis(random.below(80))).await;
            drop(driver);
        }

        let mut driver = start(&node, form);
        let client = node.connect().await;
        // The first collection runs at the same time, and moves what it removes to staging for a moment.
        node.wait_until_clean().await;
        for id in &ids {
            let request = publish(id);
            until_done(|| {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.node_publish_volume(request).await.map(drop) }
            })
            .await;
            assert!(
                fs::read(node.target(NAMESPACE, id).join("own")).unwrap() == own,
                "round {round}: wrong content"
            );
            fs::write(node.target(NAMESPACE, id).join("own"), "mine").unwrap();
        }
        assert_eq!(node.mounts().len() as u64, VOLUMES, "round {round}: {:?}", node.mounts());
        for id in &ids {
            node.remove(&client, NAMESPACE, id).await;
        }
        assert_eq!(node.mounts(), Vec::<String>::new(), "round {round}");
        assert_eq!(entries(&node.path("disk/store/volumes")), Vec::<PathBuf>::new(), "{round}");
        assert_eq!(entries(&node.pod(NAMESPACE)), Vec::<PathBuf>::new(), "{round}");
        // Unpublish does not wait until an upper is removed.
        node.wait_until_clean().await;
        assert!(Command::new("kill").arg(driver.0.id().to_string()).status().unwrap().success());
        assert_eq!(driver.0.wait().unwrap().code(), Some(0), "round {round}");

        assert_eq!(node.unfinished(), Vec::<PathBuf>::new(), "round {round}");
        assert_eq!(node.loops(), Vec::<String>::new(), "round {round}");
        let store = Store::open(&node.path("disk/store"), Arc::new(LinuxMounts)).unwrap();
        let checked = StoreReader::open(store.root()).unwrap().unwrap().fsck(&|_| {}).unwrap();
        assert_eq!((checked.faults, checked.unchecked), (Vec::new(), Vec::new()), "round {round}");
        assert_eq!(Arc::new(store).verify().unwrap(), [], "round {round}");
    }
    assert!(node.log().contains("layer removed"), "the disk was never too full");
}
