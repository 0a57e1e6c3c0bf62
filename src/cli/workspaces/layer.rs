//! `ovl layer`: the layers of a store, as stacks with a ChainID.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::{args::StoreArgs, changes, notes::say_unreadable};
use crate::{
    cli::{
        failure::Failure,
        output::{Format, print},
    },
    error::Explained,
    format, kubectl,
    layers::{LayerInfo, LayerStorage},
    media_type,
    workspaces::{Chain, Chains, ChangesOptions, Parent, State, WorkspaceError, Workspaces},
};

/// List, compare, write and apply layers
#[derive(Debug, Args)]
#[command(
    after_help = "LAYER and PARENT name states: a ChainID as `ovl layer ls` prints it or its first digits, an image of
the store, or a workspace or its snapshot (NAME, NAME@SNAPSHOT). The layer is the topmost one of LAYER.
PARENT is the state below it, if it is not given. `none` is no state: everything counts as added."
)]
pub(in crate::cli) struct LayerArgs {
    #[command(subcommand)]
    command: LayerCommand,
}

#[derive(Debug, Subcommand)]
enum LayerCommand {
    Ls(LsArgs),
    Changes(LayerChangesArgs),
    Diff(LayerDiffArgs),
    Size(SizeArgs),
    Apply(LayerApplyArgs),
}

