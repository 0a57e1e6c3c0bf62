//! Output of the commands that people run: results on stdout, words for people on stderr.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

use crate::kubectl;

/// The format of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[value(alias = "text")]
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl Format {
    /// Prints a result in this format.
    pub(super) fn print(
        self,
        result: &impl Serialize,
        table: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let failed = "cannot write the result";
        print(&match self {
            Self::Table => table(),
            Self::Json => serde_json::to_string_pretty(result).context(failed)? + "\n",
            Self::Yaml => serde_saphyr::to_string(result).context(failed)?,
        })
    }
}

/// Prints a result. A reader that has enough, as `head`, is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// Prints a line for people. It may be lost if stderr is closed.
pub(super) fn say(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// The progress of a command: a line that changes, if stderr is a terminal.
pub(super) struct Progress(Option<kubectl::Progress>);

impl Progress {
    /// Nothing is shown yet.
    pub(super) fn new() -> Self {
        Self(io::stderr().is_terminal().then(kubectl::Progress::new))
    }

    /// Shows a line in place of the last one. It is made only if it is shown: pulls report each read.
    pub(super) fn show(&mut self, line: impl FnOnce() -> String) {
        if let Some(progress) = &mut self.0 {
            progress.show(&line());
        }
    }
}

/// A number of things, as text.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
