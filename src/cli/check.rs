//! `ovl check`: reports what the kernel and the store's disk support, and what to change.
//!
//! Deliberately absent: rules of its own. A directory cannot hold a store for the same reasons for which `ovl node`
//! does not start on it.

mod quirks;
mod report;
mod table;

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;

use super::{
    failure::Failure,
    output::Format,
    values::{DEFAULT_ROOT, dir, required_check},
};
use crate::{
    error::Explained,
    format,
    overlay::{Feature, KernelFeatures, LAYER_LIMIT, refused_file_system},
    sys::{
        durable,
        flock::{self, Lock},
        fs_probe, host, limits,
        mounts::{LinuxMounts, MountApi},
        quota::Projects,
        statfs,
    },
};
use report::{Check, Report, Verdict};

/// The lowest useful limit of open files. Each layer in use needs a descriptor, so it is enough for two of the deepest
/// stacks.
const MIN_OPEN_FILES: u64 = 1024;

/// Report what this kernel and the disk of a store support. Each "no" has a reason and a fix
#[derive(Debug, Args)]
#[command(
    after_help = "The last line is for a report of a bug: the verdict, the kernel, the distribution and the file system.
A normal user learns what can be found out without root.

Exit codes: 0 usable; 1 not usable, or unknown without root; 2 the arguments cannot be used.

Examples:
  sudo ovl check                              the default store
  sudo ovl check --root /data/ovl             another directory, or one that does not exist yet
  ovl check | tail -n 1                       the line for a report"
)]
pub(super) struct CheckArgs {
    /// The directory of the store, or a parent of it; it need not exist yet. The driver's image and its chart set OVL_ROOT
    /// to the store of the driver
    #[arg(
        long,
        env = "OVL_ROOT",
        default_value = DEFAULT_ROOT,
        value_name = "DIR",
        value_parser = dir
    )]
    root: PathBuf,
    /// Report the store's directory as usable even if this check fails; can be repeated
    #[arg(long = "ignore-check", value_name = "NAME", value_parser = required_check)]
    ignored: Vec<String>,
    /// The format of the report
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

/// Prints the report. Fails where `ovl node` would not start, and where only root can find that out.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let report = report(args)?;
    args.output.print(&report, || table::table(&report))?;
    let failed = report.checks.iter().filter(|check| check.fails());
    let failed: Vec<&str> = failed.map(|check| check.name).collect();
    let root = report.root.display();
    let why =
        match report.verdict {
            Verdict::Usable => return Ok(()),
            Verdict::NotUsable => Explained::new(format!("{root} cannot hold a store"))
                .why(format!("these checks failed: {}", failed.join(", ")))
                .fix("the report has the fix of each"),
            Verdict::Unknown => Explained::new(format!(
                "it is not known whether {root} can hold a store"
            ))
            .why("nothing that was found speaks against it, and only root can find out the rest")
            .fix("run it as root, for example with sudo"),
        };
    Err(Failure::Failed(why.into()))
}

fn report(args: &CheckArgs) -> anyhow::Result<Report> {
    let existing = nearest_existing(&args.root);
    let scratch = Scratch::new(existing)?;
    let is_root = host::is_root();
    let features = match is_root {
        true => Some(KernelFeatures::probe(&LinuxMounts, &scratch.path).with_context(|| {
            format!("cannot probe the kernel's features in {}", existing.display())
        })?),
        false => None,
    };
    let mut checks = vec![user()];
    checks.extend(disk(existing, &scratch)?);
    checks.extend(Feature::ALL.into_iter().map(|feature| {
        let check = match &features {
            Some(features) => {
                let found = features.get(feature).map(|()| feature.meaning().to_owned());
                Check::new(feature.name(), found, features.fix(feature))
            }
            None => without_root(feature),
        };
        if feature.required() { check.required() } else { check }
    }));
    checks.extend(limits());
    checks.extend(quirks::checks());
    for check in &mut checks {
        check.ignored = !check.ok && args.ignored.iter().any(|name| name == check.name);
    }
    let verdict = match checks.iter().any(Check::fails) {
        true => Verdict::NotUsable,
        false if is_root => Verdict::Usable,
        false => Verdict::Unknown,
    };
    Ok(Report {
        verdict,
        usable: verdict == Verdict::Usable,
        root: args.root.clone(),
        kernel: host::release(),
        kernel_version: host::version(),
        machine: host::architecture(),
        distribution: host::distribution(),
        file_system: statfs::of(existing)?.kind().unwrap_or("an unknown file system"),
        mount_api: features.map(|features| match features.mount_api() {
            MountApi::Detached => "detached",
            MountApi::Attached => "attached",
            MountApi::Classic => "classic",
        }),
        checks,
    })
}

