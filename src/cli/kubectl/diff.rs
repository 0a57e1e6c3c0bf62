//! `kubectl ovl diff`: lists the files that differ between two snapshots. It reads their layers from the registry.

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{
    args::{Output, object_name},
    compare::{Difference, compare},
    failure::Failure,
    print,
    progress::Progress,
    registry::{Access, RegistryArgs},
    session::Session,
    snapshot_view::Snapshot,
    tree::Side,
};
use crate::{
    changeset::{Limits, list},
    format,
    image::{Image, LayerBlob},
    reference::Reference,
};

/// The last lines of `diff --help`.
const LETTERS: &str = "\
Examples:
  kubectl ovl diff demo-1 demo-2
  # Exact, also for files of the layers that both share
  kubectl ovl diff demo-1 demo-2 --base

Each line begins with
  A   only B has the file
  C   both have the file, and it differs
  D   only A has the file
  AC  B has the file, and A may have another version of it
  CD  A has the file, and B may have another version of it";

/// List the files that differ between two pushed snapshots.
///
/// Reads the layers of the snapshots from the registry with your own credentials. The layers that both snapshots share
/// are not read by default. If such a layer may have a file, the command cannot know whether both snapshots have it, and
/// prints AC or CD. `--base` reads these layers too, which can be many bytes, and each change is exact.
///
/// Compares type, size, content, mode, owner and extended attributes, but not times.
#[derive(Debug, Args)]
#[command(after_help = LETTERS)]
pub(super) struct DiffArgs {
    /// The first snapshot
    #[arg(value_name = "A", value_parser = object_name)]
    first: String,
    /// The second snapshot
    #[arg(value_name = "B", value_parser = object_name)]
    second: String,
    /// Read the layers that both snapshots share, too
    #[arg(long)]
    base: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) async fn run(session: &Session, args: &DiffArgs) -> Result<(), Failure> {
    let first = pushed(&session.snapshot(&args.first).await?)?;
    let second = pushed(&session.snapshot(&args.second).await?)?;
    let access = args.registry.open(&[&first, &second])?;
    let differences = between(&access, &first, &second, args.base).await?;
    let changes: Vec<_> = differences.iter().map(object).collect();
    let result =
        json!({ "a": args.first, "b": args.second, "base": args.base, "changes": changes });
    args.output.output.print(&result, || text(&differences))?;
    Ok(())
}

/// The image of a pushed snapshot.
fn pushed(snapshot: &Snapshot) -> anyhow::Result<Reference> {
    let Snapshot { name, phase, image, node, .. } = snapshot;
    match (image, node) {
        (Some(image), _) => {
            image.parse().with_context(|| format!("the image of snapshot {name} cannot be read"))
        }
        (None, Some(node)) if phase == "Ready" => Err(anyhow!(
            "snapshot {name} is only on node {node}, and only pushed snapshots can be compared; set `repository` in the VolumeSnapshotClass"
        )),
        _ => Err(anyhow!("snapshot {name} is not in a registry yet: its phase is {phase}")),
    }
}

/// The differences between two images.
pub(super) async fn between(
    access: &Access,
    first: &Reference,
    second: &Reference,
    base: bool,
) -> anyhow::Result<Vec<Difference>> {
    let mut progress = Progress::new();
    progress.show("reading the manifests");
    let (first, second) = (access.resolve(first).await?, access.resolve(second).await?);
    let pairs = first.layers.iter().zip(&second.layers);
    let common = pairs.take_while(|(one, other)| is_same(one, other)).count();
    let (shared, mut one) = match base {
        true => (common, Side::on_nothing()),
        false => (0, Side::default()),
    };
    let (own, others) = (&first.layers[common..], &second.layers[common..]);
    let total = shared + own.len() + others.len();
    let mut reading = Reading { access, progress, read: 0, total };
    reading.put(&mut one, &first, &first.layers[..shared]).await?;
    let mut other = one.clone();
    reading.put(&mut one, &first, own).await?;
    reading.put(&mut other, &second, others).await?;
    Ok(compare(&one, &other))
}

fn is_same(one: &LayerBlob, other: &LayerBlob) -> bool {
    one.format == other.format && (one.digest == other.digest || one.diff_id == other.diff_id)
}

/// Reads layers and shows the progress.
struct Reading<'a> {
    access: &'a Access,
    progress: Progress,
    read: usize,
    total: usize,
}

impl Reading<'_> {
    /// Reads layers of an image and puts them on top of a side.
    async fn put(
        &mut self,
        side: &mut Side,
        image: &Image,
        layers: &[LayerBlob],
    ) -> anyhow::Result<()> {
        let Access { registries, .. } = self.access;
        for layer in layers {
            self.read += 1;
            let size = format::bytes(layer.size);
            self.progress.show(&format!("reading layer {} of {} ({size})", self.read, self.total));
            let blob = registries.blob(image, layer, self.access.keyring()).await?;
            let format = layer.format;
            let read = spawn_blocking(move || {
                let mut entries = Vec::new();
                let limits = Limits::default();
                let diff_id = list(blob, format, &limits, |e| entries.push(e))?;
                anyhow::Ok((diff_id, entries))
            });
            let read = read.await.context("the task that reads a layer failed")?;
            let (diff_id, entries) =
                read.with_context(|| format!("layer {} of {}", layer.digest, image.reference))?;
            ensure!(
                diff_id == layer.diff_id,
                "layer {} of {} has the content {diff_id}, but the image's config names {}",
                layer.digest,
                image.reference,
                layer.diff_id
            );
            side.put(entries);
        }
        Ok(())
    }
}

fn text(differences: &[Difference]) -> String {
    let line = |one: &Difference| {
        let slash = if one.kind == Some("directory") { "/" } else { "" };
        format!("{:<3} {}{slash}\n", one.change.letters(), print::path(&one.path))
    };
    differences.iter().map(line).collect()
}

fn object(difference: &Difference) -> Value {
    let Difference { path, change, kind, size, properties } = difference;
    let path = String::from_utf8_lossy(path);
    json!({ "path": path, "change": change, "type": kind, "size": size, "properties": properties })
}
