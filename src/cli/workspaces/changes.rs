//! `ovl changes`: what a workspace has changed.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::args::{ComparedArgs, StoreArgs};
use crate::{
    changeset::{Change, Difference, Property},
    cli::{failure::Failure, output::Format},
    format,
    workspaces::{Changes, ChangesOptions},
};

/// List what a workspace has changed: A added, C changed, D deleted
#[derive(Debug, Args)]
#[command(
    after_help = "A workspace is compared with what it was made of. A file is changed if its type, mode, owner,
size, mtime, target, device, extended attributes or content is. Of a directory, mode, owner and extended
attributes count. Of a deleted directory, only the directory is listed.

Examples:
  ovl changes box                       since it was created
  ovl changes box --against current     since the last snapshot
  ovl changes box@two --against one     between two snapshots
  ovl changes box-1 --against box-2     between two forks"
)]
pub(in crate::cli) struct ChangesArgs {
    #[command(flatten)]
    pub(super) states: ComparedArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// How changes are printed.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Print the numbers of changes only
    #[arg(long)]
    stat: bool,
    /// List the directories above each change too
    #[arg(long)]
    pub(super) parents: bool,
    /// The format of the list
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

pub(super) fn run(args: &ChangesArgs) -> Result<(), Failure> {
    let all = args.store.open()?;
    let compared = args.states.open(&all, &args.store)?;
    let options = ChangesOptions { parents: args.output.parents };
    args.output.print(&all.changes(&compared.trees, options)?)
}

impl OutputArgs {
    /// Prints changes.
    pub(super) fn print(&self, changes: &Changes) -> Result<(), Failure> {
        let text = || if self.stat { stat(changes) } else { lines(changes) };
        Ok(self.output.print(&value(changes, self.stat), text)?)
    }
}

fn lines(changes: &Changes) -> String {
    let mut text = String::new();
    for change in &changes.list {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", letter(change.change), shown(&change.path));
    }
    text
}

fn stat(changes: &Changes) -> String {
    let stat = &changes.stat;
    format!(
        "{} added, {} changed, {} deleted; {} in files that were added or changed\n",
        stat.added,
        stat.changed,
        stat.removed,
        format::bytes(stat.bytes)
    )
}

fn letter(change: Change) -> char {
    match change {
        Change::Added => 'A',
        Change::Changed => 'C',
        Change::Removed => 'D',
    }
}

fn value(changes: &Changes, only_stat: bool) -> serde_json::Value {
    let stat = &changes.stat;
    let mut value = json!({
        "added": stat.added, "changed": stat.changed, "deleted": stat.removed, "bytes": stat.bytes,
    });
    if !only_stat {
        value["changes"] = changes.list.iter().map(change_value).collect();
    }
    value
}

/// One change, for programs.
pub(super) fn change_value(change: &Difference) -> serde_json::Value {
    json!({
        "change": letter(change.change),
        "path": shown(&change.path),
        "size": change.size,
        "differs": change.properties.iter().map(word).collect::<Vec<_>>(),
    })
}

/// A path of a workspace.
pub(super) fn shown(path: &[u8]) -> String {
    format!("/{}", format::path(path))
}

fn word(property: &Property) -> &'static str {
    match property {
        Property::Type => "type",
        Property::Size => "size",
        Property::Content => "content",
        Property::Target => "target",
        Property::Device => "device",
        Property::Mode => "mode",
        Property::Owner => "owner",
        Property::Xattrs => "xattrs",
        Property::Mtime => "mtime",
    }
}
