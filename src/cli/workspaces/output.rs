//! Output of the commands of workspaces: results on stdout, words for people on stderr.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    cli::failure::Failure,
    layers::Unreadable,
    workspaces::{Copied, Moment},
};

/// The format of a list.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// A table for people
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The text of a list.
pub(super) fn render(
    format: Format,
    table: impl FnOnce() -> String,
    value: impl FnOnce() -> Value,
) -> Result<String, Failure> {
    Ok(match format {
        Format::Table => table(),
        Format::Json => {
            serde_json::to_string_pretty(&value()).context("cannot write the list")? + "\n"
        }
        Format::Yaml => serde_saphyr::to_string(&value()).context("cannot write the list")?,
    })
}

/// A number of things, as text.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Says what of a store could not be read.
pub(super) fn say_unreadable(unreadable: &[Unreadable]) {
    for Unreadable { path, why } in unreadable {
        say(&format!("warning: {} is not listed: {why}", path.display()));
    }
}

/// Prints a result.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?)
}

/// Prints a line for people. It may be lost if stderr is closed.
pub(super) fn say(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Says that a state is not one that the workspace was in, if it is so.
pub(super) fn say_copied(copied: &Copied) {
    if let Moment::Live(why) = &copied.moment {
        say(&format!("note: the changes were copied while programs could write, because {why}"));
    }
    match copied.torn {
        0 => {}
        torn => say(&format!(
            "warning: {torn} files changed during each attempt to copy them, so they mix old and new bytes; repeat the \
             command when nothing writes to them"
        )),
    }
}

/// The error as one text, which has its causes already.
pub(super) fn message(error: impl Display) -> anyhow::Error {
    anyhow!("{error}")
}
