//! `ovl check`: what this kernel and this disk can do, and what to change.
//!
//! Deliberately absent: a judgement of its own. What keeps a root from being used is what keeps `ovl node` from starting on it.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Failure;
use crate::{
    overlay::{Feature, Features, LAYER_LIMIT, Unusable, root_usable},
    sys::{
        durable, limits, machine,
        mounts::{LinuxMounts, Way},
        quota::Projects,
        space, trials,
    },
};

/// Each layer in use holds a descriptor, so this many are wanted for two of the deepest stacks.
const WANTED_FILES: u64 = 1024;

/// Say what this kernel and the store's disk can do, with the reason and the cure for each no
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Where the store lies, or will lie
    #[arg(long, default_value = "/var/lib/ovl-csi", value_name = "DIR", value_parser = super::node::args::folder)]
    root: PathBuf,
    /// A check whose no is wrong here; may be given again
    #[arg(long = "override", value_name = "NAME", value_parser = required_check)]
    overridden: Vec<String>,
    /// How it is said
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    usable: bool,
    root: PathBuf,
    kernel: String,
    machine: String,
    /// How layers are handed to this kernel.
    way: &'static str,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    required: bool,
    overridden: bool,
    /// What was found, or why not.
    detail: String,
    /// What to do about a no.
    cure: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, found: Result<String, String>, cure: &'static str) -> Self {
        let ok = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        let cure = (!ok).then_some(cure);
        Self { name, ok, required: false, overridden: false, detail, cure }
    }

    fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

/// The checks that keep a store from being used, which are the ones worth overriding.
pub(super) fn required_check(name: &str) -> Result<String, String> {
    let features = Feature::ALL.into_iter().filter(|f| f.required()).map(Feature::name);
    let names: Vec<_> = ["root-user", "filesystem"].into_iter().chain(features).collect();
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!("expected one of the required checks: {}", names.join(", ")))
}

/// Looks, and fails where `ovl node` would.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let report = look(args)?;
    let text = match args.output {
        Output::Text => table(&report),
        Output::Json => {
            serde_json::to_string_pretty(&report).context("cannot write the report")? + "\n"
        }
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    if report.usable {
        return Ok(());
    }
    let wrong =
        report.checks.iter().filter(|check| check.required && !check.ok && !check.overridden);
    let wrong: Vec<&str> = wrong.map(|check| check.name).collect();
    let root = report.root.display();
    Err(Failure::Failed(anyhow!("{root} cannot hold a store: {}", wrong.join(", "))))
}

fn look(args: &CheckArgs) -> anyhow::Result<Report> {
    let there = nearest(&args.root);
    let scratch = Scratch::new(there)?;
    let features = Features::probe(&LinuxMounts, &scratch.0)
        .with_context(|| format!("cannot try anything in {}", there.display()))?;
    let wrong = root_usable(there, &features, &[])?;
    let mut checks = vec![user()];
    checks.extend(disk(there, &scratch.0, &wrong)?);
    checks.extend(Feature::ALL.into_iter().map(|feature| {
        let found = features.get(feature).map(|()| String::new());
        let check = Check::new(feature.name(), found, features.cure(feature));
        if feature.required() { check.required() } else { check }
    }));
    checks.extend(limits());
    for check in &mut checks {
        check.overridden = !check.ok && args.overridden.iter().any(|name| name == check.name);
    }
    Ok(Report {
        usable: checks.iter().all(|check| check.ok || !check.required || check.overridden),
        root: args.root.clone(),
        kernel: machine::release(),
        machine: machine::architecture(),
        way: match features.way() {
            Way::Detached => "detached",
            Way::Attached => "attached",
            Way::Classic => "classic",
        },
        checks,
    })
}

fn user() -> Check {
    let found = match machine::is_root() {
        true => Ok(String::new()),
        false => Err("this process is not root's, so nothing can be mounted to try it".to_owned()),
    };
    Check::new("root-user", found, "run it as root, in Kubernetes in a privileged container")
        .required()
}

