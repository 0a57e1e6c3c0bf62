//! `ovl check`: reports what the kernel and the store's disk support, and what to change.
//!
//! Deliberately absent: rules of its own. A directory cannot hold a store for the same reasons for which `ovl node`
//! does not start on it.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    failure::Failure,
    values::{dir, required_check},
};
use crate::{
    format,
    overlay::{Feature, KernelFeatures, LAYER_LIMIT, PreflightError, root_usable},
    sys::{
        durable,
        flock::{self, Lock},
        fs_probe, host, limits,
        mounts::{LinuxMounts, MountApi},
        quota::Projects,
        statfs,
    },
};

/// The lowest useful limit of open files. Each layer in use needs a descriptor, so it is enough for two of the deepest
/// stacks.
const MIN_OPEN_FILES: u64 = 1024;

/// Report what this kernel and the store's disk support, with the reason and the fix for each "no"
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The directory of the store, or a parent of it; it need not exist yet. The driver's image and its chart set OVL_ROOT
    /// to the store of the driver
    #[arg(
        long,
        env = "OVL_ROOT",
        default_value = "/var/lib/ovl",
        value_name = "DIR",
        value_parser = dir
    )]
    root: PathBuf,
    /// Report the store's directory as usable even if this check fails; can be repeated
    #[arg(long = "ignore-check", value_name = "NAME", value_parser = required_check)]
    ignored: Vec<String>,
    /// The format of the report
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// A table
    Text,
    /// A JSON object
    Json,
}

/// The result of all checks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    usable: bool,
    root: PathBuf,
    kernel: String,
    machine: String,
    /// The mount API by which layers are given to this kernel: `detached`, `attached` or `classic`.
    mount_api: &'static str,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    required: bool,
    ignored: bool,
    /// A feature that is turned off and that no volume needs.
    #[serde(skip)]
    off: bool,
    /// What was found, or why the check failed.
    detail: String,
    /// What to do about a failed check.
    fix: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, found: Result<String, String>, fix: &'static str) -> Self {
        let ok = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        let fix = (!ok).then_some(fix);
        Self { name, ok, required: false, ignored: false, off: false, detail, fix }
    }

    fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

/// Prints the report. Fails where `ovl node` would not start.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let report = report(args)?;
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
    let failed = report.checks.iter().filter(|check| check.required && !check.ok && !check.ignored);
    let failed: Vec<&str> = failed.map(|check| check.name).collect();
    let root = report.root.display();
    Err(Failure::Failed(anyhow!("{root} cannot hold a store: {}", failed.join(", "))))
}

fn report(args: &CheckArgs) -> anyhow::Result<Report> {
    let existing = nearest_existing(&args.root);
    let scratch = Scratch::new(existing)?;
    let features = KernelFeatures::probe(&LinuxMounts, &scratch.path)
        .with_context(|| format!("cannot probe the kernel's features in {}", existing.display()))?;
    let failed = root_usable(existing, &features, &[])?;
    let mut checks = vec![user()];
    checks.extend(disk(existing, &scratch.path, &failed)?);
    checks.extend(Feature::ALL.into_iter().map(|feature| {
        let found = features.get(feature).map(|()| feature.meaning().to_owned());
        let check = Check::new(feature.name(), found, features.fix(feature));
        if feature.required() { check.required() } else { check }
    }));
    checks.extend(limits());
    for check in &mut checks {
        check.ignored = !check.ok && args.ignored.iter().any(|name| name == check.name);
    }
    Ok(Report {
        usable: checks.iter().all(|check| check.ok || !check.required || check.ignored),
        root: args.root.clone(),
        kernel: host::release(),
        machine: host::architecture(),
        mount_api: match features.mount_api() {
            MountApi::Detached => "detached",
            MountApi::Attached => "attached",
            MountApi::Classic => "classic",
        },
        checks,
    })
}

fn user() -> Check {
    let found = match host::is_root() {
        true => Ok(String::new()),
        false => {
            Err("this process does not run as root, so it cannot mount anything to probe it"
                .to_owned())
        }
    };
    Check::new("root-user", found, "run it as root, in Kubernetes in a privileged container")
        .required()
}

