//! `ovl run` and `ovl shell`: commands in a workspace.

use std::{env, ffi::OsString, io::IsTerminal as _, path::PathBuf, time::Duration};

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use super::args::StoreArgs;
use crate::{
    cli::{failure::Failure, values::duration},
    error::Explained,
    format::span,
    layers::WorkspaceName,
    workspaces::{
        NameAt, OnLocked, RunError, RunOptions, Workspaces,
        container::{Bind, Stdio},
    },
};

/// What every command in a workspace can have.
#[derive(Debug, Args)]
struct Where {
    /// Drop all changes of the command at its end
    #[arg(long)]
    transient: bool,
    /// Refuse writes to the workspace
    #[arg(long)]
    read_only: bool,
    /// Drop the changes of the command in this directory; can be repeated
    #[arg(long = "overlay", value_name = "PATH")]
    overlays: Vec<PathBuf>,
    /// Show a directory or a file of the host; can be repeated
    #[arg(long = "bind", value_name = "SRC:DST[:ro]", value_parser = bind)]
    binds: Vec<Bind>,
    /// Set a variable, or pass on that of the caller; can be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// The working directory [default: that of the image; the directory of a copy]
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<PathBuf>,
    /// The user, by name or number [default: that of the image; the owner of the directory of a copy]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The network
    #[arg(long, default_value = "host")]
    net: NetArg,
    /// Show a copy at this path instead of at its directory
    #[arg(long, value_name = "PATH")]
    at: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetArg {
    /// That of the host
    Host,
    /// Only the interface `lo`
    None,
}

/// Run a command in a workspace
#[derive(Debug, Args)]
#[command(
    after_help = "In a tree, the merged tree is `/`. In a copy, the command sees the tree of the host with the copy at
its directory, and is run as the owner of the directory. Only this directory is a copy: everything else that the
command changes on the host stays changed.

The exit code is that of the command; 127 if there is no such program, 126 if it cannot be executed.
`ovl run` does not protect the machine from hostile code that runs as root.

Examples:
  ovl run box -- make test                     a build in a copy
  ovl run box -it -- bash                      at a terminal
  ovl run box --transient -- ./try.sh          without a trace
  ovl run box --timeout 10m -- make check      not longer than ten minutes
  ovl run box@good -- ./check.sh               from a snapshot, without a trace"
)]
pub(in crate::cli) struct RunArgs {
    /// The workspace, or a snapshot of it
    #[arg(value_name = "NAME[@SNAPSHOT]")]
    pub(super) name: NameAt,
    /// Let the command read the standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Kill the command with all its processes after this time, such as 30s or 10m. The exit code is 124 then
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
    #[command(flatten)]
    place: Where,
    /// The command [default: that of the image]
    #[arg(last = true, value_name = "CMD")]
    argv: Vec<OsString>,
}

/// Start a shell in a workspace
#[derive(Debug, Args)]
#[command(after_help = "It is $SHELL if the workspace has it, else /bin/sh.

Examples:
  ovl shell box
  ovl shell box --transient      without a trace")]
pub(in crate::cli) struct ShellArgs {
    /// The workspace, or a snapshot of it
    #[arg(value_name = "NAME[@SNAPSHOT]")]
    pub(super) name: NameAt,
    #[command(flatten)]
    place: Where,
}

impl RunArgs {
    pub(super) fn open(&self) -> Result<(Workspaces, OnLocked), Failure> {
        Ok((self.place.store.open()?, self.place.store.on_locked()))
    }

    pub(super) fn options(&self) -> Result<RunOptions, Failure> {
        let (interactive, terminal) = (self.interactive, self.tty);
        let stdio = Stdio { interactive, terminal, ..Stdio::default() };
        let (argv, timeout) = (self.argv.clone(), self.timeout);
        Ok(RunOptions { argv, stdio, timeout, ..options(&self.place, &self.name)? })
    }

    /// The workspace of a command that takes no snapshot.
    pub(super) fn workspace(&self) -> Result<&WorkspaceName, Failure> {
        match self.name.state {
            None => Ok(&self.name.workspace),
            Some(_) => Err(Failure::Unusable(
                Explained::because("a step goes on from the present state of a workspace")
                    .fix(format!("write {} without a snapshot", self.name.workspace))
                    .into(),
            )),
        }
    }
}

/// Runs the command. Returns its exit code.
pub(super) fn run(args: &RunArgs) -> Result<u8, Failure> {
    start(&args.place, &args.name, args.options()?)
}

/// Runs a shell. Returns its exit code.
pub(super) fn shell(args: &ShellArgs) -> Result<u8, Failure> {
    let terminal = std::io::stdin().is_terminal();
    let stdio = Stdio { interactive: true, terminal, ..Stdio::default() };
    let options = RunOptions { shell: true, stdio, ..options(&args.place, &args.name)? };
    start(&args.place, &args.name, options)
}

fn start(place: &Where, name: &NameAt, options: RunOptions) -> Result<u8, Failure> {
    let all = place.store.open()?;
    let workspace = all.lock(&name.workspace, place.store.on_locked())?;
    let timeout = options.timeout;
    let exit = workspace.run(options).map_err(failure)?;
    if let Some(error) = exit.not_in_cgroup {
        tracing::debug!(%error, "the command had no cgroup of its own");
    }
    match timeout.filter(|_| exit.timed_out) {
        None => Ok(exit.code),
        Some(timeout) => {
            let ended =
                format!("the command and all its processes were killed after {}", span(timeout));
            let ended = Explained::new(ended).why("it ran longer than --timeout allows");
            Err(Failure::Code(ended.into(), exit.code))
        }
    }
}

/// The exit code of a command that was not run.
pub(super) fn failure(error: RunError) -> Failure {
    let explained = error.explained().into();
    match error {
        RunError::Workspace(error) => error.into(),
        RunError::NoCommand(_) | RunError::Unusable(_) => Failure::Unusable(explained),
        RunError::Container(error) => match error.exit_code() {
            Some(code) => Failure::Code(explained, code),
            None => Failure::Failed(explained),
        },
        RunError::User(_) => Failure::Failed(explained),
    }
}

fn options(place: &Where, name: &NameAt) -> Result<RunOptions, Failure> {
    let env = place.env.iter().map(variable).collect::<Result<Vec<_>, Failure>>()?;
    Ok(RunOptions {
        env: env.into_iter().flatten().collect(),
        workdir: place.workdir.clone(),
        user: place.user.clone(),
        no_net: place.net == NetArg::None,
        binds: place.binds.clone(),
        overlays: place.overlays.clone(),
        at: place.at.clone(),
        transient: place.transient,
        state: name.state.clone(),
        read_only: place.read_only,
        ..RunOptions::default()
    })
}

/// `NAME=VALUE`, or the caller's variable of this name if it has one.
fn variable(text: &OsString) -> Result<Option<(OsString, OsString)>, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(0) => Err(Failure::Unusable(anyhow!("--env {}: the name is missing", text.display()))),
        Some(at) => {
            let part = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
            Ok(Some((part(&bytes[..at]), part(&bytes[at + 1..]))))
        }
        None => Ok(env::var_os(text).map(|value| (text.clone(), value))),
    }
}

fn bind(text: &str) -> Result<Bind, String> {
    Bind::parse(text).map_err(|e| e.to_string())
}
