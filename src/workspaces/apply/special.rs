//! Finds what could give rights, or lead out of the directory.
//!
//! Deliberately absent: setgid directories, which give no rights.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use super::error::SpecialReason;
use crate::{
    sys::tree_reader::{Entry, EntryType},
    workspaces::paths::{join, split},
};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const CAPABILITIES: &str = "security.capability";

/// Why an entry of the tree `root` is special. `dir` is the directory that the tree stands for.
pub(super) fn reason(
    root: &Entry,
    dir: &Path,
    path: &[u8],
    entry: &Entry,
) -> io::Result<Option<SpecialReason>> {
    let mode = entry.metadata()?.mode();
    Ok(match entry.entry_type() {
        EntryType::File if mode & SETUID != 0 => Some(SpecialReason::Setuid),
        EntryType::File if mode & SETGID != 0 => Some(SpecialReason::Setgid),
        EntryType::File if entry.xattr(CAPABILITIES)?.is_some() => {
            Some(SpecialReason::Capabilities)
        }
        EntryType::CharDevice(..) | EntryType::BlockDevice(..) | EntryType::Whiteout => {
            Some(SpecialReason::Device)
        }
        EntryType::Symlink if leads_out(root, dir, path, &entry.target()?)? => {
            Some(SpecialReason::LeadsOut)
        }
        _ => None,
    })
}

/// Whether a symbolic link leads out, by its text or through other links of the tree.
fn leads_out(root: &Entry, dir: &Path, path: &[u8], target: &[u8]) -> io::Result<bool> {
    let above = split(path).map_or(&b""[..], |(above, _)| above);
    let inside = match target.strip_prefix(b"/") {
        None => join(above, target),
        Some(_) => match below(target, dir.as_os_str().as_encoded_bytes()) {
            Some(rest) => rest.to_vec(),
            None => return Ok(true),
        },
    };
    Ok(climbs(&inside) || root.leads_out(if inside.is_empty() { b"." } else { &inside })?)
}

/// The part of an absolute path below a directory.
fn below<'p>(path: &'p [u8], dir: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(dir)?;
    match rest {
        b"" => Some(rest),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Whether a relative path has, at some point, more `..` than names.
fn climbs(path: &[u8]) -> bool {
    let mut depth = 0_i64;
    path.split(|byte| *byte == b'/').any(|part| {
        match part {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::{
        mounts::{LinuxMounts, Mounts as _},
        test_dir::TestDir,
    };

    #[test]
    fn links_that_lead_out_are_found_by_their_text_and_through_other_links() {
        let scratch = TestDir::new();
        let dir = scratch.dir("tree");
        scratch.dir("tree/a/b");
        symlink(".", dir.join("here")).unwrap();
        symlink("/etc", dir.join("etc")).unwrap();
        let root = Entry::root(&LinuxMounts.open_dir(&dir).unwrap()).unwrap();
        let absolute = |rest: &str| format!("{}{rest}", dir.display());
        for (target, expected) in [
            ("../b".to_owned(), false),
            ("../..".to_owned(), false),
            ("../../..".to_owned(), true),
            ("none/../../../../x".to_owned(), true),
            ("../../missing/file".to_owned(), false),
            ("../../here/../x".to_owned(), true),
            ("../../etc/passwd".to_owned(), true),
            ("/".to_owned(), true),
            ("/etc/passwd".to_owned(), true),
            (absolute(""), false),
            (absolute("/a/new"), false),
            (absolute("2/a"), true),
            (absolute("/../x"), true),
            (absolute("/here/.."), true),
        ] {
            let found = leads_out(&root, &dir, b"a/b/link", target.as_bytes()).unwrap();
            assert_eq!(found, expected, "{target}");
        }
    }
}
