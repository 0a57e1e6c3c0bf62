//! `ovl image`: the images of a store.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    args::StoreArgs,
    create::{Connection, RegistryArgs},
    notes::say_unreadable,
    place::new_path,
};
use crate::{
    cli::{
        failure::Failure,
        output::{Format, Progress, counted, print, say},
        values::Compression,
    },
    error::Explained,
    format, kubectl,
    reference::Reference,
    workspaces::{Destination, ListedImage, Sent, Source, WorkspaceError, images},
};

/// Pull, import, export, push, list and remove images
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    Ls(LsArgs),
    Pull(PullArgs),
    Import(ImportArgs),
    Export(ExportArgs),
    Push(PushArgs),
    Rm(RmArgs),
    Untag(UntagArgs),
}

/// List the images of the store
#[derive(Debug, Args)]
#[command(
    after_help = "The command takes no lock. It also lists the images of a running `ovl node`."
)]
struct LsArgs {
    /// The format of the output
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

/// Pull images from registries, and print their digests
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ovl image pull debian:13
  ovl image pull --auth-file auth.json registry.example/base:1")]
struct PullArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The format of the digests
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Import images from files, and print their digests
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ovl image import oci:layout:1
  ovl image import docker-archive:saved.tar")]
struct ImportArgs {
    /// The images, as `ovl create` names images in files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The format of the digests
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

/// Write an image into files, and print its digest
#[derive(Debug, Args)]
#[command(
    after_help = "SRC is an image of the store, a ChainID as `ovl layer ls` prints it, or a workspace or its snapshot
(NAME, NAME@SNAPSHOT). DEST is oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:REFERENCE]. A
layout in DIR gets one more image; a FILE must not exist.

The tar of each layer is made again. So an image of another tool can get new diff IDs: see docs/layers.md.

Examples:
  ovl image export debian:13 oci-archive:debian.tar
  ovl image export box@good docker-archive:box.tar:box:1"
)]
struct ExportArgs {
    /// The image, the layers, or the state of a workspace
    #[arg(value_name = "SRC")]
    source: String,
    /// Where it is written
    #[arg(value_name = "DEST")]
    to: Destination,
    /// The compression of the layers. Those of a docker archive are not compressed
    #[arg(long, default_value = "zstd")]
    compression: Compression,
    #[command(flatten)]
    store: StoreArgs,
}

/// Push an image to a registry, and print its digest
#[derive(Debug, Args)]
#[command(
    after_help = "SRC is an image of the store, a ChainID as `ovl layer ls` prints it, or a workspace or its snapshot
(NAME, NAME@SNAPSHOT). Without DEST, an image is pushed under the name that it has in the store.

A layer that the registry or its origin still has is not packed and keeps its diff ID.

