//! The commands of workspaces beside programs that do similar work, on disks of their own.
//!
//! ```text
//! xfs    ovl fork                       one overlay mount and one record; cp -a --reflink=always
//! ext4   ovl create, mount, umount      podman create, mount, umount, of the same files
//!        ovl changes                    podman diff of the same changes; find through both trees
//!        ovl run -- true                bwrap with plain binds, and one overlay mount
//!        ovl step                       ovl run of the same, and the write of the bytes; hashes of the inputs
//! ```
//!
//! A row is the median of calls of both sides in turn, so other work of the machine affects both. The program is the
//! static one of a release.
//!
//! Deliberately absent: limits for absolute times, which depend on the disk. The limits are ratios.

mod copies;
mod files;
mod forks;
mod least;
mod ovl;
mod podman;
mod runs;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use self::podman::Podman;
use super::busy::disk::Disk;
use super::table::Row;
use crate::driver;
use crate::machine::harness::Harness;
use crate::machine::progress::minutes;
use crate::toolchain::apt;

/// Debian's packages of the peers, the disks and a shell for a tree.
const PACKAGES: &[&str] =
    &["bubblewrap", "busybox-static", "e2fsprogs", "podman", "uidmap", "xfsprogs"];

/// Measures all of it in an empty directory.
///
/// # Errors
/// A program failed.
pub fn measure(h: &Harness, repo: &Path, place: &Path) -> Result<Vec<Row>> {
    apt::ensure(h, PACKAGES)?;
    fs::create_dir_all(place).context("making a directory")?;
    let program = driver::program(h, repo)?;
    let mut rows = Vec::new();
    let disk = Disk::make(place, "xfs")?;
    let forks = |log: &Path| forks::measure(&program, &disk, log);
    rows.extend(h.progress.step("forks of 60,000 files", minutes(4), forks)?);
    drop(disk);
    let disk = Disk::make(place, "ext4")?;
    let copies = |log: &Path| {
        let podman = Podman::new(&disk, log);
        let measured = copies::measure(&program, &podman, &disk, log);
        measured.and_then(|rows| podman.remove().map(|()| rows))
    };
    rows.extend(h.progress.step("copies of 60,000 files", minutes(4), copies)?);
    let runs = |log: &Path| runs::measure(&program, &disk, log);
    rows.extend(h.progress.step("commands and steps", minutes(3), runs)?);
    Ok(rows)
}
