//! `ovl node-snapshot`: the client for snapshots of a node without a cluster. It calls `ovl node` on its local socket.
//!
//! Deliberately absent: snapshots of a cluster, which `kubectl ovl` creates in the API server.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::{runtime::Builder, time::sleep};

use super::{failure::Failure, values::Compression};
use crate::{
    csi::{CaptureVolumeRequest, Endpoint, LocalClient, PushSnapshotRequest, Snapshot},
    format,
};

/// How often the progress of a push is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Take and push snapshots of this node's volumes, on a node without a cluster
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
    /// The format of the result
    #[arg(short, long, global = true, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// One line per snapshot
    Text,
    /// JSON
    Json,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Take a snapshot of what a volume's pod has written; volumes start from it with the attribute `snapshot: NAME`
    Take(TakeArgs),
    /// Push a snapshot to a registry, from which other nodes can use it
    Push(PushArgs),
    /// List this node's snapshots
    List,
    /// Delete a snapshot from its registry and from this node
    Delete {
        /// The name of the snapshot
        name: String,
    },
}

#[derive(Debug, Args)]
struct TakeArgs {
    /// The CSI id of the volume
    volume: String,
    /// The name of the snapshot
    name: String,
    /// Do not freeze the pod: each file has its state at some moment of the capture
    #[arg(long)]
    live: bool,
    /// The longest time that the pod can be frozen, from 1ms to 1m
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = freeze_timeout)]
    freeze_timeout: u32,
    /// What to do if the pod would be frozen for longer: fail, or capture as with --live
    #[arg(long, default_value = "fail")]
    on_freeze_timeout: OnFreezeTimeout,
    /// Push the snapshot too
    #[arg(long)]
    push: bool,
    #[command(flatten)]
    to: To,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnFreezeTimeout {
    Fail,
    Live,
}

#[derive(Debug, Args)]
struct PushArgs {
    /// The name of the snapshot
    name: String,
    #[command(flatten)]
    to: To,
}

#[derive(Debug, Args)]
struct To {
    /// The target, registry/repository [default: the node's --snapshot-repository]
    #[arg(long, value_name = "REPOSITORY")]
    to: Option<String>,
    /// The format of the layers: portable for any runtime, native for ovl-csi only
    #[arg(id = "layer_format", long = "format", default_value = "portable", value_name = "FORMAT")]
    format: Format,
    /// The compression of the layers
    #[arg(long, default_value = "zstd")]
    compression: Compression,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Portable,
    Native,
}

/// Parses a duration from 1ms to 1m, as milliseconds.
fn freeze_timeout(text: &str) -> Result<u32, String> {
    let millis = format::duration(text).and_then(|time| u32::try_from(time.as_millis()).ok());
    millis
        .filter(|millis| (1..=60_000).contains(millis))
        .ok_or_else(|| "expected a duration such as 5s or 500ms, at most 1m".to_owned())
}

pub(super) fn run(args: &SnapshotArgs) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start the runtime")?.block_on(send(args))?)
}

async fn send(args: &SnapshotArgs) -> anyhow::Result<()> {
    let mut node = LocalClient::connect(&args.local_endpoint).await?;
    let text = match &args.what {
        What::Take(take) => {
            let request = CaptureVolumeRequest {
                name: take.name.clone(),
                volume: take.volume.clone(),
                live: take.live,
                freeze_timeout_millis: take.freeze_timeout,
                live_on_timeout: take.on_freeze_timeout == OnFreezeTimeout::Live,
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
                "snapshot {name} was deleted from this node; its image stays in the registry, which does not support deletion\n"
            ),
        },
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// Pushes a snapshot, and prints the progress to stderr.
async fn push(node: &LocalClient, name: &str, to: &To) -> anyhow::Result<(Snapshot, u64)> {
    let request = PushSnapshotRequest {
        name: name.to_owned(),
        repository: to.to.clone().unwrap_or_default(),
        format: word(to.format),
        compression: word(to.compression),
    };
    let (mut pushing, mut listing) = (node.clone(), node.clone());
    let print_progress = async {
        let mut printed = String::new();
        loop {
            sleep(PROGRESS_INTERVAL).await;
            // An error of the node is reported by the push itself.
            let all = listing.list().await.unwrap_or_default();
            let now = all.into_iter().find(|one| one.name == name).map(|one| one.pushing);
            if let Some(now) = now.filter(|now| !now.is_empty() && *now != printed) {
                // If stderr is closed, the progress is not wanted.
                let _ = writeln!(io::stderr(), "{now}");
                printed = now;
            }
        }
    };
    tokio::select! {
        pushed = pushing.push(request) => Ok(pushed?),
        never = print_progress => never,
    }
}

/// The name of a value on the command line.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn pushed((snapshot, sent): (Snapshot, u64), output: Output) -> String {
    match output {
        Output::Text => {
            format!("{}sent {}\n", shown(&snapshot, output), format::bytes(sent))
        }
        Output::Json => {
            let mut json = object(&snapshot);
            json["sent"] = json!(sent);
            format!("{json:#}\n")
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
    let frozen = match snapshot.frozen_micros {
        Some(micros) => format!("frozen for {}", format::span(Duration::from_micros(micros))),
        None => "not frozen".to_owned(),
    };
    let place = match (snapshot.image.as_str(), snapshot.pushing.as_str()) {
        ("", "") => "only on this node",
        ("", pushing) => pushing,
        (image, _) => image,
    };
    format!(
        "{}  {}/{} {}  {} entries, {}, {} layers  pod {frozen}  {place}\n",
        snapshot.name,
        snapshot.namespace,
        snapshot.pod,
        snapshot.volume,
        snapshot.entries,
        format::bytes(snapshot.bytes),
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
