//! A directory tree with everything that a program can read of it, and the comparison of two trees.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{lgetxattr, llistxattr};

/// One entry: mode, owner, device, modification time, content or link target, xattrs.
pub(super) type TreeEntry = (u32, (u32, u32), u64, (i64, i64), Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>);

/// Every path below a root. The root itself is the empty path.
pub(super) type Tree = BTreeMap<PathBuf, TreeEntry>;

/// Buffer size in bytes for a list of xattr names, or for one value: more than any file here needs.
const ATTRIBUTES: usize = 65_536;

/// For a file longer than this, in bytes, the length replaces the content.
const LONG: u64 = 64 << 20;

/// Reads the tree below `root`.
pub(super) fn read_tree(root: &Path) -> Tree {
    let mut found = BTreeMap::new();
    let mut next = vec![PathBuf::new()];
    while let Some(path) = next.pop() {
        let at = root.join(&path);
        let meta = fs::symlink_metadata(&at).unwrap();
        let content = match meta.file_type() {
            kind if kind.is_file() && meta.len() > LONG => meta.len().to_string().into_bytes(),
            kind if kind.is_file() => fs::read(&at).unwrap(),
            kind if kind.is_symlink() => {
                fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec()
            }
            _ => Vec::new(),
        };
        if meta.is_dir() {
            let names =
                fs::read_dir(&at).unwrap().map(|entry| path.join(entry.unwrap().file_name()));
            next.extend(names);
        }
        let time = if path == Path::new("") { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        let owner = (meta.uid(), meta.gid());
        found.insert(path, (meta.mode(), owner, meta.rdev(), time, content, xattrs(&at)));
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; ATTRIBUTES];
    let len = llistxattr(path, names.as_mut_slice()).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; ATTRIBUTES];
        let len = lgetxattr(path, std::ffi::OsStr::from_bytes(name), value.as_mut_slice()).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// The differences, one path after another. Empty if there are none.
pub(super) fn difference(pod: &Tree, peer: &Tree) -> String {
    let short = |(mode, owner, device, time, content, xattrs): &TreeEntry| {
        let content = content.escape_ascii().to_string();
        format!("{mode:o} {owner:?} {device} {time:?} {content:.60} {xattrs:?}")
    };
    let mut differences = Vec::new();
    for path in pod.keys().chain(peer.keys()).collect::<BTreeSet<_>>() {
        let (pod, peer) = (pod.get(path), peer.get(path));
        if pod != peer {
            let (pod, peer) = (pod.map(short), peer.map(short));
            differences.push(format!("{path:?}\n  pod  {pod:?}\n  peer {peer:?}"));
        }
    }
    differences.join("\n")
}

pub(super) fn assert_same(pod: &Tree, peer: &Tree, what: &str) {
    let differences = difference(pod, peer);
    assert!(differences.is_empty(), "{what}: {differences}");
}