fn disk(existing: &Path, scratch: &Path, failed: &[PreflightError]) -> anyhow::Result<Vec<Check>> {
    let space = statfs::of(existing)?;
    let kind = space.kind().unwrap_or("an unknown file system");
    let file_system = match failed.iter().find(|check| check.name == "filesystem") {
        Some(failed) => Check::new("filesystem", Err(failed.why.clone()), failed.fix),
        None => Check::new("filesystem", Ok(format!("{kind} at {}", existing.display())), ""),
    };
    let reflink = match fs_probe::reflink(scratch) {
        Ok(true) => Ok(String::new()),
        Ok(false) => Err("the file system cannot share blocks between files".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let entries = match fs_probe::overlay_xattr_bytes(scratch) {
        Ok(0) => Ok(String::new()),
        Ok(bytes) => Err(format!(
            "if a pod changes the owner, mode or name of a layer's file, the change takes {}, because overlay's xattrs do not fit into the inode",
            format::bytes(bytes)
        )),
        Err(error) => Err(error.to_string()),
    };
    let free = format!("{} free", format::part(space.available, space.total));
    Ok(vec![
        file_system.required(),
        Check::new("space", Ok(free), ""),
        Check::new(
            "quota",
            Projects::probe(existing).map(|_| String::new()),
            "mount the disk with prjquota; without it, sizes are limited in memory volumes only",
        ),
        Check::new(
            "reflink",
            reflink,
            "xfs (reflink=1) or btrfs; without it, a copy-up copies all bytes",
        ),
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
        Some(files) if files < MIN_OPEN_FILES => Err(format!("{files} at most")),
        Some(files) => Ok(format!("{files} at most")),
        None => Ok("without limit".to_owned()),
    };
    let namespaces = match host::user_namespaces() {
        None => Err("the kernel does not have them".to_owned()),
        Some(0) => Err("none are allowed".to_owned()),
        Some(number) => Ok(format!("{number} at most")),
    };
    let selinux = match host::selinux() {
        true => "the mount option context= of the kubelet is used",
        false => "it is needed only if pods must have SELinux labels",
    };
    let selinux = Check::new("selinux", Ok(selinux.to_owned()), "");
    vec![
        Check::new("open-files", files, "raise the limit (ulimit -Hn) to 1024 or more"),
        Check::new("user-namespaces", namespaces, "raise the sysctl user.max_user_namespaces"),
        Check::new("layers", Ok(format!("{LAYER_LIMIT} per volume")), ""),
        Check { off: !host::selinux(), ..selinux },
    ]
}

/// The directory itself if it exists, else its nearest parent that does.
fn nearest_existing(root: &Path) -> &Path {
    root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

/// The directory of the probes, which the drop removes. It is locked meanwhile: the processes that use the store remove
/// everything in its staging directory that is not.
struct Scratch {
    path: PathBuf,
    _lock: Lock,
}

impl Scratch {
    fn new(existing: &Path) -> anyhow::Result<Self> {
        let canonical = existing.canonicalize();
        let dir = canonical.with_context(|| format!("cannot open {}", existing.display()))?;
        // If this process is killed, the store empties its staging directory at its next start.
        let staging = dir.join("staging");
        let dir = if staging.is_dir() { staging } else { dir };
        match Self::in_dir(&dir) {
            Err(e) if host::is_root() => {
                Err(e).with_context(|| format!("cannot make a directory in {}", dir.display()))
            }
            // Without root no feature can be probed, so another directory gives the same report.
            Err(_) => Ok(Self::in_dir(&std::env::temp_dir())?),
            made => Ok(made?),
        }
    }

    fn in_dir(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!(".ovl-check-{}", std::process::id()));
        loop {
            if let Some(_lock) = flock::create_locked_dir(&path)? {
                return Ok(Self { path, _lock });
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree(&self.path) {
            tracing::warn!(%error, "cannot remove the directory of the probes");
        }
    }
}

fn table(report: &Report) -> String {
    let Report { root, kernel, machine, mount_api, .. } = report;
    let mut text = format!(
        "kernel {kernel} ({machine}), mount API {mount_api}\nstore  {}\n\n",
        root.display()
    );
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for (title, required) in [("required", true), ("optional", false)] {
        text += title;
        text += "\n";
        for check in report.checks.iter().filter(|check| check.required == required) {
            let result = match (check.ok, check.ignored) {
                (true, _) if check.off => "off",
                (true, _) => "yes",
                (false, true) => "no, ignored",
                (false, false) => "no",
            };
            let name = check.name;
            let line = format!("  {name:width$}  {result:3}  {}", check.detail);
            text += line.trim_end();
            if let Some(fix) = check.fix {
                text += &format!("\n  {:width$}       -> {fix}", "");
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
