//! Checks of the directory of a copy, before anything is made of it.
//!
//! Each of them is about something that overlay accepts, and that shows wrong files later.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::error::WorkspaceError;
use crate::{
    error::Explained,
    sys::{fs_probe, mounts::Mount, statfs, subvolumes},
};

/// Checks that the absolute path `dir`, without symlinks, can be the directory of a copy whose store is at `root`.
///
/// # Errors
/// [`WorkspaceError::Directory`], with the reason and what to do.
pub(super) fn directory(dir: &Path, root: &Path, table: &[Mount]) -> Result<(), WorkspaceError> {
    let refused = |why: Explained| WorkspaceError::Directory { path: dir.to_owned(), why };
    let found = fs::symlink_metadata(dir);
    let found = found.map_err(|e| refused(Explained::because(e.to_string())))?;
    if !found.is_dir() {
        return Err(refused(Explained::because("it is not a directory")));
    }
    if root.starts_with(dir) {
        return Err(refused(
            Explained::because(format!(
                "the store {} is in it, so the copy would contain itself",
                root.display()
            ))
            .fix("choose a store elsewhere with --root"),
        ));
    }
    if dir.starts_with(root) {
        let why = format!("it is a part of the store {}", root.display());
        return Err(refused(Explained::because(why)));
    }
    if let Some(workspace) = shown_by(dir, table) {
        return Err(refused(
            Explained::because(format!(
                "workspace {workspace} shows it here, and the copy would be of the directory below, without the changes of \
                 that workspace"
            ))
            .fix(format!("use `ovl fork {workspace} NAME` for a copy of both")),
        ));
    }
    if let Some(worktree) = linked_worktree(dir) {
        return Err(refused(
            Explained::because(format!(
                "it is a linked git worktree: a commit in the copy would move the branch of {}",
                worktree.display()
            ))
            .fix("make the copy over the main checkout, or over a clone"),
        ));
    }
    if fs_probe::folds_case(dir).unwrap_or(false) {
        return Err(refused(
            Explained::because(
                "its names ignore upper and lower case (chattr +F), which overlay cannot merge",
            )
            .fix("copy it to a directory without this"),
        ));
    }
    if is_other_subvolume(dir, root, table)? {
        let way_out = match usable_root(dir, table) {
            Some(root) => format!("use --root {}", root.display()),
            None => "choose a store on another file system with --root, or make the copy over a directory of this \
                     subvolume"
                .to_owned(),
        };
        return Err(refused(
            Explained::because(format!(
                "the store {} is in another subvolume of the same btrfs, so different files of the copy would have the \
                 same inode number, and `cp` and `tar` would mix them up",
                root.display()
            ))
            .fix(way_out),
        ));
    }
    no_subvolume_below(dir)
}

/// Refuses a directory with btrfs subvolumes in it. Files of two subvolumes can have the same inode number. Overlay shows
/// both with one device number, wherever the store is.
pub(super) fn no_subvolume_below(dir: &Path) -> Result<(), WorkspaceError> {
    if statfs::of(dir)?.kind() != Some("btrfs") {
        return Ok(());
    }
    let Some(first) = subvolumes::below(dir)?.into_iter().next() else { return Ok(()) };
    Err(WorkspaceError::Directory {
        path: dir.to_owned(),
        why: Explained::because(format!(
            "the btrfs subvolume {} is in it, so different files of the copy would have the same inode number, and `cp` and \
             `tar` would mix them up",
            first.display()
        ))
        .fix("make the copy over a directory without subvolumes, or make an ordinary directory of the subvolume"),
    })
}

/// What to write for a directory over which the kernel makes no overlay.
pub(super) fn unmountable(dir: &Path, error: &WorkspaceError) -> Explained {
    let kind = statfs::of(dir).ok().and_then(|space| space.kind());
    match kind {
        Some("overlay") => Explained::because(format!(
            "it is on an overlay over another overlay, and Linux allows only two, one over the other ({error})"
        ))
        .fix("make the workspace over a directory of a disk, or copy this one there"),
        _ => Explained::because(format!(
            "its file system ({}) cannot be below an overlay ({error})",
            kind.unwrap_or("unknown")
        ))
        .fix("copy it to a disk with ext4, xfs or btrfs"),
    }
}

