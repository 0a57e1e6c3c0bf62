//! Output of the commands of workspaces: results on stdout, words for people on stderr.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use anyhow::{Context as _, anyhow};

use crate::{
    cli::failure::Failure,
    workspaces::{Copied, Moment},
};

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
