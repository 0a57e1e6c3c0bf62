//! Parses a command line.

use std::{ffi::OsString, process::ExitCode};

use clap::{Command, Parser};

/// Parses the command line. If that fails, prints the error and returns the exit code. `--help` and `--version` are
/// such errors too, with the exit code 0.
///
/// # Errors
/// The exit code of the process, after the message is printed.
pub fn parsed<C: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<C, ExitCode> {
    parsed_by(C::command(), words)
}

/// Like [`parsed`], with a command that has other help.
///
/// # Errors
/// As [`parsed`].
pub fn parsed_by<C: Parser>(
    mut command: Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<C, ExitCode> {
    let matches = command.try_get_matches_from_mut(words);
    let parsed = matches.and_then(|mut matches| C::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| {
        let error = error.format(&mut command);
        let _ = error.print();
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}
