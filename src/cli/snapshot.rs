//! `ovl snapshot`: snapshots of a node that has no cluster, asked of its `ovl node`.
//!
//! Deliberately absent: snapshots of a cluster, which `kubectl ovl` asks the API server for.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::{runtime::Builder, time::sleep};

use super::Failure;
use crate::{
    csi::{CaptureVolumeRequest, Endpoint, LocalClient, PushSnapshotRequest, Snapshot},
    units,
};

/// How often somebody who waits is told how far a push is.
const NEWS: Duration = Duration::from_secs(2);

/// Take and push snapshots of this node's volumes, where `ovl node` runs without a cluster
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    /// The socket of the node
    #[arg(
        long,
        global = true,
        env = "OVL_LOCAL_ENDPOINT",
        default_value = "unix:///var/lib/kubelet/plugins/ovl.csi.dev/ovl.sock",
        value_name = "unix:///PATH"
    )]
    local_endpoint: Endpoint,
    /// How it is said
    #[arg(short, long, global = true, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// For people: a line a snapshot
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Keep what a volume's pod has written; volumes start from it with the attribute `snapshot: NAME`
    Take(TakeArgs),
    /// Push a snapshot to a registry, so that other nodes can have it
    Push(PushArgs),
    /// List this node's snapshots
    List,
    /// Remove a snapshot from its registry and from this node
    Delete {
        /// The snapshot
        name: String,
    },
}

#[derive(Debug, Args)]
struct TakeArgs {
    /// The volume, by the id that CSI calls it by
    volume: String,
    /// What the snapshot is called
    name: String,
    /// The pod does not stand still: each file is as it was at some moment meanwhile
    #[arg(long)]
    live: bool,
    /// For how many milliseconds the pod may stand still
    #[arg(long, default_value = "5000", value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    within: u32,
    /// As --live where the pod would have to stand still for longer than that
    #[arg(long)]
    or_live: bool,
    /// Push it as well
    #[arg(long)]
    push: bool,
    #[command(flatten)]
    to: To,
}

#[derive(Debug, Args)]
struct PushArgs {
    /// The snapshot
    name: String,
    #[command(flatten)]
    to: To,
}

#[derive(Debug, Args)]
struct To {
    /// Whereto: registry/repository [default: the node's --snapshot-repository]
    #[arg(long, value_name = "REPOSITORY")]
    to: Option<String>,
    /// What its layer is: portable for any runtime, native for ovl-csi alone
    #[arg(id = "layer_format", long = "format", default_value = "portable", value_name = "FORMAT")]
    format: Format,
    /// How its layer is packed
    #[arg(long, default_value = "zstd")]
    compression: Compression,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Portable,
    Native,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compression {
    Zstd,
    Gzip,
    None,
}

pub(super) fn run(args: &SnapshotArgs) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start the runtime")?.block_on(ask(args))?)
}

async fn ask(args: &SnapshotArgs) -> anyhow::Result<()> {
    let mut node = LocalClient::connect(&args.local_endpoint).await?;
    let said = match &args.what {
        What::Take(take) => {
            let request = CaptureVolumeRequest {
                name: take.name.clone(),
                volume: take.volume.clone(),
                live: take.live,
                within_millis: take.within,
                or_live: take.or_live,
            };
            let taken = node.capture(request).await?;
            match take.push {
                true => pushed(push(&node, &take.name, &take.to).await?, args.output),
                false => shown(&taken, args.output),
            }
        }
        What::Push(args_of) => pushed(push(&node, &args_of.name, &args_of.to).await?, args.output),
        What::List => list(&node.list().await?, args.output),
        What::Delete { name } => match node.delete(name.clone()).await? {
            true => String::new(),
            false => format!(
                "{name} is gone from here; its registry deletes nothing, so its manifest stays there\n"
            ),
        },
    };
    io::stdout().write_all(said.as_bytes()).context("cannot write to stdout")
}

/// Pushes, and says on stderr how far it is.
async fn push(node: &LocalClient, name: &str, to: &To) -> anyhow::Result<(Snapshot, u64)> {
    let request = PushSnapshotRequest {
        name: name.to_owned(),
        repository: to.to.clone().unwrap_or_default(),
        format: word(to.format),
        compression: word(to.compression),
    };
    let (mut pushing, mut looking) = (node.clone(), node.clone());
    let news = async {
        let mut said = String::new();
        loop {
            sleep(NEWS).await;
            // The push itself says what is wrong.
            let all = looking.list().await.unwrap_or_default();
            let now = all.into_iter().find(|one| one.name == name).map(|one| one.pushing);
            if let Some(now) = now.filter(|now| !now.is_empty() && *now != said) {
                // Who closes stderr does not want to know.
                let _ = writeln!(io::stderr(), "{now}");
                said = now;
            }
        }
    };
    tokio::select! {
        pushed = pushing.push(request) => Ok(pushed?),
        never = news => never,
    }
}

/// What the command line calls a value.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn pushed((snapshot, sent): (Snapshot, u64), output: Output) -> String {
    match output {
        Output::Text => {
            format!("{}{} had to be sent\n", shown(&snapshot, output), units::bytes(sent))
        }
        Output::Json => {
            let mut said = object(&snapshot);
            said["sent"] = json!(sent);
            format!("{said:#}\n")
        }
    }
}

fn shown(snapshot: &Snapshot, output: Output) -> String {
    match output {
        Output::Json => format!("{:#}\n", object(snapshot)),
        Output::Text => line(snapshot),
    }
}

fn list(snapshots: &[Snapshot], output: Output) -> String {
    match output {
        Output::Json => {
            let items: Vec<_> = snapshots.iter().map(object).collect();
            format!("{:#}\n", json!({ "items": items }))
        }
        Output::Text => snapshots.iter().map(line).collect(),
    }
}

fn line(snapshot: &Snapshot) -> String {
    let still = match snapshot.frozen_micros {
        Some(micros) => format!("stood still for {}.{} ms", micros / 1000, micros % 1000 / 100),
        None => "did not stand still".to_owned(),
    };
    let place = match (snapshot.image.as_str(), snapshot.pushing.as_str()) {
        ("", "") => "on this node only",
        ("", pushing) => pushing,
        (image, _) => image,
    };
    format!(
        "{}  {}/{} {}  {} entries, {}, {} layers  pod {still}  {place}\n",
        snapshot.name,
        snapshot.namespace,
        snapshot.pod,
        snapshot.volume,
        snapshot.entries,
        units::bytes(snapshot.bytes),
        snapshot.layers,
    )
}

fn object(snapshot: &Snapshot) -> Value {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    json!({
        "name": snapshot.name,
        "namespace": snapshot.namespace,
        "pod": snapshot.pod,
        "volume": snapshot.volume,
        "captured": snapshot.captured,
        "frozenMicros": snapshot.frozen_micros,
        "entries": snapshot.entries,
        "bytes": snapshot.bytes,
        "layers": snapshot.layers,
        "ownLayers": snapshot.own_layers,
        "parent": text(&snapshot.parent),
        "image": text(&snapshot.image),
        "pushing": text(&snapshot.pushing),
    })
}
