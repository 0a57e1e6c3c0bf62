//! Shell completion: prints the scripts for shells, and lists candidates for kubectl's own completion.
//!
//! kubectl runs `kubectl_complete-ovl` with the words typed so far and reads the candidates from its output. A link of
//! this name to this program is enough; [`USE`] explains it.
//!
//! The completers of `clap_complete` cannot replace this: they see the current word only, and the candidates depend on the
//! namespace, the context and the pod before it.

use anyhow::Context as _;
use clap::{Args, Command, ValueEnum, builder::ArgAction};
use clap_complete::{Shell, generate};

use super::{args::ClusterArgs, failure::Failure, pod, print, session::Session};
use crate::cluster::{JsonKind, Selection, snapshot_api::VolumeSnapshotClass};

/// The name by which kubectl runs this program for its completion.
pub(super) const PROGRAM: &str = "kubectl_complete-ovl";
/// The hidden command that lists candidates.
pub(super) const COMMAND: &str = "__complete";
/// The last line of the candidates, a directive for the shell: add no file names (cobra's
/// `ShellCompDirectiveNoFileComp`).
const NO_FILES: &str = ":4";

/// The last lines of `completion --help`.
const USE: &str = r#"Examples:
  # For `kubectl ovl`: kubectl's own completion runs kubectl_complete-ovl in the PATH. It completes
  # the cluster's pods, volumes, snapshots, namespaces and classes too.
  ln -s "$(command -v kubectl-ovl)" /usr/local/bin/kubectl_complete-ovl
  # For the name kubectl-ovl: commands and options only
  source <(kubectl ovl completion bash)
  source <(kubectl ovl completion zsh)
  kubectl ovl completion fish | source"#;

/// Print a completion script
#[derive(Debug, Args)]
#[command(after_help = USE)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: ShellName,
}

/// A shell for which there is a completion script.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ShellName {
    Bash,
    Zsh,
    Fish,
}

impl ShellName {
    /// The script for the program `name` with these commands.
    pub(crate) fn script(self, mut command: Command, name: &str) -> anyhow::Result<String> {
        let shell = match self {
            Self::Bash => Shell::Bash,
            Self::Zsh => Shell::Zsh,
            Self::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        generate(shell, &mut command, name, &mut script);
        String::from_utf8(script).context("the script is not UTF-8")
    }
}

#[derive(Debug, Args)]
pub(super) struct CompleteArgs {
    /// The words after `kubectl ovl`, the last one as far as it is typed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Prints the script for the program `command`.
pub(super) fn run(args: CompletionArgs, command: Command) -> Result<(), Failure> {
    Ok(print::out(&args.shell.script(command, "kubectl-ovl")?)?)
}

/// The candidates for the next word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Candidates {
    /// One of these words.
    Words(Vec<String>),
    /// The name of a pod.
    Pod,
    /// `POD/VOLUME` of this pod.
    PodVolume(String),
    /// The name of a volume of this pod.
    VolumeOf(String),
    /// The name of a snapshot.
    Snapshot,
    /// The name of a VolumeSnapshotClass of the driver.
    Class,
    /// The name of an object that is in no namespace.
    Global(JsonKind),
    /// The name of a context of the kubeconfig.
    Context,
}

/// Prints the candidates for the next word of the program `root`. It ignores errors, because they would disturb the user's input.
pub(super) async fn complete(args: &CompleteArgs, root: Command) -> Result<(), Failure> {
    let (prefix, words) =
        args.words.split_last().map_or(("", &[][..]), |(last, words)| (last, words));
    let (candidates, cluster) = candidates(root, words, prefix);
    let found = match candidates {
        Candidates::Words(words) => words,
        Candidates::Context => cluster.connection().contexts(),
        candidates => match cluster.connect().await {
            Ok(session) => session.names(&candidates).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        },
    };
    let found = found.into_iter().filter(|word| word.starts_with(prefix));
    let lines = found.chain([NO_FILES.to_owned()]).map(|line| print::clean(&line) + "\n");
    Ok(print::out(&lines.collect::<String>())?)
}

/// The candidates after these words of the program `root`, and the cluster that the words name.
pub(super) fn candidates(
    mut root: Command,
    words: &[String],
    prefix: &str,
) -> (Candidates, ClusterArgs) {
    root.build();
    let mut cluster = ClusterArgs { driver: "ovl.csi.dev".to_owned(), ..ClusterArgs::default() };
    let (mut at, mut plain, mut of_workload) = (&root, Vec::new(), false);
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
            let Some(value) = value else { return (values(option), cluster) };
            match option.get_id().as_str() {
                "kubeconfig" => cluster.kubeconfig = Some(value.into()),
                "context" => cluster.context = Some(value.to_owned()),
                "cluster" => cluster.cluster = Some(value.to_owned()),
                "user" => cluster.user = Some(value.to_owned()),
                "server" => cluster.server = Some(value.to_owned()),
                "token" => cluster.token = Some(value.to_owned().into()),
                "impersonate" => cluster.impersonate = Some(value.to_owned()),
                "impersonate_groups" => cluster.impersonate_groups.push(value.to_owned()),
                "of" => of_workload = true,
                "namespace" => cluster.namespace = Some(value.to_owned()),
                "driver" => value.clone_into(&mut cluster.driver),
                _ => {}
            }
        } else if let Some(command) = at.find_subcommand(word).filter(|_| plain.is_empty()) {
            at = command;
        } else {
            plain.push(word.clone());
        }
    }
    if prefix.starts_with('-') {
        let options = at.get_arguments().filter(|option| !option.is_hide_set());
        let names = options.filter_map(|option| option.get_long()).map(|long| format!("--{long}"));
        return (Candidates::Words(names.collect()), cluster);
    }
    let candidates = match (at.get_name(), plain.len()) {
        ("fork", _) if of_workload => Candidates::Words(Vec::new()),
        ("snapshot" | "fork", 0) => match prefix.split_once('/') {
            Some((pod, _)) => Candidates::PodVolume(pod.to_owned()),
            None => Candidates::Pod,
        },
        ("snapshot" | "fork", 1) if !plain[0].contains('/') => {
            Candidates::VolumeOf(plain.remove(0))
        }
        ("diff", 0 | 1) if prefix.contains('/') => {
            let (pod, _) = prefix.split_once('/').unwrap_or_default();
            Candidates::PodVolume(pod.to_owned())
        }
        ("describe", 0) | ("diff", 0 | 1) | ("delete", _) => Candidates::Snapshot,
        (_, position) => {
            let positional = at.get_positionals().nth(position);
            let commands = at.get_subcommands().filter(|command| !command.is_hide_set());
            let commands: Vec<_> = commands.map(|command| command.get_name().to_owned()).collect();
            match positional {
                Some(positional) => values(positional),
                None if position == 0 => Candidates::Words(commands),
                None => Candidates::Words(Vec::new()),
            }
        }
    };
    (candidates, cluster)
}

