//! Completion: scripts for shells, and answers for kubectl's own completion.
//!
//! kubectl asks `kubectl_complete-ovl` for what may come next, and gives it the words so far. That is this program again, by a script
//! of two lines which [`USE`] explains.

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _, ValueEnum, builder::ArgAction};
use clap_complete::{Shell, generate};

use super::{Cli, Failure, Here, Whom, print};

/// How the program is asked for answers.
pub(super) const COMMAND: &str = "__complete";
/// What the last line says to the shell: no file names (cobra's `ShellCompDirectiveNoFileComp`).
const NO_FILES: &str = ":4";

/// What stands below `completion --help`.
const USE: &str = r#"For kubectl-ovl itself:

  source <(kubectl ovl completion bash)
  source <(kubectl ovl completion zsh)
  kubectl ovl completion fish | source

For `kubectl ovl`, kubectl's own completion asks a program called kubectl_complete-ovl in the PATH.
It knows the cluster's pods, volumes and snapshots too. Make it with

  printf '#!/bin/sh\nexec kubectl-ovl __complete "$@"\n' > /usr/local/bin/kubectl_complete-ovl
  chmod +x /usr/local/bin/kubectl_complete-ovl"#;

/// Print a completion script
#[derive(Debug, Args)]
#[command(after_help = USE)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: ShellName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub(super) struct CompleteArgs {
    /// The words behind `kubectl ovl`, the last one as far as it is typed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(super) fn run(args: CompletionArgs) -> Result<(), Failure> {
    let shell = match args.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let (mut command, mut script) = (Cli::command(), Vec::new());
    generate(shell, &mut command, "kubectl-ovl", &mut script);
    let script = String::from_utf8(script).context("the script is no text")?;
    Ok(print::out(&script)?)
}

/// What may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// One of these.
    Words(Vec<String>),
    /// A pod.
    Pod,
    /// A volume of this pod.
    VolumeOf(String),
    /// A snapshot.
    Snapshot,
}

/// Prints what may come next. What goes wrong is nobody's business while somebody types.
pub(super) async fn complete(args: &CompleteArgs) -> Result<(), Failure> {
    let (begun, words) =
        args.words.split_last().map_or(("", &[][..]), |(last, words)| (last, words));
    let (next, whom) = next(words, begun);
    let found = match next {
        Next::Words(words) => words,
        next => match whom.connect().await {
            Ok(here) => here.names(&next).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        },
    };
    let found = found.into_iter().filter(|word| word.starts_with(begun));
    let lines = found.chain([NO_FILES.to_owned()]).map(|line| print::clean(&line) + "\n");
    Ok(print::out(&lines.collect::<String>())?)
}

/// What may come behind these words, and whose cluster they name.
pub(super) fn next(words: &[String], begun: &str) -> (Next, Whom) {
    let mut root = Cli::command();
    root.build();
    let mut whom = Whom { driver: "ovl.csi.dev".to_owned(), ..Whom::default() };
    let (mut at, mut plain) = (&root, Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word.starts_with('-') {
            let (flag, given) =
                word.split_once('=').map_or((word.as_str(), None), |(f, g)| (f, Some(g)));
            let Some(option) = option(at, flag) else { continue };
            if !matches!(option.get_action(), ArgAction::Set | ArgAction::Append) {
                continue;
            }
            let value = given.or_else(|| words.next().map(String::as_str));
            let Some(value) = value else { return (values(option), whom) };
            match option.get_id().as_str() {
                "kubeconfig" => whom.kubeconfig = Some(value.into()),
                "context" => whom.context = Some(value.to_owned()),
                "namespace" => whom.namespace = Some(value.to_owned()),
                "driver" => value.clone_into(&mut whom.driver),
                _ => {}
            }
        } else if let Some(command) = at.find_subcommand(word).filter(|_| plain.is_empty()) {
            at = command;
        } else {
            plain.push(word.clone());
        }
    }
    if begun.starts_with('-') {
        let options = at.get_arguments().filter(|option| !option.is_hide_set());
        let names = options.filter_map(|option| option.get_long()).map(|long| format!("--{long}"));
        return (Next::Words(names.collect()), whom);
    }
    let next = match (at.get_name(), plain.len()) {
        ("snapshot" | "fork", 0) => Next::Pod,
        ("snapshot" | "fork", 1) => Next::VolumeOf(plain.remove(0)),
        ("describe", 0) | ("diff", 0 | 1) | ("delete", _) => Next::Snapshot,
        (_, place) => {
            let positional = at.get_positionals().nth(place);
            let commands = at.get_subcommands().filter(|command| !command.is_hide_set());
            let commands: Vec<_> = commands.map(|command| command.get_name().to_owned()).collect();
            match positional {
                Some(positional) => values(positional),
                None if place == 0 => Next::Words(commands),
                None => Next::Words(Vec::new()),
            }
        }
    };
    (next, whom)
}

fn option<'c>(command: &'c Command, flag: &str) -> Option<&'c clap::Arg> {
    let mut options = command.get_arguments();
    options.find(|option| match flag.strip_prefix("--") {
        Some(long) => option.get_long() == Some(long),
        None => option.get_short().is_some_and(|short| flag == format!("-{short}")),
    })
}

/// What an option takes.
fn values(option: &clap::Arg) -> Next {
    match option.get_id().as_str() {
        "snapshot" => Next::Snapshot,
        _ => {
            let values = option.get_possible_values();
            Next::Words(values.iter().map(|value| value.get_name().to_owned()).collect())
        }
    }
}

impl Here {
    /// What the cluster has of it.
    async fn names(&self, next: &Next) -> Result<Vec<String>, Failure> {
        let name =
            |object: &serde_json::Value| object["metadata"]["name"].as_str().map(str::to_owned);
        Ok(match next {
            Next::Words(words) => words.clone(),
            Next::Pod => {
                let pods = self.client.whole_pods(&self.namespace).await?;
                let ours =
                    pods.iter().filter(|pod| !super::pod::volumes(pod, &self.driver).is_empty());
                ours.filter_map(name).collect()
            }
            Next::VolumeOf(pod) => {
                let pod = self.client.whole_pod(&self.namespace, pod).await?.unwrap_or_default();
                super::pod::volumes(&pod, &self.driver).into_iter().map(str::to_owned).collect()
            }
            Next::Snapshot => {
                let snapshots = self.snapshots(false).await?.into_iter();
                snapshots.map(|snapshot| snapshot.name).collect()
            }
        })
    }
}
