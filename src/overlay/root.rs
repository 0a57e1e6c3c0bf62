//! Whether a folder can hold a store: its uppers need a file system that overlay can write on.
//!
//! Deliberately absent: making the folder, and how much room it has.

use std::{io, path::Path};

use super::{Feature, Features};
use crate::{fault::Class, sys::space};

/// File systems on which the uppers of this driver do not work, or lose data, whatever the kernel says at first.
const REFUSED: [(&str, &str); 4] = [
    (
        "overlay",
        "an overlay's upper cannot lie on an overlay: in a container, mount a folder of the node there",
    ),
    ("aufs", "aufs hides its own marks from overlay"),
    ("ecryptfs", "eCryptfs cannot hold overlay's marks"),
    ("nfs", "NFS has no whiteouts and no trusted.* attributes"),
];

/// What is wrong with a root, and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {cure}")]
pub struct Unusable {
    /// The name of the check that failed, by which it can be overridden.
    pub name: &'static str,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub cure: &'static str,
}

impl Unusable {
    /// What the failure means to whoever asked.
    pub fn class(&self) -> Class {
        Class::Precondition
    }
}

/// Everything that keeps `root` from holding a store, given the features found beneath it. Checks named in `overridden` are left out.
///
/// Errors: the root is not there, or cannot be asked.
pub fn root_usable(
    root: &Path,
    features: &Features,
    overridden: &[String],
) -> io::Result<Vec<Unusable>> {
    let mut wrong: Vec<Unusable> = file_system(space::of(root)?.kind()).into_iter().collect();
    for feature in Feature::ALL.into_iter().filter(|feature| feature.required()) {
        if let Err(why) = features.get(feature) {
            wrong.push(Unusable { name: feature.name(), why, cure: features.cure(feature) });
        }
    }
    wrong.retain(|check| !overridden.iter().any(|name| name == check.name));
    Ok(wrong)
}

/// ZFS, and what nobody has heard of, are judged by the trial mounts alone: some releases can, some cannot.
fn file_system(kind: Option<&str>) -> Option<Unusable> {
    let (_, why) = REFUSED.iter().find(|(refused, _)| Some(*refused) == kind)?;
    Some(Unusable {
        name: "filesystem",
        why: (*why).to_owned(),
        cure: "put the root on ext4, xfs (ftype=1) or btrfs of the node's own disk",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_hold_an_upper_is_refused_with_reason_and_cure() {
        for kind in ["overlay", "aufs", "ecryptfs", "nfs"] {
            let refused = file_system(Some(kind)).unwrap();
            assert!(!refused.why.is_empty() && refused.cure.contains("ext4"), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "zfs", "tmpfs"] {
            assert_eq!(file_system(Some(kind)), None);
        }
        assert_eq!(file_system(None), None);
    }

    #[test]
    fn each_required_feature_counts_until_it_is_overridden() {
        let no = |feature| (feature, "no".to_owned());
        let features =
            Features::lacking([no(Feature::Whiteouts), no(Feature::Xino), no(Feature::EntryTypes)]);
        let root = std::env::temp_dir();
        let names = |overridden: &[&str]| -> Vec<&str> {
            let overridden: Vec<String> = overridden.iter().map(|n| (*n).to_owned()).collect();
            let wrong = root_usable(&root, &features, &overridden).unwrap();
            wrong.into_iter().map(|check| check.name).filter(|n| *n != "filesystem").collect()
        };
        assert_eq!(names(&[]), ["d_type", "whiteout"]);
        assert_eq!(names(&["whiteout"]), ["d_type"]);
        assert!(root_usable(Path::new("/no/such"), &features, &[]).is_err());
    }
}
