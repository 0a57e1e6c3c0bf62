//! Parses a command line.

use std::{ffi::OsString, process::ExitCode};

use clap::{Command, CommandFactory, Parser};

/// Parses the command line. If that fails, prints the error and returns the exit code. `--help` and `--version` are
/// such errors too, with the exit code 0.
///
/// # Errors
/// The exit code of the process, after the message is printed.
pub fn parsed<C: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<C, ExitCode> {
    let words: Vec<_> = words.into_iter().collect();
    let mut command = command_for::<C>(&words);
    let parsed = command.try_get_matches_from_mut(words);
    let parsed = parsed.and_then(|mut matches| C::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| {
        let error = error.format(&mut command);
        let _ = error.print();
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// The command that parses a command line. Arguments that are deferred are built for the command that is called. A list of
/// the commands, as `--help` prints it, needs all of them.
fn command_for<C: CommandFactory>(words: &[OsString]) -> Command {
    let mut command = C::command();
    if !words.get(1).is_some_and(|word| command.find_subcommand(word).is_some()) {
        command.build();
    }
    command
}

#[cfg(test)]
mod tests {
    use clap::{Args, Subcommand};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        _command: Commands,
    }

    #[derive(Subcommand)]
    #[command(defer = true)]
    enum Commands {
        Make(#[allow(dead_code)] MakeArgs),
    }

    /// Makes something
    #[derive(Args)]
    struct MakeArgs {
        #[arg(long)]
        _quickly: bool,
    }

    #[test]
    fn a_list_of_commands_says_what_they_are_for() {
        for words in [&["ovl"][..], &["ovl", "--help"], &["ovl", "help"], &["ovl", "mak"]] {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            let help = command_for::<Cli>(&words).render_help().to_string();
            assert!(help.contains("Makes something"), "{help}");
        }
    }

    #[test]
    fn a_called_command_builds_no_other() {
        let words = ["ovl", "make"].map(OsString::from);
        let command = command_for::<Cli>(&words);
        let make = command.find_subcommand("make").unwrap();
        assert_eq!(make.get_arguments().count(), 0);
        assert!(parsed::<Cli>(["ovl", "make", "--quickly"].map(OsString::from)).is_ok());
    }
}
