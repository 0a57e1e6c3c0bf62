//! What a machine has to have before anything slow begins; what it lacks is said with its cure.
//!
//! Deliberately absent: anything that a later step says as well and as soon.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use crate::engine::Engine;
use crate::harness::Harness;

/// What an empty cache grows to while everything is built, and what a full one needs for a run.
const EMPTY_NEEDS: u64 = 30 << 30;
const FULL_NEEDS: u64 = 8 << 30;

/// The least Linux that clusters of this Kubernetes and EROFS layers run on.
const OLDEST_LINUX: (u32, u32) = (5, 15);

/// Since when layers need not be attached anywhere; the driver's other ways are for older ones.
const DETACHED_LAYERS: (u32, u32) = (6, 15);

/// Looks at the kernel and at the place of the cache.
///
/// # Errors
/// Something is missing that nothing here can get.
pub fn check(h: &Harness) -> Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("asking for the kernel")?;
    let release = release.trim();
    let kernel = version(release).with_context(|| format!("Linux {release}: no version"))?;
    if kernel < OLDEST_LINUX {
        let (major, minor) = OLDEST_LINUX;
        bail!("Linux {release} is too old for the clusters: run this on {major}.{minor} or later");
    }
    if kernel < DETACHED_LAYERS {
        h.progress.say(&format!("  Linux {release}: the driver takes its ways for older kernels"));
    }
    let root = h.cache.root();
    let engine_is_ours = Engine::find().is_none_or(|engine| engine.ours);
    let kind = statfs(root).with_context(|| format!("asking for {}", root.display()))?;
    let cure = "set OVL_CACHE to a folder on a disk of its own";
    ensure!(
        kind.filesystem_type() != FsType(OVERLAYFS_SUPER_MAGIC.0) || !engine_is_ours,
        "{} is on an overlay, which can hold no other overlay: {cure}",
        root.display()
    );
    let space = statvfs(root).with_context(|| format!("asking for {}", root.display()))?;
    let free = space.blocks_available() * space.fragment_size();
    let products = fs::read_dir(root.join("products")).context("listing the cache")?.count();
    let needs = if products == 0 { EMPTY_NEEDS } else { FULL_NEEDS };
    ensure!(
        free >= needs,
        "{} has {} GiB free and {} are needed: make room, or {cure}",
        root.display(),
        free >> 30,
        needs >> 30
    );
    Ok(())
}

/// Major and minor of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_a_version() {
        assert_eq!(version("6.18.5-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("6.1.0"), Some((6, 1)));
        assert_eq!(version("none"), None);
    }
}