fn disk(there: &Path, scratch: &Path, wrong: &[Unusable]) -> anyhow::Result<Vec<Check>> {
    let space = space::of(there)?;
    let kind = space.kind().unwrap_or("of a type without a name here");
    let found = match wrong.iter().find(|check| check.name == "filesystem") {
        Some(wrong) => Check::new("filesystem", Err(wrong.why.clone()), wrong.cure),
        None => Check::new("filesystem", Ok(format!("{kind} at {}", there.display())), ""),
    };
    let reflink = match trials::reflink(scratch) {
        Ok(true) => Ok(String::new()),
        Ok(false) => Err("the file system cannot share bytes between files".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let entries = match trials::mark_bytes(scratch) {
        Ok(0) => Ok(String::new()),
        Ok(bytes) => Err(format!(
            "a file of a layer whose owner, mode or name changes takes {} KiB of the disk for overlay's marks, which do not fit its inode",
            bytes >> 10
        )),
        Err(error) => Err(error.to_string()),
    };
    let room = format!("{} GiB of {} GiB free", space.available >> 30, space.total >> 30);
    Ok(vec![
        found.required(),
        Check::new("room", Ok(room), ""),
        Check::new(
            "quota",
            Projects::probe(there).map(|_| String::new()),
            "mount the disk with prjquota; else sizes are limited in memory volumes only",
        ),
        Check::new("reflink", reflink, "xfs (reflink=1) or btrfs; else a copy-up copies"),
        Check::new(
            "small-entries",
            entries,
            "give the store a disk of its own, made with mkfs.ext4 -I 512, xfs or btrfs",
        ),
    ])
}

fn limits() -> Vec<Check> {
    let files = limits::open_files();
    let files = match files {
        Some(files) if files < WANTED_FILES => Err(format!("{files} at most")),
        Some(files) => Ok(format!("{files} at most")),
        None => Ok("without limit".to_owned()),
    };
    let namespaces = match machine::user_namespaces() {
        None => Err("the kernel has none".to_owned()),
        Some(0) => Err("none are allowed".to_owned()),
        Some(number) => Ok(format!("{number} at most")),
    };
    let selinux = match machine::selinux() {
        true => Ok("context= is taken from the kubelet".to_owned()),
        false => Err("it is not enabled".to_owned()),
    };
    vec![
        Check::new("open-files", files, "raise the limit (ulimit -Hn) to 1024 or more"),
        Check::new("user-namespaces", namespaces, "raise the sysctl user.max_user_namespaces"),
        Check::new("layers", Ok(format!("{LAYER_LIMIT} a volume")), ""),
        Check::new("selinux", selinux, "nothing, unless pods are to have labels: then enable it"),
    ]
}

/// The folder itself, or the one in which it would be made.
fn nearest(root: &Path) -> &Path {
    root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

/// A folder for trials, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(there: &Path) -> anyhow::Result<Self> {
        let folder =
            there.canonicalize().with_context(|| format!("cannot open {}", there.display()))?;
        // A store's own is emptied at its next start, should this process be killed.
        let staging = folder.join("staging");
        let folder = if staging.is_dir() { staging } else { folder };
        let path = folder.join(format!(".ovl-check-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(e) if machine::is_root() => {
                Err(e).with_context(|| format!("cannot make a folder in {}", folder.display()))
            }
            // Where it may not write, a process that is not root's learns no less from elsewhere.
            Err(_) => {
                let path = std::env::temp_dir().join(format!(".ovl-check-{}", std::process::id()));
                fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
                Ok(Self(path))
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree(&self.0) {
            tracing::warn!(%error, "a folder of trials is left");
        }
    }
}

fn table(report: &Report) -> String {
    let Report { root, kernel, machine, way, .. } = report;
    let mut text = format!(
        "kernel {kernel} ({machine}), layers are handed over {way}\nstore  {}\n\n",
        root.display()
    );
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for (title, required) in [("required", true), ("optional", false)] {
        text += title;
        text += "\n";
        for check in report.checks.iter().filter(|check| check.required == required) {
            let answer = match (check.ok, check.overridden) {
                (true, _) => "yes",
                (false, true) => "no, overridden",
                (false, false) => "no",
            };
            let name = check.name;
            let line = format!("  {name:width$}  {answer:3}  {}", check.detail);
            text += line.trim_end();
            if let Some(cure) = check.cure {
                text += &format!("\n  {:width$}       -> {cure}", "");
            }
            text += "\n";
        }
    }
    text += match report.usable {
        true => "\nusable\n",
        false => "\nnot usable\n",
    };
    text
}
