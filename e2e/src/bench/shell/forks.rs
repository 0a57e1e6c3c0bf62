//! Forks of a workspace with 60,000 files and 1 GB, on a disk with reflinks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::files::{self, LARGE};
use super::least::Least;
use super::ovl::{Ovl, call, middle};
use crate::bench::busy::disk::Disk;
use crate::bench::table::{Limit, Row};
use crate::machine::process::Cmd;

/// Forks of one command.
const TOGETHER: u32 = 10;

/// Rounds of a fork, and of a copy of all files.
const ROUNDS: usize = 20;
const COPIES: usize = 3;

/// Bytes of all files together.
const BYTES: usize = 1 << 30;

/// The limit of a fork: this often the least work.
const LIMIT: Limit = Limit::AtMost(2.0);

pub(super) fn measure(program: &Path, disk: &Disk, log: &Path) -> Result<Vec<Row>> {
    let ovl = Ovl::new(program, disk.at.join("store"), log);
    let least = Least::new(disk.directory("least")?)?;
    let (empty, mounted) = (disk.directory("empty")?, disk.directory("mounted")?);
    let [empty_name, mounted_name] = [&empty, &mounted].map(|path| path.display().to_string());
    ovl.run(&["create", "box", "--over", &empty_name])?;
    ovl.run(&["mount", "box", &mounted_name])?;
    files::make(&mounted, LARGE, BYTES / LARGE)?;
    ovl.run(&["umount", "box"])?;
    disk.sync()?;

    // The bytes of one fork, and of ten.
    ovl.run(&["fork", "box", "one"])?;
    let one = used(ovl.store())?;
    ovl.run(&["fork", "box", "9"])?;
    let ten = used(ovl.store())? as f64 / one as f64;

    let (mut single, mut each, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    let mut alone = Vec::new();
    for round in 0..ROUNDS {
        let mount = least.overlay()?.mount;
        alone.push(mount + least.record(&format!("record-{round}"))?);
        single.push(ovl.run(&["fork", "box", &format!("single-{round}")])?);
        let names: Vec<_> = (0..TOGETHER).map(|fork| format!("each-{round}-{fork}")).collect();
        let args: Vec<_> = ["fork", "box"].into_iter().chain(names.iter().map(|n| &**n)).collect();
        each.push(ovl.run(&args)? / TOGETHER);
        // The next fork makes the upper a layer first.
        let with_upper = format!("single-{round}");
        ovl.run(&["mount", &with_upper, &mounted_name])?;
        fs::write(mounted.join("changed"), "changed").context("changing a workspace")?;
        ovl.run(&["umount", &with_upper])?;
        changed.push(ovl.run(&["fork", &with_upper, &format!("changed-{round}")])?);
        for fork in names.iter().map(|name| &**name).chain([&*format!("changed-{round}")]) {
            ovl.run(&["scrub", fork])?;
        }
    }

    let from = disk.directory("files")?;
    files::make(&from, LARGE, BYTES / LARGE)?;
    disk.sync()?;
    let mut copies = Vec::new();
    for _ in 0..COPIES {
        let to = disk.at.join("copy");
        let names = [&from, &to].map(|path| path.display().to_string());
        copies.push(call("cp", &["-a", "--reflink=always", &names[0], &names[1]], log)?);
        Cmd::new("rm").arg("-rf").arg(&to).run()?;
    }

    let least = middle(&mut alone);
    let name = "mount, record";
    let single = middle(&mut single);
    Ok(vec![
        Row::milliseconds("fork", single).beside(name, least, LIMIT),
        Row::milliseconds("fork, each of ten", middle(&mut each)).beside(name, least, LIMIT),
        Row::milliseconds("fork after a change", middle(&mut changed)).beside(name, least, LIMIT),
        Row::milliseconds("fork", single).beside(
            "cp --reflink",
            middle(&mut copies),
            Limit::AtMost(0.02),
        ),
        Row::count("ten forks, bytes of one", ten).within(1.02),
    ])
}

/// Bytes on the disk of a directory.
fn used(dir: &Path) -> Result<u64> {
    let output = Cmd::new("du").args(["-s", "--block-size=1"]).arg(dir).output()?;
    let number = output.split_whitespace().next().and_then(|number| number.parse().ok());
    number.context("du prints no number")
}
