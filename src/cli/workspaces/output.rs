//! Output of the commands of workspaces: results on stdout, words for people on stderr.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use anyhow::{Context as _, anyhow};

use crate::cli::failure::Failure;

/// Prints a result.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?)
}

/// Prints a line for people. It may be lost if stderr is closed.
pub(super) fn say(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// The error as one text, which has its causes already.
pub(super) fn message(error: impl Display) -> anyhow::Error {
    anyhow!("{error}")
}
