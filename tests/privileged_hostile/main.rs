//! Runs known attacks of hostile tenants against the real driver, with the memory limit of the chart and on a small
//! disk. The process must not end, its start must not depend on what the attacks left, and small volumes of another
//! namespace must be served throughout.
//!
//! `cargo test --test privileged_hostile -- --ignored --nocapture` prints the figures of docs/reliability.md.

// A test fails by panicking, and prints its figures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod captures;
mod node;
mod registry;
#[path = "../support/node.rs"]
mod support;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use csi::node_client::NodeClient;
use node::{DISK, Driver, MEMORY, MIN_FREE, Node, START};
use registry::{Blob, GZIP, INDEX, Registry, compressible_layer, noise, tar};
use rustix::fs::{FallocateFlags, Mode, OFlags, mkdirat, openat};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};

#[allow(dead_code, missing_docs, reason = "the server's half is not called here")]
mod csi {
    tonic::include_proto!("csi.v1");
}

/// The longest time for a neighbour's small volume with an image that is not on the node.
const SOON: Duration = Duration::from_secs(5);
/// How long an attack lasts.
const ATTACK_TIME: Duration = Duration::from_secs(8);
/// How long an attack waits for an expected response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The node, the registry and the client that an attack uses.
#[derive(Clone)]
struct Attacker {
    node: Arc<Node>,
    bad: Registry,
    client: NodeClient<Channel>,
}

/// The environment of all attacks, with the measurements.
struct Environment {
    /// First, so that the driver ends before its node is dropped.
    running: Option<(Driver, NodeClient<Channel>)>,
    node: Arc<Node>,
    bad: Registry,
    good: Registry,
    served: usize,
    slowest: Duration,
    slowest_start: Duration,
}

/// How a neighbour was served.
#[derive(Default)]
struct Served {
    count: usize,
    slowest: Duration,
    last: Option<Status>,
}

impl Environment {
    async fn new() -> Self {
        let (bad, good) = (Registry::start().await, Registry::start().await);
        let node = Arc::new(Node::new(&[&bad.host, &good.host]));
        let (served, zero) = (0, Duration::ZERO);
        Self { node, bad, good, running: None, served, slowest: zero, slowest_start: zero }
    }

    /// Kills the driver, and starts the next one.
    async fn restart(&mut self, what: &str) {
        self.running = None;
        let (driver, client, took) = self.node.start().await;
        eprintln!("{what}: serves {} ms after its start", took.as_millis());
        assert!(took < START, "{what}: the start took {took:?}");
        self.slowest_start = self.slowest_start.max(took);
        self.running = Some((driver, client));
    }

