//! `kubectl ovl diff`: which files differ between two snapshots, read from the registry.

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{
    Failure, Form, Here, Output,
    compare::{Difference, compare},
    known::Snapshot,
    object_name, print,
    progress::Progress,
    registry::{Access, RegistryArgs},
    sides::Side,
};
use crate::{
    changeset::{Limits, list},
    image::{Image, LayerBlob, Reference},
    units,
};

/// What stands below `diff --help`.
const LETTERS: &str = "\
Each line begins with
  A   only B has it
  C   both have it, and it differs
  D   only A has it
  AC  B has it, A may have another
  CD  A has it, B may have another";

/// Show which files differ between two pushed snapshots.
///
/// Reads the snapshots' layers from the registry with your own credentials. Layers that both have in common are skipped; so of a
/// file that only one side's layers name, it is not known whether the other has it: AC and CD. --base reads these layers too,
/// which may be much, and knows.
///
/// Compared are type, size, content, mode, owner and extended attributes; not times.
#[derive(Debug, Args)]
#[command(after_help = LETTERS)]
pub(super) struct DiffArgs {
    /// The snapshot that is compared with
    #[arg(value_name = "A", value_parser = object_name)]
    first: String,
    /// The snapshot that is compared
    #[arg(value_name = "B", value_parser = object_name)]
    second: String,
    /// Read the layers too that both have in common
    #[arg(long)]
    base: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) async fn run(here: &Here, args: &DiffArgs) -> Result<(), Failure> {
    let first = pushed(&here.snapshot(&args.first).await?)?;
    let second = pushed(&here.snapshot(&args.second).await?)?;
    let access = args.registry.open(&[&first, &second])?;
    let differences = between(&access, &first, &second, args.base).await?;
    match args.output.output {
        Form::Text => print::out(&said(&differences))?,
        Form::Json => {
            let changes: Vec<_> = differences.iter().map(object).collect();
            print::json(
                &json!({ "a": args.first, "b": args.second, "base": args.base, "changes": changes }),
            )?;
        }
    }
    Ok(())
}

/// The image that a snapshot was pushed as.
fn pushed(snapshot: &Snapshot) -> anyhow::Result<Reference> {
    let Snapshot { name, phase, image, node, .. } = snapshot;
    match (image, node) {
        (Some(image), _) => {
            image.parse().with_context(|| format!("the image of snapshot {name} cannot be read"))
        }
        (None, Some(node)) if phase == "Ready" => Err(anyhow!(
            "snapshot {name} lies on node {node} only: files of snapshots in a registry can be compared (repository in the VolumeSnapshotClass)"
        )),
        _ => Err(anyhow!("snapshot {name} is in no registry yet: it is {phase}")),
    }
}

/// What differs between two images.
pub(super) async fn between(
    access: &Access,
    first: &Reference,
    second: &Reference,
    base: bool,
) -> anyhow::Result<Vec<Difference>> {
    let mut progress = Progress::new();
    progress.say("reading the manifests");
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

/// How far the reading is.
struct Reading<'a> {
    access: &'a Access,
    progress: Progress,
    read: usize,
    total: usize,
}

impl Reading<'_> {
    /// Puts layers of an image on a side.
    async fn put(
        &mut self,
        side: &mut Side,
        image: &Image,
        layers: &[LayerBlob],
    ) -> anyhow::Result<()> {
        let Access { registries, .. } = self.access;
        for layer in layers {
            self.read += 1;
            let size = units::bytes(layer.size);
            self.progress.say(&format!("reading layer {} of {} ({size})", self.read, self.total));
            let blob = registries.blob(image, layer, self.access.keyring()).await?;
            let format = layer.format;
            let read = spawn_blocking(move || {
                let mut entries = Vec::new();
                let limits = Limits::default();
                let diff_id = list(blob, format, &limits, |e| entries.push(e))?;
                anyhow::Ok((diff_id, entries))
            });
            let read = read.await.context("the reading of a layer broke off")?;
            let (diff_id, entries) =
                read.with_context(|| format!("layer {} of {}", layer.digest, image.reference))?;
            ensure!(
                diff_id == layer.diff_id,
                "layer {} of {} holds {diff_id}, and its config promises {}",
                layer.digest,
                image.reference,
                layer.diff_id
            );
            side.put(entries);
        }
        Ok(())
    }
}

fn said(differences: &[Difference]) -> String {
    let line = |one: &Difference| {
        let slash = if one.kind == Some("folder") { "/" } else { "" };
        format!("{:<3} {}{slash}\n", one.change.letters(), print::path(&one.path))
    };
    differences.iter().map(line).collect()
}

fn object(difference: &Difference) -> Value {
    let Difference { path, change, kind, size, respects } = difference;
    let path = String::from_utf8_lossy(path);
    json!({ "path": path, "change": change, "type": kind, "size": size, "respects": respects })
}
