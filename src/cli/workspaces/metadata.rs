//! `ovl metadata`: the directories of an overlay.

use clap::Args;
use serde_json::{Map, Value, json};

use super::args::StoreArgs;
use crate::{
    cli::{failure::Failure, output::Format},
    kubectl,
    workspaces::{LowerDir, Metadata, metadata},
};

/// Show the directories of an overlay: LowerDir, UpperDir, WorkDir, MergedDir
#[derive(Debug, Args)]
#[command(
    after_help = "LowerDir has the uppermost layer first. A layer is an EROFS image or a directory. UpperDir and WorkDir are those
of a workspace from its first mount on, MergedDir is there while it is mounted.

The command takes no lock. It also shows the stacks of a running `ovl node`.

Examples:
  ovl metadata box
  ovl metadata debian:13 -o json"
)]
pub(in crate::cli) struct MetadataArgs {
    /// A workspace, a snapshot of one (NAME@SNAPSHOT), an image of the store, or a ChainID
    pub(super) name: String,
    /// The format of the output
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    store: StoreArgs,
}

pub(super) fn run(args: &MetadataArgs) -> Result<(), Failure> {
    let metadata = metadata(&args.store.existing()?, &args.name)?;
    Ok(args.output.print(&value(&metadata), || table(&metadata))?)
}

/// The labels of the directories that a workspace has besides its lowers.
fn others(metadata: &Metadata) -> impl Iterator<Item = (&'static str, String)> {
    let Metadata { upper, work, merged, .. } = metadata;
    let others = [("UpperDir", upper), ("WorkDir", work), ("MergedDir", merged)];
    others
        .into_iter()
        .filter_map(|(label, path)| Some((label, path.as_ref()?.display().to_string())))
}

fn table(metadata: &Metadata) -> String {
    let mut rows = Vec::new();
    for (number, LowerDir { key, path }) in metadata.lowers.iter().enumerate() {
        let label = if number == 0 { "LowerDir" } else { "" };
        let path =
            path.as_ref().map_or_else(|| "missing".to_owned(), |path| path.display().to_string());
        let text = match key {
            Some(key) => format!("{key}  {path}"),
            None => path,
        };
        rows.push(vec![label.to_owned(), text]);
    }
    rows.extend(others(metadata).map(|(label, path)| vec![label.to_owned(), path]));
    kubectl::plain_table(&rows)
}

fn value(metadata: &Metadata) -> Value {
    let lower = |LowerDir { key, path }: &LowerDir| json!({ "key": key, "path": path });
    let mut all = Map::new();
    all.insert("LowerDir".to_owned(), metadata.lowers.iter().map(lower).collect());
    all.extend(others(metadata).map(|(label, path)| (label.to_owned(), path.into())));
    all.into()
}