/// The option of a command that is written like this.
pub(crate) fn option<'c>(command: &'c Command, flag: &str) -> Option<&'c clap::Arg> {
    let mut options = command.get_arguments();
    options.find(|option| match flag.strip_prefix("--") {
        Some(long) => option.get_long() == Some(long),
        None => option.get_short().is_some_and(|short| flag == format!("-{short}")),
    })
}

/// The candidates for the value of an option.
fn values(option: &clap::Arg) -> Candidates {
    match option.get_id().as_str() {
        "snapshot" => Candidates::Snapshot,
        "class" => Candidates::Class,
        "namespace" => Candidates::Global(JsonKind::Namespace),
        "node" => Candidates::Global(JsonKind::Node),
        "context" => Candidates::Context,
        _ => {
            let values = option.get_possible_values();
            Candidates::Words(values.iter().map(|value| value.get_name().to_owned()).collect())
        }
    }
}

impl Session {
    /// The names of the candidates in the cluster.
    async fn names(&self, candidates: &Candidates) -> Result<Vec<String>, Failure> {
        let name =
            |object: &serde_json::Value| object["metadata"]["name"].as_str().map(str::to_owned);
        let all = Selection::default();
        Ok(match candidates {
            Candidates::Words(words) => words.clone(),
            Candidates::Context => Vec::new(),
            Candidates::Pod => {
                let pods = self.client.json_list(JsonKind::Pod, Some(&self.namespace), all).await?;
                let with_volumes =
                    pods.iter().filter(|pod| !pod::volumes(pod, &self.driver).is_empty());
                with_volumes.filter_map(name).collect()
            }
            Candidates::VolumeOf(pod) => self.volumes_of(pod).await?,
            Candidates::PodVolume(pod) => {
                let volumes = self.volumes_of(pod).await?.into_iter();
                volumes.map(|volume| format!("{pod}/{volume}")).collect()
            }
            Candidates::Snapshot => {
                let snapshots = self.snapshots(false, None).await?.into_iter();
                snapshots.map(|snapshot| snapshot.name).collect()
            }
            Candidates::Class => {
                let classes = self.client.list::<VolumeSnapshotClass>().await?.into_iter();
                let ours = classes.filter(|class| class.driver == self.driver);
                ours.filter_map(|class| class.metadata.name).collect()
            }
            Candidates::Global(kind) => {
                self.client.json_list(*kind, None, all).await?.iter().filter_map(name).collect()
            }
        })
    }

    /// The names of the volumes of a pod that belong to the driver.
    async fn volumes_of(&self, pod: &str) -> Result<Vec<String>, Failure> {
        let namespace = Some(self.namespace.as_str());
        let pod = self.client.json(JsonKind::Pod, namespace, pod).await?.unwrap_or_default();
        Ok(pod::volumes(&pod, &self.driver).into_iter().map(str::to_owned).collect())
    }
}
