//! Copies of a directory of 60,000 files, and their changes, beside containers with the same files.

use std::path::Path;

use anyhow::Result;

use super::files::{self, LARGE, SMALL};
use super::ovl::{Ovl, call, middle};
use super::podman::Podman;
use crate::bench::busy::disk::Disk;
use crate::bench::table::{Limit, Row};

/// Rounds of each comparison.
const ROUNDS: usize = 15;

/// Bytes of a file.
const BYTES: usize = 1000;

pub(super) fn measure(
    program: &Path,
    podman: &Podman<'_>,
    disk: &Disk,
    log: &Path,
) -> Result<Vec<Row>> {
    let ovl = Ovl::new(program, disk.at.join("store"), log);
    let (large, small) = (disk.directory("large")?, disk.directory("small")?);
    files::make(&large, LARGE, BYTES)?;
    files::make(&small, SMALL, BYTES)?;
    podman.import(&large, "large")?;
    disk.sync()?;
    let mut rows = created(&ovl, podman, [&large, &small])?;
    rows.extend(changed(&ovl, podman, &large, disk, log)?);
    Ok(rows)
}

fn created(ovl: &Ovl<'_>, podman: &Podman<'_>, [large, small]: [&Path; 2]) -> Result<Vec<Row>> {
    let (mut of_large, mut of_small, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (dir, times) in [(large, &mut of_large), (small, &mut of_small)] {
            let dir = dir.display().to_string();
            let create = ovl.run(&["create", "box", "--over", &dir])?;
            times.push(create + ovl.run(&["mount", "box"])? + ovl.run(&["umount", "box"])?);
            ovl.run(&["scrub", "box"])?;
        }
        let create = podman.create("box", "large")?;
        theirs.push(create + podman.run(&["mount", "box"])? + podman.run(&["umount", "box"])?);
        podman.run(&["rm", "box"])?;
    }
    let (of_large, of_small) = (middle(&mut of_large), middle(&mut of_small));
    let row = |name: &str| Row::milliseconds(name, of_large);
    Ok(vec![
        row("create, mount, umount").beside("podman", middle(&mut theirs), Limit::AtMost(0.1)),
        row("the same, 60,000 files").beside("600 files", of_small, Limit::AtMost(1.2)),
    ])
}

fn changed(
    ovl: &Ovl<'_>,
    podman: &Podman<'_>,
    dir: &Path,
    disk: &Disk,
    log: &Path,
) -> Result<Vec<Row>> {
    let merged = disk.directory("merged")?;
    let [dir_name, merged_name] = [dir, &*merged].map(|path| path.display().to_string());
    ovl.run(&["create", "box", "--over", &dir_name])?;
    ovl.run(&["mount", "box", &merged_name])?;
    files::change(&merged, LARGE)?;
    ovl.run(&["umount", "box"])?;
    podman.create("box", "large")?;
    files::change(&podman.mount("box")?, LARGE)?;
    podman.run(&["umount", "box"])?;
    disk.sync()?;
    // Names, sizes and times of all entries of both trees.
    let walk = [&*dir_name, &merged_name, "-printf", "%p %y %m %s %T@\n"];
    let (mut ours, mut theirs, mut walks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(ovl.run(&["changes", "box"])?);
        theirs.push(podman.run(&["diff", "box"])?);
        ovl.run(&["mount", "box", &merged_name])?;
        // The first one fills the kernel's caches.
        call("find", &walk, log)?;
        walks.push(call("find", &walk, log)?);
        ovl.run(&["umount", "box"])?;
    }
    let ours = middle(&mut ours);
    let row = || Row::milliseconds("changes", ours);
    Ok(vec![
        row().beside("podman diff", middle(&mut theirs), Limit::AtMost(0.25)),
        row().beside("find in both", middle(&mut walks), Limit::AtMost(0.05)),
    ])
}
