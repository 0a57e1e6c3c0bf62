//! Preflight: checks whether a directory can hold a store, because its uppers need a file system that overlay can write
//! to.
//!
//! Deliberately absent: making the directory, and the check of its free space.

use std::{io, path::Path};

use super::{Feature, KernelFeatures};
use crate::{error::Class, sys::statfs};

/// File systems on which uppers of this driver do not work or lose data, even where the first mount succeeds.
const REFUSED: [(&str, &str); 4] = [
    (
        "overlay",
        "an overlay's upper cannot be on an overlay: in a container, mount a directory of the node there",
    ),
    ("aufs", "aufs hides its own whiteouts from overlay"),
    ("ecryptfs", "eCryptfs cannot store overlay's extended attributes"),
    ("nfs", "NFS has no whiteouts and no trusted.* attributes"),
];

/// A failed check of a root directory, with the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {fix}")]
pub struct PreflightError {
    /// The name of the failed check. `--ignore-check` takes it.
    pub name: &'static str,
    /// Why the check failed.
    pub why: String,
    /// What the administrator can do.
    pub fix: &'static str,
}

impl PreflightError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        Class::Precondition
    }
}

/// Returns every failed check of `root`, given the features found on its file system. An empty list means that `root`
/// can hold a store. Checks named in `ignored` are left out.
///
/// # Errors
/// The root does not exist, or statfs(2) fails on it.
pub fn root_usable(
    root: &Path,
    features: &KernelFeatures,
    ignored: &[String],
) -> io::Result<Vec<PreflightError>> {
    let mut failed: Vec<PreflightError> = refused_file_system(root)?.into_iter().collect();
    for feature in Feature::ALL.into_iter().filter(|feature| feature.required()) {
        if let Err(why) = features.get(feature) {
            failed.push(PreflightError { name: feature.name(), why, fix: features.fix(feature) });
        }
    }
    failed.retain(|check| !ignored.iter().any(|name| name == check.name));
    Ok(failed)
}

/// The check of the type of the file system of `root` alone, which needs no root.
///
/// # Errors
/// The root does not exist, or statfs(2) fails on it.
pub fn refused_file_system(root: &Path) -> io::Result<Option<PreflightError>> {
    Ok(file_system(statfs::of(root)?.kind()))
}

/// Refuses the file systems of [`REFUSED`]. For ZFS and unknown file systems the probe alone decides: some releases of
/// ZFS work, others do not.
fn file_system(kind: Option<&str>) -> Option<PreflightError> {
    let (_, why) = REFUSED.iter().find(|(refused, _)| Some(*refused) == kind)?;
    Some(PreflightError {
        name: "filesystem",
        why: (*why).to_owned(),
        fix: "put the root on ext4, xfs (ftype=1) or btrfs of the node's own disk",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_cannot_hold_an_upper_is_refused_with_a_reason_and_a_fix() {
        for kind in ["overlay", "aufs", "ecryptfs", "nfs"] {
            let refused = file_system(Some(kind)).unwrap();
            assert!(!refused.why.is_empty() && refused.fix.contains("ext4"), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "zfs", "tmpfs"] {
            assert_eq!(file_system(Some(kind)), None);
        }
        assert_eq!(file_system(None), None);
    }

    #[test]
    fn a_missing_required_feature_fails_unless_it_is_ignored() {
        let no = |feature| (feature, "no".to_owned());
        let missing = [no(Feature::Whiteouts), no(Feature::Xino), no(Feature::EntryTypes)];
        let features = KernelFeatures::lacking(missing);
        let root = std::env::temp_dir();
        let names = |ignored: &[&str]| -> Vec<&str> {
            let ignored: Vec<String> = ignored.iter().map(|n| (*n).to_owned()).collect();
            let failed = root_usable(&root, &features, &ignored).unwrap();
            failed.into_iter().map(|check| check.name).filter(|n| *n != "filesystem").collect()
        };
        assert_eq!(names(&[]), ["d_type", "whiteout"]);
        assert_eq!(names(&["whiteout"]), ["d_type"]);
        assert!(root_usable(Path::new("/no/such"), &features, &[]).is_err());
    }
}