Examples:
  ovl image push box@good registry.example/team/box:1
  ovl image push --auth-file auth.json registry.example/base:1"
)]
struct PushArgs {
    /// The image, the layers, or the state of a workspace
    #[arg(value_name = "SRC")]
    source: String,
    /// The name in the registry
    #[arg(value_name = "DEST")]
    to: Option<Reference>,
    /// The compression of layers that are packed
    #[arg(long, default_value = "zstd")]
    compression: Compression,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Remove images, and the layers that nothing else needs
#[derive(Debug, Args)]
struct RmArgs {
    /// The images: names, or digests or the first digits of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an image also if a workspace was made of it. The workspace keeps its layers, and loses the command, the
    /// environment and the user of the image
    #[arg(long)]
    force: bool,
    /// The format of the result
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

/// Take a name from an image. The image stays until it is removed, or until `ovl gc`
#[derive(Debug, Args)]
struct UntagArgs {
    /// The name
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    store: StoreArgs,
}

impl ImageArgs {
    /// What a command that failed could not do.
    pub(super) fn about(&self) -> String {
        match &self.command {
            ImageCommand::Ls(_) => "cannot list the images of the store".to_owned(),
            ImageCommand::Pull(args) => format!("cannot pull {}", args.images.join(", ")),
            ImageCommand::Import(args) => format!("cannot import {}", args.images.join(", ")),
            ImageCommand::Export(args) => {
                format!("cannot export {} to {}", args.source, args.to)
            }
            ImageCommand::Push(args) => match &args.to {
                Some(to) => format!("cannot push {} to {to}", args.source),
                None => format!("cannot push {}", args.source),
            },
            ImageCommand::Rm(args) => format!("cannot remove {}", args.images.join(", ")),
            ImageCommand::Untag(args) => format!("cannot untag {}", args.image),
        }
    }
}

pub(super) fn run(args: &ImageArgs) -> Result<(), Failure> {
    match &args.command {
        ImageCommand::Ls(args) => ls(args),
        ImageCommand::Pull(args) => {
            let sources = sources(&args.images, |source| matches!(source, Source::Reference(_)))?;
            add(&args.store, &args.registry, &sources, args.output)
        }
        ImageCommand::Import(args) => {
            let sources = sources(&args.images, |source| matches!(source, Source::Files(_)))?;
            add(&args.store, &RegistryArgs::default(), &sources, args.output)
        }
        ImageCommand::Export(args) => export(args),
        ImageCommand::Push(args) => push(args),
        ImageCommand::Rm(args) => rm(args),
        ImageCommand::Untag(args) => Ok(args.store.open()?.untag_image(&args.image)?),
    }
}

fn ls(args: &LsArgs) -> Result<(), Failure> {
    let (listed, unreadable) = match args.store.reader()? {
        None => Default::default(),
        Some(reader) => images(&reader).map_err(WorkspaceError::from)?,
    };
    say_unreadable(&unreadable);
    let values: Vec<Value> = listed.iter().map(value).collect();
    Ok(args.output.print(&values, || table(&listed))?)
}

fn table(listed: &[ListedImage]) -> String {
    let head = ["NAME", "DIGEST", "LAYERS", "SIZE", "LAST USED", "WORKSPACES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for image in listed {
        // The name of layers that were applied by hand is long, and they are found by their ChainID.
        let name = image.references.iter().rev().find(|name| !name.starts_with("sha256:"));
        let name = name.map_or("-", String::as_str);
        let layers = match image.missing {
            0 => image.layers.len().to_string(),
            missing => format!("{} ({missing} missing)", image.layers.len()),
        };
        rows.push(vec![
            name.to_owned(),
            image.manifest.digest().hex()[..12].to_owned(),
            layers,
            format::bytes(image.bytes),
            image.last_use.strftime("%Y-%m-%d %H:%M").to_string(),
            image.workspaces.join(", "),
        ]);
    }
    kubectl::plain_table(&rows)
}

fn value(image: &ListedImage) -> Value {
    json!({
        "names": image.references,
        "digest": image.manifest,
        "layers": image.layers,
        "missing": image.missing,
        "bytes": image.bytes,
        "lastUsed": image.last_use,
        "workspaces": image.workspaces,
    })
}

/// The images of a command that takes only one kind of them.
fn sources(texts: &[String], fits: impl Fn(&Source) -> bool) -> Result<Vec<Source>, Failure> {
    let refused = |text: &str, why: String| {
        Failure::Unusable(Explained::new(format!("cannot use {text}")).why(why).into())
    };
    let source = |text: &String| {
        let source: Source = text.parse().map_err(|why| refused(text, why))?;
        let why = "it is of another kind: `ovl image pull` takes images of registries, `ovl image import` those in files \
                   (oci:, oci-archive:, docker-archive:), and `ovl layer apply` a tar";
        if fits(&source) { Ok(source) } else { Err(refused(text, why.to_owned())) }
    };
    texts.iter().map(source).collect()
}

fn add(
    store: &StoreArgs,
    registry: &RegistryArgs,
    sources: &[Source],
    output: Format,
) -> Result<(), Failure> {
    let mut all = store.open()?;
    let stacked = registry.add_sources(&mut all, sources)?;
    let images = sources.iter().zip(&stacked.manifests);
    let value =
        |(source, digest): (&Source, _)| json!({ "name": source.to_string(), "digest": digest });
    let values: Vec<Value> = images.map(value).collect();
    let text = || stacked.manifests.iter().map(|manifest| format!("{manifest}\n")).collect();
    Ok(output.print(&values, text)?)
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let mut to = args.to.clone();
    let (Destination::Layout { dir: path, .. }
    | Destination::OciArchive { file: path, .. }
    | Destination::DockerArchive { file: path, .. }) = &mut to;
    *path = new_path(path)?;
    let mut progress = Progress::new();
    let image = all.outgoing_image(&args.source, args.store.on_locked())?;
    let sent = image
        .export(&to, args.compression.into(), &mut |line| progress.show(|| line.to_owned()))?;
    drop(progress);
    say_sent(&sent)
}

fn push(args: &PushArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let Connection { registries, keyring, runtime } = args.registry.connection()?;
    let image = all.outgoing_image(&args.source, args.store.on_locked())?;
    let Some(to) = args.to.as_ref().or(image.name()) else {
        let why =
            Explained::because(format!("{} has no name of a registry in the store", args.source));
        return Err(Failure::Unusable(
            why.fix("say where to push it: `ovl image push SRC DEST`").into(),
        ));
    };
    let mut progress = Progress::new();
    let mut report = |line: &str| progress.show(|| line.to_owned());
    let via = (&registries, &keyring);
    // It packs on this thread, and the runtime has threads of its own for the network.
    let sent = runtime.block_on(image.push(to, via, args.compression.into(), &mut report))?;
    drop(progress);
    say_sent(&sent)
}

/// Says what differs from the image of the store, and prints the digest.
fn say_sent(sent: &Sent) -> Result<(), Failure> {
    if sent.new_diff_ids > 0 {
        say(&format!(
            "note: {} of {} have new diff IDs, because the store does not keep the tars from which they came",
            sent.new_diff_ids,
            counted(sent.layers as u64, "layer")
        ));
    }
    Ok(print(&format!("{}\n", sent.digest))?)
}

fn rm(args: &RmArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let (mut layers, mut bytes) = (0, 0);
    for image in &args.images {
        let done = all.remove_image(image, args.force)?;
        (layers, bytes) = (layers + done.layers, bytes + done.bytes);
    }
    let images = args.images.len() as u64;
    let text = || {
        let (images, layers) = (counted(images, "image"), counted(layers, "layer"));
        format!("removed {images} and {layers} of {}\n", format::bytes(bytes))
    };
    let value = json!({ "images": images, "layers": layers, "bytes": bytes });
    Ok(args.output.print(&value, text)?)
}
