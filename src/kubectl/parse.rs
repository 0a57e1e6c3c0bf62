//! Parses a command line.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

/// Parses the command line. If that fails, prints the error and returns the exit code. `--help` and `--version` are
/// such errors too, with the exit code 0.
///
/// # Errors
/// The exit code of the process, after the message is printed.
pub fn parsed<C: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<C, ExitCode> {
    C::try_parse_from(words).map_err(|error| {
        let _ = error.print();
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}
