//! Attacks with dozens of snapshots, of volumes that are large or have many names.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::{JoinSet, spawn_blocking};

use super::{Attacker, Node, node::MIB, registry::noise, request};

/// The longest time for a neighbour's snapshot while a namespace takes many: the time of one of these.
const SOON: Duration = Duration::from_secs(20);

fn snapshot(node: &Node, args: &[&str]) -> Output {
    let socket = node.path("kubelet/plugins/ovl.csi.dev/ovl.sock");
    let mut ovl = Command::new(env!("CARGO_BIN_EXE_ovl"));
    let to = format!("unix://{}", socket.display());
    ovl.args(["node-snapshot", "--local-endpoint", &to]).args(args).output().unwrap()
}

/// Takes a live snapshot of a volume. The error is the output of the command.
async fn take(node: &Arc<Node>, volume: &str, name: &str) -> Result<(), String> {
    let (node, volume, name) = (node.clone(), volume.to_owned(), name.to_owned());
    let take = move || snapshot(&node, &["take", &volume, &name, "--live"]);
    let done = spawn_blocking(take).await.unwrap();
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

/// Takes these snapshots concurrently and deletes those that were taken. Returns the errors of the others.
async fn take_all(attacker: &Attacker, snapshots: Vec<(String, String)>) -> Vec<String> {
    let mut takes = JoinSet::new();
    for (volume, name) in snapshots {
        let node = attacker.node.clone();
        takes.spawn(async move { take(&node, &volume, &name).await.map(|()| name) });
    }
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    while let Some(done) = takes.join_next().await {
        match done.unwrap() {
            Ok(name) => taken.push(name),
            Err(why) => refused.push(why),
        }
    }
    assert!(!taken.is_empty(), "{refused:?}");
    for name in taken {
        assert!(snapshot(&attacker.node, &["delete", &name]).status.success());
    }
    refused
}

/// Publishes and fills volumes, one in each of `count` namespaces.
async fn filled(attacker: &Attacker, count: usize, fill: fn(PathBuf)) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|n| format!("full-{n}")).collect();
    let mut fills = JoinSet::new();
    for (n, id) in ids.iter().enumerate() {
        let namespace = format!("bad-{n}");
        attacker.publish(&request(&namespace, id, &[])).await.unwrap();
        let target = attacker.node.target(&namespace, id);
        fills.spawn_blocking(move || fill(target));
    }
    while let Some(done) = fills.join_next().await {
        done.unwrap();
    }
    ids
}

async fn remove_all(attacker: &Attacker, ids: &[String]) {
    for (n, id) in ids.iter().enumerate() {
        attacker.node.remove(&attacker.client, &format!("bad-{n}"), id).await;
    }
}

/// Snapshots with more bytes than the disk has.
pub async fn large(attacker: Attacker) {
    let fill = |target: PathBuf| fs::write(target.join("large"), noise(150 * MIB)).unwrap();
    let ids = filled(&attacker, 3, fill).await;
    let all = ids.iter().flat_map(|id| (0..3).map(move |n| (id.clone(), format!("{id}-{n}"))));
    let refused = take_all(&attacker, all.collect()).await;
    assert!(refused.iter().any(|why| why.contains("the snapshots of")), "{refused:?}");
    remove_all(&attacker, &ids).await;
}

/// Forty snapshots of volumes with the longest names, and one of a neighbour's small volume.
pub async fn many(attacker: Attacker) {
    let fill = |target: PathBuf| {
        for n in 0..15_000 {
            File::create(target.join(format!("{n:0240}"))).unwrap();
        }
    };
    let ids = filled(&attacker, 4, fill).await;
    attacker.publish(&request("small", "small", &[])).await.unwrap();
    fs::write(attacker.node.target("small", "small").join("file"), "x").unwrap();
    let node = attacker.node.clone();
    let neighbour = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        take(&node, "small", "small").await.unwrap();
        start.elapsed()
    });
    let all = (0..40).map(|n| (ids[n % ids.len()].clone(), format!("many-{n}")));
    take_all(&attacker, all.collect()).await;
    let took = neighbour.await.unwrap();
    eprintln!("a neighbour's snapshot next to forty others: {} ms", took.as_millis());
    assert!(took < SOON, "{took:?}");
    assert!(snapshot(&attacker.node, &["delete", "small"]).status.success());
    attacker.node.remove(&attacker.client, "small", "small").await;
    remove_all(&attacker, &ids).await;
}
