//! Checks of the machine before anything slow starts. An error says how to fix it.
//!
//! Deliberately absent: checks that a later step makes just as early.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use super::engine::Engine;
use crate::machine::harness::Harness;

/// The size of a cache after a full build, and the free space that a run needs with a full cache.
const EMPTY_NEEDS: u64 = 30 << 30;
const FULL_NEEDS: u64 = 8 << 30;

/// The oldest Linux for clusters of this Kubernetes and EROFS layers.
const OLDEST_LINUX: (u32, u32) = (5, 15);

/// From this version layers need no attached mount. The driver has other ways for older kernels.
const DETACHED_LAYERS: (u32, u32) = (6, 15);

/// Checks the kernel and the file system of the cache.
///
/// # Errors
/// Something is missing that the harness cannot provide.
pub fn check(h: &Harness) -> Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel release")?;
    let release = release.trim();
    let kernel = version(release).with_context(|| format!("Linux {release}: no version"))?;
    if kernel < OLDEST_LINUX {
        let (major, minor) = OLDEST_LINUX;
        bail!("Linux {release} is too old for the clusters: run this on {major}.{minor} or later");
    }
    if kernel < DETACHED_LAYERS {
        h.progress.say(&format!("  Linux {release}: the driver uses its ways for older kernels"));
    }
    let root = h.cache.root();
    let engine_is_ours = Engine::find().is_none_or(|engine| engine.ours);
    let kind =
        statfs(root).with_context(|| format!("reading the file system of {}", root.display()))?;
    let fix = "set OVL_CACHE to a directory on a disk of its own";
    ensure!(
        kind.filesystem_type() != FsType(OVERLAYFS_SUPER_MAGIC.0) || !engine_is_ours,
        "{} is on an overlay, which cannot hold another overlay: {fix}",
        root.display()
    );
    let space =
        statvfs(root).with_context(|| format!("reading the file system of {}", root.display()))?;
    let free = space.blocks_available() * space.fragment_size();
    let products = fs::read_dir(root.join("products")).context("listing the cache")?.count();
    let needs = if products == 0 { EMPTY_NEEDS } else { FULL_NEEDS };
    ensure!(
        free >= needs,
        "{} has {} GiB free and {} are needed: free some space, or {fix}",
        root.display(),
        free >> 30,
        needs >> 30
    );
    Ok(())
}

/// Major and minor number of a kernel release.
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
