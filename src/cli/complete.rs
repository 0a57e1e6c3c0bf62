//! `ovl __complete`: the names of workspaces and snapshots, for the completion scripts.
//!
//! The scripts call it with the words that are typed so far. It reads the store without a lock. Where the store cannot be read,
//! it prints nothing, because an error would disturb the user's input.
//!
//! Deliberately absent: commands, options and files, which the scripts complete themselves.

use std::path::PathBuf;

use clap::{
    Arg, Args, Command,
    builder::{ArgAction, ValueRange},
};

use super::{failure::Failure, output::print, values::DEFAULT_ROOT};
use crate::{
    kubectl::{self, ShellName},
    layers::{StoreReader, WorkspaceName, WorkspaceRecord},
};

/// The name of the command.
pub(super) const COMMAND: &str = "__complete";

/// The part of a script that completes names. `_ovl` is the function of the script that clap makes; that of zsh gets
/// another name.
const BASH: &str = r#"
_ovl_names() {
    local line="${COMP_LINE:0:COMP_POINT}" names word
    local -a words
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]} - 1]}"
    names="$("$1" __complete -- "${words[@]:1}" 2> /dev/null)"
    if [[ -z "$names" ]]; then
        _ovl "$@"
        return
    fi
    mapfile -t COMPREPLY <<< "$names"
    # A word of bash ends at an @.
    if [[ "$word" == *@* && "$COMP_WORDBREAKS" == *@* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%@*}@"}")
    fi
}
complete -F _ovl_names -o bashdefault -o default ovl
"#;
const ZSH: &str = r#"_ovl() {
    local -a names
    names=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT-1]}" "$PREFIX" 2> /dev/null)}")
    if [[ -n "${names[1]}" ]]; then
        compadd -a names
    else
        _ovl_words "$@"
    fi
}

_ovl_words() {"#;
const FISH: &str = r#"
function __ovl_names
    set -l words (commandline -opc)
    $words[1] __complete -- $words[2..-1] (commandline -ct) 2> /dev/null
end
complete -c ovl -n 'count (__ovl_names) > /dev/null' -f -a '(__ovl_names)'
complete -c ovl -n '__fish_seen_subcommand_from changes diff' -l against -x -a '(__ovl_names)'
complete -c ovl -n '__fish_seen_subcommand_from create' -l from -x -a '(__ovl_names)'
"#;
/// A script of clap that completes names, too.
pub(super) fn with_names(shell: ShellName, script: String) -> String {
    match shell {
        ShellName::Bash => script + BASH,
        ShellName::Fish => script + FISH,
        // It is the function of this name that zsh calls.
        ShellName::Zsh => script.replacen("_ovl() {", ZSH, 1),
    }
}

/// Print the names that can be the next word
#[derive(Debug, Args)]
pub(super) struct CompleteArgs {
    /// The words after `ovl`, the last one as far as it is typed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(super) fn run(args: &CompleteArgs, root: Command) -> Result<(), Failure> {
    let Some((prefix, words)) = args.words.split_last() else { return Ok(()) };
    let Some((wanted, store)) = wanted(root, words) else { return Ok(()) };
    let workspaces = StoreReader::open(&store).ok().flatten();
    let workspaces = workspaces.and_then(|reader| reader.workspaces().ok());
    let names = workspaces.map(|read| names(&wanted, &read.found, prefix)).unwrap_or_default();
    let lines = names.iter().filter(|name| name.starts_with(prefix.as_str()));
    Ok(print(&lines.map(|name| format!("{name}\n")).collect::<String>())?)
}

/// What the next word can be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// The name of a workspace.
    Workspace,
    /// The name of a workspace, or `NAME@SNAPSHOT`.
    State,
    /// A snapshot of this workspace.
    SnapshotOf(String),
    /// A snapshot of this workspace, `current`, or a state of another one.
    Against(String),
}

/// What the word after these ones can be, and the store that they name.
fn wanted(mut root: Command, words: &[String]) -> Option<(Wanted, PathBuf)> {
    root.build();
    let default = std::env::var_os("OVL_ROOT").unwrap_or_else(|| DEFAULT_ROOT.into());
    let (mut at, mut plain, mut store) = (&root, Vec::new(), PathBuf::from(default));
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            return None;
        }
        if word.starts_with('-') {
            let (flag, given) =
                word.split_once('=').map_or((word.as_str(), None), |(f, g)| (f, Some(g)));
            let Some(option) = kubectl::option(at, flag) else { continue };
            if !matches!(option.get_action(), ArgAction::Set | ArgAction::Append) {
                continue;
            }
            let id = option.get_id().as_str();
            match given.or_else(|| words.next().map(String::as_str)) {
                Some(value) if id == "root" => store = value.into(),
                Some(_) => {}
                None => return of_option(id, &plain).map(|wanted| (wanted, store)),
            }
        } else if let Some(command) = at.find_subcommand(word).filter(|_| plain.is_empty()) {
            at = command;
        } else {
            plain.push(word.clone());
        }
    }
    let mut positionals = at.get_positionals();
    let last = at.get_positionals().last().filter(|last| is_repeated(last));
    let argument = positionals.nth(plain.len()).or(last)?;
    of_argument(at.get_name(), argument, &plain).map(|wanted| (wanted, store))
}

