//! Commands and steps in workspaces.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::files::{self, SMALL};
use super::least::Least;
use super::ovl::{Ovl, call, middle};
use crate::bench::busy::disk::Disk;
use crate::bench::table::{Limit, Row};
use crate::bench::times::timed;

/// Rounds of a command that does nothing, and of a step.
const RUNS: usize = 40;
const STEPS: usize = 9;

/// Files of the inputs of a step, and the bytes of each.
const INPUTS: usize = 1000;
const INPUT: usize = 10_000;

/// MiB that a step writes.
const WRITTEN: usize = 100;

/// A step may take this much longer than `run` of the same, whatever it writes.
const LEAST: Duration = Duration::from_millis(20);

/// Namespaces as those of `ovl run`, with the tree of the host.
const BWRAP: [&str; 10] = [
    "--dev-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--unshare-pid",
    "--unshare-uts",
    "--unshare-ipc",
    "--",
    "true",
];

pub(super) fn measure(program: &Path, disk: &Disk, log: &Path) -> Result<Vec<Row>> {
    let ovl = Ovl::new(program, disk.at.join("runs"), log);
    let least = Least::new(disk.directory("least")?)?;
    let mut rows = nothing(&ovl, &least, disk, log)?;
    let tree = disk.directory("tree")?;
    fs::create_dir_all(tree.join("bin")).context("making a tree")?;
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("copying busybox")?;
    for name in ["sh", "dd", "touch"] {
        symlink("busybox", tree.join("bin").join(name)).context("making a link")?;
    }
    ovl.run(&["create", "base", &format!("rootfs:{}", tree.display())])?;
    rows.push(reused(&ovl, disk)?);
    rows.push(kept(&ovl, &least, disk)?);
    Ok(rows)
}

fn nothing(ovl: &Ovl<'_>, least: &Least, disk: &Disk, log: &Path) -> Result<Vec<Row>> {
    let dir = disk.directory("run")?;
    files::make(&dir, SMALL, 100)?;
    ovl.run(&["create", "copy", "--over", &dir.display().to_string()])?;
    let (mut ours, mut bwrap, mut mounts, mut mount_only) = (vec![], vec![], vec![], vec![]);
    for _ in 0..RUNS {
        ours.push(ovl.run(&["run", "copy", "--", "true"])?);
        bwrap.push(call("bwrap", &BWRAP, log)?);
        let mounted = least.overlay()?;
        mounts.push(mounted.both);
        mount_only.push(mounted.mount);
    }
    let (ours, bwrap) = (middle(&mut ours), middle(&mut bwrap));
    let row = || Row::milliseconds("run -- true", ours);
    Ok(vec![
        row().beside("bwrap, mount", bwrap + middle(&mut mounts), Limit::AtMost(1.5)),
        row().beside("without unmount", bwrap + middle(&mut mount_only), Limit::None),
    ])
}

/// A step whose result is there, beside the hashes of its inputs and `ovl list`.
fn reused(ovl: &Ovl<'_>, disk: &Disk) -> Result<Row> {
    let inputs = disk.directory("inputs")?;
    files::make(&inputs, INPUTS, INPUT)?;
    let bind = format!("{}:/inputs", inputs.display());
    let step = |name: &str| {
        ovl.run(&["create", name, "--from", "base@postinit"])?;
        ovl.run(&["step", name, "--bind", &bind, "--", "/bin/touch", "/made"])
    };
    step("first")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        ours.push(step("next")?);
        let hashed = timed(|| files::hash(&inputs))?;
        theirs.push(hashed + ovl.run(&["list"])?);
        ovl.run(&["scrub", "next"])?;
    }
    let theirs = middle(&mut theirs);
    let row = Row::milliseconds("step that is reused", middle(&mut ours));
    Ok(row.beside("hashes, list", theirs, Limit::AtMost(1.5)))
}

/// What a step takes longer than `run` of the same, beside the write of its bytes.
fn kept(ovl: &Ovl<'_>, least: &Least, disk: &Disk) -> Result<Row> {
    let (mut steps, mut runs, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..STEPS {
        for (command, times) in [("run", &mut runs), ("step", &mut steps)] {
            ovl.run(&["create", "next", "--from", "base@postinit"])?;
            let (round, count) = (format!("ROUND={round}"), format!("count={WRITTEN}"));
            let dd = ["/bin/dd", "if=/dev/zero", "of=/made", "bs=1M", &count];
            let args = [&[command, "next", "--env", &round, "--"][..], &dd].concat();
            disk.sync()?;
            times.push(ovl.run(&args)?);
            ovl.run(&["scrub", "next"])?;
        }
        disk.sync()?;
        writes.push(least.bytes(WRITTEN)?);
    }
    let more = middle(&mut steps).saturating_sub(middle(&mut runs));
    let write = middle(&mut writes);
    let at_least = LEAST.as_secs_f64() / write.as_secs_f64().max(f64::MIN_POSITIVE);
    let row = Row::milliseconds("step, more than run", more);
    Ok(row.beside("write, fsync", write, Limit::AtMost(at_least.max(1.5))))
}