/// A place for a store that a copy of `dir` can use: beside it, or the default one.
fn usable_root(dir: &Path, table: &[Mount]) -> Option<PathBuf> {
    let is_usable = |parent: &&Path| {
        let kind = statfs::of(parent).ok().and_then(|space| space.kind());
        let holds_uppers = matches!(kind, Some("ext4" | "xfs" | "btrfs"));
        holds_uppers && is_other_subvolume(dir, parent, table).is_ok_and(|other| !other)
    };
    let beside = dir.parent().filter(is_usable).map(|parent| parent.join(".ovl"));
    beside.or_else(|| Some(Path::new("/var/lib")).filter(is_usable).map(|lib| lib.join("ovl")))
}

/// The workspace whose overlay holds `dir`, as the mount table of this process has it.
fn shown_by<'t>(dir: &Path, table: &'t [Mount]) -> Option<&'t str> {
    let mount = holding(dir, table).filter(|mount| mount.fs_type == "overlay")?;
    mount.source.to_str()?.strip_prefix("ovl-")
}

/// The mount that holds a path. Of several at one target, the last is on top.
fn holding<'t>(path: &Path, table: &'t [Mount]) -> Option<&'t Mount> {
    let holding = table.iter().filter(|mount| path.starts_with(&mount.target));
    holding.max_by_key(|mount| mount.target.components().count())
}

/// The mount points below `dir`. Their content is not in a copy: it shows what lies under them.
pub(super) fn mounts_below(dir: &Path, table: &[Mount]) -> Vec<PathBuf> {
    let below = table.iter().map(|mount| &mount.target);
    let mut below: Vec<PathBuf> =
        below.filter(|target| target.starts_with(dir) && *target != dir).cloned().collect();
    below.sort();
    below.dedup();
    below
}

/// The git directory of a linked worktree (gitrepository-layout(5)): `.git` is then a file with an absolute path. In a
/// submodule the path is relative, and leads to a directory that belongs to the checkout.
fn linked_worktree(dir: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(dir.join(".git")).ok()?;
    let path = Path::new(text.trim().strip_prefix("gitdir:")?.trim());
    let is_linked =
        path.is_absolute() || path.components().any(|part| part.as_os_str() == "worktrees");
    is_linked.then(|| path.to_owned())
}

/// Whether both are on one btrfs and in different subvolumes.
fn is_other_subvolume(dir: &Path, root: &Path, table: &[Mount]) -> Result<bool, WorkspaceError> {
    let kinds = [statfs::of(dir)?.kind(), statfs::of(root)?.kind()];
    if kinds != [Some("btrfs"); 2] {
        return Ok(false);
    }
    let file_system = |path: &Path| holding(path, table).map(|mount| mount.device);
    let subvolume = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev());
    Ok(file_system(dir) == file_system(root) && subvolume(dir)? != subvolume(root)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::test_dir::TestDir;

    fn why(dir: &Path, root: &Path) -> String {
        directory(dir, root, &[]).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_that_holds_the_store_or_lies_in_it_is_refused() {
        let scratch = TestDir::new();
        let (dir, root) = (scratch.dir("work"), scratch.dir("work/store"));
        assert!(why(&dir, &root).contains("would contain itself"));
        assert!(why(&scratch.dir("work/store/layers"), &root).contains("part of the store"));
        assert!(why(&scratch.file("file", ""), &root).contains("not a directory"));
        assert!(why(&scratch.path().join("none"), &root).contains("No such file"));
        directory(&scratch.dir("other"), &root, &[]).unwrap();
    }

    #[test]
    fn a_linked_worktree_is_refused_and_a_submodule_is_not() {
        let scratch = TestDir::new();
        let (root, dir) = (scratch.dir("store"), scratch.dir("work"));
        scratch.file("work/.git", "gitdir: /home/me/project/.git/worktrees/work\n");
        assert!(why(&dir, &root).contains("linked git worktree"));
        scratch.file("work/.git", "gitdir: ../.git/modules/work\n");
        directory(&dir, &root, &[]).unwrap();
    }
}
