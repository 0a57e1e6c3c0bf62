//! The mtime of the directory itself. A directory in which apply changes entries has a new mtime, as with every program, so
//! programs that watch directories by it see the change. The journal is an entry too, and must not count.

use std::io;

use super::{check::Found, plan::Plan};
use crate::{
    sys::{clock::Time, tree::Dir},
    workspaces::paths::split,
};

/// The mtime of the directory before and after the journal was made.
#[derive(Debug)]
pub(super) struct Top {
    before: Time,
    with_journal: Time,
}

impl Top {
    /// Makes the journal. `None` if the plan changes entries of the directory itself.
    pub(super) fn around<T>(
        root: &Dir,
        plan: &Plan<'_>,
        make: impl FnOnce() -> T,
    ) -> io::Result<(T, Option<Self>)> {
        let is_top = |path| split(path).is_some_and(|(above, _)| above.is_empty());
        let mut entries = plan.items.iter().filter(|item| !item.is_attributes());
        let is_changed = entries.any(|item| is_top(item.path()));
        let before = mtime(root)?;
        let made = make();
        let with_journal = mtime(root)?;
        Ok((made, (!is_changed).then_some(Self { before, with_journal })))
    }

    /// Removes the journal, and sets the mtime that the directory had before it was made, unless that is unknown or another
    /// process has changed entries of the directory since.
    pub(super) fn after(
        top: Option<Self>,
        root: &Dir,
        remove: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let now = mtime(root)?;
        remove()?;
        match top.filter(|top| top.with_journal == now) {
            Some(Self { before, .. }) => root.set_mtime((before.0, before.1 as u32)),
            None => Ok(()),
        }
    }
}

fn mtime(root: &Dir) -> io::Result<Time> {
    Ok(Found::of(&root.as_entry()?)?.mtime)
}