/// What a normal user can find out about a feature: that the kernel does not have the file system at all.
fn without_root(feature: Feature) -> Check {
    let file_system = match feature {
        Feature::Overlay => "overlay",
        Feature::Erofs => "erofs",
        _ => return Check::unknown(feature.name()),
    };
    match host::has_file_system(file_system) {
        Some(false) => {
            let why =
                format!("this kernel has no file system {file_system}, built in or as a module");
            Check::new(feature.name(), Err(why), feature.needs())
        }
        _ => Check::unknown(feature.name()),
    }
}

fn user() -> Check {
    match host::is_root() {
        true => Check::new("root-user", Ok(String::new()), "").required(),
        false => Check::unknown("root-user").required(),
    }
}

fn disk(existing: &Path, scratch: &Scratch) -> anyhow::Result<Vec<Check>> {
    let space = statfs::of(existing)?;
    let kind = space.kind().unwrap_or("an unknown file system");
    let file_system = match refused_file_system(existing)? {
        Some(refused) => Check::new("filesystem", Err(refused.why), refused.fix),
        None => Check::new("filesystem", Ok(format!("{kind} at {}", existing.display())), ""),
    };
    let reflink = match fs_probe::reflink(&scratch.path) {
        Ok(true) => Ok(String::new()),
        Ok(false) => Err("the file system cannot share blocks between files".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let reflink = match scratch.is_elsewhere {
        true => Check::unknown("reflink"),
        false => Check::new(
            "reflink",
            reflink,
            "xfs (reflink=1) or btrfs; without it, a copy-up copies all bytes",
        ),
    };
    let entries = match fs_probe::overlay_xattr_bytes(&scratch.path) {
        Ok(0) => Ok(String::new()),
        Ok(bytes) => Err(format!(
            "if a pod changes the owner, mode or name of a layer's file, the change takes {}, because overlay's xattrs do not fit into the inode",
            format::bytes(bytes)
        )),
        Err(error) => Err(error.to_string()),
    };
    let entries = match host::is_root() {
        false => Check::unknown("small-entries"),
        true => Check::new(
            "small-entries",
            entries,
            "give the store a disk of its own, made with mkfs.ext4 -I 512, xfs or btrfs",
        ),
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
        reflink,
        entries,
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
    vec![
        Check::new("open-files", files, "raise the limit (ulimit -Hn) to 1024 or more"),
        Check::new("user-namespaces", namespaces, "raise the sysctl user.max_user_namespaces"),
        Check::new("layers", Ok(format!("{LAYER_LIMIT} per volume")), ""),
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
    /// Whether it is not on the disk of the store, which a normal user cannot write.
    is_elsewhere: bool,
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
            Err(_) => {
                let mut scratch = Self::in_dir(&std::env::temp_dir())?;
                scratch.is_elsewhere = true;
                Ok(scratch)
            }
            made => Ok(made?),
        }
    }

    fn in_dir(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!(".ovl-check-{}", std::process::id()));
        loop {
            if let Some(_lock) = flock::create_locked_dir(&path)? {
                return Ok(Self { path, is_elsewhere: false, _lock });
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
