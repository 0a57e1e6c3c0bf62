//! `ovl completion` and `ovl man`: the scripts for shells and the manual pages, made from the arguments.
//!
//! Deliberately absent: how names of workspaces are completed (`complete`).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{complete::with_names, failure::Failure, output::print, values::DEFAULT_ROOT};
use crate::kubectl::ShellName;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "It completes commands and options; for root, who can read the store, also the names of workspaces and snapshots.

Examples:
  source <(ovl completion bash)                                  in this shell
  ovl completion bash > /etc/bash_completion.d/ovl               for all users
  ovl completion zsh > /usr/share/zsh/site-functions/_ovl
  ovl completion fish > ~/.config/fish/completions/ovl.fish"
)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: ShellName,
}

/// Write the manual pages into a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ovl man --to /usr/local/share/man/man1       install them
  ovl man --to . && man ./ovl-create.1         read one")]
pub(super) struct ManArgs {
    /// The directory; it is made if it does not exist
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Prints the script.
pub(super) fn completion(args: &CompletionArgs, root: Command) -> Result<(), Failure> {
    Ok(print(&with_names(args.shell, args.shell.script(root, "ovl")?))?)
}

/// Writes the pages.
pub(super) fn man(args: &ManArgs, root: Command) -> Result<(), Failure> {
    let failed = || format!("cannot write manual pages to {}", args.to.display());
    fs::create_dir_all(&args.to).with_context(failed)?;
    for (name, page) in pages(root).with_context(failed)? {
        let path = args.to.join(name);
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The pages, by the names of their files.
pub(super) fn pages(mut root: Command) -> io::Result<BTreeMap<String, Vec<u8>>> {
    root.build();
    let mut pages = BTreeMap::new();
    let mut commands = vec![&root];
    while let Some(command) = commands.pop() {
        // The commands of kubectl have a parser of their own.
        let own = |command: &&Command| {
            !command.is_hide_set() && !["help", "kubectl"].contains(&command.get_name())
        };
        commands.extend(command.get_subcommands().filter(own));
        let name = command.get_display_name().unwrap_or("ovl");
        pages.insert(format!("{name}.1"), page(command)?);
    }
    Ok(pages)
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let source = concat!("ovl ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual("ovl");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let parts: Vec<&str> = after.split("\n\n").filter(|part| !part.is_empty()).collect();
    let (examples, notes): (Vec<&str>, Vec<&str>) =
        parts.into_iter().partition(|part| part.starts_with("Examples:"));
    let mut roff = Roff::new();
    for note in notes {
        roff.control("PP", []);
        for line in note.lines() {
            roff.text([roman(line)]);
        }
    }
    page.write_all(roff.render().as_bytes())?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    exit_status(&mut roff, command.get_name());
    environment(&mut roff, command);
    section(&mut roff, "FILES");
    entry(&mut roff, DEFAULT_ROOT, "The store, unless --root or OVL_ROOT names another directory.");
    if !examples.is_empty() {
        section(&mut roff, "EXAMPLES");
        roff.control("nf", []);
        for line in examples.iter().flat_map(|part| part.lines().skip(1)) {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    if command.get_name() != "ovl" {
        section(&mut roff, "SEE ALSO");
        roff.text([bold("ovl"), roman("(1)")]);
    }
    page.write_all(roff.render().as_bytes())?;
    Ok(page)
}

fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

fn entry(roff: &mut Roff, name: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(text)]);
}

/// The exit codes of a command, which docs/shell.md has too.
fn exit_status(roff: &mut Roff, command: &str) {
    section(roff, "EXIT STATUS");
    let (first, second) = match command {
        "check" => (
            "The directory can hold a store.",
            "It cannot hold a store, or that is not known without root.",
        ),
        _ => ("Done.", "The command failed. The message says what to do."),
    };
    entry(roff, "0", first);
    entry(roff, "1", second);
    entry(
        roff,
        "2",
        "The arguments cannot be used, or changes would be lost and there is no terminal to ask at. Nothing was changed.",
    );
    if ["check", "node", "controller", "completion", "man", "node-snapshot"].contains(&command) {
        return;
    }
    entry(roff, "3", "With --no-wait: another command uses the workspace.");
    if ["ovl", "run", "shell", "step", "create"].contains(&command) {
        if ["ovl", "run", "step"].contains(&command) {
            entry(roff, "124", "The command ran longer than --timeout.");
        }
        entry(roff, "126", "The command for the workspace cannot be executed.");
        entry(roff, "127", "There is no such command in the workspace.");
        entry(
            roff,
            "any other",
            "The exit code of the command in the workspace, which can also be one of those above. If a signal ended it: 128 \
             and the number of the signal.",
        );
    }
}

/// The variables that stand for options.
fn environment(roff: &mut Roff, command: &Command) {
    section(roff, "ENVIRONMENT");
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
    for argument in arguments {
        if let (Some(variable), Some(long)) = (argument.get_env(), argument.get_long()) {
            let text = format!("Used if --{long} is not given.");
            entry(roff, &variable.to_string_lossy(), &text);
        }
    }
    entry(roff, "NO_COLOR", "Without colours, also on a terminal.");
}