fn is_repeated(argument: &Arg) -> bool {
    let most = argument.get_num_args().unwrap_or(ValueRange::SINGLE).max_values();
    matches!(argument.get_action(), ArgAction::Append) || most > 1
}

fn of_option(id: &str, plain: &[String]) -> Option<Wanted> {
    match id {
        "from" => Some(Wanted::State),
        "against" => Some(Wanted::Against(plain.first()?.clone())),
        _ => None,
    }
}

fn of_argument(command: &str, argument: &Arg, plain: &[String]) -> Option<Wanted> {
    let takes_state = argument.get_value_names().is_some_and(|names| names[0].contains('@'));
    match (command, argument.get_id().as_str()) {
        // The name of a new workspace.
        ("create", _) => None,
        (_, "name") if takes_state => Some(Wanted::State),
        (_, "name" | "names") => Some(Wanted::Workspace),
        ("rollback" | "remove", "snapshot") => Some(Wanted::SnapshotOf(plain.first()?.clone())),
        ("changes" | "diff" | "size", "layer" | "parent") => Some(Wanted::State),
        _ => None,
    }
}

fn names(
    wanted: &Wanted,
    workspaces: &[(WorkspaceName, WorkspaceRecord)],
    prefix: &str,
) -> Vec<String> {
    let all = || workspaces.iter().map(|(name, _)| name.to_string());
    let snapshots = |workspace: &str| -> Vec<String> {
        let record = workspaces.iter().find(|(name, _)| name.as_str() == workspace);
        let states = record.iter().flat_map(|(_, record)| &record.states);
        let failed = record.and_then(|(_, record)| record.failed.as_ref()).map(|_| "failed".into());
        states.map(|state| state.name.to_string()).chain(failed).collect()
    };
    let of_prefix = prefix.split_once('@').map(|(workspace, _)| {
        let at = |snapshot: String| format!("{workspace}@{snapshot}");
        snapshots(workspace).into_iter().map(at).collect()
    });
    match wanted {
        Wanted::Workspace => all().collect(),
        Wanted::SnapshotOf(workspace) => snapshots(workspace),
        Wanted::State => of_prefix.unwrap_or_else(|| all().collect()),
        Wanted::Against(state) => of_prefix.unwrap_or_else(|| {
            let workspace = state.split('@').next().unwrap_or_default();
            let own = snapshots(workspace).into_iter().chain(["current".to_owned()]);
            own.chain(all().filter(|name| name != workspace)).collect()
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{super::Cli, *};

    #[test]
    fn names_are_completed_where_a_command_takes_them() {
        let (workspace, state) = (Some(Wanted::Workspace), Some(Wanted::State));
        for (line, expected) in [
            ("", None),
            ("run", state.clone()),
            ("run box", None),
            ("run box --", None),
            ("run --env A=1 -it", state.clone()),
            ("run --env", None),
            ("apply", workspace.clone()),
            ("apply box", None),
            ("scrub a b", workspace.clone()),
            ("list -o json", workspace.clone()),
            ("create", None),
            ("create new --from", state.clone()),
            ("snapshot box", None),
            ("fork box", None),
            ("rollback box", Some(Wanted::SnapshotOf("box".to_owned()))),
            ("remove box", Some(Wanted::SnapshotOf("box".to_owned()))),
            ("changes box@one --against", Some(Wanted::Against("box@one".to_owned()))),
            ("layer changes", state),
            ("layer changes a", Some(Wanted::State)),
            ("image rm", None),
            ("mount", workspace),
        ] {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            let found = wanted(Cli::command(), &words).map(|(wanted, _)| wanted);
            assert_eq!(found, expected, "{line}");
        }
        let words = ["mount", "--root", "/other"].map(str::to_owned);
        assert_eq!(wanted(Cli::command(), &words).unwrap().1, PathBuf::from("/other"));
    }

    #[test]
    fn each_script_calls_the_function_that_completes_names() {
        for (shell, calls) in [
            (ShellName::Bash, &["complete -F _ovl_names "][..]),
            (ShellName::Zsh, &["\n_ovl() {\n", "\n_ovl_words() {\n", "compdef _ovl ovl"]),
            (ShellName::Fish, &["\nfunction __ovl_names\n", " -f -a '(__ovl_names)'"]),
        ] {
            let script = with_names(shell, shell.script(Cli::command(), "ovl").unwrap());
            for call in calls {
                assert_eq!(script.matches(call).count(), 1, "{shell:?}: {call}");
            }
        }
    }
}