/// List the layers of the store by ChainID
#[derive(Debug, Args)]
#[command(after_help = "The ChainID of a stack of layers is that of the OCI image-spec.
The command takes no lock. It also lists the layers of a running `ovl node`.")]
struct LsArgs {
    /// Indent each layer below those that it is on
    #[arg(long)]
    tree: bool,
    /// The format of the output
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

/// List what a layer changes: A added, C changed, D deleted
#[derive(Debug, Args)]
struct LayerChangesArgs {
    #[command(flatten)]
    states: StateArgs,
    #[command(flatten)]
    output: changes::OutputArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Write a layer as an uncompressed tar to stdout
#[derive(Debug, Args)]
#[command(after_help = "The tar is a layer of the OCI image-spec, which other tools read too.

Examples:
  ovl layer diff box -o box.tar             what is in the workspace since its last layer
  ovl layer diff debian:13 none | tar t     the whole tree of an image")]
struct LayerDiffArgs {
    #[command(flatten)]
    states: StateArgs,
    /// The file to write; it must not exist [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write whiteouts, renames and metacopies with the marks of overlayfs. Only ovl reads such a layer
    #[arg(long)]
    native: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Print the size of a layer: of its files, and on the disk
#[derive(Debug, Args)]
struct SizeArgs {
    /// The layer
    layer: String,
    /// The format of the output
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

/// Add a tar as a layer on top of a state, and print the ChainID of the two
#[derive(Debug, Args)]
#[command(
    after_help = "The tar can be compressed with gzip or zstd. The layers stay until `ovl gc`.

Examples:
  ovl layer apply none base.tar
  ovl create box \"$(ovl layer apply debian:13 tools.tar)\""
)]
struct LayerApplyArgs {
    /// The state below, or `none`
    parent: String,
    /// The tar, or `-` for stdin
    tar: PathBuf,
    /// The tar was written with --native
    #[arg(long)]
    native: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// A state and its parent.
#[derive(Debug, Args)]
struct StateArgs {
    /// The layer
    layer: String,
    /// The state that it is compared with, or `none` [default: the state below it]
    parent: Option<String>,
}

/// The word for no state.
const NONE: &str = "none";

impl LayerArgs {
    /// What a command that failed could not do.
    pub(super) fn about(&self) -> String {
        match &self.command {
            LayerCommand::Ls(_) => "cannot list the layers of the store".to_owned(),
            LayerCommand::Changes(args) => {
                format!("cannot list the changes of layer {}", args.states.layer)
            }
            LayerCommand::Diff(args) => format!("cannot write layer {}", args.states.layer),
            LayerCommand::Size(args) => format!("cannot measure layer {}", args.layer),
            LayerCommand::Apply(args) => format!("cannot add {} as a layer", args.tar.display()),
        }
    }
}

pub(super) fn run(args: &LayerArgs) -> Result<(), Failure> {
    match &args.command {
        LayerCommand::Ls(args) => ls(args),
        LayerCommand::Changes(args) => {
            let all = args.store.open()?;
            args.states.with(&all, &args.store, |state, parent| {
                let options = ChangesOptions { parents: args.output.parents };
                let trees = all.state_trees(state, parent)?;
                args.output.print(&all.changes(&trees, options)?)
            })
        }
        LayerCommand::Diff(args) => diff(args),
        LayerCommand::Size(args) => size(args),
        LayerCommand::Apply(args) => apply(args),
    }
}

impl StateArgs {
    /// Calls `work` with the state and its parent.
    fn with(
        &self,
        all: &Workspaces,
        store: &StoreArgs,
        work: impl FnOnce(&State<'_>, &Parent<'_, '_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let on = store.on_locked();
        match self.parent.as_deref() {
            None => work(&all.state(&self.layer, on)?, &Parent::Below),
            Some(NONE) => work(&all.state(&self.layer, on)?, &Parent::Nothing),
            Some(same) if same == self.layer => {
                let state = all.state(same, on)?;
                work(&state, &Parent::State(&state))
            }
            // In one order, so two commands do not wait for each other.
            Some(parent) if parent < self.layer.as_str() => {
                let parent = all.state(parent, on)?;
                work(&all.state(&self.layer, on)?, &Parent::State(&parent))
            }
            Some(parent) => {
                let state = all.state(&self.layer, on)?;
                let parent = all.state(parent, on)?;
                work(&state, &Parent::State(&parent))
            }
        }
    }
}

fn ls(args: &LsArgs) -> Result<(), Failure> {
    let chains = match args.store.reader()? {
        None => Chains::default(),
        Some(reader) => Chains::read(&reader).map_err(WorkspaceError::from)?,
    };
    say_unreadable(&chains.unreadable);
    let sorted = chains.sorted();
    let values: Vec<Value> = sorted.iter().map(|(_, chain)| value(chain)).collect();
    Ok(args.output.print(&values, || table(&sorted, args.tree))?)
}

fn table(sorted: &[(usize, &Chain)], tree: bool) -> String {
    let head = ["CHAIN ID", "SIZE", "ADDED", "KIND", "NAMES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (depth, chain) in sorted {
        let indent = if tree { "  ".repeat(*depth) } else { String::new() };
        let directory = chain.directory.as_deref().filter(|_| chain.below.is_none());
        let over = directory.map(|path| format!("over {}", path.display()));
        let names: Vec<String> = over.into_iter().chain(chain.names.iter().cloned()).collect();
        rows.push(vec![
            format!("{indent}{}", &chain.id.digits()[..12]),
            format::bytes(chain.top.bytes.unwrap_or(0)),
            chain.top.added.strftime("%Y-%m-%d %H:%M").to_string(),
            kind(&chain.top).to_owned(),
            names.join(", "),
        ]);
    }
    kubectl::plain_table(&rows)
}

fn kind(layer: &LayerInfo) -> &'static str {
    match layer.tar {
        None => "upper",
        Some((_, media_type::Format::Native)) => "native",
        Some((_, media_type::Format::Portable)) => "portable",
    }
}

fn value(chain: &Chain) -> Value {
    let storage = match chain.top.storage {
        LayerStorage::Erofs => "erofs",
        LayerStorage::Dir => "dir",
    };
    json!({
        "chainID": chain.id,
        "parent": chain.below,
        "diffID": chain.top.tar.map(|(diff_id, _)| diff_id),
        "key": chain.top.key,
        "kind": kind(&chain.top),
        "storage": storage,
        "bytes": chain.top.bytes,
        "added": chain.top.added,
        "over": chain.directory,
        "names": chain.names,
    })
}

fn diff(args: &LayerDiffArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let format = format_of(args.native);
    args.states.with(&all, &args.store, |state, parent| match &args.output {
        None if io::stdout().is_terminal() => {
            let why = Explained::because("a tar is not written to a terminal");
            Err(Failure::Unusable(why.fix("write it to a file with -o, or to a pipe").into()))
        }
        None => {
            let mut out = BufWriter::new(io::stdout());
            all.pack_state(state, parent, format, &mut out)?;
            Ok(out.flush().context("cannot write to stdout")?)
        }
        Some(path) => {
            let failed = || format!("cannot write {}", path.display());
            let file = File::create_new(path).with_context(failed)?;
            let mut out = BufWriter::new(file);
            let packed = all.pack_state(state, parent, format, &mut out);
            let written =
                packed.map_err(Failure::from).and_then(|_| Ok(out.flush().with_context(failed)?));
            if written.is_err() {
                // It is ours, and not whole.
                drop(std::fs::remove_file(path));
            }
            written
        }
    })
}

fn format_of(native: bool) -> media_type::Format {
    if native { media_type::Format::Native } else { media_type::Format::Portable }
}

fn size(args: &SizeArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let size = all.layer_size(&all.state(&args.layer, args.store.on_locked())?)?;
    let table = || {
        kubectl::plain_table(&[
            vec!["FILES".to_owned(), "ON DISK".to_owned()],
            vec![format::bytes(size.apparent), format::bytes(size.on_disk)],
        ])
    };
    let value = json!({ "bytes": size.apparent, "onDisk": size.on_disk });
    Ok(args.output.print(&value, table)?)
}

fn apply(args: &LayerApplyArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let parent = match args.parent.as_str() {
        NONE => None,
        parent => Some(all.state(parent, args.store.on_locked())?),
    };
    let runtime = Builder::new_current_thread().build().context("cannot start the runtime")?;
    let format = format_of(args.native);
    let chain = match args.tar == Path::new("-") {
        true => runtime.block_on(all.apply_layer_once(parent, io::stdin().lock(), format)),
        false => runtime.block_on(all.apply_layer(parent, &args.tar, format)),
    };
    Ok(print(&format!("{}\n", chain?))?)
}