    /// Runs an attack next to a neighbour. Then starts the driver again on the state that the attack left.
    async fn attack(&mut self, what: &str, attack: impl AsyncFnOnce(Attacker)) {
        let start = Instant::now();
        let (_, client) = self.running.as_ref().unwrap();
        let attacker =
            Attacker { node: self.node.clone(), bad: self.bad.clone(), client: client.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let neighbour = neighbour(attacker.clone(), self.good.clone(), self.served, stop.clone());
        let neighbour = tokio::spawn(neighbour);
        attack(attacker).await;
        stop.store(true, Relaxed);
        let Served { count, slowest, last } = neighbour.await.unwrap();
        let measured = &self.node.measured;
        eprintln!(
            "{what}: {:.1} s; {count} volumes of a neighbour, the slowest {} ms; memory so far {} MiB, free so far {} MiB",
            start.elapsed().as_secs_f64(),
            slowest.as_millis(),
            measured.memory.load(Relaxed) >> 20,
            measured.free.load(Relaxed) >> 20,
        );
        let (driver, _) = self.running.as_mut().unwrap();
        assert_eq!(driver.0.try_wait().unwrap(), None, "{what}: the driver has ended");
        assert_eq!(
            self.node.cgroup.killed(),
            0,
            "{what}: the kernel killed a process for lack of memory"
        );
        assert!(
            count > 0 && slowest < SOON,
            "{what}: a neighbour waited for {slowest:?}: {last:?}"
        );
        (self.served, self.slowest) = (self.served + count, self.slowest.max(slowest));
        self.restart(what).await;
    }
}

/// Serves a neighbour: pods of another namespace, one after the other, each with a new small image and a new volume.
async fn neighbour(
    attacker: Attacker,
    good: Registry,
    from: usize,
    stop: Arc<AtomicBool>,
) -> Served {
    let Attacker { node, mut client, .. } = attacker;
    let mut served = Served::default();
    while !stop.load(Relaxed) {
        let id = format!("quiet-{}", from + served.count);
        let image = good.push_tar(&id, tar("file", id.as_bytes()), "{}");
        let start = Instant::now();
        // As the kubelet, it tries again after any error, at first after half a second.
        while start.elapsed() < SOON {
            let request = node.publish("quiet", &id, &[("image", &image)]);
            match timeout(SOON, client.node_publish_volume(request)).await {
                Ok(Ok(_)) => break,
                Ok(Err(status)) => served.last = Some(status),
                Err(_) => served.last = Some(Status::deadline_exceeded("no response")),
            }
            sleep(Duration::from_millis(500)).await;
        }
        served.slowest = served.slowest.max(start.elapsed());
        if served.slowest < SOON {
            assert_eq!(fs::read(node.target("quiet", &id).join("file")).unwrap(), id.as_bytes());
        }
        node.remove(&client, "quiet", &id).await;
        served.count += 1;
        sleep(Duration::from_millis(50)).await;
    }
    served
}

/// A volume that a hostile pod requests: namespace, id and attributes.
type VolumeRequest = (String, String, Vec<(&'static str, String)>);

impl Attacker {
    /// Calls publish once for a volume.
    async fn publish(&self, (namespace, id, attributes): &VolumeRequest) -> Result<(), Status> {
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let request = self.node.publish(namespace, id, &attributes);
        self.client.clone().node_publish_volume(request).await.map(drop)
    }

    /// Requests all volumes concurrently, and repeats each request after any response, for [`ATTACK_TIME`] or until the
    /// driver responds with `awaited`. Then removes the volumes. Returns the codes of all responses.
    async fn flood(&self, requests: Vec<VolumeRequest>, awaited: Option<Code>) -> Vec<Code> {
        let mut calls = JoinSet::new();
        let (send, mut received) = tokio::sync::mpsc::unbounded_channel();
        for request in requests.clone() {
            let (attacker, send) = (self.clone(), send.clone());
            calls.spawn(async move {
                loop {
                    let code =
                        attacker.publish(&request).await.map_or_else(|s| s.code(), |()| Code::Ok);
                    let _ = send.send(code);
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
        let mut codes = Vec::new();
        let collect = async {
            while let Some(code) = received.recv().await {
                codes.push(code);
                if awaited == Some(code) {
                    break;
                }
            }
        };
        let limit = if awaited.is_some() { RESPONSE_TIMEOUT } else { ATTACK_TIME };
        let _ = timeout(limit, collect).await;
        calls.shutdown().await;
        for (namespace, id, _) in &requests {
            self.node.remove(&self.client, namespace, id).await;
        }
        codes
    }
}

fn request(namespace: &str, id: &str, attributes: &[(&'static str, &str)]) -> VolumeRequest {
    let attributes = attributes.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    (namespace.to_owned(), id.to_owned(), attributes)
}

/// Images with configs of megabytes. Each volume is removed before the next.
async fn large_configs(attacker: Attacker) {
    for (size, allowed, count) in [(1_000_000, true, 36), (8 << 20, false, 12)] {
        let label = "x".repeat(size);
        for n in 0..count {
            let name = format!("config-{size}-{n}");
            let config = format!("{{\"Labels\":{{\"n\":\"{n}\",\"x\":\"{label}\"}}}}");
            let image = attacker.bad.push_tar(&name, tar("file", name.as_bytes()), &config);
            let volume = request("bad", &name, &[("image", &image)]);
            let published = attacker.publish(&volume).await;
            assert_eq!(published.is_ok(), allowed, "{published:?}");
            attacker.node.remove(&attacker.client, "bad", &name).await;
        }
    }
}

/// Volumes of many images, each with an index of 4 MiB of empty entries.
async fn many_images(attacker: Attacker) {
    let many = vec![attacker.bad.reference("none"); 100].join(" ");
    let refused = attacker.publish(&request("bad", "hundred", &[("images", &many)])).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let mut index = format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{{}}");
    while index.len() < (4 << 20) - 8 {
        index.push_str(",{}");
    }
    index.push_str("]}");
    let index = bytes::Bytes::from(index);
    let mut volumes = Vec::new();
    for n in 0..8 {
        let images: Vec<_> = (0..32).map(|i| format!("index-{n}-{i}")).collect();
        images.iter().for_each(|name| attacker.bad.put_manifest(name, INDEX, index.clone()));
        let images: Vec<_> = images.iter().map(|name| attacker.bad.reference(name)).collect();
        let namespace = format!("bad-{}", n % 4);
        volumes.push(request(&namespace, &format!("index-{n}"), &[("images", &images.join(" "))]));
    }
    let codes = attacker.flood(volumes, None).await;
    assert!(!codes.contains(&Code::Ok));
}

/// More slow layers than a node downloads at the same time, in several namespaces.
async fn slow_layers(attacker: Attacker) {
    let mut volumes = Vec::new();
    for n in 0..24 {
        let name = format!("slow-{n}");
        let mut layer = Blob::of(tar(&name, &noise(1 << 20)));
        let diff_id = layer.digest();
        layer.is_slow = true;
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let image = attacker.bad.push(&name, (kind, layer), diff_id, "{}");
        volumes.push(request(&format!("bad-{}", n % 6), &name, &[("image", &image)]));
    }
    let codes = attacker.flood(volumes, None).await;
    assert!(!codes.contains(&Code::Ok));
}

/// A file that is larger than the driver's memory and is to be copied into memory.
async fn into_memory(attacker: Attacker) {
    let (layer, diff_id) = compressible_layer("large", 560 << 20, b'x');
    let image = attacker.bad.push("large", (GZIP, layer), diff_id, "{}");
    let attributes = [("image", &*image), ("medium", "Memory"), ("size", "700Mi")];
    let both = [&attributes[..], &[("preCopyUp", "large")]].concat();
    let refused = attacker.publish(&request("bad", "copied", &both)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    attacker.publish(&request("bad", "large", &attributes)).await.unwrap();
    let target = attacker.node.target("bad", "large");
    assert_eq!(fs::metadata(target.join("large")).unwrap().len(), 560 << 20);
    attacker.node.remove(&attacker.client, "bad", "large").await;
}

/// Layers of a few MiB that unpack to more bytes than the disk has.
async fn decompression_bombs(attacker: Attacker) {
    // Other files use a part of the disk, so it is soon full.
    let others = attacker.node.path("disk/others");
    let file = fs::File::create(&others).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, DISK / 4).unwrap();
    let mut volumes = Vec::new();
    for n in 0..4_u8 {
        let (layer, diff_id) = compressible_layer("large", 2 * DISK, b'a' + n);
        let image = attacker.bad.push(&format!("bomb-{n}"), (GZIP, layer), diff_id, "{}");
        volumes.push(request(&format!("bad-{n}"), &format!("bomb-{n}"), &[("image", &image)]));
    }
    let codes = attacker.flood(volumes, Some(Code::ResourceExhausted)).await;
    fs::remove_file(others).unwrap();
    assert!(codes.contains(&Code::ResourceExhausted) && !codes.contains(&Code::Ok), "{codes:?}");
}

/// A tree so deep that a walk which keeps all its parents does not fit into memory.
async fn deep_tree(attacker: Attacker, depth: usize) {
    attacker.publish(&request("bad", "deep", &[])).await.unwrap();
    let target = attacker.node.target("bad", "deep");
    spawn_blocking(move || dig(&target, depth)).await.unwrap();
}

fn dig(at: &Path, depth: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut here = rustix::fs::open(at, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = openat(&here, "d", flags, Mode::empty()).unwrap();
    }
}

/// Waits until the deeper tree is removed. The neighbour's images leave some thousand files.
async fn wait_until_removed(node: &Node) {
    let start = Instant::now();
    let files_in_use = || {
        let files = rustix::fs::statvfs(node.path("disk")).unwrap();
        files.f_files - files.f_ffree
    };
    while files_in_use() > 20_000 {
        let count = files_in_use();
        assert!(start.elapsed() < Duration::from_secs(60), "{count} files are left");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts, a disk on a loop device, a memory cgroup"]
async fn privileged_hostile_tenants_neither_end_the_driver_nor_delay_others() {
    let start = Instant::now();
    let mut environment = Environment::new().await;
    environment.restart("an empty store").await;
    environment.attack("no attack", async |_| sleep(ATTACK_TIME / 4).await).await;
    environment.attack("large configs", large_configs).await;
    environment.attack("volumes of many images", many_images).await;
    environment.attack("slow registries", slow_layers).await;
    environment.attack("snapshots that do not fit", captures::large).await;
    environment.attack("forty snapshots of many names", captures::many).await;
    environment.attack("a large file for memory", into_memory).await;
    environment.attack("decompression bombs", decompression_bombs).await;
    environment
        .attack("a deep tree", async |attacker| {
            deep_tree(attacker.clone(), 50_000).await;
            attacker.node.remove(&attacker.client, "bad", "deep").await;
        })
        .await;
    environment.attack("a deeper tree", async |attacker| deep_tree(attacker, 400_000).await).await;
    // The kernel has no part of the tree in memory when it is removed, and the next process finds most of it in
    // staging.
    for left in ["a deeper tree after a reboot", "a deeper tree half removed"] {
        environment.running = None;
        environment.node.remount_disk();
        environment.restart(left).await;
        let (_, client) = environment.running.as_ref().unwrap();
        environment.node.remove(client, "bad", "deep").await;
    }
    let node = environment.node.clone();
    environment
        .attack("the removal of a deeper tree", async |_| wait_until_removed(&node).await)
        .await;

    let (memory, free) = (node.measured.memory.load(Relaxed), node.measured.free.load(Relaxed));
    eprintln!(
        "all of it: {} s; most memory {} of {} MiB, least free disk {} of {} MiB, slowest of {} volumes of a neighbour {} ms, \
         slowest start {} ms",
        start.elapsed().as_secs(),
        memory >> 20,
        MEMORY >> 20,
        free >> 20,
        DISK >> 20,
        environment.served,
        environment.slowest.as_millis(),
        environment.slowest_start.as_millis(),
    );
    // A little below the configured minimum: the file system uses some space itself.
    assert!(free >= DISK / 100 * (MIN_FREE - 1), "{free} bytes were free");
}
