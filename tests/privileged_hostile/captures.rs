//! Snapshots by the dozen, of volumes that are large or have many names.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::{JoinSet, spawn_blocking};

use super::{Node, Stage, node::MIB, registry::noise, wanted};

/// How long a neighbour's snapshot may take while a namespace has many on their way: as long as one of these.
const SOON: Duration = Duration::from_secs(20);

fn snapshot(node: &Node, args: &[&str]) -> Output {
    let socket = node.path("kubelet/plugins/ovl.csi.dev/ovl.sock");
    let mut ovl = Command::new(env!("CARGO_BIN_EXE_ovl"));
    let to = format!("unix://{}", socket.display());
    ovl.args(["snapshot", "--local-endpoint", &to]).args(args).output().unwrap()
}

/// Takes a snapshot of a volume while its pod runs; what was said where it is not taken.
async fn take(node: &Arc<Node>, volume: &str, name: &str) -> Result<(), String> {
    let (node, volume, name) = (node.clone(), volume.to_owned(), name.to_owned());
    let take = move || snapshot(&node, &["take", &volume, &name, "--live"]);
    let done = spawn_blocking(take).await.unwrap();
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

/// Takes these snapshots at once and removes those that there are; returns which were not taken, and why.
async fn take_all(stage: &Stage, wanted: Vec<(String, String)>) -> Vec<String> {
    let mut takes = JoinSet::new();
    for (volume, name) in wanted {
        let node = stage.node.clone();
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
        assert!(snapshot(&stage.node, &["delete", &name]).status.success());
    }
    refused
}

/// A volume of each of some namespaces, filled.
async fn filled(stage: &Stage, count: usize, fill: fn(PathBuf)) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|n| format!("full-{n}")).collect();
    let mut fills = JoinSet::new();
    for (n, id) in ids.iter().enumerate() {
        let namespace = format!("bad-{n}");
        stage.publish(&wanted(&namespace, id, &[])).await.unwrap();
        let target = stage.node.target(&namespace, id);
        fills.spawn_blocking(move || fill(target));
    }
    while let Some(done) = fills.join_next().await {
        done.unwrap();
    }
    ids
}

async fn emptied(stage: &Stage, ids: &[String]) {
    for (n, id) in ids.iter().enumerate() {
        stage.node.remove(&stage.client, &format!("bad-{n}"), id).await;
    }
}

/// More bytes of snapshots than the disk has room for.
pub async fn large(stage: Stage) {
    let fill = |target: PathBuf| fs::write(target.join("large"), noise(150 * MIB)).unwrap();
    let ids = filled(&stage, 3, fill).await;
    let all = ids.iter().flat_map(|id| (0..3).map(move |n| (id.clone(), format!("{id}-{n}"))));
    let refused = take_all(&stage, all.collect()).await;
    assert!(refused.iter().any(|why| why.contains("the snapshots of")), "{refused:?}");
    emptied(&stage, &ids).await;
}

/// Forty snapshots of volumes with the longest names, and one of somebody else's small volume.
pub async fn many(stage: Stage) {
    let fill = |target: PathBuf| {
        for n in 0..15_000 {
            File::create(target.join(format!("{n:0240}"))).unwrap();
        }
    };
    let ids = filled(&stage, 4, fill).await;
    stage.publish(&wanted("small", "small", &[])).await.unwrap();
    fs::write(stage.node.target("small", "small").join("file"), "x").unwrap();
    let node = stage.node.clone();
    let neighbour = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        take(&node, "small", "small").await.unwrap();
        begun.elapsed()
    });
    let all = (0..40).map(|n| (ids[n % ids.len()].clone(), format!("many-{n}")));
    take_all(&stage, all.collect()).await;
    let took = neighbour.await.unwrap();
    eprintln!("a neighbour's snapshot beside forty: {} ms", took.as_millis());
    assert!(took < SOON, "{took:?}");
    assert!(snapshot(&stage.node, &["delete", "small"]).status.success());
    stage.node.remove(&stage.client, "small", "small").await;
    emptied(&stage, &ids).await;
}
