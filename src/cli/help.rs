//! `ovl --help`: the commands in groups, so that a person finds them.
//!
//! Deliberately absent: the help of each command, which is with its arguments.

use std::{ffi::OsString, fmt::Write as _};

use clap::Command;

/// The groups, and their commands. Each command that is not hidden is in one of them.
const GROUPS: [(&str, &[&str]); 8] = [
    ("Workspaces", &["create", "fork", "list", "rename", "scrub"]),
    ("Running commands", &["run", "shell", "step", "mount", "umount"]),
    ("Changes", &["changes", "diff", "apply", "export"]),
    ("Snapshots", &["snapshot", "rollback", "clean", "remove"]),
    ("Images and layers", &["image", "layer", "gc"]),
    ("The store", &["status", "metadata", "fsck"]),
    ("Nodes and the cluster", &["node", "controller", "node-snapshot", "check", "kubectl"]),
    ("Help", &["help", "completion", "man"]),
];

/// The command that parses a command line: `command`, as far as it is needed for that.
///
/// Only the arguments of the command that is called are built: those of all commands together take longer than most commands.
/// The help of all of them needs what each of them says about itself.
pub(super) fn command_for(words: &[OsString], mut command: Command) -> Command {
    if words.get(1).is_some_and(|word| command.find_subcommand(word).is_some()) {
        return command;
    }
    command.build();
    let page = page(&command);
    command.help_template(page)
}

fn page(command: &Command) -> String {
    let (header, literal) =
        (*command.get_styles().get_header(), *command.get_styles().get_literal());
    let mut page = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        // Writing to a String cannot fail.
        let _ = write!(page, "\n{header}{title}:{header:#}\n");
        for name in names {
            let about = about(command, name);
            let _ = writeln!(page, "  {literal}{name:<13}{literal:#}  {about}");
        }
    }
    let _ = write!(page, "\n{header}Options:{header:#}\n{{options}}{{after-help}}");
    page
}

/// The first sentence about a command.
fn about(command: &Command, name: &str) -> String {
    if name == "help" {
        return "Print the help of a command".to_owned();
    }
    let about = command.find_subcommand(name).and_then(Command::get_about);
    let about = about.map(ToString::to_string).unwrap_or_default();
    about.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::{super::Cli, *};

    fn command(words: &[&str]) -> Command {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        command_for(&words, Cli::command())
    }

    #[test]
    fn every_command_is_in_one_group_on_one_line() {
        let command = command(&["ovl"]);
        let visible = command.get_subcommands().filter(|command| !command.is_hide_set());
        let visible: BTreeSet<_> = visible.map(Command::get_name).collect();
        let mut grouped: Vec<_> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        grouped.sort_unstable();
        assert_eq!(grouped, visible.into_iter().collect::<Vec<_>>());
        for name in grouped {
            let about = about(&command, name);
            assert!(!about.is_empty() && about.len() <= 80, "{name}: {about}");
        }
    }

    #[test]
    fn the_page_has_the_groups_and_the_options() {
        for words in [&["ovl"][..], &["ovl", "--help"], &["ovl", "help"], &["ovl", "creat"]] {
            let page = command(words).render_long_help().to_string();
            for part in [
                "\n\nWorkspaces:\n  create         Create a workspace",
                "\nChanges:\n",
                "\nOptions:\n",
                "--log <FILTER>",
                "Examples:",
            ] {
                assert!(page.contains(part), "{part}: {page}");
            }
            assert!(!page.contains("Commands:"), "{page}");
        }
    }

    #[test]
    fn only_the_called_command_is_built() {
        let mut command = command(&["ovl", "list"]);
        command.try_get_matches_from_mut(["ovl", "list"]).unwrap();
        for (name, is_built) in [("list", true), ("create", false)] {
            let mut arguments = command.find_subcommand(name).unwrap().get_arguments();
            assert_eq!(arguments.any(|argument| argument.get_id() == "root"), is_built, "{name}");
        }
    }
}
