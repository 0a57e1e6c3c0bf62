//! The checks of the kernel's `fsconfig(2)` and fs/overlayfs, for the fake.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::refused;
use super::super::{Detached, MountError, Param, Request, TEXT_LIMIT};
use super::tree_of;
use crate::sys::Errno;

pub(super) fn check_texts(request: &Request) -> Result<(), MountError> {
    let texts = request.params.iter().filter_map(|param| match param {
        Param::Text(key, value) => Some((*key, value.len())),
        Param::Flag(_) | Param::Tree(..) => None,
    });
    match texts.chain([("source", request.source.len())]).find(|(_, length)| *length > TEXT_LIMIT) {
        Some((key, length)) => Err(MountError::TooLong { key, length }),
        None => Ok(()),
    }
}

/// Refuses what fs/overlayfs refuses, and writes to the work directory what it writes there.
pub(super) fn overlay(request: &Request) -> Result<(), MountError> {
    let refuse = |what: &str, errno| Err(refused(format!("{what} for overlay"), errno));
    let trees = |wanted: &str| -> Vec<&Arc<Detached>> {
        let of_key = |param| match param {
            &Param::Tree(key, ref tree) if key == wanted => Some(tree),
            _ => None,
        };
        request.params.iter().filter_map(of_key).collect()
    };
    let has = |key: &str, value: &str| {
        request.params.iter().any(|p| matches!(p, Param::Text(k, v) if *k == key && v == value))
    };
    let lowers = trees("lowerdir+");
    if lowers.len() > 500 {
        return Err(MountError::Refused {
            what: "set lowerdir+ by descriptor for overlay".to_owned(),
            errno: Errno::EINVAL,
            kernel_log: vec!["overlay: too many lower directories, limit is 500".to_owned()],
        });
    }
    let mut unique = HashSet::new();
    if !lowers.iter().all(|lower| unique.insert(identity(lower))) {
        return refuse("create the file system", Errno::ELOOP);
    }
    let (uppers, works) = (trees("upperdir"), trees("workdir"));
    let conflict = has("metacopy", "on") && has("redirect_dir", "off") && !uppers.is_empty()
        || has("metacopy", "on") && has("nfs_export", "on")
        || has("nfs_export", "on") && has("index", "off") && !uppers.is_empty();
    if conflict {
        return refuse("create the file system", Errno::EINVAL);
    }
    match (uppers.as_slice(), works.as_slice()) {
        ([], []) if lowers.len() >= 2 => Ok(()),
        ([upper], [work]) if !lowers.is_empty() => {
            let volatile = request.params.iter().any(|p| matches!(p, Param::Flag("volatile")));
            use_work(upper, work, volatile)
        }
        _ => refuse("create the file system", Errno::EINVAL),
    }
}

fn use_work(upper: &Detached, work: &Detached, volatile: bool) -> Result<(), MountError> {
    let refuse = || refused("create the file system for overlay".to_owned(), Errno::EINVAL);
    let (upper, work) = (&tree_of(upper).shown, &tree_of(work).shown);
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).map_err(|_| refuse());
    let nested = upper.starts_with(work) || work.starts_with(upper);
    if nested || device(upper)? != device(work)? || work.join("work/incompat").exists() {
        return Err(refuse());
    }
    let marker = if volatile { "work/incompat/volatile" } else { "work" };
    fs::create_dir_all(work.join(marker)).map_err(|_| refuse())
}

/// Trees with the same identity are the same layer, however they were opened.
fn identity(tree: &Detached) -> (u64, PathBuf) {
    let tree = tree_of(tree);
    match &tree.mount {
        Some(superblock) => (superblock.number, "/".into()),
        None => (0, tree.shown.clone()),
    }
}
